//! Travelling: a token that has work elsewhere leaves, and what comes home is taken in.
//!
//! Where every node is at one location nothing here ever happens. The sender's part is in its journal as a number; the
//! message itself goes out with the same commit. The receiver keeps the message in its own journal, so that a replay
//! needs nobody else.

use super::Cause;
use super::event::{AfterRollback, Event, ReportKind, TokenId};
use super::machine::{Go, Machine};
use super::message::{Body, Errand, Header, Message};
use super::state::*;
use super::types::Rejected;
use crate::problem::{Kind, Problem};
use crate::program::{Location, NodeId};
use crate::record::Status;
use crate::value::Value;

/// Room for the numbers of tokens and runs of each location: they are unique in the instance without asking anybody.
const NUMBERS: u32 = 1 << 24;

/// How many of them are kept for undoing what was done.
const KEPT_FOR_UNDOING: u32 = 1 << 16;

impl Machine<'_> {
    /// The number of the next token born here.
    pub fn next_token(&self) -> u32 {
        self.state.next_token.max(self.numbers_from())
    }

    /// The number of the next run of a task here.
    pub fn next_run(&self) -> u32 {
        self.state.next_run.max(self.numbers_from() + 1)
    }

    /// Whether so much was begun here that further numbers would be those of another location.
    pub fn is_out_of_numbers(&self) -> bool {
        let last = self.numbers_from().saturating_add(NUMBERS - KEPT_FOR_UNDOING);
        self.program.locations().len() > 1 && self.next_run().max(self.next_token()) >= last
    }

    fn numbers_from(&self) -> u32 {
        let position = self.program.locations().iter().position(|at| *at == self.host.here).unwrap_or(0);
        // There are at most 256 locations.
        u32::try_from(position).unwrap_or(0).saturating_mul(NUMBERS)
    }

    /// Whether something belongs to another location than this.
    pub fn is_away(&self, at: &Location) -> bool {
        *at != self.host.here
    }

    /// Where a node must run, when that is not here.
    pub fn away(&self, node: NodeId) -> Option<Location> {
        self.program.node(node).location.clone().filter(|at| self.is_away(at))
    }

    /// The token leaves for another location, unless it is too large to: then the task that it was to begin fails here,
    /// or, at its end, what surrounds it. What undoes work or ends it always leaves, without the data that flowed: nothing
    /// reads it any more.
    pub fn depart(&mut self, t: TokenId, to: Location, errand: Errand) -> Option<Go> {
        let mut token = Box::new(self.token(t)?.clone());
        let limited = !token.rolling_back() && !matches!(errand, Errand::End { .. });
        if !limited && !matches!(errand, Errand::Enter(_)) {
            token.data = Value::NULL;
        }
        let due = match errand {
            Errand::Enter(node) => Some(node),
            _ => None,
        };
        let mut message = self.compose(to, Body::Token { t, token, errand })?;
        if let Err(problem) = if limited { self.fits(&mut message) } else { Ok(()) } {
            return Some(match due {
                Some(node) => self.enter_in_vain(t, node, problem),
                None => Go::Unwind(problem.at(&self.last_task(t))),
            });
        }
        self.post(message);
        self.emit(Event::Departed { t });
        None
    }

    /// Whether a message is small enough to be sent. It is written for that, and not again when it is.
    fn fits(&mut self, message: &mut Message) -> Result<(), Problem> {
        message.write();
        let (size, most) = (message.size(), self.host.max_token);
        if size <= most {
            return Ok(());
        }
        self.oversize += 1;
        Err(Kind::Runtime.problem(format!(
            "the message that takes the work on to {} would have {size} bytes, and {most} is the most that `limits.token` \
             allows: keep less in the data, in `$context` and in what compensable tasks take and give, give the workflow \
             less as its input, or raise the limit",
            message.to.name()
        )))
    }

    /// Sends a message that must get through, whatever it holds.
    pub fn send(&mut self, to: Location, body: Body) {
        if let Some(message) = self.compose(to, body) {
            self.post(message);
        }
    }

    fn post(&mut self, message: Message) {
        let (to, number) = (message.to.clone(), message.number);
        self.send.push(message);
        self.emit(Event::Sent { to, number });
    }

    fn compose(&self, to: Location, body: Body) -> Option<Message> {
        let start = self.state.start.clone()?;
        let number = self.state.peers.get(&to).map_or(0, |peer| peer.sent) + 1;
        // News of what was undone goes towards the home, and never from there.
        let (compensated, unresolved) = match self.host.here {
            Location::Engine => Default::default(),
            Location::Service(_) => (self.state.compensated.clone(), self.state.unresolved.clone()),
        };
        Some(Message {
            instance: start.id.clone(),
            digest: self.program.digest().to_owned(),
            from: self.host.here.clone(),
            to,
            number,
            redelivered: false,
            header: Header {
                start,
                started_at: self.state.started_at,
                deadline: self.state.deadline,
                kept: self.state.header.clone(),
            },
            body,
            compensated,
            unresolved,
            written: Default::default(),
            texts: self.state.texts.clone(),
            beginning: self.state.beginning.clone(),
        })
    }

    /// Takes a message from another location, each once.
    pub(super) fn message(&mut self, message: Message) -> Result<Cause, Rejected> {
        if message.digest != self.program.digest() || message.to != self.host.here {
            return Err(Rejected::Conflict(format!(
                "the message is for {} and program {}, not for {}",
                message.to.name(),
                message.digest,
                self.host.here.name()
            )));
        }
        if self.state.peers.get(&message.from).is_some_and(|peer| peer.has_taken(message.number)) {
            return Err(Rejected::Stale);
        }
        let cause = Cause {
            event_type: "message.received",
            causation: Some(format!("{}:{}", message.from.name(), message.number)),
            ..Cause::default()
        };
        let parks =
            matches!(message.body, Body::Token { .. } | Body::Report { .. } | Body::Side { .. } | Body::Dropped { .. });
        let (body, redelivered) = (message.body.unladen(), message.redelivered);
        let parked = self.state.suspended.is_some() && parks;
        self.emit(Event::Arrived { message: Box::new(message), parked });
        if parked {
            return Ok(cause);
        }
        self.arrive(body, redelivered);
        Ok(cause)
    }

    /// Does what a message that was taken in is for. Tokens are in the state already.
    fn arrive(&mut self, body: Body, redelivered: bool) {
        match body {
            Body::Token { t, errand, .. } => {
                let fence = self.state.fenced.get(&t).copied();
                if let Some(cut) = fence.filter(|_| !redelivered) {
                    self.fence(t, cut);
                }
                match errand {
                    Errand::Enter(node) => self.schedule(t, Go::Enter(node)),
                    Errand::Undo => self.schedule(t, Go::Rollback),
                    Errand::Finish => self.schedule(t, Go::ListEnd),
                    Errand::End { .. } if self.state.ended.is_some() => self.schedule(t, Go::Home),
                    Errand::End { status, problem } => self.emit(Event::Ended { status, output: None, problem }),
                }
                // An earlier delivery may have made the call that this one leads to, before the fence came: it counts
                // as begun.
                if let Some(cut) = fence.filter(|_| redelivered) {
                    self.run();
                    self.fence(t, cut);
                }
            }
            Body::Report { parent, t, .. } => {
                if self.token(t).is_some() {
                    // It came home to a race that it had lost.
                    let go = self.lost(t);
                    self.schedule_some(t, go);
                } else {
                    self.schedule(parent, Go::Join);
                }
            }
            Body::Side { parent, .. } => self.side_done(parent),
            Body::Dropped { .. } => {
                self.pass_on_undone();
                self.wake_drains();
            }
            Body::Fence { t, cut } if self.token(t).is_some() => self.fence(t, cut),
            // It may come yet. Whoever fenced it has told everybody.
            Body::Fence { t, cut } if self.fences_more(t, cut) => self.emit(Event::FencedAway { t, cut }),
            Body::Fence { .. } => {}
            Body::Suspend { on, order } => self.follow_suspension(on, order),
            Body::Hasten => drop(self.hasten()),
            Body::Undone => self.pass_on_undone(),
            Body::Bereaved { .. } => self.bereave(),
        }
    }

    fn schedule_some(&mut self, t: TokenId, go: Option<Go>) {
        if let Some(go) = go {
            self.schedule(t, go);
        }
    }

    /// A branch that has lost its race is undone.
    pub fn lost(&mut self, t: TokenId) -> Option<Go> {
        self.roll_back(t, 0, false, Kind::Runtime.problem("the race was lost"), AfterRollback::Drop)
    }

    /// The parent of a rollback's side goes on when all its sides are done.
    pub fn side_done(&mut self, parent: TokenId) {
        if self.token(parent).is_some_and(|token| matches!(token.pending, Pending::Nothing) && token.rolling_back()) {
            self.schedule(parent, Go::Rollback);
        }
    }

    /// What was undone on its own, with no token that would carry the news home.
    fn pass_on_undone(&mut self) {
        let news = !self.state.compensated.is_empty() || !self.state.unresolved.is_empty();
        if news && self.is_away(&Location::Engine) && self.state.tokens.is_empty() {
            self.send(Location::Engine, Body::Undone);
        }
    }

    /// Brings a branch home.
    pub fn report(&mut self, t: TokenId, report: ReportKind, problem: Option<Problem>) -> Option<Go> {
        match self.token(t)?.home.clone() {
            Home::Branch { at, parent, index, .. } if self.is_away(&at) => {
                let Token { mut data, mut context, log, .. } = self.token(t)?.clone();
                let limited = matches!(report, ReportKind::Completed | ReportKind::Ended);
                if !limited {
                    // No join reads them.
                    (data, context) = (Value::NULL, Value::NULL);
                }
                let arrival = Box::new(Arrival { kind: report, problem, data, context, log });
                let mut message = self.compose(at, Body::Report { parent, t, index, arrival })?;
                if let Err(problem) = if limited { self.fits(&mut message) } else { Ok(()) } {
                    return Some(Go::Unwind(problem.at(&self.last_task(t))));
                }
                self.post(message);
                self.emit(Event::Departed { t });
                None
            }
            // It was away when the race was decided.
            Home::Branch { .. } if self.state.losers.contains(&t) => self.lost(t),
            // Its join was lost.
            Home::Branch { parent, .. } if self.state.bereft && self.token(parent).is_none() => self.lost(t),
            Home::Branch { parent, .. } => {
                self.emit(Event::Reported { t, report, problem });
                self.schedule(parent, Go::Join);
                None
            }
            // It lost the race while it undid what it had done.
            _ => self.lost(t),
        }
    }

    /// A token that nobody waits for is gone.
    pub fn dropped(&mut self, t: TokenId) -> Option<Go> {
        let token = self.token(t)?;
        let stuck = token.log.iter().any(Entry::is_stuck);
        match token.home.clone() {
            Home::None { at } if self.is_away(&at) => {
                self.send(at, Body::Dropped { t, stuck });
                self.emit(Event::Departed { t });
            }
            _ => {
                self.emit(Event::Dropped { t });
                self.pass_on_undone();
                self.wake_drains();
            }
        }
        None
    }

    /// The instance ends, at its home.
    pub fn finish(&mut self, t: TokenId, status: Status, problem: Option<Problem>) -> Option<Go> {
        if self.is_away(&Location::Engine) {
            return self.depart(t, Location::Engine, Errand::End { status, problem });
        }
        if self.state.ended.is_some() {
            return self.dropped(t);
        }
        self.emit(Event::Ended { status, output: None, problem });
        None
    }

    /// Fences a token that is not here: whoever has it, or will have it, stores the fence.
    pub fn fence_away(&mut self, t: TokenId, cut: bool) {
        if self.program.locations().len() < 2 || !self.fences_more(t, cut) {
            return;
        }
        self.emit(Event::FencedAway { t, cut });
        self.tell_all(&Body::Fence { t, cut });
    }

    fn fences_more(&self, t: TokenId, cut: bool) -> bool {
        self.state.fenced.get(&t).is_none_or(|gives_up| cut && !gives_up)
    }

    /// Tells every other location.
    pub fn tell_all(&mut self, body: &Body) {
        let others: Vec<Location> = self.program.locations().iter().filter(|at| self.is_away(at)).cloned().collect();
        for to in others {
            self.send(to, body.clone());
        }
    }

    fn follow_suspension(&mut self, on: bool, order: u64) {
        if order <= self.state.suspensions {
            return;
        }
        self.emit(Event::SuspensionOrdered { order });
        if on && self.state.suspended.is_none() && self.state.ended.is_none() {
            self.emit(Event::Suspended {});
        } else if !on {
            let (parked, paused) = self.wake_up();
            self.take_parked(parked, paused);
        }
    }

    /// Takes what came while suspended: tokens first have to be put where they were going, with what is left of their
    /// time. `paused` is in milliseconds.
    pub(super) fn take_parked_message(&mut self, mut message: Message, paused: i64) {
        if let Body::Token { token, .. } = &mut message.body {
            token.extend_deadlines(paused);
        }
        let (body, redelivered) = (message.body.unladen(), message.redelivered);
        self.emit(Event::Admitted { message: Box::new(message) });
        self.arrive(body, redelivered);
    }
}

