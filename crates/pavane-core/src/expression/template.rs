//! Compiled [`crate::definition::Template`]s.

use super::{Arguments, CompileError, Fault};
use crate::definition;
use crate::value::Value;

/// Data with compiled expressions in it.
#[derive(Debug)]
pub struct Template {}

impl Template {
    /// Compiles every expression of the template; all errors at once, each with the source it stands in.
    ///
    /// # Errors
    /// Every expression that does not compile.
    pub fn compile(
        template: &definition::Template,
        variables: &[&str],
    ) -> Result<Template, Vec<(definition::Source, CompileError)>> {
        let _ = (template, variables);
        Ok(Template {})
    }

    /// A template that gives `value`.
    pub fn literal(value: Value) -> Template {
        let _ = value;
        Template {}
    }

    /// Whether any expression of it names `$name`.
    pub fn names(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Fills the template. Results are never evaluated again.
    ///
    /// # Errors
    /// The first expression that fails.
    pub fn evaluate(&self, input: &Value, arguments: &dyn Arguments) -> Result<Value, Fault> {
        let _ = arguments;
        Ok(input.clone())
    }
}
