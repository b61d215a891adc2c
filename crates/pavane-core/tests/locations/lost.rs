//! A participant's store is lost: what is known of it goes on or is abandoned, and no effect is left that nobody names.

use super::*;
use pavane_core::engine::{Extent, Loss, Witness};
use pavane_core::record::Status;

/// Three calls at three services, each with its compensation.
fn saga() -> Program {
    let function =
        |at: &str| format!("undo{at}: {{ call: http, with: {{ method: post, endpoint: 'http://{at}/undo' }} }}");
    program(&format!(
        "use: {{ functions: {{ {}, {}, {} }} }}\ndo: [ {}, {}, {} ]",
        function("a"),
        function("b"),
        function("c"),
        task("one", "a"),
        task("two", "b"),
        task("three", "c"),
    ))
}

fn task(name: &str, at: &str) -> String {
    format!(
        "{name}: {{ call: http, with: {{ method: post, endpoint: 'http://{at}/' }}, metadata: {{ pavane: {{ compensate: \
         undo{at} }} }} }}"
    )
}

fn done() -> Outcome {
    Outcome::Success(Value::text("done"))
}

impl Places<'_> {
    /// Loses the store of a location, of whose steps the first `seen` were copied; messages on their way from it go, too.
    fn lose(&mut self, service: &str, seen: usize) -> Loss {
        let lost = at(service);
        self.messages.retain(|message| message.from != lost);
        let witness = |(here, part): (&Location, &Part)| {
            let sent = self.messages.iter().filter(|message| message.from == *here).cloned().collect();
            Witness::new(self.program, here.clone(), &part.journal, sent).unwrap()
        };
        let others: Vec<_> = self.parts.iter().filter(|(here, _)| **here != lost).map(witness).collect();
        let journal = self.parts[&lost].journal[..seen].to_vec();
        let loss = Loss::of(self.program, &lost, &journal, &others).unwrap();
        let part = self.parts.get_mut(&lost).unwrap();
        part.state = State::replay(self.program, &journal).unwrap();
        part.journal = journal;
        loss
    }

    fn abandon(&mut self, service: &str, loss: &Loss) {
        self.take(&at(service), loss.replace().unwrap());
        self.take(&Location::Engine, loss.abandon());
        let record = self.record();
        assert_eq!(record.status, Status::Faulted);
        assert!(
            record.error.unwrap().detail.unwrap().starts_with(&format!("the store of the participant of {service}"))
        );
    }

    fn unresolved(&self) -> Vec<String> {
        self.record().compensation.unresolved.into_iter().map(|entry| entry.reference).collect()
    }

    /// An operator retries, and every compensation is answered.
    fn undo_everything(&mut self) {
        self.take(&Location::Engine, Command::Retry);
        self.answer_undoing();
    }

    fn answer_undoing(&mut self) {
        self.deliver();
        while let Some(service) = ["a", "b", "c"].into_iter().find(|service| !self.calls(service).is_empty()) {
            assert!(self.calls(service)[0].compensates.is_some(), "{service} does new work");
            self.answer(service, done());
        }
    }
}

#[test]
fn a_part_that_is_known_goes_on_with_its_call_as_an_unknown_outcome() {
    let program = saga();
    let mut places = Places::new(&program, usize::MAX);
    places.start(Value::empty_object());
    places.deliver();
    places.answer("a", done());
    let loss = places.lose("b", 1);
    assert_eq!(loss.extent(), Extent::Held);
    places.take(&at("b"), Command::LoseAnswers);
    // The call is undone, for it may have been made; nobody makes it again.
    let [undo] = &places.calls("b")[..] else { panic!("{:?}", places.calls("b")) };
    assert!(undo.compensates.is_some());
    places.answer_undoing();
    let record = places.record();
    assert_eq!((record.status, record.error.unwrap().instance), (Status::Faulted, "/do/1/two".to_owned()));
    assert_eq!(record.compensation.compensated, ["/do/1/two", "/do/0/one"]);
    assert!(record.compensation.unresolved.is_empty());
}

