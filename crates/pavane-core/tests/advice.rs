//! Advice: each warning where it applies, and silence where it does not.

#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use pavane_core::definition::{Severity, read};
use pavane_core::program::{Program, Resources};

/// Codes and lines.
fn advice(text: &str) -> Vec<String> {
    let text = format!("document: {{ dsl: '1.0.3', namespace: t, name: t, version: '1.0.0' }}\n{text}");
    let reading = read("t.yaml", &text);
    assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
    let definition = reading.definition.unwrap();
    let given = Program::compile(&definition, &Resources::new()).unwrap().advice(&definition);
    assert!(given.iter().all(|d| d.severity == Severity::Warning && d.why.is_some() && d.help.is_some()));
    given.iter().map(|d| format!("{}:{} {}", d.code, d.at.line, d.reference)).collect()
}

#[test]
fn branches_that_write_one_key_are_told_and_others_are_not() {
    let fork = |compete: bool, left: &str, right: &str| {
        format!(
            "do: [ {{ f: {{ fork: {{ compete: {compete}, branches: [ {{ a: {{ set: {{ n: 1 }}, export: {{ as: {left} }} }} }}, {{ b: {{ do: [ {{ c: {{ set: {{ n: 1 }}, export: {{ as: {right} }} }} }} ] }} }} ] }} }} }} ]"
        )
    };
    let (same, other) = ("{ k: '${ .n }', x: 1 }", "'${ $context + { \"k\": (.n | [., 2]), y: 1 } }'");
    assert_eq!(advice(&fork(false, same, other)), ["W301:2 /do/0/f"]);
    for (compete, left, right) in [
        (false, same, "{ y: 1 }"),
        (true, same, other),
        // Its keys cannot be told.
        (false, same, "'${ . }'"),
    ] {
        assert_eq!(advice(&fork(compete, left, right)), Vec::<String>::new(), "{left} {right}");
    }
}

const FUNCTIONS: &str =
    "use: { functions: { undo: { call: http, with: { method: delete, endpoint: 'http://a/{x}' } } } }\n";

#[test]
fn races_with_effects_are_told_unless_they_can_be_undone() {
    let race = |method: &str, more: &str| {
        format!(
            "{FUNCTIONS}do:\n- r: {{ fork: {{ compete: true, branches: [ {{ a: {{ call: http, with: {{ method: {method}, endpoint: 'http://a/' }}{more} }} }}, {{ b: {{ wait: {{ seconds: 1 }} }} }} ] }} }}"
        )
    };
    assert_eq!(advice(&race("post", "")), ["W302:4 /do/0/r"]);
    assert_eq!(advice(&race("get", "")), Vec::<String>::new());
    assert_eq!(advice(&race("post", ", metadata: { pavane: { compensate: undo } }")), Vec::<String>::new());
}

#[test]
fn what_a_rollback_leaves_is_told_in_a_saga_alone_and_not_of_the_last_call() {
    let post = |name: &str, more: &str| {
        format!("- {name}: {{ call: http, with: {{ method: post, endpoint: 'http://a/' }}{more} }}\n")
    };
    let undone = ", metadata: { pavane: { compensate: undo } }";
    let saga = |undone: &str| format!("{FUNCTIONS}do:\n{}{}{}", post("a", undone), post("b", ""), post("c", ""));
    assert_eq!(advice(&saga(undone)), ["W303:5 /do/1/b"]);
    assert_eq!(advice(&saga("")), Vec::<String>::new());
}

#[test]
fn a_listen_needs_a_timeout_somewhere_around_it() {
    let listen = "{ listen: { to: { one: { with: { type: t } } } } }";
    assert_eq!(advice(&format!("do: [ {{ l: {listen} }} ]")), ["W305:2 /do/0/l"]);
    for limited in [
        format!("timeout: {{ after: PT1H }}\ndo: [ {{ l: {listen} }} ]"),
        format!("do: [ {{ d: {{ timeout: {{ after: PT1H }}, do: [ {{ l: {listen} }} ] }} }} ]"),
        "do: [ { l: { timeout: { after: PT1H }, listen: { to: { one: { with: { type: t } } } } } } ]".into(),
    ] {
        assert_eq!(advice(&limited), Vec::<String>::new(), "{limited}");
    }
}

#[test]
fn a_compensation_that_needs_the_output_is_told() {
    let undo = |endpoint: &str| {
        format!(
            "use: {{ functions: {{ undo: {{ call: http, with: {{ method: delete, endpoint: '${{ {endpoint} }}' }} }} }} }}\ndo:\n- a: {{ call: http, with: {{ method: post, endpoint: 'http://a/' }}, metadata: {{ pavane: {{ compensate: undo }} }} }}"
        )
    };
    assert_eq!(advice(&undo(r#""http://a/\(.output.id)""#)), ["W306:4 /do/0/a"]);
    for fine in [
        r#""http://a/\(.output.id // "none")""#,
        r#""http://a/\(.input.id)""#,
        r#""http://a/\(.output.id)/\(.input.id)""#,
    ] {
        assert_eq!(advice(&undo(fine)), Vec::<String>::new(), "{fine}");
    }
}

#[test]
fn tasks_that_nothing_leads_to_are_told_once() {
    assert_eq!(
        advice("do:\n- a: { set: { x: 1 }, then: end }\n- b: { do: [ { c: { set: { x: 1 } } } ] }\n"),
        ["W307:4 /do/1/b"]
    );
    let raise =
        "do:\n- r: { raise: { error: { type: 'https://t.example/e', status: 400 } } }\n- b: { set: { x: 1 } }\n";
    assert_eq!(advice(raise), ["W307:4 /do/1/b"]);
    assert_eq!(advice(&raise.replace("{ raise", "{ if: .x, raise")), Vec::<String>::new());
    for reached in [
        "do:\n- a: { set: { x: 1 }, if: .x, then: end }\n- b: { set: { x: 1 } }\n",
        "do:\n- s: { switch: [ { one: { when: .x, then: b } } ], then: end }\n- b: { set: { x: 1 } }\n",
        "do:\n- t: { try: [ { r: { call: http, with: { method: get, endpoint: 'http://a/' } } } ], catch: { do: [ { h: { set: { x: 1 } } } ] } }\n",
    ] {
        assert_eq!(advice(reached), Vec::<String>::new(), "{reached}");
    }
}
