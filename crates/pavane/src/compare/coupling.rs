//! Coupling, read off the document: who knows whom in each mode, and whose part changes when a step is inserted, appended
//! or removed. Nothing runs: the edit is made to the document, both are placed, and the slices before and after are
//! compared.

use std::collections::BTreeSet;

use pavane_core::program::{Coupling as Touched, Location, Program, coupling};
use serde::Serialize;
use serde_json::{Value, json};

use super::subject::{self, Subject};

/// The service that an edit brings in.
const NEW: &str = "new-service";

/// Coupling in both modes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Coupling {
    /// The engine, then the services: rows and columns of the matrices.
    pub names: Vec<String>,
    pub orchestration: Knows,
    pub choreography: Knows,
    pub edits: Vec<Edit>,
}

/// Who knows whom in a mode.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Knows {
    /// For each name, for each name, how many kinds of work it hands to the other.
    pub matrix: Vec<Vec<u32>>,
    /// Pairs of which one hands work to the other.
    pub pairs: u32,
    /// The most others that one hands work to, and that hand work to one.
    pub fan_out: u32,
    pub fan_in: u32,
}

/// What an edit of the document touches.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Edit {
    /// What was done, in words.
    pub edit: String,
    /// Whose part of the coordination changes, orchestrated: always the engine's alone.
    pub orchestration: Vec<String>,
    /// Whose part changes, choreographed; absent when the edited document cannot be choreographed.
    pub choreography: Option<Vec<String>>,
    /// Services whose own code or configuration changes: in neither mode any.
    pub services_changed: u32,
}

impl Coupling {
    /// Of a workflow.
    ///
    /// # Errors
    /// A document that is none any more when it is read again.
    pub fn of(subject: &Subject) -> Result<Coupling, String> {
        let explanation = &subject.explanation;
        let names: Vec<String> = explanation.participants.iter().map(|p| p.name.name().to_owned()).collect();
        let handed = explanation.hand_overs.iter().map(|hand| (hand.from.name(), hand.to.name()));
        // Orchestrated, the engine makes every call, and nobody else knows anybody.
        let called = explanation.tasks.iter().filter_map(|task| task.location.as_ref()).filter(|at| !at.is_engine());
        let orchestration = knows(&names, called.map(|at| (Location::Engine.name().to_owned(), at.name().to_owned())));
        let choreography = knows(&names, handed.map(|(from, to)| (from.to_owned(), to.to_owned())));
        Ok(Coupling { orchestration, choreography, edits: edits(subject)?, names })
    }
}

fn knows(names: &[String], pairs: impl Iterator<Item = (String, String)>) -> Knows {
    let place = |name: &str| names.iter().position(|other| other == name);
    let mut matrix = vec![vec![0; names.len()]; names.len()];
    for (from, to) in pairs {
        let cell = place(&from).zip(place(&to)).and_then(|(from, to)| matrix.get_mut(from)?.get_mut(to));
        if let Some(cell) = cell {
            *cell += 1;
        }
    }
    let filled =
        |cells: &mut dyn Iterator<Item = u32>| u32::try_from(cells.filter(|cell| *cell > 0).count()).unwrap_or(0);
    let column = |at: usize| matrix.iter().filter_map(move |row| row.get(at).copied());
    Knows {
        pairs: filled(&mut matrix.iter().flatten().copied()),
        fan_out: matrix.iter().map(|row| filled(&mut row.iter().copied())).max().unwrap_or(0),
        fan_in: (0..names.len()).map(|at| filled(&mut column(at))).max().unwrap_or(0),
        matrix,
    }
}

fn edits(subject: &Subject) -> Result<Vec<Edit>, String> {
    let (name, text) = subject.text();
    let document: Value = serde_saphyr::from_str(text).map_err(|e| format!("{name}: {e}"))?;
    let tasks = document["do"].as_array().cloned().unwrap_or_default();
    let task_name = |task: &Value| task.as_object().and_then(|task| task.keys().next().cloned()).unwrap_or_default();
    let middle = tasks.len() / 2;
    let mut edits = Vec::new();
    if let (Some(before), Some(after)) = (middle.checked_sub(1).and_then(|at| tasks.get(at)), tasks.get(middle)) {
        let mut inserted = tasks.clone();
        inserted.insert(middle, new_task());
        let what = format!("insert a call to a new service between `{}` and `{}`", task_name(before), task_name(after));
        edits.push(edit(subject, what, &document, inserted)?);
    }
    if let Some(last) = tasks.last() {
        let mut appended = tasks.clone();
        appended.push(new_task());
        edits.push(edit(
            subject,
            format!("append a call to a new service after `{}`", task_name(last)),
            &document,
            appended,
        )?);
    }
    // Of the middle, or the nearest whose absence leaves a document.
    let mut candidates: Vec<usize> = (0..tasks.len()).collect();
    candidates.sort_by_key(|at| at.abs_diff(middle));
    for at in candidates {
        let mut removed = tasks.clone();
        let gone = removed.remove(at);
        let what = format!("remove `{}`", task_name(&gone));
        let edit = edit(subject, what, &document, removed)?;
        if edit.choreography.as_ref().is_some_and(|touched| !touched.is_empty()) {
            edits.push(edit);
            break;
        }
    }
    Ok(edits)
}

