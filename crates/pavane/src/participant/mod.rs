//! The participant of a service in a process of its own: it attaches to the hub of the process that hosts the embedded bus.
//!
//! Its engine and its store are those of any participant. [`Link`] is what it has instead of the bus and the home
//! beside it: messages, definitions and what it did go over HTTP. Without the hub its calls go on, and what they lead
//! to waits in its store.

mod caller;
mod link;

pub use caller::{Caller, Standing};
pub use link::Link;
