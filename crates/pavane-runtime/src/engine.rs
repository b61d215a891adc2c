//! The handle of a running engine.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use pavane_bus::Relay;
use pavane_core::definition::{self, Diagnostic, Mode};
use pavane_core::engine::{Command, Host, Parent, Start, TraceContext};
use pavane_core::event::CloudEvent;
use pavane_core::program::{Location, Program, Resources};
use pavane_core::record::WorkflowInstance;
use pavane_core::{Problem, Value, id};
use pavane_store::{Commit, Deployed, Store};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::alone::Home;
use crate::callbacks::Door;
use crate::driver::{Driver, Message, Origin};
use crate::effects::Effects;
use crate::observer::Observer;
use crate::outbox;
use crate::registry::{self, Registry};
use crate::watch::Watch;

/// Limits of the engine, each with its reason.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which location it is, and secrets and `$runtime` for expressions.
    pub host: Host,
    /// Services that have participants at first: where choreographed work can be placed.
    pub services: BTreeSet<String>,
    /// Instances kept in memory that still move; more starts are answered `Busy` (backpressure, not memory).
    pub max_active: usize,
    /// Inputs queued for the driver; more are answered `Busy`.
    pub max_queued: usize,
    /// Partitions of instances, each with one driver.
    pub partitions: usize,
    /// What it counts and traces; one for the process.
    pub watch: Arc<Watch>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            host: Host::default(),
            services: BTreeSet::new(),
            max_active: 200_000,
            max_queued: 100_000,
            partitions: 1,
            watch: Arc::default(),
        }
    }
}

impl From<registry::Unfit> for Error {
    fn from(unfit: registry::Unfit) -> Error {
        match unfit {
            registry::Unfit::Unknown(why) => Error::UnknownWorkflow(why),
            registry::Unfit::Mode(why) => Error::Mode(why),
        }
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
    /// Mode; absent: the one its document asks for.
    pub mode: Option<Mode>,
    /// Raw input.
    pub input: Value,
    /// The same key attaches to the same instance (UUIDv5 of namespace, name and key).
    pub idempotency_key: Option<String>,
    /// Explicit instance id (a UUID); wins over the key.
    pub id: Option<String>,
    /// The trace of whoever asks: that of the instance, if it is a new one.
    pub trace: Option<TraceContext>,
    /// An `http` or `https` URL that is told of its end: at least once, and for an hour at most.
    pub notify: Option<String>,
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
    /// The workflow does not fit the mode.
    #[error("{0}")]
    Mode(String),
    /// No such instance.
    #[error("there is no instance {0}")]
    UnknownInstance(String),
    /// The input does not fit.
    #[error("the input is refused: {}", .0.detail.as_deref().unwrap_or(&.0.title))]
    InvalidInput(Problem),
    /// The same key or id with another workflow or input.
    #[error("{0}")]
    Conflict(String),
    /// The call of a callback or heartbeat has its answer.
    #[error("the call has its answer already: nothing more need be done for it")]
    Answered,
    /// Nobody waits for a callback or heartbeat.
    #[error("nobody waits for this callback any more: its task was given up, or its time was over")]
    Late,
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
    /// The process it depends on for this cannot be asked now.
    #[error("{0}")]
    Away(String),
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
    /// Those of them that repeat an attempt of the same task.
    pub retries: u64,
    /// Messages that were too large to be sent.
    pub oversize: u64,
    /// Callbacks that nobody waited for any more.
    pub late_callbacks: u64,
    /// Instances in memory now.
    pub active: u64,
}

/// How long an input of the engine's own waits when too many are queued.
const PATIENCE: Duration = Duration::from_millis(50);

/// A running engine; clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

/// What handles, drivers and the outbox share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub options: Options,
    pub store: Arc<dyn Store>,
    pub effects: Arc<dyn Effects>,
    pub registry: Arc<Registry>,
    pub relay: Relay,
    /// What the home makes of a message from here is never durable without it.
    pub ahead: bool,
    /// The last position of a message when this process began.
    pub left: u64,
    /// The last position given since.
    position: AtomicU64,
    pub tally: Tally,
    /// How many instances began in this process. Its participants have the same one.
    pub births: Arc<AtomicU64>,
    /// How callbacks are signed. Its participants have the same.
    pub callbacks: Door,
    /// Something was published.
    pub published: Notify,
    /// Something was done.
    pub moved: Notify,
    /// Stores of the participants in this process: what they did is read there.
    pub beside: Mutex<BTreeMap<Location, Arc<dyn Store>>>,
    /// Who copies what participants of other processes did into this engine's record.
    pub observers: Mutex<Vec<Arc<Observer>>>,
    /// Why the engine has stopped.
    pub failure: watch::Sender<Option<String>>,
    pub stopping: watch::Sender<bool>,
    /// The services that have participants now.
    pub services: RwLock<Arc<BTreeSet<String>>>,
    /// Where a participant in a process of its own asks for definitions.
    pub home: OnceLock<Arc<dyn Home>>,
    pub deploying: tokio::sync::Mutex<()>,
    partitions: Vec<mpsc::Sender<Message>>,
    ends: Mutex<Vec<oneshot::Receiver<()>>>,
}

