//! Performing what the machine asks for. One file per protocol.

mod gate;
mod http;
mod network;
mod openapi;
mod secrets;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use http::{Network, Traffic};
pub use network::{NetworkOptions, tls};
use pavane_core::Value;
use pavane_core::engine::{Call, Held, Outcome};
use tokio::sync::Notify;

/// A future of an effect.
pub type Performing<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a call belongs to.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Instance id, for `Pavane-Instance` and `traceparent`.
    pub instance: String,
    /// Notified when nobody wants the call made any more: one that has not been sent is not sent.
    pub withdrawn: Arc<Notify>,
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
    /// when it was not sent because the process stops: the next one makes it.
    fn call(&self, context: Context, call: Call) -> Performing<Option<Performed>>;

    /// Fetches a JSON or YAML document (schemas, at deploy time).
    fn fetch(&self, uri: String) -> Performing<Result<Value, String>>;
}
