//! Telling whoever asked for it at the start that an instance has ended.
//!
//! It is one more call that the instance owes, after its end: durable, made again until it is taken, and given up at a
//! limit. What it says follows from the state.

use std::sync::Arc;

use super::Cause;
use super::event::Event;
use super::machine::Machine;
use super::saga::grow;
use super::secret;
use super::state::State;
use super::types::{Call, CallId, HttpRequest, Outcome, Rejected, Request};
use crate::definition::{Backoff, CallOutput};
use crate::id;
use crate::problem::Problem;
use crate::time::Timestamp;
use crate::value::Value;

/// The call that tells of the end: runs of tasks are numbered from 1.
pub(super) const NOTICE: CallId = CallId(0);

/// What its idempotency key is made of instead of a task's address, which begins with `/do` or `/use`.
const ADDRESS: &str = "/notify";

/// How often it is told, at most: for about an hour, longer than a restart or a deployment takes. Who is away for longer
/// asks for the instance when it is back.
const MAX_TRIES: u32 = 20;
/// The wait before it is told again, doubled each time up to the longest.
const FIRST_WAIT: i64 = 1_000;
const LONGEST_WAIT: i64 = 300_000;

/// The answer of one who does not want to be told.
const GONE: i64 = 410;

/// An end that somebody is to be told of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Notice {
    /// How often it was tried in vain.
    pub tries: u32,
    /// When it is tried again; absent: now.
    pub at: Option<Timestamp>,
}

impl State {
    /// The call that tells of the end, while it is owed.
    pub(super) fn notice_call(&self) -> Option<Call> {
        let notice = self.notice.filter(|notice| notice.at.is_none())?;
        let (start, ended) = (self.start.as_ref()?, self.ended.as_ref()?);
        let mut said = vec![("id", Value::text(&start.id)), ("status", Value::text(ended.status.as_str()))];
        said.extend(ended.output.clone().map(|output| ("output", output)));
        said.extend(ended.problem.as_ref().map(|problem| ("error", problem.to_value())));
        let request = Request::Http(HttpRequest {
            method: "POST".into(),
            uri: start.notify.clone()?,
            headers: Vec::new(),
            query: Vec::new(),
            // Markers of secrets in an output stay what they are to everybody: nothing.
            body: Some(secret::foreign(Value::object(said))),
            // Whatever the answer says, it is one.
            output: CallOutput::Raw,
            redirect: false,
            authentication: None,
        });
        Some(Call {
            id: NOTICE,
            reference: Arc::from(""),
            key: id::idempotency_key(&start.id, ADDRESS, &[], 0),
            attempt: notice.tries + 1,
            compensates: None,
            request: Arc::new(request),
            deadline: None,
            callback: false,
        })
    }
}

impl Machine<'_> {
    /// What came of telling.
    pub(super) fn told(&mut self, outcome: Outcome) -> Result<Cause, Rejected> {
        let notice = self.state.notice.filter(|notice| notice.at.is_none()).ok_or(Rejected::Stale)?;
        let tries = notice.tries + 1;
        let event_type = match outcome {
            Outcome::Failure { problem: Problem { status, .. }, .. } if status != GONE && tries < MAX_TRIES => {
                let wait = grow(FIRST_WAIT, Backoff::Exponential, tries).min(LONGEST_WAIT);
                self.emit(Event::NoticeDelayed { at: self.now.plus_millis(wait) });
                "notice.delayed"
            }
            outcome => {
                let delivered = matches!(outcome, Outcome::Success(_));
                self.emit(Event::NoticeEnded { delivered });
                if delivered { "notice.delivered" } else { "notice.given-up" }
            }
        };
        Ok(Cause { event_type, ..Cause::default() })
    }
}
