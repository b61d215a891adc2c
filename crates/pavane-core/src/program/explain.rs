//! What a placement amounts to: who does what, who hands work to whom, and how many messages that takes.
//!
//! Read off the graph alone, nothing runs: a walk over every task with every location its token can come from.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

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
    /// The most calls that follow one another.
    pub sequence: u32,
}

impl Program {
    /// Explains where its tasks run and who hands work to whom.
    pub fn explain(&self) -> Explanation {
        let hand_overs = self.hand_overs();
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

    /// A list of tasks and what is in them.
    fn in_order(&self, first: Option<NodeId>, order: &mut Vec<NodeId>) {
        let mut next = first;
        while let Some(id) = next {
            order.push(id);
            let node = self.node(id);
            if let Act::Fork { branches, .. } = &node.act {
                branches.iter().for_each(|branch| self.in_order(Some(*branch), order));
            }
            lists(&node.act).into_iter().for_each(|first| self.in_order(Some(first), order));
            next = node.next;
        }
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
            sum = Cost {
                messages: sum.messages + hop,
                hops: sum.hops + hop,
                calls: sum.calls + calls,
                sequence: sum.sequence + calls,
            };
            let inner = match &node.act {
                Act::Fork { branches, .. } => {
                    let (mut widest, mut longest) = (0, 0);
                    for branch in branches {
                        let (end, cost) = self.straight_list(Some(*branch), at.clone());
                        let report = u32::from(end != at);
                        sum.messages += cost.messages + report;
                        sum.calls += cost.calls;
                        widest = widest.max(cost.hops + report);
                        longest = longest.max(cost.sequence);
                    }
                    sum.hops += widest;
                    sum.sequence += longest;
                    None
                }
                act => lists(act).into_iter().next(),
            };
            if let Some(first) = inner {
                let (end, cost) = self.straight_list(Some(first), at);
                at = end;
                sum.messages += cost.messages;
                sum.hops += cost.hops;
                sum.calls += cost.calls;
                sum.sequence += cost.sequence;
            }
            next = match node.flow {
                Flow::Continue => node.next,
                Flow::Goto(to) if to > id => Some(to),
                _ => None,
            };
        }
        (at, sum)
    }

    fn hand_overs(&self) -> BTreeSet<HandOver> {
        let mut walk = Walk::of(self);
        loop {
            let before = (walk.found.len(), walk.forks.clone());
            walk.seen.clear();
            if let Some(entry) = self.entry {
                walk.enter(entry, Location::Engine);
            }
            if (walk.found.len(), walk.forks.clone()) == before {
                return walk.found;
            }
        }
    }
}

/// The function a node calls.
fn called(node: &Node) -> Option<NodeId> {
    match node.act {
        Act::Function { body, .. } => Some(body),
        _ => None,
    }
}

/// The first nodes of the lists within a node, but for the branches of a fork.
fn lists(act: &Act) -> Vec<NodeId> {
    match act {
        Act::Do { first } => first.iter().copied().collect(),
        Act::For(each) => each.first.into_iter().collect(),
        Act::Try(attempt) => attempt.first.into_iter().chain(attempt.handler.flatten()).collect(),
        Act::Listen(listen) => listen.foreach.iter().filter_map(|foreach| foreach.first).collect(),
        _ => Vec::new(),
    }
}

struct Walk<'p> {
    program: &'p Program,
    /// The node that holds the list a node is in.
    parents: BTreeMap<NodeId, NodeId>,
    /// Nodes in the order of the document.
    order: Vec<NodeId>,
    /// Where each fork was split.
    forks: BTreeMap<NodeId, BTreeSet<Location>>,
    seen: BTreeSet<(NodeId, Location, bool)>,
    found: BTreeSet<HandOver>,
}

