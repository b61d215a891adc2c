//! Every way a token can take through a placed program: points of tasks, and the locations they are met at.
//!
//! Read off the graph alone; nothing runs. What cannot be told without data (which case of a `switch`, whether an error is
//! caught) counts as possible. Explanations, slices and exposure are all read off the same ways.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A moment in the life of a task that somebody has to deal with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Point {
    /// The workflow begins: its own input.
    Start,
    /// It begins: `if`, `input`, then what it does.
    Enter(NodeId),
    /// What it did is over: `output`, `export`, `then`.
    Leave(NodeId),
    /// Another iteration, if there is one.
    Again(NodeId),
    /// An error has come up in the list of a `try`.
    Catch(NodeId),
    /// A `catch` is done with it.
    Handled(NodeId),
    /// A branch of a fork has come home.
    Join(NodeId),
    /// A branch has come home because the workflow is to end.
    Ended(NodeId),
    /// The workflow ends.
    End,
}

/// A point and where it is met.
pub(super) type Place = (Point, Location);

/// How a token gets from one place to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// The work goes on.
    On,
    /// An error goes up.
    Error,
}

#[derive(Debug)]
pub(super) struct Ways<'p> {
    pub program: &'p Program,
    /// The node that holds the list a node is in.
    parents: BTreeMap<NodeId, NodeId>,
    /// Nodes in a `catch.do`.
    handlers: BTreeSet<NodeId>,
    /// Nodes in the order of the document.
    pub order: Vec<NodeId>,
    /// Where each fork may be split, which is where it is joined.
    splits: BTreeMap<NodeId, BTreeSet<Location>>,
    pub edges: BTreeSet<(Place, Step, Place)>,
    /// All places, each once.
    pub places: BTreeSet<Place>,
}

impl<'p> Ways<'p> {
    pub fn of(program: &'p Program) -> Ways<'p> {
        let mut parents = BTreeMap::new();
        let mut handlers = BTreeSet::new();
        for (node, index) in program.nodes.iter().zip(0..) {
            let parent = NodeId(index);
            if let Act::Fork { branches, .. } = &node.act {
                parents.extend(branches.iter().map(|branch| (*branch, parent)));
            }
            for (first, handles) in lists(&node.act) {
                let members = std::iter::successors(Some(first), |id| program.node(*id).next);
                for id in members {
                    parents.insert(id, parent);
                    if handles {
                        handlers.insert(id);
                    }
                }
            }
        }
        let mut order = Vec::new();
        program.in_order(program.entry, &mut order);
        let (splits, edges, places) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let mut ways = Ways { program, parents, handlers, order, splits, edges, places };
        ways.walk();
        ways
    }

    fn walk(&mut self) {
        let mut open = vec![(Point::Start, Location::Engine)];
        let mut seen: BTreeSet<Place> = open.iter().cloned().collect();
        while let Some(place) = open.pop() {
            if let (Point::Enter(id), at) = &place
                && matches!(self.program.node(*id).act, Act::Fork { .. })
                && self.splits.entry(*id).or_default().insert(at.clone())
            {
                // What was walked in its branches has another join to come home to.
                open.extend(
                    seen.iter().filter(|(point, _)| node(*point).is_some_and(|n| self.is_below(n, *id))).cloned(),
                );
            }
            for (step, next) in self.next(&place) {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
                self.edges.insert((place.clone(), step, next));
            }
        }
        self.places = seen;
    }

    fn next(&self, (point, at): &Place) -> Vec<(Step, Place)> {
        let on = |places: Vec<Place>| places.into_iter().map(|place| (Step::On, place)).collect::<Vec<_>>();
        let mut next = match *point {
            Point::Start => on(vec![match self.program.entry {
                Some(entry) => self.entry(entry, at),
                None => (Point::End, Location::Engine),
            }]),
            Point::Enter(id) => on(self.entered(id, at)),
            Point::Leave(id) => match &self.program.node(id).act {
                Act::Switch(cases) => {
                    let flows = cases.iter().map(|(_, flow)| *flow).chain([self.program.node(id).flow]);
                    on(flows.flat_map(|flow| self.follow(id, flow, at)).collect())
                }
                _ => on(self.follow(id, self.program.node(id).flow, at)),
            },
            Point::Again(id) => {
                let first = lists(&self.program.node(id).act).into_iter().next();
                let first = first.map(|(first, _)| self.entry(first, at));
                on(first.into_iter().chain([(Point::Leave(id), at.clone())]).collect())
            }
            Point::Join(id) => on(vec![(Point::Leave(id), at.clone())]),
            Point::Ended(id) => on(self.end(id, at)),
            Point::Handled(id) => {
                let node = self.program.node(id);
                let flow = match &node.act {
                    Act::Try(attempt) => attempt.flow.unwrap_or(node.flow),
                    _ => node.flow,
                };
                on(self.follow(id, flow, at))
            }
            Point::Catch(id) => self.caught(id, at),
            Point::End => Vec::new(),
        };
        if let Some(id) = node(*point).filter(|_| !matches!(point, Point::Catch(_))) {
            next.extend(self.failing(id, at).into_iter().map(|place| (Step::Error, place)));
        }
        next
    }

    fn entry(&self, id: NodeId, from: &Location) -> Place {
        (Point::Enter(id), self.program.node(id).location.clone().unwrap_or_else(|| from.clone()))
    }

    fn entered(&self, id: NodeId, at: &Location) -> Vec<Place> {
        let node = self.program.node(id);
        let mut next = match &node.act {
            Act::Fork { branches, .. } if branches.is_empty() => vec![(Point::Leave(id), at.clone())],
            Act::Fork { branches, .. } => branches.iter().map(|branch| self.entry(*branch, at)).collect(),
            // Nothing but its error goes on.
            Act::Raise(_) => Vec::new(),
            Act::For(_) => vec![(Point::Again(id), at.clone())],
            Act::Listen(listen) if listen.foreach.is_some() => vec![(Point::Again(id), at.clone())],
            Act::Do { first: Some(first) } => vec![self.entry(*first, at)],
            Act::Try(attempt) => vec![match attempt.first {
                Some(first) => self.entry(first, at),
                None => (Point::Leave(id), at.clone()),
            }],
            _ => vec![(Point::Leave(id), at.clone())],
        };
        if node.condition.is_some() {
            next.extend(self.follow(id, Flow::Continue, at));
        }
        next
    }

    fn follow(&self, id: NodeId, flow: Flow, at: &Location) -> Vec<Place> {
        match (flow, self.program.node(id).next) {
            (Flow::Goto(to), _) => vec![self.entry(to, at)],
            (Flow::Continue, Some(next)) => vec![self.entry(next, at)],
            (Flow::End, _) => self.end(id, at),
            _ => self.list_over(id, at),
        }
    }

    /// The list a node is in has come to its end.
    fn list_over(&self, id: NodeId, at: &Location) -> Vec<Place> {
        let Some(parent) = self.parents.get(&id).copied() else { return vec![(Point::End, Location::Engine)] };
        match &self.program.node(parent).act {
            Act::Fork { .. } => self.homes(parent).map(|split| (Point::Join(parent), split)).collect(),
            Act::For(_) | Act::Listen(_) => vec![(Point::Again(parent), at.clone())],
            Act::Try(_) if self.handlers.contains(&id) => vec![(Point::Handled(parent), at.clone())],
            _ => vec![(Point::Leave(parent), at.clone())],
        }
    }

    fn homes(&self, fork: NodeId) -> impl Iterator<Item = Location> + '_ {
        self.splits.get(&fork).into_iter().flatten().cloned()
    }

