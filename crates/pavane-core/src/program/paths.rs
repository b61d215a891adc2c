//! What single ways through a program take: the straight one, each outcome of a `switch`, each step that fails.
//!
//! One thing at a time departs from the straight way, so that there are as many ways as outcomes and steps, and not all
//! combinations of them. Every `if` holds, every loop is taken once, and what runs beside a failing branch is done before it.

use std::collections::BTreeSet;

use serde::Serialize;

use super::ways::lists;
use super::*;

/// Ways listed, at most: a page that people read to its end. The number left out is told.
const MAX_PATHS: usize = 200;

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

/// A way through the document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathCost {
    /// What is special about it: `straight`, `SWITCH: CASE`, `TASK fails`, or two of them.
    pub way: String,
    /// What it takes, with what it undoes.
    #[serde(flatten)]
    pub cost: Cost,
    /// How many compensations are among the calls.
    pub undone: u32,
    /// How it ends: `completed` or `faulted`.
    pub ends: &'static str,
}

impl Program {
    /// Its ways, and how many more there are.
    pub(super) fn paths(&self) -> (Vec<PathCost>, usize) {
        let mut cases = vec![None];
        for (node, id) in self.nodes.iter().zip((0..).map(NodeId)) {
            if let Act::Switch(all) = &node.act {
                cases.extend((0..all.len()).map(|case| Some((id, case))));
            }
        }
        let (mut paths, mut left_out) = (Vec::new(), 0);
        let mut add = |path: Option<PathCost>| match path {
            Some(path) if paths.len() < MAX_PATHS => paths.push(path),
            Some(_) => left_out += 1,
            None => {}
        };
        let mut failed = BTreeSet::new();
        for case in cases {
            let mut way = Way::new(self, case, None);
            let straight = way.finish();
            // An outcome that this way does not come by is none of it.
            if case.is_some() && way.case.is_some() {
                continue;
            }
            let steps = std::mem::take(&mut way.steps);
            add(Some(straight));
            for step in steps {
                if failed.insert(step) {
                    add(Some(Way::new(self, case, Some(step)).finish()));
                }
            }
        }
        (paths, left_out)
    }
}

/// How a list ends.
enum Over {
    Done,
    /// The workflow is to end.
    End,
    /// An error leaves it.
    Failed,
}

/// Something to undo.
#[derive(Clone)]
enum Undoing {
    /// A task: who keeps it, if it is placed, and where its function runs.
    Task(Option<Location>, Option<Location>),
    Beside(Vec<Vec<Undoing>>),
}

struct Way<'p> {
    program: &'p Program,
    at: Location,
    cost: Cost,
    undone: u32,
    log: Vec<Undoing>,
    /// The outcome that is still to be taken.
    case: Option<(NodeId, usize)>,
    fails: Option<NodeId>,
    caught: bool,
    /// Calls made, in order.
    steps: Vec<NodeId>,
    name: String,
}

