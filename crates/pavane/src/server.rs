//! Wiring a process together: store, effects, engine, listeners; and taking it apart again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use pavane_bus::{Bus, Embedded, Hub};
use pavane_core::Value;
use pavane_gateway::Gateway;
use pavane_runtime::callbacks::Callbacks;
use pavane_runtime::effects::Network;
use pavane_runtime::services::Place;
use pavane_runtime::watch::Watch;
use pavane_runtime::{Copied, Engine, Late, Reading, Source, Unread};
use pavane_store::{Sqlite, Stats, Store};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::{self, Api, Guard};
use crate::config::{Config, reachable};
use crate::ground::Ground;
use crate::participant::{Caller, Link};
use crate::stores::{self, LOCK_WAIT, Storage, open_participants, open_store, participant_path};
use crate::traces::Export;

/// How long calls in flight may take to end when nothing else is configured.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// How long a process whose store failed goes on, for the answers that say so.
const TELLING: Duration = Duration::from_millis(500);

/// A running process: an engine and what it was built from.
#[derive(Clone, Debug)]
pub struct Running {
    /// The engine.
    pub engine: Engine,
    /// The effects it performs.
    pub network: Network,
    /// What they count and trace.
    pub watch: Arc<Watch>,
    /// Where their traces go.
    export: Option<Arc<Export>>,
    /// The SQLite store, when it is one.
    pub sqlite: Option<Arc<Sqlite>>,
    /// The participants of the services in this process, each with a store of its own in the same file.
    participants: Arc<RwLock<Vec<Participant>>>,
    bus: Arc<dyn Bus>,
    /// Where participants attach, once it is open.
    bus_address: Arc<OnceLock<SocketAddr>>,
    /// How it stands with the participants in processes of their own.
    pub(crate) elsewhere: Elsewhere,
    pub(crate) config: Arc<Config>,
    /// The gateway, once it serves.
    gateway: Arc<OnceLock<Gateway>>,
}

/// What a process has to do with others.
#[derive(Clone, Debug)]
pub(crate) enum Elsewhere {
    /// It hosts the embedded bus, for participants in processes of their own, too.
    Hub(Hub),
    /// It is such a participant itself.
    Participant(Arc<Link>),
}

