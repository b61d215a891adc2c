//! The reference: what a definition may come to, by direct recursion over the document.
//!
//! It knows no states, no tokens, no messages and no journal, and uses neither `pavane_core::engine` (but for the types of
//! an answer) nor `pavane_core::program`. A list is a loop, a `try` is a loop around a list, a fork runs its branches one
//! after the other. Where a schedule decides (who wins a race, how far a branch came before it was stopped, whether a
//! timeout struck) it asks [`choices::Choices`], and [`judge`] goes through all answers: the reference *set*.
//!
//! The rules are those of `docs/dsl.md` and `docs/sagas.md`. Start reading at [`walk`].

pub mod choices;
pub mod coverage;
mod data;
mod effects;
mod fork;
mod saga;
mod walk;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use pavane_core::definition::Definition;
use pavane_core::engine::Outcome;
use pavane_core::record::Status;
use pavane_core::{Problem, Value};

use choices::Choices;

/// Paths tried to explain one run, at most: above that the run is counted as undecided.
const MAX_PATHS: usize = 1_500;
/// Paths tried to tell whether a document has one outcome only.
const MAX_FREE_PATHS: usize = 32;

/// Everything around a definition that does not depend on the schedule, and what is known of one run.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// Id of the instance.
    pub instance: &'a str,
    /// Its input.
    pub input: &'a Value,
    /// What a service answers to a key; `true` for a compensation.
    pub answer: &'a dyn Fn(&str, bool) -> Outcome,
    /// How a sub-workflow of this id ends; `true` when it is waited for.
    pub child: &'a dyn Fn(&str, bool) -> Result<Value, Problem>,
    /// The run to be explained; absent when every run is wanted.
    pub run: Option<&'a Observed>,
}

/// What was seen of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// How it ended.
    pub end: End,
    /// Everything asked of services: key, then method, URI and body.
    pub requested: BTreeMap<String, String>,
    /// Keys that were asked under again.
    pub repeated: BTreeSet<String>,
    /// Answers that reached the instance, by key, in their order. What is lost on the way is an answer, too: that nobody
    /// knows.
    pub given: BTreeMap<String, Vec<Outcome>>,
    /// Keys in the order in which services executed them.
    pub order: Vec<String>,
    /// Ids of events published and of sub-workflows started.
    pub emitted: BTreeSet<String>,
    /// Whether a timeout struck somewhere.
    pub timeouts: bool,
}

/// How an instance ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct End {
    /// Its status.
    pub status: Status,
    /// Its output without times, when completed.
    pub output: Option<String>,
    /// Its error, when faulted: type, status, title, place.
    pub error: Option<(String, i64, String, String)>,
    /// Keys of effects that could not be undone.
    pub unresolved: BTreeSet<String>,
}

/// What one path through the reference comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    /// How it ends.
    pub end: End,
    /// As [`Observed::requested`].
    pub requested: BTreeMap<String, String>,
    /// As [`Observed::emitted`].
    pub emitted: BTreeSet<String>,
    /// Pairs of keys: the first was executed before the second was asked for.
    pub before: BTreeSet<(String, String)>,
}

/// What the reference says of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is one of the runs that may be.
    Allowed,
    /// No path leads to it. With the path that came nearest.
    Refused(String),
    /// The search was given up.
    Undecided,
    /// Something happened that the reference does not know.
    Outside(&'static str),
}

/// Why a path is no run.
#[derive(Clone, Debug)]
enum Dead {
    /// It contradicts what was seen, or itself.
    Impossible(String),
    /// It needs a rule that the reference has not.
    Outside(&'static str),
}

thread_local! {
    static COMPILED: RefCell<data::Compiled> = RefCell::default();
}

/// Whether a run is in the reference set of its document and environment.
pub fn judge(definition: &Definition, environment: Environment<'_>, observed: &Observed) -> Verdict {
    let mut choices = Choices::default();
    // The path that told most before it failed: for people.
    let mut nearest = (0, String::new());
    for _ in 0..MAX_PATHS {
        let (asked, told) = match expected(definition, environment, &mut choices) {
            Ok(path) => match difference(&path, observed) {
                None => return Verdict::Allowed,
                Some(difference) => (path.requested.len() + 1_000, difference),
            },
            Err((_, Dead::Outside(what))) => return Verdict::Outside(what),
            Err((asked, Dead::Impossible(why))) => (asked, why),
        };
        if asked >= nearest.0 {
            nearest = (asked, told);
        }
        if !choices.turn() {
            return Verdict::Refused(nearest.1);
        }
    }
    Verdict::Undecided
}

/// Whether the schedule decides nothing that can be seen: every path comes to the same. False, too, when there are too
/// many paths to tell.
pub fn is_race_free(definition: &Definition, environment: Environment<'_>) -> bool {
    let mut choices = Choices::default();
    let mut first: Option<Expected> = None;
    for _ in 0..MAX_FREE_PATHS {
        match expected(definition, environment, &mut choices) {
            Ok(path) => {
                let path = Expected { before: BTreeSet::new(), ..path };
                if first.get_or_insert_with(|| path.clone()) != &path {
                    return false;
                }
            }
            Err((_, Dead::Outside(_))) => return false,
            Err((_, Dead::Impossible(_))) => {}
        }
        if !choices.turn() {
            return first.is_some();
        }
    }
    false
}

fn expected(
    definition: &Definition,
    environment: Environment<'_>,
    choices: &mut Choices,
) -> Result<Expected, (usize, Dead)> {
    COMPILED.with_borrow_mut(|compiled| {
        let mut walk = walk::Walk::new(definition, environment, choices, compiled);
        match walk.workflow() {
            Ok(end) => Ok(Expected { end, ..walk.expected }),
            Err(dead) => Err((walk.expected.requested.len(), dead)),
        }
    })
}

/// What tells a run from a path.
fn difference(path: &Expected, run: &Observed) -> Option<String> {
    if path.end != run.end {
        return Some(format!("the end is {:?}, expected {:?}", run.end, path.end));
    }
    if path.requested != run.requested {
        let missing: Vec<_> = path.requested.iter().filter(|(key, _)| !run.requested.contains_key(*key)).collect();
        let more: Vec<_> = run.requested.iter().filter(|(k, r)| path.requested.get(*k) != Some(r)).collect();
        return Some(format!("requests differ; missing: {missing:?}; not expected: {more:?}"));
    }
    if path.emitted != run.emitted {
        return Some(format!("events differ: {:?}, expected {:?}", run.emitted, path.emitted));
    }
    // What got lost may be executed late: nothing follows from when.
    let settled = |key: &str| {
        !run.repeated.contains(key)
            && run.given.get(key).is_some_and(|all| all.len() == 1 && !all.iter().any(walk::is_uncertain))
    };
    let position = |key: &str| run.order.iter().position(|known| known == key).filter(|_| settled(key));
    path.before.iter().find_map(|(first, then)| {
        (position(first)? > position(then)?)
            .then(|| format!("{} was executed before {}", path.requested[then], path.requested[first]))
    })
}

/// The end of a run as the reference compares it.
pub fn end(status: Status, output: Option<&Value>, error: Option<&Problem>, unresolved: BTreeSet<String>) -> End {
    End {
        status,
        output: output.map(|output| timeless(&output.to_canonical_json())),
        error: error.map(|e| (e.type_.clone(), e.status, e.title.clone(), e.instance.clone())),
        unresolved,
    }
}

/// A text without the times in it: they are the schedule's.
pub fn timeless(text: &str) -> String {
    let mut parts = text.split("\"time\":\"");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |out, part| out + part.split_once('"').map_or("", |(_, rest)| rest))
}
