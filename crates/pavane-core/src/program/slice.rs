//! Slices: what each participant of a program has to know, and no more.
//!
//! A slice is a fact about a program, known by its digest. The running participants hold the whole program; a slice is
//! what a reviewer compares, and what tells whom an edit touches. Tasks are named by paths that hold no positions, so that
//! what stands elsewhere in the document does not show.
//!
//! Not in a slice, because the token brings it: who joins a fork, and who undoes what was done before. Nor who else takes
//! part: cancelling and suspending go to everybody.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::facts::Part;
use super::ways::{Point, Step, Ways, node};
use super::*;
use crate::id;

/// What one participant has to know.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slice {
    /// Whose it is.
    pub participant: Location,
    /// Hex SHA-256 over everything below: equal digest, equal knowledge.
    pub digest: String,
    /// What makes it act.
    pub triggers: BTreeSet<Trigger>,
    /// The parts of tasks that it evaluates, by task and part (`enter`, `leave`, `again`, `catch`, `join`).
    pub rules: BTreeMap<String, BTreeMap<&'static str, Json>>,
    /// What follows what, as far as it decides that.
    pub next: BTreeSet<Next>,
    /// The functions that it undoes work with, by path: each with the tasks it undoes.
    pub undoes: BTreeMap<String, Json>,
    /// The forks whose branches it may have to give up.
    pub fences: BTreeSet<String>,
    /// The secrets that its expressions may name.
    pub secrets: BTreeSet<String>,
    /// Digest of the whole document, when an expression of it may read that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
}

/// Work that comes from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Trigger {
    /// `PATH` of the task that is due, `join PATH`, `end`, or `start`.
    pub on: String,
    /// Who sends it.
    pub from: Location,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Next {
    /// What is over.
    pub after: String,
    /// What is due.
    pub due: String,
    /// Who gets it: `here`, a participant, or `token` where the token says so.
    pub at: String,
}

/// What an edit of a definition does to its participants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coupling {
    /// Participants that were not there before.
    pub added: Vec<Location>,
    /// Participants that have to know something else.
    pub changed: Vec<Location>,
    /// Participants that are gone.
    pub removed: Vec<Location>,
    /// Participants that need not hear of it.
    pub unchanged: Vec<Location>,
}

/// Whom an edit touches: the slices of one program compared with those of another.
pub fn coupling(before: &Program, after: &Program) -> Coupling {
    let of = |program: &Program| {
        program.slices().into_iter().map(|slice| (slice.participant, slice.digest)).collect::<BTreeMap<_, _>>()
    };
    let (before, after) = (of(before), of(after));
    let mut coupling = Coupling::default();
    for (participant, digest) in &after {
        let list = match before.get(participant) {
            None => &mut coupling.added,
            Some(old) if old == digest => &mut coupling.unchanged,
            Some(_) => &mut coupling.changed,
        };
        list.push(participant.clone());
    }
    coupling.removed = before.into_keys().filter(|participant| !after.contains_key(participant)).collect();
    coupling
}

impl Program {
    /// What each participant has to know: the engine's first, then by name.
    pub fn slices(&self) -> Vec<Slice> {
        let ways = Ways::of(self);
        self.locations.iter().map(|here| self.slice(&ways, here)).collect()
    }

    pub(super) fn slice(&self, ways: &Ways<'_>, here: &Location) -> Slice {
        let mut slice = Slice {
            participant: here.clone(),
            digest: String::new(),
            triggers: BTreeSet::new(),
            rules: BTreeMap::new(),
            next: BTreeSet::new(),
            undoes: BTreeMap::new(),
            fences: BTreeSet::new(),
            secrets: BTreeSet::new(),
            document: None,
        };
        if here.is_engine() {
            slice.triggers.insert(Trigger { on: "start".into(), from: Location::Engine });
            slice.rules.insert(String::new(), [("workflow", self.frame())].into());
        }
        for (point, _) in ways.places.iter().filter(|(_, at)| at == here) {
            let point = *point;
            if let (Some(id), Some(part)) = (node(point), part(point)) {
                slice.rule(ways.path(id), part, self.part(self.node(id), part));
                let forks = ways.above(id).filter(|above| matches!(self.node(*above).act, Act::Fork { .. }));
                slice.fences.extend(forks.map(|fork| ways.path(fork)));
            }
        }
        for ((from, sender), step, (to, receiver)) in &ways.edges {
            if sender != here && receiver != here {
                continue;
            }
            // An error that nobody catches goes home by way of what it undoes: every participant can do that.
            if *step == Step::Error && sender != receiver || matches!((step, to), (Step::Error, Point::End)) {
                continue;
            }
            if sender == here {
                let reports = matches!(to, Point::Join(_) | Point::Ended(_));
                let at = match receiver {
                    _ if reports => "token",
                    receiver if receiver == here => "here",
                    receiver => receiver.name(),
                };
                slice.next.insert(Next { after: label(ways, *from), due: label(ways, *to), at: at.to_owned() });
            }
            if receiver == here && sender != here {
                slice.triggers.insert(Trigger { on: label(ways, *to), from: sender.clone() });
            }
        }
        self.undoing(ways, here, &mut slice);
        self.reading(&mut slice);
        let facts = json!([
            MEANING,
            slice.triggers,
            slice.rules,
            slice.next,
            slice.undoes,
            slice.fences,
            slice.secrets,
            slice.document
        ]);
        let text = serde_json::from_value::<Value>(facts).unwrap_or_default().to_canonical_json();
        slice.digest = id::digest(text.as_bytes());
        slice
    }