/// A name that no task has.
fn new_task() -> Value {
    json!({ "pavaneNewStep": { "call": "http", "with": { "method": "post", "endpoint": format!("http://{NEW}/steps") } } })
}

fn edit(subject: &Subject, what: String, document: &Value, tasks: Vec<Value>) -> Result<Edit, String> {
    let mut edited = document.clone();
    edited["do"] = Value::Array(tasks);
    let services: BTreeSet<String> = subject.participants.iter().cloned().chain([NEW.to_owned()]).collect();
    let placed = |text: &str| {
        let definition = subject::read("edited", text).ok()?;
        Program::choreograph(&definition, &subject::stand_ins(&definition), &services).ok()
    };
    let choreography = placed(subject.text().1).zip(placed(&edited.to_string())).map(|(before, after)| {
        let Touched { added, changed, removed, .. } = coupling(&before, &after);
        let all: BTreeSet<String> = [added, changed, removed].iter().flatten().map(|at| at.name().to_owned()).collect();
        all.into_iter().collect()
    });
    let orchestration = vec![Location::Engine.name().to_owned()];
    Ok(Edit { edit: what, orchestration, choreography, services_changed: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(tasks: &str) -> Result<Subject, String> {
        let folder = crate::demo::temporary("coupling-test")?;
        let file = folder.join("w.yaml");
        let text = format!("document: {{ dsl: '1.0.3', namespace: t, name: w, version: '1.0.0' }}\ndo:\n{tasks}");
        std::fs::write(&file, text).map_err(|e| e.to_string())?;
        let subject = Subject::read(&[file], None, None);
        std::fs::remove_dir_all(folder).map_err(|e| e.to_string())?;
        subject
    }

    fn call(name: &str, service: &str) -> String {
        format!("  - {name}: {{ call: http, with: {{ method: post, endpoint: 'http://{service}/x' }} }}\n")
    }

    #[test]
    fn a_chain_knows_its_neighbours() -> Result<(), String> {
        let subject = subject(&[call("one", "a"), call("two", "b"), call("three", "c"), call("four", "d")].concat())?;
        let coupling = Coupling::of(&subject)?;
        assert_eq!(coupling.names[0], "engine");
        // Orchestrated: a star. Choreographed: a ring through the engine.
        assert_eq!((coupling.orchestration.pairs, coupling.orchestration.fan_out), (4, 4));
        assert_eq!(
            (coupling.choreography.pairs, coupling.choreography.fan_out, coupling.choreography.fan_in),
            (5, 1, 1)
        );
        Ok(())
    }

    #[test]
    fn an_edit_touches_its_neighbours_only() -> Result<(), String> {
        let subject = subject(&[call("one", "a"), call("two", "b"), call("three", "c"), call("four", "d")].concat())?;
        let edits = Coupling::of(&subject)?.edits;
        let touched: Vec<_> = edits.iter().map(|edit| (edit.edit.as_str(), edit.choreography.clone())).collect();
        let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            touched,
            [
                ("insert a call to a new service between `two` and `three`", names(&["b", "c", NEW])),
                ("append a call to a new service after `four`", names(&["d", "engine", NEW])),
                ("remove `three`", names(&["b", "c", "d"])),
            ]
        );
        assert!(edits.iter().all(|edit| edit.orchestration == ["engine"] && edit.services_changed == 0));
        Ok(())
    }

    #[test]
    fn a_step_that_others_name_is_not_the_one_removed() -> Result<(), String> {
        let jump = "  - jump: { set: { a: 1 }, then: three }\n".to_owned();
        let subject = subject(&[call("one", "a"), jump, call("three", "c")].concat())?;
        let edits = Coupling::of(&subject)?.edits;
        let removed = edits.last().ok_or("no edit")?;
        assert!(removed.edit.starts_with("remove `one`") || removed.edit.starts_with("remove `jump`"), "{removed:?}");
        Ok(())
    }
}
