//! Any definition, any data, any sequence of inputs: the machine refuses or decides, and never panics.
//!
//! Documents are drawn from a grammar of all kinds of tasks, with expressions that often fail on the data they get;
//! inputs are drawn without regard to what the instance waits for, so most are stale, repeated or out of order. After
//! each input: what was refused changed nothing, what was taken can be replayed, and an instance ends once.

#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use pavane_core::definition::read;
use pavane_core::engine::{
    CallId, Certainty, Command, Event, Held, Host, Input, Outcome, Start, State, decide, lifecycle,
};
use pavane_core::event::CloudEvent;
use pavane_core::problem::Kind;
use pavane_core::program::{Program, Resources};
use pavane_core::record::JournalEntry;
use pavane_core::{Timestamp, Value};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

const ID: &str = "00000000-0000-7000-8000-000000000001";

fn data() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        (-3_i64..12).prop_map(Json::from),
        any::<f64>().prop_map(|f| json!(f)),
        "[a-c{}\u{e000}\u{e001}~/ ]{0,6}".prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(|m| Json::Object(m.into_iter().collect())),
        ]
    })
}

fn expression() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        ".",
        ".a",
        ".b.c",
        ".a + 1",
        ". + {b: 1}",
        "$context",
        "$context.a",
        "$input",
        "[.a, .b]",
        "length",
        "keys",
        ".[0]",
        "$workflow.id",
        "$task.name",
        "$secrets.s",
        "empty",
        "1, 2",
        "error(\"x\")",
        ". == null",
        "true",
        "null",
        "tojson",
        "{a: .}",
        "now",
        "\"text\"",
        "[1, 2]",
        "3",
    ])
}

fn template() -> impl Strategy<Value = Json> {
    prop_oneof![
        expression().prop_map(|e| json!(format!("${{ {e} }}"))),
        (expression(), data()).prop_map(|(e, d)| json!({ "a": format!("${{ {e} }}"), "b": d })),
    ]
}

/// A task without its surroundings.
fn leaf() -> BoxedStrategy<Json> {
    prop_oneof![
        4 => template().prop_map(|t| json!({ "set": t })),
        4 => (0..4_u8, template(), any::<bool>()).prop_map(|(n, body, undo)| {
            let mut task = json!({ "call": "http", "with": { "method": "post", "endpoint": format!("http://s/{n}/{{a}}"), "body": body } });
            if undo {
                task["metadata"] = json!({ "pavane": { "compensate": "undo" } });
            }
            task
        }),
        1 => template().prop_map(|t| json!({ "call": "work", "with": { "a": t } })),
        1 => expression().prop_map(|e| json!({ "wait": format!("${{ {e} }}") })),
        1 => (0..3_u32).prop_map(|s| json!({ "wait": { "seconds": s } })),
        2 => expression().prop_map(|e| json!({ "raise": { "error": { "type": "https://example.com/x", "status": 400, "detail": format!("${{ {e} }}") } } })),
        1 => template().prop_map(|t| json!({ "emit": { "event": { "with": { "type": "t", "data": t } } } })),
        1 => expression().prop_map(|e| json!({ "run": { "workflow": { "namespace": "n", "name": "w", "version": "1.0.0", "input": format!("${{ {e} }}") } } })),
        1 => expression().prop_map(|e| json!({ "listen": { "to": { "any": [{ "with": { "type": "t" } }], "until": e } } })),
        1 => Just(json!({ "listen": { "to": { "all": [{ "with": { "type": "t" }, "correlate": { "k": { "from": ".data" } } }, { "with": { "type": "u" } }] } } })),
    ]
    .boxed()
}

fn list(inner: impl Strategy<Value = Json>) -> impl Strategy<Value = Json> {
    prop::collection::vec(inner, 0..4).prop_map(|tasks| {
        let named = |(index, task): (usize, Json)| json!({ format!("t{index}"): task });
        tasks.into_iter().enumerate().map(named).collect()
    })
}

