//! The machine at work: it moves ready tokens until each waits for something.
//!
//! Every move is an event, emitted through [`Machine::emit`], which applies it at once: `decide` sees exactly the state
//! that a replay would see. The moves are a trampoline ([`Go`]), so that no definition, however deep or long, grows the
//! stack.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::{AfterRollback, Event, ReportKind, TokenId, Trace};
use super::message::{Errand, Message};
use super::rows;
use super::scope::Scope;
use super::state::*;
use super::types::{CallId, Host};
use crate::event::CloudEvent;
use crate::problem::{Kind, Problem};
use crate::program::{Act, Flow, Location, Node, NodeId, Program};
use crate::record::{ServiceTask, Status};
use crate::time::Timestamp;
use crate::value::Value;

/// Tasks run in one step, at most. A definition that jumps in circles without ever waiting is stopped here instead of
/// holding its partition for ever.
const MAX_RUNS_PER_STEP: u32 = 100_000;

/// What a message that is too large counts as, in tasks run: it was written to be measured, which takes as long.
const OVERSIZE_RUNS: u32 = 1_000;

/// More events than most steps have.
const EVENTS: usize = 6;

/// How deep tasks may nest at run time (functions that call functions included).
const MAX_FRAMES: usize = 128;

pub(super) struct Machine<'a> {
    pub program: &'a Program,
    pub host: &'a Host,
    pub state: &'a mut State,
    pub now: Timestamp,
    pub events: Vec<Event>,
    pub tasks: Vec<ServiceTask>,
    pub publish: Vec<CloudEvent>,
    pub send: Vec<Message>,
    /// Messages that were too large to be sent.
    pub oversize: u32,
    /// Calls whose answers came during a suspension that has just ended, and are being taken up.
    pub answered: Vec<CallId>,
    ready: VecDeque<(TokenId, Go)>,
    runs: u32,
    /// The step ran too many tasks: no `try` catches an error any more, or one that retries at once would go on for ever.
    pub runaway: bool,
}

/// What a token does next.
pub(super) enum Go {
    /// Nothing: it waits.
    Wait,
    /// Begin a task with the token's data as raw input.
    Enter(NodeId),
    /// The task on top has this raw output.
    Leave(Value),
    /// As `Leave`, with another directive than the task's own.
    LeaveTo(Value, Flow),
    /// A task of the current list is over.
    Follow(NodeId, Flow),
    /// The current list is over.
    ListEnd,
    /// The workflow is over, from wherever this is.
    End,
    /// The task on top failed.
    Fail(Problem, Trace),
    /// The task on top caught nothing of this error, or is no `try`: its surroundings get it.
    Unwind(Problem),
    /// The `try` on top looks at an error from within.
    Catch(Problem),
    /// The `try` or compensation on top begins another attempt.
    Again,
    /// Undo the next entry.
    Rollback,
    /// Come home without an error.
    Home,
    /// A branch of this token came home.
    Join,
    /// The listen on top has what it needs, or `foreach` can take its next item.
    Listen,
}

