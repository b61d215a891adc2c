//! JSON Schema checks of input, output and export.

use crate::value::Value;

/// Violations named in one message.
const MAX_NAMED: usize = 10;

/// Violations listed one by one: more of them say nothing new.
const MAX_LISTED: usize = 100;

/// A compiled JSON Schema (2020-12 unless `$schema` says otherwise). Never fetches a reference.
#[derive(Debug)]
pub struct Schema(Box<jsonschema::Validator>);

/// A value that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where and why, all violations in one text (the first ten).
    pub message: String,
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// What is wrong with the schema.
    pub fn compile(document: &Value) -> Result<Schema, String> {
        // The `regex` engine is linear in the text; look-around, which it lacks, is refused here.
        jsonschema::options()
            .with_pattern_options(jsonschema::PatternOptions::regex())
            .build(&document.into())
            .map(|validator| Schema(Box::new(validator)))
            .map_err(|error| error.to_string())
    }

    /// Checks a value.
    ///
    /// # Errors
    /// What does not fit, by JSON pointer.
    pub fn check(&self, value: &Value) -> Result<(), Violation> {
        let json = value.into();
        if self.0.is_valid(&json) {
            return Ok(());
        }
        let named: Vec<String> = self
            .0
            .iter_errors(&json)
            .take(MAX_NAMED)
            .map(|error| {
                let place = error.instance_path().to_string();
                if place.is_empty() { error.to_string() } else { format!("{place}: {error}") }
            })
            .collect();
        Err(Violation { message: named.join("; ") })
    }

    /// Everything that does not fit, one by one: where, as a JSON pointer, and why (the first hundred).
    pub fn violations(&self, value: &Value) -> Vec<(String, String)> {
        let json = value.into();
        let named = |error: jsonschema::ValidationError<'_>| (error.instance_path().to_string(), error.to_string());
        self.0.iter_errors(&json).take(MAX_LISTED).map(named).collect()
    }
}
