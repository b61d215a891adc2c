//! A participant in a process of its own: what it learns from the home, and what the home wants to know of it.
//!
//! Definitions travel with the digest that they must compile to: a program that reads a document differently refuses it.
//! A store has an identity, which the home remembers for each service: the participant of a service that came with
//! another store would know nothing of the work under way.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use pavane_core::program::{Location, Program};
use pavane_store::{Commit, Deployed, History, Store};

use crate::effects::Effects;
use crate::engine::Company;
use crate::lost::write;
use crate::observer::Reading;
use crate::{Engine, Error, Options, registry};

/// The name under which a store keeps its identity among its cursors.
const IDENTITY: &str = "identity";

/// Bits of an identity: a store keeps positions as signed numbers.
const IDENTITY_BITS: u32 = 62;

/// Where a participant in a process of its own asks for definitions.
pub trait Home: Send + Sync + std::fmt::Debug {
    /// The definition that the program of a digest was made of; none when the home has no such program.
    ///
    /// The error is why the home cannot be asked now.
    fn definition(&self, digest: &str) -> Reading<Result<Option<Deployed>, String>>;
}

/// What a store was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognized {
    /// The store that this service's participant has always had.
    Known,
    /// The first that is seen of it.
    New,
    /// Another one.
    Other,
}

impl Engine {
    /// The participant of a service in a process of its own. It takes up the work that its store holds with the
    /// definitions that it has learned before.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn alone(
        service: &str,
        mut options: Options,
        store: Arc<dyn Store>,
        effects: Arc<dyn Effects>,
    ) -> Result<Engine, Error> {
        options.host.here = Location::Service(service.into());
        let (engine, inboxes) = Engine::new(options, store, effects, Arc::default(), Company::default()).await?;
        engine.load_definitions().await?;
        engine.begin_work(inboxes);
        Ok(engine)
    }

    /// Where it asks for the definition of a digest that it does not know. Until it is told, it takes no message of such
    /// a program.
    pub fn ask(&self, home: Arc<dyn Home>) {
        // One process has one home.
        let _ = self.shared.home.set(home);
    }

    /// Learns the definition of a digest from the home, if it does not know it.
    ///
    /// # Errors
    /// [`Error::UnknownWorkflow`]; [`Error::Away`] when the home cannot be asked.
    pub async fn prepare(&self, digest: &str) -> Result<(), Error> {
        self.program_of(digest).await.map(drop)
    }

    /// The program of a digest: deployed here, or learned from the home now.
    ///
    /// # Errors
    /// [`Error::UnknownWorkflow`]; [`Error::Away`] when the home cannot be asked.
    pub(crate) async fn program_of(&self, digest: &str) -> Result<Arc<Program>, Error> {
        let known = || self.shared.registry.by_digest(digest);
        if let Some(program) = known() {
            return Ok(program);
        }
        let unknown = |where_| Error::UnknownWorkflow(format!("no program with digest {digest} is deployed {where_}"));
        let home = self.shared.home.get().ok_or_else(|| unknown("here"))?;
        // One at a time: messages of a new program come in numbers.
        let _turn = self.shared.deploying.lock().await;
        if let Some(program) = known() {
            return Ok(program);
        }
        let definition = home.definition(digest).await.map_err(Error::Away)?.ok_or_else(|| unknown("at the home"))?;
        self.learn(definition).await.map_err(Error::UnknownWorkflow)?;
        known().ok_or_else(|| unknown("at the home in this mode"))
    }

    /// The services that have participants, for the home; a participant asks for nobody's: the home has checked it.
    pub(crate) fn services(&self) -> Option<Arc<BTreeSet<String>>> {
        self.is_home().then(|| self.shared.services.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Whether it can follow the program of a digest.
    pub fn knows(&self, digest: &str) -> bool {
        self.shared.registry.by_digest(digest).is_some()
    }

    /// The definition that the program of a digest, in either mode, was made of.
    pub fn definition(&self, digest: &str) -> Option<Arc<Deployed>> {
        self.shared.registry.source(digest)
    }

    /// Digests of the definitions that the participant of a service takes part in.
    pub fn taking_part(&self, service: &str) -> Vec<String> {
        self.shared.registry.taking_part(service)
    }

    /// Learns a definition from the home, and keeps it in its own store, if it has the digest that it is said to have.
    ///
    /// # Errors
    /// Why it cannot be followed here.
    pub async fn learn(&self, definition: Deployed) -> Result<(), String> {
        let Deployed { namespace, name, version, digest, text, resources, .. } = &definition;
        let title = format!("{namespace}/{name} {version}");
        let resources = serde_json::from_str(resources)
            .map_err(|e| format!("the resources of {title} cannot be read ({e}): it is damaged"))?;
        let (compiled, _) =
            registry::compile(&title, text, &resources, self.services().as_deref()).map_err(|problems| {
                let first = problems.first().map(ToString::to_string).unwrap_or_default();
                format!("{title} cannot be read by this program: {first}")
            })?;
        let found = compiled.orchestrated.digest();
        if found != digest {
            return Err(format!(
                "{title} has the digest {digest} at the home and {found} here: run the same version of Pavane in both \
                 processes"
            ));
        }
        let row = definition.clone();
        self.blocking(move |store| store.deploy(&row)).await.map_err(|error| error.to_string())?;
        self.shared.registry.insert(compiled, definition);
        Ok(())
    }

    /// The identity of its store: a number that it was given when it was first asked for.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn identity(&self) -> Result<u64, Error> {
        let store = self.shared.store.clone();
        tokio::task::spawn_blocking(move || identity_of(&*store)).await.map_err(|_| Error::Stopping)?
    }

    /// Whether a store is the one that the participant of a service has; the first is remembered.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn recognize(&self, service: &str, identity: u64) -> Result<Recognized, Error> {
        let (store, service) = (self.shared.store.clone(), service.to_owned());
        let known = tokio::task::spawn_blocking(move || recognize(&*store, &service, identity)).await;
        known.map_err(|_| Error::Stopping)?
    }

    /// Resolves when it has done something since it was last asked. One caller asks.
    pub async fn moved(&self) {
        self.shared.moved.notified().await;
    }

    /// What its instances did, see [`Store::history`].
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn history(&self, steps_after: u64, tasks_after: u64, limit: usize) -> Result<History, Error> {
        self.blocking(move |store| store.history(steps_after, tasks_after, limit)).await
    }
}

