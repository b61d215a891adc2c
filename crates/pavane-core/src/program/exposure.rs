//! Which participant may see which data, and to whom a rollback may go.
//!
//! A token brings all it holds to everybody it comes to: its data, the inputs of the tasks it is in, the context, the
//! instance's input, and the inputs and outputs of tasks that may have to be undone. What it holds is followed from task to
//! task: an `output.as` that does not read `$input` drops what was before. Expressions count as reading all of what they
//! name, so that "may see" errs on the side of seeing.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::ways::{Place, Point, Step, Ways, node};
use super::*;

/// Data, and who may see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exposure {
    /// `input`, `output of PATH`, or `$context.KEY` (`$context` where its keys cannot be told).
    pub data: String,
    /// Participants other than the engine, which records everything, each with the reason.
    pub seen_by: BTreeMap<Location, Reason>,
}

/// Why a participant may see data; the first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// It makes the call that gives it, or puts it into `$context`.
    Makes,
    /// It is in the data of a task that begins or ends there, or that is around one.
    Data,
    /// It is in `$context` when work comes there.
    Context,
    /// It is kept in case it has to be undone.
    Log,
    /// A rollback brings it.
    Undo,
    /// Each message holds it.
    Message,
}

impl Reason {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Makes => "makes",
            Reason::Data => "data",
            Reason::Context => "context",
            Reason::Log => "log",
            Reason::Undo => "undo",
            Reason::Message => "message",
        }
    }
}

/// Something a token may hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Input,
    Output(NodeId),
    Context(String),
}

/// What a token may hold when it comes to a point.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    data: BTreeSet<Item>,
    context: BTreeSet<Item>,
    /// What is kept for the tasks that may have to be undone.
    log: BTreeSet<Item>,
    undo: BTreeSet<NodeId>,
}

impl Held {
    /// Whether something is new.
    fn add(&mut self, other: &Held) -> bool {
        let before = (self.data.len(), self.context.len(), self.log.len(), self.undo.len());
        self.data.extend(other.data.iter().cloned());
        self.context.extend(other.context.iter().cloned());
        self.log.extend(other.log.iter().cloned());
        self.undo.extend(other.undo.iter().copied());
        before != (self.data.len(), self.context.len(), self.log.len(), self.undo.len())
    }
}

/// Data by participants, and the pairs of locations that a rollback may go from and to.
pub(super) fn exposure(ways: &Ways<'_>) -> (Vec<Exposure>, BTreeSet<(Location, Location)>) {
    let held = follow(ways);
    let mut seen: BTreeMap<Item, BTreeMap<Location, Reason>> = BTreeMap::new();
    let mut see = |item: &Item, at: &Location, reason: Reason| {
        if !at.is_engine() {
            let known = seen.entry(item.clone()).or_default().entry(at.clone()).or_insert(reason);
            *known = (*known).min(reason);
        }
    };
    let mut rollbacks = BTreeSet::new();
    for place in &ways.places {
        let (point, at) = (place.0, &place.1);
        let Some(id) = node(point) else { continue };
        see(&Item::Input, at, Reason::Message);
        let own = held.get(&point).cloned().unwrap_or_default();
        let around = ways.above(id).filter_map(|above| held.get(&Point::Enter(above)));
        let data: BTreeSet<&Item> = own.data.iter().chain(around.flat_map(|held| &held.data)).collect();
        data.iter().for_each(|item| see(item, at, Reason::Data));
        own.context.iter().for_each(|item| see(item, at, Reason::Context));
        own.log.iter().for_each(|item| see(item, at, Reason::Log));
        if matches!(point, Point::Enter(_)) && makes(&ways.program.node(id).act) {
            see(&Item::Output(id), at, Reason::Makes);
        }
        if matches!(point, Point::Leave(_)) {
            let keys = keys(&ways.program.node(id).source).into_iter().map(Item::Context);
            keys.for_each(|item| see(&item, at, Reason::Makes));
        }
        // An error here takes all of that to whoever has something to undo.
        for undone in own.undo.iter().filter(|_| fails(ways, place)) {
            for to in undoers(ways.program, *undone) {
                if to != *at {
                    rollbacks.insert((at.clone(), to.clone()));
                    data.iter().copied().chain(&own.context).chain(&own.log).for_each(|i| see(i, &to, Reason::Undo));
                }
            }
        }
    }
    let name = |item: &Item| match item {
        Item::Input => "input".to_owned(),
        Item::Output(id) => format!("output of {}", ways.path(*id)),
        Item::Context(key) if key.is_empty() => "$context".to_owned(),
        Item::Context(key) => format!("$context.{key}"),
    };
    let rank = |item: &Item| match item {
        Item::Output(id) => ways.order.iter().position(|other| other == id).unwrap_or(usize::MAX),
        _ => 0,
    };
    let mut rows: Vec<(Item, BTreeMap<Location, Reason>)> = seen.into_iter().collect();
    rows.sort_by_key(|(item, _)| (matches!(item, Item::Context(_)), rank(item)));
    let rows = rows.into_iter().map(|(item, seen_by)| Exposure { data: name(&item), seen_by });
    (rows.collect(), rollbacks)
}

