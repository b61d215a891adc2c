//! The port to what is behind the gateway: what it needs of an engine, supplied by the binary.
//!
//! The gateway knows no workflow rule and no engine: it starts, waits, asks and follows. Services that workflows call, too,
//! have one [`Gate`] for both.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pavane_core::policy::Verdict;

use crate::body::Body;
use crate::problem::Problem;

/// What the port answers with, in time.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Problem>> + Send + 'a>>;

/// Workflows, as the gateway needs them.
pub trait Workflows: Send + Sync + 'static {
    /// Starts an instance, durably, and waits for its end. The same key attaches to the same instance. An input that
    /// does not fit is refused with every reason before anything is durable.
    fn start(&self, start: Start) -> Answer<'_, Outcome>;

    /// How an instance of a workflow stands; with `wait`, at its end or after so long. An instance of another workflow
    /// is unknown.
    fn status(&self, workflow: &WorkflowName, id: &str, wait: Option<Duration>) -> Answer<'_, Outcome>;

    /// The lifecycle of an instance of a workflow as server-sent events, after the id of one that was seen.
    fn events(&self, workflow: &WorkflowName, id: &str, after: Option<String>) -> Answer<'_, Body>;

    /// The JSON Schema of a workflow's input, if it has one.
    ///
    /// # Errors
    /// Why the workflow cannot be started as it is named.
    fn input_schema(&self, workflow: &WorkflowName) -> Result<Option<serde_json::Value>, String>;

    /// The gate before a service, if it has one.
    fn gate(&self, _service: &str) -> Option<Arc<dyn Gate>> {
        None
    }
}

/// What a gate says to a request, in time.
pub type Entering<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Turn>, Turned>> + Send + 'a>>;

/// What stands before a service, for workflows and for forwarded requests alike.
pub trait Gate: Send + Sync {
    /// Waits for the turn of a request, for so long at most. Requests of one flow do not hold up others; a retry repeats
    /// a request that failed.
    fn enter<'a>(&'a self, flow: &'a str, retry: bool, wait: Duration) -> Entering<'a>;
}

/// The turn of one request: it keeps its place at the service until it is dropped.
pub trait Turn: Send + Sync {
    /// What the request told of the service; the first time counts.
    fn judge(&mut self, verdict: Verdict);
}

/// Why a request may not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// The service fails and is left alone, for so much longer.
    Open(Duration),
    /// The service had no room for it in time.
    Busy,
    /// The process stops.
    Stopping,
}

/// A workflow as routes name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkflowName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Version; the highest deployed if absent.
    pub version: Option<String>,
    /// Mode; that of its document if absent.
    pub mode: Option<String>,
}

impl WorkflowName {
    pub(crate) fn parse(text: &str, version: Option<String>, mode: Option<String>) -> Result<WorkflowName, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(WorkflowName { namespace: namespace.to_owned(), name: name.to_owned(), version, mode })
            }
            _ => Err(format!("`{text}` is no workflow: write namespace/name, such as shop/order-fulfilment")),
        }
    }
}

/// A start.
#[derive(Clone, Debug)]
pub struct Start {
    /// What.
    pub workflow: WorkflowName,
    /// JSON.
    pub input: Bytes,
    /// The same key attaches to the same instance.
    pub key: Option<String>,
    /// How long to wait for the end; none: not at all.
    pub wait: Option<Duration>,
    /// The trace that it belongs to, as W3C Trace Context has it: `traceparent`.
    pub traceparent: Option<String>,
    /// And `tracestate`.
    pub tracestate: Option<String>,
    /// A URL that is to be told of the end.
    pub notify: Option<String>,
}

/// How an instance stands.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It has completed.
    Completed {
        /// Its id.
        id: String,
        /// Its output, JSON.
        output: Bytes,
    },
    /// It has not ended.
    Running {
        /// Its id.
        id: String,
        /// Its status, a word.
        status: String,
    },
    /// It has failed, or was cancelled: what the caller is told.
    Failed {
        /// Its id.
        id: String,
        /// Its status, a word.
        status: String,
        /// Its error.
        problem: Problem,
    },
}
