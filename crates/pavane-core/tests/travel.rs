//! Two locations of one instance, by hand: what a token brings, and what becomes of it where it comes to.

#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use pavane_core::definition::read;
use pavane_core::engine::{Command, Effect, Host, Input, Message, Outcome, Start, State, Step, decide, decide_on};
use pavane_core::program::{Location, Program, Resources};
use pavane_core::{Timestamp, Value};

fn program(tasks: &str) -> Program {
    let head = "document: { dsl: '1.0.3', namespace: t, name: t, version: '1.0.0' }\n";
    let definition = read("t.yaml", &format!("{head}{tasks}")).definition.unwrap();
    Program::choreograph(&definition, &Resources::new(), &["s".to_owned()].into()).unwrap()
}

struct At<'a> {
    program: &'a Program,
    host: Host,
    state: State,
}

impl At<'_> {
    fn new(program: &Program, here: Location) -> At<'_> {
        At { program, host: Host { here, ..Host::default() }, state: State::default() }
    }

    fn take(&mut self, seconds: i64, command: Command) -> Step {
        decide(self.program, &self.host, &mut self.state, input(seconds, command)).unwrap()
    }
}

fn input(seconds: i64, command: Command) -> Input {
    Input { at: Timestamp(seconds * 1_000), command }
}

fn message(message: &Message) -> Command {
    Command::Message(Box::new(message.clone()))
}

/// The engine after its start, and what it sent to `s`.
fn started(program: &Program) -> (At<'_>, Message) {
    let mut engine = At::new(program, Location::Engine);
    let start = Start {
        id: "i".into(),
        input: Value::empty_object(),
        correlation_id: "i".into(),
        parent: None,
        trace: None,
        notify: None,
    };
    let sent = engine.take(0, Command::Start(start)).send.remove(0);
    (engine, sent)
}

const LIMITED: &str =
    "do: [ a: { timeout: { after: PT1M }, do: [ b: { call: http, with: { method: get, endpoint: 'http://s/' } } ] } ]";

#[test]
fn a_token_that_came_while_suspended_keeps_its_time() {
    let program = program(LIMITED);
    let (mut engine, token) = started(&program);
    let suspend = engine.take(1, Command::Suspend).send.remove(0);
    let resume = engine.take(3_601, Command::Resume).send.remove(0);
    let mut s = At::new(&program, "s".to_owned().into());
    s.take(1, message(&suspend));
    s.take(2, message(&token));
    assert!(s.state.outstanding().is_empty(), "suspended");
    s.take(3_601, message(&resume));
    let [Effect::Call(call)] = &s.state.outstanding()[..] else { panic!("{:?}", s.state) };
    assert_eq!(call.deadline, Some(Timestamp((60 + 3_600) * 1_000)));
}

#[test]
fn a_step_and_the_outcome_it_waited_for_are_one_entry_and_replay_as_two() {
    let program = program(LIMITED);
    let (_, token) = started(&program);
    let mut s = At::new(&program, "s".to_owned().into());
    let step = s.take(1, message(&token));
    assert!(step.may_wait(&program, &s.state));
    let [Effect::Call(call)] = &s.state.outstanding()[..] else { panic!("{:?}", s.state) };
    let late =
        Command::Outcome { call: pavane_core::engine::CallId(7), outcome: Outcome::Success(Value::NULL), held: None };
    let (step, _) = decide_on(&program, &s.host, &mut s.state, step, input(2, late)).unwrap_err();
    let outcome = Command::Outcome { call: call.id, outcome: Outcome::Success(Value::NULL), held: None };
    let step = decide_on(&program, &s.host, &mut s.state, *step, input(3, outcome)).unwrap();
    assert_eq!((step.entry.seq, step.tasks.len(), step.send.len()), (1, 2, 1));
    assert_eq!((&*step.entry.subject, &*step.entry.event_type), ("/do/0/a/do/0/b", "message.received"));
    let replayed = State::replay(&program, [&step.entry]).unwrap();
    assert_eq!(format!("{replayed:?}"), format!("{:?}", s.state));
    // Each half happened when it did.
    let told = pavane_core::engine::lifecycle(&step.entry, "t", "t").unwrap();
    let times: Vec<String> = told.iter().map(|e| e.envelope().get("time").unwrap().as_str().unwrap().into()).collect();
    assert!(times[0].ends_with("00:00:01.000Z") && times.last().unwrap().ends_with("00:00:03.000Z"), "{times:?}");
}

#[test]
fn a_step_that_reads_the_time_does_not_wait() {
    let call = |body: &str| {
        program(&format!("do: [ a: {{ call: http, with: {{ method: post, endpoint: 'http://s/', body: {body} }} }} ]"))
    };
    for (body, waits) in [
        ("{ at: '${ now }' }", false),
        ("'${ $task.startedAt.iso8601 }'", false),
        ("'${ $task }'", false),
        ("'${ $runtime.version }'", false),
        ("'${ $task.name }'", true),
        ("'${ $workflow.startedAt.iso8601 }'", true),
        ("{ known: '${ .snow | tostring }' }", true),
    ] {
        let program = call(body);
        let (_, token) = started(&program);
        let mut s = At::new(&program, "s".to_owned().into());
        let step = s.take(1, message(&token));
        assert_eq!(step.may_wait(&program, &s.state), waits, "{body}");
    }
}
