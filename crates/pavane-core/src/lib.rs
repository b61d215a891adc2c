//! The pure, deterministic workflow machine of Pavane.
//!
//! Everything a workflow *means* lives here: reading and checking a definition ([`definition`]), evaluating its
//! expressions under a budget ([`expression`]), compiling it to a located flow graph ([`program`]) and running that
//! graph one input at a time ([`engine`]). What may be sent to a service now is in [`policy`]; what
//! all crates' settings are written in is in [`units`]. Start reading at
//! [`engine::decide`].
//!
//! This crate must never read a clock, draw a random number, touch a file or a socket, or log: time and ids come in
//! with each input, so the same inputs always give the same events, and recovery is replay.

pub mod definition;
pub mod engine;
pub mod event;
pub mod expression;
pub mod id;
pub mod policy;
pub mod problem;
pub mod program;
pub mod record;
pub mod time;
pub mod units;
pub mod value;

pub use problem::Problem;
pub use time::Timestamp;
pub use value::Value;