/// What an engine has in common with the participants beside it, apart from what is deployed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Company {
    pub births: Arc<AtomicU64>,
    pub callbacks: Door,
    /// The order in which the home's store writes.
    pub order: Option<usize>,
}

/// Numbers since the start; each is written by whoever causes it and read by whoever asks.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub started: AtomicU64,
    pub completed: AtomicU64,
    pub faulted: AtomicU64,
    pub cancelled: AtomicU64,
    pub steps: AtomicU64,
    pub batches: AtomicU64,
    pub calls: AtomicU64,
    pub retries: AtomicU64,
    pub oversize: AtomicU64,
    pub late_callbacks: AtomicU64,
    pub active: AtomicU64,
}

impl Shared {
    /// The position of the next message.
    pub fn next_position(&self) -> u64 {
        self.position.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Engine {
    /// Loads the definitions, takes up every instance that is due, and runs until [`Engine::shutdown`].
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn open(options: Options, store: Arc<dyn Store>, effects: Arc<dyn Effects>) -> Result<Engine, Error> {
        let (engine, inboxes) = Engine::new(options, store, effects, Arc::default(), Company::default()).await?;
        engine.load_definitions().await?;
        engine.begin_work(inboxes);
        tokio::spawn(outbox::dispatch(engine.clone()));
        Ok(engine)
    }

    /// The participant of a service beside this engine: it has a store of its own, and shares with the engine what is
    /// deployed, and nothing else.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn participant(&self, service: &str, store: Arc<dyn Store>) -> Result<Engine, Error> {
        let Shared { options, effects, registry, births, callbacks, .. } = &*self.shared;
        let company =
            Company { births: births.clone(), callbacks: callbacks.clone(), order: self.shared.store.order() };
        let mut options = options.clone();
        options.host.here = Location::Service(service.into());
        let (engine, inboxes) = Engine::new(options, store, effects.clone(), registry.clone(), company).await?;
        engine.begin_work(inboxes);
        let (home, participant) = (self.clone(), engine.clone());
        tokio::spawn(async move {
            let mut stopping = home.shared.stopping.subscribe();
            tokio::select! {
                // One process: what one of its stores has failed, all stop for.
                reason = participant.failed() => home.fail(&reason),
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
        });
        Ok(engine)
    }

    /// From now on these services have participants. What is deployed is placed anew: what could not be choreographed
    /// before may be now.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn place_at(&self, services: BTreeSet<String>) -> Result<(), Error> {
        *self.shared.services.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(services);
        let _turn = self.shared.deploying.lock().await;
        self.load_definitions().await
    }

    pub(crate) async fn new(
        options: Options,
        store: Arc<dyn Store>,
        effects: Arc<dyn Effects>,
        registry: Arc<Registry>,
        Company { births, callbacks, order }: Company,
    ) -> Result<(Engine, Vec<mpsc::Receiver<Message>>), Error> {
        let reader = store.clone();
        let left = tokio::task::spawn_blocking(move || reader.last_position()).await;
        let left = left.map_err(|_| Error::Stopping)??;
        let (partitions, inboxes) =
            (0..options.partitions.max(1)).map(|_| mpsc::channel(options.max_queued.max(1))).unzip();
        let ahead = order.is_some() && order == store.order();
        let shared = Arc::new(Shared {
            ahead,
            services: RwLock::new(Arc::new(options.services.clone())),
            options,
            store,
            effects,
            registry,
            relay: Relay::default(),
            left,
            position: AtomicU64::new(left),
            tally: Tally::default(),
            births,
            callbacks,
            published: Notify::new(),
            moved: Notify::new(),
            beside: Mutex::default(),
            observers: Mutex::default(),
            failure: watch::Sender::new(None),
            stopping: watch::Sender::new(false),
            home: OnceLock::new(),
            deploying: tokio::sync::Mutex::default(),
            partitions,
            ends: Mutex::default(),
        });
        Ok((Engine { shared }, inboxes))
    }

    pub(crate) fn begin_work(&self, inboxes: Vec<mpsc::Receiver<Message>>) {
        let mut ends = self.shared.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let (end, ended) = oneshot::channel();
            ends.push(ended);
            let driver = Driver::new(self.clone(), index, inbox);
            tokio::spawn(async move {
                driver.run().await;
                // Nobody may be waiting for it.
                let _ = end.send(());
            });
        }
    }

