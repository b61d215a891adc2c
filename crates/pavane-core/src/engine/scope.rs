//! What expressions see: the standard's arguments and the variables of the tasks around them.

use std::sync::Arc;

use super::secret;
use super::state::{Frame, Role, State, Token};
use super::types::{Credentials, Host};
use crate::expression::{Arguments, Expression, Fault, Template};
use crate::problem::{Kind, Problem};
use crate::program::{Act, Node, Program};
use crate::time::{Duration, Timestamp};
use crate::value::Value;

/// The arguments of one evaluation. What is absent cannot be named: the compiler has refused it.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub program: &'a Program,
    pub host: &'a Host,
    pub state: &'a State,
    pub now: Timestamp,
    pub token: Option<&'a Token>,
    pub node: Option<&'a Node>,
    pub started: Timestamp,
    pub raw: Option<&'a Value>,
    pub input: Option<&'a Value>,
    pub output: Option<&'a Value>,
    /// `$output` of `$task`: the raw output.
    pub raw_output: Option<&'a Value>,
    pub credentials: Option<&'a Credentials>,
    /// One more variable: the error of a `catch`, the item of a loop about to begin.
    pub extra: &'a [(Arc<str>, Value)],
}

impl<'a> Scope<'a> {
    pub fn with_frame(self, frame: &'a Frame) -> Scope<'a> {
        Scope {
            node: Some(self.program.node(frame.node)),
            started: frame.started,
            raw: Some(&frame.raw),
            input: Some(&frame.input),
            ..self
        }
    }

    /// Evaluates an expression; secrets in the result are sealed.
    pub fn expression(&self, expression: &Expression, input: &Value) -> Result<Value, Problem> {
        let value = expression.evaluate(input, self).map_err(|fault| self.problem(fault))?;
        if expression.only_copies() {
            return Ok(value);
        }
        Ok(self.sealed(value, input, expression.names("secrets")))
    }

    /// Fills a template; secrets in the result are sealed.
    pub fn template(&self, template: &Template, input: &Value) -> Result<Value, Problem> {
        let value = template.evaluate(input, self).map_err(|fault| self.problem(fault))?;
        if template.only_copies() {
            return Ok(value);
        }
        Ok(self.sealed(value, input, template.names("secrets")))
    }

    /// A result as it may be kept: the markers in it are those it was given, and secrets it reads are sealed.
    fn sealed(&self, value: Value, input: &Value, names_secrets: bool) -> Value {
        let value = if secret::is_sealed(&value) { self.confined(value, input) } else { value };
        if names_secrets { secret::seal(value, self.program, self.host) } else { value }
    }

    fn confined(&self, value: Value, input: &Value) -> Value {
        let authorization = self.credentials.map(authorization);
        let frames = self.token.map(|token| token.frames.as_slice()).unwrap_or_default();
        let data = self.token.map(|token| [&token.data, &token.context]).into_iter().flatten();
        let variables = self.token.map(|token| token.variables.as_slice()).unwrap_or_default();
        let sources = [input]
            .into_iter()
            .chain(&authorization)
            .chain([self.raw, self.input, self.output, self.raw_output].into_iter().flatten())
            .chain(data)
            .chain(frames.iter().flat_map(Frame::values))
            .chain(variables.iter().chain(self.extra).map(|(_, value)| value))
            .chain(self.state.start.as_ref().map(|start| &start.input));
        secret::confine(value, sources)
    }

    /// A template as text: strings as they are, other values as JSON.
    pub fn text(&self, template: &Template, input: &Value) -> Result<String, Problem> {
        Ok(text(&self.template(template, input)?))
    }

    /// The instant a duration from now; an expression gives an ISO 8601 text or a duration object.
    pub fn duration(&self, code: &crate::program::DurationCode, input: &Value) -> Result<Duration, Problem> {
        match code {
            crate::program::DurationCode::Fixed(duration) => Ok(*duration),
            crate::program::DurationCode::Expression(expression) => {
                let value = self.expression(expression, input)?;
                duration(&value).map_err(|why| self.at(Kind::Expression.problem(why)))
            }
        }
    }

    /// jq quotes data in its messages: secrets in them are sealed, too.
    fn problem(&self, fault: Fault) -> Problem {
        let sealed = |why: String| {
            let sealed = secret::seal(Value::text(&why), self.program, self.host);
            sealed.as_str().map_or(why, str::to_owned)
        };
        let fault = match fault {
            Fault::Failed(why) => Fault::Failed(sealed(why)),
            other => other,
        };
        self.at(match fault {
            Fault::Failed(why) | Fault::Limit(why) => Kind::Expression.problem(why),
            Fault::Denied(why) => Kind::Authorization.problem(why),
        })
    }

    fn at(&self, problem: Problem) -> Problem {
        problem.at(self.node.map_or("", |n| &n.reference))
    }

    fn task(&self) -> Option<Value> {
        let node = self.node?;
        Some(Value::object([
            ("name", Value::text(&node.name)),
            ("reference", Value::text(&node.reference)),
            ("definition", node.source.clone()),
            ("input", self.raw.cloned().unwrap_or_default()),
            ("output", self.raw_output.or(self.output).cloned().unwrap_or_default()),
            ("startedAt", date(self.started)),
        ]))
    }

    fn workflow(&self) -> Value {
        let start = self.state.start.as_ref();
        Value::object([
            ("id", Value::text(self.state.id())),
            ("definition", self.program.source().clone()),
            ("input", start.map(|s| s.input.clone()).unwrap_or_default()),
            ("startedAt", date(self.state.started_at)),
        ])
    }

    fn variable(&self, name: &str) -> Option<Value> {
        if let Some((_, value)) = self.extra.iter().find(|(n, _)| &**n == name) {
            return Some(value.clone());
        }
        let token = self.token?;
        variables(self.program, token).into_iter().rev().find(|(n, _)| &**n == name).map(|(_, value)| value)
    }
}

impl Arguments for Scope<'_> {
    fn get(&self, name: &str) -> Result<Value, Fault> {
        let found = match name {
            "context" => self.token.map(|t| t.context.clone()).or_else(|| self.state.ended_context()),
            "input" => self.input.cloned(),
            "output" => self.output.cloned(),
            "secrets" => return secret::granted(self.program, self.host).map_err(Fault::Denied),
            "task" => self.task(),
            "workflow" => Some(self.workflow()),
            "runtime" => Some(self.host.runtime.clone()),
            "authorization" => Some(self.credentials.map_or(Value::NULL, authorization)),
            variable => self.variable(variable),
        };
        found.or_else(|| self.variable(name)).ok_or_else(|| Fault::Failed(format!("${name} has no value here")))
    }

