//! `apply`: the only writer of the state, total over every event.
//!
//! An event that does not fit the state (a corrupt journal) changes nothing: there is no input that makes this panic.

use std::sync::Arc;

use super::event::{AfterRollback, Event, Parked, ReportKind, TokenId, Trace};
use super::notice::Notice;
use super::state::*;
use super::types::Start;
use crate::id;
use crate::problem::Problem;
use crate::program::{Act, Location, NodeId, Program};
use crate::record::JournalEntry;
use crate::time::Timestamp;
use crate::value::Value;

impl State {
    /// Folds journal entries, in order, onto a new state.
    ///
    /// # Errors
    /// A sentence that says which entry cannot be read.
    pub fn replay<'a>(program: &Program, entries: impl IntoIterator<Item = &'a JournalEntry>) -> Result<State, String> {
        let mut state = State::default();
        state.extend(program, entries)?;
        Ok(state)
    }

    /// Folds further journal entries onto this state.
    ///
    /// # Errors
    /// As for [`State::replay`].
    pub fn extend<'a>(
        &mut self,
        program: &Program,
        entries: impl IntoIterator<Item = &'a JournalEntry>,
    ) -> Result<(), String> {
        for entry in entries {
            let events: Vec<Event> = serde_json::from_str(&entry.payload).map_err(|e| {
                format!("step {} of instance {} cannot be read: {e}", entry.seq, entry.workflow_instance_id)
            })?;
            let mut now = entry.timestamp;
            for event in &events {
                now = event.moves_clock().unwrap_or(now);
                self.apply(program, now, event);
            }
            self.seq = entry.seq;
        }
        Ok(())
    }

    /// Applies one event that happened at `at`.
    pub fn apply(&mut self, program: &Program, at: Timestamp, event: &Event) {
        self.now = at;
        match event {
            Event::Started { start, input, deadline } => self.started(start, input.as_ref(), *deadline),
            Event::Received { event, kept } => {
                self.seen.insert(event);
                if *kept {
                    self.inbox.push_back(event.clone());
                    if self.inbox.len() > MAX_INBOX {
                        self.inbox.pop_front();
                    }
                }
            }
            Event::CancelRequested { .. } => self.cancelling = true,
            Event::Suspended {} => self.suspended = Some(at),
            Event::Resumed {} => self.resumed(at),
            Event::Parked { input } => self.parked.push(input.clone()),
            Event::Ended { status, output, problem } => self.ended(at, *status, output.clone(), problem.clone()),
            Event::NoticeDelayed { at } => {
                let tries = self.notice.map_or(1, |notice| notice.tries + 1);
                self.notice = Some(Notice { tries, at: Some(*at) });
            }
            Event::NoticeRepeated {} => {
                if let Some(notice) = &mut self.notice {
                    notice.at = None;
                }
            }
            Event::NoticeEnded { .. } => self.notice = None,
            Event::Skipped { .. } | Event::Held { .. } | Event::Later { .. } => {}
            Event::Reported { t, report, problem } => self.reported(*t, *report, problem.as_ref()),
            Event::Dropped { t } => {
                let stuck = self.tokens.remove(t).is_some_and(|token| token.log.iter().any(Entry::is_stuck));
                self.dropped(*t, stuck);
            }
            Event::Sent { to, number } => {
                self.peers.entry(to.clone()).or_default().sent = *number;
                // What was undone here goes with it.
                if !self.here.is_engine() {
                    self.compensated.clear();
                    self.unresolved.clear();
                }
            }
            Event::Departed { t } => drop(self.tokens.remove(t)),
            Event::Arrived { message, parked } => {
                self.peers.entry(message.from.clone()).or_default().take(message.number);
                self.take_in(message);
                if *parked {
                    self.parked.push(Parked::Message { message: message.clone() });
                } else {
                    self.admit(&message.body);
                }
            }
            Event::Admitted { message } => self.admit(&message.body),
            Event::FencedAway { t, cut } => drop(self.fenced.insert(*t, *cut)),
            Event::Abandoned { remains } => self.abandoned(remains),
            Event::Replaced { replaced } => self.replaced(replaced),
            Event::SuspensionOrdered { order } => self.suspensions = *order,
            Event::RollbackJoined { t } => self.rollback_joined(*t),
            Event::CompensationRetried { t } => self.compensation_retried(*t),
            Event::Forked { t, first, count, at } => self.forked(program, *t, *first, *count, at),
            Event::RollbackForked { t, first, count, at } => self.rollback_forked(*t, *first, *count, at),
            Event::Joined { t, winner, context, at } => self.joined(*t, *winner, context.as_ref(), at),
            Event::Entered { t, task, run, input, deadline } => {
                self.entered(program, *t, task, *run, input.as_ref(), *deadline);
            }
            Event::Completed { t, output, context, .. } => {
                self.completed(program, *t, output.as_ref(), context.as_ref())
            }
            Event::Faulted { t, trace, .. } => self.faulted(program, *t, trace),
            Event::Cancelled { t, .. } => self.cancelled(program, *t),
            Event::Requested { t, task, key, address, request, attempt, compensates, deadline, callback, .. } => {
                let epoch = self.next_epoch(address);
                let request = request.clone().or_else(|| epoch.request.clone());
                epoch.request.clone_from(&request);
                if let (Some(token), Some(request)) = (self.tokens.get_mut(t), request) {
                    token.pending = Pending::Call(Box::new(PendingCall {
                        task: task.clone(),
                        key: key.clone(),
                        request,
                        attempt: *attempt,
                        compensates: compensates.clone(),
                        deadline: *deadline,
                        callback: callback.map(|awaited| Callback { awaited, accepted: None }),
                    }));
                }
            }
            Event::Accepted { t, until, silent, .. } => {
                if let Some(Pending::Call(call)) = self.tokens.get_mut(t).map(|token| &mut token.pending)
                    && let Some(callback) = &mut call.callback
                {
                    callback.accepted = Some(Accepted { since: at, until: *until, silent: *silent });
                }
            }
            Event::Beat { t, silent, .. } => {
                if let Some(Pending::Call(call)) = self.tokens.get_mut(t).map(|token| &mut token.pending)
                    && let Some(accepted) = call.accepted_mut()
                {
                    accepted.silent = Some(*silent);
                }
            }
            Event::LateCallback { key, .. } => {
                if let Some(past) = self.called_back.get_mut(key) {
                    past.late = true;
                }
            }
            Event::ChildRequested { t, address, child } => {
                self.next_epoch(address);
                self.wait_for(*t, Pending::Child(Box::new(child.clone())));
            }
            Event::Emitted { address, .. } => {
                self.next_epoch(address).settled = true;
            }
            Event::Undoing { t, .. } => self.begin_undo(at, *t),
            Event::Draining { t } => self.draining(*t),
            Event::Undone { t, task } => self.undone(*t, task),
            Event::Unresolved { t, reason, halt, .. } => self.unresolved(*t, reason, *halt),
            Event::Halted { t } => self.halted(*t),
            _ => {
                if let Some(token) = token_of(event).and_then(|t| self.tokens.get_mut(&t)) {
                    token.apply(at, event);
                    if let Event::Consumed { taken: Some(position), .. } = event {
                        self.inbox.remove(*position as usize);
                    }
                }
            }
        }
    }

    fn started(&mut self, start: &Start, input: Option<&Value>, deadline: Option<Timestamp>) {
        let data = input.unwrap_or(&start.input).clone();
        self.start = Some(Arc::new(start.clone()));
        self.started_at = self.now;
        self.deadline = deadline;
        self.tokens.insert(ROOT, Token { context: data.clone(), data, ..Token::default() });
        self.next_token = 1;
        self.next_run = 1;
    }

    /// Deadlines stand still while an instance is suspended; waits for a point in time do not.
    fn resumed(&mut self, at: Timestamp) {
        let Some(since) = self.suspended.take() else { return };
        let pause = at.since(since).max(0);
        self.deadline = self.deadline.map(|deadline| deadline.plus_millis(pause));
        self.tokens.values_mut().for_each(|token| token.extend_deadlines(pause));
        self.parked.clear();
    }

    fn ended(&mut self, at: Timestamp, status: crate::record::Status, output: Option<Value>, problem: Option<Problem>) {
        let root = self.tokens.remove(&ROOT).unwrap_or_default();
        let output = (status == crate::record::Status::Completed).then(|| output.unwrap_or(root.data));
        self.ended = Some(Ended { status, at, output, problem, context: root.context });
        self.inbox.clear();
        self.suspended = None;
        let wanted = self.start.as_ref().is_some_and(|start| start.notify.is_some());
        self.notice = wanted.then(Notice::default);
    }

    fn entered(
        &mut self,
        program: &Program,
        t: TokenId,
        task: &str,
        run: u32,
        input: Option<&Value>,
        deadline: Option<Timestamp>,
    ) {
        let now = self.now;
        self.next_run = self.next_run.max(run.saturating_add(1));
        let (Some(token), Some(node)) = (self.tokens.get_mut(&t), program.find(task)) else { return };
        let raw = token.data.clone();
        let input = input.unwrap_or(&raw).clone();
        token.data = input.clone();
        let role = match &program.node(node).act {
            Act::Try(_) => Role::Try(Attempt::default()),
            Act::Function { .. } => Role::Function,
            Act::Listen(_) => Role::Listen(Box::default()),
            _ => Role::Plain,
        };
        token.frames.push(Frame { node, run, raw, input, started: now, deadline, mark: token.log.len(), role });
    }

    fn completed(&mut self, program: &Program, t: TokenId, output: Option<&Value>, context: Option<&Value>) {
        let Some(address) = self.tokens.get(&t).map(|token| token.address(program)) else { return };
        self.settle(&address);
        self.called_back(t, true);
        let address = self.tokens.get(&t).and_then(|token| called(program, token, &address)).unwrap_or(address);
        let undoable = |token: &Token| token.top().is_some_and(|frame| program.node(frame.node).undo.is_some());
        let key = self.tokens.get(&t).filter(|token| undoable(token)).map(|token| self.key_of(token, &address));
        let Some(token) = self.tokens.get_mut(&t) else { return };
        let Some(frame) = token.frames.pop() else { return };
        token.pending = Pending::Nothing;
        if let Some(output) = output {
            token.data = output.clone();
        }
        if let Some(context) = context {
            token.context = context.clone();
        }
        token.forget_unknown(&address);
        if let Some(key) = key {
            // The task's own compensation undoes all that happened in it.
            token.log.truncate(frame.mark);
            token.log.push(frame.done(key, address, token.data.clone(), true));
        }
    }

    fn faulted(&mut self, program: &Program, t: TokenId, trace: &Trace) {
        let Some(token) = self.tokens.get(&t) else { return };
        let address = token.address(program);
        // A sub-workflow that nobody waits for any more is cancelled: a repeat needs another one.
        let child = matches!(token.pending, Pending::Child(_));
        if child || matches!(trace, Trace::Settled | Trace::Done(_)) {
            self.settle(&address);
        }
        self.called_back(t, matches!(trace, Trace::Settled | Trace::Done(_)));
        let done = matches!(trace, Trace::Done(_));
        let token = self.tokens.get(&t).filter(|_| done);
        let address = token.and_then(|token| called(program, token, &address)).unwrap_or(address);
        let kept = matches!(trace, Trace::Indeterminate | Trace::Done(_));
        let key = self.tokens.get(&t).filter(|_| kept).map(|token| self.key_of(token, &address));
        let Some(token) = self.tokens.get_mut(&t) else { return };
        let Some(frame) = token.frames.pop() else { return };
        token.pending = Pending::Nothing;
        let (output, certain) = match trace {
            Trace::Settled => return token.forget_unknown(&address),
            Trace::Indeterminate => (Value::NULL, false),
            Trace::Done(raw) => (raw.clone(), true),
            Trace::NotSent | Trace::None => return,
        };
        // The compensation may stand at the call, or at the call of the function that it is in.
        let around = token.frames.iter().rev().take_while(|f| matches!(f.role, Role::Function));
        let undoable = std::iter::once(&frame).chain(around).find(|f| program.node(f.node).undo.is_some());
        let entry = undoable.zip(key).map(|(frame, key)| frame.done(key, address.clone(), output, certain));
        if certain || entry.is_some() {
            token.forget_unknown(&address);
        }
        if certain && program.node(frame.node).undo.is_some() {
            token.log.truncate(frame.mark);
        }
        token.log.extend(entry);
    }

    fn cancelled(&mut self, program: &Program, t: TokenId) {
        let in_flight = self.tokens.get(&t).is_some_and(|token| matches!(token.pending, Pending::Call(_)));
        self.faulted(program, t, if in_flight { &Trace::Indeterminate } else { &Trace::None });
    }

    /// Remembers a call of the task on top that awaited a callback, and whether it was answered.
    fn called_back(&mut self, t: TokenId, answered: bool) {
        let Some(Pending::Call(call)) = self.tokens.get(&t).map(|token| &token.pending) else { return };
        if call.callback.is_some() {
            let past = Past { task: call.task.clone(), answered, late: false };
            self.called_back.insert(call.key.clone(), past);
        }
    }

    fn next_epoch(&mut self, address: &str) -> &mut Epoch {
        let epoch = self.epochs.entry(address.to_owned()).or_default();
        if epoch.settled {
            *epoch = Epoch { number: epoch.number + 1, ..Epoch::default() };
        }
        epoch
    }

    fn settle(&mut self, address: &str) {
        if let Some(epoch) = self.epochs.get_mut(address) {
            epoch.settled = true;
            epoch.request = None;
        }
    }

    /// The key of what a token did last at an address. While it waits for a call, that is the one.
    fn key_of(&self, token: &Token, address: &str) -> String {
        match &token.pending {
            Pending::Call(call) => call.key.clone(),
            _ => id::idempotency_key(self.id(), address, &[], self.epochs.get(address).map_or(0, |e| e.number)),
        }
    }

    fn wait_for(&mut self, t: TokenId, pending: Pending) {
        if let Some(token) = self.tokens.get_mut(&t) {
            token.pending = pending;
        }
    }

    fn forked(&mut self, program: &Program, t: TokenId, first: TokenId, count: u32, at: &Location) {
        let Some(parent) = self.tokens.get_mut(&t) else { return };
        let race = parent.top().is_some_and(|f| matches!(program.node(f.node).act, Act::Fork { compete: true, .. }));
        let variables = super::scope::variables(program, parent);
        let branch = Token {
            data: parent.data.clone(),
            context: parent.context.clone(),
            variables,
            base: parent.place(program),
            deadline: parent.soonest_deadline(),
            retries: parent.attempts_before(),
            fence: parent.fence,
            ..Token::default()
        };
        parent.pending = Pending::Join(Box::new(Join { first: first.0, count, arrived: Default::default() }));
        for index in 0..count {
            let home = Home::Branch { at: at.clone(), parent: t, index, race };
            self.tokens.insert(TokenId(first.0 + index), Token { home, ..branch.clone() });
        }
        self.next_token = first.0 + count;
    }

    fn reported(&mut self, t: TokenId, kind: ReportKind, problem: Option<&Problem>) {
        let Some(token) = self.tokens.remove(&t) else { return };
        let Home::Branch { parent, index, .. } = token.home else { return };
        let Some(Pending::Join(join)) = self.tokens.get_mut(&parent).map(|p| &mut p.pending) else { return };
        let Token { data, context, log, .. } = token;
        join.arrived.insert(index, Arrival { kind, problem: problem.cloned(), data, context, log });
    }

    fn joined(&mut self, t: TokenId, winner: Option<u32>, context: Option<&Value>, at: &Location) {
        let Some(token) = self.tokens.get_mut(&t) else { return };
        let Pending::Join(mut join) = std::mem::take(&mut token.pending) else { return };
        // A task's deadline has done what it had to; the workflow's is over for good.
        token.timed_out = token.timed_out.filter(|over| over.depth.is_none());
        if let Some(context) = context {
            token.context = context.clone();
        }
        let losers = join.missing();
        match winner.and_then(|index| join.arrived.remove(&index)) {
            Some(won) => {
                token.data = won.data;
                if join.arrived.values().flat_map(|dropped| &dropped.log).any(Entry::is_stuck) {
                    token.log.push(Entry::Stuck);
                }
                self.losers.extend(&losers);
                for id in &losers {
                    if let Some(loser) = self.tokens.get_mut(id) {
                        loser.home = Home::None { at: at.clone() };
                    }
                }
                if let Some(token) = self.tokens.get_mut(&t) {
                    // The winner's work and the losers' stand side by side; both come before what was before the race.
                    if !losers.is_empty() {
                        token.log.push(Entry::Race { at: at.clone(), losers });
                    }
                    token.log.extend(won.log);
                }
            }
            None => {
                let ended = join.arrived.values().find(|a| a.kind == ReportKind::Ended);
                if let Some(ended) = ended {
                    token.data = ended.data.clone();
                } else if join.arrived.values().all(|a| a.kind == ReportKind::Completed) {
                    token.data = Value::array(join.arrived.values().map(|a| a.data.clone()));
                }
                let logs: Vec<_> = join.arrived.into_values().map(|a| a.log).filter(|log| !log.is_empty()).collect();
                if !logs.is_empty() {
                    token.log.push(Entry::Parallel(logs));
                }
            }
        }
    }

    fn rollback_forked(&mut self, t: TokenId, first: TokenId, count: u32, at: &Location) {
        let Some(parent) = self.tokens.get_mut(&t) else { return };
        let Some(rollback) = parent.rollbacks.last_mut() else { return };
        let Some(Entry::Parallel(branches)) = rollback.todo.pop() else { return };
        let problem = rollback.problem.clone();
        let context = parent.context.clone();
        parent.pending = Pending::RollbackJoin((first.0..first.0 + count).map(TokenId).collect());
        for (index, todo) in (0..count).zip(branches) {
            let rollback = Rollback { todo, problem: problem.clone(), then: AfterRollback::Join };
            let side = Token {
                context: context.clone(),
                home: Home::Rollback { at: at.clone(), parent: t },
                rollbacks: vec![rollback],
                ..Token::default()
            };
            self.tokens.insert(TokenId(first.0 + index), side);
        }
        self.next_token = first.0 + count;
    }

    fn rollback_joined(&mut self, t: TokenId) {
        let Some(side) = self.tokens.remove(&t) else { return };
        let Home::Rollback { parent, .. } = side.home else { return };
        self.side_joined(parent, t, side.halted);
    }

    pub(super) fn side_joined(&mut self, parent: TokenId, t: TokenId, halted: bool) {
        let Some(token) = self.tokens.get_mut(&parent) else { return };
        token.halted |= halted;
        if let Pending::RollbackJoin(left) = &mut token.pending {
            left.remove(&t);
            if left.is_empty() {
                token.pending = Pending::Nothing;
                if token.halted {
                    self.halt(parent, "a task that ran after it could not be undone");
                }
            }
        }
    }

    pub(super) fn dropped(&mut self, t: TokenId, stuck: bool) {
        self.losers.remove(&t);
        if stuck {
            self.stuck.insert(t);
            self.tokens.values_mut().for_each(|token| token.loser_stuck(t));
        }
    }

    fn undone(&mut self, t: TokenId, task: &Arc<str>) {
        let Some(token) = self.tokens.get_mut(&t) else { return };
        token.pending = Pending::Nothing;
        if let Some(Frame { role: Role::Undo(_), .. }) = token.frames.pop() {
            self.compensated.push(task.clone());
        }
    }

    /// Once its undoing begins, nothing is asked for again under the key of the work.
    fn begin_undo(&mut self, at: Timestamp, t: TokenId) {
        let address = self.tokens.get_mut(&t).and_then(|token| {
            token.begin_undo(at);
            Some(token.undoing()?.task.address.clone())
        });
        if let Some(address) = address {
            self.settle(&address);
        }
    }

    fn draining(&mut self, t: TokenId) {
        let Some(token) = self.tokens.get_mut(&t) else { return };
        let Some(rollback) = token.rollbacks.last_mut() else { return };
        let Some(Entry::Race { losers, .. }) = rollback.todo.pop() else { return };
        // The token may not have been here to be told.
        if losers.iter().any(|loser| self.stuck.contains(loser)) && !matches!(rollback.todo.last(), Some(Entry::Stuck))
        {
            rollback.todo.push(Entry::Stuck);
        }
        token.pending = Pending::Drain(losers);
    }

    fn unresolved(&mut self, t: TokenId, reason: &str, halt: bool) {
        let Some(token) = self.tokens.get_mut(&t) else { return };
        token.pending = Pending::Nothing;
        if let Some(Frame { role: Role::Undo(undoing), .. }) = token.frames.pop() {
            self.unresolved.push((Entry::Task(undoing.task), reason.to_owned()));
        }
        if halt {
            self.halted(t);
        }
    }

    fn halted(&mut self, t: TokenId) {
        if let Some(token) = self.tokens.get_mut(&t) {
            token.halted = true;
            self.halt(t, "a task that ran after it could not be undone");
        }
    }

    /// Leaves the rest of a token's rollback as it is, and names it.
    fn halt(&mut self, t: TokenId, reason: &str) {
        let Some(rollback) = self.tokens.get_mut(&t).and_then(|token| token.rollbacks.last_mut()) else { return };
        let rest = std::mem::take(&mut rollback.todo);
        let rest = rest.into_iter().rev().filter_map(Entry::freed);
        self.unresolved.extend(rest.map(|entry| (entry, reason.to_owned())));
    }

    fn compensation_retried(&mut self, t: TokenId) {
        let entries = std::mem::take(&mut self.unresolved);
        let ended = self.ended.as_ref();
        let cancelled = || crate::problem::Kind::Runtime.problem("the instance was cancelled");
        let rollback = Rollback {
            todo: entries.into_iter().rev().map(|(entry, _)| entry).collect(),
            problem: ended.and_then(|e| e.problem.clone()).unwrap_or_else(cancelled),
            then: AfterRollback::Drop,
        };
        let context = ended.map(|e| e.context.clone()).unwrap_or_default();
        self.tokens.insert(
            t,
            Token { context, home: Home::None { at: Location::Engine }, rollbacks: vec![rollback], ..Token::default() },
        );
        self.next_token = t.0 + 1;
    }
}