impl<'p> Walk<'p> {
    fn of(program: &'p Program) -> Walk<'p> {
        let mut parents = BTreeMap::new();
        for (node, index) in program.nodes.iter().zip(0..) {
            let parent = NodeId(index);
            if let Act::Fork { branches, .. } = &node.act {
                parents.extend(branches.iter().map(|branch| (*branch, parent)));
            }
            for first in lists(&node.act) {
                let mut member = Some(first);
                while let Some(id) = member {
                    parents.insert(id, parent);
                    member = program.node(id).next;
                }
            }
        }
        let mut order = Vec::new();
        program.in_order(program.entry, &mut order);
        Walk { program, parents, order, forks: BTreeMap::new(), seen: BTreeSet::new(), found: BTreeSet::new() }
    }

    /// A node is due, or a branch of it comes home, which is behind all of it.
    fn hand(&mut self, from: &Location, to: &Location, id: NodeId, home: bool) {
        if from != to {
            let name = &self.program.node(id).name;
            let what = if home { format!("join {name}") } else { name.to_string() };
            let of = |other: &NodeId| *other == id || (home && self.is_below(other, id));
            let rank = self.order.iter().rposition(of).unwrap_or_default() * 2 + usize::from(home);
            self.found.insert(HandOver { rank, from: from.clone(), to: to.clone(), what });
        }
    }

    fn hand_end(&mut self, from: &Location) {
        if !from.is_engine() {
            let (from, to) = (from.clone(), Location::Engine);
            self.found.insert(HandOver { rank: usize::MAX, from, to, what: "end".into() });
        }
    }

    fn is_below(&self, node: &NodeId, above: NodeId) -> bool {
        std::iter::successors(self.parents.get(node), |parent| self.parents.get(parent)).any(|parent| *parent == above)
    }

    /// A token at a location comes to a node.
    fn enter(&mut self, id: NodeId, from: Location) {
        if !self.seen.insert((id, from.clone(), false)) {
            return;
        }
        let node = self.program.node(id);
        let at = node.location.clone().unwrap_or_else(|| from.clone());
        self.hand(&from, &at, id, false);
        let inner = lists(&node.act);
        if node.condition.is_some() {
            self.follow(id, Flow::Continue, at.clone());
        }
        match &node.act {
            Act::Fork { branches, .. } => {
                self.forks.entry(id).or_default().insert(at.clone());
                branches.iter().for_each(|branch| self.enter(*branch, at.clone()));
            }
            Act::Switch(cases) => {
                cases.iter().for_each(|(_, flow)| self.follow(id, *flow, at.clone()));
                self.follow(id, node.flow, at);
            }
            Act::Try(attempt) => {
                // An error may come up wherever its tasks are, and is dealt with there.
                let (first, handler) = (attempt.first, attempt.handler);
                let (retried, after) = (attempt.retry.is_some(), attempt.flow.unwrap_or(node.flow));
                match first {
                    Some(first) => self.enter(first, at.clone()),
                    None => self.follow(id, node.flow, at.clone()),
                }
                for place in self.within(id) {
                    match handler {
                        Some(Some(handler)) => self.enter(handler, place.clone()),
                        _ => self.follow(id, after, place.clone()),
                    }
                    if let (true, Some(first)) = (retried, first) {
                        self.enter(first, place);
                    }
                }
            }
            Act::For(_) | Act::Listen(_) => {
                // There may be nothing to do it for; and it is done again from where it ended.
                self.follow(id, node.flow, at.clone());
                let places: Vec<Location> = std::iter::once(at).chain(self.within(id)).collect();
                for first in inner {
                    places.iter().for_each(|place| self.enter(first, place.clone()));
                }
            }
            _ if inner.is_empty() => self.follow(id, node.flow, at),
            _ => inner.into_iter().for_each(|first| self.enter(first, at.clone())),
        }
    }

    /// Locations of the tasks within a node.
    fn within(&self, id: NodeId) -> BTreeSet<Location> {
        let nodes = self.parents.keys().filter(|node| self.is_below(node, id));
        nodes.filter_map(|node| self.program.node(*node).location.clone()).collect()
    }

    fn follow(&mut self, id: NodeId, flow: Flow, at: Location) {
        match (flow, self.program.node(id).next) {
            (Flow::Goto(to), _) => self.enter(to, at),
            (Flow::Continue, Some(next)) => self.enter(next, at),
            (Flow::End, _) => self.end(id, at),
            _ => match self.parents.get(&id) {
                Some(parent) => self.leave(*parent, at),
                None => self.hand_end(&at),
            },
        }
    }

    /// The workflow ends: a branch tells its join so, and that the next one.
    fn end(&mut self, id: NodeId, at: Location) {
        let mut above = self.parents.get(&id).copied();
        while let Some(parent) = above {
            if let Some(splits) = self.forks.get(&parent).cloned() {
                for split in splits {
                    self.hand(&at, &split, parent, true);
                    self.end(parent, split);
                }
                return;
            }
            above = self.parents.get(&parent).copied();
        }
        self.hand_end(&at);
    }

    /// A list within a node has come to its end.
    fn leave(&mut self, id: NodeId, at: Location) {
        if !self.seen.insert((id, at.clone(), true)) {
            return;
        }
        let node = self.program.node(id);
        match self.forks.get(&id).cloned() {
            Some(splits) => {
                for split in splits {
                    self.hand(&at, &split, id, true);
                    self.follow(id, node.flow, split);
                }
            }
            None => self.follow(id, node.flow, at),
        }
    }
}
