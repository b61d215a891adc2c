//! The machine: `decide` what follows an input, `apply` it to the state, ask what is `outstanding`.
//!
//! [`decide`] validates the input and answers with a [`Step`], having applied its events to the state through
//! [`State::apply`], the only writer. A refused input leaves the state untouched. Recovery is a fold of `apply` over
//! the journal: [`State::replay`]. Events carry every evaluated value, so replay evaluates nothing.
//!
//! Nothing here knows in which mode it runs, reads a clock or draws a random number. Start reading at [`decide`], then
//! at the moves of `machine`; one file in `task` for each kind of task; undoing is in `saga`.

mod apply;
mod callback;
mod event;
mod kept;
mod lifecycle;
mod lost;
mod machine;
mod message;
mod notice;
mod rows;
mod saga;
mod scope;
pub mod secret;
mod state;
mod task;
mod timers;
mod travel;
mod types;
mod waits;

pub use event::{AfterRollback, Awaited, Event, Parked, ReportKind, TokenId, Trace};
pub use lifecycle::lifecycle;
pub use lost::{Extent, Loss, Remains, Replaced, Witness};
pub use message::{ATTRIBUTES, Message};
pub use state::State;
pub use types::*;
pub use waits::{Wait, WaitsFor};

use machine::{Go, Machine, check};
use message::Body;
use scope::Scope;
use state::{Fence, Pending, ROOT, Token};

use crate::event::CloudEvent;
use crate::problem::Problem;
use crate::program::Program;
use crate::record::{Compensation, JournalEntry, ServiceTask, Status};
use crate::time::Timestamp;
use crate::value::noted::noting;
use crate::value::{Texts, Value, json};

/// More bytes than the moment has at which the rest of a step was decided.
const LATER: usize = 64;

/// Everything one input led to: to be made durable together, before any effect is performed.
#[derive(Debug)]
pub struct Step {
    /// The step for the journal, with its events as payload.
    pub entry: JournalEntry,
    /// The events themselves.
    pub events: Vec<Event>,
    /// Whether something changed in the instance's row ([`State::record`]) or in [`State::wake`].
    pub changed: bool,
    /// Rows of tasks that ended in this step.
    pub tasks: Vec<ServiceTask>,
    /// The subscriptions as a whole, when they changed.
    pub subscriptions: Option<Vec<Subscription>>,
    /// Events to publish, with ids that a repeat would give again.
    pub publish: Vec<CloudEvent>,
    /// Messages to other locations of the instance.
    pub send: Vec<Message>,
    /// Messages that were larger than [`Host::max_token`] allows, so that their tasks failed.
    pub oversize: u32,
    /// Texts of values in the step, as its journal entry has them.
    pub texts: Texts,
}

/// When an instance must be looked at without an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Never: only an input moves it.
    OnInput,
    /// It has outstanding effects: at once after a restart.
    Now,
    /// At this time, with [`Command::Tick`].
    At(Timestamp),
}

/// What caused a step, for the journal.
#[derive(Default)]
struct Cause {
    event_type: &'static str,
    subject: String,
    run: Option<u32>,
    causation: Option<String>,
}

/// Decides what follows `input`, applies it to `state` and answers with what must be made durable.
///
/// If that fails, `state` is ahead of the journal: drop it and replay.
///
/// # Errors
/// [`Rejected`], with the state unchanged.
pub fn decide(program: &Program, host: &Host, state: &mut State, input: Input) -> Result<Step, Rejected> {
    let step = advance(program, host, state, input)?;
    state.seq = step.entry.seq;
    Ok(step)
}

/// Decides what follows `input` as the rest of a step that is not durable yet, because it [may wait](Step::may_wait):
/// both become durable as one.
///
/// # Errors
/// [`Rejected`], with the state unchanged and the step as it was.
pub fn decide_on(
    program: &Program,
    host: &Host,
    state: &mut State,
    step: Step,
    input: Input,
) -> Result<Step, (Box<Step>, Rejected)> {
    match advance(program, host, state, input) {
        Ok(rest) => Ok(step.with(rest)),
        Err(rejected) => Err((Box::new(step), rejected)),
    }
}

