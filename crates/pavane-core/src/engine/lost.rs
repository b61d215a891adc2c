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
use super::event::{Event, Parked, ReportKind, TokenId};
use super::machine::{Go, Machine};
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
    at: Location,
    part: Part,
    on_the_way: Vec<Message>,
}

/// A part of an instance, as its steps tell.
#[derive(Debug, Default)]
struct Part {
    state: State,
    /// By receiver and number: what a message took with it that may have to be undone, with the reason why nobody did when
    /// that is known.
    left: BTreeMap<(Location, u64), Left>,
    /// Keys of what was undone here.
    undone: BTreeSet<String>,
}

/// What a message took with it.
#[derive(Clone, Debug, Default)]
struct Left {
    token: Option<TokenId>,
    entries: Vec<(Entry, String)>,
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
    /// Tokens that others wait for and that are nowhere any more.
    pub(super) lost: BTreeSet<TokenId>,
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

/// What another location tells of a part that was lost.
struct Known {
    at: Location,
    /// Whether anything had come to the part, or from it.
    touched: bool,
    /// Whether the part had gone further than was seen.
    beyond: bool,
    /// What was lost on the way between the two.
    left: Vec<Left>,
    /// The last number that this location may have taken.
    sent: u64,
    /// The last that it sent.
    taken: u64,
}

impl Witness {
    /// A location with its steps (none, when it never saw the instance), and the messages of the instance that it sent and
    /// that nobody has, as far as it knows; dead letters among them.
    ///
    /// # Errors
    /// A sentence, when a step cannot be read.
    pub fn new(
        program: &Program,
        at: Location,
        steps: &[JournalEntry],
        on_the_way: Vec<Message>,
    ) -> Result<Witness, String> {
        Ok(Witness { at, part: Part::of(program, steps)?, on_the_way })
    }

