//! The typed model of a document. Named references (`use.retries`, `use.errors`, `use.timeouts`,
//! `use.authentications`) are already resolved; expressions are still text, compiled by [`crate::program`].

use std::collections::BTreeMap;

use super::Position;
use crate::time::Duration;
use crate::value::Value;

/// A whole document.
#[derive(Clone, Debug)]
pub struct Definition {
    /// File as the user named it, for diagnostics.
    pub file: String,
    /// Name, version and Pavane's own settings.
    pub document: Document,
    /// Workflow input: schema of the raw input, then `from`.
    pub input: Filter,
    /// Workflow output: `as`, then schema of the transformed output.
    pub output: Filter,
    /// `do`.
    pub tasks: Vec<Task>,
    /// Workflow timeout.
    pub timeout: Option<DurationSource>,
    /// `use.functions` by name.
    pub functions: BTreeMap<String, Task>,
    /// `use.secrets`.
    pub secrets: Vec<String>,
    /// The document as data, for `$workflow.definition` and the digest.
    pub source: Value,
}

/// `document`.
#[derive(Clone, Debug)]
pub struct Document {
    /// DSL version.
    pub dsl: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// `metadata.pavane.mode`.
    pub mode: Mode,
}

/// `document.metadata.pavane.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A central engine calls the services.
    #[default]
    Orchestration,
    /// Services react to each other's events.
    Choreography,
}

impl Mode {
    /// Both.
    pub const ALL: [Mode; 2] = [Mode::Orchestration, Mode::Choreography];

    /// The word used in records, the API and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Orchestration => "orchestration",
            Mode::Choreography => "choreography",
        }
    }

    /// The mode a word names.
    pub fn parse(word: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| mode.as_str() == word)
    }
}

/// An expression's text without `${ }`, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// jq.
    pub text: String,
    /// Position of the scalar that holds it.
    pub at: Position,
    /// JSON pointer of that scalar.
    pub reference: String,
}

/// Data that may hold expressions.
#[derive(Clone, Debug, PartialEq)]
pub enum Template {
    /// Holds no expression at any depth.
    Literal(Value),
    /// A whole-string `${ … }` (or a field that is always an expression): keeps the JSON type of the result.
    Expression(Source),
    /// Text with embedded `${ … }`: interpolated to a string.
    Text(Vec<Segment>),
    /// An object; keys are literal.
    Map(Vec<(String, Template)>),
    /// An array.
    List(Vec<Template>),
}

/// A piece of interpolated text.
#[derive(Clone, Debug, PartialEq)]
pub enum Segment {
    /// As it stands.
    Literal(String),
    /// Evaluated; strings as they are, other values as JSON.
    Expression(Source),
}

/// `input`, `output` or `export`: a schema and a transformation.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// `schema`.
    pub schema: Option<Schema>,
    /// `from` or `as`.
    pub transform: Option<Template>,
}

/// A JSON Schema.
#[derive(Clone, Debug)]
pub enum Schema {
    /// `schema.document`.
    Inline {
        /// The schema itself.
        document: Value,
        /// Where it stands.
        at: Position,
        /// JSON pointer.
        reference: String,
    },
    /// `schema.resource`: fetched once when the definition is deployed.
    Resource {
        /// Literal URI of the schema.
        uri: String,
        /// Where it stands.
        at: Position,
        /// JSON pointer.
        reference: String,
    },
}

/// A duration that is known, or that an expression gives (as an ISO 8601 text or a duration object).
#[derive(Clone, Debug, PartialEq)]
pub enum DurationSource {
    /// Known.
    Fixed(Duration),
    /// Evaluated on the task's transformed input.
    Expression(Source),
}

/// What follows a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Then {
    /// The next task of the list.
    #[default]
    Continue,
    /// The end of this list.
    Exit,
    /// The end of the workflow.
    End,
    /// A task of the same list, by name. The reader has checked that it exists.
    Task(String),
}

/// A task of any kind with what all kinds share.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its key in the list.
    pub name: String,
    /// JSON pointer in the document, such as `/do/1/pay/try/0/charge`.
    pub reference: String,
    /// Where its key stands.
    pub at: Position,
    /// The task as data, for `$task.definition`.
    pub source: Value,
    /// `if`.
    pub condition: Option<Source>,
    /// `input`.
    pub input: Filter,
    /// `output`.
    pub output: Filter,
    /// `export`.
    pub export: Filter,
    /// `timeout`.
    pub timeout: Option<DurationSource>,
    /// `then`.
    pub then: Then,
    /// `metadata.pavane`.
    pub pavane: TaskSettings,
    /// What it does.
    pub kind: TaskKind,
}

impl Task {
    /// The lists of tasks it holds, in the order of the document.
    pub fn lists(&self) -> Vec<&[Task]> {
        match &self.kind {
            TaskKind::Do(body) | TaskKind::Fork { branches: body, .. } => vec![body],
            TaskKind::For(each) => vec![&each.body],
            TaskKind::Try(attempt) => {
                std::iter::once(&attempt.body).chain(&attempt.handler).map(Vec::as_slice).collect()
            }
            TaskKind::Listen(listen) => listen.foreach.iter().map(|foreach| foreach.body.as_slice()).collect(),
            _ => Vec::new(),
        }
    }
}

