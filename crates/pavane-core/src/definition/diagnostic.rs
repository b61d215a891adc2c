//! A problem with a document: what, where, why, and what to do about it.

use std::fmt;

use serde::Serialize;

/// A place in a document: line and column count from 1, columns in characters; 0 when the place is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document is refused.
    Error,
    /// The document is accepted; its author should look.
    Warning,
}

/// One problem. `code` has a page in `docs/errors/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Stable code, such as `D012`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// File as the user named it.
    pub file: String,
    /// Place in the file.
    #[serde(flatten)]
    pub at: Position,
    /// JSON pointer of the node in the document.
    pub reference: String,
    /// What is wrong, in one sentence.
    pub message: String,
    /// Why that is so, where it is not plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{severity}[{}] {}:{}:{}  {}", self.code, self.file, self.at.line, self.at.column, self.reference)?;
        writeln!(f, "  {}", self.message)?;
        if let Some(why) = &self.why {
            writeln!(f, "  why: {why}")?;
        }
        if let Some(help) = &self.help {
            writeln!(f, "  help: {help}")?;
        }
        Ok(())
    }
}
