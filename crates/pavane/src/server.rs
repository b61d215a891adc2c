//! Wiring a process together: store, effects, engine, listeners; and taking it apart again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pavane_bus::Embedded;
use pavane_core::Value;
use pavane_core::engine::Host;
use pavane_gateway::Gateway;
use pavane_runtime::effects::{Network, NetworkOptions};
use pavane_runtime::{Engine, Options};
use pavane_store::{Memory, Sqlite, Stats, Store};
use tokio::net::TcpListener;

use crate::api::{self, Api};
use crate::config::Config;

/// How long calls in flight may take to end when nothing else is configured.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// How long a second process waits for the store before it says who holds it.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// How long a process whose store failed goes on, for the answers that say so.
const TELLING: Duration = Duration::from_millis(500);

/// Which store a process uses.
#[derive(Clone, Debug)]
pub enum Storage {
    /// Gone with the process.
    Memory,
    /// As configured.
    Configured,
}

/// A running process: an engine and what it was built from.
#[derive(Clone, Debug)]
pub struct Running {
    /// The engine.
    pub engine: Engine,
    /// The effects it performs.
    pub network: Network,
    /// The SQLite store, when it is one.
    pub sqlite: Option<Arc<Sqlite>>,
    /// The participants of the services, each with a store of its own.
    pub participants: Vec<Participant>,
    pub(crate) config: Arc<Config>,
    /// The gateway, once it serves.
    gateway: Arc<OnceLock<Gateway>>,
}

/// What a process did since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Calls made.
    pub calls: u64,
    /// Those of them that repeat an attempt of the same task.
    pub retries: u64,
    /// Steps made durable.
    pub steps: u64,
    /// Messages that came from one location to another.
    pub messages: u64,
    /// Times a message was not taken.
    pub refusals: u64,
    /// Messages that became dead letters.
    pub dead_letters: u64,
    /// Commits made durable.
    pub commits: u64,
    /// Transactions, each with one fsync.
    pub transactions: u64,
    /// Bytes of rows made durable.
    pub bytes: u64,
}

impl std::ops::Sub for Totals {
    type Output = Totals;

    fn sub(self, before: Totals) -> Totals {
        Totals {
            calls: self.calls - before.calls,
            retries: self.retries - before.retries,
            steps: self.steps - before.steps,
            messages: self.messages - before.messages,
            refusals: self.refusals - before.refusals,
            dead_letters: self.dead_letters - before.dead_letters,
            commits: self.commits - before.commits,
            transactions: self.transactions - before.transactions,
            bytes: self.bytes - before.bytes,
        }
    }
}

/// The participant of a service in this process.
#[derive(Clone, Debug)]
pub struct Participant {
    /// It runs what is placed at its service.
    pub engine: Engine,
    /// Its store, when it is SQLite.
    pub sqlite: Option<Arc<Sqlite>>,
}

