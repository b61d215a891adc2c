//! The state of one instance: its tokens, what each waits for, and what was done that may have to be undone.
//!
//! Only `apply` writes it. Everything here can be rebuilt from the journal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::de::Deserializer;
use serde::ser::{Error as _, Serializer};
use serde::{Deserialize, Serialize};

use super::Wake;
use super::event::{AfterRollback, Awaited, Parked, ReportKind, TokenId};
use super::kept::Kept;
use super::message::{Peer, Times};
use super::notice::Notice;
use super::types::{Call, CallId, Child, Effect, Parent, Request, Start, TraceContext};
use crate::event::CloudEvent;
use crate::problem::Problem;
use crate::program::{Location, NodeId, Program};
use crate::record::{Compensation, CompensationStatus, Status, Unresolved};
use crate::time::Timestamp;
use crate::value::text::Raw;
use crate::value::{Texts, Value, json, once};

/// The main thread of control.
pub(super) const ROOT: TokenId = TokenId(0);

/// Events kept for listens to come. Older ones make room: an instance that never listens must not grow for ever.
pub(super) const MAX_INBOX: usize = 1_000;

/// How many events' ids are remembered to tell a repeat. Redelivery is near in time, so a window is enough.
const MAX_SEEN: usize = 4_096;

/// How many ended calls are remembered for the callbacks that come after: services repeat theirs soon or not at all.
const MAX_CALLED_BACK: usize = 1_000;

/// The whole state of one instance.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub(super) start: Option<Arc<Start>>,
    pub(super) started_at: Timestamp,
    /// Texts of values of the message that was taken last: the next one that is sent may hold them, too.
    pub(super) texts: Texts,
    /// The header of that message, as it was written.
    pub(super) header: Kept<Times>,
    /// What its list of values begins with.
    pub(super) beginning: once::Beginning,
    pub(super) deadline: Option<Timestamp>,
    pub(super) tokens: BTreeMap<TokenId, Token>,
    pub(super) next_token: u32,
    pub(super) next_run: u32,
    pub(super) epochs: BTreeMap<String, Epoch>,
    pub(super) inbox: VecDeque<CloudEvent>,
    pub(super) seen: Seen,
    pub(super) ended: Option<Ended>,
    pub(super) suspended: Option<Timestamp>,
    pub(super) parked: Vec<Parked>,
    pub(super) cancelling: bool,
    pub(super) compensated: Vec<Arc<str>>,
    pub(super) unresolved: Vec<(Entry, String)>,
    pub(super) seq: u64,
    pub(super) now: Timestamp,
    /// Where this part of the instance is.
    pub(super) here: Location,
    pub(super) peers: BTreeMap<Location, Peer>,
    /// Fences on tokens that were not here; whether their calls in flight are given up.
    pub(super) fenced: BTreeMap<TokenId, bool>,
    /// Losers of races joined here that have not come home.
    pub(super) losers: BTreeSet<TokenId>,
    /// Losers that came home and left something that could not be undone.
    pub(super) stuck: BTreeSet<TokenId>,
    /// Order of the last suspension or resumption.
    pub(super) suspensions: u64,
    /// A part of it was lost: what comes begins nothing and is undone.
    pub(super) bereft: bool,
    /// Calls that awaited a callback and ended.
    pub(super) called_back: CalledBack,
    /// Somebody is to be told that it has ended.
    pub(super) notice: Option<Notice>,
}

/// How the instance ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub status: Status,
    pub at: Timestamp,
    pub output: Option<Value>,
    pub problem: Option<Problem>,
    pub context: Value,
}

/// A thread of control: a stack of tasks, the data that flows through them, and what it waits for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Token {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<Frame>,
    pub data: Value,
    pub context: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<Entry>,
    /// A token that travels waits for nothing.
    #[serde(skip)]
    pub pending: Pending,
    #[serde(skip_serializing_if = "is_default")]
    pub home: Home,
    /// Variables of the tasks around a branch, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<(Arc<str>, Value)>,
    /// Address of the place where a branch began.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub base: String,
    /// Soonest deadline around a branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Retries done by the tries around a branch.
    #[serde(skip_serializing_if = "is_default")]
    pub retries: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub fence: Fence,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timed_out: Option<TimedOut>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rollbacks: Vec<Rollback>,
    /// A compensation of this token's rollback failed for good.
    #[serde(skip_serializing_if = "is_default")]
    pub halted: bool,
}

