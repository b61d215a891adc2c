//! Performing what the machine asks for. One file per protocol.

mod http;
mod network;
mod openapi;
mod secrets;

use std::future::Future;
use std::pin::Pin;

pub use http::Network;
pub use network::{NetworkOptions, tls};
use pavane_core::Value;
use pavane_core::engine::{Call, Outcome};

/// A future of an effect.
pub type Performing<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a call belongs to.
#[derive(Clone, Debug)]
pub struct Context {
    /// Instance id, for `Pavane-Instance` and `traceparent`.
    pub instance: String,
}

/// The outside world, as the driver sees it.
pub trait Effects: Send + Sync + std::fmt::Debug {
    /// Makes a call and maps whatever happens to an outcome. Never fails otherwise. Ends by the call's deadline.
    fn call(&self, context: Context, call: Call) -> Performing<Outcome>;

    /// Fetches a JSON or YAML document (schemas, at deploy time).
    fn fetch(&self, uri: String) -> Performing<Result<Value, String>>;
}
