//! The nodes of a program: one task each, with the same wrapper around whatever it does.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::definition::{Backoff, CallOutput, Callback, Read};
use crate::expression::{Expression, Schema, Template};
use crate::time::Duration;
use crate::value::Value;

/// Index of a node in its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u32);

/// Where a part of an instance is. Orchestration has one location, the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Location {
    /// The engine: the home of every instance, where it starts and ends.
    #[default]
    Engine,
    /// The participant of a service.
    Service(Arc<str>),
}

/// The word for [`Location::Engine`]; no service can have this name.
pub const ENGINE: &str = "engine";

impl Location {
    /// Whether it is the engine.
    pub fn is_engine(&self) -> bool {
        *self == Location::Engine
    }

    /// The name: that of the service, or `engine`.
    pub fn name(&self) -> &str {
        match self {
            Location::Engine => ENGINE,
            Location::Service(name) => name,
        }
    }
}

impl From<String> for Location {
    fn from(name: String) -> Location {
        if name == ENGINE { Location::Engine } else { Location::Service(name.into()) }
    }
}

impl From<Location> for String {
    fn from(location: Location) -> String {
        location.name().to_owned()
    }
}

/// One task.
#[derive(Debug)]
pub struct Node {
    /// Its name in its list.
    pub name: Arc<str>,
    /// JSON pointer in the document.
    pub reference: Arc<str>,
    /// The word for its kind in records: `call`, `set`, ….
    pub kind: &'static str,
    /// The task as data.
    pub source: Value,
    /// Where it runs; absent for a node that has no effect: it runs wherever the token is.
    pub location: Option<Location>,
    pub(crate) condition: Option<Expression>,
    pub(crate) input: FilterCode,
    pub(crate) output: FilterCode,
    pub(crate) export: FilterCode,
    pub(crate) timeout: Option<DurationCode>,
    pub(crate) flow: Flow,
    pub(crate) next: Option<NodeId>,
    pub(crate) undo: Option<Undo>,
    pub(crate) keep_effects: bool,
    /// The service answers the call of this node by a callback.
    pub(crate) callback: Option<Callback>,
    pub(crate) act: Act,
}

/// `input`, `output`, `export`, compiled.
#[derive(Debug, Default)]
pub(crate) struct FilterCode {
    pub schema: Option<Schema>,
    pub transform: Option<Template>,
}

/// A duration, compiled.
#[derive(Debug)]
pub(crate) enum DurationCode {
    Fixed(Duration),
    Expression(Expression),
}

/// What follows a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// `next`, or the end of the list.
    Continue,
    /// The end of the list.
    Exit,
    /// The end of the workflow.
    End,
    /// A node of the same list.
    Goto(NodeId),
}

/// How a node's effect is undone.
#[derive(Debug)]
pub(crate) struct Undo {
    pub function: NodeId,
    pub retry: Option<RetryCode>,
    pub continue_on_failure: bool,
}

/// What a node does.
#[derive(Debug)]
pub(crate) enum Act {
    Do { first: Option<NodeId> },
    Set(Template),
    Switch(Vec<(Option<Expression>, Flow)>),
    For(Box<ForCode>),
    Fork { compete: bool, branches: Vec<NodeId> },
    Try(Box<TryCode>),
    Raise(Box<RaiseCode>),
    Wait(DurationCode),
    Http(Box<HttpCode>),
    OpenApi(Box<OpenApiCode>),
    Function { body: NodeId, with: Template },
    Emit(Template),
    Listen(Box<ListenCode>),
    Run(Box<RunCode>),
}

#[derive(Debug)]
pub(crate) struct ForCode {
    pub each: Arc<str>,
    pub at: Arc<str>,
    pub collection: Template,
    pub condition: Option<Expression>,
    pub first: Option<NodeId>,
}