fn advance(program: &Program, host: &Host, state: &mut State, input: Input) -> Result<Step, Rejected> {
    let before = Before::of(program, state);
    // Time never runs backwards within an instance, whatever a clock says.
    let now = input.at.max(state.now);
    let mut machine = Machine::new(program, host, state, now);
    let cause = machine.take(input.command)?;
    machine.run();
    let Machine { events, tasks, publish, mut send, oversize, .. } = machine;
    let id = state.id().to_owned();
    let after = Before::of(program, state);
    let (payload, noted) = noting(|| written(&events));
    let came = events.iter().find_map(|event| match event {
        Event::Arrived { message, .. } => Some(message.texts.clone()),
        _ => None,
    });
    let mut texts = came.unwrap_or_default();
    texts.extend(noted);
    // A receiver in this process writes some of these values next.
    send.iter_mut().for_each(|message| message.texts.extend(texts.clone()));
    let entry = JournalEntry {
        workflow_instance_id: id.clone(),
        seq: state.seq + 1,
        timestamp: now,
        event_type: cause.event_type.to_owned(),
        subject: cause.subject,
        service_task_id: cause.run.map(|run| format!("{id}:{run}")),
        correlation_id: state.correlation_id().to_owned(),
        causation_id: cause.causation,
        payload,
    };
    let subscriptions = match (before.status, state.ended.is_some()) {
        _ if !host.here.is_engine() => None,
        (Status::Pending, false) if !program.subscriptions().is_empty() => Some(program.subscriptions().to_vec()),
        (Status::Pending, _) => None,
        (status, true) if !status.is_terminal() && !program.subscriptions().is_empty() => Some(Vec::new()),
        _ => None,
    };
    let changed = before != after;
    Ok(Step { entry, events, changed, tasks, subscriptions, publish, send, oversize, texts })
}

/// Events as JSON.
fn written(events: &[Event]) -> String {
    // Events are plain data: writing them to memory cannot fail.
    json::to_string(&events).unwrap_or_default()
}

impl Step {
    /// Whether the step need not be durable before the calls are made that it leads to, so that their outcomes can
    /// become durable with it. A message is durable where it came from until it is acknowledged. Delivered again, it
    /// leads to the same calls with the same keys, whatever happened in between: nothing that a token brings with it
    /// depends on what else is here, and a message that was [redelivered](Message::redelivered) begins its calls
    /// before it heeds a fence. What a limit refused does not wait: the next process may have another one. Nor does what comes of
    /// a message that may have been taken before it was durable ([`Message::goes_ahead`]).
    pub fn may_wait(&self, program: &Program, state: &State) -> bool {
        let token = matches!(self.events.first(), Some(Event::Arrived { message, parked: false })
            if matches!(message.body, Body::Token { .. }) && !message.goes_ahead());
        let requested = self.events.iter().filter(|event| matches!(event, Event::Requested { .. })).count();
        let outstanding = state.outstanding();
        token
            && !program.is_fleeting()
            && self.oversize == 0
            && self.send.is_empty()
            && self.publish.is_empty()
            && !state.is_ended()
            && requested > 0
            && outstanding.len() == requested
            // Whoever has the URL of a callback may use it at once: the call is in the journal before.
            && outstanding.iter().all(|effect| matches!(effect, Effect::Call(call) if !call.callback))
    }

    /// Whether it takes up a message that was delivered before: the calls that it leads to may have been made then.
    pub fn repeats(&self) -> bool {
        self.events.iter().any(|event| match event {
            Event::Arrived { message, parked: false } | Event::Admitted { message } => message.redelivered,
            _ => false,
        })
    }

    /// Both steps as one.
    fn with(self, rest: Step) -> Step {
        let later = Event::Later { at: rest.entry.timestamp };
        let mut payload = self.entry.payload;
        payload.reserve(rest.entry.payload.len() + LATER);
        // Both payloads are lists, and neither is empty.
        payload.pop();
        payload.push(',');
        payload.push_str(&json::to_string(&later).unwrap_or_default());
        payload.push(',');
        payload.push_str(rest.entry.payload.get(1..).unwrap_or_default());
        let (mut events, mut texts) = (self.events, self.texts);
        events.reserve(rest.events.len() + 1);
        events.push(later);
        events.extend(rest.events);
        texts.extend(rest.texts);
        let (subject, service_task_id) = (rest.entry.subject, rest.entry.service_task_id);
        Step {
            entry: JournalEntry { payload, subject, service_task_id, ..self.entry },
            events,
            changed: self.changed || rest.changed,
            tasks: both(self.tasks, rest.tasks),
            subscriptions: rest.subscriptions.or(self.subscriptions),
            publish: both(self.publish, rest.publish),
            send: both(self.send, rest.send),
            oversize: self.oversize + rest.oversize,
            texts,
        }
    }
}

