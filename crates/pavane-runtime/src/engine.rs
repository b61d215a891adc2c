//! The handle of a running engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pavane_core::definition::Diagnostic;
use pavane_core::engine::Host;
use pavane_core::event::CloudEvent;
use pavane_core::record::{JournalEntry, ServiceTask, WorkflowInstance};
use pavane_core::{Problem, Value};
use pavane_store::{Page, Query, Store};

use crate::effects::Effects;

/// Limits of the engine, each with its reason.
#[derive(Clone, Debug)]
pub struct Options {
    /// Secrets and `$runtime` for expressions.
    pub host: Host,
    /// Instances kept in memory that still move; more starts are answered `Busy` (backpressure, not memory).
    pub max_active: usize,
    /// Inputs queued for the driver; more are answered `Busy`.
    pub max_queued: usize,
    /// Calls in flight over all services; further ones wait their turn in order.
    pub max_calls: usize,
    /// Partitions of instances, each with one driver.
    pub partitions: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { host: Host::default(), max_active: 200_000, max_queued: 100_000, max_calls: 1_024, partitions: 1 }
    }
}

/// What a deployment gave.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Digest of the program.
    pub digest: String,
    /// Whether it was new; false when the same digest was there already.
    pub created: bool,
    /// Warnings.
    pub diagnostics: Vec<Diagnostic>,
}

/// A start, as a client asks for it.
#[derive(Clone, Debug)]
pub struct StartRequest {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Version; absent: the highest deployed.
    pub version: Option<String>,
    /// Raw input.
    pub input: Value,
    /// The same key attaches to the same instance (UUIDv5 of namespace, name and key).
    pub idempotency_key: Option<String>,
    /// Explicit instance id (a UUID); wins over the key.
    pub id: Option<String>,
}

/// A started instance.
#[derive(Clone, Debug)]
pub struct Started {
    /// Its id.
    pub id: String,
    /// Whether it existed already (same key, same input).
    pub attached: bool,
}

/// What an operator can ask of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Stop it and undo what it did.
    Cancel,
    /// Start no new call until resumed.
    Suspend,
    /// Go on.
    Resume,
    /// Try again what is unresolved or waits for a retry.
    Retry,
}

/// What the engine can answer with instead of doing it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The definition is refused.
    #[error("the definition has errors")]
    Definition(Vec<Diagnostic>),
    /// The version exists with another digest.
    #[error("{namespace}/{name} {version} is deployed with another content (digest {digest}): raise its version")]
    VersionTaken {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Version.
        version: String,
        /// Digest of the deployed one.
        digest: String,
    },
    /// No such workflow or version.
    #[error("{0}")]
    UnknownWorkflow(String),
    /// No such instance.
    #[error("there is no instance {0}")]
    UnknownInstance(String),
    /// The input does not fit.
    #[error("the input is refused: {}", .0.detail.as_deref().unwrap_or(&.0.title))]
    InvalidInput(Problem),
    /// The same key or id with another workflow or input.
    #[error("{0}")]
    Conflict(String),
    /// A limit is reached.
    #[error("{what}; try again in {retry_after_seconds} s")]
    Busy {
        /// Which limit.
        what: String,
        /// When it is worth to come back.
        retry_after_seconds: u64,
    },
    /// The store failed: nothing was acknowledged.
    #[error(transparent)]
    Store(#[from] pavane_store::Error),
    /// The engine is going down.
    #[error("the engine is shutting down")]
    Stopping,
}

/// Numbers since the start, for metrics and the bench.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Instances started.
    pub started: u64,
    /// Instances ended, by status word.
    pub ended: BTreeMap<&'static str, u64>,
    /// Steps committed (one for each durable decision).
    pub steps: u64,
    /// Batches handed to the store.
    pub batches: u64,
    /// Calls made.
    pub calls: u64,
    /// Instances in memory now.
    pub active: u64,
}

/// A running engine; clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct Engine {}

#[expect(clippy::unused_async, reason = "being built")]
impl Engine {
    /// Loads the definitions, takes up every instance that is due, and runs until [`Engine::shutdown`].
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn open(options: Options, store: Arc<dyn Store>, effects: Arc<dyn Effects>) -> Result<Engine, Error> {
        let _ = (options, store, effects);
        Ok(Engine {})
    }

    /// Deploys a definition's text (`file` names it in diagnostics). `replace` allows another digest for a version.
    ///
    /// # Errors
    /// [`Error::Definition`], [`Error::VersionTaken`], [`Error::Store`].
    pub async fn deploy(&self, file: &str, text: &str, replace: bool) -> Result<Deployment, Error> {
        let _ = (file, text, replace);
        Err(Error::Stopping)
    }

    /// Starts an instance. It is durable when this returns.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn start(&self, request: StartRequest) -> Result<Started, Error> {
        let _ = request;
        Err(Error::Stopping)
    }

    /// Waits until the instance has ended, or for `timeout`. Gives the record as it is then.
    ///
    /// # Errors
    /// [`Error::UnknownInstance`], [`Error::Store`].
    pub async fn wait(&self, id: &str, timeout: Duration) -> Result<WorkflowInstance, Error> {
        let _ = (id, timeout);
        Err(Error::Stopping)
    }

    /// Gives an operator's command to an instance.
    ///
    /// # Errors
    /// [`Error::Conflict`] when its status does not allow it.
    pub async fn operate(&self, id: &str, operation: Operation) -> Result<(), Error> {
        let _ = (id, operation);
        Err(Error::Stopping)
    }

    /// Publishes events from outside. They are durable when this returns.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Busy`].
    pub async fn publish(&self, events: Vec<CloudEvent>) -> Result<(), Error> {
        let _ = events;
        Err(Error::Stopping)
    }

    /// One instance.
    ///
    /// # Errors
    /// [`Error::UnknownInstance`], [`Error::Store`].
    pub async fn instance(&self, id: &str) -> Result<WorkflowInstance, Error> {
        let _ = id;
        Err(Error::Stopping)
    }

    /// A page of instances.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn instances(&self, query: Query) -> Result<Page, Error> {
        let _ = query;
        Err(Error::Stopping)
    }

    /// The tasks of an instance, those that still run included.
    ///
    /// # Errors
    /// [`Error::UnknownInstance`], [`Error::Store`].
    pub async fn tasks(&self, id: &str) -> Result<Vec<ServiceTask>, Error> {
        let _ = id;
        Err(Error::Stopping)
    }

    /// The journal of an instance after position `after`. With `wait`, waits that long for a first entry.
    ///
    /// # Errors
    /// [`Error::UnknownInstance`], [`Error::Store`].
    pub async fn journal(&self, id: &str, after: u64, wait: Duration) -> Result<Vec<JournalEntry>, Error> {
        let _ = (id, after, wait);
        Err(Error::Stopping)
    }

    /// The deployed definitions.
    pub fn definitions(&self) -> Vec<pavane_store::Deployed> {
        Vec::new()
    }

    /// Numbers since the start.
    pub fn counters(&self) -> Counters {
        Counters::default()
    }

    /// Takes no more starts, lets calls in flight end until `deadline`, makes everything durable and stops.
    pub async fn shutdown(&self, deadline: Duration) {
        let _ = deadline;
    }

    /// Resolves when the engine has stopped because its store failed, with the reason.
    pub async fn failed(&self) -> String {
        std::future::pending().await
    }
}
