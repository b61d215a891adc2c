//! Compiled [`crate::definition::Template`]s.

use super::{Arguments, CompileError, Expression, Fault};
use crate::definition::{self, Segment, Source};
use crate::value::Value;

/// Data with compiled expressions in it.
#[derive(Debug)]
pub struct Template {
    part: Part,
    only_copies: bool,
}

#[derive(Debug)]
enum Part {
    Literal(Value),
    Expression(Expression),
    Text(Vec<Piece>),
    Map(Vec<(String, Part)>),
    List(Vec<Part>),
}

#[derive(Debug)]
enum Piece {
    Literal(String),
    Expression(Expression),
}

impl Template {
    /// Compiles every expression of the template; all errors at once, each with the source it stands in.
    ///
    /// # Errors
    /// Every expression that does not compile.
    pub fn compile(
        template: &definition::Template,
        variables: &[&str],
    ) -> Result<Template, Vec<(Source, CompileError)>> {
        let mut errors = Vec::new();
        let part = compile(template, variables, &mut errors);
        if errors.is_empty() { Ok(Template::of(part)) } else { Err(errors) }
    }

    /// A template that gives `value`.
    pub fn literal(value: Value) -> Template {
        Template::of(Part::Literal(value))
    }

    fn of(part: Part) -> Template {
        let only_copies = part.only_copies();
        Template { part, only_copies }
    }

    /// As for [`Expression::only_copies`].
    pub fn only_copies(&self) -> bool {
        self.only_copies
    }

    /// The value of a template without expressions.
    pub fn as_literal(&self) -> Option<&Value> {
        match &self.part {
            Part::Literal(value) => Some(value),
            _ => None,
        }
    }

    /// Whether any expression of it names `$name`.
    pub fn names(&self, name: &str) -> bool {
        self.part.any(&|expression| expression.names(name))
    }

    /// Whether any expression of it [is fleeting](Expression::is_fleeting).
    pub fn is_fleeting(&self) -> bool {
        self.part.any(&Expression::is_fleeting)
    }

    /// Fills the template. Results are never evaluated again.
    ///
    /// # Errors
    /// The first expression that fails.
    pub fn evaluate(&self, input: &Value, arguments: &dyn Arguments) -> Result<Value, Fault> {
        self.part.evaluate(input, arguments)
    }
}

fn compile(template: &definition::Template, variables: &[&str], errors: &mut Vec<(Source, CompileError)>) -> Part {
    let mut expression = |source: &Source| match Expression::compile(&source.text, variables) {
        Ok(expression) => Some(expression),
        Err(error) => {
            errors.push((source.clone(), error));
            None
        }
    };
    match template {
        definition::Template::Literal(value) => Part::Literal(value.clone()),
        definition::Template::Expression(source) => {
            expression(source).map_or(Part::Literal(Value::NULL), Part::Expression)
        }
        definition::Template::Text(segments) => Part::Text(
            segments
                .iter()
                .filter_map(|segment| match segment {
                    Segment::Literal(text) => Some(Piece::Literal(text.clone())),
                    Segment::Expression(source) => expression(source).map(Piece::Expression),
                })
                .collect(),
        ),
        definition::Template::Map(entries) => {
            Part::Map(entries.iter().map(|(key, value)| (key.clone(), compile(value, variables, errors))).collect())
        }
        definition::Template::List(items) => {
            Part::List(items.iter().map(|item| compile(item, variables, errors)).collect())
        }
    }
}

impl Part {
    fn any(&self, is: &dyn Fn(&Expression) -> bool) -> bool {
        match self {
            Part::Literal(_) => false,
            Part::Expression(expression) => is(expression),
            Part::Text(pieces) => pieces.iter().any(|p| matches!(p, Piece::Expression(e) if is(e))),
            Part::Map(entries) => entries.iter().any(|(_, part)| part.any(is)),
            Part::List(items) => items.iter().any(|part| part.any(is)),
        }
    }

    fn only_copies(&self) -> bool {
        match self {
            Part::Literal(value) => value.to_json().is_ascii(),
            Part::Expression(expression) => expression.only_copies(),
            Part::Text(_) => false,
            Part::Map(entries) => entries.iter().all(|(key, part)| key.is_ascii() && part.only_copies()),
            Part::List(items) => items.iter().all(Part::only_copies),
        }
    }

    fn evaluate(&self, input: &Value, arguments: &dyn Arguments) -> Result<Value, Fault> {
        match self {
            Part::Literal(value) => Ok(value.clone()),
            Part::Expression(expression) => expression.evaluate(input, arguments),
            Part::Text(pieces) => {
                let mut text = String::new();
                for piece in pieces {
                    match piece {
                        Piece::Literal(literal) => text.push_str(literal),
                        Piece::Expression(expression) => {
                            let value = expression.evaluate(input, arguments)?;
                            match value.as_str() {
                                Some(string) => text.push_str(string),
                                None => text.push_str(&value.to_json()),
                            }
                        }
                    }
                }
                Ok(Value::from(text))
            }
            Part::Map(entries) => {
                let filled: Result<Vec<(&str, Value)>, Fault> =
                    entries.iter().map(|(key, part)| Ok((key.as_str(), part.evaluate(input, arguments)?))).collect();
                filled.map(Value::object)
            }
            Part::List(items) => {
                let filled: Result<Vec<Value>, Fault> =
                    items.iter().map(|part| part.evaluate(input, arguments)).collect();
                filled.map(Value::array)
            }
        }
    }
}
