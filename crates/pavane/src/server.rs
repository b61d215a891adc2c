//! Wiring a process together: store, effects, engine, listeners; and taking it apart again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pavane_core::Value;
use pavane_core::engine::Host;
use pavane_runtime::effects::{Network, NetworkOptions};
use pavane_runtime::{Engine, Options};
use pavane_store::{Memory, Sqlite, Store};
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
    config: Arc<Config>,
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
        let (store, sqlite): (Arc<dyn Store>, _) = match storage {
            Storage::Memory => (Arc::new(Memory::new()), None),
            Storage::Configured => {
                let sqlite = &config.store.sqlite;
                let (path, wait) = (sqlite.path.clone(), sqlite.wait.unwrap_or(LOCK_WAIT));
                let opened = tokio::task::spawn_blocking(move || Sqlite::open(path, wait)).await;
                let opened = opened.map_err(|e| vec![e.to_string()])?.map_err(|e| vec![e.to_string()])?;
                let opened = Arc::new(opened);
                (opened.clone(), Some(opened))
            }
        };
        let limits = Options::default();
        let options = Options {
            host: Host { secrets, runtime: runtime(), ..Host::default() },
            max_active: config.limits.active_instances.unwrap_or(limits.max_active),
            max_queued: config.limits.queued_inputs.unwrap_or(limits.max_queued),
            partitions: limits.partitions,
        };
        let engine = Engine::open(options, store, Arc::new(network.clone())).await.map_err(|e| vec![e.to_string()])?;
        let running = Running { engine, network, sqlite, config: Arc::new(config) };
        let mut problems = Vec::new();
        for file in files {
            problems.extend(running.deploy(&file, false).await.err());
        }
        if problems.is_empty() { Ok(running) } else { Err(problems) }
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

    /// Stops in good order.
    pub async fn stop(&self) {
        self.engine.shutdown(self.config.shutdown.unwrap_or(SHUTDOWN)).await;
    }

    /// Serves until a signal asks to stop, or the store fails. A second signal cuts what is still in flight.
    ///
    /// # Errors
    /// Why the engine stopped by itself, or that it was cut.
    pub async fn until_stopped(&self) -> Result<(), String> {
        tokio::select! {
            () = signalled() => {}
            reason = self.engine.failed() => {
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

/// `$runtime`.
fn runtime() -> Value {
    Value::object([
        ("name", Value::text("pavane")),
        ("version", Value::text(env!("CARGO_PKG_VERSION"))),
        ("metadata", Value::empty_object()),
    ])
}

/// SIGINT or SIGTERM.
async fn signalled() {
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
