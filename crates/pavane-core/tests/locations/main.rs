//! All locations of one instance, played by hand: messages too large to be sent, and a participant's store that is lost.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at what it did not expect")]

mod lost;
mod size;

use std::collections::BTreeMap;

use pavane_core::definition::read;
use pavane_core::engine::{Call, Command, Effect, Host, Input, Message, Outcome, Start, State, Step, decide};
use pavane_core::program::{Location, Program, Resources};
use pavane_core::record::{JournalEntry, WorkflowInstance};
use pavane_core::{Timestamp, Value};

/// A program over the services `a`, `b` and `c`.
fn program(tasks: &str) -> Program {
    let head = "document: { dsl: '1.0.3', namespace: t, name: t, version: '1.0.0' }\n";
    let definition = read("t.yaml", &format!("{head}{tasks}")).definition.unwrap();
    let services = ["a", "b", "c"].map(str::to_owned).into();
    Program::choreograph(&definition, &Resources::new(), &services).unwrap()
}

fn at(service: &str) -> Location {
    service.to_owned().into()
}

/// One location's part.
struct Part {
    host: Host,
    state: State,
    journal: Vec<JournalEntry>,
}

/// Every location, and the messages on their way.
struct Places<'a> {
    program: &'a Program,
    parts: BTreeMap<Location, Part>,
    messages: Vec<Message>,
    /// Messages that were too large.
    oversize: u32,
    seconds: i64,
}

impl<'a> Places<'a> {
    fn new(program: &'a Program, max_token: usize) -> Places<'a> {
        let part = |here: &Location| {
            let host = Host { here: here.clone(), max_token, ..Host::default() };
            (here.clone(), Part { host, state: State::default(), journal: Vec::new() })
        };
        let parts = program.locations().iter().map(part).collect();
        Places { program, parts, messages: Vec::new(), oversize: 0, seconds: 0 }
    }

    fn start(&mut self, input: Value) {
        let start =
            Start { id: "i".into(), input, correlation_id: "i".into(), parent: None, trace: None, notify: None };
        self.take(&Location::Engine, Command::Start(start));
    }

    /// Decides at a location, keeps what is sent, and checks that a replay gives the same state.
    fn take(&mut self, here: &Location, command: Command) -> Step {
        self.seconds += 1;
        let part = self.parts.get_mut(here).unwrap();
        let input = Input { at: Timestamp(self.seconds * 1_000), command };
        let step = decide(self.program, &part.host, &mut part.state, input).unwrap();
        part.journal.push(step.entry.clone());
        let replayed = State::replay(self.program, &part.journal).unwrap();
        assert_eq!(format!("{replayed:?}"), format!("{:?}", part.state));
        self.messages.extend(step.send.iter().cloned());
        self.oversize += step.oversize;
        step
    }

    /// Delivers every message, as bytes.
    fn deliver(&mut self) {
        while !self.messages.is_empty() {
            let message = self.messages.remove(0);
            self.take(&message.to.clone(), Command::Message(Box::new(message)));
        }
    }

    /// What a location has to call.
    fn calls(&self, here: &str) -> Vec<Call> {
        let outstanding = self.parts[&at(here)].state.outstanding();
        let call = |effect| match effect {
            Effect::Call(call) => call,
            Effect::StartChild { .. } => panic!("a sub-workflow"),
        };
        outstanding.into_iter().map(call).collect()
    }

    /// Answers the one call of a location, and delivers what follows.
    fn answer(&mut self, here: &str, outcome: Outcome) {
        let [call] = &self.calls(here)[..] else { panic!("{here} owes {:?}", self.calls(here)) };
        self.take(&at(here), Command::Outcome { call: call.id, outcome, held: None });
        self.deliver();
    }

    fn record(&self) -> WorkflowInstance {
        self.parts[&Location::Engine].state.record(self.program)
    }
}