impl Token {
    /// Events that touch one token alone.
    fn apply(&mut self, at: Timestamp, event: &Event) {
        match event {
            Event::Called { data, .. } => self.data = data.clone(),
            Event::Looped { index, items, .. } => {
                if let Some(frame) = self.frames.last_mut() {
                    let items = match (&frame.role, items) {
                        (_, Some(items)) => items.clone(),
                        (Role::For { items, .. }, None) => items.clone(),
                        _ => Value::NULL,
                    };
                    frame.role = Role::For { items, index: *index };
                }
            }
            Event::Waiting { until, .. } => self.pending = Pending::Time(*until),
            Event::Listening { .. } => self.pending = Pending::Events,
            Event::Consumed { .. } => self.consumed(event),
            Event::Foreach { item, index, .. } => {
                self.pending = Pending::Nothing;
                self.data = item.clone();
                if let Some(listening) = self.listening() {
                    listening.queue.pop_front();
                    listening.current = Some((item.clone(), *index));
                    listening.next = *index;
                }
            }
            Event::ForeachDone { output, context, .. } => {
                if let Some(context) = context {
                    self.context = context.clone();
                }
                if let Some(listening) = self.listening() {
                    listening.results.push(output.clone());
                    listening.current = None;
                    listening.next += 1;
                }
                self.pending = Pending::Events;
            }
            Event::Fenced { cut, .. } => self.fence = if *cut { Fence::Cut } else { Fence::Drain },
            Event::TimedOut { depth, attempt, .. } => {
                self.timed_out = Some(TimedOut { depth: *depth, attempt: *attempt });
            }
            Event::RetryScheduled { at: when, .. } => {
                self.pending = Pending::Backoff(*when);
                if let Some(attempt) = self.attempt() {
                    attempt.first_failure.get_or_insert(at);
                    attempt.deadline = None;
                }
            }
            Event::Retried { deadline, .. } => {
                self.pending = Pending::Nothing;
                self.restart_try();
                if let Some(attempt) = self.attempt() {
                    attempt.retries += 1;
                    attempt.deadline = *deadline;
                }
            }
            Event::AttemptLimited { deadline, .. } => {
                if let Some(attempt) = self.attempt() {
                    attempt.deadline = Some(*deadline);
                }
            }
            Event::Caught { problem, .. } => {
                self.restart_try();
                if let Some(attempt) = self.attempt() {
                    attempt.handling = true;
                    attempt.error = Some(problem.to_value());
                }
            }
            Event::RollingBack { from, keep_indeterminate, problem, then, .. } => {
                self.roll_back(*from as usize, *keep_indeterminate, problem, then);
            }
            Event::UndoDelayed { at: when, .. } => {
                self.pending = Pending::Backoff(*when);
                if let Some(Frame { role: Role::Undo(undoing), .. }) = self.frames.last_mut() {
                    undoing.first_failure.get_or_insert(at);
                    undoing.retries += 1;
                }
            }
            Event::UndoRetried { .. } => {
                self.pending = Pending::Nothing;
                if let Some(Frame { role: Role::Undo(undoing), .. }) = self.frames.last() {
                    self.data = undoing.input();
                }
            }
            Event::Drained { .. } => self.pending = Pending::Nothing,
            Event::RolledBack { .. } => {
                self.pending = Pending::Nothing;
                let done = self.rollbacks.pop();
                // A part of another token's rollback tells that one.
                if self.halted && done.is_some_and(|done| done.then != AfterRollback::Join) {
                    self.halted = false;
                    self.log.push(Entry::Stuck);
                }
            }
            Event::Hastened { .. } => {
                if let Pending::Backoff(when) = &mut self.pending {
                    *when = at;
                }
            }
            _ => {}
        }
    }

