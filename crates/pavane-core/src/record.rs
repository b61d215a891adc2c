//! The read model: the rows people and tools query, in the words of the standard.

use serde::{Deserialize, Serialize};

use crate::definition::Mode;
use crate::problem::Problem;
use crate::time::Timestamp;
use crate::value::Value;

/// Status of an instance or a task, in the DSL's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Created, nothing done yet.
    #[default]
    Pending,
    /// Working, or waiting for a service's answer.
    Running,
    /// Waiting for time, an event or a retry.
    Waiting,
    /// Stopped by an operator until resumed.
    Suspended,
    /// Ended by an operator, or by a fence.
    Cancelled,
    /// Ended by an error.
    Faulted,
    /// Ended well.
    Completed,
}

impl Status {
    /// Every status, in the order of a life.
    pub const ALL: [Status; 7] = [
        Status::Pending,
        Status::Running,
        Status::Waiting,
        Status::Suspended,
        Status::Cancelled,
        Status::Faulted,
        Status::Completed,
    ];

    /// The word used in records, the API and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Running => "running",
            Status::Waiting => "waiting",
            Status::Suspended => "suspended",
            Status::Cancelled => "cancelled",
            Status::Faulted => "faulted",
            Status::Completed => "completed",
        }
    }

    /// The status a word names.
    pub fn parse(word: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|s| s.as_str() == word)
    }

    /// Whether nothing follows.
    pub fn is_terminal(self) -> bool {
        matches!(self, Status::Cancelled | Status::Faulted | Status::Completed)
    }
}

/// Where the rollback of an instance stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompensationStatus {
    /// Nothing was to be undone.
    #[default]
    None,
    /// Being undone.
    Running,
    /// Everything that was to be undone is undone.
    Completed,
    /// Something could not be undone; it is named.
    Unresolved,
}

/// What was undone and what could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compensation {
    /// Where it stands.
    pub status: CompensationStatus,
    /// References of the tasks undone, in the order they were.
    #[serde(default)]
    pub compensated: Vec<String>,
    /// Tasks whose effect may stand, each with the reason.
    #[serde(default)]
    pub unresolved: Vec<Unresolved>,
}

/// An effect that could not be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unresolved {
    /// Reference of the forward task.
    pub reference: String,
    /// Its idempotency key: what to ask the service about.
    pub key: String,
    /// Why it could not be undone.
    pub reason: String,
}

/// One run of a workflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkflowInstance {
    /// UUID.
    pub id: String,
    /// Namespace of the workflow.
    pub namespace: String,
    /// Name of the workflow.
    pub name: String,
    /// Version of the workflow.
    pub version: String,
    /// Digest of the program it is pinned to.
    pub digest: String,
    /// Mode it runs in.
    pub mode: Mode,
    /// Status.
    pub status: Status,
    /// Shared by an instance and its sub-workflows: the id of the outermost.
    pub correlation_id: String,
    /// Raw input.
    pub input: Value,
    /// Output, when completed.
    pub output: Option<Value>,
    /// Error, when faulted.
    pub error: Option<Problem>,
    /// Rollback.
    pub compensation: Compensation,
    /// When it started.
    pub start_time: Timestamp,
    /// When it ended.
    pub end_time: Option<Timestamp>,
    /// The instance that runs this one as a sub-workflow.
    pub parent_id: Option<String>,
    /// The task reference in the parent that runs this one.
    pub parent_task: Option<String>,
}

/// One run of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceTask {
    /// `{instance id}:{run number}`.
    pub id: String,
    /// The instance.
    pub workflow_instance_id: String,
    /// JSON pointer of the task in the definition.
    pub reference: String,
    /// The task's name.
    pub name: String,
    /// The service called, for a call.
    pub service_name: Option<String>,
    /// Kind of task: `call`, `set`, `switch`, ….
    pub kind: String,
    /// Status.
    pub status: Status,
    /// 1 for the first run of a task, higher when it was retried or repeated.
    pub attempt: u32,
    /// Transformed input.
    pub input_data: Value,
    /// Transformed output.
    pub output_data: Option<Value>,
    /// Error, when faulted.
    pub error: Option<Problem>,
    /// When it started.
    pub start_time: Timestamp,
    /// When it ended.
    pub end_time: Option<Timestamp>,
    /// `id` of the task run that this one undoes.
    pub compensates: Option<String>,
    /// Number of the task run around it, where that is known when it ends. No store keeps it, and no API shows it.
    #[serde(skip)]
    pub within: Option<u32>,
}

/// One transition of an instance: what the `event` table holds, one row for each durable step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// The instance.
    pub workflow_instance_id: String,
    /// Position in the instance's history, from 1 without gaps.
    pub seq: u64,
    /// When the step was taken.
    pub timestamp: Timestamp,
    /// What caused it: `started`, `call.completed`, `timer.fired`, ….
    pub event_type: String,
    /// Task reference the cause belongs to, or empty.
    pub subject: String,
    /// `service_task.id` of that task, when it is one task's.
    pub service_task_id: Option<String>,
    /// Correlation id of the instance.
    pub correlation_id: String,
    /// Id of the CloudEvent or key of the call that caused the step.
    pub causation_id: Option<String>,
    /// The engine's events of this step as a JSON array. Opaque to the store.
    pub payload: String,
}
