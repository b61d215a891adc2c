//! The API gateway: from a request to the service or the workflow that answers it.
//!
//! It knows no workflow rule, no store and no engine: what it needs of them is the port [`Workflows`], and the binary
//! supplies it. Start reading at [`Gateway`]; what happens to a request, and in which order, is one array in
//! `filter/mod.rs`; where it goes then is `proxy.rs` (a service) or `workflow.rs`.

mod access;
mod auth;
mod body;
mod cache;
mod connection;
mod exchange;
mod filter;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gateway;
mod headers;
mod joined;
mod openapi;
mod path;
mod port;
mod problem;
mod proxy;
mod rate;
mod replay;
pub mod settings;
mod shed;
mod stall;
mod state;
mod stats;
mod table;
mod tls;
mod tunnel;
mod units;
mod upstream;
mod watched;
mod workflow;

pub use auth::door::Door;
pub use auth::secret::{hash_password, new_key};
pub use body::{Body, BoxError, empty, full};
pub use gateway::Gateway;
pub use port::{Answer, Entering, Gate, Outcome, Start, Turn, Turned, WorkflowName, Workflows};
pub use problem::Problem;
pub use rate::{Per, Rate};
pub use state::Setup;
pub use stats::{RouteNumbers, Snapshot, UpstreamNumbers};
pub use units::{Fault, Located};
