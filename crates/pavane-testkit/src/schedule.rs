//! One run: the driver's contract with everything that may go wrong.
//!
//! Each step: decide, commit (the journal entry is kept as bytes), perform; a step that may wait is now and then
//! committed with the outcome of its call, or lost after the call was made. A crash may come after any commit and before
//! any effect: it loses the state and every answer under way, and keeps only the committed bytes. Answers are delayed,
//! reordered, repeated and lost; a request that was given up may still arrive late.
//!
//! [`watch`] plays as the product does, or breaks one thing of the driver or the services on purpose: the invariants must
//! notice, or they prove nothing.

mod disaster;

use std::collections::BTreeMap;

pub use disaster::{bereaved, cramped};
use pavane_core::engine::{
    Call, Certainty, Command, Effect, Event, Host, HttpRequest, Input, Message, Outcome, Rejected, Request, Start,
    State, Step, decide, decide_on,
};
use pavane_core::event::CloudEvent;
use pavane_core::program::{Location, Program};
use pavane_core::record::JournalEntry;
use pavane_core::{Timestamp, Value};

use crate::chance::Chance;
use crate::invariants;
use crate::services::{Services, failure};

/// Faults end after this many steps, so that every run can end.
const QUIET_AFTER: u64 = 150;
/// How long a callback is awaited, in milliseconds: services always call back, and time does not pass that far.
const CALLBACK_TIMEOUT: i64 = 1 << 50;
/// A run that takes more steps than this does not end.
const MAX_STEPS: u64 = 3_000;

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// Steps decided.
    pub steps: u64,
    /// Crashes.
    pub crashes: u64,
    /// Messages sent.
    pub messages: u64,
    /// Messages and answers that came again.
    pub duplicates: u64,
    /// Messages that were too large to be sent.
    pub oversize: u32,
}

/// One thing that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breakage {
    /// A committed entry is not kept.
    LostEntry,
    /// A crash loses the last committed entry, and with it what was acknowledged.
    LostAtCrash,
    /// Effects are performed before the decision that leads to them is durable.
    EffectBeforeCommit,
    /// A repeated request has another body.
    ChangedBody,
    /// A repeated request has another key.
    ChangedKey,
    /// A service forgets the answers it gave, and does the work again.
    ForgetfulService,
    /// A service says that it has undone something, and has not.
    FalseUndo,
    /// A service does not refuse a request that arrives after its work was undone.
    NoTombstone,
    /// The end is written twice.
    EndedTwice,
    /// An event is taken in twice.
    EventTwice,
    /// A message between locations is lost.
    LostMessage,
    /// A message between locations is taken in twice.
    MessageTwice,
    /// A message that was delivered before is said to come for the first time.
    ForgottenDelivery,
    /// Messages are kept in a commit after the one that sends them.
    OutboxAfterCommit,
}

impl Breakage {
    /// All of them.
    pub const ALL: [Breakage; 14] = [
        Breakage::LostEntry,
        Breakage::LostAtCrash,
        Breakage::EffectBeforeCommit,
        Breakage::ChangedBody,
        Breakage::ChangedKey,
        Breakage::ForgetfulService,
        Breakage::FalseUndo,
        Breakage::NoTombstone,
        Breakage::EndedTwice,
        Breakage::EventTwice,
        Breakage::LostMessage,
        Breakage::MessageTwice,
        Breakage::ForgottenDelivery,
        Breakage::OutboxAfterCommit,
    ];
}

/// Runs one schedule over services of their own seed, and tells what the reference is asked about.
///
/// # Errors
/// What broke, and what happened up to there.
pub fn watch(
    program: &Program,
    seed: u64,
    services: u64,
    breakage: Option<Breakage>,
    calm: bool,
) -> Result<(Run, Watched), (String, Vec<String>)> {
    let mut world = world(program, seed, services, breakage, calm);
    play(&mut world).or_else(|_| {
        world = self::world(program, seed, services, breakage, calm);
        world.tracing = true;
        play(&mut world)
    })?;
    let record = world.parts[0].state.record(program);
    let World { run, given, services, history, .. } = world;
    Ok((run, Watched { record, given, order: services.order, history }))
}