#[derive(Debug)]
pub(crate) struct TryCode {
    pub first: Option<NodeId>,
    pub errors: Vec<(String, Value)>,
    pub variable: Arc<str>,
    pub when: Option<Expression>,
    pub except_when: Option<Expression>,
    pub retry: Option<RetryCode>,
    /// `catch.do`; `Some(None)` for an empty list.
    pub handler: Option<Option<NodeId>>,
    pub flow: Option<Flow>,
}

#[derive(Debug, Default)]
pub(crate) struct RetryCode {
    pub when: Option<Expression>,
    pub except_when: Option<Expression>,
    pub delay: Option<DurationCode>,
    pub backoff: Backoff,
    pub max_retries: Option<u32>,
    pub attempt_timeout: Option<DurationCode>,
    pub max_duration: Option<DurationCode>,
    pub jitter: Option<(Duration, Duration)>,
}

#[derive(Debug)]
pub(crate) struct RaiseCode {
    pub type_: Template,
    pub status: Template,
    pub title: Option<Template>,
    pub detail: Option<Template>,
    pub instance: Option<Template>,
}

/// A URI: an expression, or text with `{name}` in it.
#[derive(Debug)]
pub(crate) enum UriCode {
    Text(String),
    Expression(Expression),
}

#[derive(Debug)]
pub(crate) enum AuthenticationCode {
    Basic { username: Template, password: Template },
    Bearer { token: Template },
    Secret { scheme: &'static str, secret: String },
}

#[derive(Debug)]
pub(crate) struct HttpCode {
    pub method: String,
    pub uri: UriCode,
    pub authentication: Option<AuthenticationCode>,
    pub headers: Option<Template>,
    pub query: Option<Template>,
    pub body: Option<Template>,
    pub output: CallOutput,
    pub redirect: bool,
}

#[derive(Debug)]
pub(crate) struct OpenApiCode {
    pub document: UriCode,
    pub document_authentication: Option<AuthenticationCode>,
    pub operation: String,
    pub parameters: Option<Template>,
    pub authentication: Option<AuthenticationCode>,
    pub output: CallOutput,
    pub redirect: bool,
}

#[derive(Debug)]
pub(crate) struct ListenCode {
    pub to: ConsumptionCode,
    pub read: Read,
    pub foreach: Option<ForeachCode>,
}

#[derive(Debug)]
pub(crate) struct ConsumptionCode {
    pub kind: ConsumptionKind,
    pub filters: Vec<EventFilterCode>,
}

#[derive(Debug)]
pub(crate) enum ConsumptionKind {
    One,
    All,
    Any(Option<UntilCode>),
}

#[derive(Debug)]
pub(crate) enum UntilCode {
    Condition(Expression),
    Events(Box<ConsumptionCode>),
}

#[derive(Debug)]
pub(crate) struct EventFilterCode {
    pub with: Vec<(String, AttributeCode)>,
    pub correlate: Vec<CorrelationCode>,
}

/// What one attribute of an event must satisfy.
#[derive(Debug)]
pub(crate) enum AttributeCode {
    /// Equal, or a match of the pattern from end to end.
    Text { exact: String, pattern: Option<regex_lite::Regex> },
    /// True, or equal to the attribute. `.` is the attribute.
    Expression(Expression),
    /// An object: every property given is there and fits. Anything else: equal.
    Value(Template),
}

#[derive(Debug)]
pub(crate) struct CorrelationCode {
    pub key: String,
    pub from: Expression,
    pub expect: Option<Template>,
}

#[derive(Debug)]
pub(crate) struct ForeachCode {
    pub item: Arc<str>,
    pub at: Arc<str>,
    pub first: Option<NodeId>,
    pub output: FilterCode,
    pub export: FilterCode,
}

#[derive(Debug)]
pub(crate) struct RunCode {
    pub namespace: String,
    pub name: String,
    pub version: String,
    pub input: Option<Template>,
    pub wait: bool,
}

impl Node {
    /// Whether the task has a compensation.
    pub fn is_compensable(&self) -> bool {
        self.undo.is_some()
    }
}
