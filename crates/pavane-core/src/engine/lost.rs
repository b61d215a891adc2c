//! A participant's store that was lost: how far one instance at it is known, and what an operator makes of it.
//!
//! What the participant did was copied to the home with some delay, so that its part can be brought back as it was last
//! seen. Whether it went further is told by the others: by numbers they took from it, and by messages to it that none of
//! them has any more. Where nothing speaks against it, the part goes on, with its calls in flight as unknown outcomes.
//! Otherwise a token could be in two places at once: such an instance is ended by its home, and what its part may have
//! left behind is named. Nothing here asks a service for anything, and nothing is guessed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Cause;
use super::event::{Event, TokenId};
use super::machine::Machine;
use super::message::{Body, Header, Message};
use super::state::*;
use super::types::{CallId, Certainty, Command, Outcome, Rejected};
use crate::problem::Kind;
use crate::program::{Location, Program};
use crate::record::{JournalEntry, Status};
use crate::value::Value;

/// What a location that was not lost knows of an instance.
#[derive(Debug)]
pub struct Witness {
    /// Which it is.
    pub at: Location,
    /// Its part; a new one, when it never saw the instance.
    pub state: State,
    /// Messages of the instance that it sent and that nobody has, as far as it knows; dead letters among them.
    pub on_the_way: Vec<Message>,
}

/// How much of an instance was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Nothing of it ever came there.
    Nothing,
    /// It had left, as everybody knows.
    Past,
    /// A part of it was there, and nothing tells that this part had gone further than is known.
    Held,
    /// Its part had gone further than is known.
    Beyond,
}

/// One instance at a location whose store was lost.
#[derive(Debug)]
pub struct Loss {
    extent: Extent,
    remains: Remains,
    replaced: Option<Replaced>,
}

/// What an abandoned instance leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remains {
    /// The service whose participant lost its store.
    pub(super) service: String,
    /// What may have to be undone, the last first, each with the reason why nobody did.
    pub(super) entries: Vec<(Entry, String)>,
    /// Branches whose joins are gone.
    pub(super) branches: BTreeSet<TokenId>,
    /// `$context`, for compensations to come.
    pub(super) context: Value,
}

/// What a new store must know of an instance that the lost one had a part of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replaced {
    pub(super) here: Location,
    pub(super) header: Header,
    /// The last number that each location may have taken from here.
    pub(super) sent: Vec<(Location, u64)>,
    /// The last number that each has sent here.
    pub(super) taken: Vec<(Location, u64)>,
}

/// A part as it was last seen, and the tokens that left it.
#[derive(Default)]
struct Seen {
    state: State,
    /// By receiver and number: what a message took with it.
    left: BTreeMap<(Location, u64), Vec<(Entry, String)>>,
}