/// What is kept of a run.
#[derive(Debug)]
pub struct Watched {
    /// The instance at its end.
    pub record: pavane_core::record::WorkflowInstance,
    /// Answers that reached it, by key.
    pub given: BTreeMap<String, Vec<Outcome>>,
    /// Keys in the order in which services executed them.
    pub order: Vec<String>,
    /// What every location committed.
    pub history: Vec<JournalEntry>,
}

/// What happens in a run, line by line.
pub fn trace(program: &Program, seed: u64, services: u64, calm: bool) -> Vec<String> {
    let mut world = world(program, seed, services, None, calm);
    world.tracing = true;
    drop(world.play());
    world.trace
}

fn play(world: &mut World<'_>) -> Result<(), (String, Vec<String>)> {
    world.play().map_err(|broken| (broken, std::mem::take(&mut world.trace)))
}

fn world(program: &Program, seed: u64, services: u64, breakage: Option<Breakage>, calm: bool) -> World<'_> {
    World {
        program,
        chance: Chance::new(seed),
        services: Services::new(services),
        parts: program.locations().iter().map(Part::at).collect(),
        p: 0,
        history: Vec::new(),
        given: BTreeMap::new(),
        messages: Vec::new(),
        late: Vec::new(),
        callbacks: Vec::new(),
        events: Vec::new(),
        disaster: None,
        breakage,
        calm,
        tracing: false,
        now: Timestamp(1_700_000_000_000),
        run: Run::default(),
        trace: Vec::new(),
    }
}

struct World<'a> {
    program: &'a Program,
    chance: Chance,
    services: Services,
    /// One for each location: the engine, then the participants.
    parts: Vec<Part>,
    /// The part that moves.
    p: usize,
    /// What every part committed, in the order of the commits.
    history: Vec<JournalEntry>,
    /// Answers that were taken, by key.
    given: BTreeMap<String, Vec<Outcome>>,
    /// Messages sent and durable. They are delivered in any order.
    messages: Vec<Posted>,
    /// Requests that were given up and may still arrive.
    late: Vec<Call>,
    /// What services will call back: the part, the key and the outcome. They do until they are told to stop.
    callbacks: Vec<(usize, String, Outcome)>,
    /// Events published so far.
    events: Vec<CloudEvent>,
    disaster: Option<disaster::Disaster>,
    breakage: Option<Breakage>,
    /// Nothing goes wrong but what the services refuse.
    calm: bool,
    tracing: bool,
    now: Timestamp,
    run: Run,
    trace: Vec<String>,
}

/// A message on its way, as bytes.
#[derive(Clone)]
struct Posted {
    envelope: String,
    /// Whether it was delivered before.
    delivered: bool,
}

/// One location's part of the instance, and its driver.
struct Part {
    host: Host,
    state: State,
    /// A step that waits for the outcome of its call, and the message that led to it, which is not acknowledged.
    waiting: Option<(Step, Posted)>,
    /// What is durable.
    journal: Vec<JournalEntry>,
    /// Answers under way.
    answers: Vec<Command>,
    /// Calls made since the last crash and not answered.
    asked: Vec<u32>,
    /// Calls that were outstanding at a crash: they may have been made before it.
    recovered: Vec<u32>,
}

impl Part {
    fn told(&self) -> String {
        let owed: Vec<u32> = self.state.outstanding().iter().map(|effect| effect.call_id().0).collect();
        format!("{} is {} and waits for {owed:?}", self.host.here.name(), self.state.status().as_str())
    }