    /// The workflow ends: a branch tells its join so, and that the next one.
    fn end(&self, id: NodeId, _at: &Location) -> Vec<Place> {
        match self.above(id).find(|parent| matches!(self.program.node(*parent).act, Act::Fork { .. })) {
            Some(fork) => self.homes(fork).map(|split| (Point::Ended(fork), split)).collect(),
            None => vec![(Point::End, Location::Engine)],
        }
    }

    /// Where an error goes that comes up in a task, or leaves it.
    fn failing(&self, id: NodeId, at: &Location) -> Vec<Place> {
        let mut below = id;
        for parent in self.above(id) {
            match &self.program.node(parent).act {
                Act::Fork { .. } => return self.homes(parent).map(|split| (Point::Join(parent), split)).collect(),
                Act::Try(_) if !self.handlers.contains(&below) => return vec![(Point::Catch(parent), at.clone())],
                _ => below = parent,
            }
        }
        vec![(Point::End, Location::Engine)]
    }

    fn caught(&self, id: NodeId, at: &Location) -> Vec<(Step, Place)> {
        let Act::Try(attempt) = &self.program.node(id).act else { return Vec::new() };
        let passes = !attempt.errors.is_empty() || attempt.when.is_some() || attempt.except_when.is_some();
        let rethrown = attempt.retry.is_some() && attempt.handler.is_none();
        let mut next = Vec::new();
        if passes || rethrown {
            next.extend(self.failing(id, at).into_iter().map(|place| (Step::Error, place)));
        }
        // What is undone first brings the token to whoever undoes it, and it goes on from there.
        for place in self.undone_at(id, at) {
            match (attempt.handler, &attempt.retry) {
                (Some(Some(first)), _) => next.push((Step::On, self.entry(first, &place))),
                (None, Some(_)) => {}
                _ => next.push((Step::On, (Point::Handled(id), place.clone()))),
            }
            if let (Some(_), Some(first)) = (&attempt.retry, attempt.first) {
                next.push((Step::On, self.entry(first, &place)));
            }
        }
        next
    }

    /// Where a token can be after a rollback of what is within a node.
    fn undone_at(&self, id: NodeId, at: &Location) -> BTreeSet<Location> {
        let node = self.program.node(id);
        let within = self.order.iter().filter(|other| !node.keep_effects && self.is_below(**other, id));
        let undo =
            within.filter_map(|other| Some((self.program.node(*other), self.program.node(*other).undo.as_ref()?)));
        let places = undo.filter_map(|(node, undo)| {
            self.program.node(undo.function).location.clone().or_else(|| node.location.clone())
        });
        places.chain([at.clone()]).collect()
    }