/// `metadata.pavane` of a task.
#[derive(Clone, Debug, Default)]
pub struct TaskSettings {
    /// `compensate`: the function that undoes this task.
    pub compensate: Option<Compensate>,
    /// `owner`: the service this task is placed at in choreography.
    pub owner: Option<String>,
    /// `placement: engine`.
    pub engine: bool,
    /// `rollback: none` on a `try`.
    pub keep_effects: bool,
    /// `await: callback` on a call.
    pub callback: Option<Callback>,
}

/// `await: callback`: the service takes the call with 202, and completes or fails the task later.
#[derive(Clone, Copy, Debug)]
pub struct Callback {
    /// `heartbeat`: how long the service may be silent, at least [`MIN_HEARTBEAT`]; absent: until the task's time is over.
    pub heartbeat: Option<Duration>,
}

/// The shortest `heartbeat` in milliseconds: a shorter one would cost more than the work that it watches, and a pause of
/// the network would be taken for a service that is gone.
pub const MIN_HEARTBEAT: i64 = 1_000;

/// How a task is undone: `compensate: name`, or `compensate: { function, retry, onFailure }`.
#[derive(Clone, Debug)]
pub struct Compensate {
    /// Name of a function in `use.functions`. The reader has checked that it exists.
    pub function: String,
    /// Retries of the compensation; the runtime's default when absent.
    pub retry: Option<Retry>,
    /// `onFailure: continue`: an entry that cannot be undone does not halt the rest of the rollback.
    pub continue_on_failure: bool,
    /// Where it stands.
    pub at: Position,
}

/// The kinds of task.
#[derive(Clone, Debug)]
pub enum TaskKind {
    /// `do`
    Do(Vec<Task>),
    /// `set`
    Set(Template),
    /// `switch`
    Switch(Vec<Case>),
    /// `for`
    For(Box<For>),
    /// `fork`
    Fork {
        /// `compete`
        compete: bool,
        /// `branches`
        branches: Vec<Task>,
    },
    /// `try`
    Try(Box<Try>),
    /// `raise`
    Raise(Box<ErrorTemplate>),
    /// `wait`
    Wait(DurationSource),
    /// `call: http`
    Http(Box<HttpCall>),
    /// `call: openapi`
    OpenApi(Box<OpenApiCall>),
    /// `call` of a function in `use.functions`; the reader has checked that it exists and that it does not recurse.
    Function {
        /// Its name.
        name: String,
        /// `with`: the function task's raw input. Absent: an empty object.
        with: Template,
    },
    /// `emit.event.with`
    Emit(Template),
    /// `listen`
    Listen(Box<Listen>),
    /// `run.workflow`
    RunWorkflow(Box<RunWorkflow>),
}

/// A case of a `switch`.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its key.
    pub name: String,
    /// `when`; absent for the default, which the reader has put last.
    pub when: Option<Source>,
    /// `then`.
    pub then: Then,
}

/// `for`.
#[derive(Clone, Debug)]
pub struct For {
    /// Name of the item variable, without `$`.
    pub each: String,
    /// Name of the index variable.
    pub at: String,
    /// The collection: an expression, or a literal array.
    pub collection: Template,
    /// `while`.
    pub condition: Option<Source>,
    /// `do`.
    pub body: Vec<Task>,
}

/// `try`.
#[derive(Clone, Debug)]
pub struct Try {
    /// The list tried.
    pub body: Vec<Task>,
    /// `catch.errors.with`: property name and the literal it must equal. Absent: every error.
    pub errors: Vec<(String, Value)>,
    /// `catch.as`, `error` by default.
    pub variable: String,
    /// `catch.when`.
    pub when: Option<Source>,
    /// `catch.exceptWhen`.
    pub except_when: Option<Source>,
    /// `catch.retry`.
    pub retry: Option<Retry>,
    /// `catch.do`.
    pub handler: Option<Vec<Task>>,
    /// `catch.then`: overrides the task's own `then` after an error was handled.
    pub then: Option<Then>,
}

/// A retry policy.
#[derive(Clone, Debug, Default)]
pub struct Retry {
    /// `when`.
    pub when: Option<Source>,
    /// `exceptWhen`.
    pub except_when: Option<Source>,
    /// `delay`.
    pub delay: Option<DurationSource>,
    /// `backoff`.
    pub backoff: Backoff,
    /// `limit.attempt.count`: how many *retries*.
    pub max_retries: Option<u32>,
    /// `limit.attempt.duration`: the longest one attempt may take.
    pub attempt_timeout: Option<DurationSource>,
    /// `limit.duration`: the longest since the first failure.
    pub max_duration: Option<DurationSource>,
    /// `jitter.from` and `jitter.to`, added to the delay.
    pub jitter: Option<(Duration, Duration)>,
}

/// How the delay grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backoff {
    /// d
    #[default]
    Constant,
    /// d·n
    Linear,
    /// d·2^(n−1)
    Exponential,
}