impl Loss {
    /// Compares what was `seen` of the part at `lost` (its steps, numbered from 1) with what all others know. The first
    /// of them is the home.
    ///
    /// # Errors
    /// A sentence, when a step cannot be read.
    pub fn of(program: &Program, lost: &Location, seen: &[JournalEntry], others: &[Witness]) -> Result<Loss, String> {
        let part = Seen::of(program, lost, seen)?;
        let none = Loss { extent: Extent::Nothing, remains: Remains::default(), replaced: None };
        let Some(start) = others.iter().find_map(|other| other.state.start.clone()) else { return Ok(none) };
        let home = others.first().map(|home| &home.state);
        let (mut sent, mut taken, mut beyond, mut touched) =
            (Vec::new(), Vec::new(), false, part.state.start.is_some());
        let mut entries = part.state.remains(program);
        let mut found: Vec<(Entry, String)> = Vec::new();
        for other in others {
            let from = &other.at;
            let ours = part.state.peers.get(from).cloned().unwrap_or_default();
            let theirs = other.state.peers.get(lost).cloned().unwrap_or_default();
            let for_it: Vec<&Message> = other.on_the_way.iter().filter(|message| message.to == *lost).collect();
            let waits = |number: u64| for_it.iter().any(|message| message.number == number);
            let gone = (1..=theirs.sent).any(|number| !ours.has_taken(number) && !waits(number));
            beyond |= gone || theirs.last_taken() > ours.sent;
            touched |= gone || theirs.last_taken() > 0;
            for number in (1..=ours.sent).filter(|number| !theirs.has_taken(*number)) {
                let with_it = part.left.get(&(from.clone(), number)).cloned().unwrap_or_default();
                // News without work need not come again.
                beyond |= part.left.contains_key(&(from.clone(), number));
                found.extend(with_it);
            }
            // Whether the lost store had taken them is not known.
            found.extend(for_it.iter().flat_map(|message| message.entries(&lost_with(lost))));
            sent.push((from.clone(), ours.sent.max(theirs.last_taken())));
            taken.push((from.clone(), theirs.sent));
        }
        let extent = match (beyond, part.state.has_tokens() || !part.state.parked.is_empty()) {
            _ if !touched => return Ok(none),
            (true, _) => Extent::Beyond,
            (false, true) => Extent::Held,
            (false, false) => Extent::Past,
        };
        found.append(&mut entries.iter_mut().map(|entry| (entry.clone(), lost_with(lost))).collect());
        found.extend(part.state.unresolved.iter().cloned());
        let alive = alive(program, lost, others);
        let remains = Remains {
            service: lost.name().to_owned(),
            entries: found.into_iter().filter_map(|(entry, why)| Some((entry.without(&alive)?, why))).collect(),
            branches: part.state.branches(),
            context: part.state.tokens.values().next().map(|token| token.context.clone()).unwrap_or_default(),
        };
        let home = home.unwrap_or(&part.state);
        let header = Header { start, started_at: home.started_at, deadline: home.deadline };
        let replaced = Some(Replaced { here: lost.clone(), header, sent, taken });
        Ok(Loss { extent, remains, replaced })
    }

    /// How much was lost.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// What the home is told when the instance cannot, or is not to, go on.
    pub fn abandon(&self) -> Command {
        Command::Abandon(Box::new(self.remains.clone()))
    }

    /// What the part in the new store, brought back as it was seen, is told then.
    pub fn replace(&self) -> Option<Command> {
        self.replaced.clone().map(|replaced| Command::Replace(Box::new(replaced)))
    }
}

fn lost_with(location: &Location) -> String {
    format!("the store of {} was lost, and whether this was undone is not known", location.name())
}

/// Keys of everything that a token elsewhere, or a message between others, will have undone.
fn alive(program: &Program, lost: &Location, others: &[Witness]) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    // What is at the home is named by the home.
    for other in others {
        let kept =
            other.state.remains(program).into_iter().chain(other.state.unresolved.iter().map(|(e, _)| e.clone()));
        kept.for_each(|entry| entry.keys(&mut keys));
        let messages = other.on_the_way.iter().filter(|message| message.to != *lost);
        messages.flat_map(|message| message.entries("")).for_each(|(entry, _)| entry.keys(&mut keys));
    }
    keys
}

impl Seen {
    fn of(program: &Program, lost: &Location, steps: &[JournalEntry]) -> Result<Seen, String> {
        let mut seen = Seen::default();
        for step in steps {
            let events: Vec<Event> = serde_json::from_str(&step.payload).map_err(|e| {
                format!("step {} of instance {} cannot be read: {e}", step.seq, step.workflow_instance_id)
            })?;
            let (mut now, mut sending) = (step.timestamp, None);
            for event in &events {
                now = event.moves_clock().unwrap_or(now);
                match event {
                    Event::Sent { to, number } => {
                        if !seen.state.unresolved.is_empty() {
                            seen.left.insert((to.clone(), *number), seen.state.unresolved.clone());
                        }
                        sending = Some((to.clone(), *number));
                    }
                    // A token leaves with the message that was just sent.
                    Event::Departed { t } => {
                        if let (Some(message), Some(token)) = (sending.take(), seen.state.token(*t)) {
                            let with_it =
                                token.log.iter().rev().chain(token.rollbacks.iter().flat_map(|r| r.todo.iter().rev()));
                            let with_it = with_it.map(|entry| (entry.clone(), lost_with(lost)));
                            seen.left.entry(message).or_default().extend(with_it.collect::<Vec<_>>());
                        }
                    }
                    _ => sending = None,
                }
                seen.state.apply(program, now, event);
            }
            seen.state.seq = step.seq;
        }
        Ok(seen)
    }
}

