//! Slices: an edit touches the participants next to it and no others.

#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use pavane_core::definition::read;
use pavane_core::program::{Coupling, Program, Resources, Slice, coupling};

fn program(text: &str) -> Program {
    let reading = read("t.yaml", text);
    assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
    let definition = reading.definition.unwrap();
    let hosts = Program::compile(&definition, &Resources::new()).unwrap().hosts();
    Program::choreograph(&definition, &Resources::new(), &hosts).unwrap()
}

fn order() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/order-fulfilment/order.yaml");
    std::fs::read_to_string(path).unwrap()
}

/// Added, changed, removed.
fn touched(before: &str, after: &str) -> [Vec<String>; 3] {
    assert_ne!(before, after, "the edit has no effect");
    let Coupling { added, changed, removed, unchanged } = coupling(&program(before), &program(after));
    assert!(!unchanged.is_empty());
    [added, changed, removed].map(|list| list.iter().map(|at| at.name().to_owned()).collect())
}

fn names<const A: usize, const B: usize, const C: usize>(
    added: [&str; A],
    changed: [&str; B],
    removed: [&str; C],
) -> [Vec<String>; 3] {
    let owned = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
    [owned(&added), owned(&changed), owned(&removed)]
}

const FRAUD: &str = "  - fraud:\n      call: http\n      with: { method: post, endpoint: http://fraud/checks, body: '${ . }' }\n      output: { as: '${ $input }' }\n";

#[test]
fn a_step_between_two_others_touches_those_two() {
    let before = order();
    let after = before.replace("  - pay:\n", &format!("{FRAUD}  - pay:\n"));
    assert_eq!(touched(&before, &after), names(["fraud"], ["inventory", "payment"], []));
    assert_eq!(touched(&after, &before), names([], ["inventory", "payment"], ["fraud"]));
}

#[test]
fn a_step_within_a_branch_touches_the_split_and_the_rest_of_the_branch() {
    let before = order();
    let label = "          - ship:\n              do:\n                - label: { call: http, with: { method: post, endpoint: http://labels/labels, body: '${ . }' }, output: { as: '${ $input }' } }\n                - parcel:\n";
    let (head, rest) = before.split_once("          - ship:\n").unwrap();
    let (ship, tail) = rest.split_once("          - notify:\n").unwrap();
    let ship = ship.replace("              ", "                    ");
    let after = format!("{head}{label}{ship}          - notify:\n{tail}");
    // The fork is split and joined by the participant of payment.
    assert_eq!(touched(&before, &after), names(["labels"], ["payment", "shipping"], []));
}

#[test]
fn a_step_at_an_end_touches_its_one_neighbour_and_the_engine() {
    let before = order();
    let appended = format!("{before}{FRAUD}");
    assert_eq!(touched(&before, &appended), names(["fraud"], ["engine", "orders"], []));
    let first = before.replace("do:\n  - reserve:\n", &format!("do:\n{FRAUD}  - reserve:\n"));
    assert_eq!(touched(&before, &first), names(["fraud"], ["engine", "inventory"], []));
}

#[test]
fn a_change_within_a_task_touches_its_participant_alone() {
    let before = order();
    for (from, to, at) in [
        ("http://payment/charges\n", "http://payment/payments\n", "payment"),
        ("count: 3", "count: 4", "payment"),
        ("count: 10", "count: 11", "orders"),
        (
            "method: delete, endpoint: '${ \"http://shipping",
            "method: post, endpoint: '${ \"http://shipping",
            "shipping",
        ),
        ("minutes: 5", "minutes: 6", "engine"),
        ("minItems: 1", "minItems: 2", "engine"),
        // At the join, which is where the fork was split.
        ("'${ $input + .[0] }' } #", "'${ $input + .[0] + { shipped: true } }' } #", "payment"),
    ] {
        let after = before.replace(from, to);
        assert_eq!(touched(&before, &after), names([], [at], []), "{from} -> {to}");
    }
    let comment = program(&before.replace("title: Order fulfilment", "title: Orders"));
    let same = coupling(&program(&before), &comment);
    assert_eq!((same.changed.len(), same.unchanged.len()), (0, 6));
}

