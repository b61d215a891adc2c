//! The DSL's document: its model, how it is read with positions, and everything that can be wrong with it.
//!
//! [`read`] is the door: text to a [`Reading`]. It never stops at the first problem, never panics and evaluates
//! nothing; what only the flow graph shows (placement, races) is `program`'s to say.

mod calls;
pub mod codes;
pub mod diagnostic;
mod document;
mod events;
pub mod model;
mod node;
mod policies;
mod reader;
mod tasks;
mod templates;

pub use diagnostic::{Diagnostic, Position, Severity};
pub use model::*;

/// The longest text that is read, in bytes: room for the largest generated definition, far below what would make
/// the reader slow (about 100 ms for each MiB).
pub const MAX_TEXT: usize = 4 << 20;

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

/// Reads a definition from YAML or JSON text. `file` is its name as the user gave it, for the diagnostics.
pub fn read(file: &str, text: &str) -> Reading {
    document::read(file, text)
}

/// Reads any other YAML or JSON text as data, under the same limits as a definition.
///
/// # Errors
/// What is malformed, and where.
pub fn document(text: &str) -> Result<crate::Value, String> {
    if text.len() > MAX_TEXT {
        return Err(format!("the text has {} bytes; at most {MAX_TEXT} are read", text.len()));
    }
    node::parse(text).map(|node| node.to_value()).map_err(|(at, why)| format!("{}:{}: {why}", at.line, at.column))
}