/// Whether a field need not be written.
fn is_default<T: Default + PartialEq>(field: &T) -> bool {
    *field == T::default()
}

/// Where a token reports to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Home {
    /// It ends the instance.
    #[default]
    Root,
    /// A fork's join; in a race a branch undoes what it did before it reports that it failed.
    Branch { at: Location, parent: TokenId, index: u32, race: bool },
    /// Nobody waits for it: it lost the race joined there, or undoes something on its own.
    None { at: Location },
    /// A token whose rollback it is a part of.
    Rollback { at: Location, parent: TokenId },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Fence {
    #[default]
    Open,
    /// Calls in flight may end; nothing new begins.
    Drain,
    /// Calls in flight are given up.
    Cut,
}

/// A deadline that passed while the token waited for its branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TimedOut {
    pub depth: Option<u32>,
    pub attempt: bool,
}

/// A task that has begun and not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Frame {
    pub node: NodeId,
    pub run: u32,
    pub raw: Value,
    pub input: Value,
    pub started: Timestamp,
    pub deadline: Option<Timestamp>,
    /// Length of the token's log when it began.
    pub mark: usize,
    pub role: Role,
}

impl Frame {
    /// Every value the task holds.
    pub fn values(&self) -> impl Iterator<Item = &Value> {
        let role: Vec<&Value> = match &self.role {
            Role::For { items, .. } => vec![items],
            Role::Try(attempt) => attempt.error.iter().collect(),
            Role::Listen(listening) => {
                let current = listening.current.iter().map(|(item, _)| item);
                listening.items.iter().chain(&listening.queue).chain(&listening.results).chain(current).collect()
            }
            Role::Plain | Role::Function | Role::Undo(_) => Vec::new(),
        };
        [&self.raw, &self.input].into_iter().chain(role)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Role {
    Plain,
    For { items: Value, index: u32 },
    Try(Attempt),
    Function,
    Listen(Box<Listening>),
    Undo(Box<Undoing>),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attempt {
    pub handling: bool,
    pub retries: u32,
    pub first_failure: Option<Timestamp>,
    pub deadline: Option<Timestamp>,
    pub error: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listening {
    pub items: Vec<Value>,
    pub matched: BTreeSet<u32>,
    pub correlation: Vec<(String, Value)>,
    pub queue: VecDeque<Value>,
    pub current: Option<(Value, u32)>,
    pub next: u32,
    pub results: Vec<Value>,
    pub done: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Undoing {
    pub task: Arc<Done>,
    pub retries: u32,
    pub first_failure: Option<Timestamp>,
    pub problem: Problem,
}

/// What a token waits for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Pending {
    #[default]
    Nothing,
    Call(Box<PendingCall>),
    Child(Box<Child>),
    Time(Timestamp),
    /// A `try` or a compensation on top is repeated then.
    Backoff(Timestamp),
    Events,
    Join(Box<Join>),
    RollbackJoin(BTreeSet<TokenId>),
    Drain(Vec<TokenId>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct PendingCall {
    pub task: Arc<str>,
    pub key: String,
    pub request: Arc<Request>,
    pub attempt: u32,
    pub compensates: Option<String>,
    pub deadline: Option<Timestamp>,
    pub callback: Option<Callback>,
}

/// A callback that is awaited.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Callback {
    pub awaited: Awaited,
    pub accepted: Option<Accepted>,
}

/// Since when a call waits for its callback alone, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Accepted {
    pub since: Timestamp,
    pub until: Option<Timestamp>,
    pub silent: Option<Timestamp>,
}

impl PendingCall {
    /// Set once the service has taken the call, and a callback alone is waited for.
    pub fn accepted(&self) -> Option<&Accepted> {
        self.callback.as_ref()?.accepted.as_ref()
    }

    pub fn accepted_mut(&mut self) -> Option<&mut Accepted> {
        self.callback.as_mut()?.accepted.as_mut()
    }
}

impl Accepted {
    /// When it is given up, if its task has not been before.
    pub fn ends(&self) -> Option<Timestamp> {
        self.until.into_iter().chain(self.silent).min()
    }
}

/// Calls that awaited a callback and ended, by their keys, the oldest forgotten first: so that whoever calls back once more
/// is told why it does not count.
#[derive(Clone, Debug, Default)]
pub(super) struct CalledBack {
    order: VecDeque<String>,
    calls: BTreeMap<String, Past>,
}

/// A call that awaited a callback.
#[derive(Clone, Debug)]
pub(super) struct Past {
    pub task: Arc<str>,
    /// Whether it got its answer; it was given up otherwise.
    pub answered: bool,
    /// A callback that came too late is on record.
    pub late: bool,
}

impl CalledBack {
    pub fn get(&self, key: &str) -> Option<&Past> {
        self.calls.get(key)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Past> {
        self.calls.get_mut(key)
    }

    pub fn insert(&mut self, key: String, past: Past) {
        if self.calls.insert(key.clone(), past).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > MAX_CALLED_BACK {
            if let Some(oldest) = self.order.pop_front() {
                self.calls.remove(&oldest);
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Join {
    pub first: u32,
    pub count: u32,
    pub arrived: BTreeMap<u32, Arrival>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Arrival {
    pub kind: ReportKind,
    pub problem: Option<Problem>,
    pub data: Value,
    pub context: Value,
    pub log: Vec<Entry>,
}

/// The saga log: a series of tasks and of forks, in causal order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Entry {
    /// Shared by the copies of a log: one travels with each message.
    Task(Arc<Done>),
    Parallel(Vec<Vec<Entry>>),
    /// A race whose losers may still be coming home to where it was joined.
    Race {
        at: Location,
        losers: Vec<TokenId>,
    },
    /// A rollback ended here with an entry that could not be undone.
    Stuck,
}

impl Entry {
    /// Puts its values into the list of the message that is being written, if they are not there. A log only grows: put there
    /// first, they are at the same positions in the next message.
    pub fn list_values(&self) {
        match self {
            // Only that they are in the list matters here.
            Entry::Task(done) => drop(done.positions()),
            Entry::Parallel(branches) => branches.iter().flatten().for_each(Entry::list_values),
            Entry::Race { .. } | Entry::Stuck => {}
        }
    }

    pub fn is_stuck(&self) -> bool {
        match self {
            Entry::Stuck => true,
            Entry::Parallel(branches) => branches.iter().flatten().any(Entry::is_stuck),
            Entry::Task(_) | Entry::Race { .. } => false,
        }
    }

    /// Puts a mark before the race that a loser ran in; gives its position when that is at the outermost level.
    fn loser_stuck(entries: &mut Vec<Entry>, loser: TokenId) -> Option<usize> {
        for entry in entries.iter_mut() {
            if let Entry::Parallel(branches) = entry {
                branches.iter_mut().for_each(|branch| {
                    Entry::loser_stuck(branch, loser);
                });
            }
        }
        let position =
            entries.iter().position(|e| matches!(e, Entry::Race { losers, .. } if losers.contains(&loser)))?;
        entries.insert(position, Entry::Stuck);
        Some(position)
    }

    /// The same without marks of earlier rollbacks: an operator wants it tried again.
    pub fn freed(self) -> Option<Entry> {
        match self {
            Entry::Stuck => None,
            Entry::Parallel(branches) => {
                let free = |branch: Vec<Entry>| branch.into_iter().filter_map(Entry::freed).collect();
                Some(Entry::Parallel(branches.into_iter().map(free).collect()))
            }
            other => Some(other),
        }
    }
}

/// A task whose effect may have to be undone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub(super) struct Done {
    pub node: NodeId,
    pub run: u32,
    pub key: String,
    pub address: String,
    pub input: Value,
    /// Null while the outcome is unknown.
    pub output: Value,
    pub certain: bool,
    /// As messages hold it whose lists have its values at these positions.
    #[serde(skip)]
    pub kept: Kept<[u32; 2]>,
}

impl Done {
    /// Where its values are in the list of the message that is being written, if one is.
    fn positions(&self) -> Option<[u32; 2]> {
        Some([once::position(&self.input)?, once::position(&self.output)?])
    }
}

impl Serialize for Done {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        /// Its members, one by one.
        struct Members<'a>(&'a Done);
        impl Serialize for Members<'_> {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                Done::serialize(self.0, to)
            }
        }
        match self.positions() {
            Some(at) => {
                let text = self.kept.text(at, || json::to_string(&Members(self))).map_err(S::Error::custom)?;
                Raw(&text).serialize(to)
            }
            None => Done::serialize(self, to),
        }
    }
}

impl<'de> Deserialize<'de> for Done {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Done::deserialize(from)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rollback {
    pub todo: Vec<Entry>,
    pub problem: Problem,
    pub then: AfterRollback,
}

/// Where an effect's repeats are counted: the idempotency key changes with `number`.
#[derive(Clone, Debug, Default)]
pub(super) struct Epoch {
    pub number: u32,
    pub settled: bool,
    /// What was sent under the key, while it is not settled: a repeat must send the same.
    pub request: Option<Arc<Request>>,
}

/// Ids of events seen, the oldest forgotten first.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    order: VecDeque<String>,
    ids: BTreeSet<String>,
}

impl Seen {
    pub fn contains(&self, event: &CloudEvent) -> bool {
        self.ids.contains(&Self::id(event))
    }

    pub fn insert(&mut self, event: &CloudEvent) {
        let id = Self::id(event);
        if self.ids.insert(id.clone()) {
            self.order.push_back(id);
        }
        while self.order.len() > MAX_SEEN {
            if let Some(oldest) = self.order.pop_front() {
                self.ids.remove(&oldest);
            }
        }
    }

    fn id(event: &CloudEvent) -> String {
        format!("{}\u{1f}{}", event.source(), event.id())
    }
}

impl Token {
    pub fn top(&self) -> Option<&Frame> {
        self.frames.last()
    }

    /// Whether the token is undoing something: fences and deadlines around it do not touch it then.
    pub fn rolling_back(&self) -> bool {
        !self.rollbacks.is_empty()
    }

    /// Whether something that happened in the task on top could not be undone. Then no `try` goes on as if it were: the
    /// error leaves them all.
    pub fn is_stuck(&self) -> bool {
        let mark = self.top().map_or(0, |frame| frame.mark);
        self.log.iter().skip(mark).any(Entry::is_stuck)
    }

    /// Notes that a loser of one of its races could not be undone: what came before the race is left as it is, too.
    pub fn loser_stuck(&mut self, loser: TokenId) {
        if let Pending::Drain(losers) = &self.pending
            && losers.contains(&loser)
            && let Some(rollback) = self.rollbacks.last_mut()
        {
            rollback.todo.push(Entry::Stuck);
        }
        for rollback in &mut self.rollbacks {
            Entry::loser_stuck(&mut rollback.todo, loser);
        }
        if let Pending::Join(join) = &mut self.pending {
            for arrival in join.arrived.values_mut() {
                Entry::loser_stuck(&mut arrival.log, loser);
            }
        }
        if let Some(position) = Entry::loser_stuck(&mut self.log, loser) {
            for frame in self.frames.iter_mut().filter(|frame| frame.mark > position) {
                frame.mark += 1;
            }
        }
    }

    /// The frames whose deadlines and attempts count: all, or those of the compensation that runs.
    pub fn live_frames(&self) -> &[Frame] {
        let from = self
            .frames
            .iter()
            .rposition(|f| matches!(f.role, Role::Undo(_)))
            .map_or_else(|| if self.rolling_back() { self.frames.len() } else { 0 }, |undo| undo + 1);
        &self.frames[from..]
    }

    /// Moves every deadline of the token by as many milliseconds as it could do nothing.
    pub fn extend_deadlines(&mut self, pause: i64) {
        let extend = |deadline: &mut Option<Timestamp>| *deadline = deadline.map(|d| d.plus_millis(pause));
        extend(&mut self.deadline);
        if let Pending::Call(call) = &mut self.pending {
            extend(&mut call.deadline);
            if let Some(accepted) = call.accepted_mut() {
                extend(&mut accepted.until);
                extend(&mut accepted.silent);
            }
        }
        for frame in &mut self.frames {
            extend(&mut frame.deadline);
            if let Role::Try(attempt) = &mut frame.role {
                extend(&mut attempt.deadline);
            }
        }
    }

    /// The soonest deadline that binds what the token does now.
    pub fn soonest_deadline(&self) -> Option<Timestamp> {
        let around = if self.rolling_back() { None } else { self.deadline };
        let frames = self.live_frames().iter().flat_map(|f| {
            let attempt = match &f.role {
                Role::Try(attempt) if !attempt.handling => attempt.deadline,
                _ => None,
            };
            [f.deadline, attempt]
        });
        frames.chain([around]).flatten().min()
    }

    /// How often the work on top was begun before: retries of the innermost `try` around it, or of its compensation.
    pub fn attempts_before(&self) -> u32 {
        self.attempts_before_at(self.frames.len())
    }

    /// The same of the task at `depth`.
    pub fn attempts_before_at(&self, depth: usize) -> u32 {
        let around = self.frames.get(..depth).unwrap_or_default();
        let inner = around.iter().rev().find_map(|f| match &f.role {
            Role::Try(attempt) if !attempt.handling => Some(attempt.retries),
            Role::Undo(undoing) => Some(undoing.retries),
            _ => None,
        });
        inner.unwrap_or(self.retries)
    }

    /// Where the place on top of the stack is, loops and calls of functions included, without the task itself.
    pub fn place(&self, program: &Program) -> String {
        self.place_of(&self.frames, program)
    }

    fn place_of(&self, frames: &[Frame], program: &Program) -> String {
        let mut place = self.base.clone();
        for frame in frames {
            match &frame.role {
                Role::For { index, .. } => place.push_str(&format!("[{index}]")),
                Role::Listen(listening) if listening.current.is_some() => {
                    place.push_str(&format!("[{}]", listening.next))
                }
                Role::Function => {
                    place.push_str(&program.node(frame.node).reference);
                    place.push('>');
                }
                Role::Undo(undoing) => place = format!("{}/comp>", undoing.task.key),
                _ => {}
            }
        }
        place
    }

    /// The address of the task on top: what its epochs are counted by.
    pub fn address(&self, program: &Program) -> String {
        let Some((top, below)) = self.frames.split_last() else { return self.base.clone() };
        let mut place = self.place_of(below, program);
        place.push_str(&program.node(top.node).reference);
        place
    }

    /// The forward task that the compensation on the stack undoes.
    pub fn undoing(&self) -> Option<&Undoing> {
        self.frames.iter().rev().find_map(|f| match &f.role {
            Role::Undo(undoing) => Some(&**undoing),
            _ => None,
        })
    }
}

impl State {
    /// What the world still owes this instance.
    pub fn outstanding(&self) -> Vec<Effect> {
        let notice = self.notice_call().map(Effect::Call);
        self.tokens
            .values()
            .filter_map(|token| {
                let id = CallId(token.top()?.run);
                if self.is_answered(id) {
                    return None;
                }
                match &token.pending {
                    Pending::Call(call) if call.accepted().is_none() => Some(Effect::Call(Call {
                        id,
                        reference: call.task.clone(),
                        key: call.key.clone(),
                        attempt: call.attempt,
                        compensates: call.compensates.clone(),
                        request: call.request.clone(),
                        deadline: call.deadline,
                        callback: call.callback.is_some(),
                    })),
                    Pending::Child(child) => Some(Effect::StartChild { call: id, child: (**child).clone() }),
                    _ => None,
                }
            })
            .chain(notice)
            .collect()
    }

    /// Whether the answer to a call, or a sub-workflow's end, came while it was suspended and is to be taken up.
    pub(super) fn is_answered(&self, call: CallId) -> bool {
        self.parked.iter().any(|parked| match parked {
            Parked::Outcome { call: c, .. } | Parked::Child { call: c, .. } => *c == call,
            Parked::Event { .. } | Parked::Message { .. } => false,
        })
    }

    /// When to look at the instance next. [`Wake::Now`] wins over a time; see [`State::next_timer`] for that.
    pub fn wake(&self) -> Wake {
        let owed = |t: &Token| match &t.pending {
            Pending::Call(call) => call.accepted().is_none(),
            pending => matches!(pending, Pending::Child(_)),
        };
        let tells = self.notice.is_some_and(|notice| notice.at.is_none());
        if tells || self.tokens.values().any(owed) {
            Wake::Now
        } else {
            self.next_timer().map_or(Wake::OnInput, Wake::At)
        }
    }

    /// The soonest time at which [`super::Command::Tick`] does something; absent while suspended or ended.
    pub fn next_timer(&self) -> Option<Timestamp> {
        if self.suspended.is_some() {
            return None;
        }
        let tokens = self.tokens.values().filter_map(|token| {
            let waits = match &token.pending {
                Pending::Time(at) | Pending::Backoff(at) => Some(*at),
                Pending::Call(call) => call.accepted().and_then(Accepted::ends),
                _ => None,
            };
            // A branch's inherited deadline is its parent's to act on.
            let own = token.live_frames().iter().flat_map(|f| match &f.role {
                Role::Try(a) if !a.handling => [f.deadline, a.deadline],
                _ => [f.deadline, None],
            });
            own.chain([waits]).flatten().min().filter(|_| token.timed_out.is_none() || waits.is_some())
        });
        let notice = self.notice.and_then(|notice| notice.at);
        tokens.chain(self.workflow_deadline()).chain(notice).min()
    }

    /// The workflow's own deadline, while it can still do something.
    pub(super) fn workflow_deadline(&self) -> Option<Timestamp> {
        let root = self.tokens.get(&ROOT)?;
        let idle = root.rolling_back() || root.fence != Fence::Open || root.timed_out.is_some();
        self.deadline.filter(|_| !idle)
    }

    /// Status of the instance.
    pub fn status(&self) -> Status {
        match &self.ended {
            Some(ended) => ended.status,
            None if self.start.is_none() => Status::Pending,
            None if self.here != Location::Engine && self.tokens.is_empty() => Status::Completed,
            None if self.suspended.is_some() => Status::Suspended,
            None if self.wake() == Wake::Now => Status::Running,
            // It is under way at another location.
            None if self.here == Location::Engine && !self.tokens.contains_key(&ROOT) => Status::Running,
            None => Status::Waiting,
        }
    }

    /// Whether nothing can follow any more: ended, as whoever asked was told, and every loser of a race has come home. It may
    /// be forgotten.
    pub fn is_closed(&self) -> bool {
        self.ended.is_some() && self.notice.is_none() && self.tokens.is_empty() && self.losers.is_empty()
    }

    /// Whether nothing of the instance is here, and nothing is to come home to here.
    pub fn is_idle(&self) -> bool {
        self.tokens.is_empty() && self.losers.is_empty()
    }

    /// Whether the instance has ended, as its home knows.
    pub fn is_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Where the result of this instance goes, when it is a sub-workflow somebody waits for.
    pub fn parent(&self) -> Option<&Parent> {
        self.start.as_ref()?.parent.as_ref()
    }

    /// The trace it belongs to, if whoever started it had one.
    pub fn trace(&self) -> Option<&TraceContext> {
        self.start.as_ref()?.trace.as_ref()
    }

    /// Id of the outermost instance of the chain of sub-workflows it belongs to.
    pub fn correlation_id(&self) -> &str {
        self.start.as_ref().map_or("", |s| &s.correlation_id)
    }

    /// How many steps the journal of this instance holds.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Where the rollback stands.
    pub fn compensation(&self, program: &Program) -> Compensation {
        let status = if self.tokens.values().any(Token::rolling_back) {
            CompensationStatus::Running
        } else if !self.unresolved.is_empty() {
            CompensationStatus::Unresolved
        } else if !self.compensated.is_empty() {
            CompensationStatus::Completed
        } else {
            CompensationStatus::None
        };
        let mut unresolved = Vec::new();
        for (entry, reason) in &self.unresolved {
            name_unresolved(program, entry, reason, &mut unresolved);
        }
        Compensation { status, compensated: self.compensated.iter().map(|r| r.to_string()).collect(), unresolved }
    }

    pub(super) fn id(&self) -> &str {
        self.start.as_ref().map_or("", |s| &s.id)
    }

    pub(super) fn token(&self, t: TokenId) -> Option<&Token> {
        self.tokens.get(&t)
    }
}

/// Names every task of an entry that is not undone.
fn name_unresolved(program: &Program, entry: &Entry, reason: &str, out: &mut Vec<Unresolved>) {
    match entry {
        Entry::Task(done) => out.push(Unresolved {
            reference: program.node(done.node).reference.to_string(),
            key: done.key.clone(),
            reason: reason.to_owned(),
        }),
        Entry::Parallel(branches) => {
            for entry in branches.iter().flatten() {
                name_unresolved(program, entry, reason, out);
            }
        }
        Entry::Race { .. } | Entry::Stuck => {}
    }
}