impl<'a> Machine<'a> {
    pub fn new(program: &'a Program, host: &'a Host, state: &'a mut State, now: Timestamp) -> Machine<'a> {
        Machine {
            program,
            host,
            state,
            now,
            events: Vec::with_capacity(EVENTS),
            tasks: Vec::new(),
            publish: Vec::new(),
            send: Vec::new(),
            oversize: 0,
            answered: Vec::new(),
            ready: VecDeque::new(),
            runs: 0,
            runaway: false,
        }
    }

    /// Records an event: what it closes becomes a task row, and the state has it at once.
    pub fn emit(&mut self, event: Event) {
        if let Some(row) = rows::closed(self.program, self.state, self.now, &event) {
            self.tasks.push(row);
        }
        self.state.apply(self.program, self.now, &event);
        self.events.push(event);
    }

    pub fn schedule(&mut self, t: TokenId, go: Go) {
        self.ready.push_back((t, go));
    }

    /// Moves every ready token until it waits.
    pub fn run(&mut self) {
        while let Some((t, go)) = self.ready.pop_front() {
            let mut next = Some(go);
            while let Some(go) = next {
                next = self.step(t, go);
            }
        }
    }

    fn step(&mut self, t: TokenId, go: Go) -> Option<Go> {
        // A token may have gone home while it was queued.
        let token = self.state.token(t)?;
        if token.fence != Fence::Open && !token.rolling_back() && go.begins_something() {
            return Some(Go::Home);
        }
        match go {
            Go::Wait => None,
            Go::Enter(node) => self.enter(t, node),
            Go::Leave(output) => self.leave(t, output, None),
            Go::LeaveTo(output, flow) => self.leave(t, output, Some(flow)),
            Go::Follow(node, flow) => Some(match flow {
                Flow::Continue => self.program.node(node).next.map_or(Go::ListEnd, Go::Enter),
                Flow::Exit => Go::ListEnd,
                Flow::End => Go::End,
                Flow::Goto(target) => Go::Enter(target),
            }),
            Go::ListEnd => self.list_end(t),
            Go::End => self.end(t),
            Go::Fail(problem, trace) => self.fail(t, problem, trace),
            Go::Unwind(problem) => self.unwind(t, problem),
            Go::Catch(problem) => self.catch(t, problem),
            Go::Again => self.again(t),
            Go::Rollback => self.rollback(t),
            Go::Home => self.home(t),
            Go::Join => self.join(t),
            Go::Listen => self.listen_on(t),
        }
    }

    pub fn token(&self, t: TokenId) -> Option<&Token> {
        self.state.token(t)
    }

    pub fn data(&self, t: TokenId) -> Value {
        self.token(t).map(|token| token.data.clone()).unwrap_or_default()
    }

    /// The task on top.
    pub fn top(&self, t: TokenId) -> Option<(&Frame, &'a Node)> {
        let frame = self.state.tokens.get(&t)?.top()?;
        Some((frame, self.program.node(frame.node)))
    }

    /// What an expression of the workflow itself sees.
    pub fn scope(&self) -> Scope<'_> {
        Scope {
            program: self.program,
            host: self.host,
            state: self.state,
            now: self.now,
            token: None,
            node: None,
            started: self.now,
            raw: None,
            input: None,
            output: None,
            raw_output: None,
            credentials: None,
            extra: &[],
        }
    }