impl State {
    /// Puts what a message brings into the state.
    pub(super) fn take_in(&mut self, message: &Message) {
        let Header { start, started_at, deadline, kept } = &message.header;
        if self.start.is_none() {
            self.start = Some(start.clone());
            self.started_at = *started_at;
            self.deadline = *deadline;
        }
        self.here = message.to.clone();
        self.texts = message.texts.clone();
        self.header = kept.clone();
        self.beginning = message.beginning.clone();
        self.compensated.extend(message.compensated.iter().cloned());
        self.unresolved.extend(message.unresolved.iter().cloned());
    }

    /// Puts the token that a message brings to where it goes on.
    pub(super) fn admit(&mut self, body: &Body) {
        match body {
            Body::Token { t, token, .. } => {
                let mut token = (**token).clone();
                if self.bereft {
                    token.fence = Fence::Cut;
                    // The instance has ended without it.
                    if token.home == Home::Root && self.here.is_engine() {
                        token.home = Home::None { at: self.here.clone() };
                    }
                }
                self.tokens.insert(*t, token);
            }
            Body::Report { parent, t, index, arrival } => {
                let joins = |token: &&mut Token| matches!(&token.pending, Pending::Join(join) if join.is_of(*t));
                if let Some(Pending::Join(join)) = self.tokens.get_mut(parent).filter(joins).map(|p| &mut p.pending) {
                    join.arrived.insert(*index, (**arrival).clone());
                } else if self.losers.contains(t) || self.bereft {
                    let Arrival { data, context, log, .. } = (**arrival).clone();
                    let home = Home::None { at: self.here.clone() };
                    self.tokens.insert(*t, Token { data, context, log, home, ..Token::default() });
                }
            }
            Body::Side { parent, t, halted } => self.side_joined(*parent, *t, *halted),
            Body::Dropped { t, stuck } => self.dropped(*t, *stuck),
            Body::Bereaved { lost } => self.bereaved(lost),
            Body::Fence { .. } | Body::Suspend { .. } | Body::Hasten | Body::Undone => {}
        }
    }
}

impl Join {
    /// The branches that have not come home.
    pub(super) fn missing(&self) -> Vec<TokenId> {
        let all = (0..self.count).filter(|index| !self.arrived.contains_key(index));
        all.map(|index| TokenId(self.first.saturating_add(index))).collect()
    }

    /// Whether a token is one of its branches.
    pub(super) fn is_of(&self, t: TokenId) -> bool {
        (self.first..self.first.saturating_add(self.count)).contains(&t.0)
    }
}
