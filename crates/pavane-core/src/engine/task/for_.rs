//! `for`: the body once for each item, each iteration on the output of the one before.
//!
//! The collection is evaluated once; `while` is tested before each iteration with the item in scope. An empty
//! collection gives the input as output.

use crate::engine::event::{Event, TokenId};
use crate::engine::machine::{Go, Machine};
use crate::engine::scope::{Scope, item};
use crate::engine::state::Role;
use crate::problem::{Kind, Problem};
use crate::program::ForCode;
use crate::value::Value;

/// Longer collections would make one instance's journal and memory a burden for all.
const MAX_ITEMS: usize = 1_000_000;

impl Machine<'_> {
    pub fn begin_loop(&mut self, t: TokenId, code: &ForCode) -> Result<Go, Problem> {
        let items = self.task_scope(t).template(&code.collection, &self.data(t))?;
        match length(&items) {
            None => Err(Kind::Expression
                .problem(format!("`for.in` must give an array, but gave {}", crate::value::excerpt(&items)))),
            Some(count) if count > MAX_ITEMS => {
                Err(Kind::Runtime.problem(format!("`for.in` gave {count} items; {MAX_ITEMS} are the limit")))
            }
            Some(_) => self.iterate(t, code, 0, Some(items)),
        }
    }

    /// Begins iteration `index`, or ends the loop.
    pub fn iterate(&mut self, t: TokenId, code: &ForCode, index: u32, first: Option<Value>) -> Result<Go, Problem> {
        let data = self.data(t);
        let items = match (&first, self.top(t).map(|(frame, _)| &frame.role)) {
            (Some(items), _) | (None, Some(Role::For { items, .. })) => items.clone(),
            _ => Value::NULL,
        };
        if length(&items).is_none_or(|count| index as usize >= count) {
            return Ok(Go::Leave(data));
        }
        if let Some(condition) = &code.condition {
            let extra = [(code.each.clone(), item(&items, index)), (code.at.clone(), Value::integer(i64::from(index)))];
            if !(Scope { extra: &extra, ..self.task_scope(t) }).expression(condition, &data)?.is_true() {
                return Ok(Go::Leave(data));
            }
        }
        self.emit(Event::Looped { t, index, items: first });
        Ok(code.first.map_or(Go::ListEnd, Go::Enter))
    }
}

fn length(items: &Value) -> Option<usize> {
    match &items.0 {
        jaq_json::Val::Arr(items) => Some(items.len()),
        _ => None,
    }
}