    pub(crate) async fn load_definitions(&self) -> Result<(), Error> {
        let engine = self.clone();
        self.blocking(move |store| {
            for deployed in store.definitions()? {
                let resources: Resources = serde_json::from_str(&deployed.resources).unwrap_or_default();
                let name = format!("{}/{} {}", deployed.namespace, deployed.name, deployed.version);
                match registry::compile(&name, &deployed.text, &resources, engine.services().as_deref()) {
                    Ok((compiled, _)) if compiled.orchestrated.digest() == deployed.digest => {
                        engine.shared.registry.insert(compiled, deployed);
                    }
                    // An instance pinned to it stays where it is; it must not go on with another meaning.
                    Ok(_) => tracing::error!(workflow = name, "this program gives the definition another meaning; its instances wait for the program that deployed it"),
                    Err(problems) => tracing::error!(workflow = name, problems = problems.len(), "the stored definition cannot be read"),
                }
            }
            Ok(())
        })
        .await
    }

    /// Deploys a definition's text (`file` names it in diagnostics). `replace` allows another digest for a version.
    ///
    /// # Errors
    /// [`Error::Definition`], [`Error::VersionTaken`], [`Error::Store`].
    pub async fn deploy(&self, file: &str, text: &str, replace: bool) -> Result<Deployment, Error> {
        let resources = self.fetch_resources(file, text).await?;
        let (compiled, diagnostics) =
            registry::compile(file, text, &resources, self.services().as_deref()).map_err(Error::Definition)?;
        let program = compiled.orchestrated.clone();
        let document = program.document();
        let mut deployment = Deployment {
            namespace: document.namespace.clone(),
            name: document.name.clone(),
            version: document.version.clone(),
            digest: program.digest().to_owned(),
            created: true,
            diagnostics,
        };
        // One at a time: of two contents for one version only the first is taken.
        let _turn = self.shared.deploying.lock().await;
        match self.shared.registry.digest_of(&document.namespace, &document.name, &document.version) {
            Some(digest) if digest == deployment.digest => {
                deployment.created = false;
                return Ok(deployment);
            }
            Some(digest) if !replace => {
                let Deployment { namespace, name, version, .. } = deployment;
                return Err(Error::VersionTaken { namespace, name, version, digest });
            }
            _ => {}
        }
        let deployed = Deployed {
            namespace: deployment.namespace.clone(),
            name: deployment.name.clone(),
            version: deployment.version.clone(),
            digest: deployment.digest.clone(),
            text: text.to_owned(),
            resources: serde_json::to_string(&resources).unwrap_or_default(),
            deployed_at: crate::now(),
        };
        let row = deployed.clone();
        self.blocking(move |store| store.deploy(&row)).await?;
        self.shared.registry.insert(compiled, deployed);
        Ok(deployment)
    }