impl State {
    /// What its tokens would have to undo, the last first.
    fn remains(&self, program: &Program) -> Vec<Entry> {
        let mut state = self.clone();
        let mut remains = Vec::new();
        let tokens: Vec<TokenId> = state.tokens.keys().rev().copied().collect();
        for t in tokens {
            if let Some(Pending::Join(join)) = state.token(t).map(|token| &token.pending) {
                let logs: Vec<_> = join.arrived.values().map(|arrival| arrival.log.clone()).collect();
                remains.push(Entry::Parallel(logs));
            }
            while let Some(frame) = state.token(t).and_then(Token::top).cloned() {
                match frame.role {
                    Role::Undo(undoing) => {
                        remains.push(Entry::Task(Box::new(undoing.task)));
                        state.tokens.entry(t).and_modify(|token| drop(token.frames.pop()));
                    }
                    // A call in flight becomes an entry that may have happened.
                    _ => {
                        let task = program.node(frame.node).reference.clone();
                        state.apply(program, self.now, &Event::Cancelled { t, task, run: frame.run });
                    }
                }
            }
            if let Some(token) = state.tokens.remove(&t) {
                remains.extend(token.rollbacks.iter().rev().flat_map(|rollback| rollback.todo.iter().rev().cloned()));
                remains.extend(token.log.into_iter().rev());
            }
        }
        remains
    }

    /// Branches that have not come home to a join here.
    fn branches(&self) -> BTreeSet<TokenId> {
        let missing = |token: &Token| match &token.pending {
            Pending::Join(join) => join.missing(),
            _ => Vec::new(),
        };
        self.tokens.values().flat_map(missing).collect()
    }

    pub(super) fn abandoned(&mut self, remains: &Remains) {
        self.unresolved.clone_from(&remains.entries);
        self.bereft = true;
        if self.ended.is_none() {
            // The end takes the context from it.
            let root = Token { context: remains.context.clone(), ..Token::default() };
            let root = self.tokens.remove(&ROOT).unwrap_or(root);
            self.tokens.clear();
            self.tokens.insert(ROOT, root);
        }
    }

    pub(super) fn replaced(&mut self, replaced: &Replaced) {
        let Replaced { here, header, sent, taken } = replaced;
        self.start.get_or_insert_with(|| header.start.clone());
        self.started_at = header.started_at;
        self.deadline = header.deadline;
        self.here = here.clone();
        self.bereft = true;
        self.tokens.clear();
        self.losers.clear();
        self.parked.clear();
        self.unresolved.clear();
        self.suspended = None;
        for (to, number) in sent {
            self.peers.entry(to.clone()).or_default().sent = *number;
        }
        for (from, number) in taken {
            self.peers.entry(from.clone()).or_default().take_all(*number);
        }
    }
}

impl Entry {
    /// The same without what has one of these keys, and without what waits for tokens or marks an end; nothing when
    /// nothing is left.
    fn without(self, keys: &BTreeSet<String>) -> Option<Entry> {
        match self {
            Entry::Task(done) => (!keys.contains(&done.key)).then_some(Entry::Task(done)),
            Entry::Parallel(branches) => {
                let left = |branch: Vec<Entry>| branch.into_iter().filter_map(|entry| entry.without(keys)).collect();
                let branches: Vec<Vec<Entry>> =
                    branches.into_iter().map(left).filter(|b: &Vec<Entry>| !b.is_empty()).collect();
                (!branches.is_empty()).then_some(Entry::Parallel(branches))
            }
            // Losers are undone as they come home.
            Entry::Race { .. } | Entry::Stuck => None,
        }
    }

    fn keys(&self, keys: &mut BTreeSet<String>) {
        match self {
            Entry::Task(done) => drop(keys.insert(done.key.clone())),
            Entry::Parallel(branches) => branches.iter().flatten().for_each(|entry| entry.keys(keys)),
            Entry::Race { .. } | Entry::Stuck => {}
        }
    }
}