#[test]
fn an_abandoned_instance_ends_at_once_and_names_what_may_have_happened() {
    let program = saga();
    let mut places = Places::new(&program, usize::MAX);
    places.start(Value::empty_object());
    places.deliver();
    places.answer("a", done());
    let loss = places.lose("b", 1);
    places.abandon("b", &loss);
    assert_eq!(places.unresolved(), ["/do/1/two", "/do/0/one"]);
    places.deliver();
    assert!(["a", "b", "c"].iter().all(|service| places.calls(service).is_empty()), "nothing happens by itself");
    places.undo_everything();
    assert_eq!(places.record().compensation.compensated, ["/do/1/two", "/do/0/one"]);
    assert!(places.unresolved().is_empty());
}

#[test]
fn a_token_that_had_gone_on_comes_home_and_is_undone() {
    let program = saga();
    let mut places = Places::new(&program, usize::MAX);
    places.start(Value::empty_object());
    places.deliver();
    places.answer("a", done());
    places.answer("b", done());
    // What the home has seen of `b` ends before its answer, and yet `c` has work from it.
    let loss = places.lose("b", 1);
    assert_eq!(loss.extent(), Extent::Beyond);
    places.abandon("b", &loss);
    assert!(places.unresolved().is_empty(), "the token at c has all of it");
    places.deliver();
    places.answer("c", done());
    places.answer_undoing();
    let mut compensated = places.record().compensation.compensated;
    compensated.sort();
    assert_eq!(compensated, ["/do/0/one", "/do/1/two", "/do/2/three"]);
    assert_eq!(places.record().status, Status::Faulted);
}

#[test]
fn a_token_that_was_in_the_lost_store_on_its_way_is_named() {
    let program = saga();
    let mut places = Places::new(&program, usize::MAX);
    places.start(Value::empty_object());
    places.deliver();
    places.answer("a", done());
    let [call] = &places.calls("b")[..] else { panic!() };
    places.take(&at("b"), Command::Outcome { call: call.id, outcome: done(), held: None });
    // Its message to `c` is lost with it.
    let loss = places.lose("b", 2);
    assert_eq!(loss.extent(), Extent::Beyond);
    places.abandon("b", &loss);
    assert_eq!(places.unresolved(), ["/do/1/two", "/do/0/one"]);
    places.deliver();
    places.undo_everything();
    assert_eq!(places.record().compensation.compensated, ["/do/1/two", "/do/0/one"]);
}

#[test]
fn what_had_left_goes_on_and_what_never_came_is_not_touched() {
    let program = saga();
    let mut places = Places::new(&program, usize::MAX);
    places.start(Value::empty_object());
    assert_eq!(places.lose("b", 0).extent(), Extent::Nothing);
    places.deliver();
    assert_eq!(places.lose("b", 0).extent(), Extent::Nothing);
    places.answer("a", done());
    places.answer("b", done());
    let steps = places.parts[&at("b")].journal.len();
    assert_eq!(places.lose("b", steps).extent(), Extent::Past);
    places.answer("c", done());
    assert_eq!(places.record().status, Status::Completed);
}

#[test]
fn work_that_was_on_its_way_to_the_lost_store_is_known_only_if_it_had_not_come() {
    let program = saga();
    let mut places = Places::new(&program, usize::MAX);
    places.start(Value::empty_object());
    places.deliver();
    let [call] = &places.calls("a")[..] else { panic!() };
    places.take(&at("a"), Command::Outcome { call: call.id, outcome: done(), held: None });
    // Still with its sender: it goes to the new store as it would have gone to the old one.
    assert_eq!(places.lose("b", 0).extent(), Extent::Nothing);
    places.deliver();
    // Taken by the lost store, and not seen: the token is gone, and so is what it held.
    let loss = places.lose("b", 0);
    assert_eq!(loss.extent(), Extent::Beyond);
    places.abandon("b", &loss);
    assert!(places.calls("a").is_empty() && places.calls("b").is_empty());
}