fn task() -> impl Strategy<Value = Json> {
    let kinds = leaf().prop_recursive(3, 20, 4, |inner| {
        let body = || list(inner.clone());
        prop_oneof![
            body().prop_map(|b| json!({ "do": b })),
            (body(), expression()).prop_map(|(b, e)| json!({ "for": { "in": e }, "do": b })),
            (body(), any::<bool>()).prop_map(|(b, c)| json!({ "fork": { "branches": b, "compete": c } })),
            (body(), body(), 0..3_u32).prop_map(|(b, h, n)| {
                json!({ "try": b, "catch": { "retry": { "delay": { "seconds": n }, "limit": { "attempt": { "count": n } } }, "do": h } })
            }),
            (body(), expression()).prop_map(|(b, e)| json!({ "try": b, "catch": { "when": e } })),
            body().prop_map(|b| json!({ "listen": { "to": { "one": { "with": { "type": "t" } } } }, "foreach": { "do": b } })),
        ]
    });
    let options = (
        prop::option::weighted(0.2, expression()),
        prop::option::weighted(0.2, expression()),
        prop::option::weighted(0.2, expression()),
        prop::option::weighted(0.2, expression()),
        prop::option::weighted(0.2, prop::sample::select(vec!["exit", "end", "continue"])),
        prop::option::weighted(0.2, 1..4_u32),
    );
    (kinds, options).prop_map(|(mut task, (condition, input, output, export, then, timeout))| {
        let set = |task: &mut Json, name: &str, value: Option<Json>| {
            if let Some(value) = value {
                task[name] = value;
            }
        };
        set(&mut task, "if", condition.map(Json::from));
        // `$input` is not to be had before it is made.
        set(&mut task, "input", input.filter(|e| *e != "$input").map(|e| json!({ "from": e })));
        set(&mut task, "output", output.map(|e| json!({ "as": e })));
        set(&mut task, "export", export.map(|e| json!({ "as": e })));
        set(&mut task, "then", then.map(Json::from));
        set(&mut task, "timeout", timeout.map(|s| json!({ "after": { "seconds": s } })));
        if task.get("if") == Some(&json!("$input")) {
            task["if"] = json!(".a");
        }
        task
    })
}

fn document() -> impl Strategy<Value = String> {
    list(task()).prop_map(|tasks| {
        json!({
            "document": { "dsl": "1.0.3", "namespace": "n", "name": "w", "version": "1.0.0" },
            "use": {
                "secrets": ["s"],
                "functions": {
                    "undo": { "call": "http", "with": { "method": "delete", "endpoint": "http://s/{id}" }, "input": { "from": "{ id: .output.a }" } },
                    "work": { "do": [{ "one": { "set": { "a": "${ .a }" } } }] },
                },
            },
            "timeout": { "after": { "minutes": 5 } },
            "do": tasks,
        })
        .to_string()
    })
}

/// An input without regard to what is waited for.
#[derive(Clone, Debug)]
enum Any {
    Command(Command),
    /// An answer to one of the calls that are waited for, if any.
    Answer(prop::sample::Index, Outcome),
    /// As time goes.
    Later(u32),
}

/// Every other call has waited before it was sent.
fn held(call: u32) -> Option<Held> {
    call.is_multiple_of(2).then(|| Held { service: "s".into(), breaker: 1_500, in_flight: 20, ..Held::default() })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        3 => data().prop_map(|d| Outcome::Success(Value::from(&d))),
        2 => (prop::sample::select(vec![400, 404, 500, 503]), 0..3_u8).prop_map(|(status, certainty)| {
            let certainty = [Certainty::Definite, Certainty::NotSent, Certainty::Indeterminate][usize::from(certainty)];
            Outcome::Failure { problem: pavane_core::Problem { status, ..Kind::Communication.problem("no") }, certainty }
        }),
    ]
}