/// Where a process listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The HTTP API.
    pub admin: SocketAddr,
    /// Where participants attach, if any may.
    pub bus: Option<SocketAddr>,
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
    /// Messages that were too large to be sent.
    pub oversize: u64,
    /// Callbacks that nobody waited for any more.
    pub late_callbacks: u64,
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
            oversize: self.oversize - before.oversize,
            late_callbacks: self.late_callbacks - before.late_callbacks,
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
        let files = config.workflow_files()?;
        let (ground, options) = Ground::lay(&config, more_secrets, resolve)?;
        let wait = config.store.sqlite.wait.unwrap_or(LOCK_WAIT);
        let (store, sqlite) = open_store(&storage, config.store.sqlite.path.clone(), wait).await?;
        let remote = config.remote_services();
        let here = options.services.difference(&remote).cloned().collect();
        let stores = open_participants(sqlite.as_ref(), &config, &here).await?;
        // Before anything begins: work may be missing that the engine believes to be under way.
        stores::acquaint(&config, &store, &stores).await?;
        let effects = Arc::new(ground.network.clone());
        let engine = Engine::open(options, store, effects).await.map_err(|e| vec![e.to_string()])?;
        let bus: Arc<dyn Bus> = Arc::new(Embedded::default());
        let hub = Hub::new(bus.clone(), BTreeSet::new(), BTreeSet::new());
        take_callbacks(&engine, &config, config.callback_url()).await?;
        let running = Running::of(ground, engine, sqlite, bus, Elsewhere::Hub(hub.clone()), config);
        running.engine.subscribe(&*running.bus);
        running.add(&hub, stores, remote).await?;
        running.engine.publish_to(running.bus.clone());
        running.deploy_all(files).await?;
        Ok(running)
    }

    /// An engine on its ground, before it serves anybody.
    fn of(
        ground: Ground,
        engine: Engine,
        sqlite: Option<Arc<Sqlite>>,
        bus: Arc<dyn Bus>,
        elsewhere: Elsewhere,
        config: Config,
    ) -> Running {
        let Ground { network, watch, export } = ground;
        Running {
            engine,
            network,
            watch,
            export,
            sqlite,
            participants: Arc::default(),
            bus,
            bus_address: Arc::default(),
            elsewhere,
            config: Arc::new(config),
            gateway: Arc::default(),
        }
    }

    /// Adds participants: those whose stores are given in this process, and `remote` ones that may attach.
    async fn add(
        &self,
        hub: &Hub,
        stores: BTreeMap<String, Arc<dyn Store>>,
        remote: BTreeSet<String>,
    ) -> Result<(), Vec<String>> {
        let mut added = Vec::new();
        for (service, store) in stores {
            let engine = self.engine.participant(&service, store).await.map_err(|e| vec![e.to_string()])?;
            hub.add_here(service);
            added.push(Participant { engine });
        }
        // First everybody listens, then they speak.
        added.iter().for_each(|Participant { engine, .. }| engine.subscribe(&*self.bus));
        for Participant { engine, .. } in &added {
            engine.publish_to(self.bus.clone());
            self.engine.observe(engine.location(), Arc::new(engine.clone()));
        }
        self.participants.write().unwrap_or_else(PoisonError::into_inner).extend(added);
        for service in remote {
            hub.add_remote(service.clone());
            self.engine.observe(&service, Arc::new(Attached { hub: hub.clone(), service: service.clone() }));
        }
        Ok(())
    }

    async fn deploy_all(&self, files: Vec<PathBuf>) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        for file in files {
            problems.extend(self.deploy(&file, false).await.err());
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Takes up the services, workflows and routes of a configuration that was read again. Services that are no more in it
    /// are not called by their names any more; their participants end what is at them. Gives what is wrong with single
    /// workflows, or the routes: these stay as they were.
    ///
    /// # Errors
    /// Everything that keeps it from that, a line each. Nothing has changed then.
    pub async fn reload(&self, config: &Config) -> Result<Vec<String>, Vec<String>> {
        let Elsewhere::Hub(hub) = &self.elsewhere else {
            self.network.replace(&config.services()?);
            return Ok(Vec::new());
        };
        let (files, services) = (config.workflow_files()?, config.services()?);
        let names: BTreeSet<String> = config.services.keys().chain(&self.config.hosts).cloned().collect();
        let (remote, was_remote, was_here) = (config.remote_services(), hub.remote(), hub.here());
        let here: BTreeSet<String> = names.difference(&remote).cloned().collect();
        let moved = remote.intersection(&was_here).chain(here.intersection(&was_remote));
        let moved: Vec<String> = moved
            .map(|service| format!("services.{service}.participant: a participant moves at a start only: start again"))
            .collect();
        if !moved.is_empty() {
            return Err(moved);
        }
        let new = here.difference(&was_here).cloned().collect();
        let stores = open_participants(self.sqlite.as_ref(), &self.config, &new).await?;
        if let Some(home) = &self.sqlite {
            let home: Arc<dyn Store> = home.clone();
            stores::acquaint(&self.config, &home, &stores).await?;
        }
        self.add(hub, stores, remote.difference(&was_remote).cloned().collect()).await?;
        self.open_bus(hub).await.map_err(|problem| vec![problem])?;
        self.network.replace(&services);
        self.engine.place_at(names).await.map_err(|error| vec![error.to_string()])?;
        // Routes name workflows: those come first.
        let mut problems = self.deploy_all(files).await.err().unwrap_or_default();
        if let Some(gateway) = self.gateway() {
            problems.extend(crate::gateway::take_up(gateway, config).err().unwrap_or_default());
        }
        Ok(problems)
    }

    /// Keys of a configuration that was read again and that count from the next start on.
    pub(crate) fn needs_restart(&self, config: &Config) -> Vec<&'static str> {
        let mut keys = self.config.needs_restart(config);
        if self.gateway().is_none() && config.has_gateway() && matches!(self.elsewhere, Elsewhere::Hub(_)) {
            keys.push("routes");
        }
        keys
    }

    /// The participants in this process.
    fn participants(&self) -> Vec<Participant> {
        self.participants.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens the participant of a service as a process of its own: its store is a file named after it, its hub is asked
    /// for definitions.
    ///
    /// # Errors
    /// Everything that keeps it from starting, a line each.
    pub async fn open_participant(config: Config, service: &str) -> Result<Running, Vec<String>> {
        let settings = config.services.get(service).ok_or_else(|| {
            let known: Vec<&str> = config.services.keys().map(String::as_str).collect();
            vec![format!("--service {service}: the configuration has no such service; it has {}", known.join(", "))]
        })?;
        if settings.participant != Place::Remote {
            return Err(vec![format!(
                "services.{service}: its participant is in the engine's process: to run it in one of its own, write \
                 `participant: remote` there, for both processes"
            )]);
        }
        let token = config.bus_token().map_err(|problem| vec![problem])?;
        let url = config.bus.embedded.url.clone().unwrap_or_else(|| format!("http://{}", config.listen.bus));
        if !url.starts_with("http://") {
            return Err(vec![format!(
                "bus.embedded.url: `{url}` does not begin with http://, which is all that is spoken here: across machines \
                 use a private network, or a tunnel that encrypts"
            )]);
        }
        let (ground, options) = Ground::lay(&config, BTreeMap::new(), Vec::new())?;
        let wait = config.store.sqlite.wait.unwrap_or(LOCK_WAIT);
        let path = participant_path(&config.store.sqlite.path, service);
        let (store, sqlite) = open_store(&Storage::Configured, path, wait).await?;
        let failed = |error: pavane_runtime::Error| vec![error.to_string()];
        let effects = Arc::new(ground.network.clone());
        let engine = Engine::alone(service, options, store, effects).await.map_err(failed)?;
        let store = engine.identity().await.map_err(failed)?;
        let caller = Arc::new(Caller::new(&url, token.as_deref()));
        take_callbacks(&engine, &config, config.callback_url()).await?;
        let link = Arc::new(Link::new(caller, service, store, engine.clone()));
        engine.ask(link.home());
        engine.subscribe(&*link);
        engine.publish_to(link.clone());
        Ok(Running::of(ground, engine, sqlite, link.clone(), Elsewhere::Participant(link), config))
    }

    /// The engine, and the participants as the engines they are.
    pub fn engines(&self) -> Vec<Engine> {
        let participants = self.participants().into_iter().map(|participant| participant.engine);
        std::iter::once(self.engine.clone()).chain(participants).collect()
    }

    /// Services that have participants, here or elsewhere.
    pub(crate) fn participant_names(&self) -> BTreeSet<String> {
        match &self.elsewhere {
            Elsewhere::Hub(hub) => hub.here().union(&hub.remote()).cloned().collect(),
            Elsewhere::Participant(_) => BTreeSet::new(),
        }
    }

    /// Where the participant of a service is: `here`, or `attached` or `away` when it is in a process of its own.
    pub(crate) fn participant_of(&self, service: &str) -> &'static str {
        match &self.elsewhere {
            Elsewhere::Hub(hub) if hub.missing().iter().any(|missing| missing == service) => "away",
            Elsewhere::Hub(hub) if hub.remote().contains(service) => "attached",
            _ => "here",
        }
    }

    /// Numbers since the start, over all engines.
    pub fn totals(&self) -> Totals {
        let Stats { transactions, commits, bytes } = self.sqlite.as_ref().map(|file| file.stats()).unwrap_or_default();
        let engines = self.engines();
        Totals {
            calls: engines.iter().map(|engine| engine.counters().calls).sum(),
            retries: engines.iter().map(|engine| engine.counters().retries).sum(),
            steps: engines.iter().map(|engine| engine.counters().steps).sum(),
            messages: engines.iter().map(|engine| engine.progress().taken).sum(),
            refusals: engines.iter().map(|engine| engine.progress().refused).sum(),
            dead_letters: engines.iter().map(|engine| engine.progress().dead).sum(),
            oversize: engines.iter().map(|engine| engine.counters().oversize).sum(),
            late_callbacks: engines.iter().map(|engine| engine.counters().late_callbacks).sum(),
            commits,
            transactions,
            bytes,
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

    /// Binds the listeners and serves them until [`Running::stop`].
    ///
    /// # Errors
    /// A port in use; an API or a bus that strangers could reach.
    pub async fn serve(&self) -> Result<Addresses, String> {
        let api = Api::new(self.clone(), self.config.limits.request_body);
        let (address, door) = (self.config.listen.admin, self.door()?);
        if door.is_none() && !address.ip().is_loopback() {
            return Err(format!(
                "listen.admin: {address} can be reached from other machines, and nobody need show who they are there: set \
                 `admin.keys` (`pavane secret key NAME` makes one) or `admin.basic`, or listen on 127.0.0.1"
            ));
        }
        let router = match &self.elsewhere {
            Elsewhere::Participant(_) => api::participant(api, door),
            Elsewhere::Hub(hub) => {
                self.open_bus(hub).await?;
                api::router(api, door)
            }
        };
        let admin = listen(address, "listen.admin", router).await?;
        if self.engine.callbacks().is_none() {
            let taken = take_callbacks(&self.engine, &self.config, Some(reachable(admin))).await;
            taken.map_err(|problems| problems.join("\n"))?;
        }
        Ok(Addresses { admin, bus: self.bus_address() })
    }

    /// The door of the HTTP API, if it has one.
    fn door(&self) -> Result<Option<Guard>, String> {
        let faults =
            |faults: Vec<pavane_gateway::Fault>| crate::config::in_file("the configuration", &faults).join("\n");
        let door = self.config.door().map_err(faults)?;
        Ok(door.map(|door| Guard { door: Arc::new(door), open_metrics: self.config.admin.open_metrics }))
    }

    /// Where participants attach, if any may.
    pub(crate) fn bus_address(&self) -> Option<SocketAddr> {
        self.bus_address.get().copied()
    }

    /// Lets participants attach, as soon as there may be one.
    async fn open_bus(&self, hub: &Hub) -> Result<(), String> {
        if hub.remote().is_empty() || self.bus_address().is_some() {
            return Ok(());
        }
        let (address, token) = (self.config.listen.bus, self.config.bus_token()?);
        if token.is_none() && !address.ip().is_loopback() {
            return Err(format!(
                "listen.bus: {address} can be reached from other machines, and nobody need show a token there: set \
                 `bus.embedded.token`, or listen on 127.0.0.1"
            ));
        }
        let bound = listen(address, "listen.bus", api::bus::router(hub.clone(), self.engine.clone(), token)).await?;
        // One at a time reloads.
        let _ = self.bus_address.set(bound);
        Ok(())
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
        // What waits for its turn is durable and was not sent: nothing is gained by beginning it now.
        self.network.drain();
        let gateway = async {
            if let Some(gateway) = self.gateway() {
                gateway.stop(deadline).await;
            }
        };
        let engines = self.engines();
        let engines = futures_util::future::join_all(engines.iter().map(|engine| engine.shutdown(deadline)));
        tokio::join!(gateway, engines);
        // Last: what ended just now has spans, too.
        if let Some(export) = &self.export {
            export.stop().await;
        }
    }

    /// Resolves when a store has failed, or the hub refuses this participant, with the reason.
    async fn failed(&self) -> String {
        let failure = self.engine.failed();
        let Elsewhere::Participant(link) = &self.elsewhere else { return failure.await };
        let learn = async |digests: Vec<String>| {
            for digest in digests {
                // A message of that program asks again.
                if let Err(error) = self.engine.prepare(&digest).await {
                    tracing::warn!(%error, digest, "a definition was not learned");
                }
            }
        };
        tokio::select! {
            reason = failure => reason,
            refused = link.run(learn) => match refused {
                Err(reason) => reason,
                Ok(()) => "the link to the hub ended".into(),
            },
        }
    }

    /// Serves until a signal asks to stop, or the store fails. A second signal cuts what is still in flight.
    ///
    /// # Errors
    /// Why the engine stopped by itself, or that it was cut.
    pub async fn until_stopped(&self, mut asked: Asked) -> Result<(), String> {
        tokio::select! {
            () = asked.again() => {}
            reason = self.failed() => {
                // Callers that wait are told the same; they get a moment to hear it.
                tokio::time::sleep(TELLING).await;
                return Err(reason);
            }
        }
        tracing::info!("stopping: calls in flight may end");
        tokio::select! {
            () = self.stop() => Ok(()),
            () = asked.again() => Err("stopped by a second signal: calls in flight were cut, and are made again at the next start".into()),
        }
    }
}

/// Listens on an address, which `key` of the configuration gives, and serves there.
async fn listen(address: SocketAddr, key: &str, router: axum::Router) -> Result<SocketAddr, String> {
    let listener = TcpListener::bind(address).await.map_err(|e| {
        format!("{address} cannot be listened on: {e}; set `{key}` to another address, or end the process that uses it")
    })?;
    let bound = listener.local_addr().map_err(|e| e.to_string())?;
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // Without it a small answer waits for the other side's acknowledgement.
        let _ = stream.set_nodelay(true);
    });
    let key = key.to_owned();
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, key, "a listener stopped");
        }
    });
    Ok(bound)
}