    /// What an expression of the task on top sees.
    pub fn task_scope(&self, t: TokenId) -> Scope<'_> {
        let scope = Scope { token: self.token(t), ..self.scope() };
        match self.token(t).and_then(Token::top) {
            Some(frame) => scope.with_frame(frame),
            None => scope,
        }
    }

    /// Begins a task: `if`, input schema, `input.from`, then what it does.
    fn enter(&mut self, t: TokenId, id: NodeId) -> Option<Go> {
        // A function's own task runs where the call of the function does, which may be placed elsewhere by its owner.
        let called = self.top(t).is_some_and(|(frame, node)| {
            matches!(node.act, Act::Function { body, .. } if body == id) && !matches!(frame.role, Role::Undo(_))
        });
        if let Some(to) = self.away(id).filter(|_| !called) {
            return self.depart(t, to, Errand::Enter(id));
        }
        let node = self.program.node(id);
        let raw = self.data(t);
        let task = node.reference.clone();
        self.runs += 1;
        let scope = Scope { token: self.token(t), node: Some(node), raw: Some(&raw), ..self.scope() };
        let wanted = node.condition.as_ref().map_or(Ok(true), |c| scope.expression(c, &raw).map(|v| v.is_true()));
        if wanted == Ok(false) {
            self.emit(Event::Skipped { t, task });
            return Some(Go::Follow(id, Flow::Continue));
        }
        let within = self.limits(t, node);
        let scope = Scope { token: self.token(t), node: Some(node), raw: Some(&raw), ..self.scope() };
        let input = wanted.and(within).and_then(|()| {
            check(node.input.schema.as_ref(), &raw, "input", &node.reference)?;
            node.input.transform.as_ref().map(|from| scope.template(from, &raw)).transpose()
        });
        let limited = input.and_then(|input| {
            let transformed = input.as_ref().unwrap_or(&raw);
            let scope = Scope { input: Some(transformed), ..scope };
            let deadline = node.timeout.as_ref().map(|d| scope.duration(d, transformed)).transpose()?;
            Ok((deadline.map(|d| self.now.plus(d)), input))
        });
        let run = self.next_run();
        match limited {
            Ok((deadline, input)) => {
                self.emit(Event::Entered { t, task, run, input, deadline });
                Some(self.act(t, node))
            }
            Err(problem) => {
                self.emit(Event::Entered { t, task, run, input: None, deadline: None });
                Some(Go::Fail(problem, Trace::None))
            }
        }
    }

    /// A task that cannot be handed to the location that it belongs to fails here.
    pub fn enter_in_vain(&mut self, t: TokenId, id: NodeId, problem: Problem) -> Go {
        let node = self.program.node(id);
        self.runs += OVERSIZE_RUNS;
        let problem = self.limits(t, node).err().unwrap_or_else(|| problem.at(&node.reference));
        let run = self.next_run();
        self.emit(Event::Entered { t, task: node.reference.clone(), run, input: None, deadline: None });
        Go::Fail(problem, Trace::None)
    }

    /// The task that a token has just left, as far as this step knows.
    pub fn last_task(&self, t: TokenId) -> Arc<str> {
        let left = self.events.iter().rev().find_map(|event| match event {
            Event::Completed { t: token, task, .. } | Event::Skipped { t: token, task } if *token == t => Some(task),
            _ => None,
        });
        left.cloned().unwrap_or_default()
    }

    fn limits(&mut self, t: TokenId, node: &Node) -> Result<(), Problem> {
        let too_much = |what: String| Err(Kind::Runtime.problem(what).at(&node.reference));
        if self.runs > MAX_RUNS_PER_STEP {
            self.runaway = true;
            // What is to be undone now may still run.
            self.runs = 0;
            return too_much(format!("{MAX_RUNS_PER_STEP} tasks ran without waiting for anything: a jump in circles?"));
        }
        if self.is_out_of_numbers() {
            return too_much("the instance began 16 million tasks at one location: split it into sub-workflows".into());
        }
        if self.token(t).is_some_and(|token| token.frames.len() >= MAX_FRAMES) {
            return too_much(format!("tasks nest deeper than {MAX_FRAMES}"));
        }
        Ok(())
    }

    /// Performs a task's own operation; one file each in `task/`.
    fn act(&mut self, t: TokenId, node: &'a Node) -> Go {
        let done = match &node.act {
            Act::Do { first } => Ok(first.map_or_else(|| Go::Leave(self.data(t)), Go::Enter)),
            Act::Set(template) => self.task_scope(t).template(template, &self.data(t)).map(Go::Leave),
            Act::Switch(cases) => self.switch(t, node, cases),
            Act::For(code) => self.begin_loop(t, code),
            Act::Fork { branches, .. } => Ok(self.fork(t, branches)),
            Act::Try(code) => self.begin_try(t, code),
            Act::Raise(code) => self.raise(t, code),
            Act::Wait(duration) => self.wait(t, duration),
            Act::Http(code) => self.http(t, code),
            Act::OpenApi(code) => self.openapi(t, code),
            Act::Function { body, with } => self.function(t, *body, with),
            Act::Emit(template) => self.emit_event(t, template),
            Act::Listen(_) => Ok(self.begin_listen(t)),
            Act::Run(code) => self.run_workflow(t, code),
        };
        done.unwrap_or_else(|problem| Go::Fail(problem.at(&node.reference), Trace::None))
    }

    /// Ends a task: `output.as`, output schema, `export.as`, export schema, `then`.
    fn leave(&mut self, t: TokenId, raw: Value, flow: Option<Flow>) -> Option<Go> {
        let (_, node) = self.top(t)?;
        match self.transform(t, node, &raw) {
            Ok((output, context)) => {
                let id = self.top(t)?.0.node;
                let output = (output != self.data(t)).then_some(output);
                let run = self.top(t)?.0.run;
                self.emit(Event::Completed { t, task: node.reference.clone(), run, output, context });
                Some(Go::Follow(id, flow.unwrap_or(node.flow)))
            }
            Err(problem) => {
                let called = matches!(self.token(t)?.pending, Pending::Call(_) | Pending::Child(_));
                let done = called || node.undo.is_some();
                Some(Go::Fail(problem.at(&node.reference), if done { Trace::Done(raw) } else { Trace::None }))
            }
        }
    }

    fn transform(&self, t: TokenId, node: &Node, raw: &Value) -> Result<(Value, Option<Value>), Problem> {
        let token = self.token(t);
        let credentials = token.and_then(|token| match &token.pending {
            Pending::Call(call) => call.request.credentials(),
            _ => None,
        });
        let scope = Scope { credentials, raw_output: Some(raw), output: Some(raw), ..self.task_scope(t) };
        let output = match &node.output.transform {
            Some(template) => scope.template(template, raw)?,
            None => raw.clone(),
        };
        check(node.output.schema.as_ref(), &output, "output", &node.reference)?;
        let context = match &node.export.transform {
            Some(template) => Some(Scope { output: Some(&output), ..scope }.template(template, &output)?),
            None => None,
        };
        let exported = context.clone().or_else(|| token.map(|token| token.context.clone())).unwrap_or_default();
        check(node.export.schema.as_ref(), &exported, "context", &node.reference)?;
        Ok((output, context))
    }

    /// The list a token was in is over: its surroundings go on.
    fn list_end(&mut self, t: TokenId) -> Option<Go> {
        let data = self.data(t);
        let Some((frame, node)) = self.top(t) else { return self.bottom(t) };
        Some(match (&node.act, &frame.role) {
            (_, Role::Undo(_)) => {
                self.emit(Event::Undone { t, task: node.reference.clone() });
                Go::Rollback
            }
            (Act::For(code), Role::For { index, .. }) => {
                let next = index.saturating_add(1);
                self.iterate(t, code, next, None).unwrap_or_else(|p| Go::Fail(p.at(&node.reference), Trace::None))
            }
            (Act::Try(code), Role::Try(attempt)) if attempt.handling => {
                Go::LeaveTo(data, code.flow.unwrap_or(node.flow))
            }
            (Act::Listen(code), Role::Listen(_)) if code.foreach.is_some() => {
                self.item_done(t, code).unwrap_or_else(|p| Go::Fail(p.at(&node.reference), Trace::None))
            }
            _ => Go::Leave(data),
        })
    }

    /// Nothing is left on the stack and nothing failed.
    fn bottom(&mut self, t: TokenId) -> Option<Go> {
        match self.token(t)?.home {
            Home::Root if self.is_away(&Location::Engine) => self.depart(t, Location::Engine, Errand::Finish),
            Home::Root => self.complete(t),
            Home::Branch { .. } => self.report(t, ReportKind::Completed, None),
            Home::None { .. } | Home::Rollback { .. } => Some(Go::Home),
        }
    }

    /// `then: end`: everything around completes with the data as it is.
    fn end(&mut self, t: TokenId) -> Option<Go> {
        while let Some((frame, node)) = self.top(t) {
            if matches!(frame.role, Role::Undo(_)) {
                return Some(Go::ListEnd);
            }
            let (task, run) = (node.reference.clone(), frame.run);
            self.emit(Event::Completed { t, task, run, output: None, context: None });
        }
        match self.token(t)?.home {
            Home::Branch { .. } => self.report(t, ReportKind::Ended, None),
            _ => self.bottom(t),
        }
    }

    /// The workflow's own output; what is wrong with it faults the instance.
    fn complete(&mut self, t: TokenId) -> Option<Go> {
        let data = self.data(t);
        let filter = self.program.output();
        let output = match &filter.transform {
            Some(template) => Scope { token: self.token(t), ..self.scope() }.template(template, &data),
            None => Ok(data.clone()),
        };
        match output.and_then(|output| check(filter.schema.as_ref(), &output, "output", "").map(|()| output)) {
            Ok(output) => {
                let output = (output != data).then_some(output);
                self.emit(Event::Ended { status: Status::Completed, output, problem: None });
                None
            }
            Err(problem) => Some(Go::Unwind(problem)),
        }
    }

    /// Closes the task on top with an error and lets its surroundings have it.
    fn fail(&mut self, t: TokenId, problem: Problem, trace: Trace) -> Option<Go> {
        let Some((frame, node)) = self.top(t) else { return Some(Go::Unwind(problem)) };
        if matches!(frame.role, Role::Undo(_)) {
            return Some(Go::Unwind(problem));
        }
        let (task, run) = (node.reference.clone(), frame.run);
        self.emit(Event::Faulted { t, task, run, problem: problem.clone(), trace });
        Some(Go::Unwind(problem))
    }

    fn unwind(&mut self, t: TokenId, problem: Problem) -> Option<Go> {
        let token = self.token(t)?;
        if token.fence != Fence::Open && !token.rolling_back() {
            return Some(Go::Home);
        }
        let Some((frame, node)) = self.top(t) else { return self.fault(t, problem) };
        match &frame.role {
            Role::Undo(_) => self.undo_failed(t, problem),
            Role::Try(attempt) if !attempt.handling => Some(Go::Catch(problem)),
            _ => {
                let (task, run) = (node.reference.clone(), frame.run);
                self.emit(Event::Faulted { t, task, run, problem: problem.clone(), trace: Trace::None });
                Some(Go::Unwind(problem))
            }
        }
    }

    /// An error reached the bottom of a token: what it did is undone, unless its join has yet to see all branches.
    fn fault(&mut self, t: TokenId, problem: Problem) -> Option<Go> {
        match self.token(t)?.home {
            Home::Root => self.roll_back(t, 0, false, problem, AfterRollback::End(Status::Faulted)),
            Home::Branch { race: true, .. } => {
                self.roll_back(t, 0, false, problem, AfterRollback::Report(ReportKind::Faulted))
            }
            Home::Branch { .. } => self.report(t, ReportKind::Faulted, Some(problem)),
            Home::None { .. } | Home::Rollback { .. } => self.roll_back(t, 0, false, problem, AfterRollback::Drop),
        }
    }

    /// A fenced token gives up what it is in and comes home with its log.
    fn home(&mut self, t: TokenId) -> Option<Go> {
        self.give_up(t, 0);
        let cancelled = || Kind::Runtime.problem("the task was cancelled");
        match self.token(t)?.home {
            Home::Root => {
                if self.token(t)?.timed_out.is_some() {
                    return self.time_out(t);
                }
                self.roll_back(t, 0, false, cancelled(), AfterRollback::End(Status::Cancelled))
            }
            Home::Branch { race: true, .. } => {
                self.roll_back(t, 0, false, cancelled(), AfterRollback::Report(ReportKind::Cancelled))
            }
            Home::Branch { .. } => self.report(t, ReportKind::Cancelled, None),
            Home::None { .. } | Home::Rollback { .. } => self.roll_back(t, 0, false, cancelled(), AfterRollback::Drop),
        }
    }

    /// Closes the tasks above `depth` as cancelled; a call in flight becomes indeterminate.
    pub fn give_up(&mut self, t: TokenId, depth: usize) {
        while let Some((frame, node)) = self.top(t)
            && self.token(t).is_some_and(|token| token.frames.len() > depth)
        {
            let (task, run) = (node.reference.clone(), frame.run);
            self.emit(Event::Cancelled { t, task, run });
        }
    }

    /// Fences a token: what merely waits comes home now, a call in flight may end unless `cut`.
    pub fn fence(&mut self, t: TokenId, cut: bool) {
        let Some(token) = self.token(t) else { return self.fence_away(t, cut) };
        if token.fence == Fence::Cut || (token.fence == Fence::Drain && !cut) {
            return;
        }
        let busy = token.rolling_back();
        let branches: Vec<TokenId> = match &token.pending {
            Pending::Join(join) => join.missing(),
            _ => Vec::new(),
        };
        let waits = match &token.pending {
            // What was accepted merely waits, perhaps for an hour.
            Pending::Call(call) => cut || call.accepted().is_some(),
            Pending::Nothing | Pending::RollbackJoin(_) | Pending::Drain(_) => false,
            Pending::Join(_) => false,
            Pending::Child(_) | Pending::Time(_) | Pending::Backoff(_) | Pending::Events => true,
        };
        // An answer that came while it was suspended is taken up before it goes home.
        let answered = |call| self.state.is_answered(call) || self.answered.contains(&call);
        let answered = token.top().is_some_and(|frame| answered(CallId(frame.run)));
        let waits = waits && (cut || !answered);
        self.emit(Event::Fenced { t, cut });
        for branch in branches {
            self.fence(branch, cut);
        }
        if waits && !busy {
            self.schedule(t, Go::Home);
        }
    }

    /// Publishes an event from a task.
    pub fn publish_event(&mut self, t: TokenId, task: Arc<str>, address: String, event: CloudEvent) {
        self.publish.push(event.clone());
        self.emit(Event::Emitted { t, task, address, event });
    }
}

impl Go {
    /// Whether this begins work that a fence forbids.
    fn begins_something(&self) -> bool {
        matches!(self, Go::Enter(_) | Go::ListEnd | Go::Follow(..) | Go::End | Go::Again | Go::Listen | Go::Catch(_))
    }
}

/// Checks data against a schema, as a validation error of the task.
pub(super) fn check(
    schema: Option<&crate::expression::Schema>,
    value: &Value,
    what: &str,
    reference: &str,
) -> Result<(), Problem> {
    match schema.map(|s| s.check(value)) {
        Some(Err(violation)) => Err(Kind::Validation
            .problem(format!("the {what} does not fit its schema: {}", violation.message))
            .at(reference)),
        _ => Ok(()),
    }
}
