//! `Tick`: waits that are over, and deadlines that have passed.

use super::event::{Event, TokenId};
use super::machine::{Go, Machine};
use super::state::{Accepted, Pending, ROOT, Role, Token};
use super::types::Rejected;
use super::{Cause, Wake};

/// One thing that is due.
enum DueNow {
    /// A `wait` is over.
    Wait,
    /// A retry.
    Again,
    /// A callback that did not come.
    Callback,
    /// The deadline of the task at this depth.
    Task { depth: usize, attempt: bool },
    /// The workflow's own.
    Workflow,
    /// To tell of the end again.
    Notice,
}

impl Machine<'_> {
    /// Does everything that is due, one thing after the other: what one does may undo the next.
    pub(super) fn tick(&mut self) -> Result<Cause, Rejected> {
        if self.state.suspended.is_some() {
            return Err(Rejected::Stale);
        }
        let mut any = false;
        while let Some((t, due)) = self.next_due() {
            any = true;
            self.fall_due(t, due);
            self.run();
        }
        if any { Ok(Cause { event_type: "timer.fired", ..Cause::default() }) } else { Err(Rejected::Stale) }
    }

    fn next_due(&self) -> Option<(TokenId, DueNow)> {
        if self.state.workflow_deadline().is_some_and(|at| at <= self.now) {
            return Some((ROOT, DueNow::Workflow));
        }
        if self.state.notice.and_then(|notice| notice.at).is_some_and(|at| at <= self.now) {
            return Some((ROOT, DueNow::Notice));
        }
        self.state.tokens.iter().find_map(|(t, token)| Some((*t, self.due_of(token)?)))
    }

    fn due_of(&self, token: &Token) -> Option<DueNow> {
        let passed = |at: Option<crate::Timestamp>| at.is_some_and(|at| at <= self.now);
        if token.timed_out.is_none() {
            let base = token.frames.len() - token.live_frames().len();
            for (depth, frame) in (base..).zip(token.live_frames()) {
                if passed(frame.deadline) {
                    return Some(DueNow::Task { depth, attempt: false });
                }
                if let Role::Try(attempt) = &frame.role
                    && !attempt.handling
                    && passed(attempt.deadline)
                {
                    return Some(DueNow::Task { depth, attempt: true });
                }
            }
        }
        match &token.pending {
            Pending::Time(at) if *at <= self.now => Some(DueNow::Wait),
            Pending::Backoff(at) if *at <= self.now => Some(DueNow::Again),
            Pending::Call(call) if passed(call.accepted().and_then(Accepted::ends)) => Some(DueNow::Callback),
            _ => None,
        }
    }

    fn fall_due(&mut self, t: TokenId, due: DueNow) {
        match due {
            DueNow::Wait => {
                let data = self.data(t);
                self.schedule(t, Go::Leave(data));
            }
            DueNow::Again => self.schedule(t, Go::Again),
            DueNow::Notice => self.emit(Event::NoticeRepeated {}),
            DueNow::Callback => self.callback_missed(t),
            DueNow::Task { depth, attempt } if self.joins(t) => {
                self.emit(Event::TimedOut { t, depth: u32::try_from(depth).ok(), attempt });
                self.cut_branches(t);
            }
            DueNow::Task { depth, attempt } => {
                if let Some(go) = self.time_out_at(t, depth, attempt) {
                    self.schedule(t, go);
                }
            }
            DueNow::Workflow => {
                self.emit(Event::TimedOut { t, depth: None, attempt: false });
                if self.joins(t) {
                    self.cut_branches(t);
                } else {
                    self.schedule(t, Go::Home);
                }
            }
        }
    }

    fn joins(&self, t: TokenId) -> bool {
        matches!(self.token(t).map(|token| &token.pending), Some(Pending::Join(_)))
    }

    fn cut_branches(&mut self, t: TokenId) {
        let Some(Pending::Join(join)) = self.token(t).map(|token| &token.pending) else { return };
        for branch in join.missing() {
            self.fence(branch, true);
        }
        self.schedule(t, Go::Join);
    }
}

impl Wake {
    /// Whether it is due at `now`.
    pub fn is_due(self, now: crate::Timestamp) -> bool {
        match self {
            Wake::OnInput => false,
            Wake::Now => true,
            Wake::At(at) => at <= now,
        }
    }
}
