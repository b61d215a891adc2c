//! `await: callback`: a call that its service takes with 202, and completes or fails later.
//!
//! The call stays pending: nothing that surrounds it need know that it waits for somebody to call back instead of for an
//! answer. What changes is that it is not owed any more (a restart does not send it again), that it has a time after which
//! it is given up even where its task has none, and that a fence does not wait for it.

use super::Cause;
use super::event::{Event, TokenId, Trace};
use super::machine::{Go, Machine};
use super::state::{Callback, Fence, Past, Pending, PendingCall};
use super::types::{CallId, Outcome, Rejected};
use crate::problem::Kind;

/// What part of its heartbeat a service may be silent for before the next beat is worth a commit. It is granted on top, so
/// that a service which beats in time is never given up for beats that were passed over.
const UNWRITTEN: i64 = 3;

impl Machine<'_> {
    /// The service called back.
    pub(super) fn callback(&mut self, key: &str, outcome: Outcome) -> Result<Cause, Rejected> {
        let (_, call) = self.called(key)?;
        self.outcome(call, outcome, None)
    }

    /// The service is at work. A beat that changes little is passed over as [`Rejected::Stale`].
    pub(super) fn heartbeat(&mut self, key: &str) -> Result<Cause, Rejected> {
        let (t, CallId(run)) = self.called(key)?;
        let found = self.pending_call(t).and_then(|call| call.callback);
        let Some(Callback { awaited, accepted: Some(accepted) }) = found else { return Err(Rejected::Stale) };
        let Some((heartbeat, before)) = awaited.heartbeat.zip(accepted.silent) else { return Err(Rejected::Stale) };
        let silent = self.now.plus_millis(allowed(heartbeat));
        if silent.since(before) < heartbeat / UNWRITTEN {
            return Err(Rejected::Stale);
        }
        let cause = self.cause_of(t, "call.heartbeat", Some(key.to_owned()));
        self.emit(Event::Beat { t, run, silent });
        Ok(cause)
    }

    /// Puts a callback on record that came too late; each call's first.
    pub(super) fn late_callback(&mut self, key: String) -> Result<Cause, Rejected> {
        let past = self.state.called_back.get(&key).filter(|past| !past.answered && !past.late);
        let task = past.ok_or(Rejected::Stale)?.task.clone();
        let causation = Some(key.clone());
        let cause = Cause { event_type: "callback.late", subject: task.to_string(), causation, ..Cause::default() };
        self.emit(Event::LateCallback { task, key });
        Ok(cause)
    }

    /// Whether the call of a token awaits a callback and has not been accepted yet.
    pub(super) fn awaits_callback(&self, t: TokenId) -> bool {
        self.pending_call(t).is_some_and(|call| call.callback.is_some() && call.accepted().is_none())
    }

    /// The service took the call.
    pub(super) fn accept(&mut self, t: TokenId) {
        let (Some(token), Some((frame, node))) = (self.token(t), self.top(t)) else { return };
        let heartbeat = self.pending_call(t).and_then(|call| call.callback?.awaited.heartbeat);
        let (task, run) = (node.reference.clone(), frame.run);
        let until = frame.deadline.is_none().then(|| self.now.plus_millis(self.host.callback_timeout));
        let silent = heartbeat.map(|heartbeat| self.now.plus_millis(allowed(heartbeat)));
        // A fence that came while it was on its way has waited for this.
        let fenced = token.fence != Fence::Open && !token.rolling_back();
        self.emit(Event::Accepted { t, task, run, until, silent });
        if fenced {
            self.schedule(t, Go::Home);
        }
    }

    /// The callback did not come.
    pub(super) fn callback_missed(&mut self, t: TokenId) {
        let Some((_, node)) = self.top(t) else { return };
        let Some(accepted) = self.pending_call(t).and_then(|call| call.accepted()) else { return };
        let what = match accepted.silent.is_some_and(|silent| silent <= self.now) {
            true => "the service took the call and has not been heard of for longer than its heartbeat",
            false => "the service took the call and did not call back in time",
        };
        let problem = Kind::Timeout.problem(what).at(&node.reference);
        self.schedule(t, Go::Fail(problem, Trace::Indeterminate));
    }

    fn pending_call(&self, t: TokenId) -> Option<&PendingCall> {
        match &self.token(t)?.pending {
            Pending::Call(call) => Some(call),
            _ => None,
        }
    }

    /// The call under a key that awaits a callback, accepted or still on its way: services are fast.
    fn called(&self, key: &str) -> Result<(TokenId, CallId), Rejected> {
        let found = self.state.tokens.iter().find_map(|(t, token)| match &token.pending {
            Pending::Call(call) if call.callback.is_some() && call.key == key => Some((*t, CallId(token.top()?.run))),
            _ => None,
        });
        match (found, self.state.called_back.get(key)) {
            (Some((_, call)), _) if self.state.is_answered(call) => Err(Rejected::Answered),
            (Some(found), _) => Ok(found),
            (None, Some(Past { answered: true, .. })) => Err(Rejected::Answered),
            (None, _) => Err(Rejected::Late),
        }
    }
}

/// How long a service with a heartbeat may be silent.
fn allowed(heartbeat: i64) -> i64 {
    heartbeat.saturating_add(heartbeat / UNWRITTEN)
}
