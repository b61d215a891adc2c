//! Services that keep books: what a key did, how often it was asked, what was undone.
//!
//! A service answers a key always the same (it stores its answers), as a service that honours `Idempotency-Key` does.
//! What it answers follows from the seed and the key, not from the order of calls: the same work gets the same answer
//! wherever and whenever it is done.

use std::collections::BTreeMap;

use pavane_core::engine::{Call, Certainty, Child, Outcome, Request};
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
    /// Inputs of sub-workflows by their ids.
    children: BTreeMap<String, String>,
    /// Keys whose work was done more than once.
    doubled: u64,
    /// Whether a compensation may come again for another error: what asked for it first may have been lost with a store.
    pub lenient: bool,
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
    pub fn execute(&mut self, call: &Call, undoable: bool, false_undo: bool) -> Result<Outcome, String> {
        let Request::Http(http) = &*call.request else { return Err("only HTTP is generated".into()) };
        let body = http.body.as_ref().map(Value::to_canonical_json).unwrap_or_default();
        let request = format!("{} {} {body}", http.method, http.uri);
        if let Some(answer) = self.answers.get(&call.key) {
            if answer.request != request && !(self.lenient && call.compensates.is_some()) {
                return Err(format!(
                    "key {} was repeated with another request:\n{}\n{request}",
                    call.key, answer.request
                ));
            }
            return Ok(answer.outcome.clone());
        }
        let outcome = answer(self.seed, &call.key, call.compensates.is_some());
        let effect = matches!(outcome, Outcome::Success(_)) && !(false_undo && call.compensates.is_some());
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

    /// Starts a sub-workflow, or finds it; gives how it ends. A repeat must be the same.
    ///
    /// # Errors
    /// The invariant that the start breaks.
    pub fn child(&mut self, child: &Child) -> Result<Result<Value, Problem>, String> {
        let input = child.input.to_canonical_json();
        let known = self.children.entry(child.id.clone()).or_insert_with(|| input.clone());
        if *known != input {
            return Err(format!("sub-workflow {} was started again with another input:\n{known}\n{input}", child.id));
        }
        Ok(child_end(self.seed, &child.id, child.wait))
    }

    /// Forgets what it answered to a key, as a service must not: what it did stays.
    pub fn forget(&mut self, key: &str) {
        if let Some(answer) = self.answers.remove(key) {
            self.doubled += 1;
            let name = format!("{key}/{}", self.doubled);
            self.order.iter_mut().filter(|k| *k == key).for_each(|k| k.clone_from(&name));
            self.answers.insert(name, answer);
        }
    }

    fn undo(&self, forward: &str, key: &str) -> Result<(), String> {
        let again = self.answers.iter().any(|(k, a)| a.effect && a.undoes.as_deref() == Some(forward) && k != key);
        if again {
            return Err(format!("the effect of key {forward} was undone twice"));
        }
        Ok(())
    }

    /// Whether a key's effect was undone.
    pub fn undone(&self, key: &str) -> bool {
        self.answers.values().any(|a| a.effect && a.undoes.as_deref() == Some(key))
    }
}

/// What a key is answered. Compensations fail now and then, mostly in a way that passes.
pub fn answer(seed: u64, key: &str, undoes: bool) -> Outcome {
    let chance = chance::of(seed, key);
    match (undoes, chance % 100) {
        (true, 0..8) => failure(503, Certainty::Definite),
        (true, 8..10) => failure(400, Certainty::Definite),
        (true, _) => Outcome::Success(Value::NULL),
        (false, 0..7) => failure(402, Certainty::Definite),
        (false, 7..13) => failure(503, Certainty::Definite),
        _ => Outcome::Success(Value::object([("id", Value::integer((chance / 100 % 1_000) as i64))])),
    }
}

/// How a sub-workflow ends.
///
/// # Errors
/// Its error.
pub fn child_end(seed: u64, id: &str, wait: bool) -> Result<Value, Problem> {
    match (wait, chance::of(seed, id) % 100) {
        (false, _) => Ok(Value::NULL),
        (true, 0..15) => Err(Problem { status: 422, ..Kind::Runtime.problem("the sub-workflow failed") }),
        (true, chance) => Ok(Value::object([("child", Value::integer(chance as i64))])),
    }
}

/// A communication error.
pub fn failure(status: i64, certainty: Certainty) -> Outcome {
    let problem = Problem { status, ..Kind::Communication.problem("the service said no") };
    Outcome::Failure { problem, certainty }
}