fn follow(ways: &Ways<'_>) -> BTreeMap<Point, Held> {
    let mut next: BTreeMap<Point, BTreeSet<Point>> = BTreeMap::new();
    for ((from, _), _, (to, _)) in &ways.edges {
        next.entry(*from).or_default().insert(*to);
    }
    let input = Held { data: [Item::Input].into(), context: [Item::Input].into(), ..Held::default() };
    let mut held = BTreeMap::from([(Point::Start, input)]);
    let mut open = vec![Point::Start];
    while let Some(point) = open.pop() {
        let after = after(ways.program, &held, point);
        for to in next.get(&point).into_iter().flatten() {
            let new = !held.contains_key(to);
            if held.entry(*to).or_default().add(&after) || new {
                open.push(*to);
                // What ends a task depends on what began it.
                if let Point::Enter(id) = to {
                    open.extend([Point::Leave(*id)].into_iter().filter(|leave| held.contains_key(leave)));
                }
            }
        }
    }
    held
}

/// What a token holds when a point is dealt with.
fn after(program: &Program, held: &BTreeMap<Point, Held>, point: Point) -> Held {
    let mut now = held.get(&point).cloned().unwrap_or_default();
    match point {
        Point::Enter(id) => {
            let node = program.node(id);
            if let Some(from) = &node.input.transform {
                now.data = read(from, [&now.data, &now.context]);
            }
            match &node.act {
                act if makes(act) => now.data = [Item::Output(id)].into(),
                Act::Set(template) => now.data = read(template, [&now.data, &now.context]),
                _ => {}
            }
            now
        }
        Point::Leave(id) | Point::Handled(id) => {
            let node = program.node(id);
            let began = held.get(&Point::Enter(id)).map(|held| held.data.clone()).unwrap_or_default();
            let mut result = now.data.clone();
            if let Some(output) = &node.output.transform {
                let input = output.names("input").then_some(&began);
                result = read(output, [&now.data, &now.context]);
                if output.as_literal().is_none() {
                    result.extend(now.data.iter().cloned());
                    result.extend(input.into_iter().flatten().cloned());
                }
            }
            now.data = result;
            if let Some(export) = &node.export.transform {
                // What was there may be kept, and what is put there is known by its keys from now on.
                now.context.extend(keys(&node.source).into_iter().map(Item::Context));
                if export.as_literal().is_none() {
                    now.context.extend(now.data.iter().cloned());
                    now.context.extend(export.names("input").then_some(began.clone()).into_iter().flatten());
                }
            }
            if node.undo.is_some() {
                now.log.extend(now.data.iter().chain(&began).cloned());
                now.undo.insert(id);
            }
            now
        }
        _ => now,
    }
}

/// What a template may give of what it reads.
fn read(template: &Template, [data, context]: [&BTreeSet<Item>; 2]) -> BTreeSet<Item> {
    if template.as_literal().is_some() {
        return BTreeSet::new();
    }
    let mut read = data.clone();
    if template.names("context") {
        read.extend(context.iter().cloned());
    }
    if template.names("workflow") {
        read.insert(Item::Input);
    }
    read
}

/// Whether a task has an output that others give it.
fn makes(act: &Act) -> bool {
    matches!(act, Act::Http(_) | Act::OpenApi(_) | Act::Function { .. } | Act::Listen(_) | Act::Run(_))
}

/// Whether an error at a place may lead to a rollback: it goes home, or is caught.
fn fails(ways: &Ways<'_>, place: &Place) -> bool {
    let errors = ways.edges.range((place.clone(), Step::On, (Point::Start, Location::Engine))..);
    // A branch tells its join first, unless it is in a race.
    let here = |point: Point| match point {
        Point::Join(id) => matches!(ways.program.node(id).act, Act::Fork { compete: true, .. }),
        _ => true,
    };
    errors.take_while(|(from, ..)| from == place).any(|(_, step, (to, _))| *step == Step::Error && here(*to))
}

fn undoers(program: &Program, id: NodeId) -> BTreeSet<Location> {
    let node = program.node(id);
    let function = node.undo.as_ref().and_then(|undo| program.node(undo.function).location.clone());
    node.location.iter().cloned().chain(function).collect()
}

/// The keys that an `export.as` puts into the context; an empty one where they cannot be told.
pub(super) fn keys(source: &Value) -> Vec<String> {
    let Some(export) = source.get("export").and_then(|export| export.get("as")) else { return Vec::new() };
    if let Some(entries) = export.entries() {
        return entries.into_iter().map(|(key, _)| key).collect();
    }
    let text = export.as_str().unwrap_or_default().trim();
    let text = text.strip_prefix("${").and_then(|text| text.strip_suffix('}')).unwrap_or(text).trim();
    let object =
        text.strip_prefix("$context").map_or(text, |rest| rest.trim_start().trim_start_matches('+').trim_start());
    constructed(object).unwrap_or_else(|| vec![String::new()])
}

/// The keys of an object constructor whose keys are plain names; none for any other text.
fn constructed(text: &str) -> Option<Vec<String>> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    let (mut depth, mut quoted, mut start, mut parts) = (0_usize, false, 0, Vec::new());
    for (at, c) in inner.char_indices() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    let plain = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let keys = parts.into_iter().map(|part| part.split(':').next().unwrap_or(part).trim().trim_matches('"').to_owned());
    keys.map(|key| plain(&key).then_some(key)).collect()
}
