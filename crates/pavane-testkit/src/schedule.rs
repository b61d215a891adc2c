//! One run: the driver's contract with everything that may go wrong.
//!
//! Each step: decide, commit (the journal entry is kept as bytes), perform. A crash may come after any commit and before
//! any effect: it loses the state and every answer under way, and keeps only the committed bytes. Answers are delayed,
//! reordered, repeated and lost; a request that was given up may still arrive late.
//!
//! [`run`] plays as the product does. [`run_broken`] breaks one thing of the driver or the services on purpose: the
//! invariants must notice, or they prove nothing.

use pavane_core::engine::{
    Call, Certainty, Command, Effect, Event, Host, HttpRequest, Input, Outcome, Rejected, Request, Start, State, decide,
};
use pavane_core::event::CloudEvent;
use pavane_core::program::Program;
use pavane_core::record::JournalEntry;
use pavane_core::{Timestamp, Value};

use crate::chance::Chance;
use crate::invariants;
use crate::services::{Services, failure};

/// Faults end after this many steps, so that every run can end.
const QUIET_AFTER: u64 = 150;
/// A run that takes more steps than this does not end.
const MAX_STEPS: u64 = 3_000;

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// Steps decided.
    pub steps: u64,
    /// Crashes.
    pub crashes: u64,
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
}

impl Breakage {
    /// All of them.
    pub const ALL: [Breakage; 10] = [
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
    ];
}

/// Runs one schedule.
///
/// # Errors
/// What broke, and what happened up to there.
pub fn run(program: &Program, seed: u64) -> Result<Run, (String, Vec<String>)> {
    run_broken(program, seed, None)
}

/// Runs one schedule with something broken.
///
/// # Errors
/// What broke, and what happened up to there.
pub fn run_broken(program: &Program, seed: u64, breakage: Option<Breakage>) -> Result<Run, (String, Vec<String>)> {
    // A trace costs more than the run: it is written when there is something to tell, by the same run once more.
    once(program, seed, breakage, false).or_else(|_| once(program, seed, breakage, true))
}

fn once(program: &Program, seed: u64, breakage: Option<Breakage>, tracing: bool) -> Result<Run, (String, Vec<String>)> {
    let mut world = World {
        program,
        host: Host::default(),
        chance: Chance::new(seed),
        services: Services::new(seed),
        state: State::default(),
        journal: Vec::new(),
        answers: Vec::new(),
        late: Vec::new(),
        events: Vec::new(),
        breakage,
        tracing,
        asked: Vec::new(),
        recovered: Vec::new(),
        now: Timestamp(1_700_000_000_000),
        run: Run::default(),
        trace: Vec::new(),
    };
    world.play().map_err(|broken| (broken, std::mem::take(&mut world.trace)))?;
    Ok(world.run)
}

struct World<'a> {
    program: &'a Program,
    host: Host,
    chance: Chance,
    services: Services,
    state: State,
    /// What is durable.
    journal: Vec<JournalEntry>,
    /// Answers under way.
    answers: Vec<Command>,
    /// Requests that were given up and may still arrive.
    late: Vec<Call>,
    /// Events published so far.
    events: Vec<CloudEvent>,
    breakage: Option<Breakage>,
    tracing: bool,
    /// Calls made since the last crash and not answered.
    asked: Vec<u32>,
    /// Calls that were outstanding at a crash: they may have been made before it.
    recovered: Vec<u32>,
    now: Timestamp,
    run: Run,
    trace: Vec<String>,
}