    fn consumed(&mut self, event: &Event) {
        let Event::Consumed { run, filter, item, correlation, done, .. } = event else { return };
        let listening = self.frames.iter_mut().find_map(|f| match &mut f.role {
            Role::Listen(listening) if f.run == *run => Some(listening),
            _ => None,
        });
        let Some(listening) = listening else { return };
        listening.matched.insert(*filter);
        listening.correlation.extend(correlation.iter().cloned());
        listening.done = *done;
        if let Some(item) = item {
            listening.items.push(item.clone());
            listening.queue.push_back(item.clone());
        }
    }

    fn listening(&mut self) -> Option<&mut Listening> {
        match &mut self.frames.last_mut()?.role {
            Role::Listen(listening) => Some(listening),
            _ => None,
        }
    }

    fn attempt(&mut self) -> Option<&mut Attempt> {
        match &mut self.frames.last_mut()?.role {
            Role::Try(attempt) => Some(attempt),
            _ => None,
        }
    }

    fn restart_try(&mut self) {
        if let Some(frame) = self.frames.last() {
            self.data = frame.input.clone();
        }
    }

    fn roll_back(&mut self, from: usize, keep_indeterminate: bool, problem: &Problem, then: &AfterRollback) {
        let undone = self.log.split_off(from.min(self.log.len()));
        let keeps = |entry: &Entry| keep_indeterminate && matches!(entry, Entry::Task(done) if !done.certain);
        let (kept, todo) = undone.into_iter().partition(keeps);
        self.log.extend::<Vec<Entry>>(kept);
        self.pending = Pending::Nothing;
        self.rollbacks.push(Rollback { todo, problem: problem.clone(), then: then.clone() });
    }

