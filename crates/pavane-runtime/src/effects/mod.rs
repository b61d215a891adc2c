//! Performing what the machine asks for. One file per protocol.

mod direct;
mod egress;
mod gate;
mod headers;
mod http;
mod network;
mod openapi;
mod secrets;
mod watched;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

pub use egress::EgressSettings;
pub use gate::{Gate, Refused, Turn};
pub use http::{Network, Traffic};
pub use network::{Client, NetworkOptions, tls};
use pavane_core::Value;
use pavane_core::engine::{Call, Held, Outcome, TraceContext};
use tokio::sync::Notify;

/// A future of an effect.
pub type Performing<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a call belongs to.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Instance id, for `Pavane-Instance` and `traceparent`.
    pub instance: String,
    /// To be asked before the call is sent.
    pub release: Arc<Release>,
    /// The trace of the instance, if it was started in one.
    pub trace: Option<TraceContext>,
    /// `Pavane-Callback`: where its service may answer it later.
    pub callback: Option<String>,
    /// The request's body as JSON, if it was written already.
    pub body: Option<Arc<str>>,
}

/// Decides between sending a call and taking it back: one of both happens, never both. Who takes a call back that has
/// not been sent knows that nothing happened.
#[derive(Debug, Default)]
pub struct Release {
    /// Whether it was sent, once that is decided.
    sent: OnceLock<bool>,
    withdrawn: Notify,
}

impl Release {
    /// Whether the call may be sent; from then on it cannot be taken back.
    pub fn send(&self) -> bool {
        *self.sent.get_or_init(|| true)
    }

    /// Takes the call back; false when it was sent before.
    pub fn withdraw(&self) -> bool {
        let sent = *self.sent.get_or_init(|| false);
        self.withdrawn.notify_one();
        !sent
    }

    /// Resolves when it is taken back, for one who waits.
    pub async fn withdrawn(&self) {
        self.withdrawn.notified().await;
    }
}

/// What came of a call.
#[derive(Clone, Debug)]
pub struct Performed {
    /// How it ended.
    pub outcome: Outcome,
    /// What it waited for before it was sent, when that was long enough to tell.
    pub held: Option<Held>,
}

impl From<Outcome> for Performed {
    fn from(outcome: Outcome) -> Performed {
        Performed { outcome, held: None }
    }
}

/// The outside world, as the driver sees it.
pub trait Effects: Send + Sync + std::fmt::Debug {
    /// Makes a call and maps whatever happens to an outcome. Never fails otherwise. Ends by the call's deadline. Nothing
    /// when it was not sent because the process stops: the next one makes it. It is sent only if its
    /// [`Release`] allows it.
    fn call(&self, context: Context, call: Call) -> Performing<Option<Performed>>;

    /// Fetches a JSON or YAML document (schemas, at deploy time).
    fn fetch(&self, uri: String) -> Performing<Result<Value, String>>;
}
