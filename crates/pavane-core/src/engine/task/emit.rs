//! `emit`: publishes a CloudEvent; the task's output is the event.
//!
//! Its `id` is derived from the task run, so that a replay or a repeat publishes the same event.

use crate::engine::event::TokenId;
use crate::engine::machine::{Go, Machine};
use crate::event::CloudEvent;
use crate::expression::Template;
use crate::id;
use crate::problem::{Kind, Problem};
use crate::value::Value;

impl Machine<'_> {
    pub fn emit_event(&mut self, t: TokenId, template: &Template) -> Result<Go, Problem> {
        let given = self.task_scope(t).template(template, &self.data(t))?;
        let Some((_, node)) = self.top(t) else { return Ok(Go::Wait) };
        let task = node.reference.clone();
        let address = self.token(t).map(|token| token.address(self.program)).unwrap_or_default();
        let epoch = self.state.epochs.get(&address).map_or(0, |e| e.number + u32::from(e.settled));
        let document = self.program.document();
        let defaults = [
            ("specversion", Value::text("1.0")),
            ("id", Value::text(id::derived(&[self.state.id(), &address, &epoch.to_string()]))),
            ("time", Value::text(self.now.to_string())),
            ("source", Value::text(format!("/pavane/{}/{}", document.namespace, document.name))),
        ];
        let envelope = defaults.into_iter().fold(given, |event, (name, value)| match event.get(name) {
            Some(set) if !set.is_null() => event,
            _ => event.with(name, value),
        });
        let event = CloudEvent::new(envelope.clone()).map_err(|why| Kind::Validation.problem(why))?;
        self.publish_event(t, task, address, event);
        Ok(Go::Leave(envelope))
    }
}
