//! What the machine decides: the facts a journal entry holds. Each carries every value it needs, so that replay
//! evaluates nothing.
//!
//! The wire form is stored for ever. Add variants and optional fields freely; a change of meaning needs a conversion
//! when it is read, never a branch in the machine.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::lost::{Remains, Replaced};
use super::message::Message;
use super::types::{Child, Held, Request, Start};
use crate::event::CloudEvent;
use crate::problem::Problem;
use crate::program::Location;
use crate::record::Status;
use crate::time::Timestamp;
use crate::value::Value;

/// A thread of control within an instance, numbered from 0 (the main one) in the order of their birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub u32);

/// One fact. `t` is the token, `task` a JSON pointer, `run` the number of a task run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    /// The instance exists.
    Started {
        /// The start as it was asked for.
        start: Start,
        /// The transformed input, when it differs from the raw one.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::value::present")]
        input: Option<Value>,
        /// When the workflow's own timeout ends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
    },
    /// A token entered a task; its raw input is the token's data.
    Entered {
        /// Token.
        t: TokenId,
        /// Task.
        task: Arc<str>,
        /// Run.
        run: u32,
        /// The transformed input, when it differs from the raw one.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::value::present")]
        input: Option<Value>,
        /// When the task's timeout ends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
    },
    /// The task's `if` was false: raw input is output.
    Skipped {
        /// Token.
        t: TokenId,
        /// Task.
        task: Arc<str>,
    },
    /// A function was called: its body starts with `data`.
    Called {
        /// Token.
        t: TokenId,
        /// Raw input of the body.
        data: Value,
    },
    /// A loop takes its next item.
    Looped {
        /// Token.
        t: TokenId,
        /// Position of the item.
        index: u32,
        /// The collection, at the first item.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::value::present")]
        items: Option<Value>,
    },
    /// A service call is owed.
    Requested {
        /// Token.
        t: TokenId,
        /// Run.
        run: u32,
        /// Task.
        task: Arc<str>,
        /// Idempotency key.
        key: String,
        /// The task run's address: where its epochs are counted.
        address: String,
        /// What to send; absent when the request recorded for this key is sent again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<Arc<Request>>,
        /// `Pavane-Attempt`.
        attempt: u32,
        /// `Pavane-Compensates`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compensates: Option<String>,
        /// When it must have ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
        /// How its callback is awaited, if one is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        callback: Option<Awaited>,
    },
    /// A service took a call with 202, and a callback will tell how it ended.
    Accepted {
        /// Token.
        t: TokenId,
        /// Task.
        task: Arc<str>,
        /// Run.
        run: u32,
        /// When it is given up, where the task has no timeout of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
        /// When it is given up if nothing is heard from the service before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        silent: Option<Timestamp>,
    },
    /// The service of such a call is still at work.
    Beat {
        /// Token.
        t: TokenId,
        /// Run.
        run: u32,
        /// When it is given up if nothing more is heard.
        silent: Timestamp,
    },
    /// A callback came for a call that nobody waited for any more.
    LateCallback {
        /// Task.
        task: Arc<str>,
        /// Idempotency key of the call.
        key: String,
    },
    /// A call that ended had waited at the gate of its service before it was sent.
    Held {
        /// Token.
        t: TokenId,
        /// Task.
        task: Arc<str>,
        /// Run.
        run: u32,
        /// What for, and how long.
        held: Held,
    },
    /// A sub-workflow is owed.
    ChildRequested {
        /// Token.
        t: TokenId,
        /// Address of the task run.
        address: String,
        /// The sub-workflow.
        child: Child,
    },
    /// The token waits for a time.
    Waiting {
        /// Token.
        t: TokenId,
        /// Until when.
        until: Timestamp,
    },
    /// The token waits for events.
    Listening {
        /// Token.
        t: TokenId,
        /// Task.
        task: Arc<str>,
    },
    /// An event reached the instance.
    Received {
        /// The event.
        event: CloudEvent,
        /// Whether it is kept for a listen to come; false when one that waits took it.
        kept: bool,
    },
    /// A listen took an event.
    Consumed {
        /// Token.
        t: TokenId,
        /// The listen's run.
        run: u32,
        /// Position of the filter that matched; filters of `until` count on after the others.
        filter: u32,
        /// What is kept of the event; absent for an event of `until`.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::value::present")]
        item: Option<Value>,
        /// Correlation keys this event fixed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        correlation: Vec<(String, Value)>,
        /// Position in the buffer it was taken from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        taken: Option<u32>,
        /// Whether the listen takes no more.
        done: bool,
    },
    /// `foreach` takes the next item.
    Foreach {
        /// Token.
        t: TokenId,
        /// The item.
        item: Value,
        /// Its position.
        index: u32,
    },
    /// `foreach` is done with an item.
    ForeachDone {
        /// Token.
        t: TokenId,
        /// Result of the item.
        output: Value,
        /// New context, when exported.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::value::present")]
        context: Option<Value>,
    },
    /// An event was published.
    Emitted {
        /// Token.
        t: TokenId,
        /// Task.
        task: Arc<str>,
        /// Address of the task run.
        address: String,
        /// The event.
        event: CloudEvent,
    },
    /// A message was sent to another location.
    Sent {
        /// Receiver.
        to: Location,
        /// Its number among those to this receiver.
        number: u64,
    },
    /// A token left with a message.
    Departed {
        /// Token.
        t: TokenId,
    },
    /// A message came from another location.
    Arrived {
        /// The message.
        #[serde(serialize_with = "super::message::write_message")]
        message: Box<Message>,
        /// Whether it is kept until the instance is resumed.
        #[serde(default)]
        parked: bool,
    },
    /// The rest of the step happened later than what stands before it.
    Later {
        /// When.
        at: Timestamp,
    },
    /// A message kept while suspended is taken up.
    Admitted {
        /// The message.
        message: Box<Message>,
    },
    /// A token that is not here was fenced.
    FencedAway {
        /// Token.
        t: TokenId,
        /// Whether calls in flight are given up.
        cut: bool,
    },
    /// A part of it was lost: it ends, and undoes what still comes.
    Abandoned {
        /// What it leaves behind.
        remains: Box<Remains>,
    },
    /// Its part was lost with the store of this location, and is not brought back.
    Replaced {
        /// What the new store must know.
        replaced: Box<Replaced>,
    },
    /// A suspension or resumption was ordered.
    SuspensionOrdered {
        /// Its order.
        order: u64,
    },
    /// A token split into branches.
    Forked {
        /// Token.
        t: TokenId,
        /// The first branch's token; the others follow.
        first: TokenId,
        /// How many.
        count: u32,
        /// Where the branches report to, when not at the engine.
        #[serde(default, skip_serializing_if = "Location::is_engine")]
        at: Location,
    },
    /// A branch came home.
    Reported {
        /// Token of the branch.
        t: TokenId,
        /// How.
        report: ReportKind,
        /// Its error, when faulted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<Problem>,
    },
    /// A fork's join closed.
    Joined {
        /// Token that goes on.
        t: TokenId,
        /// The winner of a `compete`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        winner: Option<u32>,
        /// Merged context, when it changed.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::value::present")]
        context: Option<Value>,
        /// Where, when not at the engine: losers of a race come home there.
        #[serde(default, skip_serializing_if = "Location::is_engine")]
        at: Location,
    },
    /// The token starts no new effect and comes home.
    Fenced {
        /// Token.
        t: TokenId,
        /// Whether calls in flight are given up as indeterminate, too.
        cut: bool,
    },
    /// A deadline of a token passed that waits for its branches: it fails once they are home.
    TimedOut {
        /// Token.
        t: TokenId,
        /// Depth of the frame the deadline belongs to; none for the workflow's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        depth: Option<u32>,
        /// Whether it is the deadline of a `try`'s attempt.
        #[serde(default)]
        attempt: bool,
    },
    /// A task completed.
    Completed {
        /// Token.
        t: TokenId,
        /// Task.
        task: Arc<str>,
        /// Run.
        run: u32,
        /// Transformed output, when it is not the token's data as it was.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::value::present")]
        output: Option<Value>,
        /// New context, when exported.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::value::present")]
        context: Option<Value>,
    },
    /// A task failed.
    Faulted {
        /// Token.
        t: TokenId,
        /// Task.
        task: Arc<str>,
        /// Run.
        run: u32,
        /// Why.
        problem: Problem,
        /// What is known about its effect.
        #[serde(default, skip_serializing_if = "Trace::is_none")]
        trace: Trace,
    },
    /// A task was given up.
    Cancelled {
        /// Token.
        t: TokenId,
        /// Task.
        task: Arc<str>,
        /// Run.
        run: u32,
    },
    /// A `try` caught an error and will retry, at once or at `at`.
    RetryScheduled {
        /// Token.
        t: TokenId,
        /// Task.
        task: Arc<str>,
        /// The error.
        problem: Problem,
        /// When.
        at: Timestamp,
    },
    /// A `try` begins another attempt.
    Retried {
        /// Token.
        t: TokenId,
        /// Task.
        task: Arc<str>,
        /// When this attempt's own timeout ends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
    },
    /// A `try` began its first attempt under a timeout of its own.
    AttemptLimited {
        /// Token.
        t: TokenId,
        /// When it ends.
        deadline: Timestamp,
    },
    /// A `try` handles an error: `catch.do` begins.
    Caught {
        /// Token.
        t: TokenId,
        /// Task.
        task: Arc<str>,
        /// The error.
        problem: Problem,
    },
    /// Effects are being undone, before anything else happens.
    RollingBack {
        /// Token.
        t: TokenId,
        /// From which entry of its log on.
        from: u32,
        /// Whether indeterminate calls stay, because a repeat with the same key will settle them.
        #[serde(default)]
        keep_indeterminate: bool,
        /// The error that caused it.
        problem: Problem,
        /// What follows.
        then: AfterRollback,
    },
    /// An entry's compensation begins.
    Undoing {
        /// Token.
        t: TokenId,
        /// The forward task.
        task: Arc<str>,
        /// The forward run.
        run: u32,
    },
    /// The compensation failed and will be tried again.
    UndoDelayed {
        /// Token.
        t: TokenId,
        /// When.
        at: Timestamp,
        /// Why it failed.
        problem: Problem,
    },
    /// The compensation is tried again.
    UndoRetried {
        /// Token.
        t: TokenId,
    },
    /// An entry is undone.
    Undone {
        /// Token.
        t: TokenId,
        /// The forward task.
        task: Arc<str>,
    },
    /// An entry cannot be undone.
    Unresolved {
        /// Token.
        t: TokenId,
        /// The forward task.
        task: Arc<str>,
        /// Why.
        reason: String,
        /// Whether the rest of this chain is left as it is.
        halt: bool,
    },
    /// An earlier rollback ended here unresolved: what lies before is left as it is.
    Halted {
        /// Token.
        t: TokenId,
    },
    /// The next entry is a fork: its branches are undone side by side.
    RollbackForked {
        /// Token.
        t: TokenId,
        /// The first of the new tokens.
        first: TokenId,
        /// How many.
        count: u32,
        /// Where they report to, when not at the engine.
        #[serde(default, skip_serializing_if = "Location::is_engine")]
        at: Location,
    },
    /// A side of it is undone.
    RollbackJoined {
        /// Its token.
        t: TokenId,
    },
    /// The next entry is a race whose losers are still coming home: wait for them.
    Draining {
        /// Token.
        t: TokenId,
    },
    /// They are.
    Drained {
        /// Token.
        t: TokenId,
    },
    /// A rollback is over.
    RolledBack {
        /// Token.
        t: TokenId,
    },
    /// The token is gone: a loser that came home.
    Dropped {
        /// Token.
        t: TokenId,
    },
    /// What an operator wants undone again.
    CompensationRetried {
        /// The new token that does it.
        t: TokenId,
    },
    /// A wait for a retry was cut short.
    Hastened {
        /// Token.
        t: TokenId,
    },
    /// An operator cancels.
    CancelRequested {
        /// For the record.
        reason: String,
    },
    /// An operator suspended it.
    Suspended {},
    /// An operator resumed it.
    Resumed {},
    /// Came while suspended; taken up on resume.
    Parked {
        /// What came.
        input: Parked,
    },
    /// The instance has its terminal status.
    Ended {
        /// Which.
        status: Status,
        /// Output, when completed and not the data as it was.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::value::present")]
        output: Option<Value>,
        /// Error, when faulted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<Problem>,
    },
    /// Who is to be told of the end was not reached.
    NoticeDelayed {
        /// When it is tried again.
        at: Timestamp,
    },
    /// It is tried again.
    NoticeRepeated {},
    /// Nobody is to be told of the end any more.
    NoticeEnded {
        /// Whether it was; otherwise it was given up.
        delivered: bool,
    },
}

