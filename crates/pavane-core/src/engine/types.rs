//! What goes into the machine and what comes out.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::lost::{Remains, Replaced};
use super::message::Message;
use crate::definition::CallOutput;
use crate::event::CloudEvent;
use crate::problem::Problem;
use crate::program::Location;
use crate::time::Timestamp;
use crate::value::Value;

/// Something that happened to one instance, and when. `at` is the machine's only clock.
#[derive(Clone, Debug)]
pub struct Input {
    /// The recorded time of the step.
    pub at: Timestamp,
    /// What happened.
    pub command: Command,
}

/// What can happen to an instance.
#[derive(Clone, Debug)]
pub enum Command {
    /// A client, a parent or an operator starts it.
    Start(Start),
    /// A call ended.
    Outcome {
        /// The call, as [`Effect::Call`] named it.
        call: CallId,
        /// How it ended.
        outcome: Outcome,
        /// What it waited for before it was sent, if that is worth a word in the record.
        held: Option<Held>,
    },
    /// The service of a call that awaits a callback completes or fails it. A repeat of the call under the same key asks for
    /// the same work, so that an answer to the one is an answer to the other.
    Callback {
        /// The idempotency key of the call.
        key: String,
        /// How it ended: never [`Outcome::Accepted`].
        outcome: Outcome,
    },
    /// The service of such a call is still at work.
    Heartbeat {
        /// The idempotency key of the call.
        key: String,
    },
    /// A callback came that was [`Rejected::Late`]: it is put on record, once for each call.
    LateCallback {
        /// The idempotency key of the call.
        key: String,
    },
    /// A sub-workflow ended.
    Child {
        /// The call, as [`Effect::StartChild`] named it.
        call: CallId,
        /// Its output, or its error.
        result: Result<Value, Problem>,
    },
    /// An event reached a subscription of the instance.
    Event(CloudEvent),
    /// A message from another location of the instance.
    Message(Box<Message>),
    /// Time passed: [`State::wake_at`] is due.
    Tick,
    /// An operator cancels.
    Cancel {
        /// For the record.
        reason: String,
    },
    /// An operator suspends.
    Suspend,
    /// An operator resumes.
    Resume,
    /// An operator retries what is unresolved, or now what waits for a retry.
    Retry,
    /// For the home: a participant's store was lost with a part of it, and it is not to go on.
    Abandon(Box<Remains>),
    /// For a participant with a new store: what it must know of an instance that was abandoned.
    Replace(Box<Replaced>),
    /// For a participant with a new store: its part was brought back as it was last seen, and may have had answers since.
    LoseAnswers,
}

/// The start of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Instance id: a UUID.
    pub id: String,
    /// Raw input.
    pub input: Value,
    /// Id of the outermost instance of a chain of sub-workflows; its own id when it is that.
    pub correlation_id: String,
    /// The instance and task that run it as a sub-workflow.
    pub parent: Option<Parent>,
    /// The trace that it belongs to, if whoever started it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
    /// An `http` or `https` URL that is told of its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<String>,
}

/// A trace in the form of W3C Trace Context. It goes wherever the instance does; the machine does not read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    /// `traceparent`.
    pub parent: String,
    /// `tracestate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// Where a sub-workflow's result goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Parent instance.
    pub instance: String,
    /// The waiting call in it.
    pub call: CallId,
    /// Its task reference.
    pub reference: String,
}

/// A call that an instance waits for: the number of the task run that made it. Unique in the instance for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallId(pub u32);

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The raw output.
    Success(Value),
    /// An error; `instance` of the problem is set by the machine.
    Failure {
        /// The error.
        problem: Problem,
        /// What is known about the effect.
        certainty: Certainty,
    },
    /// It has not ended: the service took it, and a callback will tell. Only where [`Call::callback`] says so.
    Accepted,
}

/// What a call waited for at the gate of its service before it was sent, in milliseconds by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Held {
    /// The service.
    pub service: String,
    /// For the breaker: it was open, or trial calls were on their way.
    #[serde(skip_serializing_if = "is_zero")]
    pub breaker: u64,
    /// For the rate limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub rate: u64,
    /// For a place among the calls in flight.
    #[serde(skip_serializing_if = "is_zero")]
    pub in_flight: u64,
    /// For the retry budget.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u64,
}

fn is_zero(millis: &u64) -> bool {
    *millis == 0
}

/// What a failed call tells about its effect on the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Certainty {
    /// The service answered: it did nothing, and a repeat is a new attempt with a new key.
    Definite,
    /// The request never left: nothing happened, and a repeat may keep its key.
    NotSent,
    /// No answer, 502 or 504: it may have happened; only a repeat with the same key can tell.
    Indeterminate,
}

/// What the world still owes an instance. Performed only after the events that led to it are durable.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Call a service.
    Call(Call),
    /// Start a sub-workflow (if it does not exist yet) and report its end.
    StartChild {
        /// Answer with this.
        call: CallId,
        /// The sub-workflow.
        child: Child,
    },
}