/// The error a `raise` gives.
#[derive(Clone, Debug)]
pub struct ErrorTemplate {
    /// `type`
    pub type_: Template,
    /// `status`
    pub status: Template,
    /// `title`
    pub title: Option<Template>,
    /// `detail`
    pub detail: Option<Template>,
    /// `instance`, kept when the author gave one.
    pub instance: Option<Template>,
}

/// A URI: a literal or RFC 6570 level 1 template, or an expression.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `{name}` in a literal is filled from the transformed input's top-level properties.
    pub uri: UriSource,
    /// Authentication policy.
    pub authentication: Option<Authentication>,
}

/// See [`Endpoint::uri`].
#[derive(Clone, Debug)]
pub enum UriSource {
    /// Literal text, perhaps with `{name}`.
    Text(String),
    /// `${ … }`
    Expression(Source),
}

/// An authentication policy.
#[derive(Clone, Debug)]
pub enum Authentication {
    /// `basic`
    Basic {
        /// `username`
        username: Template,
        /// `password`
        password: Template,
    },
    /// `bearer`
    Bearer {
        /// `token`
        token: Template,
    },
    /// `basic: { use: secret }` or `bearer: { use: secret }`: the fields come from the secret.
    Secret {
        /// The scheme: `basic` or `bearer`.
        scheme: &'static str,
        /// Name in `use.secrets`.
        secret: String,
    },
}

/// What a call gives as its raw output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallOutput {
    /// The body, deserialized by its content type.
    #[default]
    Content,
    /// The body in base64.
    Raw,
    /// Request, status code, headers and content.
    Response,
}

/// `call: http`
#[derive(Clone, Debug)]
pub struct HttpCall {
    /// Upper case.
    pub method: String,
    /// Where to.
    pub endpoint: Endpoint,
    /// A map, or an expression that gives one.
    pub headers: Option<Template>,
    /// A map, or an expression that gives one.
    pub query: Option<Template>,
    /// Any value.
    pub body: Option<Template>,
    /// Form of the output.
    pub output: CallOutput,
    /// `redirect: true`: 3xx is followed, and a final 3xx is no error.
    pub redirect: bool,
}

/// `call: openapi`
#[derive(Clone, Debug)]
pub struct OpenApiCall {
    /// Where the OpenAPI (or Swagger 2.0) document is.
    pub document: Endpoint,
    /// `operationId`
    pub operation: String,
    /// `parameters`
    pub parameters: Option<Template>,
    /// Authentication of the operation's own request.
    pub authentication: Option<Authentication>,
    /// Form of the output.
    pub output: CallOutput,
    /// As for HTTP.
    pub redirect: bool,
}

/// `listen`
#[derive(Clone, Debug)]
pub struct Listen {
    /// What is waited for.
    pub to: Consumption,
    /// What of each event is kept.
    pub read: Read,
    /// `foreach`
    pub foreach: Option<Foreach>,
}

/// `listen.read`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Read {
    /// The event's data.
    #[default]
    Data,
    /// The whole CloudEvent.
    Envelope,
    /// The data as it came.
    Raw,
}

/// An event consumption strategy.
#[derive(Clone, Debug)]
pub enum Consumption {
    /// `one`
    One(EventFilter),
    /// `all`: each filter once.
    All(Vec<EventFilter>),
    /// `any`: the first match of any filter (no filters: of any event), or all matches until `until`.
    Any {
        /// The filters.
        filters: Vec<EventFilter>,
        /// When to stop; absent: at the first match.
        until: Option<Until>,
    },
}

/// `any.until`
#[derive(Clone, Debug)]
pub enum Until {
    /// Tested after each event; `.` is the array of what was consumed.
    Condition(Source),
    /// Stops when this strategy is satisfied; its events do not enter the output.
    Events(Box<Consumption>),
}

/// One filter.
#[derive(Clone, Debug)]
pub struct EventFilter {
    /// `with`: attribute and the value, pattern or `${ }` predicate it must satisfy.
    pub with: Vec<(String, Template)>,
    /// `correlate` by key.
    pub correlate: Vec<Correlation>,
}

/// One key of `correlate`.
#[derive(Clone, Debug)]
pub struct Correlation {
    /// Its name.
    pub key: String,
    /// Evaluated on the envelope; null matches nothing.
    pub from: Source,
    /// A literal or an expression on the task's input; absent: the first event accepted fixes it.
    pub expect: Option<Template>,
}

/// `listen.foreach`
#[derive(Clone, Debug)]
pub struct Foreach {
    /// Name of the item variable.
    pub item: String,
    /// Name of the index variable.
    pub at: String,
    /// `do`
    pub body: Vec<Task>,
    /// `output`
    pub output: Filter,
    /// `export`
    pub export: Filter,
}

/// `run.workflow`
#[derive(Clone, Debug)]
pub struct RunWorkflow {
    /// Namespace of the workflow run.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its version, or `latest`.
    pub version: String,
    /// Its input. Absent: an empty object.
    pub input: Option<Template>,
    /// Whether the task waits for its end.
    pub wait: bool,
}
