//! What must hold at the end of every run, however it was broken.

use std::collections::BTreeSet;

use pavane_core::engine::{Event, State};
use pavane_core::program::Program;
use pavane_core::record::{JournalEntry, Status};

use crate::schedule::events;
use crate::services::Services;

/// Checks a closed instance against the books.
///
/// # Errors
/// The invariant that is broken.
pub fn at_end(program: &Program, state: &State, journal: &[JournalEntry], services: &Services) -> Result<(), String> {
    one_end(journal)?;
    one_outcome(journal)?;
    events_once(journal)?;
    let compensation = state.compensation(program);
    let unresolved: BTreeSet<&str> = compensation.unresolved.iter().map(|u| u.key.as_str()).collect();
    for key in &services.order {
        let answer = &services.answers[key];
        if answer.undoes.is_some() || !answer.effect || !answer.undoable {
            continue;
        }
        let undone = services.undone(key);
        if state.status() != Status::Completed && !undone && !unresolved.contains(key.as_str()) {
            return Err(format!(
                "{} ({key}) had an effect, the instance is {}, and it is neither undone nor named as unresolved",
                answer.reference,
                state.status().as_str()
            ));
        }
    }
    undone_after_done(services)?;
    reverse_order(program, journal)
}

/// Whether a task has a compensation.
pub fn undoable(program: &Program, reference: &str) -> bool {
    program.find(reference).is_some_and(|node| program.node(node).is_compensable())
}

/// An instance ends exactly once.
///
/// # Errors
/// How often it ended.
pub fn one_end(journal: &[JournalEntry]) -> Result<(), String> {
    let ends = events(journal).filter(|event| matches!(event, Event::Ended { .. })).count();
    if ends == 1 { Ok(()) } else { Err(format!("the instance ended {ends} times")) }
}

/// A run of a task ends once: completed, faulted or given up.
fn one_outcome(journal: &[JournalEntry]) -> Result<(), String> {
    let mut ended = BTreeSet::new();
    for event in events(journal) {
        let (task, run) = match event {
            Event::Completed { task, run, .. }
            | Event::Faulted { task, run, .. }
            | Event::Cancelled { task, run, .. } => (task, run),
            _ => continue,
        };
        if !ended.insert(run) {
            return Err(format!("run {run} of {task} has two outcomes"));
        }
    }
    Ok(())
}

/// An event is taken in once, and what is published has an id of its own.
///
/// # Errors
/// The event that came twice.
pub fn events_once(journal: &[JournalEntry]) -> Result<(), String> {
    let (mut received, mut emitted) = (BTreeSet::new(), BTreeSet::new());
    for event in events(journal) {
        match event {
            Event::Received { event, .. } if !received.insert((event.source(), event.id())) => {
                return Err(format!("the event {} was taken in twice", event.id()));
            }
            Event::Emitted { event, .. } if !emitted.insert(event.id()) => {
                return Err(format!("two events were published with the id {}", event.id()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a location knows to be fenced asks for nothing new there: a fence is kept even if its token comes later. Only
/// what a token asks for that was delivered before may have been asked for before its fence.
///
/// # Errors
/// The request that came after its fence.
pub fn prompt(journal: &[JournalEntry]) -> Result<(), String> {
    let mut fenced = BTreeSet::new();
    for entry in journal {
        let mut again = false;
        for event in events(std::slice::from_ref(entry)) {
            match event {
                Event::Fenced { t, .. } | Event::FencedAway { t, .. } => drop(fenced.insert(t)),
                Event::Admitted { message } => again |= message.redelivered,
                // What came counts, whatever the location made of it.
                Event::Arrived { message, .. } => {
                    again |= message.redelivered;
                    fenced.extend(message.fences());
                }
                Event::Requested { t, task, compensates: None, .. } if fenced.contains(&t) && !again => {
                    return Err(format!("{task} was asked for where its fence was known already"));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// A compensation never comes before the effect it undoes: a late effect would stay.
fn undone_after_done(services: &Services) -> Result<(), String> {
    for (position, key) in services.order.iter().enumerate() {
        let answer = &services.answers[key];
        let Some(forward) = answer.undoes.as_ref().filter(|_| answer.effect) else { continue };
        if let Some(done) = services.order.iter().position(|k| k == forward)
            && done > position
        {
            return Err(format!("key {forward} was executed after it had been undone"));
        }
    }
    Ok(())
}

/// Without forks there is one order: what was known to be done last is undone first.
fn reverse_order(program: &Program, journal: &[JournalEntry]) -> Result<(), String> {
    if program.nodes().any(|node| node.kind == "fork") {
        return Ok(());
    }
    let mut done = Vec::new();
    for event in events(journal) {
        match event {
            Event::Completed { task, run, .. } if undoable(program, &task) => done.push((run, task)),
            Event::Undoing { task, run, .. } => {
                let Some(position) = done.iter().position(|(r, _)| *r == run) else { continue };
                if let Some((_, later)) = done.get(position + 1) {
                    return Err(format!("{task} was undone before {later}, which was done after it"));
                }
                done.remove(position);
            }
            // Left as it is, with all before it: what an operator retries later goes in the same order.
            Event::Unresolved { .. } => return Ok(()),
            _ => {}
        }
    }
    Ok(())
}