impl Running {
    /// Opens store, effects and engine, and deploys the configured workflows.
    ///
    /// # Errors
    /// Everything that keeps it from starting, a line each.
    pub async fn open(
        config: Config,
        storage: Storage,
        resolve: Vec<(String, Option<u16>, SocketAddr)>,
        more_secrets: BTreeMap<String, Value>,
    ) -> Result<Running, Vec<String>> {
        let mut secrets = config.secrets()?;
        secrets.extend(more_secrets);
        let files = config.workflow_files()?;
        let defaults = NetworkOptions::default();
        let http = &config.http;
        let network = Network::new(NetworkOptions {
            services: config.services()?,
            secrets: secrets.clone(),
            resolve,
            ca: http.ca.clone(),
            max_body: http.max_body.unwrap_or(defaults.max_body),
            connect_timeout: http.connect_timeout.unwrap_or(defaults.connect_timeout),
            call_timeout: http.timeout.unwrap_or(defaults.call_timeout),
            max_per_authority: http.max_connections.unwrap_or(defaults.max_per_authority),
            max_calls: config.limits.calls_in_flight.unwrap_or(defaults.max_calls),
        })
        .map_err(|e| vec![e])?;
        let wait = config.store.sqlite.wait.unwrap_or(LOCK_WAIT);
        let (store, sqlite) = open_store(&storage, config.store.sqlite.path.clone(), wait).await?;
        let limits = Options::default();
        let services: BTreeSet<String> = config.services.keys().chain(&config.hosts).cloned().collect();
        let options = Options {
            host: Host { secrets, runtime: runtime(), ..Host::default() },
            services: services.clone(),
            max_active: config.limits.active_instances.unwrap_or(limits.max_active),
            max_queued: config.limits.queued_inputs.unwrap_or(limits.max_queued),
            partitions: limits.partitions,
        };
        let engine = Engine::open(options, store, Arc::new(network.clone())).await.map_err(|e| vec![e.to_string()])?;
        let mut participants = Vec::new();
        for service in services {
            let path = participant_path(&config.store.sqlite.path, &service);
            let (store, sqlite) = open_store(&storage, path, wait).await?;
            let engine = engine.participant(&service, store).await.map_err(|e| vec![e.to_string()])?;
            participants.push(Participant { engine, sqlite });
        }
        let running =
            Running { engine, network, sqlite, participants, config: Arc::new(config), gateway: Arc::default() };
        running.connect();
        let mut problems = Vec::new();
        for file in files {
            problems.extend(running.deploy(&file, false).await.err());
        }
        if problems.is_empty() { Ok(running) } else { Err(problems) }
    }

    /// Connects the engine and the participants by the embedded bus.
    fn connect(&self) {
        let bus = Arc::new(Embedded::default());
        // First everybody listens, then they speak.
        self.engines().for_each(|engine| engine.subscribe(&*bus));
        self.engines().for_each(|engine| engine.publish_to(bus.clone()));
        for Participant { engine, .. } in &self.participants {
            self.engine.observe(engine.location(), Arc::new(engine.clone()));
        }
    }

    /// The engine, and the participants as the engines they are.
    pub fn engines(&self) -> impl Iterator<Item = &Engine> {
        std::iter::once(&self.engine).chain(self.participants.iter().map(|participant| &participant.engine))
    }

    /// Numbers since the start, over all engines.
    pub fn totals(&self) -> Totals {
        let stores = std::iter::once(&self.sqlite).chain(self.participants.iter().map(|part| &part.sqlite));
        let stats: Vec<Stats> = stores.flatten().map(|sqlite| sqlite.stats()).collect();
        Totals {
            calls: self.engines().map(|engine| engine.counters().calls).sum(),
            retries: self.engines().map(|engine| engine.counters().retries).sum(),
            steps: self.engines().map(|engine| engine.counters().steps).sum(),
            messages: self.engines().map(|engine| engine.progress().taken).sum(),
            refusals: self.engines().map(|engine| engine.progress().refused).sum(),
            dead_letters: self.engines().map(|engine| engine.progress().dead).sum(),
            commits: stats.iter().map(|stats| stats.commits).sum(),
            transactions: stats.iter().map(|stats| stats.transactions).sum(),
            bytes: stats.iter().map(|stats| stats.bytes).sum(),
        }
    }

