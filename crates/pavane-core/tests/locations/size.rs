//! A message that would take work on and is too large fails the task that is due; what undoes and ends gets through.

use super::*;
use pavane_core::engine::{ATTRIBUTES, Certainty};
use pavane_core::problem::Kind;
use pavane_core::record::Status;

/// A message of these workflows without the filler has some 500 bytes, and its attributes.
const LIMIT: usize = 4_000;

const CALL: &str = "call: http, with: { method: post, endpoint: 'http://";

/// An answer that makes whatever holds it too large.
fn large() -> Outcome {
    Outcome::Success(Value::object([("id", Value::text("7")), ("filler", Value::text("x".repeat(LIMIT)))]))
}

fn small() -> Outcome {
    Outcome::Success(Value::object([("id", Value::text("7"))]))
}

fn undoable() -> String {
    format!("use: {{ functions: {{ undo: {{ {CALL}a/undo' }} }} }} }}\n")
}

#[test]
fn the_limit_counts_the_whole_message_to_the_byte() {
    let program = program(&format!("do: [ first: {{ {CALL}a/' }} }} ]"));
    let mut free = Places::new(&program, usize::MAX);
    free.start(Value::object([("filler", Value::text("x".repeat(100)))]));
    let size = free.messages[0].text().map_or(0, |text| text.len()) + ATTRIBUTES;
    for (limit, fits) in [(size, true), (size - 1, false)] {
        let mut places = Places::new(&program, limit);
        places.start(Value::object([("filler", Value::text("x".repeat(100)))]));
        assert_eq!((places.messages.len(), places.oversize), if fits { (1, 0) } else { (0, 1) });
        let record = places.record();
        let problem = record.error.unwrap_or_else(|| Kind::Runtime.problem("none"));
        let told = format!("the message that takes the work on to a would have {size} bytes, and {limit} is the most");
        assert_eq!(problem.detail.unwrap().starts_with(&told), !fits, "{limit}");
        if !fits {
            assert_eq!((problem.status, &*problem.instance, record.status), (500, "/do/0/first", Status::Faulted));
            assert_eq!(Kind::of(&problem.type_), Some(Kind::Runtime));
        }
    }
}

#[test]
fn it_is_caught_where_the_task_stands_and_what_was_done_there_is_undone_first() {
    let tasks = format!(
        "{}do: [ all: {{ try: [ one: {{ {CALL}a/' }}, metadata: {{ pavane: {{ compensate: undo }} }} }}, \
         two: {{ {CALL}b/' }} }} ], catch: {{ errors: {{ with: {{ status: 500 }} }}, as: e, do: [ told: {{ set: \
         {{ at: '${{ $e.instance }}' }} }}, three: {{ {CALL}c/', body: '${{ .at }}' }} }} ] }} }} ]",
        undoable()
    );
    let program = program(&tasks);
    let mut places = Places::new(&program, LIMIT);
    places.start(Value::empty_object());
    places.deliver();
    places.answer("a", large());
    // `two` never left: `a` undoes what it did, and then the handler goes on with the input of the try.
    assert!(places.calls("b").is_empty());
    let [undo] = &places.calls("a")[..] else { panic!("{:?}", places.calls("a")) };
    assert!(undo.compensates.is_some());
    places.answer("a", small());
    let [three] = &places.calls("c")[..] else { panic!("{:?}", places.calls("c")) };
    let pavane_core::engine::Request::Http(request) = &*three.request else { panic!() };
    assert_eq!(request.body, Some(Value::text("/do/0/all/try/1/two")));
    places.answer("c", small());
    let record = places.record();
    assert_eq!((record.status, places.oversize), (Status::Completed, 1));
    assert_eq!(record.compensation.compensated, ["/do/0/all/try/0/one"]);
}

#[test]
fn what_undoes_gets_through_whatever_it_holds_and_leaves_the_data_behind() {
    let tasks = format!(
        "{}do: [ one: {{ {CALL}a/' }}, metadata: {{ pavane: {{ compensate: undo }} }} }}, two: {{ {CALL}b/' }} }} ]",
        undoable()
    );
    let program = program(&tasks);
    let mut places = Places::new(&program, usize::MAX);
    places.start(Value::empty_object());
    places.deliver();
    places.answer("a", large());
    // From here on nothing that takes work on may leave `b` at all.
    places.parts.get_mut(&at("b")).unwrap().host.max_token = 1;
    let [call] = &places.calls("b")[..] else { panic!("{:?}", places.calls("b")) };
    let problem = Kind::Communication.problem("no").at("");
    let failed = Outcome::Failure { problem, certainty: Certainty::Definite };
    let step = places.take(&at("b"), Command::Outcome { call: call.id, outcome: failed, held: None });
    let sent = step.send[0].to_envelope(&program, Timestamp(0));
    // The filler is in the entry that says what is to be undone, once, and not in the data again.
    assert_eq!(sent.matches(&"x".repeat(LIMIT)).count(), 1, "{sent}");
    places.deliver();
    places.answer("a", small());
    let record = places.record();
    assert_eq!((record.status, record.compensation.compensated.len(), places.oversize), (Status::Faulted, 1, 0));
}

#[test]
fn a_branch_that_cannot_report_its_output_reports_the_error() {
    let branches = format!("one: {{ {CALL}a/' }} }} }}, {{ two: {{ {CALL}b/' }} }}");
    let program = program(&format!("do: [ both: {{ fork: {{ branches: [ {{ {branches} }} ] }} }} ]"));
    let mut places = Places::new(&program, LIMIT);
    places.start(Value::empty_object());
    places.deliver();
    places.answer("b", small());
    places.answer("a", large());
    let record = places.record();
    let problem = record.error.unwrap();
    assert_eq!(
        (record.status, places.oversize, &*problem.instance),
        (Status::Faulted, 1, "/do/0/both/fork/branches/0/one")
    );
}

#[test]
fn an_output_too_large_to_go_home_faults_the_instance_after_undoing() {
    let task = "metadata: { pavane: { compensate: undo } }";
    let program = program(&format!("{}do: [ one: {{ {CALL}a/' }}, {task} }} ]", undoable()));
    let mut places = Places::new(&program, LIMIT);
    places.start(Value::empty_object());
    places.deliver();
    places.answer("a", large());
    places.answer("a", small());
    let record = places.record();
    let problem = record.error.unwrap();
    assert_eq!((record.status, &*problem.instance), (Status::Faulted, "/do/0/one"));
    assert_eq!(record.compensation.compensated, ["/do/0/one"]);
}

#[test]
fn a_retry_at_once_ends_in_one_step() {
    let tasks = format!(
        "do: [ again: {{ try: [ one: {{ {CALL}a/' }} }} ], catch: {{ retry: {{ delay: PT0S, backoff: {{ constant: {{}} }} }} }} }} ]"
    );
    let program = program(&tasks);
    let mut places = Places::new(&program, 10);
    places.start(Value::empty_object());
    let record = places.record();
    assert_eq!(record.status, Status::Faulted);
    assert!((50..200).contains(&places.oversize), "{}", places.oversize);
}