#[test]
fn removing_a_step_touches_its_neighbours() {
    let before = order();
    let (head, rest) = before.split_once("  - pay:\n").unwrap();
    let (_, tail) = rest.split_once("  - fulfil:\n").unwrap();
    let (functions, refund) = head.split_once("    refundPayment:\n").unwrap();
    let (_, others) = refund.split_once("    cancelShipment:\n").unwrap();
    let after = format!("{functions}    cancelShipment:\n{others}  - fulfil:\n{tail}");
    // Inventory splits and joins the fork now, and hands what follows it to orders.
    assert_eq!(touched(&before, &after), names([], ["inventory", "notification", "orders", "shipping"], ["payment"]));
}

#[test]
fn a_slice_tells_what_its_participant_has_to_know() {
    let slices = program(&order()).slices();
    let of = |name: &str| slices.iter().find(|slice| slice.participant.name() == name).unwrap();
    let shipping = of("shipping");
    let text = |slice: &Slice| serde_json::to_string(slice).unwrap();
    // The participant of shipping knows neither who joins nor anything of other services but who sends it work.
    assert_eq!(text(shipping).matches("payment").count(), 1);
    for foreign in ["inventory", "notification", "orders", "charge", "reserve"] {
        assert!(!text(shipping).contains(foreign), "{foreign}");
    }
    assert_eq!(
        shipping.triggers.iter().map(|t| (t.on.as_str(), t.from.name())).collect::<Vec<_>>(),
        [("/do/fulfil/fork/branches/ship", "payment")]
    );
    assert_eq!(
        shipping.next.last().map(|next| (next.due.as_str(), next.at.as_str())),
        Some(("join /do/fulfil", "token"))
    );
    assert_eq!(shipping.undoes.keys().collect::<Vec<_>>(), ["/use/functions/cancelShipment"]);
    assert_eq!(shipping.fences.iter().collect::<Vec<_>>(), ["/do/fulfil"]);
    assert!(of("inventory").fences.is_empty());
    // A policy by name is there with its content.
    assert!(text(of("payment")).contains("\"count\":3"));
    assert!(!text(of("inventory")).contains("\"count\":3"));
}

#[test]
fn what_reads_the_whole_document_depends_on_all_of_it() {
    let text = |read: &str, wait: &str| {
        format!(
            "document: {{ dsl: '1.0.3', namespace: t, name: t, version: '1.0.0' }}\nuse: {{ secrets: [ key, other ] }}\ndo:\n  - a: {{ call: http, with: {{ method: get, endpoint: http://a/, headers: {{ x: '${{ $secrets.key }}', y: '${{ {read} }}' }} }} }}\n  - b: {{ call: http, with: {{ method: get, endpoint: http://b/, query: {{ {wait} }} }} }}\n"
        )
    };
    let slices = |read: &str, query: &str| program(&text(read, query)).slices();
    let (plain, whole) = (slices("$workflow.id", "q: 1"), slices("$workflow.definition.do", "q: 1"));
    let a = |slices: &[Slice]| slices.iter().find(|slice| slice.participant.name() == "a").unwrap().clone();
    assert_eq!(a(&plain).secrets.iter().collect::<Vec<_>>(), ["key"]);
    assert!(a(&plain).document.is_none() && a(&whole).document.is_some());
    assert_eq!(a(&plain).digest, a(&slices("$workflow.id", "q: 2")).digest);
    assert_ne!(a(&whole).digest, a(&slices("$workflow.definition.do", "q: 2")).digest);
    assert_eq!(a(&slices("$secrets | keys", "q: 1")).secrets.len(), 2);
}