    fn begin_undo(&mut self, at: Timestamp) {
        let Some(rollback) = self.rollbacks.last_mut() else { return };
        let Some(Entry::Task(done)) = rollback.todo.pop() else { return };
        let undoing = Undoing { task: done, retries: 0, first_failure: None, problem: rollback.problem.clone() };
        let input = undoing.input();
        self.data = input.clone();
        self.frames.push(Frame {
            node: undoing.task.node,
            run: undoing.task.run,
            raw: input.clone(),
            input,
            started: at,
            deadline: None,
            mark: self.log.len(),
            role: Role::Undo(Box::new(undoing)),
        });
    }

    /// Drops the entry of an earlier, unknown outcome at the same address: it is known now, or asked for again.
    fn forget_unknown(&mut self, address: &str) {
        let unknown = |entry: &Entry| matches!(entry, Entry::Task(done) if !done.certain && done.address == address);
        while let Some(position) = self.log.iter().position(unknown) {
            self.log.remove(position);
            for frame in self.frames.iter_mut().filter(|f| f.mark > position) {
                frame.mark -= 1;
            }
        }
    }
}

impl Undoing {
    /// The raw input of a compensation.
    fn input(&self) -> Value {
        Value::object([
            ("input", self.task.input.clone()),
            ("output", self.task.output.clone()),
            ("error", self.problem.to_value()),
        ])
    }
}