    /// The first task, in the order of the document, from which no way leads to the end or to anything that takes time.
    pub fn spinning(&self) -> Option<NodeId> {
        let takes_time = |point: Point| match point {
            Point::End => true,
            Point::Enter(id) => matches!(
                self.program.node(id).act,
                Act::Http(_)
                    | Act::OpenApi(_)
                    | Act::Function { .. }
                    | Act::Wait(_)
                    | Act::Emit(_)
                    | Act::Listen(_)
                    | Act::Run(_)
                    | Act::Raise(_)
            ),
            _ => false,
        };
        let mut before: BTreeMap<Point, Vec<Point>> = BTreeMap::new();
        for ((from, _), _, (to, _)) in self.edges.iter().filter(|(_, step, _)| *step == Step::On) {
            before.entry(*to).or_default().push(*from);
        }
        let mut open: Vec<Point> =
            self.places.iter().map(|(point, _)| *point).filter(|point| takes_time(*point)).collect();
        let mut good: BTreeSet<Point> = open.iter().copied().collect();
        while let Some(point) = open.pop() {
            open.extend(before.get(&point).into_iter().flatten().copied().filter(|from| good.insert(*from)));
        }
        let entered: BTreeSet<NodeId> = self
            .places
            .iter()
            .filter_map(|(point, _)| match point {
                Point::Enter(id) if !good.contains(point) => Some(*id),
                _ => None,
            })
            .collect();
        self.order.iter().copied().find(|id| entered.contains(id))
    }

    /// The nodes around a node, from the inside.
    pub fn above(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        std::iter::successors(self.parents.get(&id).copied(), |parent| self.parents.get(parent).copied())
    }

    pub fn is_below(&self, id: NodeId, above: NodeId) -> bool {
        self.above(id).any(|parent| parent == above)
    }

    /// What a hand-over to a point is called, and its place in the order of the document.
    pub fn name(&self, point: Point) -> (String, usize) {
        let rank = |of: &dyn Fn(NodeId) -> bool| self.order.iter().rposition(|other| of(*other)).unwrap_or_default();
        match point {
            Point::Join(id) | Point::Ended(id) => {
                let last = rank(&|other| other == id || self.is_below(other, id));
                (format!("join {}", self.program.node(id).name), last * 2 + 1)
            }
            Point::Start => ("start".into(), 0),
            Point::End => ("end".into(), usize::MAX),
            Point::Enter(id) | Point::Leave(id) | Point::Again(id) | Point::Catch(id) | Point::Handled(id) => {
                (self.program.node(id).name.to_string(), rank(&|other| other == id) * 2)
            }
        }
    }

    /// A name of a task that holds as long as it and what is around it are called so: its JSON pointer without the
    /// positions in lists, such as `/do/pay/try/charge`.
    pub fn path(&self, id: NodeId) -> String {
        let reference = &*self.program.node(id).reference;
        let around = self.parents.get(&id);
        let start = around.map_or("", |parent| &*self.program.node(*parent).reference);
        let rest = reference.strip_prefix(start).unwrap_or(reference);
        // A list, the position in it, and the name; a function has no position.
        let mut parts: Vec<&str> = rest.split('/').collect();
        if rest.starts_with("/use/") && around.is_none() {
            return reference.to_owned();
        }
        if parts.len() >= 2 {
            parts.remove(parts.len() - 2);
        }
        around.map(|parent| self.path(*parent)).unwrap_or_default() + &parts.join("/")
    }
}

/// The task a point is about.
pub(super) fn node(point: Point) -> Option<NodeId> {
    match point {
        Point::Enter(id)
        | Point::Leave(id)
        | Point::Again(id)
        | Point::Catch(id)
        | Point::Handled(id)
        | Point::Join(id)
        | Point::Ended(id) => Some(id),
        Point::Start | Point::End => None,
    }
}

/// The first nodes of the lists within a node, but for the branches of a fork; and whether a list handles errors.
pub(super) fn lists(act: &Act) -> Vec<(NodeId, bool)> {
    match act {
        Act::Do { first } => first.iter().map(|first| (*first, false)).collect(),
        Act::For(each) => each.first.iter().map(|first| (*first, false)).collect(),
        Act::Try(attempt) => {
            let handler = attempt.handler.flatten().map(|first| (first, true));
            attempt.first.map(|first| (first, false)).into_iter().chain(handler).collect()
        }
        Act::Listen(listen) => {
            listen.foreach.iter().filter_map(|foreach| foreach.first).map(|first| (first, false)).collect()
        }
        _ => Vec::new(),
    }
}

impl Program {
    /// A list of tasks and what is in them.
    pub(super) fn in_order(&self, first: Option<NodeId>, order: &mut Vec<NodeId>) {
        let mut next = first;
        while let Some(id) = next {
            order.push(id);
            let node = self.node(id);
            if let Act::Fork { branches, .. } = &node.act {
                branches.iter().for_each(|branch| self.in_order(Some(*branch), order));
            }
            lists(&node.act).into_iter().for_each(|(first, _)| self.in_order(Some(first), order));
            next = node.next;
        }
    }
}
