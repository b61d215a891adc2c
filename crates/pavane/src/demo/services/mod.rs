//! The five services of the demo: real HTTP servers, each on a port of its own, that keep books.
//!
//! Each honours `Idempotency-Key` (the same key gets the same answer, and nothing is done twice), undoes work it is
//! asked to undo even when that work never arrived, and can be told to fail, to be slow, or to lose answers. Where it is
//! asked to, shipping answers by a callback. They know nothing of workflows. Start reading at [`start`].

mod books;
mod callbacks;
mod server;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

pub use books::{Audit, Books, Effect, Fate, audit};
use server::Shared;

/// The services, by the names that endpoints use.
pub const NAMES: [&str; 5] = ["inventory", "payment", "shipping", "notification", "orders"];

/// How the services behave. Who is unlucky follows from the order's id and the seed, so that a run can be repeated.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Payments declined (402), in percent of the orders.
    pub declined: f64,
    /// Payments that answer 503 at their first attempt, in percent.
    pub unavailable: f64,
    /// Shipments that fail (422), in percent.
    pub unshippable: f64,
    /// Answers lost after the work was done, in percent of all calls.
    pub lost: f64,
    /// How long each call takes, in milliseconds.
    pub latency: u64,
    /// Decides who is unlucky.
    pub seed: u64,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour { declined: 5.0, unavailable: 3.0, unshippable: 1.0, lost: 0.0, latency: 0, seed: 1 }
    }
}

/// One service, without its listener.
#[derive(Clone, Debug)]
pub struct Service(Arc<Shared>);

impl Service {
    /// One of [`NAMES`]. With `ledger`, its books are in a file of that folder.
    ///
    /// # Errors
    /// A ledger that cannot be read.
    pub fn open(name: &'static str, behaviour: &Behaviour, ledger: Option<&Path>) -> Result<Service, String> {
        Ok(Service(Arc::new(Shared::open(name, behaviour.clone(), ledger)?)))
    }

    /// Its routes. What it owes since before, it begins to call back for.
    pub fn router(&self) -> axum::Router {
        callbacks::resume(&self.0);
        server::router(self.0.clone())
    }

    /// Its books.
    pub fn books(&self) -> Books {
        self.0.books()
    }
}

/// Running services.
#[derive(Debug)]
pub struct Services {
    /// Where each listens, in the order of [`NAMES`].
    pub addresses: [SocketAddr; 5],
    services: Vec<Service>,
    stop: watch::Sender<bool>,
}

/// Starts the services on the ports given (0: any free one). With `ledger`, each writes its books to a file of that
/// folder and reads them at its start, so that they outlive the process.
///
/// # Errors
/// A port in use, or a ledger that cannot be read.
pub async fn start(ports: [u16; 5], behaviour: &Behaviour, ledger: Option<PathBuf>) -> Result<Services, String> {
    let stop = watch::Sender::new(false);
    let mut addresses = Vec::new();
    let mut services = Vec::new();
    for (name, port) in NAMES.into_iter().zip(ports) {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(|e| format!("{name}: port {port}: {e}"))?;
        addresses.push(listener.local_addr().map_err(|e| e.to_string())?);
        let service = Service::open(name, behaviour, ledger.as_deref())?;
        services.push(service.clone());
        let mut stopped = stop.subscribe();
        let serving = axum::serve(
            axum::serve::ListenerExt::tap_io(listener, |stream| {
                let _ = stream.set_nodelay(true);
            }),
            service.router(),
        )
        .with_graceful_shutdown(async move {
            // The sender gone means the same as its word.
            let _ = stopped.wait_for(|stop| *stop).await;
        });
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(service = name, %error, "a demo service stopped");
            }
        });
    }
    let addresses = addresses.try_into().map_err(|_| "five services have five addresses")?;
    Ok(Services { addresses, services, stop })
}

impl Services {
    /// The books of all services, in the order of [`NAMES`].
    pub fn books(&self) -> Vec<Books> {
        self.services.iter().map(Service::books).collect()
    }

    /// Stops them.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}
