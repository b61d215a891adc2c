//! The machine: fixtures (a definition, an input, and what the world does) and the transcripts they give.
//!
//! The runner plays the driver over `decide` and `outstanding`. After every step the state is built anew from the
//! journal's bytes and must be the same: recovery is replay. `PAVANE_BLESS=1` writes the transcripts anew; read the
//! difference against `docs/conformance.md` before committing it, for a blessed wrong answer is a defect.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at what it did not expect")]

mod script;
mod transcript;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pavane_core::definition::read;
use pavane_core::engine::{CallId, Command, Effect, Host, Input, Rejected, Start, State, decide, lifecycle};
use pavane_core::event::CloudEvent;
use pavane_core::program::{Program, Resources};
use pavane_core::record::JournalEntry;
use pavane_core::time::Duration;
use pavane_core::{Timestamp, Value};

use script::{Answer, Answers, Fixture, Happening, Run, To};
use transcript::Transcript;

const ID: &str = "00000000-0000-7000-8000-000000000001";
/// 2026-01-01T00:00:00Z
const START: Timestamp = Timestamp(1_767_225_600_000);
/// A run that takes more steps than this does not end.
const MAX_STEPS: usize = 2_000;

#[test]
fn every_fixture_gives_its_transcript() {
    let fixtures = script::fixtures();
    assert!(fixtures.len() >= 10);
    let wrong: Vec<_> = fixtures.iter().filter_map(|fixture| check(fixture).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The page that says what Pavane does names every fixture here, and none that is not there.
#[test]
fn the_page_of_conformance_and_the_fixtures_are_in_step() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conformance.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let last = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
    let named: BTreeSet<&str> = last.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let files = script::folder().join("..");
    let exists = |name: &str| {
        let place = if name.starts_with("definition/") || name.starts_with("expression/") { "" } else { "engine" };
        ["yaml", "json", "txt"].iter().any(|e| files.join(place).join(format!("{name}.{e}")).exists())
    };
    let missing: Vec<_> = named.iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "named, but not there: {missing:?}");
    let fixtures = script::fixtures();
    let unnamed: Vec<_> = fixtures.iter().map(|f| &f.name).filter(|name| !named.contains(name.as_str())).collect();
    assert!(unnamed.is_empty(), "there, but not named: {unnamed:?}");
}

fn check(fixture: &Fixture) -> Result<(), String> {
    let given = transcript_of(fixture);
    let expected = script::folder().join(format!("{}.txt", fixture.name));
    if std::env::var_os("PAVANE_BLESS").is_some() {
        std::fs::write(&expected, &given).unwrap();
    }
    let wanted = std::fs::read_to_string(&expected).unwrap_or_default();
    if wanted == given { Ok(()) } else { Err(format!("{}: expected\n{wanted}\ngot\n{given}", fixture.name)) }
}

fn transcript_of(fixture: &Fixture) -> String {
    let mut transcript = Transcript::default();
    let file = format!("{}.yaml", fixture.name.rsplit('/').next().unwrap());
    let reading = read(&file, &fixture.definition);
    for diagnostic in &reading.diagnostics {
        transcript.line(diagnostic.to_string().trim_end());
    }
    let (Some(definition), false) = (&reading.definition, reading.has_errors()) else { return transcript.into_text() };
    let mut text = transcript.into_text();
    for run in &fixture.runs {
        let resources: Resources = run.resources.iter().map(|(uri, doc)| (uri.clone(), Value::from(doc))).collect();
        match Program::compile(definition, &resources) {
            Ok(program) => text.push_str(&World::new(&fixture.name, &program, run).play()),
            Err(problems) => problems.iter().for_each(|d| text.push_str(&d.to_string())),
        }
    }
    text
}

/// One run.
struct World<'a> {
    name: &'a str,
    program: &'a Program,
    run: &'a Run,
    host: Host,
    state: State,
    journal: Vec<JournalEntry>,
    /// Calls shown in the transcript.
    shown: BTreeSet<u32>,
    /// The last key of each task that was called.
    keys: BTreeMap<String, String>,
    /// How many answers each entry of `calls` has given.
    given: BTreeMap<&'a str, usize>,
    events: usize,
    now: Timestamp,
    transcript: Transcript,
}

