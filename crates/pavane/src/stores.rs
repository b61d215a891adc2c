//! The stores of one process: where each is and how it is opened, whether each participant has the one that the engine
//! knows, and what becomes of work whose store was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pavane_runtime::effects::{Network, NetworkOptions};
use pavane_runtime::lost::{Refused, Remedy, Replacement, replace};
use pavane_runtime::{Recognized, acquaint as recognize};
use pavane_store::{Memory, Sqlite, Store};

use crate::config::Config;
use crate::ground::options;

/// How long a second process waits for the store before it says who holds it.
pub(crate) const LOCK_WAIT: Duration = Duration::from_secs(3);

/// Which store a process uses.
#[derive(Clone, Debug)]
pub enum Storage {
    /// Gone with the process.
    Memory,
    /// As configured.
    Configured,
}

/// A store, with what only SQLite can tell.
pub(crate) type Opened = (Arc<dyn Store>, Option<Arc<Sqlite>>);

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

/// Opens the stores of the participants of services: in the engine's file, or where a process of its own has it.
pub(crate) async fn open_participants(
    file: Option<&Arc<Sqlite>>,
    config: &Config,
    services: &BTreeSet<String>,
) -> Result<BTreeMap<String, Arc<dyn Store>>, Vec<String>> {
    let (engine, wait) = (&config.store.sqlite.path, config.store.sqlite.wait.unwrap_or(LOCK_WAIT));
    let remote = config.remote_services();
    let mut stores = BTreeMap::new();
    for service in services {
        let store = match remote.contains(service) {
            true => open_store(&Storage::Configured, participant_path(engine, service), wait).await?.0,
            false => participant_store(file.cloned(), engine, service).await?,
        };
        stores.insert(service.clone(), store);
    }
    Ok(stores)
}

/// Opens a store.
pub(crate) async fn open_store(storage: &Storage, path: PathBuf, wait: Duration) -> Result<Opened, Vec<String>> {
    match storage {
        Storage::Memory => Ok((Arc::new(Memory::new()), None)),
        Storage::Configured => {
            let opened = tokio::task::spawn_blocking(move || Sqlite::open(path, wait)).await;
            let opened = Arc::new(opened.map_err(|e| vec![e.to_string()])?.map_err(|e| vec![e.to_string()])?);
            Ok((opened.clone(), Some(opened)))
        }
    }
}

/// The store of a service's participant in the engine's process: its own part of the engine's file, so that what a hop writes
/// at all its locations shares transactions; in memory, when there is no file.
async fn participant_store(
    file: Option<Arc<Sqlite>>,
    path: &Path,
    service: &str,
) -> Result<Arc<dyn Store>, Vec<String>> {
    let Some(file) = file else { return Ok(Arc::new(Memory::new())) };
    let own = participant_path(path, service);
    if own.exists() {
        return Err(vec![format!(
            "{0} holds what the participant of `{service}` did in a process of its own, or under an earlier version of Pavane; \
             in the engine's process it keeps it in {1} and would not go on with that: let its instances end where they \
             began, then move {0} away; or write `participant: remote`",
            own.display(),
            path.display()
        )]);
    }
    let service = service.to_owned();
    let opened = tokio::task::spawn_blocking(move || file.location(&service)).await;
    Ok(Arc::new(opened.map_err(|e| vec![e.to_string()])?.map_err(|e| vec![e.to_string()])?))
}

/// Where the participant of a service keeps its state in a process of its own: beside the engine's store, under its name.
pub(crate) fn participant_path(engine: &Path, service: &str) -> PathBuf {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) { c.to_string() } else { format!("%{:X}", u32::from(c)) }
    };
    let service: String = service.chars().map(plain).collect();
    let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, extension) = (part(engine.file_stem()), part(engine.extension()));
    let dot = if extension.is_empty() { "" } else { "." };
    engine.with_file_name(format!("{stem}-{service}{dot}{extension}"))
}