    fn now(&self) -> Timestamp {
        self.now
    }
}

impl State {
    fn ended_context(&self) -> Option<Value> {
        self.ended.as_ref().map(|e| e.context.clone())
    }
}

/// Variables in scope at the top of a token's stack, outermost first. What runs in a function sees none of its
/// caller's; the call itself does.
pub(super) fn variables(program: &Program, token: &Token) -> Vec<(Arc<str>, Value)> {
    let mut found = token.variables.clone();
    for (above, frame) in token.frames.iter().enumerate().map(|(i, f)| (token.frames.len() - 1 - i, f)) {
        let act = &program.node(frame.node).act;
        match (&frame.role, act) {
            (Role::Function | Role::Undo(_), _) if above > 0 => found.clear(),
            (Role::For { items, index }, Act::For(code)) => {
                found.push((code.each.clone(), item(items, *index)));
                found.push((code.at.clone(), Value::integer(i64::from(*index))));
            }
            (Role::Try(attempt), Act::Try(code)) if attempt.handling => {
                found.push((code.variable.clone(), attempt.error.clone().unwrap_or_default()));
            }
            (Role::Listen(listening), Act::Listen(code)) => {
                if let (Some((item, index)), Some(foreach)) = (&listening.current, &code.foreach) {
                    found.push((foreach.item.clone(), item.clone()));
                    found.push((foreach.at.clone(), Value::integer(i64::from(*index))));
                }
            }
            _ => {}
        }
    }
    found
}

/// The item of an array at a position.
pub(super) fn item(items: &Value, index: u32) -> Value {
    match &items.0 {
        jaq_json::Val::Arr(items) => items.get(index as usize).cloned().map(Value).unwrap_or_default(),
        _ => Value::NULL,
    }
}

/// A value as text: a string as it is, anything else as JSON.
pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_json(), str::to_owned)
}

/// A date descriptor of the standard.
fn date(at: Timestamp) -> Value {
    Value::object([
        ("iso8601", Value::text(at.to_string())),
        (
            "epoch",
            Value::object([
                ("seconds", Value::integer(at.0.div_euclid(1_000))),
                ("milliseconds", Value::integer(at.0)),
            ]),
        ),
    ])
}

fn authorization(credentials: &Credentials) -> Value {
    use base64::Engine as _;
    let (scheme, parameter) = match credentials {
        Credentials::Basic { username, password } => {
            ("Basic", base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}")))
        }
        Credentials::Bearer { token } => ("Bearer", token.clone()),
    };
    Value::object([("scheme", Value::text(scheme)), ("parameter", Value::text(parameter))])
}

/// Reads a duration an expression gave.
fn duration(value: &Value) -> Result<Duration, String> {
    if let Some(text) = value.as_str() {
        return Duration::parse(text);
    }
    let entries = value.entries().ok_or_else(|| {
        format!("{} is no duration: an ISO 8601 text or a duration object is needed", value.to_json())
    })?;
    let mut total = Duration::default();
    for (name, amount) in entries {
        let amount = amount
            .as_f64()
            .filter(|n| *n >= 0.0)
            .ok_or_else(|| format!("`{name}` of a duration must be a number, not negative"))?;
        let unit = match name.as_str() {
            "days" => 86_400_000.0,
            "hours" => 3_600_000.0,
            "minutes" => 60_000.0,
            "seconds" => 1_000.0,
            "milliseconds" => 1.0,
            _ => {
                return Err(format!(
                    "a duration has no `{name}`: days, hours, minutes, seconds and milliseconds are known"
                ));
            }
        };
        #[expect(clippy::cast_possible_truncation, reason = "saturating is what a very long duration should do")]
        let millis = (amount * unit) as i64;
        total.millis = total.millis.saturating_add(millis);
    }
    Ok(total)
}
