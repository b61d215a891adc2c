//! `switch`: the first case whose `when` is true, else the default, else the task's own `then`.
//!
//! The output is the transformed input. Cases are tested in declared order; the default stands last, wherever the
//! author wrote it.

use crate::engine::event::TokenId;
use crate::engine::machine::{Go, Machine};
use crate::expression::Expression;
use crate::problem::Problem;
use crate::program::{Flow, Node};

impl Machine<'_> {
    pub fn switch(&self, t: TokenId, node: &Node, cases: &[(Option<Expression>, Flow)]) -> Result<Go, Problem> {
        let data = self.data(t);
        let scope = self.task_scope(t);
        for (when, flow) in cases {
            let matches = match when {
                Some(when) => scope.expression(when, &data)?.is_true(),
                None => true,
            };
            if matches {
                return Ok(Go::LeaveTo(data, *flow));
            }
        }
        Ok(Go::LeaveTo(data, node.flow))
    }
}