impl Frame {
    fn done(&self, key: String, address: String, output: Value, certain: bool) -> Entry {
        let Frame { node, run, input, .. } = self;
        Entry::Task(Arc::new(Done {
            node: *node as NodeId,
            run: *run,
            key,
            address,
            input: input.clone(),
            output,
            certain,
            kept: Default::default(),
        }))
    }
}

/// The address of the call that a function on top consists of: a service knows its key, not the function's.
fn called(program: &Program, token: &Token, address: &str) -> Option<String> {
    let Act::Function { body, .. } = &program.node(token.top()?.node).act else { return None };
    let body = program.node(*body);
    matches!(body.act, Act::Http(_) | Act::OpenApi(_)).then(|| format!("{address}>{}", body.reference))
}

/// The token an event is about, for the events that touch one token alone.
fn token_of(event: &Event) -> Option<TokenId> {
    match event {
        Event::Called { t, .. }
        | Event::Looped { t, .. }
        | Event::Waiting { t, .. }
        | Event::Listening { t, .. }
        | Event::Consumed { t, .. }
        | Event::Foreach { t, .. }
        | Event::ForeachDone { t, .. }
        | Event::Fenced { t, .. }
        | Event::TimedOut { t, .. }
        | Event::RetryScheduled { t, .. }
        | Event::Retried { t, .. }
        | Event::AttemptLimited { t, .. }
        | Event::Caught { t, .. }
        | Event::RollingBack { t, .. }
        | Event::UndoDelayed { t, .. }
        | Event::UndoRetried { t, .. }
        | Event::Drained { t, .. }
        | Event::RolledBack { t, .. }
        | Event::Hastened { t, .. } => Some(*t),
        _ => None,
    }
}