impl Message {
    /// What it brings that may have to be undone, the last first.
    fn entries(&self, why: &str) -> Vec<(Entry, String)> {
        let mut entries = Vec::new();
        match &self.body {
            Body::Token { token, .. } => {
                let undoing = token.frames.iter().rev().filter_map(|frame| match &frame.role {
                    Role::Undo(undoing) => Some(Entry::Task(Box::new(undoing.task.clone()))),
                    _ => None,
                });
                entries.extend(undoing);
                entries.extend(token.rollbacks.iter().rev().flat_map(|rollback| rollback.todo.iter().rev().cloned()));
                entries.extend(token.log.iter().rev().cloned());
            }
            Body::Report { arrival, .. } => entries.extend(arrival.log.iter().rev().cloned()),
            _ => {}
        }
        let entries = entries.into_iter().map(|entry| (entry, why.to_owned()));
        entries.chain(self.unresolved.iter().cloned()).collect()
    }
}

impl Machine<'_> {
    /// The home ends an instance a part of which was lost; of one that has ended it learns what was left behind.
    pub(super) fn abandon(&mut self, remains: Remains) -> Result<Cause, Rejected> {
        let (parked, paused) = self.wake_up();
        let ended = self.state.ended.is_some();
        let service = remains.service.clone();
        let mut remains = remains;
        if !ended {
            for t in self.state.branches().into_iter().chain(remains.branches.iter().copied()).chain([ROOT]) {
                if self.token(t).is_none() {
                    self.fence_away(t, false);
                }
            }
            let why = format!("what came after it was lost with the store of {service}");
            let own = self.state.remains(self.program).into_iter().filter_map(|entry| entry.without(&BTreeSet::new()));
            remains.entries.extend(own.map(|entry| (entry, why.clone())));
            let tokens: Vec<TokenId> = self.state.tokens.keys().copied().collect();
            tokens.into_iter().for_each(|t| self.close(t));
        }
        let known = self.state.unresolved.iter().filter(|(entry, _)| !remains.entries.iter().any(|(e, _)| e == entry));
        let known: Vec<(Entry, String)> = known.cloned().collect();
        remains.entries.extend(known);
        self.emit(Event::Abandoned { remains: Box::new(remains) });
        if !ended {
            let problem = Kind::Runtime.problem(format!(
                "the store of the participant of {service} was lost with a part of this instance, and the instance was \
                 abandoned: see at {service} what it did, then undo what is unresolved with `pavane retry`"
            ));
            self.emit(Event::Ended { status: Status::Faulted, output: None, problem: Some(problem) });
        }
        self.take_parked(parked, paused);
        Ok(Cause { event_type: "abandoned", ..Cause::default() })
    }

    /// The part of an abandoned instance in a new store: it begins nothing, and undoes what comes.
    pub(super) fn replace(&mut self, replaced: Replaced) -> Result<Cause, Rejected> {
        let tokens: Vec<TokenId> = self.state.tokens.keys().copied().collect();
        tokens.into_iter().for_each(|t| self.close(t));
        self.emit(Event::Replaced { replaced: Box::new(replaced) });
        Ok(Cause { event_type: "store.replaced", ..Cause::default() })
    }

    /// The answers to all calls in flight were lost with the store.
    pub(super) fn lose_answers(&mut self) -> Result<Cause, Rejected> {
        let waits = |token: &Token| matches!(token.pending, Pending::Call(_));
        let calls: Vec<CallId> =
            self.state.tokens.values().filter(|t| waits(t)).filter_map(|t| Some(CallId(t.top()?.run))).collect();
        let mut cause = Err(Rejected::Stale);
        for call in calls {
            let problem = Kind::Communication.problem(
                "the store of this participant was lost with the answer, if there was one: whether the call was made is \
                 not known",
            );
            let failed = Outcome::Failure { problem, certainty: Certainty::Indeterminate };
            // An answer that came while it was suspended is known.
            cause = self.outcome(call, failed, None).or(cause);
            self.run();
        }
        cause.map(|cause| Cause { event_type: "store.replaced", ..cause })
    }

    /// Closes the tasks of a token that is gone.
    fn close(&mut self, t: TokenId) {
        while let Some((frame, node)) = self.top(t) {
            let (task, run) = (node.reference.clone(), frame.run);
            let undoes = matches!(frame.role, Role::Undo(_));
            self.emit(if undoes {
                Event::Unresolved { t, task, reason: "it was abandoned".into(), halt: false }
            } else {
                Event::Cancelled { t, task, run }
            });
        }
    }
}