/// Lets calls be made that await a callback, once it is known where services reach the HTTP API.
async fn take_callbacks(engine: &Engine, config: &Config, url: Option<String>) -> Result<(), Vec<String>> {
    let Some(url) = url else { return Ok(()) };
    let secret = match config.callback_secret().map_err(|problem| vec![problem])? {
        Some(secret) => secret.into_bytes(),
        None => engine.callback_secret().await.map_err(|error| vec![error.to_string()])?,
    };
    engine.take_callbacks(Callbacks::new(&url, &secret));
    Ok(())
}

/// The history of a participant that is attached, or away.
#[derive(Debug)]
struct Attached {
    hub: Hub,
    service: String,
}

impl Source for Attached {
    fn history(&self, steps_after: u64, tasks_after: u64, limit: usize) -> Reading<Result<Copied, Unread>> {
        let (hub, service) = (self.hub.clone(), self.service.clone());
        Box::pin(async move {
            let page = hub.history(&service, steps_after, tasks_after, limit).await.map_err(Unread::Away)?;
            Ok(Copied { more: page.more, history: page.into() })
        })
    }

    fn late(&self, after: Duration) -> Reading<Result<Late, Unread>> {
        let (hub, service) = (self.hub.clone(), self.service.clone());
        Box::pin(async move {
            let late = hub.late(&service, after).await.map_err(Unread::Away)?;
            let read = late.messages.into_iter().map(serde_json::from_value).collect::<Result<_, _>>();
            let messages =
                read.map_err(|error| Unread::Away(format!("`{service}` told what cannot be read: {error}")))?;
            Ok(Late { messages, all: late.all })
        })
    }

    fn moved(&self) -> Reading<()> {
        let bell = self.hub.bell(&self.service);
        Box::pin(async move {
            match bell {
                Some(bell) => bell.notified().await,
                None => std::future::pending().await,
            }
        })
    }
}

/// SIGINT and SIGTERM, heard from the moment it is made: one that comes while a server is about to say that it serves must not
/// end the process as if nobody had cared.
pub struct Asked {
    interrupt: Signal,
    terminate: Signal,
}

impl Asked {
    /// From now on the signals are heard here, and do nothing else.
    ///
    /// # Errors
    /// The system lets nobody hear them.
    pub fn hear() -> Result<Asked, String> {
        let of = |kind| signal(kind).map_err(|e| format!("SIGINT and SIGTERM cannot be heard: {e}"));
        Ok(Asked { interrupt: of(SignalKind::interrupt())?, terminate: of(SignalKind::terminate())? })
    }

    /// Resolves at the next of them.
    pub async fn again(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