/// How the callback of a call is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Awaited {
    /// How long the service may be silent, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<i64>,
}

/// How a branch came home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReportKind {
    /// It reached its end.
    Completed,
    /// With an error.
    Faulted,
    /// A fence sent it.
    Cancelled,
    /// It ends the whole workflow with its output.
    Ended,
}

/// What a failed task may have left at its service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Trace {
    /// No call was made.
    #[default]
    None,
    /// The service answered: nothing.
    Settled,
    /// The request never left.
    NotSent,
    /// Unknown.
    Indeterminate,
    /// It did its work; what followed in the task failed. The raw output.
    Done(Value),
}

impl Event {
    /// The time from this event on, when that is later than before it.
    pub fn moves_clock(&self) -> Option<Timestamp> {
        match self {
            Event::Later { at } => Some(*at),
            _ => None,
        }
    }
}

impl Trace {
    fn is_none(&self) -> bool {
        *self == Trace::None
    }
}

/// What a token does when its rollback is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum AfterRollback {
    /// The `try` on top is tried again after a delay in milliseconds.
    Retry {
        /// Delay.
        delay: i64,
    },
    /// The `try` on top handles the error.
    Handle,
    /// The token comes home to its join with this.
    Report(ReportKind),
    /// The instance ends so.
    End(Status),
    /// The token is gone.
    Drop,
    /// A part of another token's rollback.
    Join,
}

/// An input kept while suspended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Parked {
    /// A call ended.
    Outcome {
        /// Which.
        call: super::types::CallId,
        /// How.
        outcome: super::types::Outcome,
    },
    /// A sub-workflow ended.
    Child {
        /// Which.
        call: super::types::CallId,
        /// Its output.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::value::present")]
        output: Option<Value>,
        /// Its error.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        problem: Option<Problem>,
    },
    /// An event came.
    Event {
        /// The event.
        event: CloudEvent,
    },
    /// A message came.
    Message {
        /// The message.
        message: Box<Message>,
    },
}
