//! Placement: which location performs which task, and what cannot be placed.

#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::collections::{BTreeMap, BTreeSet};

use pavane_core::definition::{Definition, read};
use pavane_core::program::{Program, Resources};

fn definition(tasks: &str) -> Definition {
    let head = "document: { dsl: '1.0.3', namespace: t, name: t, version: '1.0.0' }\n";
    let reading = read("t.yaml", &format!("{head}{tasks}"));
    assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
    reading.definition.unwrap()
}

fn services() -> BTreeSet<String> {
    ["stock", "payment", "api.example.com"].map(str::to_owned).into()
}

/// Location by task name, or the codes and lines of what cannot be placed.
fn placed(tasks: &str) -> Result<BTreeMap<String, String>, Vec<String>> {
    match Program::choreograph(&definition(tasks), &Resources::new(), &services()) {
        Ok(program) => Ok(program
            .nodes()
            .filter_map(|node| Some((node.name.to_string(), node.location.as_ref()?.name().to_owned())))
            .collect()),
        Err(problems) => Err(problems.iter().map(|p| format!("{}:{}", p.code, p.at.line)).collect()),
    }
}

fn call(endpoint: &str) -> String {
    format!("do: [ a: {{ call: http, with: {{ method: get, endpoint: '{endpoint}' }} }} ]\n")
}

#[test]
fn a_call_belongs_to_the_service_its_endpoint_names() {
    for (endpoint, owner) in [
        ("http://stock", Ok("stock")),
        ("http://stock/items/{id}?q={q}", Ok("stock")),
        ("http://stock:8080/items", Ok("stock")),
        ("https://api.example.com#top", Ok("api.example.com")),
        ("${ \"http://stock/items/\\(.id)\" }", Ok("stock")),
        ("${ \"http://stock/items/\" + .id }", Ok("stock")),
        ("${ .id | \"http://stock/items/\\(.)\" }", Ok("stock")),
        ("${ \"http://\" + \"stock\" + \"/items\" }", Ok("stock")),
        ("${ \"http://stock\" }", Ok("stock")),
        // What follows could still belong to the host's name.
        ("${ \"http://stock\\(.id)\" }", Err("P101:2")),
        ("${ \"http://\\(.host)/items\" }", Err("P101:2")),
        ("${ .url }", Err("P101:2")),
        ("${ if .a then \"http://stock/\" else \"http://payment/\" end }", Err("P101:2")),
        ("http://{host}/items", Err("P101:2")),
        ("http://elsewhere/items", Err("P102:2")),
    ] {
        let given = placed(&call(endpoint));
        match owner {
            Ok(owner) => assert_eq!(given.unwrap()["a"], owner, "{endpoint}"),
            Err(problem) => assert_eq!(given.unwrap_err(), [problem], "{endpoint}"),
        }
    }
}

#[test]
fn owner_and_region_decide_before_the_endpoint() {
    let given = placed(
        "
use:
  functions:
    charge: { call: http, with: { method: post, endpoint: 'http://payment/charges' } }
do:
  - rate:
      call: http
      with: { method: get, endpoint: 'https://rates.example.com/eur' }
      metadata: { pavane: { owner: payment } }
  - pause: { wait: { seconds: 1 }, metadata: { pavane: { owner: stock } } }
  - told: { emit: { event: { with: { source: 'urn:t', type: told } } } }
  - plain: { set: { a: 1 } }
  - pay: { call: charge }
  - region:
      metadata: { pavane: { placement: engine } }
      do:
        - inside: { call: http, with: { method: get, endpoint: '${ .anywhere }' } }
        - within: { call: charge }
",
    )
    .unwrap();
    let at = |task: &str| given.get(task).map(String::as_str);
    assert_eq!(at("rate"), Some("payment"));
    assert_eq!(at("pause"), Some("stock"));
    assert_eq!(at("told"), Some("engine"));
    assert_eq!(at("plain"), None);
    assert_eq!((at("pay"), at("charge")), (Some("payment"), Some("payment")));
    assert_eq!((at("inside"), at("within")), (Some("engine"), Some("engine")));
}

#[test]
fn every_problem_is_told_once_with_place_and_remedy() {
    let tasks = "
use:
  functions:
    out: { call: http, with: { method: get, endpoint: 'http://elsewhere/x' } }
do:
  - a: { call: out }
  - b: { call: out }
  - c: { set: { a: 1 }, metadata: { pavane: { owner: nobody } } }
";
    assert_eq!(placed(tasks).unwrap_err(), ["P102:5", "P102:9"]);
    let problems = Program::choreograph(&definition(tasks), &Resources::new(), &services()).unwrap_err();
    assert!(problems.iter().all(|p| p.why.is_some() && p.help.is_some()));
    assert!(problems[1].message.contains("`nobody`, its `owner`"));
}