    /// Compensations made here, and those asked of others.
    fn undoing(&self, ways: &Ways<'_>, here: &Location, slice: &mut Slice) {
        for (id, node) in (0..).map(NodeId).zip(&self.nodes) {
            let Some(undo) = &node.undo else { continue };
            let function = self.node(undo.function);
            let Some(at) = function.location.as_ref().or(node.location.as_ref()) else { continue };
            if at != here {
                continue;
            }
            let known = slice.undoes.entry(function.reference.to_string());
            let known = known.or_insert_with(|| json!({ "function": self.function(undo.function), "tasks": {} }));
            known["tasks"][ways.path(id)] = self.part(node, Part::Leave)["compensate"]["by"].clone();
            if let Some(asks) = node.location.as_ref().filter(|asks| *asks != here) {
                slice.triggers.insert(Trigger { on: format!("undo {}", ways.path(id)), from: asks.clone() });
            }
        }
    }

    /// The secrets and the document, as far as an expression in the slice may read them.
    fn reading(&self, slice: &mut Slice) {
        let mut texts = Vec::new();
        slice.rules.values().flat_map(BTreeMap::values).chain(slice.undoes.values()).for_each(|fact| {
            texts_of(fact, &mut texts);
        });
        // `basic: { use: NAME }` reads a secret without an expression.
        let used = texts.iter().filter(|text| self.secrets.contains(text)).cloned();
        slice.secrets.extend(used);
        for text in texts.iter().filter(|text| text.contains('$')) {
            for rest in after(text, "$secrets") {
                match name(rest) {
                    Some(name) => drop(slice.secrets.insert(name.to_owned())),
                    None => slice.secrets.extend(self.secrets.iter().cloned()),
                }
            }
            if after(text, "$workflow").any(|rest| !matches!(name(rest), Some("id" | "input" | "startedAt"))) {
                slice.document = Some(id::digest(self.source.to_canonical_json().as_bytes()));
            }
        }
    }
}

impl Slice {
    fn rule(&mut self, path: String, part: Part, facts: Json) {
        if !facts.is_null() {
            self.rules.entry(path).or_default().insert(part.name(), facts);
        }
    }
}

fn part(point: Point) -> Option<Part> {
    match point {
        Point::Enter(_) => Some(Part::Enter),
        Point::Leave(_) | Point::Handled(_) => Some(Part::Leave),
        Point::Again(_) => Some(Part::Again),
        Point::Catch(_) => Some(Part::Catch),
        Point::Join(_) => Some(Part::Join),
        Point::Start | Point::Ended(_) | Point::End => None,
    }
}

fn label(ways: &Ways<'_>, point: Point) -> String {
    let path = node(point).map(|id| ways.path(id)).unwrap_or_default();
    match point {
        Point::Enter(_) => path,
        Point::Leave(_) => format!("leave {path}"),
        Point::Again(_) => format!("again {path}"),
        Point::Catch(_) => format!("catch {path}"),
        Point::Handled(_) => format!("handled {path}"),
        Point::Join(_) => format!("join {path}"),
        Point::Ended(_) => format!("end by {path}"),
        Point::Start => "start".into(),
        Point::End => "end".into(),
    }
}

fn texts_of(fact: &Json, texts: &mut Vec<String>) {
    match fact {
        Json::String(text) => texts.push(text.clone()),
        Json::Array(items) => items.iter().for_each(|item| texts_of(item, texts)),
        Json::Object(entries) => entries.values().for_each(|item| texts_of(item, texts)),
        _ => {}
    }
}

/// What stands behind each mention of a variable.
pub(super) fn after<'t>(text: &'t str, variable: &'t str) -> impl Iterator<Item = &'t str> {
    let whole = |rest: &&str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    text.match_indices(variable).map(move |(at, _)| &text[at + variable.len()..]).filter(whole)
}

/// The property that a path begins with: `.name`, `."name"` or `["name"]`; none for anything else.
pub(super) fn name(path: &str) -> Option<&str> {
    let (path, bracket) = match path.strip_prefix('[') {
        Some(inner) => (inner, true),
        None => (path.strip_prefix('.')?, false),
    };
    if let Some(quoted) = path.strip_prefix('"') {
        return quoted.split_once('"').map(|(name, _)| name).filter(|name| !name.contains('\\'));
    }
    let end = path.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(path.len());
    Some(&path[..end]).filter(|name| !name.is_empty() && !bracket)
}
