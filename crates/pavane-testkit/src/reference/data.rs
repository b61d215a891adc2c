//! Data and expressions of the reference: templates of the definition, filled in place.

use std::collections::HashMap;

use pavane_core::definition::{Segment, Source, Template};
use pavane_core::expression::{Arguments, Expression, Fault};
use pavane_core::problem::Kind;
use pavane_core::{Problem, Timestamp, Value};

/// Expressions compiled so far. Those of generated documents are few, and the same in many of them.
#[derive(Default)]
pub struct Compiled(HashMap<String, Expression>);

/// What an expression may name.
pub struct Seen<'a> {
    /// `$context`, `$input` and so on, and the variables around, the innermost last.
    pub variables: Vec<(&'a str, Value)>,
}

impl Arguments for Seen<'_> {
    fn get(&self, name: &str) -> Result<Value, Fault> {
        let found = self.variables.iter().rev().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.clone()).ok_or_else(|| Fault::Failed(format!("${name} has no value here")))
    }

    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

impl Compiled {
    /// Evaluates an expression on `input`.
    pub fn expression(&mut self, source: &Source, input: &Value, seen: &Seen<'_>) -> Result<Value, Problem> {
        let mut names: Vec<&str> = seen.variables.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        let key = format!("{}\n{}", names.join(","), source.text);
        if !self.0.contains_key(&key) {
            let failed = |e: pavane_core::expression::CompileError| Kind::Expression.problem(e.message);
            self.0.insert(key.clone(), Expression::compile(&source.text, &names).map_err(failed)?);
        }
        let compiled = self.0.get(&key).ok_or_else(|| Kind::Expression.problem("it was not compiled"))?;
        compiled.evaluate(input, seen).map_err(|fault| match fault {
            Fault::Failed(why) | Fault::Limit(why) => Kind::Expression.problem(why),
            Fault::Denied(why) => Kind::Authorization.problem(why),
        })
    }

    /// Fills a template; what comes out is not evaluated again.
    pub fn template(&mut self, template: &Template, input: &Value, seen: &Seen<'_>) -> Result<Value, Problem> {
        Ok(match template {
            Template::Literal(value) => value.clone(),
            Template::Expression(source) => self.expression(source, input, seen)?,
            Template::Text(segments) => {
                let mut text = String::new();
                for segment in segments {
                    match segment {
                        Segment::Literal(literal) => text.push_str(literal),
                        Segment::Expression(source) => text.push_str(&as_text(&self.expression(source, input, seen)?)),
                    }
                }
                Value::text(text)
            }
            Template::Map(entries) => {
                let filled: Result<Vec<_>, Problem> =
                    entries.iter().map(|(key, value)| Ok((key, self.template(value, input, seen)?))).collect();
                Value::object(filled?)
            }
            Template::List(items) => {
                let filled: Result<Vec<_>, Problem> =
                    items.iter().map(|item| self.template(item, input, seen)).collect();
                Value::array(filled?)
            }
        })
    }
}

/// A string as it is, any other value as JSON.
pub fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_json(), str::to_owned)
}
