//! Advice: what a definition may do, and its author should know. Warnings, in both modes.
//!
//! Each looks at one construct and errs on the side of silence: advice that is often beside the point is not read.

use std::collections::{BTreeMap, BTreeSet};

use super::exposure::keys;
use super::ways::{Point, Ways};
use super::*;
use crate::definition::{Severity, Task, TaskKind, codes};

impl Program {
    /// What the author of its definition should look at, in the order of the document.
    pub fn advice(&self, definition: &Definition) -> Vec<Diagnostic> {
        let mut advice = Advice { definition, found: Vec::new() };
        advice.list(&definition.tasks, definition.timeout.is_some());
        advice.compensations();
        advice.unreachable(self);
        advice.found.sort_by(|a, b| (a.at, a.code).cmp(&(b.at, b.code)));
        advice.found
    }
}

struct Advice<'a> {
    definition: &'a Definition,
    found: Vec<Diagnostic>,
}

impl<'a> Advice<'a> {
    fn warn(&mut self, code: &'static str, task: &Task, message: String, why: &str, help: &str) {
        self.found.push(Diagnostic {
            code,
            severity: Severity::Warning,
            file: self.definition.file.clone(),
            at: task.at,
            reference: task.reference.clone(),
            message,
            why: Some(why.to_owned()),
            help: Some(help.to_owned()),
        });
    }

    /// `limited`: a task around has a timeout, or the workflow.
    fn list(&mut self, tasks: &'a [Task], limited: bool) {
        for task in tasks {
            let limited = limited || task.timeout.is_some();
            match &task.kind {
                TaskKind::Fork { compete: false, branches } => self.shared_keys(task, branches),
                TaskKind::Fork { compete: true, branches } => self.race(task, branches),
                TaskKind::Listen(_) if !limited => self.warn(
                    codes::NO_DEADLINE,
                    task,
                    format!("`{}` waits for an event for ever", task.name),
                    "neither it nor anything around it has a timeout: if the event never comes, the instance never ends",
                    "give it, a task around it, or the workflow a `timeout`",
                ),
                _ => {}
            }
            task.lists().into_iter().for_each(|list| self.list(list, limited));
        }
    }

    fn shared_keys(&mut self, fork: &Task, branches: &'a [Task]) {
        let mut writers: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for branch in branches {
            let mut written = BTreeSet::new();
            each(std::slice::from_ref(branch), &mut |task| written.extend(keys(&task.source)));
            written.into_iter().for_each(|key| writers.entry(key).or_default().push(&branch.name));
        }
        for (key, branches) in writers.into_iter().filter(|(key, branches)| !key.is_empty() && branches.len() > 1) {
            self.warn(
                codes::SHARED_CONTEXT,
                fork,
                format!("the branches {} write `$context.{key}`", branches.join(", ")),
                "contexts are merged in the order in which the branches are declared: the last one's value stays, whenever it was written",
                "give each branch a key of its own, and put them together behind the fork",
            );
        }
    }

    fn race(&mut self, fork: &Task, branches: &'a [Task]) {
        let mut kept = Vec::new();
        each(branches, &mut |task| {
            if self.has_effect(task) && task.pavane.compensate.is_none() {
                kept.push(task.name.as_str());
            }
        });
        if branches.len() > 1 && !kept.is_empty() {
            let message =
                format!("what loses the race `{}` may have had an effect that stays: {}", fork.name, kept.join(", "));
            self.warn(
                codes::RACE_EFFECT,
                fork,
                message,
                "which branch wins depends on timing, in both modes; what the others did is undone only where they say how",
                "give these tasks a `compensate`, or race only what changes nothing",
            );
        }
    }

    /// A request that changes something: any but those that HTTP calls safe.
    fn has_effect(&self, task: &Task) -> bool {
        match &task.kind {
            TaskKind::Http(call) => !matches!(call.method.as_str(), "GET" | "HEAD" | "OPTIONS"),
            TaskKind::Function { name, .. } => {
                self.definition.functions.get(name).is_some_and(|function| self.has_effect(function))
            }
            _ => false,
        }
    }

    fn compensations(&mut self) {
        let definition = self.definition;
        let mut tasks = Vec::new();
        each(&definition.tasks, &mut |task| tasks.push(task));
        let saga = tasks.iter().any(|task| task.pavane.compensate.is_some());
        let calls =
            |task: &&&Task| matches!(task.kind, TaskKind::Http(_) | TaskKind::OpenApi(_) | TaskKind::Function { .. });
        let last = tasks.iter().rev().find(calls).map(|task| task.reference.as_str());
        for task in tasks.iter().copied() {
            if saga && self.has_effect(task) && task.pavane.compensate.is_none() && last != Some(&task.reference) {
                self.warn(
                    codes::NOT_UNDONE,
                    task,
                    format!("a rollback does not undo `{}`", task.name),
                    "other tasks of this workflow are undone when a later one fails; this one has an effect and no `compensate`",
                    "give it a `compensate`, or do it last; if its effect may stay, nothing need be done",
                );
            }
            let function = task.pavane.compensate.as_ref().and_then(|undo| definition.functions.get(&undo.function));
            if let Some(function) = function.filter(|function| reads_output_alone(&function.source.to_json())) {
                self.warn(
                    codes::NEEDS_OUTPUT,
                    task,
                    format!("`{}` could not be undone when its outcome is unknown", task.name),
                    &format!(
                        "its compensation `{}` reads `.output` alone, which is null when the answer was lost: the effect may \
                         be there all the same",
                        function.name
                    ),
                    "name the work by `.input`, or give the value that is missing an alternative: `${ .output.id // … }`",
                );
            }
        }
    }

    fn unreachable(&mut self, program: &Program) {
        let ways = Ways::of(program);
        let entered: BTreeSet<NodeId> = ways
            .places
            .iter()
            .filter_map(|(point, _)| match point {
                Point::Enter(id) => Some(*id),
                _ => None,
            })
            .collect();
        let mut tasks = Vec::new();
        each(&self.definition.tasks, &mut |task| tasks.push(task));
        for task in tasks {
            let Some(id) = program.find(&task.reference).filter(|id| !entered.contains(id)) else { continue };
            // What is in a task that is not come to goes without saying.
            if ways.above(id).next().is_none_or(|parent| entered.contains(&parent)) {
                self.warn(
                    codes::UNREACHABLE,
                    task,
                    format!("no work ever comes to `{}`", task.name),
                    "every way before it ends, or goes elsewhere; in choreography its participant waits in vain",
                    "remove it, or correct the `then` or `raise` before it",
                );
            }
        }
    }
}

/// Every task of a list, and those within.
fn each<'t>(tasks: &'t [Task], see: &mut dyn FnMut(&'t Task)) {
    for task in tasks {
        see(task);
        task.lists().into_iter().for_each(|list| each(list, see));
    }
}

/// Whether expressions in a text read the output of what is undone, with nothing in its place, and not its input.
fn reads_output_alone(text: &str) -> bool {
    text.contains(".output") && !text.contains(".input") && !text.contains("// ")
}
