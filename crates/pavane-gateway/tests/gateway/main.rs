//! The gateway over real sockets: what clients and services see of it.
//!
//! Start reading at `support.rs`. A file for each concern; attacks send raw bytes.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod attacks;
mod authentication;
mod balancing;
mod caching;
mod connections;
mod limits;
mod proxying;
mod support;
mod workflows;
