//! How fast the machine decides: orders through `decide` alone, with the answers at hand.
//!
//! `cargo run --release -p pavane-runtime --example decide_rate -- 20000`, or under `valgrind --tool=callgrind` with a
//! few hundred, for counts that repeat to the instruction.

#![expect(clippy::expect_used, reason = "an example stops at what it did not expect")]

use std::time::Instant;

use pavane_core::definition;
use pavane_core::engine::{Command, Effect, Host, Input, Outcome, Start, State, decide};
use pavane_core::program::{Program, Resources};
use pavane_core::{Timestamp, Value};

const WORKFLOW: &str = include_str!("../../pavane/benches/orders/order.yaml");
const ORDER: &[u8] = br#"{"orderId":"o-00000001","items":[{"sku":"lute","quantity":1,"price":1900},{"sku":"strings","quantity":6,"price":12}],"total":1972,"address":{"name":"Ada Lovelace","street":"Rue de la Danse 4","city":"Padova","country":"IT"},"email":"ada@example.com"}"#;
const ANSWER: &[u8] = br#"{"id":"x-7f3a9c","status":"accepted"}"#;

fn main() {
    let orders: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let reading = definition::read("order.yaml", WORKFLOW);
    let definition = reading.definition.expect("the definition is read");
    let program = Program::compile(&definition, &Resources::new()).expect("the definition compiles");
    let host = Host { runtime: Value::empty_object(), ..Host::default() };
    let began = Instant::now();
    let mut bytes = 0;
    for number in 0..orders {
        bytes += order(&program, &host, number);
    }
    let each = began.elapsed().as_secs_f64() * 1e6 / orders as f64;
    println!("{orders} orders: {each:.1} us each, {} bytes of journal", bytes / orders.max(1));
}

/// Takes one order from its start to its end; gives the bytes of its journal.
fn order(program: &Program, host: &Host, number: usize) -> usize {
    let mut state = State::default();
    let id = format!("00000000-0000-7000-8000-{number:012}");
    let input = Value::parse(ORDER).expect("the order is JSON");
    let start = Start { correlation_id: id.clone(), id, input, parent: None, trace: None, notify: None };
    let mut bytes = step(program, host, &mut state, Command::Start(start));
    while let Some(Effect::Call(call)) = state.outstanding().into_iter().next() {
        let outcome = Outcome::Success(Value::parse(ANSWER).expect("the answer is JSON"));
        bytes += step(program, host, &mut state, Command::Outcome { call: call.id, outcome, held: None });
    }
    bytes
}

fn step(program: &Program, host: &Host, state: &mut State, command: Command) -> usize {
    let input = Input { at: Timestamp(1_700_000_000_000), command };
    decide(program, host, state, input).expect("the input fits").entry.payload.len()
}
