//! What a placement amounts to: who does what, who hands work to whom, and how many messages that takes.
//!
//! Read off the graph alone, nothing runs: a walk over every task with every location its token can come from.

use std::collections::BTreeSet;

use serde::Serialize;

use super::ways::{Step, Ways};
use super::*;

/// A placed program, explained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Every task, in the order of the document, then the functions.
    pub tasks: Vec<TaskPlace>,
    /// The engine, then the services that take part.
    pub participants: Vec<Participant>,
    /// Work handed from one location to another, in the order of the document.
    pub hand_overs: Vec<HandOver>,
    /// The way through the document when every task succeeds, each loop is taken once and no `switch` jumps.
    pub straight: Cost,
    /// Single ways through the document: the straight one, each outcome of a `switch`, each call that fails.
    pub paths: Vec<PathCost>,
    /// How many more ways there are than listed.
    pub paths_left_out: usize,
    /// Where a rollback may go.
    pub rollbacks: Vec<Rollback>,
    /// Who may see which data.
    pub exposure: Vec<Exposure>,
}

/// Where a task runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskPlace {
    /// JSON pointer.
    pub reference: String,
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: &'static str,
    /// Absent: wherever the token is.
    #[serde(rename = "at")]
    pub location: Option<Location>,
    /// The function that undoes it.
    pub undone_by: Option<String>,
}

/// What a location does and whom it knows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Participant {
    /// Location.
    pub name: Location,
    /// Names of the tasks placed there.
    pub does: Vec<String>,
    /// Who hands work to it.
    pub from: BTreeSet<Location>,
    /// Whom it hands work to.
    pub to: BTreeSet<Location>,
    /// Names of the functions it undoes work with.
    pub undoes: Vec<String>,
    /// How many others hand work to it.
    pub fan_in: usize,
    /// To how many others it hands work.
    pub fan_out: usize,
    /// Digest of its slice: equal digest, nothing new for it.
    pub slice: String,
}

/// A message that brings a token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct HandOver {
    /// Its place in the order of the document.
    #[serde(skip)]
    rank: usize,
    /// Sender.
    pub from: Location,
    /// Receiver.
    pub to: Location,
    /// Name of the task that is due, or `join NAME`, or `end`.
    pub what: String,
}

/// A way that a rollback may take a token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Rollback {
    /// Where work failed.
    pub from: Location,
    /// Who may have something to undo, itself or through its function.
    pub to: Location,
}

impl Program {
    /// Explains where its tasks run and who hands work to whom.
    pub fn explain(&self) -> Explanation {
        let ways = Ways::of(self);
        let hand_overs = hand_overs(&ways);
        let undo = |node: &Node| node.undo.as_ref().map(|undo| self.node(undo.function));
        let mut order = Vec::new();
        self.in_order(self.entry, &mut order);
        let functions = self.nodes.iter().filter(|node| node.reference.starts_with("/use/"));
        let tasks = order.into_iter().map(|id| self.node(id)).chain(functions).map(|node| TaskPlace {
            reference: node.reference.to_string(),
            name: node.name.to_string(),
            kind: node.kind,
            location: node.location.clone(),
            undone_by: undo(node).map(|function| function.name.to_string()),
        });
        let undoing: BTreeSet<&str> = self.nodes.iter().filter_map(undo).map(|function| &*function.reference).collect();
        let called: BTreeSet<NodeId> = self.nodes.iter().filter_map(called).collect();
        let participants = self.locations.iter().map(|here| {
            let at = |node: &&Node| node.location.as_ref() == Some(here);
            let functions = self
                .nodes
                .iter()
                .zip(0..)
                .filter(|(node, index)| node.reference.starts_with("/use/") || called.contains(&NodeId(*index)));
            let functions: BTreeSet<&str> = functions.map(|(node, _)| &*node.reference).collect();
            let own = self.nodes.iter().filter(at).filter(|node| !functions.contains(&*node.reference));
            let undoes = self.nodes.iter().filter(at).filter(|node| undoing.contains(&*node.reference));
            let others = |one: fn(&HandOver) -> &Location, other: fn(&HandOver) -> &Location| {
                hand_overs.iter().filter(|hand| one(hand) == here).map(|hand| other(hand).clone()).collect()
            };
            let from: BTreeSet<Location> = others(|hand| &hand.to, |hand| &hand.from);
            let to: BTreeSet<Location> = others(|hand| &hand.from, |hand| &hand.to);
            Participant {
                name: here.clone(),
                does: own.map(|node| node.name.to_string()).collect(),
                fan_in: from.len(),
                fan_out: to.len(),
                from,
                to,
                undoes: undoes.map(|node| node.name.to_string()).collect(),
                slice: self.slice(&ways, here).digest,
            }
        });
        let (tasks, participants) = (tasks.collect(), participants.collect());
        let (paths, paths_left_out) = self.paths();
        let straight = paths.first().map(|path| path.cost).unwrap_or_default();
        let (exposure, rollbacks) = exposure::exposure(&ways);
        let rollbacks = rollbacks.into_iter().map(|(from, to)| Rollback { from, to }).collect();
        let hand_overs = hand_overs.into_iter().collect();
        Explanation { tasks, participants, hand_overs, straight, paths, paths_left_out, rollbacks, exposure }
    }
}

fn hand_overs(ways: &Ways<'_>) -> BTreeSet<HandOver> {
    let work = ways.edges.iter().filter(|((_, from), step, (_, to))| *step == Step::On && from != to);
    work.map(|((_, from), _, (point, to))| {
        let (what, rank) = ways.name(*point);
        HandOver { rank, from: from.clone(), to: to.clone(), what }
    })
    .collect()
}

/// The function a node calls.
fn called(node: &Node) -> Option<NodeId> {
    match node.act {
        Act::Function { body, .. } => Some(body),
        _ => None,
    }
}
