//! What an explanation says beyond who hands work to whom: the cost of single ways, and who may see what.

#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use pavane_core::definition::read;
use pavane_core::program::{Explanation, Program, Resources};

fn explain(text: &str) -> Explanation {
    let reading = read("t.yaml", text);
    assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
    let definition = reading.definition.unwrap();
    let hosts = Program::compile(&definition, &Resources::new()).unwrap().hosts();
    Program::choreograph(&definition, &Resources::new(), &hosts).unwrap().explain()
}

fn tasks(text: &str) -> Explanation {
    explain(&format!("document: {{ dsl: '1.0.3', namespace: t, name: t, version: '1.0.0' }}\n{text}"))
}

/// `way: messages/hops/calls/undone ends`
fn ways(explanation: &Explanation) -> Vec<String> {
    let way = |path: &pavane_core::program::PathCost| {
        let cost = path.cost;
        format!("{}: {}/{}/{}/{} {}", path.way, cost.messages, cost.hops, cost.calls, path.undone, path.ends)
    };
    explanation.paths.iter().map(way).collect()
}

/// `at reason` for everybody who may see a piece of data.
fn seen(explanation: &Explanation, data: &str) -> Vec<String> {
    let row = explanation.exposure.iter().find(|row| row.data == data);
    assert!(row.is_some(), "{data} is not among {:?}", explanation.exposure);
    row.unwrap().seen_by.iter().map(|(at, reason)| format!("{} {}", at.name(), reason.as_str())).collect()
}

#[test]
fn each_step_that_fails_is_a_way_with_its_rollback() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/order-fulfilment/order.yaml");
    let order = explain(&std::fs::read_to_string(path).unwrap());
    assert_eq!(
        ways(&order),
        [
            "straight: 8/6/5/0 completed",
            "reserve fails: 2/2/1/0 faulted",
            "charge fails: 4/4/3/1 faulted",
            "ship fails: 8/6/6/2 faulted",
            "notify fails: 10/8/7/3 faulted",
            "confirm fails: 12/10/8/3 faulted",
        ]
    );
    assert_eq!(order.paths_left_out, 0);
}

const CALLS: &str = "
use:
  functions:
    undo: { call: http, with: { method: delete, endpoint: http://a/ } }
do:
  - one: { call: http, with: { method: post, endpoint: http://a/ }, metadata: { pavane: { compensate: undo } } }
";

#[test]
fn each_outcome_of_a_switch_is_a_way_and_caught_errors_go_on() {
    let given = tasks(&format!(
        "{CALLS}
  - choose:
      switch: [ {{ left: {{ when: .left, then: two }} }}, {{ stop: {{ when: .stop, then: end }} }}, {{ other: {{ then: three }} }} ]
  - two: {{ call: http, with: {{ method: post, endpoint: http://b/ }}, then: end }}
  - three:
      try: [ {{ inner: {{ call: http, with: {{ method: post, endpoint: http://c/ }} }} }} ]
      catch: {{ do: [ {{ tell: {{ call: http, with: {{ method: post, endpoint: http://b/ }} }} }} ] }}
"
    ));
    assert_eq!(
        ways(&given),
        [
            "straight: 3/3/2/0 completed",
            "one fails: 2/2/1/0 faulted",
            "two fails: 4/4/3/1 faulted",
            "choose: left: 3/3/2/0 completed",
            "choose: stop: 2/2/1/0 completed",
            "choose: other: 3/3/2/0 completed",
            "choose: other, inner fails, caught: 4/4/3/0 completed",
        ]
    );
}

#[test]
fn data_is_followed_until_something_drops_it() {
    let given = tasks(
        "do:
  - first: { call: http, with: { method: get, endpoint: http://a/ }, export: { as: '${ $context + { key: .id } }' } }
  - second: { call: http, with: { method: get, endpoint: http://b/ }, output: { as: '${ $input + { more: . } }' } }
  - third: { call: http, with: { method: get, endpoint: http://c/ } }
  - fourth: { call: http, with: { method: get, endpoint: http://d/ } }
",
    );
    // The third has all that the second kept; what it gives itself replaces that. The context stays.
    assert_eq!(seen(&given, "output of /do/first"), ["a makes", "b data", "c data", "d context"]);
    assert_eq!(seen(&given, "output of /do/second"), ["b makes", "c data"]);
    assert_eq!(seen(&given, "output of /do/third"), ["c makes", "d data"]);
    assert_eq!(seen(&given, "$context.key"), ["a makes", "b context", "c context", "d context"]);
    assert!(given.rollbacks.is_empty());
}

#[test]
fn what_may_have_to_be_undone_shows_to_whoever_comes_after_and_to_whoever_undoes() {
    let given = tasks(&format!(
        "{CALLS}  - two: {{ call: http, with: {{ method: post, endpoint: http://b/ }} }}\n  - three: {{ call: http, with: {{ method: post, endpoint: http://c/ }} }}\n"
    ));
    assert_eq!(seen(&given, "output of /do/one"), ["a makes", "b data", "c log"]);
    // `one` is undone when `three` fails, and the token brings what it holds.
    assert_eq!(seen(&given, "output of /do/two"), ["a undo", "b makes", "c data"]);
    let ways: Vec<_> = given.rollbacks.iter().map(|way| (way.from.name(), way.to.name())).collect();
    assert_eq!(ways, [("b", "a"), ("c", "a")]);
    let b = given.participants.iter().find(|participant| participant.name.name() == "b").unwrap();
    assert_eq!((b.fan_in, b.fan_out, b.slice.len()), (1, 1, 64));
}

#[test]
fn ways_have_a_limit_and_those_left_out_are_counted() {
    let calls: String = (0..300)
        .map(|n| format!("  - c{n}: {{ call: http, with: {{ method: get, endpoint: http://a/ }} }}\n"))
        .collect();
    let given = tasks(&format!("do:\n{calls}"));
    assert_eq!((given.paths.len(), given.paths_left_out), (200, 101));
}