impl World<'_> {
    fn play(&mut self) -> Result<(), String> {
        let start = Start {
            id: "00000000-0000-7000-8000-000000000001".into(),
            input: Value::object([("order", Value::integer(1))]),
            correlation_id: "00000000-0000-7000-8000-000000000001".into(),
            parent: None,
        };
        self.take(Command::Start(start))?;
        while !self.state.is_closed() {
            if self.run.steps > MAX_STEPS {
                return Err(format!(
                    "the run does not end: {:?} is {:?}",
                    self.state.outstanding(),
                    self.state.status()
                ));
            }
            self.move_once()?;
        }
        while let Some(call) = self.late.pop() {
            self.arrive(&call)?;
        }
        if self.broken(Breakage::EndedTwice) {
            self.journal.extend(self.journal.last().cloned());
        }
        if let Some(Breakage::EventTwice | Breakage::EndedTwice) = self.breakage {
            return invariants::at_end(self.program, &self.state, &self.journal, &self.services);
        }
        let replayed = self.replayed()?;
        invariants::at_end(self.program, &replayed, &self.journal, &self.services)
    }

    fn move_once(&mut self) -> Result<(), String> {
        let noisy = self.run.steps < QUIET_AFTER;
        if noisy && self.chance.percent(6) {
            return self.crash();
        }
        if noisy && self.chance.percent(2) {
            let command = match self.chance.below(6) {
                0 => Command::Cancel { reason: "the simulator wants it".into() },
                1..=3 => Command::Suspend,
                _ => Command::Retry,
            };
            return self.take(command);
        }
        if self.state.status() == pavane_core::record::Status::Suspended && self.chance.percent(30) {
            return self.take(Command::Resume);
        }
        if !self.late.is_empty() && self.chance.percent(10) {
            let call = self.late.swap_remove(self.chance.below(self.late.len()));
            self.arrive(&call)?;
        }
        if !self.program.subscriptions().is_empty() && self.chance.percent(8) {
            return self.event(noisy);
        }
        self.perform()?;
        if !self.answers.is_empty() && self.chance.percent(85) {
            return self.answer(noisy);
        }
        self.pass_time()
    }

    /// Makes every outstanding call that is not under way.
    fn perform(&mut self) -> Result<(), String> {
        for effect in self.state.outstanding() {
            if self.asked.contains(&effect.call_id().0) {
                continue;
            }
            if self.run.steps < QUIET_AFTER && self.chance.percent(3) {
                // Before the effect: the decision is durable, the call is not made.
                return self.crash();
            }
            self.asked.push(effect.call_id().0);
            let answer = match effect {
                Effect::Call(call) => Command::Outcome { call: call.id, outcome: self.call(&call)? },
                Effect::StartChild { call, child } => Command::Child { call, result: self.services.child(&child)? },
            };
            self.answers.push(answer);
        }
        Ok(())
    }

    fn call(&mut self, call: &Call) -> Result<Outcome, String> {
        let noisy = self.run.steps < QUIET_AFTER;
        if noisy && self.chance.percent(3) {
            self.tell(|| format!("  {} {} never leaves", call.reference, short(&call.key)));
            // After a crash nobody can say so any more.
            let before = self.recovered.contains(&call.id.0);
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
        if noisy && self.chance.percent(4) {
            // Lost on the way back: it happened, but nobody knows.
            return Ok(failure(504, Certainty::Indeterminate));
        }
        Ok(outcome)
    }

    fn answer(&mut self, noisy: bool) -> Result<(), String> {
        let index = self.chance.below(self.answers.len());
        let command = if noisy && self.chance.percent(10) {
            self.answers[index].clone()
        } else {
            self.answers.swap_remove(index)
        };
        self.take(command)
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
        match self.state.next_timer() {
            Some(at) if self.answers.is_empty() || self.chance.percent(20) => {
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

    /// Decide, then commit. What is refused changes nothing.
    fn take(&mut self, command: Command) -> Result<(), String> {
        self.run.steps += 1;
        self.now = self.now.plus_millis(1);
        let name = if self.tracing { format!("{command:?}") } else { String::new() };
        let before = self.state.clone();
        match decide(self.program, &self.host, &mut self.state, Input { at: self.now, command }) {
            Ok(step) => {
                self.tell(|| format!("{} {} <- {}", step.entry.seq, step.entry.event_type, clip(&name)));
                for event in &step.events {
                    self.tell(|| format!("    {}", clip(&format!("{event:?}"))));
                }
                if self.broken(Breakage::EffectBeforeCommit) && self.run.steps < QUIET_AFTER {
                    return self.perform_early(step.entry);
                }
                if step.entry.seq != self.journal.len() as u64 + 1 {
                    return Err(format!("step {} does not follow {}", step.entry.seq, self.journal.len()));
                }
                if self.broken(Breakage::LostEntry) && self.chance.percent(5) {
                    return Ok(());
                }
                if self.broken(Breakage::EventTwice) && step.entry.event_type == "event.received" {
                    self.journal.push(step.entry.clone());
                    return invariants::events_once(&[&self.journal[..], &[step.entry]].concat());
                }
                self.journal.push(step.entry);
                Ok(())
            }
            Err(Rejected::Invalid(problem)) => Err(format!("the start was refused: {problem:?}")),
            Err(_) if format!("{before:?}") == format!("{:?}", self.state) => Ok(()),
            Err(refused) => Err(format!("{refused:?} of {name} changed the state")),
        }
    }

    /// What a broken driver does: the effects first, and then perhaps a crash before the commit.
    fn perform_early(&mut self, entry: JournalEntry) -> Result<(), String> {
        for effect in self.state.outstanding() {
            if let Effect::Call(call) = effect
                && !self.asked.contains(&call.id.0)
            {
                self.asked.push(call.id.0);
                let outcome = self.call(&call)?;
                self.answers.push(Command::Outcome { call: call.id, outcome });
            }
        }
        if !self.journal.is_empty() && self.chance.percent(10) {
            self.answers.clear();
            self.asked.clear();
            self.state = self.replayed()?;
            return Ok(());
        }
        self.journal.push(entry);
        Ok(())
    }

    /// Loses everything that is not durable, and comes back.
    fn crash(&mut self) -> Result<(), String> {
        self.run.steps += 1;
        self.run.crashes += 1;
        self.tell(|| "crash".into());
        if self.broken(Breakage::LostAtCrash) {
            self.journal.pop();
        }
        self.answers.clear();
        self.asked.clear();
        let replayed = self.replayed()?;
        let (live, back) = (format!("{:?}", self.state), format!("{replayed:?}"));
        if live != back {
            return Err(format!("replay differs from what was lost:\n{live}\n{back}"));
        }
        self.state = replayed;
        self.recovered = self.state.outstanding().iter().map(|effect| effect.call_id().0).collect();
        self.now = self.now.plus_millis(self.chance.below(5_000) as i64);
        Ok(())
    }

    /// The state as committed bytes give it.
    fn replayed(&self) -> Result<State, String> {
        let bytes: Vec<Vec<u8>> = self.journal.iter().filter_map(|entry| serde_json::to_vec(entry).ok()).collect();
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
    text.chars().take(220).collect()
}
