//! `raise`: an error of the author's making. Its `then` never runs.

use crate::engine::event::{TokenId, Trace};
use crate::engine::machine::{Go, Machine};
use crate::problem::{Kind, Problem};
use crate::program::RaiseCode;

impl Machine<'_> {
    pub fn raise(&self, t: TokenId, code: &RaiseCode) -> Result<Go, Problem> {
        let data = self.data(t);
        let scope = self.task_scope(t);
        let optional = |template: &Option<_>| template.as_ref().map(|x| scope.text(x, &data)).transpose();
        let status = scope.template(&code.status, &data)?;
        let status = status.as_i64().or_else(|| status.as_str()?.parse().ok()).ok_or_else(|| {
            Kind::Expression
                .problem(format!("the status of a raised error must be a whole number, not {}", status.to_json()))
        })?;
        let type_ = scope.text(&code.type_, &data)?;
        let title = match optional(&code.title)? {
            Some(title) => title,
            None => Problem::title_of(&type_, status).to_owned(),
        };
        let problem = Problem {
            type_,
            status,
            title,
            detail: optional(&code.detail)?,
            instance: match optional(&code.instance)? {
                Some(given) => given,
                None => self.top(t).map(|(_, node)| node.reference.to_string()).unwrap_or_default(),
            },
        };
        Ok(Go::Fail(problem, Trace::None))
    }
}