#[test]
fn a_circle_without_effect_and_end_is_refused() {
    let wait = "c: { wait: { seconds: 1 } }";
    let way_out = "c: { switch: [ { on: { when: .x, then: d } } ] }";
    for (between, refused) in [("c: { set: { x: 2 } }", true), (wait, false), (way_out, false)] {
        let tasks = format!(
            "do:\n- a: {{ set: {{ x: 1 }} }}\n- {between}\n- b: {{ set: {{ x: 3 }}, then: a }}\n- d: {{ set: {{ x: 4 }} }}\n"
        );
        let given = placed(&tasks).map(drop);
        assert_eq!(given, if refused { Err(vec!["P113:3".to_owned()]) } else { Ok(()) }, "{between}");
    }
}

#[test]
fn placement_is_a_part_of_the_digest_and_touches_nothing_else() {
    let of = |tasks: &str| Program::choreograph(&definition(tasks), &Resources::new(), &services()).unwrap();
    let (stock, payment) = (of(&call("http://stock/a")), of(&call("http://payment/a")));
    let orchestrated = Program::compile(&definition(&call("http://stock/a")), &Resources::new()).unwrap();
    assert_ne!(stock.digest(), payment.digest());
    assert_ne!(stock.digest(), orchestrated.digest());
    assert_eq!(stock.digest(), of(&call("http://stock/a")).digest());
    assert_eq!(stock.locations().iter().map(|at| at.name()).collect::<Vec<_>>(), ["engine", "stock"]);
}

/// `from > what > to` for each message that brings a token.
fn hand_overs(tasks: &str) -> Vec<String> {
    let services = ["a", "b", "c"].map(str::to_owned).into();
    let program = Program::choreograph(&definition(tasks), &Resources::new(), &services).unwrap();
    let explanation = program.explain();
    let hand =
        |hand: &pavane_core::program::HandOver| format!("{} > {} > {}", hand.from.name(), hand.what, hand.to.name());
    let mut hands: Vec<String> = explanation.hand_overs.iter().map(hand).collect();
    hands.sort();
    hands
}

#[test]
fn an_explanation_tells_who_hands_work_to_whom() {
    let at = |name: &str, service: &str| {
        format!("{name}: {{ call: http, with: {{ method: get, endpoint: 'http://{service}/' }} }}")
    };
    let [a, b, c] = ["a", "b", "c"].map(|service| at(&format!("at-{service}"), service));
    for (tasks, expected) in [
        (format!("do: [ {a}, {b} ]"), vec!["a > at-b > b", "b > end > engine", "engine > at-a > a"]),
        ("do: [ x: { set: { a: 1 } } ]".into(), vec![]),
        (
            format!("do: [ {a}, choose: {{ switch: [ one: {{ when: .x, then: at-c }} ] }}, {b}, {c} ]"),
            vec!["a > at-b > b", "a > at-c > c", "b > at-c > c", "c > end > engine", "engine > at-a > a"],
        ),
        (
            format!("do: [ {a}, f: {{ fork: {{ branches: [ {b}, {c} ] }} }} ]"),
            vec![
                "a > at-b > b",
                "a > at-c > c",
                "a > end > engine",
                "b > join f > a",
                "c > join f > a",
                "engine > at-a > a",
            ],
        ),
        (
            format!("do: [ l: {{ for: {{ each: i, in: .list }}, do: [ {a}, {b} ] }} ]"),
            vec!["a > at-b > b", "b > at-a > a", "b > end > engine", "engine > at-a > a"],
        ),
        (
            format!("do: [ t: {{ try: [ {a} ], catch: {{ do: [ {b} ] }} }}, {c} ]"),
            vec!["a > at-b > b", "a > at-c > c", "b > at-c > c", "c > end > engine", "engine > at-a > a"],
        ),
        (
            format!("do: [ t: {{ try: [ {a}, {b} ], catch: {{ retry: {{ delay: PT1S }} }} }} ]"),
            vec!["a > at-b > b", "b > at-a > a", "b > end > engine", "engine > at-a > a"],
        ),
    ] {
        let given = hand_overs(&tasks);
        assert_eq!(given, expected, "{tasks}");
    }
}

#[test]
fn the_straight_way_is_counted_as_the_runtime_sends() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/order-fulfilment/order.yaml"));
    let definition = read("order.yaml", &text.unwrap()).definition.unwrap();
    let program = Program::compile(&definition, &Resources::new()).unwrap();
    let placed = Program::choreograph(&definition, &Resources::new(), &program.hosts()).unwrap();
    let straight = placed.explain().straight;
    assert_eq!((straight.messages, straight.hops, straight.calls, straight.sequence), (8, 6, 5, 4));
    let straight = program.explain().straight;
    assert_eq!((straight.messages, straight.hops, straight.calls, straight.sequence), (0, 0, 5, 4));
}
