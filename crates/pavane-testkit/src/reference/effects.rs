//! What reaches outside: calls, sub-workflows and events, each known by its place and the epoch of that place.

use pavane_core::definition::{HttpCall, Task, UriSource};
use pavane_core::engine::{Certainty, Outcome};
use pavane_core::{Problem, Value, id};

use super::data::as_text;
use super::timeless;
use super::walk::{Done, Entry, Leave, Thread, Walk, impossible};

/// How often a place has done its work.
#[derive(Default)]
pub(super) struct Epoch {
    number: u32,
    /// Whether a repeat is new work.
    settled: bool,
    request: Option<String>,
}

impl<'a> Walk<'a> {
    /// A call: the request under the key of its epoch, and the answer that the environment gives.
    pub fn call(
        &mut self,
        thread: &mut Thread<'a>,
        task: &'a Task,
        call: &HttpCall,
        input: &Value,
    ) -> Result<(String, String), Leave> {
        let at = |problem: Problem| problem.at(&task.reference);
        let uri = match &call.endpoint.uri {
            UriSource::Text(text) => text.clone(),
            UriSource::Expression(source) => {
                let seen = self.seen(thread, Some(input), None);
                as_text(&self.compiled.expression(source, input, &seen).map_err(at)?)
            }
        };
        let body = call.body.as_ref().map(|body| self.fill(thread, input, body)).transpose().map_err(at)?;
        let body = body.as_ref().map(Value::to_canonical_json).unwrap_or_default();
        let address = format!("{}{}", thread.place, task.reference);
        let request = timeless(&format!("{} {uri} {body}", call.method));
        let key = self.ask(thread, &address, request)?;
        let unknown = |thread: &mut Thread<'a>| {
            if task.pavane.compensate.is_some() {
                thread.forget(&address);
                let (key, address) = (key.clone(), address.clone());
                let done = Done { task, key, address, input: input.clone(), output: Value::NULL, certain: false };
                thread.log.push(Entry::Task(Box::new(done)));
            }
        };
        // Nobody who is stopped waits for a callback.
        let awaits = task.pavane.callback.is_some();
        if let Err(struck) = if awaits { self.waits(thread) } else { self.interrupted(thread) } {
            unknown(thread);
            return Err(struck);
        }
        match self.answer(&key, thread.place.contains("/comp>"))? {
            Outcome::Success(output) => {
                self.settle(&address);
                thread.data = output;
                Ok((key, address))
            }
            Outcome::Failure { problem, certainty } => {
                match certainty {
                    Certainty::Definite => {
                        self.settle(&address);
                        thread.forget(&address);
                    }
                    Certainty::Indeterminate => unknown(thread),
                    Certainty::NotSent => {}
                }
                Err(problem.at(&task.reference).into())
            }
            Outcome::Accepted => Err(impossible("a call that ended with being accepted")),
        }
    }

    /// The key of what a place does now. What is not settled is asked again in the same words under the same key.
    fn ask(&mut self, thread: &mut Thread<'a>, address: &str, request: String) -> Result<String, Leave> {
        let epoch = self.epoch(address);
        let request = epoch.request.get_or_insert(request).clone();
        let number = epoch.number;
        let key = id::idempotency_key(self.environment.instance, address, &[], number);
        match self.environment.run.map(|run| run.requested.get(&key)) {
            Some(None) => return Err(impossible(format!("{request} was not asked for"))),
            Some(Some(other)) if *other != request => {
                return Err(impossible(format!("{other} was asked for instead of {request}")));
            }
            _ => {}
        }
        for before in std::mem::replace(&mut thread.last, vec![key.clone()]) {
            self.expected.before.insert((before, key.clone()));
        }
        self.expected.requested.insert(key.clone(), request);
        Ok(key)
    }

    fn epoch(&mut self, address: &str) -> &mut Epoch {
        let epoch = self.epochs.entry(address.to_owned()).or_default();
        if epoch.settled {
            *epoch = Epoch { number: epoch.number + 1, ..Epoch::default() };
        }
        epoch
    }

    pub fn settle(&mut self, address: &str) {
        self.epochs.entry(address.to_owned()).or_default().settled = true;
    }

    fn answer(&mut self, key: &str, undoes: bool) -> Result<Outcome, Leave> {
        let Some(run) = self.environment.run else { return Ok((self.environment.answer)(key, undoes)) };
        let taken = self.taken.entry(key.to_owned()).or_default();
        let answer = run.given.get(key).and_then(|answers| answers.get(*taken));
        *taken += 1;
        answer.cloned().ok_or_else(|| impossible("a call that got no answer"))
    }

    /// A sub-workflow: its id belongs to the epoch; nobody asks one again.
    pub fn child(&mut self, thread: &mut Thread<'a>, task: &'a Task, wait: bool, input: &Value) -> Result<(), Leave> {
        let address = format!("{}{}", thread.place, task.reference);
        let number = self.epoch(&address).number.to_string();
        self.settle(&address);
        let id = id::derived(&[self.environment.instance, &address, &number, "child"]);
        self.expected.emitted.insert(id.clone());
        self.waits(thread)?;
        let output = (self.environment.child)(&id, wait).map_err(|problem| problem.at(&task.reference))?;
        thread.data = if wait { output } else { input.clone() };
        Ok(())
    }

    pub fn emit(&mut self, thread: &Thread<'a>, task: &'a Task, given: Value) -> Value {
        let address = format!("{}{}", thread.place, task.reference);
        let number = self.epoch(&address).number;
        self.settle(&address);
        let document = &self.definition.document;
        let instance = self.environment.instance;
        let defaults = [
            ("specversion", Value::text("1.0")),
            ("id", Value::text(id::derived(&[instance, &address, &number.to_string()]))),
            ("time", Value::text("some time")),
            ("source", Value::text(format!("/pavane/{}/{}", document.namespace, document.name))),
        ];
        let event = defaults.into_iter().fold(given, |event, (name, value)| match event.get(name) {
            Some(set) if !set.is_null() => event,
            _ => event.with(name, value),
        });
        self.expected.emitted.extend(event.get("id").map(|id| as_text(&id)));
        event
    }
}