impl<'p> Way<'p> {
    fn new(program: &'p Program, case: Option<(NodeId, usize)>, fails: Option<NodeId>) -> Way<'p> {
        let mut parts = Vec::new();
        if let Some((id, case)) = case {
            let node = program.node(id);
            let named = node.source.get("switch").and_then(|cases| cases.as_array()?.get(case)?.entries());
            let named = named.and_then(|entries| entries.into_iter().next()).map(|(name, _)| name);
            parts.push(format!("{}: {}", node.name, named.unwrap_or_else(|| case.to_string())));
        }
        if let Some(id) = fails {
            parts.push(format!("{} fails", program.node(id).name));
        }
        let name = if parts.is_empty() { "straight".to_owned() } else { parts.join(", ") };
        let (at, cost, log, steps) = (Location::Engine, Cost::default(), Vec::new(), Vec::new());
        Way { program, at, cost, undone: 0, log, case, fails, caught: false, steps, name }
    }

    fn finish(&mut self) -> PathCost {
        let over = self.list(self.program.entry);
        let ends = match over {
            Over::Done | Over::End => "completed",
            Over::Failed => {
                self.roll_back(0);
                "faulted"
            }
        };
        self.go(Some(&Location::Engine));
        let caught = if self.caught { ", caught" } else { "" };
        PathCost { way: format!("{}{caught}", self.name), cost: self.cost, undone: self.undone, ends }
    }

    /// The token goes where it has work.
    fn go(&mut self, to: Option<&Location>) {
        if let Some(to) = to.filter(|to| **to != self.at) {
            self.at = to.clone();
            self.cost.messages += 1;
            self.cost.hops += 1;
        }
    }

    fn call(&mut self) {
        self.cost.calls += 1;
        self.cost.sequence += 1;
    }

    fn list(&mut self, first: Option<NodeId>) -> Over {
        let mut next = first;
        while let Some(id) = next {
            let node = self.program.node(id);
            self.go(node.location.as_ref());
            let (over, flow) = self.act(id, node);
            match over {
                Over::Done => {}
                other => return other,
            }
            if let Some(undo) = &node.undo {
                let function = self.program.node(undo.function).location.clone();
                self.log.push(Undoing::Task(node.location.clone(), function));
            }
            next = match flow {
                Flow::Continue => node.next,
                // Backwards only where an outcome says so, which is taken once.
                Flow::Goto(to) if to > id || matches!(node.act, Act::Switch(_)) => Some(to),
                Flow::Goto(_) | Flow::Exit => None,
                Flow::End => return Over::End,
            };
        }
        Over::Done
    }

    fn act(&mut self, id: NodeId, node: &'p Node) -> (Over, Flow) {
        let mut flow = node.flow;
        let over = match &node.act {
            Act::Http(_) | Act::OpenApi(_) | Act::Function { .. } => {
                self.call();
                self.steps.push(id);
                if self.fails == Some(id) { Over::Failed } else { Over::Done }
            }
            Act::Raise(_) => Over::Failed,
            Act::Switch(cases) => {
                if let Some((_, case)) = self.case.take_if(|(switch, _)| *switch == id) {
                    flow = cases.get(case).map_or(flow, |(_, flow)| *flow);
                } else if matches!(flow, Flow::Goto(to) if to <= id) {
                    flow = Flow::Exit;
                }
                Over::Done
            }
            Act::Fork { branches, .. } => self.fork(branches),
            Act::Try(attempt) => {
                let (over, caught) = self.attempt(attempt, node.keep_effects);
                if caught {
                    flow = attempt.flow.unwrap_or(flow);
                }
                over
            }
            act => self.list(lists(act).into_iter().next().map(|(first, _)| first)),
        };
        (over, flow)
    }

    fn attempt(&mut self, attempt: &TryCode, keep_effects: bool) -> (Over, bool) {
        let mark = self.log.len();
        let over = self.list(attempt.first);
        let rethrown = attempt.retry.is_some() && attempt.handler.is_none();
        if !matches!(over, Over::Failed) || rethrown {
            return (over, false);
        }
        self.caught = true;
        if !keep_effects {
            self.roll_back(mark);
        }
        (self.list(attempt.handler.flatten()), true)
    }

    fn fork(&mut self, branches: &[NodeId]) -> Over {
        let (split, before, log) = (self.at.clone(), self.cost, std::mem::take(&mut self.log));
        let (mut longest, mut logs, mut over) = (before, Vec::new(), Over::Done);
        for branch in branches {
            self.begin_side(&split, before);
            match self.list(Some(*branch)) {
                Over::Failed => over = Over::Failed,
                Over::End if matches!(over, Over::Done) => over = Over::End,
                _ => {}
            }
            self.end_side(&split, &mut longest);
            logs.push(std::mem::take(&mut self.log));
        }
        self.at = split;
        self.cost = Cost { hops: longest.hops, sequence: longest.sequence, ..self.cost };
        self.log = log;
        if logs.iter().any(|log| !log.is_empty()) {
            self.log.push(Undoing::Beside(logs));
        }
        over
    }

    /// One of several that run side by side: what follows one another begins anew for each.
    fn begin_side(&mut self, split: &Location, before: Cost) {
        self.at = split.clone();
        self.cost = Cost { hops: before.hops, sequence: before.sequence, ..self.cost };
    }

    fn end_side(&mut self, split: &Location, longest: &mut Cost) {
        self.go(Some(split));
        longest.hops = longest.hops.max(self.cost.hops);
        longest.sequence = longest.sequence.max(self.cost.sequence);
    }

    fn roll_back(&mut self, mark: usize) {
        let log = self.log.split_off(mark.min(self.log.len()));
        self.undo(log);
    }

    fn undo(&mut self, log: Vec<Undoing>) {
        for entry in log.into_iter().rev() {
            match entry {
                Undoing::Task(owner, function) => {
                    self.go(owner.as_ref());
                    self.go(function.as_ref());
                    self.call();
                    self.undone += 1;
                }
                Undoing::Beside(logs) => {
                    let (split, before) = (self.at.clone(), self.cost);
                    let mut longest = before;
                    for log in logs {
                        self.begin_side(&split, before);
                        self.undo(log);
                        self.end_side(&split, &mut longest);
                    }
                    self.at = split;
                    self.cost = Cost { hops: longest.hops, sequence: longest.sequence, ..self.cost };
                }
            }
        }
    }
}
