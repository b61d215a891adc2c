//! The port to workflows: what the gateway needs of an engine, supplied by the binary.
//!
//! The gateway knows no workflow rule and no engine: it starts, waits, asks and follows.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

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