    /// Its part.
    pub fn into_state(self) -> State {
        self.part.state
    }
}

impl Loss {
    /// Compares what was `seen` of the part at `lost` (its steps, numbered from 1) with what all others know. The first
    /// of them is the home.
    ///
    /// # Errors
    /// A sentence, when a step cannot be read.
    pub fn of(program: &Program, lost: &Location, seen: &[JournalEntry], others: &[Witness]) -> Result<Loss, String> {
        let part = Part::of(program, seen)?;
        let none = Loss { extent: Extent::Nothing, remains: Remains::default(), replaced: None };
        let Some((start, home)) =
            others.first().and_then(|home| Some((home.part.state.start.clone()?, &home.part.state)))
        else {
            return Ok(none);
        };
        let known: Vec<Known> = others.iter().map(|other| Known::of(&part, lost, other)).collect();
        if part.state.start.is_none() && !known.iter().any(|known| known.touched) {
            return Ok(none);
        }
        let held = part.state.has_tokens() || !part.state.parked.is_empty();
        let extent = match (known.iter().any(|known| known.beyond), held) {
            (true, _) => Extent::Beyond,
            (false, true) => Extent::Held,
            (false, false) => Extent::Past,
        };
        let why = lost_with(lost);
        let missing = missing(lost, others);
        // Of an instance that has ended, only what somebody still waits for was not over: its copy may be older than its end.
        let counts = |t: Option<TokenId>| home.ended.is_none() || t.is_some_and(|t| missing.contains(&t));
        let here = part.state.remains(program, |t| counts(Some(t))).into_iter().map(|entry| (entry, String::new()));
        let parked = part.state.parked_messages().filter(|message| counts(message.token()));
        let unresolved = part.state.unresolved.iter().filter(|_| counts(None)).cloned();
        let found = here.chain(parked.flat_map(Message::entries)).chain(unresolved);
        let between = known.iter().flat_map(|known| &known.left).filter(|left| counts(left.token));
        let found = found.chain(between.flat_map(|left| left.entries.iter().cloned()));
        let found = found.map(|(entry, known)| (entry, if known.is_empty() { why.clone() } else { known }));
        let mut keys = alive(program, lost, others);
        keys.extend(part.undone.iter().cloned());
        let mut entries = Vec::new();
        for (entry, why) in found {
            // Each once, however many copies of a token there are.
            if let Some(entry) = entry.without(&keys) {
                entry.keys(&mut keys);
                entries.push((entry, why));
            }
        }
        let context = part.state.tokens.values().next().map(|token| token.context.clone()).unwrap_or_default();
        let remains = Remains { service: lost.name().to_owned(), entries, lost: missing.clone(), context };
        let header = Header { start, started_at: home.started_at, deadline: home.deadline, kept: Default::default() };
        let sent = known.iter().map(|known| (known.at.clone(), known.sent)).collect();
        let taken = known.iter().map(|known| (known.at.clone(), known.taken)).collect();
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

impl Known {
    fn of(part: &Part, lost: &Location, other: &Witness) -> Known {
        let ours = part.state.peers.get(&other.at).cloned().unwrap_or_default();
        let theirs = other.part.state.peers.get(lost).cloned().unwrap_or_default();
        let to_it = other.on_the_way.iter().filter(|message| message.to == *lost);
        // The others have come already, and are not forgotten yet.
        let coming: Vec<&Message> = to_it.filter(|message| !ours.has_taken(message.number)).collect();
        let is_coming = |number: u64| coming.iter().any(|message| message.number == number);
        let gone: Vec<u64> =
            (1..=theirs.sent).filter(|number| !ours.has_taken(*number) && !is_coming(*number)).collect();
        // What it took with it, and what came and was not seen.
        let untaken = (1..=ours.sent).filter(|number| !theirs.has_taken(*number));
        let sent: Vec<_> = untaken.filter_map(|number| part.left.get(&(other.at.clone(), number))).collect();
        let came = gone.iter().filter_map(|number| other.part.left.get(&(lost.clone(), *number)));
        // Whether the lost store had taken what was coming is not known.
        let coming = coming.iter().map(|message| Left { token: message.token(), entries: message.entries() });
        Known {
            at: other.at.clone(),
            touched: !gone.is_empty() || theirs.last_taken() > 0,
            // News without work need not come again.
            beyond: !gone.is_empty() || theirs.last_taken() > ours.sent || !sent.is_empty(),
            left: sent.iter().copied().chain(came).cloned().chain(coming).collect(),
            sent: ours.sent.max(theirs.last_taken()),
            taken: theirs.sent,
        }
    }
}

fn lost_with(location: &Location) -> String {
    format!("the store of {} was lost, and whether this was undone is not known", location.name())
}

/// Messages that others will yet take up, from each other.
fn coming<'a>(lost: &'a Location, others: &'a [Witness]) -> impl Iterator<Item = &'a Message> {
    let taken = |message: &Message| {
        let receiver = others.iter().find(|other| other.at == message.to);
        let peer = receiver.and_then(|receiver| receiver.part.state.peers.get(&message.from));
        peer.is_some_and(|peer| peer.has_taken(message.number))
    };
    let sent = others.iter().flat_map(|other| &other.on_the_way);
    let sent = sent.filter(move |message| message.to != *lost && !taken(message));
    sent.chain(others.iter().flat_map(|other| other.part.state.parked_messages()))
}

/// Keys of everything that was undone elsewhere, or that a token there, or a message between others, will have undone. What
/// is at the home is named, or undone, by the home.
fn alive(program: &Program, lost: &Location, others: &[Witness]) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for Witness { part: Part { state, undone, .. }, .. } in others {
        keys.extend(undone.iter().cloned());
        let kept =
            state.remains(program, |_| true).into_iter().chain(state.unresolved.iter().map(|(entry, _)| entry.clone()));
        kept.for_each(|entry| entry.keys(&mut keys));
    }
    coming(lost, others).flat_map(|message| message.entries()).for_each(|(entry, _)| entry.keys(&mut keys));
    keys
}

/// Tokens that somebody else waits for, and that neither are anywhere nor come to anybody.
fn missing(lost: &Location, others: &[Witness]) -> BTreeSet<TokenId> {
    let coming: BTreeSet<TokenId> = coming(lost, others).filter_map(Message::token).collect();
    let awaited = others.iter().flat_map(|other| other.part.state.awaited());
    let is_there = |t: &TokenId| coming.contains(t) || others.iter().any(|other| other.part.state.token(*t).is_some());
    awaited.filter(|t| !is_there(t)).collect()
}

impl Part {
    fn of(program: &Program, steps: &[JournalEntry]) -> Result<Part, String> {
        let mut part = Part::default();
        for step in steps {
            let events: Vec<Event> = serde_json::from_str(&step.payload).map_err(|e| {
                format!("step {} of instance {} cannot be read: {e}", step.seq, step.workflow_instance_id)
            })?;
            let (mut now, mut sending) = (step.timestamp, None);
            for event in &events {
                now = event.moves_clock().unwrap_or(now);
                match event {
                    Event::Sent { to, number } => {
                        if !part.state.unresolved.is_empty() && !part.state.here.is_engine() {
                            let entries = part.state.unresolved.clone();
                            part.left.insert((to.clone(), *number), Left { token: None, entries });
                        }
                        sending = Some((to.clone(), *number));
                    }
                    // A token leaves with the message that was just sent.
                    Event::Departed { t } => {
                        if let (Some(message), Some(token)) = (sending.take(), part.state.token(*t)) {
                            let with_it = token.entries().into_iter().map(|entry| (entry, String::new()));
                            let left = part.left.entry(message).or_default();
                            left.token = Some(*t);
                            left.entries.extend(with_it);
                        }
                    }
                    Event::Undone { t, .. } => {
                        let undoing = part.state.token(*t).and_then(Token::undoing);
                        part.undone.extend(undoing.map(|undoing| undoing.task.key.clone()));
                    }
                    _ => sending = None,
                }
                part.state.apply(program, now, event);
            }
            part.state.seq = step.seq;
        }
        Ok(part)
    }
}

impl Token {
    /// What it would have to undo, were it to do nothing more: the last first.
    fn entries(&self) -> Vec<Entry> {
        let undoing = self.frames.iter().rev().filter_map(|frame| match &frame.role {
            Role::Undo(undoing) => Some(Entry::Task(undoing.task.clone())),
            _ => None,
        });
        let rollbacks = self.rollbacks.iter().rev().flat_map(|rollback| rollback.todo.iter().rev().cloned());
        undoing.chain(rollbacks).chain(self.log.iter().rev().cloned()).collect()
    }
}

impl State {
    /// The token that a token here is a part of, as far as that is here.
    fn outermost(&self, mut t: TokenId) -> TokenId {
        while let Some(Home::Branch { parent, .. } | Home::Rollback { parent, .. }) =
            self.token(t).map(|token| &token.home)
            && self.token(*parent).is_some()
        {
            t = *parent;
        }
        t
    }

