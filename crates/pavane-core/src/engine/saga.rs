//! Undoing: rollback follows the error.
//!
//! When an error leaves a scope, the compensable tasks that completed in it (and those whose outcome is unknown) are
//! undone in reverse causal order before anything else happens. A compensation that fails is repeated by its policy;
//! one that fails for good is kept and named, and what lies before it in its chain is left as it is. No `try` goes on
//! after that: the error leaves them all, and the instance ends faulted.

use super::event::{AfterRollback, Event, ReportKind, TokenId, Trace};
use super::machine::{Go, Machine};
use super::message::{Body, Errand};
use super::state::*;
use crate::definition::Backoff;
use crate::problem::{Kind, Problem};
use crate::program::RetryCode;
use crate::record::Status;

/// Without a policy of its own a compensation is repeated for this long: longer than most outages, short enough that
/// somebody is told within a day.
const GIVE_UP_AFTER: i64 = 24 * 3_600_000;
/// First delay of the default policy, doubled each time.
const FIRST_DELAY: i64 = 1_000;
/// Its longest delay.
const LONGEST_DELAY: i64 = 300_000;

impl Machine<'_> {
    /// Undoes the log of a token from `from` on, then goes on with `then`; at once when there is nothing to undo.
    pub fn roll_back(
        &mut self,
        t: TokenId,
        from: usize,
        keep_indeterminate: bool,
        problem: Problem,
        then: AfterRollback,
    ) -> Option<Go> {
        let log = &self.token(t)?.log;
        let stays = |entry: &Entry| keep_indeterminate && matches!(entry, Entry::Task(done) if !done.certain);
        if log.iter().skip(from).all(stays) {
            return self.after_rollback(t, then, problem);
        }
        let from = u32::try_from(from).unwrap_or(u32::MAX);
        self.emit(Event::RollingBack { t, from, keep_indeterminate, problem, then });
        Some(Go::Rollback)
    }

    /// Undoes the next entry of the rollback on top.
    pub fn rollback(&mut self, t: TokenId) -> Option<Go> {
        let Some(rollback) = self.token(t)?.rollbacks.last() else { return Some(Go::Home) };
        match rollback.todo.last() {
            None => {
                let (then, problem) = (rollback.then.clone(), rollback.problem.clone());
                self.emit(Event::RolledBack { t });
                self.after_rollback(t, then, problem)
            }
            Some(Entry::Task(done)) if self.away(done.node).is_some() => {
                let to = self.away(done.node)?;
                self.depart(t, to, Errand::Undo)
            }
            Some(Entry::Race { at, .. }) if self.is_away(at) => {
                let to = at.clone();
                self.depart(t, to, Errand::Undo)
            }
            Some(Entry::Task(done)) => {
                let (node, run) = (self.program.node(done.node), done.run);
                self.emit(Event::Undoing { t, task: node.reference.clone(), run });
                self.begin_undo(t)
            }
            Some(Entry::Parallel(branches)) => {
                let first = TokenId(self.next_token());
                let count = u32::try_from(branches.len()).unwrap_or(u32::MAX);
                self.emit(Event::RollbackForked { t, first, count, at: self.host.here.clone() });
                for side in first.0..first.0 + count {
                    self.schedule(TokenId(side), Go::Rollback);
                }
                None
            }
            Some(Entry::Race { .. }) => {
                self.emit(Event::Draining { t });
                self.drained(t)
            }
            Some(Entry::Stuck) => {
                self.emit(Event::Halted { t });
                Some(Go::Rollback)
            }
        }
    }

    fn begin_undo(&mut self, t: TokenId) -> Option<Go> {
        let (_, node) = self.top(t)?;
        Some(match &node.undo {
            Some(undo) => Go::Enter(undo.function),
            // Entries are made only for tasks that have a compensation.
            None => Go::ListEnd,
        })
    }

    /// Goes on with the rollback once the losers of the race it waits for are home.
    fn drained(&mut self, t: TokenId) -> Option<Go> {
        let Pending::Drain(losers) = &self.token(t)?.pending else { return None };
        if losers.iter().any(|loser| self.state.losers.contains(loser)) {
            return None;
        }
        self.emit(Event::Drained { t });
        Some(Go::Rollback)
    }

    fn after_rollback(&mut self, t: TokenId, then: AfterRollback, problem: Problem) -> Option<Go> {
        match then {
            // To repeat or to handle the work while a part of it stands would count it twice.
            AfterRollback::Retry { .. } | AfterRollback::Handle if self.token(t)?.is_stuck() => {
                Some(Go::Fail(problem, Trace::None))
            }
            AfterRollback::Retry { delay } => {
                let (_, node) = self.top(t)?;
                let at = self.now.plus_millis(delay);
                self.emit(Event::RetryScheduled { t, task: node.reference.clone(), problem, at });
                (delay <= 0).then_some(Go::Again)
            }
            AfterRollback::Handle => self.handle(t, problem),
            AfterRollback::Report(kind) => self.report(t, kind, (kind == ReportKind::Faulted).then_some(problem)),
            AfterRollback::End(status) => self.finish(t, status, (status == Status::Faulted).then_some(problem)),
            AfterRollback::Drop => self.dropped(t),
            AfterRollback::Join => {
                let Home::Rollback { at, parent } = self.token(t)?.home.clone() else { return None };
                if self.is_away(&at) {
                    let halted = self.token(t)?.halted;
                    self.send(at, Body::Side { parent, t, halted });
                    self.emit(Event::Departed { t });
                    return None;
                }
                self.emit(Event::RollbackJoined { t });
                self.side_done(parent);
                None
            }
        }
    }

    pub fn wake_drains(&mut self) {
        let waiting: Vec<TokenId> = self
            .state
            .tokens
            .iter()
            .filter(|(_, token)| matches!(token.pending, Pending::Drain(_)))
            .map(|(id, _)| *id)
            .collect();
        for t in waiting {
            if let Some(go) = self.drained(t) {
                self.schedule(t, go);
            }
        }
    }

    /// A compensation failed: try again by its policy, or keep the entry as unresolved.
    pub fn undo_failed(&mut self, t: TokenId, problem: Problem) -> Option<Go> {
        let (frame, node) = self.top(t)?;
        let Role::Undo(undoing) = &frame.role else { return None };
        let undo = node.undo.as_ref();
        let policy = undo.and_then(|u| u.retry.as_ref());
        let elapsed = self.now.since(undoing.first_failure.unwrap_or(self.now));
        let delay = match policy {
            _ if !may_pass(&problem) => None,
            Some(policy) => self.own_delay(t, policy, undoing.retries, elapsed),
            None => default_delay(undoing.retries).filter(|delay| elapsed + delay <= GIVE_UP_AFTER),
        };
        if let Some(delay) = delay {
            self.emit(Event::UndoDelayed { t, at: self.now.plus_millis(delay), problem });
            return (delay <= 0).then_some(Go::Again);
        }
        let halt = !undo.is_some_and(|u| u.continue_on_failure);
        let task = node.reference.clone();
        let reason = problem.detail.clone().unwrap_or_else(|| problem.title.clone());
        let reason = format!("its compensation failed: {reason}");
        self.emit(Event::Unresolved { t, task, reason, halt });
        Some(Go::Rollback)
    }

    fn own_delay(&self, t: TokenId, policy: &RetryCode, retries: u32, elapsed: i64) -> Option<i64> {
        if policy.max_retries.is_some_and(|max| retries >= max) {
            return None;
        }
        let scope = self.task_scope(t);
        let data = self.data(t);
        let length = |code: &Option<crate::program::DurationCode>| {
            code.as_ref().and_then(|d| scope.duration(d, &data).ok()).map(|d| self.now.plus(d).since(self.now))
        };
        let delay = grow(length(&policy.delay).unwrap_or(0), policy.backoff, retries + 1);
        length(&policy.max_duration).is_none_or(|max| elapsed + delay <= max).then_some(delay)
    }

    /// The compensation on top begins again.
    pub fn undo_again(&mut self, t: TokenId) -> Option<Go> {
        self.emit(Event::UndoRetried { t });
        self.begin_undo(t)
    }

    /// The workflow's timeout passed and everything has come home.
    pub fn time_out(&mut self, t: TokenId) -> Option<Go> {
        let problem = Kind::Timeout.problem("the workflow did not end within its timeout");
        self.roll_back(t, 0, false, problem, AfterRollback::End(Status::Faulted))
    }

    /// Closes the task at `depth` because its time is over, or hands the error to the `try` there.
    pub fn time_out_at(&mut self, t: TokenId, depth: usize, attempt: bool) -> Option<Go> {
        let in_flight = matches!(self.token(t)?.pending, Pending::Call(_));
        let own = self.token(t)?.frames.len() == depth + 1;
        self.give_up(t, depth + 1);
        let (_, node) = self.top(t)?;
        let what = if attempt { "an attempt of the task" } else { "the task" };
        let problem = Kind::Timeout.problem(format!("{what} did not end within its timeout")).at(&node.reference);
        Some(match (attempt, own && in_flight) {
            (true, _) => Go::Catch(problem),
            (false, true) => Go::Fail(problem, Trace::Indeterminate),
            (false, false) => Go::Fail(problem, Trace::None),
        })
    }
}

/// Whether time may heal this failure of a compensation.
fn may_pass(problem: &Problem) -> bool {
    match Kind::of(&problem.type_) {
        Some(Kind::Communication) => problem.status >= 500 || matches!(problem.status, 408 | 409 | 423 | 425 | 429),
        Some(Kind::Timeout) => true,
        _ => false,
    }
}

fn default_delay(retries: u32) -> Option<i64> {
    Some(grow(FIRST_DELAY, Backoff::Exponential, retries + 1).min(LONGEST_DELAY))
}

/// The delay before the n-th retry: d, d·n or d·2^(n−1), saturating.
pub(super) fn grow(delay: i64, backoff: Backoff, n: u32) -> i64 {
    match backoff {
        Backoff::Constant => delay,
        Backoff::Linear => delay.saturating_mul(i64::from(n)),
        Backoff::Exponential => {
            delay.saturating_mul(1_i64.checked_shl(n.saturating_sub(1).min(62)).unwrap_or(i64::MAX))
        }
    }
}
