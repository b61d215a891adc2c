//! `run: workflow`: another workflow as an instance of its own.
//!
//! Its id is derived from the task run: whoever starts it again finds the same instance. Its error is raised here with
//! its type and status; with `await: false` the output is the input.

use crate::engine::event::{Event, TokenId, Trace};
use crate::engine::machine::{Go, Machine};
use crate::engine::types::Child;
use crate::id;
use crate::problem::Problem;
use crate::program::{Act, RunCode};
use crate::value::Value;

impl Machine<'_> {
    pub fn run_workflow(&mut self, t: TokenId, code: &RunCode) -> Result<Go, Problem> {
        let input = match &code.input {
            Some(template) => self.task_scope(t).template(template, &self.data(t))?,
            None => Value::empty_object(),
        };
        let address = self.token(t).map(|token| token.address(self.program)).unwrap_or_default();
        let epoch = self.state.epochs.get(&address).map_or(0, |e| e.number + u32::from(e.settled));
        let child = Child {
            id: id::derived(&[self.state.id(), &address, &epoch.to_string(), "child"]),
            namespace: code.namespace.clone(),
            name: code.name.clone(),
            version: code.version.clone(),
            input,
            wait: code.wait,
        };
        self.emit(Event::ChildRequested { t, address, child });
        Ok(Go::Wait)
    }

    /// The sub-workflow of the task on top ended.
    pub fn child_ended(&self, t: TokenId, result: Result<Value, Problem>) -> Go {
        let Some((frame, node)) = self.top(t) else { return Go::Wait };
        match result {
            Ok(output) => {
                let waits = matches!(&node.act, Act::Run(code) if code.wait);
                Go::Leave(if waits { output } else { frame.input.clone() })
            }
            Err(problem) => {
                let child = match &problem.detail {
                    Some(detail) => format!("the sub-workflow failed at {}: {detail}", problem.instance),
                    None => format!("the sub-workflow failed at {}", problem.instance),
                };
                let problem = Problem { detail: Some(child), ..problem }.at(&node.reference);
                Go::Fail(problem, Trace::Settled)
            }
        }
    }
}
