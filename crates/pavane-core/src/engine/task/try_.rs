//! `try`: catch what matches, undo what the attempt did, then retry, handle or rethrow.
//!
//! Retries come first; `catch.do` runs when the policy refuses or is exhausted; without it the error goes on. With
//! neither a policy nor a handler the error is swallowed and the output is the `try`'s input. A retry runs the whole
//! list again on the original input; exports of failed attempts stay.

use crate::engine::event::{AfterRollback, Event, TokenId, Trace};
use crate::engine::machine::{Go, Machine};
use crate::engine::saga::grow;
use crate::engine::scope::Scope;
use crate::engine::state::{Attempt, Role};
use crate::id;
use crate::problem::Problem;
use crate::program::{Act, Flow, RetryCode, TryCode};
use crate::time::Duration;
use crate::value::Value;

/// A delay that grows for ever is no use to anybody: at most a year.
const LONGEST_DELAY: i64 = 366 * 24 * 3_600_000;

enum Plan {
    /// The error is not for this `try`, or nothing is left to do about it.
    Rethrow,
    Retry {
        delay: i64,
    },
    Handle,
}

impl Machine<'_> {
    pub fn begin_try(&mut self, t: TokenId, code: &TryCode) -> Result<Go, Problem> {
        if let Some(deadline) = self.attempt_deadline(t, code)? {
            self.emit(Event::AttemptLimited { t, deadline });
        }
        Ok(code.first.map_or(Go::ListEnd, Go::Enter))
    }

    fn attempt_deadline(&self, t: TokenId, code: &TryCode) -> Result<Option<crate::Timestamp>, Problem> {
        let limit = code.retry.as_ref().and_then(|r| r.attempt_timeout.as_ref());
        let Some(limit) = limit else { return Ok(None) };
        let input = self.top(t).map(|(frame, _)| frame.input.clone()).unwrap_or_default();
        Ok(Some(self.now.plus(self.task_scope(t).duration(limit, &input)?)))
    }

    /// An error reached the `try` on top from within.
    pub fn catch(&mut self, t: TokenId, problem: Problem) -> Option<Go> {
        let (frame, node) = self.top(t)?;
        let (Act::Try(code), Role::Try(attempt)) = (&node.act, &frame.role) else { return Some(Go::Unwind(problem)) };
        let (mark, keep) = (frame.mark, node.keep_effects);
        if self.runaway || self.token(t)?.is_stuck() {
            return Some(Go::Fail(problem, Trace::None));
        }
        match self.plan(t, code, attempt, &problem) {
            // The filter itself failed: that error replaces the one it was to judge.
            Err(worse) => Some(Go::Fail(worse.at(&node.reference), Trace::None)),
            Ok(Plan::Rethrow) => Some(Go::Fail(problem, Trace::None)),
            Ok(Plan::Retry { delay }) => {
                let then = AfterRollback::Retry { delay };
                let from = if keep { usize::MAX } else { mark };
                self.roll_back(t, from, true, problem, then)
            }
            Ok(Plan::Handle) => {
                let from = if keep { usize::MAX } else { mark };
                self.roll_back(t, from, false, problem, AfterRollback::Handle)
            }
        }
    }

    fn plan(&self, t: TokenId, code: &TryCode, attempt: &Attempt, problem: &Problem) -> Result<Plan, Problem> {
        let error = problem.to_value();
        let extra = [(code.variable.clone(), error.clone())];
        let scope = Scope { extra: &extra, ..self.task_scope(t) };
        let judge = |when: &Option<_>, otherwise: bool| match when {
            Some(when) => scope.expression(when, &error).map(|v| v.is_true()),
            None => Ok(otherwise),
        };
        if !fits(&code.errors, problem, &error) || !judge(&code.when, true)? || judge(&code.except_when, false)? {
            return Ok(Plan::Rethrow);
        }
        if let Some(retry) = &code.retry
            && judge(&retry.when, true)?
            && !judge(&retry.except_when, false)?
            && let Some(delay) = self.delay(t, retry, attempt, &scope)?
        {
            return Ok(Plan::Retry { delay });
        }
        Ok(if code.handler.is_some() || code.retry.is_none() { Plan::Handle } else { Plan::Rethrow })
    }

    /// The delay before the next retry; none when the policy allows no more.
    fn delay(
        &self,
        t: TokenId,
        retry: &RetryCode,
        attempt: &Attempt,
        scope: &Scope<'_>,
    ) -> Result<Option<i64>, Problem> {
        if retry.max_retries.is_some_and(|max| attempt.retries >= max) {
            return Ok(None);
        }
        let input = self.top(t).map(|(frame, _)| frame.input.clone()).unwrap_or_default();
        let millis = |duration: Duration| self.now.plus(duration).since(self.now);
        let base = match &retry.delay {
            Some(delay) => millis(scope.duration(delay, &input)?),
            None => 0,
        };
        let jitter = retry.jitter.map_or(0, |(from, to)| self.jitter(t, attempt.retries, millis(from), millis(to)));
        let delay = grow(base, retry.backoff, attempt.retries + 1).saturating_add(jitter).min(LONGEST_DELAY);
        if let Some(limit) = &retry.max_duration {
            let since = self.now.since(attempt.first_failure.unwrap_or(self.now));
            if since.saturating_add(delay) > millis(scope.duration(limit, &input)?) {
                return Ok(None);
            }
        }
        Ok(Some(delay))
    }

    /// A number between `from` and `to` that only the instance, the place and the attempt decide.
    fn jitter(&self, t: TokenId, retries: u32, from: i64, to: i64) -> i64 {
        let place = self.token(t).map(|token| token.address(self.program)).unwrap_or_default();
        let digest = id::idempotency_key(self.state.id(), &format!("{place}/jitter"), &[], retries);
        let chance = i64::from_str_radix(digest.get(..8).unwrap_or("0"), 16).unwrap_or(0);
        from + chance.rem_euclid((to - from).max(0) + 1)
    }

    /// The `try` or the compensation on top begins another attempt.
    pub fn again(&mut self, t: TokenId) -> Option<Go> {
        let (frame, node) = self.top(t)?;
        if matches!(frame.role, Role::Undo(_)) {
            return self.undo_again(t);
        }
        let Act::Try(code) = &node.act else { return None };
        match self.attempt_deadline(t, code) {
            Ok(deadline) => {
                self.emit(Event::Retried { t, task: node.reference.clone(), deadline });
                Some(code.first.map_or(Go::ListEnd, Go::Enter))
            }
            Err(problem) => Some(Go::Fail(problem.at(&node.reference), Trace::None)),
        }
    }

    /// `catch.do`, or nothing: the error is dealt with.
    pub fn handle(&mut self, t: TokenId, problem: Problem) -> Option<Go> {
        let (frame, node) = self.top(t)?;
        let Act::Try(code) = &node.act else { return None };
        let (input, flow): (Value, Flow) = (frame.input.clone(), code.flow.unwrap_or(node.flow));
        self.emit(Event::Caught { t, task: node.reference.clone(), problem });
        Some(match code.handler {
            Some(Some(first)) => Go::Enter(first),
            Some(None) => Go::ListEnd,
            None => Go::LeaveTo(input, flow),
        })
    }
}

/// Whether an error has all the properties a filter gives; the standard's types are equal under all their prefixes.
fn fits(filter: &[(String, Value)], problem: &Problem, error: &Value) -> bool {
    filter.iter().all(|(name, wanted)| match name.as_str() {
        "type" => wanted.as_str().is_some_and(|wanted| Problem::same_type(wanted, &problem.type_)),
        // The schema of 1.0.3 calls it `details`; the error's property is `detail`.
        "detail" | "details" => error.get("detail").as_ref() == Some(wanted),
        name => error.get(name).as_ref() == Some(wanted),
    })
}
