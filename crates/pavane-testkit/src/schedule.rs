//! One run: the driver's contract with everything that may go wrong.
//!
//! Each step: decide, commit (the journal entry is kept as bytes), perform. A crash may come after any commit and before
//! any effect: it loses the state and every answer under way, and keeps only the committed bytes. Answers are delayed,
//! reordered, repeated and lost.

use pavane_core::engine::{
    Call, Certainty, Command, Effect, Event, Host, Input, Outcome, Rejected, Start, State, decide,
};
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

/// Runs one schedule.
///
/// # Errors
/// What broke, and what happened up to there.
pub fn run(program: &Program, seed: u64) -> Result<Run, (String, Vec<String>)> {
    let mut world = World {
        program,
        host: Host::default(),
        chance: Chance::new(seed),
        services: Services::new(seed),
        state: State::default(),
        journal: Vec::new(),
        answers: Vec::new(),
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
    answers: Vec<(Call, Outcome)>,
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
        self.perform()?;
        if !self.answers.is_empty() && self.chance.percent(85) {
            return self.answer(noisy);
        }
        self.pass_time()
    }

    /// Makes every outstanding call that is not under way.
    fn perform(&mut self) -> Result<(), String> {
        for effect in self.state.outstanding() {
            let Effect::Call(call) = effect else { return Err("only calls are generated".into()) };
            if self.asked.contains(&call.id.0) {
                continue;
            }
            if self.run.steps < QUIET_AFTER && self.chance.percent(3) {
                // Before the effect: the decision is durable, the call is not made.
                return self.crash();
            }
            self.asked.push(call.id.0);
            let outcome = self.call(&call)?;
            self.answers.push((call, outcome));
        }
        Ok(())
    }

    fn call(&mut self, call: &Call) -> Result<Outcome, String> {
        let noisy = self.run.steps < QUIET_AFTER;
        if noisy && self.chance.percent(3) {
            self.trace.push(format!("  {} {} never leaves", call.reference, short(&call.key)));
            // After a crash nobody can say so any more.
            let before = self.recovered.contains(&call.id.0);
            return Ok(failure(500, if before { Certainty::Indeterminate } else { Certainty::NotSent }));
        }
        if noisy && self.chance.percent(2) {
            // Lost on the way there: nothing happened, but nobody knows.
            return Ok(failure(500, Certainty::Indeterminate));
        }
        let undoable = invariants::undoable(self.program, &call.reference);
        let outcome = self.services.execute(call, undoable)?;
        self.trace.push(format!("  {} {} executes: {outcome:?}", call.reference, short(&call.key)));
        if noisy && self.chance.percent(4) {
            // Lost on the way back: it happened, but nobody knows.
            return Ok(failure(504, Certainty::Indeterminate));
        }
        Ok(outcome)
    }

    fn answer(&mut self, noisy: bool) -> Result<(), String> {
        let index = self.chance.below(self.answers.len());
        let (call, outcome) = if noisy && self.chance.percent(10) {
            self.answers[index].clone()
        } else {
            self.answers.swap_remove(index)
        };
        self.take(Command::Outcome { call: call.id, outcome })
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
        let name = format!("{command:?}");
        let before = format!("{:?}", self.state);
        match decide(self.program, &self.host, &mut self.state, Input { at: self.now, command }) {
            Ok(step) => {
                self.trace.push(format!("{} {} <- {}", step.entry.seq, step.entry.event_type, clip(&name)));
                for event in &step.events {
                    self.trace.push(format!("    {}", clip(&format!("{event:?}"))));
                }
                if step.entry.seq != self.journal.len() as u64 + 1 {
                    return Err(format!("step {} does not follow {}", step.entry.seq, self.journal.len()));
                }
                self.journal.push(step.entry);
                Ok(())
            }
            Err(Rejected::Invalid(problem)) => Err(format!("the start was refused: {problem:?}")),
            Err(_) if before == format!("{:?}", self.state) => Ok(()),
            Err(refused) => Err(format!("{refused:?} of {name} changed the state")),
        }
    }

    /// Loses everything that is not durable, and comes back.
    fn crash(&mut self) -> Result<(), String> {
        self.run.steps += 1;
        self.run.crashes += 1;
        self.trace.push("crash".into());
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
