//! Reading a document into the model, and finding everything that is wrong with it.
//!
//! The reader never stops at the first problem: what cannot be understood is reported and left out. It knows the
//! document's form and names; whether expressions compile in their scope is [`crate::program`]'s to say. One file here
//! for each part of the DSL; start reading at [`read`].

mod calls;
mod data;
mod document;
mod events;
mod policies;
mod tasks;

use std::collections::BTreeMap;

use super::node::{Key, Kind, Node, parse};
use super::{Definition, Diagnostic, Position, Reading, Severity};

/// Reads a document in YAML or JSON. `file` names it in diagnostics.
pub fn read(file: &str, text: &str) -> Reading {
    let parsed = parse(text);
    let mut reader = Reader { file, problems: Vec::new(), uses: Uses::default() };
    let definition = match &parsed {
        Ok(root) => reader.document(root),
        Err(malformed) => {
            let help = "see that lists and maps are indented evenly, that keys end with `: `, and that text with special characters is quoted";
            reader.report("D001", malformed.at, "", malformed.message.clone(), Some(help.into()));
            None
        }
    };
    let mut diagnostics = reader.problems;
    diagnostics.sort_by_key(|d| d.at);
    Reading { definition, diagnostics }
}

struct Reader<'n> {
    file: &'n str,
    problems: Vec<Diagnostic>,
    uses: Uses<'n>,
}

/// What `use` defines, before anything refers to it.
#[derive(Default)]
struct Uses<'n> {
    functions: BTreeMap<&'n str, &'n Node>,
    retries: BTreeMap<&'n str, (&'n Node, String)>,
    errors: BTreeMap<&'n str, (&'n Node, String)>,
    timeouts: BTreeMap<&'n str, (&'n Node, String)>,
    authentications: BTreeMap<&'n str, (&'n Node, String)>,
    secrets: Vec<String>,
}

impl<'n> Reader<'n> {
    fn report(&mut self, code: &'static str, at: Position, reference: &str, message: String, help: Option<String>) {
        let severity = if code.starts_with('W') { Severity::Warning } else { Severity::Error };
        self.problems.push(Diagnostic {
            code,
            severity,
            file: self.file.to_owned(),
            at,
            reference: reference.to_owned(),
            message,
            why: None,
            help,
        });
    }

    /// The entries of a map whose keys are all known.
    fn map(&mut self, node: &'n Node, path: &str, known: &[&str]) -> Option<&'n [(Key, Node)]> {
        let entries = self.any_map(node, path)?;
        for (key, _) in entries {
            if !known.contains(&key.name.as_str()) {
                let help = suggestion(&key.name, known.iter().copied())
                    .map(|near| format!("did you mean `{near}`?"))
                    .or_else(|| Some(format!("known here: {}", known.join(", "))));
                let path = child(path, &key.name);
                self.report("D003", key.at, &path, format!("the key `{}` is not known here", key.name), help);
            }
        }
        Some(entries)
    }

    /// The entries of a map with any keys.
    fn any_map(&mut self, node: &'n Node, path: &str) -> Option<&'n [(Key, Node)]> {
        match &node.kind {
            Kind::Map(entries) => Some(entries),
            _ => {
                self.wrong_type(node, path, "a map");
                None
            }
        }
    }

    fn list(&mut self, node: &'n Node, path: &str) -> Option<&'n [Node]> {
        match &node.kind {
            Kind::Seq(items) => Some(items),
            _ => {
                self.wrong_type(node, path, "a list");
                None
            }
        }
    }

    fn text(&mut self, node: &'n Node, path: &str) -> Option<&'n str> {
        let text = node.text();
        if text.is_none() {
            self.wrong_type(node, path, "a string");
        }
        text
    }

    fn boolean(&mut self, node: &'n Node, path: &str) -> Option<bool> {
        match node.kind {
            Kind::Bool(value) => Some(value),
            _ => {
                self.wrong_type(node, path, "a boolean");
                None
            }
        }
    }

    fn wrong_type(&mut self, node: &Node, path: &str, wanted: &str) {
        let help = (wanted == "a string")
            .then(|| "write it in quotes".to_owned())
            .filter(|_| matches!(node.kind, Kind::Bool(_) | Kind::Int(_) | Kind::UInt(_) | Kind::Float(_)));
        self.report("D004", node.at, path, format!("{wanted} is needed here, not {}", node.what()), help);
    }

    /// A required key.
    fn required(&mut self, node: &'n Node, path: &str, name: &str) -> Option<&'n Node> {
        let found = node.get(name);
        if found.is_none() && matches!(node.kind, Kind::Map(_)) {
            self.report("D002", node.at, path, format!("the key `{name}` is missing"), None);
        }
        found
    }

    fn required_text(&mut self, node: &'n Node, path: &str, name: &str) -> Option<String> {
        let found = self.required(node, path, name)?;
        self.text(found, &child(path, name)).map(str::to_owned)
    }

    fn optional_text(&mut self, node: &'n Node, path: &str, name: &str) -> Option<String> {
        let found = node.get(name)?;
        self.text(found, &child(path, name)).map(str::to_owned)
    }

    /// One of a few words.
    fn word<T: Copy>(&mut self, node: &'n Node, path: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, path)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let help = suggestion(text, known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
        self.report("D005", node.at, path, format!("`{text}` is none of {}", known.join(", ")), help);
        None
    }

    /// A name that must be defined under `use`.
    fn unknown_name(&mut self, node: &Node, path: &str, kind: &str, name: &str, known: Vec<&str>) {
        let help =
            suggestion(name, known.iter().copied()).map(|near| format!("did you mean `{near}`?")).or_else(|| {
                Some(if known.is_empty() {
                    format!("define it under `use.{kind}`")
                } else {
                    format!("defined are: {}", known.join(", "))
                })
            });
        self.report("D014", node.at, path, format!("`use.{kind}` has no `{name}`"), help);
    }

    /// A construct that this version does not run.
    fn later(&mut self, code: &'static str, at: Position, path: &str, what: &str) {
        let message = format!("{what} is not available in this version of Pavane");
        let help = "the document is valid; a later version runs it".to_owned();
        self.report(code, at, path, message, Some(help));
    }

    fn has_errors_since(&self, count: usize) -> bool {
        self.problems[count..].iter().any(|d| d.severity == Severity::Error)
    }
}

/// A JSON pointer one level down.
fn child(path: &str, name: &str) -> String {
    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// The word that was probably meant.
fn suggestion<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let distance = |other: &str| strsim::damerau_levenshtein(&word.to_lowercase(), &other.to_lowercase());
    let near = known.min_by_key(|other| distance(other))?;
    (distance(near) <= 1 + word.chars().count() / 4).then_some(near)
}