#[test]
fn a_branch_whose_join_is_lost_is_undone_where_the_join_was() {
    let functions = "use: { functions: { undoa: { call: http, with: { method: post, endpoint: 'http://a/undo' } }, undob: { \
                     call: http, with: { method: post, endpoint: 'http://b/undo' } }, undoc: { call: http, with: { method: \
                     post, endpoint: 'http://c/undo' } } } }";
    let (first, left, right) = (task("first", "b"), task("left", "a"), task("right", "c"));
    let fork = format!("split: {{ fork: {{ branches: [ {{ {left} }}, {{ {right} }} ] }} }}");
    let program = program(&format!("{functions}\ndo: [ {{ {first} }}, {{ {fork} }} ]"));
    let mut places = Places::new(&program, usize::MAX);
    places.start(Value::empty_object());
    places.deliver();
    places.answer("b", done());
    places.answer("a", done());
    // `b` holds the join and what `a` reported; `c` is still at work.
    let steps = places.parts[&at("b")].journal.len();
    let loss = places.lose("b", steps);
    assert_eq!(loss.extent(), Extent::Held);
    places.abandon("b", &loss);
    assert_eq!(places.unresolved(), ["/do/1/split/fork/branches/0/left", "/do/0/first"]);
    places.deliver();
    places.answer("c", done());
    places.answer_undoing();
    assert_eq!(places.record().compensation.compensated, ["/do/1/split/fork/branches/1/right"]);
    places.undo_everything();
    assert!(places.unresolved().is_empty());
}

#[test]
fn a_suspended_instance_is_abandoned_and_its_other_parts_go_home() {
    let program = saga();
    let mut places = Places::new(&program, usize::MAX);
    places.start(Value::empty_object());
    places.deliver();
    places.answer("a", done());
    places.answer("b", done());
    places.take(&Location::Engine, Command::Suspend);
    places.deliver();
    let loss = places.lose("b", 1);
    places.abandon("b", &loss);
    places.deliver();
    places.answer("c", done());
    places.answer_undoing();
    assert_eq!(places.record().compensation.compensated.len(), 3);
}

#[test]
fn what_an_operator_had_undone_again_is_repeated_and_an_ended_instance_stays_as_it_ended() {
    let program = saga();
    let mut places = Places::new(&program, usize::MAX);
    places.start(Value::empty_object());
    places.deliver();
    places.answer("a", done());
    places.answer("b", done());
    let problem = |status| Outcome::Failure {
        problem: pavane_core::Problem { status, ..pavane_core::problem::Kind::Communication.problem("no") },
        certainty: pavane_core::engine::Certainty::Definite,
    };
    places.answer("c", problem(400));
    // The compensation at `b` is refused for good: what came before it stays, too.
    places.answer("b", problem(400));
    let ended = places.record();
    assert_eq!(places.unresolved(), ["/do/1/two", "/do/0/one"]);
    // An operator retries, and the store is lost with the compensation in flight.
    places.take(&Location::Engine, Command::Retry);
    places.deliver();
    let steps = places.parts[&at("b")].journal.len();
    let loss = places.lose("b", steps);
    assert_eq!(loss.extent(), Extent::Held);
    places.take(&at("b"), Command::LoseAnswers);
    // A compensation is repeated, under the same key: it is made for that.
    assert!(places.calls("b").is_empty());
    places.take(&at("b"), Command::Tick);
    places.answer_undoing();
    let record = places.record();
    assert_eq!((record.status, record.error), (ended.status, ended.error));
    assert!(places.unresolved().is_empty());
    assert_eq!(record.compensation.compensated, ["/do/1/two", "/do/0/one"]);
}
