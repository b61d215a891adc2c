//! `fork`: branches side by side, and the join where each of them comes home, whatever happened to it.
//!
//! Without `compete` the output is the array of the branches' outputs in declared order, and their exports are merged
//! in that order. The first fault fences the siblings; when all are home, the fork raises the error of the
//! lowest-indexed branch that failed. With `compete` the first branch to complete wins; a failed one only drops out,
//! and whatever a loser did is undone as it comes home. The workflow does not wait for losers.

use std::collections::BTreeMap;

use crate::engine::event::{Event, ReportKind, TokenId, Trace};
use crate::engine::machine::{Go, Machine};
use crate::engine::state::{Arrival, Fence, Join, Pending};
use crate::problem::Problem;
use crate::program::{Act, NodeId};
use crate::value::Value;

impl Machine<'_> {
    pub fn fork(&mut self, t: TokenId, branches: &[NodeId]) -> Go {
        if branches.is_empty() {
            return Go::Leave(Value::array([]));
        }
        let first = TokenId(self.next_token());
        let count = u32::try_from(branches.len()).unwrap_or(u32::MAX);
        let at = self.host.here.clone();
        self.emit(Event::Forked { t, first, count, at });
        for (index, branch) in (first.0..).zip(branches) {
            self.schedule(TokenId(index), Go::Enter(*branch));
        }
        Go::Wait
    }

    /// Looks at what has come home.
    pub fn join(&mut self, t: TokenId) -> Option<Go> {
        let (_, node) = self.top(t)?;
        let token = self.token(t)?;
        let Pending::Join(join) = &token.pending else { return None };
        let Act::Fork { compete, .. } = &node.act else { return None };
        let home = join.arrived.len() as u32 == join.count;
        let stopped = token.fence != Fence::Open || token.timed_out.is_some();
        if stopped {
            return if home { self.join_stopped(t) } else { None };
        }
        if *compete { self.join_race(t, home) } else { self.join_all(t, home) }
    }

    /// All branches are home of a fork that was fenced, or whose time is over.
    fn join_stopped(&mut self, t: TokenId) -> Option<Go> {
        let over = self.token(t)?.timed_out;
        self.emit(Event::Joined { t, winner: None, context: None, at: self.host.here.clone() });
        match over {
            Some(over) if self.token(t)?.fence == Fence::Open => match over.depth {
                Some(depth) => self.time_out_at(t, depth as usize, over.attempt),
                None => Some(Go::Home),
            },
            _ => Some(Go::Home),
        }
    }

    fn join_all(&mut self, t: TokenId, home: bool) -> Option<Go> {
        let Pending::Join(join) = &self.token(t)?.pending else { return None };
        let broken = join.arrived.values().any(|a| a.kind != ReportKind::Completed);
        if !home {
            if broken {
                self.fence_rest(t);
            }
            return None;
        }
        let ended = join.arrived.values().any(|a| a.kind == ReportKind::Ended);
        let problem = first_problem(join);
        let context = if broken && !ended { None } else { self.merged(t, join) };
        self.emit(Event::Joined { t, winner: None, context, at: self.host.here.clone() });
        match problem {
            _ if ended => Some(Go::End),
            Some(problem) => Some(Go::Fail(problem, Trace::None)),
            None => Some(Go::Leave(self.data(t))),
        }
    }

    fn join_race(&mut self, t: TokenId, home: bool) -> Option<Go> {
        let Pending::Join(join) = &self.token(t)?.pending else { return None };
        let wins = |a: &Arrival| matches!(a.kind, ReportKind::Completed | ReportKind::Ended);
        let winner = join.arrived.iter().find(|(_, a)| wins(a)).map(|(index, a)| (*index, a.kind, a.context.clone()));
        let Some((winner, kind, context)) = winner else {
            if !home {
                return None;
            }
            let problem = first_problem(join);
            self.emit(Event::Joined { t, winner: None, context: None, at: self.host.here.clone() });
            return Some(problem.map_or(Go::Home, |problem| Go::Fail(problem, Trace::None)));
        };
        let losers = join.missing();
        let context = (self.token(t)?.context != context).then_some(context);
        self.emit(Event::Joined { t, winner: Some(winner), context, at: self.host.here.clone() });
        for loser in losers {
            self.fence(loser, false);
        }
        Some(if kind == ReportKind::Ended { Go::End } else { Go::Leave(self.data(t)) })
    }

    fn fence_rest(&mut self, t: TokenId) {
        let Some(Pending::Join(join)) = self.token(t).map(|token| &token.pending) else { return };
        for branch in join.missing() {
            self.fence(branch, false);
        }
    }

    /// The context after a join: each branch's changed or removed top-level properties, in declared order. Where a
    /// context is no object, the last branch that changed it wins. What a cancelled branch exported is left out.
    fn merged(&self, t: TokenId, join: &Join) -> Option<Value> {
        let before = &self.token(t)?.context;
        let mut after = before.clone();
        let kept = |a: &&Arrival| matches!(a.kind, ReportKind::Completed | ReportKind::Ended) && a.context != *before;
        for arrival in join.arrived.values().filter(kept) {
            after = match (before.entries(), after.entries(), arrival.context.entries()) {
                (Some(old), Some(merged), Some(new)) => {
                    let old: BTreeMap<String, Value> = old.into_iter().collect();
                    let new_keys: BTreeMap<&str, ()> = new.iter().map(|(k, _)| (k.as_str(), ())).collect();
                    let removed = |key: &str| old.contains_key(key) && !new_keys.contains_key(key);
                    let kept = merged.into_iter().filter(|(key, _)| !removed(key));
                    let changed = new.iter().filter(|(key, value)| old.get(key) != Some(value));
                    changed.fold(Value::object(kept), |all, (key, value)| all.with(key, value.clone()))
                }
                _ => arrival.context.clone(),
            };
        }
        (after != *before).then_some(after)
    }
}

fn first_problem(join: &Join) -> Option<Problem> {
    join.arrived.values().find_map(|a| a.problem.clone())
}
