//! The parts of the `pavane` binary: command line, HTTP API, configuration, demo, measurements.
//!
//! Start reading at [`cli`]; [`server`] wires a process together. Nothing here knows a workflow rule.

pub mod api;
pub mod cli;
pub mod client;
mod compare;
pub mod demo;
mod gateway;
mod ground;
pub mod log;
pub mod measure;
pub mod participant;
pub mod server;
pub mod stores;
mod traces;

pub use pavane_config as config;