    /// Deploys a file.
    ///
    /// # Errors
    /// Its diagnostics, or why it cannot be deployed.
    pub async fn deploy(&self, file: &Path, replace: bool) -> Result<pavane_runtime::Deployment, String> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|e| format!("{name}: {e}"))?;
        self.engine.deploy(&name, &text, replace).await.map_err(|error| match error {
            pavane_runtime::Error::Definition(problems) => problems.iter().map(ToString::to_string).collect(),
            error => format!("{name}: {error}"),
        })
    }

    /// Binds the HTTP API and serves it until [`Running::stop`].
    ///
    /// # Errors
    /// A port in use.
    pub async fn serve(&self) -> Result<SocketAddr, String> {
        let address = self.config.listen.admin;
        let listener = TcpListener::bind(address).await.map_err(|e| {
            format!("{address} cannot be listened on: {e}; set `listen.admin` to another address, or end the process that uses it")
        })?;
        let bound = listener.local_addr().map_err(|e| e.to_string())?;
        let router = api::router(Api::new(self.clone(), self.config.limits.request_body));
        let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
            // Without it a small answer waits for the other side's acknowledgement.
            let _ = stream.set_nodelay(true);
        });
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the HTTP API stopped");
            }
        });
        Ok(bound)
    }

    /// Binds the gateway, if there is one, and serves it until [`Running::stop`].
    ///
    /// # Errors
    /// What is wrong with its routes, or a port in use.
    pub async fn serve_gateway(&self) -> Result<Option<SocketAddr>, String> {
        if !self.config.has_gateway() {
            return Ok(None);
        }
        let (gateway, listener) = crate::gateway::open(self).await?;
        let bound = listener.local_addr().map_err(|e| e.to_string())?;
        tokio::spawn(self.gateway.get_or_init(|| gateway).clone().serve(listener));
        Ok(Some(bound))
    }

    /// The gateway, once it serves.
    pub fn gateway(&self) -> Option<&Gateway> {
        self.gateway.get()
    }

    /// Stops in good order.
    pub async fn stop(&self) {
        let deadline = self.config.shutdown.unwrap_or(SHUTDOWN);
        let gateway = async {
            if let Some(gateway) = self.gateway() {
                gateway.stop(deadline).await;
            }
        };
        let engines = futures_util::future::join_all(self.engines().map(|engine| engine.shutdown(deadline)));
        tokio::join!(gateway, engines);
    }

    /// Resolves when a store has failed, with the reason.
    async fn failed(&self) -> String {
        let failures = self.engines().map(|engine| Box::pin(engine.failed()));
        futures_util::future::select_all(failures).await.0
    }

    /// Serves until a signal asks to stop, or the store fails. A second signal cuts what is still in flight.
    ///
    /// # Errors
    /// Why the engine stopped by itself, or that it was cut.
    pub async fn until_stopped(&self) -> Result<(), String> {
        tokio::select! {
            () = signalled() => {}
            reason = self.failed() => {
                // Callers that wait are told the same; they get a moment to hear it.
                tokio::time::sleep(TELLING).await;
                return Err(reason);
            }
        }
        tracing::info!("stopping: calls in flight may end");
        tokio::select! {
            () = self.stop() => Ok(()),
            () = signalled() => Err("stopped by a second signal: calls in flight were cut, and are made again at the next start".into()),
        }
    }
}

/// Opens a store, with what only SQLite can tell.
async fn open_store(
    storage: &Storage,
    path: PathBuf,
    wait: Duration,
) -> Result<(Arc<dyn Store>, Option<Arc<Sqlite>>), Vec<String>> {
    match storage {
        Storage::Memory => Ok((Arc::new(Memory::new()), None)),
        Storage::Configured => {
            let opened = tokio::task::spawn_blocking(move || Sqlite::open(path, wait)).await;
            let opened = Arc::new(opened.map_err(|e| vec![e.to_string()])?.map_err(|e| vec![e.to_string()])?);
            Ok((opened.clone(), Some(opened)))
        }
    }
}

/// Where the participant of a service keeps its state: beside the engine's store, under the service's name.
fn participant_path(engine: &Path, service: &str) -> PathBuf {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) { c.to_string() } else { format!("%{:X}", u32::from(c)) }
    };
    let service: String = service.chars().map(plain).collect();
    let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, extension) = (part(engine.file_stem()), part(engine.extension()));
    let dot = if extension.is_empty() { "" } else { "." };
    engine.with_file_name(format!("{stem}-{service}{dot}{extension}"))
}

/// `$runtime`.
fn runtime() -> Value {
    Value::object([
        ("name", Value::text("pavane")),
        ("version", Value::text(env!("CARGO_PKG_VERSION"))),
        ("metadata", Value::empty_object()),
    ])
}

/// SIGINT or SIGTERM.
pub(crate) async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}
