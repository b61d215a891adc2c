//! The error of a workflow: an RFC 9457 problem object with the standard's types.

use serde::{Deserialize, Serialize};

use crate::value::Value;

/// A workflow error as the standard describes it. `instance` is the JSON pointer of the task that raised it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// URI of the kind of error.
    #[serde(rename = "type")]
    pub type_: String,
    /// HTTP-like status code.
    pub status: i64,
    /// Short text for people.
    pub title: String,
    /// What happened this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// JSON pointer of the task in the definition; empty for the workflow itself.
    #[serde(default)]
    pub instance: String,
}

/// The standard's own kinds of error with their default status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The definition or its environment is wrong.
    Configuration,
    /// Data does not fit its schema.
    Validation,
    /// An expression failed.
    Expression,
    /// The caller is unknown.
    Authentication,
    /// The caller may not.
    Authorization,
    /// A deadline passed.
    Timeout,
    /// A service answered with an error, or not at all.
    Communication,
    /// The runtime itself failed.
    Runtime,
}

/// Where the standard's error types live (DSL 1.0.3).
pub const PREFIX: &str = "https://serverlessworkflow.io/spec/1.0.0/errors/";

/// Every prefix under which the standard's texts, tests and later versions name the same types.
const ALIASES: [&str; 7] = [
    PREFIX,
    "https://serverlessworkflow.io/dsl/errors/types/",
    "https://serverlessworkflow.io.io/dsl/errors/types/",
    "https://serverlessworkflow.io.io/spec/1.0.0/errors/",
    "https://open-workflow-specification.org/spec/1.0.0/errors/",
    "https://open-workflow-specification.org/dsl/errors/types/",
    "https://serverlessworkflow.io/errors/",
];

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Configuration,
        Kind::Validation,
        Kind::Expression,
        Kind::Authentication,
        Kind::Authorization,
        Kind::Timeout,
        Kind::Communication,
        Kind::Runtime,
    ];

    /// The last segment of the type's URI.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Configuration => "configuration",
            Kind::Validation => "validation",
            Kind::Expression => "expression",
            Kind::Authentication => "authentication",
            Kind::Authorization => "authorization",
            Kind::Timeout => "timeout",
            Kind::Communication => "communication",
            Kind::Runtime => "runtime",
        }
    }

    /// The status the standard gives this kind by default.
    pub fn status(self) -> i64 {
        match self {
            Kind::Configuration | Kind::Validation | Kind::Expression => 400,
            Kind::Authentication => 401,
            Kind::Authorization => 403,
            Kind::Timeout => 408,
            Kind::Communication | Kind::Runtime => 500,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Kind::Configuration => "Configuration Error",
            Kind::Validation => "Validation Error",
            Kind::Expression => "Expression Error",
            Kind::Authentication => "Authentication Error",
            Kind::Authorization => "Authorization Error",
            Kind::Timeout => "Timeout",
            Kind::Communication => "Communication Error",
            Kind::Runtime => "Runtime Error",
        }
    }

    /// The kind a type URI names, under any of the prefixes in use for the standard's types.
    pub fn of(type_: &str) -> Option<Kind> {
        let name = ALIASES.iter().find_map(|prefix| type_.strip_prefix(prefix))?;
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// An error of this kind with its default status and title, raised nowhere yet.
    pub fn problem(self, detail: impl Into<String>) -> Problem {
        Problem {
            type_: format!("{PREFIX}{}", self.name()),
            status: self.status(),
            title: self.title().to_owned(),
            detail: Some(detail.into()),
            instance: String::new(),
        }
    }
}

impl Problem {
    /// This error, raised at the task `reference`.
    #[must_use]
    pub fn at(mut self, reference: &str) -> Problem {
        reference.clone_into(&mut self.instance);
        self
    }

    /// The title of an error whose author gave none: that of the standard's type, else the reason phrase of the status.
    pub fn title_of(type_: &str, status: i64) -> &'static str {
        Kind::of(type_).map_or_else(|| reason(status), Kind::title)
    }

    /// The problem object as data, for `$error`, filters and answers.
    pub fn to_value(&self) -> Value {
        let mut value = Value::object([
            ("type", Value::text(&self.type_)),
            ("status", Value::integer(self.status)),
            ("title", Value::text(&self.title)),
        ]);
        if let Some(detail) = &self.detail {
            value = value.with("detail", Value::text(detail));
        }
        value.with("instance", Value::text(&self.instance))
    }

    /// Whether two type URIs name the same kind of error: the standard's by their last segment, others letter by letter.
    pub fn same_type(a: &str, b: &str) -> bool {
        a == b || matches!((Kind::of(a), Kind::of(b)), (Some(a), Some(b)) if a == b)
    }
}

/// The reason phrase of an HTTP status (RFC 9110 and the registry).
fn reason(status: i64) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        423 => "Locked",
        425 => "Too Early",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_types_are_equal_under_every_prefix_in_use() {
        for prefix in ALIASES {
            assert!(Problem::same_type(&format!("{prefix}timeout"), &Kind::Timeout.problem("x").type_), "{prefix}");
        }
        assert!(!Problem::same_type("https://example.com/timeout", &Kind::Timeout.problem("x").type_));
        assert!(!Problem::same_type(
            "https://serverlessworkflow.io/errors/not-implemented",
            "https://serverlessworkflow.io/spec/1.0.0/errors/runtime"
        ));
    }
}
