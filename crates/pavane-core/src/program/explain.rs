//! What a placement amounts to: who does what, who hands work to whom, and how many messages that takes.
//!
//! Read off the graph alone, nothing runs: a walk over every task with every location its token can come from.

use std::collections::BTreeSet;

use serde::Serialize;

use super::ways::{Step, Ways, lists};
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

/// What a way through the document takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Messages.
    pub messages: u32,
    /// The most that follow one another.
    pub hops: u32,
    /// Calls to services.
    pub calls: u32,
}

impl Program {
    /// Explains where its tasks run and who hands work to whom.
    pub fn explain(&self) -> Explanation {
        let hand_overs = hand_overs(&Ways::of(self));
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
            Participant {
                name: here.clone(),
                does: own.map(|node| node.name.to_string()).collect(),
                from: others(|hand| &hand.to, |hand| &hand.from),
                to: others(|hand| &hand.from, |hand| &hand.to),
                undoes: undoes.map(|node| node.name.to_string()).collect(),
            }
        });
        let (tasks, participants) = (tasks.collect(), participants.collect());
        Explanation { tasks, participants, hand_overs: hand_overs.into_iter().collect(), straight: self.straight() }
    }

    fn straight(&self) -> Cost {
        let (at, mut cost) = self.straight_list(self.entry, Location::Engine);
        if !at.is_engine() {
            cost.messages += 1;
            cost.hops += 1;
        }
        cost
    }

    fn straight_list(&self, first: Option<NodeId>, mut at: Location) -> (Location, Cost) {
        let mut sum = Cost::default();
        let mut next = first;
        while let Some(id) = next {
            let node = self.node(id);
            let hop = u32::from(node.location.as_ref().is_some_and(|to| *to != at));
            at = node.location.clone().unwrap_or(at);
            let calls = u32::from(matches!(node.act, Act::Http(_) | Act::OpenApi(_) | Act::Function { .. }));
            sum = Cost { messages: sum.messages + hop, hops: sum.hops + hop, calls: sum.calls + calls };
            let inner = match &node.act {
                Act::Fork { branches, .. } => {
                    let mut widest = 0;
                    for branch in branches {
                        let (end, cost) = self.straight_list(Some(*branch), at.clone());
                        let report = u32::from(end != at);
                        sum.messages += cost.messages + report;
                        sum.calls += cost.calls;
                        widest = widest.max(cost.hops + report);
                    }
                    sum.hops += widest;
                    None
                }
                act => lists(act).into_iter().next().map(|(first, _)| first),
            };
            if let Some(first) = inner {
                let (end, cost) = self.straight_list(Some(first), at);
                at = end;
                sum.messages += cost.messages;
                sum.hops += cost.hops;
                sum.calls += cost.calls;
            }
            next = match node.flow {
                Flow::Continue => node.next,
                Flow::Goto(to) if to > id => Some(to),
                _ => None,
            };
        }
        (at, sum)
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