impl<'a> World<'a> {
    fn new(name: &'a str, program: &'a Program, run: &'a Run) -> World<'a> {
        let secrets = run.secrets.iter().map(|(name, secret)| (name.clone(), Value::from(secret))).collect();
        let runtime = Value::object([("name", Value::text("pavane")), ("version", Value::text("0.0.0"))]);
        World {
            name,
            program,
            run,
            host: Host { secrets, runtime, ..Host::default() },
            state: State::default(),
            journal: Vec::new(),
            shown: BTreeSet::new(),
            keys: BTreeMap::new(),
            given: BTreeMap::new(),
            events: 0,
            now: START,
            transcript: Transcript::default(),
        }
    }

    fn play(mut self) -> String {
        self.transcript.line(&format!("== {}", self.run.run));
        if !self.take(self.start()) {
            return self.transcript.into_text();
        }
        self.settle();
        let mut stopped = false;
        for happening in &self.run.script {
            stopped |= matches!(happening, Happening::Stop);
            self.happen(happening);
            self.settle();
        }
        while !stopped && let Some(at) = self.state.next_timer() {
            self.now = self.now.max(at);
            self.take(Command::Tick);
            self.settle();
        }
        self.transcript.record(&self.state.record(self.program), &self.state.open_tasks(self.program));
        if self.run.lifecycle {
            for entry in &self.journal {
                for event in lifecycle(entry, "test", "workflow").unwrap() {
                    self.transcript.line(&format!("  {} {}", event.type_(), event.data().to_json()));
                }
            }
        }
        self.transcript.into_text()
    }

    fn start(&self) -> Command {
        Command::Start(Start {
            id: ID.into(),
            input: Value::from(&self.run.input),
            correlation_id: ID.into(),
            parent: None,
            trace: None,
            notify: self.run.notify.clone(),
        })
    }

    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Answer { to, with } => self.answer(to, with),
            Happening::Callback { to, with } => {
                let (key, outcome) = (self.key_of(to), with.outcome());
                self.note(&format!("callback {to} {}", transcript::outcome(&outcome)));
                if !self.take(Command::Callback { key: key.clone(), outcome }) {
                    self.take(Command::LateCallback { key });
                }
            }
            Happening::Heartbeat(to) => {
                self.note(&format!("heartbeat {to}"));
                self.take(Command::Heartbeat { key: self.key_of(to) });
            }
            Happening::Event(event) => {
                self.events += 1;
                let mut event = Value::from(event);
                for (name, value) in [("specversion", "1.0".to_owned()), ("id", format!("e{}", self.events))] {
                    if event.get(name).is_none() {
                        event = event.with(name, value.into());
                    }
                }
                let event = if event.get("source").is_none() { event.with("source", "test".into()) } else { event };
                self.note(&format!("event {}", event.to_json()));
                self.take(Command::Event(CloudEvent::new(event).unwrap()));
            }
            Happening::Pass(duration) => self.pass(Duration::parse(duration).unwrap()),
            Happening::Tick => {
                self.take(Command::Tick);
            }
            Happening::Cancel(reason) => {
                self.take(Command::Cancel { reason: reason.clone() });
            }
            Happening::Suspend => {
                self.take(Command::Suspend);
            }
            Happening::Resume => {
                self.take(Command::Resume);
            }
            Happening::Retry => {
                self.take(Command::Retry);
            }
            Happening::StartAgain => {
                self.take(self.start());
            }
            Happening::Stop => {}
        }
    }

    fn key_of(&self, reference: &str) -> String {
        self.keys.get(reference).unwrap_or_else(|| panic!("{}: {reference} was not called", self.name)).clone()
    }

    fn answer(&mut self, to: &To, with: &Answer) {
        let effects = self.state.outstanding();
        let number = match to {
            To::Number(number) => *number,
            To::Reference(reference) => {
                let found = effects.iter().find(|effect| self.keys_of(effect).contains(reference));
                let Some(found) = found else { panic!("{}: nothing waits at {reference}", self.name) };
                found.call_id().0
            }
        };
        let child = effects.iter().any(|e| e.call_id().0 == number && matches!(e, Effect::StartChild { .. }));
        self.report(CallId(number), with, child);
    }

    fn report(&mut self, call: CallId, answer: &Answer, child: bool) {
        let command = if child {
            let result = answer.result();
            let shown = result.as_ref().map_or_else(transcript::problem, Value::to_json);
            self.note(&format!("child #{} ends {shown}", call.0));
            Command::Child { call, result }
        } else {
            let outcome = answer.outcome();
            self.note(&format!("answer #{} {}", call.0, transcript::outcome(&outcome)));
            Command::Outcome { call, outcome, held: answer.held() }
        };
        self.take(command);
    }

    /// Lets time pass; what falls due on the way happens at its time.
    fn pass(&mut self, duration: Duration) {
        let end = self.now.plus(duration);
        while let Some(at) = self.state.next_timer().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.take(Command::Tick);
            self.settle();
        }
        self.now = end;
    }

    /// Answers what is answered at once, until nothing is left of it.
    fn settle(&mut self) {
        loop {
            let effects = self.state.outstanding();
            for effect in &effects {
                self.show(effect);
            }
            let ready = effects.iter().find_map(|effect| Some((effect, self.next_answer(effect)?)));
            let Some((effect, answer)) = ready else { return };
            self.report(effect.call_id(), &answer, matches!(effect, Effect::StartChild { .. }));
        }
    }

    fn show(&mut self, effect: &Effect) {
        if self.shown.insert(effect.call_id().0) {
            let at = self.now.since(START);
            match effect {
                Effect::Call(call) => {
                    self.keys.insert(call.reference.to_string(), call.key.clone());
                    self.transcript.call(at, call, START);
                }
                Effect::StartChild { call, child } => self.transcript.child(at, call.0, child),
            }
        }
    }

    fn next_answer(&mut self, effect: &Effect) -> Option<Answer> {
        let keys = self.keys_of(effect);
        let (name, answers) = self.run.calls.iter().find(|(name, _)| keys.contains(name))?;
        match answers {
            Answers::Always(answer) => Some(answer.clone()),
            Answers::Each(answers) => {
                let given = self.given.entry(name).or_default();
                let answer = answers.get(*given)?.clone();
                *given += 1;
                Some(answer)
            }
        }
    }

    /// What an answer may be found by.
    fn keys_of(&self, effect: &Effect) -> Vec<String> {
        match effect {
            Effect::Call(call) => {
                let uri = match &*call.request {
                    pavane_core::engine::Request::Http(http) => format!("{} {}", http.method, http.uri),
                    pavane_core::engine::Request::OpenApi(api) => api.operation.clone(),
                };
                vec![call.reference.to_string(), uri]
            }
            Effect::StartChild { child, .. } => vec![child.reference.clone()],
        }
    }

    fn note(&mut self, line: &str) {
        self.transcript.at(self.now.since(START), line);
    }

    /// Decides, commits, and builds the state anew from what was committed. Tells whether the input was taken.
    fn take(&mut self, command: Command) -> bool {
        assert!(self.journal.len() < MAX_STEPS, "{}: the run does not end", self.name);
        let before = format!("{:?}", self.state);
        match decide(self.program, &self.host, &mut self.state, Input { at: self.now, command }) {
            Ok(step) => {
                self.transcript.step(self.now.since(START), START, &step);
                self.journal.push(step.entry);
                self.recover();
                true
            }
            Err(refused) => {
                assert_eq!(before, format!("{:?}", self.state), "{}: a refused input changed the state", self.name);
                let why = match refused {
                    Rejected::Stale => "stale".into(),
                    Rejected::Invalid(problem) => transcript::problem(&problem),
                    Rejected::Conflict(why) => why,
                    Rejected::Answered => "it is answered already".into(),
                    Rejected::Late => "nobody waits for it".into(),
                };
                self.note(&format!("refused: {why}"));
                false
            }
        }
    }

    fn recover(&self) {
        let bytes = serde_json::to_vec(&self.journal).unwrap();
        let entries: Vec<JournalEntry> = serde_json::from_slice(&bytes).unwrap();
        let replayed = State::replay(self.program, &entries).unwrap();
        let facts = |state: &State| {
            (
                format!("{:?}", state.outstanding()),
                state.wake(),
                state.record(self.program),
                state.open_tasks(self.program),
                format!("{state:?}"),
            )
        };
        assert_eq!(facts(&self.state), facts(&replayed), "{}: replay differs after step {}", self.name, entries.len());
    }
}