    /// Schemas that the definition names by URI. What cannot be fetched is left out, and reported by the compiler.
    async fn fetch_resources(&self, file: &str, text: &str) -> Result<Resources, Error> {
        let mut resources = Resources::new();
        if let Some(definition) = definition::read(file, text).definition {
            for uri in Program::resources_of(&definition) {
                match self.shared.effects.fetch(uri.clone()).await {
                    Ok(document) => drop(resources.insert(uri, document)),
                    Err(why) => tracing::warn!(uri, why, "a schema cannot be fetched"),
                }
            }
        }
        Ok(resources)
    }

    /// Starts an instance. It is durable when this returns.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn start(&self, request: StartRequest) -> Result<Started, Error> {
        let StartRequest { namespace, name, version, mode, input, idempotency_key, id, trace, notify } = request;
        let program = self.shared.registry.find(&namespace, &name, version.as_deref(), mode)?;
        let derived = idempotency_key.map(|key| id::derived(&[&namespace, &name, &key]));
        let keyed = id.is_some() || derived.is_some();
        let id = id.or(derived).unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let trace = trace.or_else(|| self.shared.options.watch.new_trace(&id));
        let start = Start { correlation_id: id.clone(), id, input, parent: None, trace, notify };
        self.begin(program, start, keyed).await
    }

    /// The program that a start would run: of a version, or of the highest deployed; in a mode, or in its document's.
    ///
    /// # Errors
    /// [`Error::UnknownWorkflow`], [`Error::Mode`].
    pub fn program(
        &self,
        namespace: &str,
        name: &str,
        version: Option<&str>,
        mode: Option<Mode>,
    ) -> Result<Arc<Program>, Error> {
        Ok(self.shared.registry.find(namespace, name, version, mode)?)
    }

    /// Starts a sub-workflow, or finds the instance it was started as.
    pub(crate) async fn start_child(
        &self,
        child: pavane_core::engine::Child,
        mode: Mode,
        correlation_id: String,
        parent: Option<Parent>,
        trace: Option<TraceContext>,
    ) -> Result<Started, Error> {
        let find = |mode| self.shared.registry.find(&child.namespace, &child.name, Some(&child.version), Some(mode));
        // It runs in its parent's mode if it can: its parent cannot tell.
        let program = find(mode).or_else(|_| find(Mode::Orchestration))?;
        // Not held up by the limit of active instances: its parent keeps its place until the child has ended, so parents
        // alone could fill the engine and wait for ever.
        self.hand_over(
            program,
            Start { id: child.id, input: child.input, correlation_id, parent, trace, notify: None },
            true,
        )
        .await
    }

    async fn begin(&self, program: Arc<Program>, start: Start, keyed: bool) -> Result<Started, Error> {
        if self.shared.tally.active.load(Ordering::Relaxed) >= self.shared.options.max_active as u64 {
            return Err(Error::Busy {
                what: format!("{} instances are active, the most that may be", self.shared.options.max_active),
                retry_after_seconds: 1,
            });
        }
        self.hand_over(program, start, keyed).await
    }

    async fn hand_over(&self, program: Arc<Program>, start: Start, keyed: bool) -> Result<Started, Error> {
        if *self.shared.stopping.borrow() {
            return Err(self.stopped());
        }
        let id = start.id.clone();
        let (reply, answer) = oneshot::channel();
        self.send(&id, Message::Start { program, start: Box::new(start), keyed, reply })?;
        self.answer(answer).await
    }

    /// Waits until the instance has ended, or for `timeout`. Gives the record as it is then.
    ///
    /// # Errors
    /// [`Error::UnknownInstance`], [`Error::Store`].
    pub async fn wait(&self, id: &str, timeout: Duration) -> Result<WorkflowInstance, Error> {
        let until = tokio::time::Instant::now() + timeout;
        let (registered, to_come) = oneshot::channel();
        let (reply, answer) = oneshot::channel();
        self.send(id, Message::Wait { id: id.to_owned(), registered, reply })?;
        // It may have ended before; the store is asked after the wait stands, so that an end between the two is not missed.
        if !to_come.await.map_err(|_| self.stopped())? {
            let record = self.instance(id).await?;
            if record.status.is_terminal() {
                return Ok(record);
            }
        }
        match tokio::time::timeout_at(until, answer).await {
            Ok(Ok(record)) => Ok(*record),
            Ok(Err(_)) if self.shared.failure.borrow().is_some() => Err(self.stopped()),
            _ => self.instance(id).await,
        }
    }

    /// Gives an operator's command to an instance.
    ///
    /// # Errors
    /// [`Error::Conflict`] when its status does not allow it.
    pub async fn operate(&self, id: &str, operation: Operation) -> Result<(), Error> {
        let command = match operation {
            Operation::Cancel => Command::Cancel { reason: "an operator asked for it".into() },
            Operation::Suspend => Command::Suspend,
            Operation::Resume => Command::Resume,
            Operation::Retry => Command::Retry,
        };
        self.command(id, command).await
    }

    /// Gives an instance an input; it is durable when this returns.
    pub(crate) async fn command(&self, id: &str, command: Command) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.send(id, Message::Input { id: id.to_owned(), command, reply: Some(reply) })?;
        self.answer(answer).await
    }

    /// As [`Engine::command`], but waits its turn when too many inputs are queued.
    pub(crate) async fn command_patiently(&self, id: &str, command: Command) -> Result<(), Error> {
        loop {
            match self.command(id, command.clone()).await {
                Err(Error::Busy { .. }) if !*self.shared.stopping.borrow() => tokio::time::sleep(PATIENCE).await,
                answer => return answer,
            }
        }
    }

    /// The store failed: nobody is told anything any more that is not durable.
    pub(crate) fn fail(&self, failure: &dyn std::fmt::Display) {
        let first = self.shared.failure.send_if_modified(|reason| {
            let first = reason.is_none();
            reason.get_or_insert_with(|| failure.to_string());
            first
        });
        if first {
            tracing::error!(%failure, "the store failed; the engine stops");
        }
        self.shared.stopping.send_replace(true);
    }

    /// Publishes events from outside. They are durable when this returns.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Busy`].
    pub async fn publish(&self, events: Vec<CloudEvent>) -> Result<(), Error> {
        self.commit(Commit { publish: events, ..Commit::default() }).await?;
        self.shared.published.notify_one();
        Ok(())
    }

    /// Hands a message from another location of an instance to its driver, which answers when it is durable.
    pub(crate) fn deliver(
        &self,
        program: Arc<Program>,
        message: Box<pavane_core::engine::Message>,
        origin: Option<Origin>,
    ) -> Result<oneshot::Receiver<Result<(), Error>>, Error> {
        let (reply, answer) = oneshot::channel();
        let partition = self.partition(&message.instance);
        self.queue(partition, Message::Deliver { program, message, origin, reply })?;
        Ok(answer)
    }

    /// Makes something durable that belongs to no instance.
    pub(crate) async fn commit(&self, commit: Commit) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.shared.store.commit(
            vec![commit],
            Box::new(move |result| {
                // A caller that went away needs no answer.
                let _ = reply.send(result);
            }),
        );
        answer.await.map_err(|_| self.stopped())?.map_err(Error::Store)
    }

    /// The deployed definitions.
    pub fn definitions(&self) -> Vec<Deployed> {
        self.shared.registry.deployed()
    }

    /// Numbers since the start.
    pub fn counters(&self) -> Counters {
        let tally = &self.shared.tally;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            started: read(&tally.started),
            ended: BTreeMap::from([
                ("completed", read(&tally.completed)),
                ("faulted", read(&tally.faulted)),
                ("cancelled", read(&tally.cancelled)),
            ]),
            steps: read(&tally.steps),
            batches: read(&tally.batches),
            calls: read(&tally.calls),
            retries: read(&tally.retries),
            oversize: read(&tally.oversize),
            late_callbacks: read(&tally.late_callbacks),
            active: read(&tally.active),
        }
    }

    /// Inputs that wait for the drivers now.
    pub fn queued(&self) -> usize {
        self.shared.partitions.iter().map(|inbox| inbox.max_capacity() - inbox.capacity()).sum()
    }

    /// Takes no more starts, lets calls in flight end until `deadline`, makes everything durable and stops.
    pub async fn shutdown(&self, deadline: Duration) {
        self.shared.stopping.send_replace(true);
        let until = tokio::time::Instant::now() + deadline;
        for partition in &self.shared.partitions {
            // A driver that has ended already needs no telling.
            let _ = tokio::time::timeout_at(until, partition.send(Message::Stop { until })).await;
        }
        let ends = std::mem::take(&mut *self.shared.ends.lock().unwrap_or_else(PoisonError::into_inner));
        for ended in ends {
            let _ = ended.await;
        }
    }

    /// Whether it takes starts: not when it is going down, nor after its store failed.
    pub fn takes_starts(&self) -> bool {
        !*self.shared.stopping.borrow()
    }

    /// Resolves when the engine has stopped because its store failed, with the reason.
    pub async fn failed(&self) -> String {
        let mut failure = self.shared.failure.subscribe();
        loop {
            if let Some(reason) = failure.borrow_and_update().clone() {
                return reason;
            }
            if failure.changed().await.is_err() {
                return "the engine has stopped".into();
            }
        }
    }

    /// The partition of an instance.
    pub(crate) fn partition(&self, id: &str) -> usize {
        if self.shared.partitions.len() == 1 {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        (hasher.finish() % self.shared.partitions.len().max(1) as u64) as usize
    }

    fn send(&self, id: &str, message: Message) -> Result<(), Error> {
        self.queue(self.partition(id), message)
    }

    fn queue(&self, partition: usize, message: Message) -> Result<(), Error> {
        let Some(partition) = self.shared.partitions.get(partition) else { return Err(Error::Stopping) };
        partition.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Busy {
                what: format!("{} inputs are queued, the most that may be", self.shared.options.max_queued),
                retry_after_seconds: 1,
            },
            mpsc::error::TrySendError::Closed(_) => self.stopped(),
        })
    }

    pub(crate) async fn answer<T>(&self, answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        answer.await.unwrap_or_else(|_| Err(self.stopped()))
    }

    /// Why the engine does not answer any more.
    fn stopped(&self) -> Error {
        match self.shared.failure.borrow().clone() {
            Some(reason) => Error::Store(pavane_store::Error::Failed { path: "the store".into(), reason }),
            None => Error::Stopping,
        }
    }

    /// Reads of the store block; they get a thread for it.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Store) -> Result<T, pavane_store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.shared.store.clone();
        match tokio::task::spawn_blocking(move || read(&*store)).await {
            Ok(result) => result.map_err(Error::Store),
            Err(_) => Err(Error::Stopping),
        }
    }
}