impl Effect {
    /// The run of the task that waits for this.
    pub fn call_id(&self) -> CallId {
        match self {
            Effect::Call(call) => call.id,
            Effect::StartChild { call, .. } => *call,
        }
    }
}

/// A service call to make.
#[derive(Clone, Debug)]
pub struct Call {
    /// Answer with this.
    pub id: CallId,
    /// Task reference, for the `Pavane-Task` header.
    pub reference: Arc<str>,
    /// `Idempotency-Key`.
    pub key: String,
    /// `Pavane-Attempt`: from 1.
    pub attempt: u32,
    /// `Pavane-Compensates`: the key of the call that this one undoes.
    pub compensates: Option<String>,
    /// What to send.
    pub request: Arc<Request>,
    /// The call must have ended by then.
    pub deadline: Option<Timestamp>,
    /// Whether the service may take it with 202 and answer by a callback.
    pub callback: bool,
}

/// A request, fully evaluated. Secrets in it are sealed (see [`crate::engine::secret`]) until it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// `call: http`
    Http(HttpRequest),
    /// `call: openapi`: resolved against its document when it is sent.
    OpenApi(OpenApiRequest),
}

/// An HTTP request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRequest {
    /// Upper case.
    pub method: String,
    /// Absolute, with the query of the endpoint but not yet that of `query`.
    pub uri: String,
    /// In order; names as written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// In order; not yet encoded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<(String, String)>,
    /// Sent as JSON, or as text when it is a string and `content-type` is not JSON.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::value::present")]
    pub body: Option<Value>,
    /// Form of the output.
    #[serde(default)]
    pub output: CallOutput,
    /// Follow redirects and accept a final 3xx.
    #[serde(default)]
    pub redirect: bool,
    /// Credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Credentials>,
}

/// An OpenAPI operation to call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenApiRequest {
    /// URI of the document.
    pub document: String,
    /// Credentials for the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document_authentication: Option<Credentials>,
    /// `operationId`
    pub operation: String,
    /// By name; an object.
    pub parameters: Value,
    /// Form of the output.
    #[serde(default)]
    pub output: CallOutput,
    /// As for HTTP.
    #[serde(default)]
    pub redirect: bool,
    /// Credentials of the operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Credentials>,
}

/// Evaluated credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Credentials {
    /// RFC 7617.
    Basic {
        /// User.
        username: String,
        /// Password.
        password: String,
    },
    /// RFC 6750.
    Bearer {
        /// Token.
        token: String,
    },
}

/// A sub-workflow to start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Child {
    /// Its instance id, derived: a repeat finds the same instance.
    pub id: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Version or `latest`.
    pub version: String,
    /// Raw input.
    pub input: Value,
    /// Task reference in the parent.
    pub reference: String,
    /// Whether the parent waits. When false, the start alone is reported (as a result of `null`).
    pub wait: bool,
}

/// Bytes of a message, at most, when nobody says otherwise: what the usual brokers take without being told to.
pub const MAX_TOKEN: usize = 1 << 20;

/// How long a callback is awaited, in milliseconds, when neither its task nor the configuration says: longer than a person
/// takes to look at something, and short enough that work which nobody does is known within the hour.
pub const CALLBACK_TIMEOUT: i64 = 3_600_000;

/// What the machine may know about where it runs. The same on every machine that replays nothing: read by `decide` only.
#[derive(Clone, Debug)]
pub struct Host {
    /// The location whose part of an instance it decides.
    pub here: Location,
    /// Secrets granted to workflows, by name.
    pub secrets: BTreeMap<String, Value>,
    /// `$runtime`.
    pub runtime: Value,
    /// Bytes of a message that takes work on, at most: see [`MAX_TOKEN`]. What undoes, stops or ends work has no limit.
    pub max_token: usize,
    /// Milliseconds for which a callback is awaited by a task without a timeout: see [`CALLBACK_TIMEOUT`].
    pub callback_timeout: i64,
}

impl Default for Host {
    fn default() -> Host {
        Host {
            here: Location::default(),
            secrets: BTreeMap::new(),
            runtime: Value::default(),
            max_token: MAX_TOKEN,
            callback_timeout: CALLBACK_TIMEOUT,
        }
    }
}

/// Which events an instance wants to see.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Subscription {
    /// Events of exactly this type.
    Type(String),
    /// Every event.
    All,
}

/// An input that the instance cannot take. The state is unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// The instance waits for no such call or child (any more), or the event matches nothing: drop it.
    Stale,
    /// Raw input or its transformation is wrong: no instance exists.
    Invalid(Problem),
    /// The command does not fit the instance's status; says which and what would.
    Conflict(String),
    /// The call that a callback or heartbeat is for has its answer.
    Answered,
    /// Nobody waits for this callback or heartbeat: the time of its task was over, or the task was given up.
    Late,
}