fn any_input() -> impl Strategy<Value = Any> {
    let event = (prop::sample::select(vec!["t", "u", "v"]), 0..3_u8, data()).prop_map(|(type_, id, data)| {
        let envelope =
            json!({ "specversion": "1.0", "id": format!("{id}"), "source": "s", "type": type_, "data": data });
        Any::Command(Command::Event(CloudEvent::new(Value::from(&envelope)).unwrap()))
    });
    prop_oneof![
        8 => (any::<prop::sample::Index>(), outcome()).prop_map(|(which, outcome)| Any::Answer(which, outcome)),
        2 => (0..20_u32, outcome()).prop_map(|(call, outcome)| Any::Command(Command::Outcome { call: CallId(call), outcome, held: held(call) })),
        1 => (0..20_u32, data()).prop_map(|(call, d)| Any::Command(Command::Child { call: CallId(call), result: Ok(Value::from(&d)) })),
        1 => (0..20_u32).prop_map(|call| Any::Command(Command::Child { call: CallId(call), result: Err(Kind::Runtime.problem("broke")) })),
        4 => event,
        4 => (0..5_000_u32).prop_map(Any::Later),
        2 => Just(Any::Command(Command::Tick)),
        1 => Just(Any::Command(Command::Suspend)),
        2 => Just(Any::Command(Command::Resume)),
        1 => Just(Any::Command(Command::Retry)),
        1 => Just(Any::Command(Command::Cancel { reason: "enough".into() })),
        1 => Just(Any::Command(start(Value::NULL))),
    ]
}

fn start(input: Value) -> Command {
    Command::Start(Start { id: ID.into(), input, correlation_id: ID.into(), parent: None, trace: None, notify: None })
}

/// What the real driver would send for an answer.
fn command(state: &State, input: &Any, now: &mut Timestamp) -> Command {
    match input {
        Any::Command(command) => command.clone(),
        Any::Later(millis) => {
            *now = now.plus_millis(i64::from(*millis));
            Command::Tick
        }
        Any::Answer(which, outcome) => {
            let effects = state.outstanding();
            if effects.is_empty() {
                return Command::Outcome { call: CallId(0), outcome: outcome.clone(), held: None };
            }
            let effect = which.get(&effects);
            match (effect, outcome) {
                (pavane_core::engine::Effect::StartChild { call, .. }, Outcome::Success(output)) => {
                    Command::Child { call: *call, result: Ok(output.clone()) }
                }
                _ => Command::Outcome {
                    call: effect.call_id(),
                    outcome: outcome.clone(),
                    held: held(effect.call_id().0),
                },
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn no_input_makes_the_machine_panic(
        text in document(),
        raw in data(),
        granted in any::<bool>(),
        early in any::<bool>(),
        inputs in prop::collection::vec(any_input(), 0..40),
    ) {
        let reading = read("any.json", &text);
        prop_assert!(!reading.has_errors(), "{text}\n{:?}", reading.diagnostics);
        let program = Program::compile(&reading.definition.unwrap(), &Resources::new());
        prop_assert!(program.is_ok(), "{text}\n{:?}", program.err());
        let program = program.unwrap();
        let mut host = Host::default();
        if granted {
            host.secrets.insert("s".into(), Value::text("long-secret"));
        }
        let (mut state, mut journal) = (State::default(), Vec::<JournalEntry>::new());
        let mut now = Timestamp(1_700_000_000_000);
        let first = Any::Command(start(Value::from(&raw)));
        let inputs: Vec<Any> = if early {
            inputs
        } else {
            std::iter::once(first).chain(inputs).collect()
        };
        for input in &inputs {
            let command = command(&state, input, &mut now);
            let before = format!("{state:?}");
            match decide(&program, &host, &mut state, Input { at: now, command }) {
                Ok(step) => {
                    prop_assert!(lifecycle(&step.entry, "n", "w").is_ok());
                    journal.push(step.entry);
                }
                Err(_) => prop_assert_eq!(&before, &format!("{state:?}")),
            }
        }
        let replayed = State::replay(&program, &journal).unwrap();
        prop_assert_eq!(format!("{state:?}"), format!("{replayed:?}"));
        let all = journal.iter().map(|entry| entry.payload.as_str()).collect::<String>();
        prop_assert!(!all.contains("long-secret"), "a secret is in the journal");
        let ends = journal
            .iter()
            .flat_map(|entry| serde_json::from_str::<Vec<Event>>(&entry.payload).unwrap())
            .filter(|event| matches!(event, Event::Ended { .. }))
            .count();
        prop_assert!(ends <= 1);
        prop_assert_eq!(ends == 1, state.status().is_terminal());
    }
}
