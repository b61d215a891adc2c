//! What operators see of a server in tools they have: metrics in a real Prometheus, logs in the Elastic Common Schema,
//! traces at a collector of OpenTelemetry.
//!
//! Prometheus is Debian's; `cargo xtask test` installs it. Start reading at [`metrics`].

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support;

#[path = "monitoring/logs.rs"]
mod logs;
#[path = "monitoring/metrics.rs"]
mod metrics;
#[path = "monitoring/traces.rs"]
mod traces;