    /// What its tokens would have to undo, the last first, of those whose outermost `counts`.
    fn remains(&self, program: &Program, counts: impl Fn(TokenId) -> bool) -> Vec<Entry> {
        let mut state = self.clone();
        let mut remains = Vec::new();
        let tokens: Vec<TokenId> = state.tokens.keys().rev().copied().collect();
        for t in tokens.into_iter().filter(|t| counts(self.outermost(*t))) {
            if let Some(Pending::Join(join)) = state.token(t).map(|token| &token.pending) {
                let logs: Vec<_> = join.arrived.values().map(|arrival| arrival.log.clone()).collect();
                remains.push(Entry::Parallel(logs));
            }
            // A call in flight becomes an entry that may have happened. What is being undone stands below it.
            while let Some(frame) = state.token(t).and_then(Token::top).cloned()
                && !matches!(frame.role, Role::Undo(_))
            {
                let task = program.node(frame.node).reference.clone();
                state.apply(program, self.now, &Event::Cancelled { t, task, run: frame.run });
            }
            remains.extend(state.tokens.remove(&t).iter().flat_map(Token::entries));
        }
        remains
    }

    /// What came while it was suspended.
    fn parked_messages(&self) -> impl Iterator<Item = &Message> {
        self.parked.iter().filter_map(|parked| match parked {
            Parked::Message { message } => Some(&**message),
            _ => None,
        })
    }