    fn at(location: &Location) -> Part {
        Part {
            host: Host { here: location.clone(), callback_timeout: CALLBACK_TIMEOUT, ..Host::default() },
            state: State::default(),
            waiting: None,
            journal: Vec::new(),
            answers: Vec::new(),
            asked: Vec::new(),
            recovered: Vec::new(),
        }
    }
}

impl World<'_> {
    fn play(&mut self) -> Result<(), String> {
        let start = Start {
            id: "00000000-0000-7000-8000-000000000001".into(),
            input: Value::object([("order", Value::integer(1))]),
            correlation_id: "00000000-0000-7000-8000-000000000001".into(),
            parent: None,
            trace: None,
            notify: None,
        };
        self.take(Command::Start(start))?;
        while !self.at_rest() {
            if self.run.steps > MAX_STEPS {
                let parts: Vec<String> = self.parts.iter().map(Part::told).collect();
                return Err(format!("the run does not end: {}", parts.join("; ")));
            }
            self.move_once()?;
            self.strike()?;
        }
        self.p = 0;
        while let Some(call) = self.late.pop() {
            self.arrive(&call)?;
        }
        while let Some((p, key, outcome)) = self.callbacks.pop() {
            self.p = p;
            if self.decide(Command::Callback { key, outcome })?.is_some() {
                return Err("somebody has waited for a callback to the last".into());
            }
        }
        self.parts.iter().try_for_each(|part| invariants::prompt(&part.journal))?;
        if let Some(disaster) = self.disaster.as_ref().filter(|_| self.is_abandoned()) {
            return self.mourned(disaster);
        }
        if self.broken(Breakage::EndedTwice) {
            let end =
                |entry: &&JournalEntry| events(std::slice::from_ref(*entry)).any(|e| matches!(e, Event::Ended { .. }));
            self.history.extend(self.history.iter().rev().find(end).cloned());
        }
        if let Some(Breakage::EventTwice | Breakage::EndedTwice) = self.breakage {
            return invariants::at_end(self.program, &self.parts[0].state, &self.history, &self.services);
        }
        let replayed = self.replayed()?;
        invariants::at_end(self.program, &replayed, &self.history, &self.services)
    }

    /// Nothing of the instance is under way any more, anywhere.
    fn at_rest(&self) -> bool {
        if self.is_abandoned() {
            let waits = self.parts.iter().any(|part| part.state.has_tokens());
            return self.parts[0].state.is_ended() && self.messages.is_empty() && !waits;
        }
        self.parts[0].state.is_closed()
            && self.messages.is_empty()
            && self.parts.iter().all(|part| part.state.is_idle())
    }

    fn noisy(&self) -> bool {
        !self.calm && self.run.steps < QUIET_AFTER
    }

    /// A part that has something to do, or any.
    fn choose(&mut self) {
        let busy: Vec<usize> = (0..self.parts.len()).filter(|p| !self.parts[*p].state.is_idle()).collect();
        self.p = if busy.is_empty() { 0 } else { busy[self.chance.below(busy.len())] };
    }

    /// Keeps messages as the bus does: with the commit that sends them.
    fn post(&mut self, send: &[Message]) {
        for message in send {
            if self.broken(Breakage::LostMessage) && self.chance.percent(5) {
                continue;
            }
            let envelope = message.to_envelope(self.program, self.now);
            self.messages.push(Posted { envelope, delivered: false });
        }
    }

    /// Delivers a message; now and then it comes again later.
    fn deliver(&mut self, noisy: bool) -> Result<(), String> {
        let index = self.chance.below(self.messages.len());
        let again = noisy && self.chance.percent(12);
        self.run.duplicates += u64::from(again);
        let posted = if again { self.messages[index].clone() } else { self.messages.swap_remove(index) };
        if again {
            self.messages[index].delivered = true;
        }
        let mut message = Message::from_envelope(&posted.envelope)?;
        message.redelivered = posted.delivered && !self.broken(Breakage::ForgottenDelivery);
        if again && self.broken(Breakage::MessageTwice) {
            message.number += 1_000;
        }
        let to = self.program.locations().iter().position(|at| *at == message.to);
        self.p = to.ok_or_else(|| format!("a message is for {}, which takes no part", message.to.name()))?;
        self.commit_waiting()?;
        let quiet = self.parts[self.p].state.outstanding().is_empty();
        let Some(step) = self.decide(Command::Message(Box::new(message)))? else { return Ok(()) };
        let may_wait = quiet && step.may_wait(self.program, &self.parts[self.p].state);
        if may_wait && !self.broken(Breakage::EffectBeforeCommit) && self.chance.percent(70) {
            self.tell(|| "  waits for the outcome of its call".into());
            self.parts[self.p].waiting = Some((step, Posted { delivered: true, ..posted }));
            return Ok(());
        }
        self.commit(step)
    }

    /// Commits a step that has waited for the outcome of its call, without it.
    fn commit_waiting(&mut self) -> Result<(), String> {
        match self.parts[self.p].waiting.take() {
            Some((step, _)) => self.commit(step),
            None => Ok(()),
        }
    }

    fn move_once(&mut self) -> Result<(), String> {
        let noisy = self.noisy();
        self.choose();
        if noisy && self.chance.percent(6) {
            return self.crash();
        }
        if noisy && self.chance.percent(10) {
            // It has waited long enough.
            self.commit_waiting()?;
        }
        if noisy && self.chance.percent(2) {
            let command = match self.chance.below(6) {
                0 => Command::Cancel { reason: "the simulator wants it".into() },
                1..=3 => Command::Suspend,
                _ => Command::Retry,
            };
            self.p = 0;
            return self.take(command);
        }
        if !self.messages.is_empty() && self.chance.percent(60) {
            return self.deliver(noisy);
        }
        if self.parts[0].state.status() == pavane_core::record::Status::Suspended && self.chance.percent(30) {
            self.p = 0;
            return self.take(Command::Resume);
        }
        if !self.late.is_empty() && self.chance.percent(10) {
            let call = self.late.swap_remove(self.chance.below(self.late.len()));
            self.arrive(&call)?;
        }
        if !self.callbacks.is_empty() && self.chance.percent(40) {
            return self.call_back(noisy);
        }
        if !self.program.subscriptions().is_empty() && self.chance.percent(8) {
            self.p = 0;
            return self.event(noisy);
        }
        self.perform()?;
        if !self.parts[self.p].answers.is_empty() && self.chance.percent(85) {
            return self.answer(noisy);
        }
        self.pass_time()
    }

    /// Makes every outstanding call that is not under way.
    fn perform(&mut self) -> Result<(), String> {
        for effect in self.parts[self.p].state.outstanding() {
            if self.parts[self.p].asked.contains(&effect.call_id().0) {
                continue;
            }
            if self.noisy() && self.chance.percent(3) {
                // Before the effect: the decision is durable, the call is not made.
                return self.crash();
            }
            self.parts[self.p].asked.push(effect.call_id().0);
            let answer = match effect {
                Effect::Call(call) => Command::Outcome { call: call.id, outcome: self.call(&call)?, held: None },
                Effect::StartChild { call, child } => Command::Child { call, result: self.services.child(&child)? },
            };
            self.parts[self.p].answers.push(answer);
        }
        Ok(())
    }

    fn call(&mut self, call: &Call) -> Result<Outcome, String> {
        let noisy = self.noisy();
        if noisy && self.chance.percent(3) {
            self.tell(|| format!("  {} {} never leaves", call.reference, short(&call.key)));
            // After a crash nobody can say so any more.
            let before = self.parts[self.p].recovered.contains(&call.id.0);
            return Ok(failure(500, if before { Certainty::Indeterminate } else { Certainty::NotSent }));
        }
        if noisy && self.chance.percent(2) {
            // Lost on the way there: nothing happened yet, but nobody knows.
            self.late.push(call.clone());
            return Ok(failure(500, Certainty::Indeterminate));
        }
        let undoable = invariants::undoable(self.program, &call.reference);
        let call = &self.mangled(call);
        self.forget(call);
        let outcome = self.services.execute(call, undoable, self.broken(Breakage::FalseUndo))?;
        self.tell(|| format!("  {} {} executes: {outcome:?}", call.reference, short(&call.key)));
        // A service may have its answer already; the others call back, perhaps before they are known to.
        let outcome = match call.callback && self.chance.percent(80) {
            true => {
                self.callbacks.push((self.p, call.key.clone(), outcome));
                Outcome::Accepted
            }
            false => outcome,
        };
        if noisy && self.chance.percent(4) {
            // Lost on the way back: it happened, but nobody knows.
            return Ok(failure(504, Certainty::Indeterminate));
        }
        Ok(outcome)
    }

    fn answer(&mut self, noisy: bool) -> Result<(), String> {
        let index = self.chance.below(self.parts[self.p].answers.len());
        let command = if noisy && self.chance.percent(10) {
            self.run.duplicates += 1;
            self.parts[self.p].answers[index].clone()
        } else {
            self.parts[self.p].answers.swap_remove(index)
        };
        self.take(command)
    }

    /// A service calls back; now and then it does so again.
    fn call_back(&mut self, noisy: bool) -> Result<(), String> {
        let index = self.chance.below(self.callbacks.len());
        let (p, key, outcome) = if noisy && self.chance.percent(10) {
            self.run.duplicates += 1;
            self.callbacks[index].clone()
        } else {
            self.callbacks.swap_remove(index)
        };
        self.p = p;
        let beat = self.chance.percent(10);
        self.take(if beat {
            Command::Heartbeat { key: key.clone() }
        } else {
            Command::LateCallback { key: key.clone() }
        })?;
        self.take(Command::Callback { key, outcome })
    }

    /// An event is published, or one comes again.
    fn event(&mut self, noisy: bool) -> Result<(), String> {
        let again = noisy && !self.events.is_empty() && self.chance.percent(30);
        let event = if again {
            self.events[self.chance.below(self.events.len())].clone()
        } else {
            let id = format!("event-{}", self.events.len());
            let kind = if self.chance.percent(60) { "sim.ping" } else { "sim.pong" };
            let envelope = [("id", &*id), ("source", "/sim"), ("specversion", "1.0"), ("type", kind)];
            CloudEvent::new(Value::object(envelope.map(|(k, v)| (k, Value::text(v)))))?
        };
        self.events.push(event.clone());
        self.take(Command::Event(event))
    }

    /// A request that everybody had given up arrives.
    fn arrive(&mut self, call: &Call) -> Result<(), String> {
        self.tell(|| format!("  {} {} arrives late", call.reference, short(&call.key)));
        if self.services.undone(&call.key) && !self.broken(Breakage::NoTombstone) {
            return Ok(());
        }
        let undoable = invariants::undoable(self.program, &call.reference);
        self.services.execute(call, undoable, false).map(drop)
    }

    /// The call as a broken driver repeats it.
    fn mangled(&self, call: &Call) -> Call {
        let mut call = call.clone();
        if self.services.answers.contains_key(&call.key) {
            if self.broken(Breakage::ChangedKey) {
                call.key.push('x');
            }
            if let (true, Request::Http(http)) = (self.broken(Breakage::ChangedBody), &*call.request) {
                let changed = HttpRequest { body: Some(Value::text("changed")), ..http.clone() };
                call.request = std::sync::Arc::new(Request::Http(changed));
            }
        }
        call
    }

    /// What a broken service does not know any more.
    fn forget(&mut self, call: &Call) {
        if self.broken(Breakage::ForgetfulService) && self.services.answers.contains_key(&call.key) {
            self.services.forget(&call.key);
        }
    }

    fn broken(&self, breakage: Breakage) -> bool {
        self.breakage == Some(breakage)
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.tracing {
            self.trace.push(line());
        }
    }

    fn pass_time(&mut self) -> Result<(), String> {
        // An answer that nobody waits for any more keeps nobody busy.
        let answers = |part: &Part| !part.answers.is_empty() && !part.state.is_idle();
        let busy = self.parts.iter().any(answers) || !self.messages.is_empty() || !self.callbacks.is_empty();
        let next = self.parts.iter().enumerate().filter_map(|(p, part)| Some((part.state.next_timer()?, p))).min();
        let next = next.filter(|(at, _)| at.since(self.now) < CALLBACK_TIMEOUT / 2);
        match next {
            Some((at, p)) if !busy || (!self.calm && self.chance.percent(20)) => {
                self.p = p;
                self.now = self.now.max(at);
                self.take(Command::Tick)
            }
            _ => {
                self.now = self.now.plus_millis(50);
                self.run.steps += 1;
                Ok(())
            }
        }
    }

    /// Decide, then commit. The outcome of a call for which a step waits is a part of that step.
    fn take(&mut self, command: Command) -> Result<(), String> {
        if !matches!(command, Command::Outcome { .. }) {
            self.commit_waiting()?;
        }
        let answer = self.answer_of(&command);
        let Some(step) = self.decide(command)? else { return Ok(()) };
        self.commit(step)?;
        if let Some((key, outcome)) = answer {
            self.given.entry(key).or_default().push(outcome);
        }
        Ok(())
    }

    /// What is refused changes nothing.
    fn decide(&mut self, command: Command) -> Result<Option<Step>, String> {
        self.run.steps += 1;
        self.now = self.now.plus_millis(1);
        let name = match &command {
            _ if !self.tracing => String::new(),
            Command::Message(message) => message.to_envelope(self.program, self.now),
            command => format!("{command:?}"),
        };
        let before = self.parts[self.p].state.clone();
        let Part { host, state, waiting, .. } = &mut self.parts[self.p];
        let input = Input { at: self.now, command };
        let decided = match waiting.take() {
            Some((step, posted)) => decide_on(self.program, host, state, step, input).map_err(|(step, refused)| {
                *waiting = Some((*step, posted));
                refused
            }),
            None => decide(self.program, host, state, input),
        };
        match decided {
            Ok(step) => {
                if step.repeats() {
                    // What it leads to may have been asked before.
                    let owed = self.parts[self.p].state.outstanding();
                    self.parts[self.p].recovered.extend(owed.iter().map(|effect| effect.call_id().0));
                }
                let here = self.program.locations()[self.p].name().to_owned();
                self.tell(|| format!("{here} {} {} <- {}", step.entry.seq, step.entry.event_type, clip(&name)));
                for event in step.events.iter().filter(|event| !matches!(event, Event::Arrived { .. })) {
                    self.tell(|| format!("    {}", clip(&format!("{event:?}"))));
                }
                Ok(Some(step))
            }
            Err(Rejected::Invalid(problem)) => Err(format!("the start was refused: {problem:?}")),
            Err(_) if format!("{before:?}") == format!("{:?}", self.parts[self.p].state) => Ok(None),
            Err(refused) => Err(format!("{refused:?} of {name} changed the state")),
        }
    }

    fn commit(&mut self, step: Step) -> Result<(), String> {
        if self.broken(Breakage::EffectBeforeCommit) && self.run.steps < QUIET_AFTER {
            return self.perform_early(step.entry, &step.send);
        }
        let written = self.parts[self.p].journal.len();
        if step.entry.seq != written as u64 + 1 {
            return Err(format!("step {} does not follow {written}", step.entry.seq));
        }
        if self.broken(Breakage::LostEntry) && self.chance.percent(5) {
            return Ok(());
        }
        if self.broken(Breakage::EventTwice) && step.entry.event_type == "event.received" {
            self.history.push(step.entry.clone());
            return invariants::events_once(&[&self.history[..], &[step.entry]].concat());
        }
        self.parts[self.p].journal.push(step.entry.clone());
        self.history.push(step.entry);
        self.run.messages += step.send.len() as u64;
        self.run.oversize += step.oversize;
        if self.broken(Breakage::OutboxAfterCommit) && !step.send.is_empty() && self.chance.percent(5) {
            return self.crash();
        }
        self.post(&step.send);
        Ok(())
    }

    /// The key that an answer is for.
    fn answer_of(&self, command: &Command) -> Option<(String, Outcome)> {
        let (call, outcome) = match command {
            Command::Callback { key, outcome } => return Some((key.clone(), outcome.clone())),
            Command::Outcome { outcome: Outcome::Accepted, .. } => return None,
            Command::Outcome { call, outcome, .. } => (call, outcome),
            _ => return None,
        };
        self.parts[self.p].state.outstanding().into_iter().find_map(|effect| match effect {
            Effect::Call(owed) if owed.id == *call => Some((owed.key, outcome.clone())),
            _ => None,
        })
    }

    /// What a broken driver does: the effects first, and then perhaps a crash before the commit.
    fn perform_early(&mut self, entry: JournalEntry, send: &[Message]) -> Result<(), String> {
        for effect in self.parts[self.p].state.outstanding() {
            if let Effect::Call(call) = effect
                && !self.parts[self.p].asked.contains(&call.id.0)
            {
                self.parts[self.p].asked.push(call.id.0);
                let outcome = self.call(&call)?;
                self.parts[self.p].answers.push(Command::Outcome { call: call.id, outcome, held: None });
            }
        }
        if !self.parts[self.p].journal.is_empty() && self.chance.percent(10) {
            self.parts[self.p].answers.clear();
            self.parts[self.p].asked.clear();
            self.parts[self.p].state = self.replayed()?;
            return Ok(());
        }
        self.parts[self.p].journal.push(entry.clone());
        self.history.push(entry);
        self.post(send);
        Ok(())
    }

    /// Loses everything that is not durable, and comes back.
    fn crash(&mut self) -> Result<(), String> {
        self.run.steps += 1;
        self.run.crashes += 1;
        self.tell(|| "crash".into());
        if self.broken(Breakage::LostAtCrash) {
            self.parts[self.p].journal.pop();
        }
        self.parts[self.p].answers.clear();
        self.parts[self.p].asked.clear();
        let replayed = self.replayed()?;
        let (live, back) = (format!("{:?}", self.parts[self.p].state), format!("{replayed:?}"));
        // What waited is lost; the message that led to it comes again.
        let lost = self.parts[self.p].waiting.take().map(|(_, posted)| self.messages.push(posted));
        if lost.is_none() && live != back {
            return Err(format!("replay differs from what was lost:\n{live}\n{back}"));
        }
        self.parts[self.p].state = replayed;
        self.parts[self.p].recovered =
            self.parts[self.p].state.outstanding().iter().map(|effect| effect.call_id().0).collect();
        self.now = self.now.plus_millis(self.chance.below(5_000) as i64);
        Ok(())
    }

    /// The state as committed bytes give it.
    fn replayed(&self) -> Result<State, String> {
        let bytes: Vec<Vec<u8>> =
            self.parts[self.p].journal.iter().filter_map(|entry| serde_json::to_vec(entry).ok()).collect();
        let entries: Vec<JournalEntry> = bytes.iter().filter_map(|b| serde_json::from_slice(b).ok()).collect();
        State::replay(self.program, &entries)
    }
}

/// Events of a journal, in order.
pub fn events(journal: &[JournalEntry]) -> impl Iterator<Item = Event> {
    journal.iter().flat_map(|entry| serde_json::from_str::<Vec<Event>>(&entry.payload).unwrap_or_default())
}

fn short(key: &str) -> &str {
    key.get(..8).unwrap_or(key)
}

fn clip(text: &str) -> String {
    text.chars().take(300).collect()
}
