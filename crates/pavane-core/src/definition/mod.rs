//! The DSL's document: its model, how it is read with positions, and everything that can be wrong with it.

pub mod codes;
pub mod diagnostic;
pub mod model;
mod node;
mod read;

pub use diagnostic::{Diagnostic, Position, Severity};
pub use model::*;
pub use read::read;

/// What reading a document gave: every problem found, and as much of the definition as could be understood.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The definition, when at least its `document` could be read. Tasks with errors are left out of it.
    pub definition: Option<Definition>,
    /// Everything that is wrong or doubtful, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
}

impl Reading {
    /// Whether any diagnostic is an error.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|d| d.severity == Severity::Error)
    }
}

/// Reads any JSON or YAML document as data, with the same budget as a definition.
///
/// # Errors
/// What is malformed, and where.
pub fn document(text: &str) -> Result<crate::Value, String> {
    match node::parse(text) {
        Ok(root) => Ok(root.value()),
        Err(malformed) => Err(format!("{}:{}: {}", malformed.at.line, malformed.at.column, malformed.message)),
    }
}
