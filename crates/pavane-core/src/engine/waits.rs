//! What an instance waits for at one location, as people are told.

use serde::Serialize;

use super::state::{Fence, Pending, State, Token};
use super::types::CallId;
use crate::program::Program;
use crate::time::Timestamp;

/// One thing that a token waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// JSON pointer of the task that waits.
    pub task: String,
    /// For what.
    #[serde(rename = "for")]
    pub what: WaitsFor,
    /// Host of the service called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// When the task began; for a callback, when the service took the call.
    pub since: Timestamp,
    /// When it goes on by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// What a token may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitsFor {
    /// The answer to a call.
    Call,
    /// The callback that tells how a call ended.
    Callback,
    /// The end of a sub-workflow.
    Workflow,
    /// A time.
    Time,
    /// The next try.
    Retry,
    /// An event.
    Event,
    /// Branches that are under way.
    Branches,
}

impl WaitsFor {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            WaitsFor::Call => "call",
            WaitsFor::Callback => "callback",
            WaitsFor::Workflow => "workflow",
            WaitsFor::Time => "time",
            WaitsFor::Retry => "retry",
            WaitsFor::Event => "event",
            WaitsFor::Branches => "branches",
        }
    }
}

impl State {
    /// What its tokens here wait for. A token on its way elsewhere is not here.
    pub fn waits(&self, program: &Program) -> Vec<Wait> {
        let wait = |token: &Token| {
            let (what, until) = match &token.pending {
                Pending::Nothing => return None,
                Pending::Call(call) => match call.accepted() {
                    Some(accepted) => (WaitsFor::Callback, accepted.ends().into_iter().chain(call.deadline).min()),
                    None => (WaitsFor::Call, call.deadline),
                },
                Pending::Child(_) => (WaitsFor::Workflow, None),
                Pending::Time(at) => (WaitsFor::Time, Some(*at)),
                Pending::Backoff(at) => (WaitsFor::Retry, Some(*at)),
                Pending::Events => (WaitsFor::Event, None),
                Pending::Join(_) | Pending::RollbackJoin(_) | Pending::Drain(_) => (WaitsFor::Branches, None),
            };
            let frame = token.frames.last();
            let (service, accepted) = match &token.pending {
                Pending::Call(call) => (call.request.host().map(str::to_owned), call.accepted()),
                _ => (None, None),
            };
            let task = frame.map(|frame| program.node(frame.node).reference.to_string()).unwrap_or_default();
            let began = frame.map_or(self.started_at, |frame| frame.started);
            let since = accepted.map_or(began, |accepted| accepted.since);
            Some(Wait { task, what, service, since, until })
        };
        self.tokens.values().filter_map(wait).collect()
    }

    /// Calls that are still owed and that nobody wants made any more, if they have not been sent: their tokens come home
    /// whatever the answer is. An undoing is always wanted.
    pub fn unwanted(&self) -> impl Iterator<Item = CallId> {
        let fenced = |token: &&Token| token.fence != Fence::Open && !token.rolling_back();
        let calls = self.tokens.values().filter(fenced).filter(|token| matches!(token.pending, Pending::Call(_)));
        calls.filter_map(|token| token.top().map(|frame| CallId(frame.run)))
    }

    /// Whether any token is here.
    pub fn has_tokens(&self) -> bool {
        !self.tokens.is_empty()
    }
}
