//! A participant in a process of its own: what it learns from the home, and what the home wants to know of it.
//!
//! Definitions travel with the digest that they must compile to: a program that reads a document differently refuses it.
//! A store has an identity, which the home remembers for each service: the participant of a service that came with
//! another store would know nothing of the work under way.

use std::collections::BTreeSet;
use std::sync::Arc;

use pavane_core::program::Location;
use pavane_store::{Commit, Deployed, History, Store};

use crate::effects::Effects;
use crate::{Engine, Error, Options, registry};

/// The name under which a store keeps its identity among its cursors.
const IDENTITY: &str = "identity";

/// Bits of an identity: a store keeps positions as signed numbers.
const IDENTITY_BITS: u32 = 62;

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
        let (engine, inboxes) = Engine::new(options, store, effects, Arc::default(), Arc::default()).await?;
        engine.load_definitions().await?;
        engine.begin_work(inboxes);
        Ok(engine)
    }

    /// The services that have participants, for the home; a participant asks for nobody's: the home has checked it.
    pub(crate) fn services(&self) -> Option<&BTreeSet<String>> {
        self.is_home().then_some(&self.shared.options.services)
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
        let (compiled, _) = registry::compile(&title, text, &resources, self.services()).map_err(|problems| {
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
        let known = self.blocking(|store| store.cursor(IDENTITY)).await?;
        if known > 0 {
            return Ok(known);
        }
        // The lower bits of a UUID of version 7 are drawn by chance.
        let [_, _, _, _, _, _, _, _, low @ ..] = uuid::Uuid::now_v7().into_bytes();
        let identity = (u64::from_be_bytes(low) & ((1 << IDENTITY_BITS) - 1)).max(1);
        self.commit(Commit { consumed: vec![(IDENTITY.into(), identity)], ..Commit::default() }).await?;
        Ok(identity)
    }

    /// Whether a store is the one that the participant of a service has; the first is remembered.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn recognize(&self, service: &str, identity: u64) -> Result<Recognized, Error> {
        let name = format!("participant:{service}");
        let wanted = name.clone();
        let known = self.blocking(move |store| store.cursor(&wanted)).await?;
        if known == 0 {
            self.commit(Commit { consumed: vec![(name, identity)], ..Commit::default() }).await?;
            return Ok(Recognized::New);
        }
        Ok(if known == identity { Recognized::Known } else { Recognized::Other })
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
