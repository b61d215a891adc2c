//! The stores of one process belong together: whether each participant has the one that the engine knows, and what
//! becomes of work whose store was lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use pavane_runtime::effects::{Network, NetworkOptions};
use pavane_runtime::lost::{Refused, Remedy, Replacement, replace};
use pavane_runtime::{Recognized, acquaint as recognize};
use pavane_store::Store;

use crate::config::Config;
use crate::server::{LOCK_WAIT, Storage, open_participants, open_store, options, participant_path};

/// Makes the engine's store and those of the participants acquainted.
///
/// # Errors
/// Each participant that comes with another store than the engine knows, with its file and what can be done.
pub(crate) async fn acquaint(
    config: &Config,
    home: &Arc<dyn Store>,
    participants: &BTreeMap<String, Arc<dyn Store>>,
) -> Result<(), Vec<String>> {
    let home = home.clone();
    let participants: Vec<(String, Arc<dyn Store>)> =
        participants.iter().map(|(name, store)| (name.clone(), store.clone())).collect();
    let known = tokio::task::spawn_blocking(move || {
        let known = participants.into_iter().map(|(name, store)| {
            let known = recognize(&*home, &name, &*store).map_err(|error| vec![error.to_string()])?;
            Ok((name, known))
        });
        known.collect::<Result<Vec<_>, Vec<String>>>()
    });
    let known = known.await.map_err(|error| vec![error.to_string()])??;
    let engine = &config.store.sqlite.path;
    let others = known.into_iter().filter(|(_, known)| *known == Recognized::Other);
    let problems: Vec<String> = others
        .map(|(name, _)| {
            format!(
                "{} is not the store that the participant of {name} had when {} last knew it: work that was under way at \
                 {name} is not in it. Put the right file back. If it is lost, choose: `pavane adopt {name}` takes this one \
                 and goes on with what is known of that work, its calls in flight as unknown outcomes; `pavane abandon \
                 {name}` takes it and ends the instances that had work there. Both need the same --config, and no server \
                 that runs",
                participant_path(engine, &name).display(),
                engine.display()
            )
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Gives the participant of a service a new store.
///
/// # Errors
/// What keeps it from that, a line each; whether the command was wrong comes first.
pub(crate) async fn give_new(
    config: &Config,
    service: &str,
    remedy: Remedy,
) -> Result<Replacement, (bool, Vec<String>)> {
    let failed = |problems| (false, problems);
    let options = options(config, BTreeMap::new());
    if !options.services.contains(service) {
        let known = options.services.iter().cloned().collect::<Vec<_>>().join(", ");
        let why = format!("the configuration has no service `{service}`; it has: {known}");
        return Err((true, vec![why]));
    }
    let wait = config.store.sqlite.wait.unwrap_or(LOCK_WAIT);
    let path = config.store.sqlite.path.clone();
    if !path.is_file() {
        return Err((true, vec![format!("{}: there is no such store: give the server's --config", path.display())]));
    }
    let (home, file) = open_store(&Storage::Configured, path, wait).await.map_err(failed)?;
    let stores = open_participants(file.as_ref(), config, &options.services).await.map_err(failed)?;
    // Nothing is called.
    let network = Network::new(NetworkOptions::default()).map_err(|error| failed(vec![error]))?;
    replace(options, home, stores, Arc::new(network), service, remedy).await.map_err(|refused| match refused {
        Refused::NotLost(why) => (true, vec![why]),
        refused => failed(vec![refused.to_string()]),
    })
}