    /// Tokens that have yet to come home to here.
    fn awaited(&self) -> BTreeSet<TokenId> {
        let awaited = |token: &Token| match &token.pending {
            Pending::Join(join) => join.missing(),
            Pending::RollbackJoin(sides) => sides.iter().copied().collect(),
            _ => Vec::new(),
        };
        self.tokens.values().flat_map(awaited).chain(self.losers.iter().copied()).collect()
    }

    /// Takes note that tokens never come home: whoever waits for them goes on without, and leaves what came before as it is.
    pub(super) fn bereaved(&mut self, lost: &BTreeSet<TokenId>) {
        self.bereft = true;
        for t in lost {
            let mut sides = Vec::new();
            for (parent, token) in &mut self.tokens {
                match &mut token.pending {
                    Pending::Join(join) if join.is_of(*t) => {
                        join.arrived.entry(t.0 - join.first).or_insert_with(|| Arrival {
                            kind: ReportKind::Cancelled,
                            problem: None,
                            data: Value::NULL,
                            context: Value::NULL,
                            log: vec![Entry::Stuck],
                        });
                    }
                    Pending::RollbackJoin(waits) if waits.contains(t) => sides.push(*parent),
                    _ => {}
                }
            }
            sides.into_iter().for_each(|parent| self.side_joined(parent, *t, true));
            if self.losers.contains(t) {
                self.dropped(*t, true);
            }
        }
    }

    pub(super) fn abandoned(&mut self, remains: &Remains) {
        self.unresolved.clone_from(&remains.entries);
        self.bereaved(&remains.lost);
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
    /// The token it brings, or brings the end of.
    fn token(&self) -> Option<TokenId> {
        match self.body {
            Body::Token { t, .. } | Body::Report { t, .. } | Body::Side { t, .. } | Body::Dropped { t, .. } => Some(t),
            _ => None,
        }
    }

    /// What it brings that may have to be undone, the last first, with the reason why nobody did when that is known.
    fn entries(&self) -> Vec<(Entry, String)> {
        let entries = match &self.body {
            Body::Token { token, .. } => token.entries(),
            Body::Report { arrival, .. } => arrival.log.iter().rev().cloned().collect(),
            _ => Vec::new(),
        };
        let entries = entries.into_iter().map(|entry| (entry, String::new()));
        entries.chain(self.unresolved.iter().cloned()).collect()
    }
}

impl Machine<'_> {
    /// The home ends an instance a part of which was lost; of one that has ended it learns what was left behind.
    pub(super) fn abandon(&mut self, mut remains: Remains) -> Result<Cause, Rejected> {
        let (parked, paused) = self.wake_up();
        let ended = self.state.ended.is_some();
        let service = remains.service.clone();
        if !ended {
            // What is here ends here, too, and may be awaited elsewhere.
            remains.lost.extend(self.state.tokens.keys().copied());
        }
        self.tell_all(&Body::Bereaved { lost: remains.lost.clone() });
        if !ended {
            let why = format!("what came after it was lost with the store of {service}");
            let own = self.state.remains(self.program, |_| true).into_iter();
            let own = own.filter_map(|entry| entry.without(&BTreeSet::new()));
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
        self.bereave();
        self.take_parked(parked, paused);
        Ok(Cause { event_type: "abandoned", ..Cause::default() })
    }

    /// A part of the instance was lost elsewhere: nothing new begins here, and nobody waits for what is lost.
    pub(super) fn bereave(&mut self) {
        let tokens: Vec<(TokenId, bool)> =
            self.state.tokens.iter().map(|(t, token)| (*t, matches!(token.pending, Pending::Join(_)))).collect();
        for (t, joins) in tokens {
            self.fence(t, false);
            if joins {
                self.schedule(t, Go::Join);
            }
            self.side_done(t);
        }
        self.wake_drains();
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
