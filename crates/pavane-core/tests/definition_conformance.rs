//! The standard's own documents: every example is read clean or refused only for a construct of a later step, every
//! definition of the conformance features is read clean, and no task is lost on the way.

#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::path::PathBuf;

use pavane_core::Value;
use pavane_core::definition::{Definition, Reading, Severity, Task, TaskKind, read};

fn conformance() -> PathBuf {
    std::env::var_os("PAVANE_CONFORMANCE_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"), PathBuf::from)
}

/// Files of a folder of the conformance material, as name and text; none when the material is not at hand.
fn files(folder: &str, extension: &str) -> Vec<(String, String)> {
    let Ok(entries) = std::fs::read_dir(conformance().join(folder)) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(path).unwrap()))
        .collect();
    files.sort();
    files
}

fn errors(reading: &Reading) -> Vec<String> {
    reading.diagnostics.iter().filter(|d| d.severity == Severity::Error).map(ToString::to_string).collect()
}

/// Tasks in the model.
fn tasks(definition: &Definition) -> usize {
    definition.tasks.iter().chain(definition.functions.values()).map(count).sum()
}

fn count(task: &Task) -> usize {
    let inner: Vec<&Task> = match &task.kind {
        TaskKind::Do(tasks) | TaskKind::Fork { branches: tasks, .. } => tasks.iter().collect(),
        TaskKind::For(f) => f.body.iter().collect(),
        TaskKind::Try(t) => t.body.iter().chain(t.handler.iter().flatten()).collect(),
        TaskKind::Listen(l) => l.foreach.iter().flat_map(|f| &f.body).collect(),
        _ => Vec::new(),
    };
    1 + inner.into_iter().map(count).sum::<usize>()
}

/// Tasks in the document as data, found without the reader: the items of every list that holds tasks.
fn tasks_of_data(document: &Value) -> usize {
    fn list(list: Option<Value>) -> usize {
        let items = list.and_then(|l| l.as_array()).unwrap_or_default();
        items.iter().flat_map(|item| item.entries().unwrap_or_default()).map(|(_, task)| one(&task)).sum()
    }
    fn one(task: &Value) -> usize {
        let inner = |path: &[&str]| path.iter().try_fold(task.clone(), |v, key| v.get(key));
        1 + list(inner(&["do"]))
            + list(inner(&["try"]))
            + list(inner(&["catch", "do"]))
            + list(inner(&["fork", "branches"]))
            + list(inner(&["foreach", "do"]))
    }
    let functions = document.get("use").and_then(|u| u.get("functions")).and_then(|f| f.entries()).unwrap_or_default();
    list(document.get("do")) + functions.iter().map(|(_, task)| one(task)).sum::<usize>()
}

#[test]
fn every_example_is_read_or_refused_for_a_later_step_only() {
    let files = files("examples", "yaml");
    // Examples refused as a whole family; the rest must be accepted.
    let later = [
        "call: asyncapi",
        "call: grpc",
        "call: mcp",
        "oauth2:",
        "oidc:",
        "call: https://",
        "extensions:",
        "container:",
        "script:",
        "shell:",
        "schedule:",
    ];
    for (name, text) in &files {
        let reading = read(name, text);
        let definition = reading.definition.as_ref().unwrap_or_else(|| panic!("{name}: {:?}", errors(&reading)));
        let misread: Vec<_> = reading
            .diagnostics
            .iter()
            .filter(|d| d.severity == Severity::Error && !d.code.starts_with("D9"))
            .map(ToString::to_string)
            .collect();
        assert!(misread.is_empty(), "{name}: {}", misread.concat());
        let expected = later.iter().any(|mark| text.contains(mark));
        assert_eq!(reading.has_errors(), expected, "{name}: {}", errors(&reading).concat());
        if !reading.has_errors() {
            assert_eq!(tasks(definition), tasks_of_data(&definition.source), "{name}");
        }
    }
}

#[test]
fn every_definition_of_the_features_is_read_clean() {
    for folder in ["ctk-1.0.3", "ctk-ows"] {
        for (name, text) in files(folder, "feature") {
            for (line, document) in docstrings(&text) {
                let reading = read(&name, &document);
                assert!(!reading.has_errors(), "{folder}/{name}:{line}\n{}", errors(&reading).concat());
                let definition = reading.definition.unwrap();
                assert_eq!(tasks(&definition), tasks_of_data(&definition.source), "{folder}/{name}:{line}");
            }
        }
    }
}

/// The documents among the texts between `"""`, without their indentation.
fn docstrings(feature: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, usize, String)> = None;
    for (number, line) in feature.lines().enumerate() {
        if line.trim_start().starts_with("\"\"\"") {
            match open.take() {
                Some((start, _, text)) if text.contains("document:") => found.push((start, text)),
                Some(_) => {}
                None => open = Some((number + 1, line.len() - line.trim_start().len(), String::new())),
            }
        } else if let Some((_, indent, text)) = &mut open {
            text.push_str(line.get(*indent..).unwrap_or_default());
            text.push('\n');
        }
    }
    assert!(!found.is_empty() && open.is_none());
    found
}