/// One list of two, of which the first is empty as a rule.
fn both<T>(mut first: Vec<T>, rest: Vec<T>) -> Vec<T> {
    if first.is_empty() {
        return rest;
    }
    first.extend(rest);
    first
}

/// What the instance's row depends on.
#[derive(PartialEq)]
struct Before {
    status: Status,
    wake: Wake,
    compensation: Compensation,
}

impl Before {
    fn of(program: &Program, state: &State) -> Before {
        Before { status: state.status(), wake: state.wake(), compensation: state.compensation(program) }
    }
}

impl Machine<'_> {
    /// Takes an input: refuses it, or begins what it leads to.
    fn take(&mut self, command: Command) -> Result<Cause, Rejected> {
        if !matches!(command, Command::Start(_) | Command::Message(_) | Command::Replace(_))
            && self.state.start.is_none()
        {
            return Err(Rejected::Stale);
        }
        match command {
            Command::Start(start) => self.start(scrubbed_start(start)),
            Command::Outcome { call, outcome, held } => self.outcome(call, scrubbed_outcome(outcome), held),
            Command::Callback { key, outcome } => self.callback(&key, scrubbed_outcome(outcome)),
            Command::Heartbeat { key } => self.heartbeat(&key),
            Command::LateCallback { key } => self.late_callback(key),
            Command::Child { call, result } => self.child(call, result),
            Command::Event(event) => self.event(scrubbed_event(event)),
            Command::Message(message) => self.message(*message),
            Command::Tick => self.tick(),
            Command::Cancel { reason } => self.cancel(reason),
            Command::Suspend => self.suspend(),
            Command::Resume => self.resume(),
            Command::Retry => self.retry(),
            Command::Abandon(remains) => self.abandon(*remains),
            Command::Replace(replaced) => self.replace(*replaced),
            Command::LoseAnswers => self.lose_answers(),
        }
    }

    fn start(&mut self, start: Start) -> Result<Cause, Rejected> {
        if self.state.start.is_some() {
            return Err(Rejected::Conflict("the instance has started already".into()));
        }
        let filter = self.program.input();
        check(filter.schema.as_ref(), &start.input, "input", "").map_err(Rejected::Invalid)?;
        // `$workflow` is to be seen by `input.from`: the start is in place for the evaluation only.
        let probe = State { start: Some(start.clone().into()), started_at: self.now, ..State::default() };
        let scope = Scope { state: &probe, ..self.scope() };
        let transformed = filter.transform.as_ref().map(|from| scope.template(from, &start.input)).transpose();
        let input = transformed.map_err(Rejected::Invalid)?;
        let data = input.as_ref().unwrap_or(&start.input);
        let timeout = self.program.timeout().map(|d| scope.duration(d, data)).transpose().map_err(Rejected::Invalid)?;
        let input = input.filter(|input| *input != start.input);
        self.emit(Event::Started { start, input, deadline: timeout.map(|d| self.now.plus(d)) });
        self.schedule(ROOT, self.program.entry().map_or(Go::ListEnd, Go::Enter));
        Ok(Cause { event_type: "started", ..Cause::default() })
    }

    fn outcome(&mut self, call: CallId, outcome: Outcome, held: Option<Held>) -> Result<Cause, Rejected> {
        if call == notice::NOTICE {
            return self.told(outcome);
        }
        let (t, key) = self
            .waiting(call, |pending| match pending {
                Pending::Call(call) => Some(call.key.clone()),
                _ => None,
            })
            .ok_or(Rejected::Stale)?;
        let event_type = match outcome {
            Outcome::Success(_) => "call.completed",
            Outcome::Failure { .. } => "call.faulted",
            Outcome::Accepted if self.awaits_callback(t) => "call.accepted",
            Outcome::Accepted => return Err(Rejected::Stale),
        };
        let cause = self.cause_of(t, event_type, Some(key));
        if let Some(held) = held {
            self.emit(Event::Held { t, task: cause.subject.as_str().into(), run: call.0, held });
        }
        if outcome == Outcome::Accepted {
            self.accept(t);
        } else if self.state.suspended.is_some() {
            self.emit(Event::Parked { input: Parked::Outcome { call, outcome } });
        } else {
            let go = self.call_ended(t, outcome);
            self.schedule(t, go);
        }
        Ok(cause)
    }

    fn child(&mut self, call: CallId, result: Result<Value, Problem>) -> Result<Cause, Rejected> {
        let (t, child) = self
            .waiting(call, |pending| match pending {
                Pending::Child(child) => Some(child.id.clone()),
                _ => None,
            })
            .ok_or(Rejected::Stale)?;
        let cause = self.cause_of(t, if result.is_ok() { "child.completed" } else { "child.faulted" }, Some(child));
        if self.state.suspended.is_some() {
            let (output, problem) = result.map_or_else(|p| (None, Some(p)), |v| (Some(v), None));
            self.emit(Event::Parked { input: Parked::Child { call, output, problem } });
        } else {
            let go = self.child_ended(t, result);
            self.schedule(t, go);
        }
        Ok(cause)
    }

    /// The token that waits for a call, unless its answer has come already.
    fn waiting<T>(&self, call: CallId, of: impl Fn(&Pending) -> Option<T>) -> Option<(TokenId, T)> {
        let parked = self.state.is_answered(call);
        let mut tokens = self.state.tokens.iter().filter(|_| !parked);
        tokens.find_map(|(t, token)| {
            let waits = token.top().is_some_and(|frame| frame.run == call.0);
            of(&token.pending).filter(|_| waits).map(|found| (*t, found))
        })
    }

    fn cause_of(&self, t: TokenId, event_type: &'static str, causation: Option<String>) -> Cause {
        match self.top(t) {
            Some((frame, node)) => {
                Cause { event_type, subject: node.reference.to_string(), run: Some(frame.run), causation }
            }
            None => Cause { event_type, causation, ..Cause::default() },
        }
    }

    fn event(&mut self, event: CloudEvent) -> Result<Cause, Rejected> {
        if self.state.ended.is_some() || self.state.seen.contains(&event) {
            return Err(Rejected::Stale);
        }
        let cause = Cause { event_type: "event.received", causation: Some(event.id()), ..Cause::default() };
        if self.state.suspended.is_some() {
            self.emit(Event::Parked { input: Parked::Event { event } });
            return Ok(cause);
        }
        if self.offer(&event) { Ok(cause) } else { Err(Rejected::Stale) }
    }

    fn cancel(&mut self, reason: String) -> Result<Cause, Rejected> {
        self.not_ended("cancelled")?;
        let undoing = self.token(ROOT).is_some_and(|root| root.fence != Fence::Open || root.timed_out.is_some());
        if self.state.cancelling || undoing {
            return Err(Rejected::Conflict("the instance is being stopped already".into()));
        }
        if self.token(ROOT).is_some_and(|root| root.frames.is_empty() && root.rolling_back()) {
            return Err(Rejected::Conflict("the instance has failed and undoes what it did".into()));
        }
        self.emit(Event::CancelRequested { reason });
        let (parked, paused) = self.wake_up();
        self.fence(ROOT, false);
        self.take_parked(parked, paused);
        Ok(Cause { event_type: "cancel.requested", ..Cause::default() })
    }

    fn suspend(&mut self) -> Result<Cause, Rejected> {
        self.not_ended("suspended")?;
        if self.state.suspended.is_some() {
            return Err(Rejected::Conflict("the instance is suspended already; resume it first".into()));
        }
        self.emit(Event::Suspended {});
        self.order_suspension(true);
        Ok(Cause { event_type: "suspended", ..Cause::default() })
    }

    fn resume(&mut self) -> Result<Cause, Rejected> {
        self.not_ended("resumed")?;
        if self.state.suspended.is_none() {
            return Err(Rejected::Conflict("the instance is not suspended".into()));
        }
        let (parked, paused) = self.wake_up();
        self.take_parked(parked, paused);
        Ok(Cause { event_type: "resumed", ..Cause::default() })
    }

    /// Ends a suspension; gives what came in the meantime, and for how many milliseconds it lasted.
    fn wake_up(&mut self) -> (Vec<Parked>, i64) {
        let Some(since) = self.state.suspended else { return (Vec::new(), 0) };
        let paused = self.now.since(since).max(0);
        let parked = self.state.parked.clone();
        self.answered.extend(parked.iter().filter_map(|parked| match parked {
            Parked::Outcome { call, .. } | Parked::Child { call, .. } => Some(*call),
            Parked::Event { .. } | Parked::Message { .. } => None,
        }));
        self.emit(Event::Resumed {});
        if self.host.here.is_engine() {
            self.order_suspension(false);
        }
        (parked, paused)
    }

    fn take_parked(&mut self, parked: Vec<Parked>, paused: i64) {
        for input in parked {
            // What has become stale meanwhile is dropped, as it would have been.
            let _ = match input {
                Parked::Outcome { call, outcome } => self.outcome(call, outcome, None),
                Parked::Child { call, output, problem } => {
                    self.child(call, problem.map_or_else(|| Ok(output.unwrap_or_default()), Err))
                }
                Parked::Event { event } => self.event(event),
                Parked::Message { message } => {
                    self.take_parked_message(*message, paused);
                    Ok(Cause::default())
                }
            };
            self.run();
        }
    }

    fn retry(&mut self) -> Result<Cause, Rejected> {
        let cause = Cause { event_type: "retry.requested", ..Cause::default() };
        if self.state.suspended.is_none() && self.hasten() {
            return Ok(cause);
        }
        if self.state.ended.is_some() && !self.state.unresolved.is_empty() {
            let t = TokenId(self.next_token());
            self.emit(Event::CompensationRetried { t });
            self.schedule(t, Go::Rollback);
            return Ok(cause);
        }
        Err(Rejected::Conflict(
            "nothing of this instance waits for a retry, and no compensation of it is unresolved; to run the work again, start a new instance"
                .into(),
        ))
    }

    /// Cuts waits for retries short; tells whether there were any, here or perhaps elsewhere.
    fn hasten(&mut self) -> bool {
        let waits = |token: &Token| matches!(token.pending, Pending::Backoff(_));
        let waiting: Vec<TokenId> =
            self.state.tokens.iter().filter(|(_, token)| waits(token)).map(|(t, _)| *t).collect();
        for t in &waiting {
            self.emit(Event::Hastened { t: *t });
            self.schedule(*t, Go::Again);
        }
        let home = self.host.here.is_engine() && self.state.ended.is_none();
        let elsewhere = home && self.program.locations().len() > 1 && self.token(ROOT).is_none();
        if elsewhere {
            self.tell_all(&Body::Hasten);
        }
        elsewhere || !waiting.is_empty()
    }

    /// Tells every other location of an operator's suspension or resumption.
    fn order_suspension(&mut self, on: bool) {
        if self.program.locations().len() > 1 {
            let order = self.state.suspensions + 1;
            self.emit(Event::SuspensionOrdered { order });
            self.tell_all(&Body::Suspend { on, order });
        }
    }

    fn not_ended(&self, what: &str) -> Result<(), Rejected> {
        match &self.state.ended {
            Some(ended) => {
                Err(Rejected::Conflict(format!("the instance is {}: it cannot be {what}", ended.status.as_str())))
            }
            None => Ok(()),
        }
    }
}

/// A parent's data may hold sealed secrets; a client's must not.
fn scrubbed_start(start: Start) -> Start {
    let foreign = start.parent.is_none();
    let scrub = |input: Value| if foreign { secret::foreign(input) } else { input };
    Start { input: scrub(start.input), ..start }
}

fn scrubbed_event(event: CloudEvent) -> CloudEvent {
    // The required attributes are texts before and after, and as long.
    CloudEvent::new(secret::foreign(event.envelope().clone())).unwrap_or(event)
}

fn scrubbed_outcome(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Success(output) => Outcome::Success(secret::foreign(output)),
        Outcome::Failure { problem, certainty } => {
            let scrub = |text: String| {
                let scrubbed = secret::foreign(Value::text(&text));
                scrubbed.as_str().map_or(text, str::to_owned)
            };
            let (title, detail) = (scrub(problem.title), problem.detail.map(scrub));
            Outcome::Failure { problem: Problem { title, detail, ..problem }, certainty }
        }
        Outcome::Accepted => Outcome::Accepted,
    }
}
