//! Services that keep books: what a key did, how often it was asked, what was undone.
//!
//! A service answers a key always the same (it stores its answers), as a service that honours `Idempotency-Key` does.
//! What it answers follows from the seed, the task and the epoch, not from the order of calls.

use std::collections::BTreeMap;

use pavane_core::engine::{Call, Certainty, Outcome, Request};
use pavane_core::problem::Kind;
use pavane_core::{Problem, Value};

use crate::chance;

/// The books of all services.
#[derive(Clone, Debug, Default)]
pub struct Services {
    seed: u64,
    /// By idempotency key.
    pub answers: BTreeMap<String, Answer>,
    /// Keys in the order of their first execution.
    pub order: Vec<String>,
    calls: BTreeMap<String, u64>,
}

/// What a service did for a key.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Reference of the task.
    pub reference: String,
    /// Method, URI and body: a repeat must be the same.
    pub request: String,
    /// The key of the call it undoes.
    pub undoes: Option<String>,
    /// Whether it had an effect.
    pub effect: bool,
    /// Whether the task can be undone.
    pub undoable: bool,
    outcome: Outcome,
}

impl Services {
    /// Fresh books.
    pub fn new(seed: u64) -> Services {
        Services { seed, ..Services::default() }
    }

    /// Executes a call, or repeats the answer its key got.
    ///
    /// # Errors
    /// The invariant that the call breaks.
    pub fn execute(&mut self, call: &Call, undoable: bool) -> Result<Outcome, String> {
        let Request::Http(http) = &*call.request else { return Err("only HTTP is generated".into()) };
        let body = http.body.as_ref().map(Value::to_canonical_json).unwrap_or_default();
        let request = format!("{} {} {body}", http.method, http.uri);
        if let Some(answer) = self.answers.get(&call.key) {
            if answer.request != request {
                return Err(format!(
                    "key {} was repeated with another request:\n{}\n{request}",
                    call.key, answer.request
                ));
            }
            return Ok(answer.outcome.clone());
        }
        let nth = self.calls.entry(call.reference.to_string()).or_default();
        *nth += 1;
        let nth = *nth;
        let outcome = match &call.compensates {
            Some(_) => self.undo_outcome(&http.uri, nth),
            None => outcome(chance::of(self.seed, &format!("{}#{nth}", http.uri))),
        };
        let effect = matches!(outcome, Outcome::Success(_));
        if let (Some(forward), true) = (&call.compensates, effect) {
            self.undo(forward, &call.key)?;
        }
        self.order.push(call.key.clone());
        let reference = call.reference.to_string();
        let undoes = call.compensates.clone();
        let answer = Answer { reference, request, undoes, effect, undoable, outcome: outcome.clone() };
        self.answers.insert(call.key.clone(), answer);
        Ok(outcome)
    }

    fn undo(&self, forward: &str, key: &str) -> Result<(), String> {
        let again = self.answers.iter().any(|(k, a)| a.effect && a.undoes.as_deref() == Some(forward) && k != key);
        if again {
            return Err(format!("the effect of key {forward} was undone twice"));
        }
        Ok(())
    }

    /// Compensations fail now and then, mostly in a way that passes.
    fn undo_outcome(&self, uri: &str, nth: u64) -> Outcome {
        match chance::of(self.seed, &format!("undo {uri}#{nth}")) % 100 {
            0..8 => failure(503, Certainty::Definite),
            8..10 => failure(400, Certainty::Definite),
            _ => Outcome::Success(Value::NULL),
        }
    }

    /// Whether a key's effect was undone.
    pub fn undone(&self, key: &str) -> bool {
        self.answers.values().any(|a| a.effect && a.undoes.as_deref() == Some(key))
    }
}

fn outcome(chance: u64) -> Outcome {
    match chance % 100 {
        0..7 => failure(402, Certainty::Definite),
        7..13 => failure(503, Certainty::Definite),
        _ => Outcome::Success(Value::object([("id", Value::integer((chance % 1_000) as i64))])),
    }
}

/// A communication error.
pub fn failure(status: i64, certainty: Certainty) -> Outcome {
    let problem = Problem { status, ..Kind::Communication.problem("the service said no") };
    Outcome::Failure { problem, certainty }
}