/// Whether a store is the one that the participant of a service has, as the home's store knows; the first is remembered.
/// Blocks.
///
/// # Errors
/// [`Error::Store`].
pub fn acquaint(home: &dyn Store, service: &str, participant: &dyn Store) -> Result<Recognized, Error> {
    recognize(home, service, identity_of(participant)?)
}

/// The identity of a store: given to it when it is first asked for.
pub(crate) fn identity_of(store: &dyn Store) -> Result<u64, Error> {
    let known = store.cursor(IDENTITY)?;
    if known > 0 {
        return Ok(known);
    }
    // The lower bits of a UUID of version 7 are drawn by chance.
    let [_, _, _, _, _, _, _, _, low @ ..] = uuid::Uuid::now_v7().into_bytes();
    let identity = (u64::from_be_bytes(low) & ((1 << IDENTITY_BITS) - 1)).max(1);
    write(store, vec![Commit { consumed: vec![(IDENTITY.into(), identity)], ..Commit::default() }])?;
    Ok(identity)
}

/// What the home's store knows of a store.
pub(crate) fn home_knows(home: &dyn Store, service: &str, identity: u64) -> Result<Recognized, Error> {
    let (name, _) = remembered_as(service, identity);
    Ok(match home.cursor(&name)? {
        0 => Recognized::New,
        known if known == identity => Recognized::Known,
        _ => Recognized::Other,
    })
}

/// How the home's store remembers that of a service.
pub(crate) fn remembered_as(service: &str, identity: u64) -> (String, u64) {
    (format!("participant:{service}"), identity)
}

fn recognize(home: &dyn Store, service: &str, identity: u64) -> Result<Recognized, Error> {
    let known = home_knows(home, service, identity)?;
    if known == Recognized::New {
        write(home, vec![Commit { consumed: vec![remembered_as(service, identity)], ..Commit::default() }])?;
    }
    Ok(known)
}
