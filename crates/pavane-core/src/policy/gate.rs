//! The gate before one service: breaker, rate, places and retry budget, and one queue for whoever cannot pass at once.
//!
//! A call passes when all of them let it, and takes what it needs from all of them at that moment: what waits holds
//! nothing that another call needs. The owner of a gate asks [`Gate::poll`] who may go whenever something changed and
//! when [`Gate::next_at`] is due.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::breaker::{Breaker, BreakerSettings, BreakerState, Permit, Verdict};
use super::budget::{RetryBudget, RetrySettings};
use super::load::Average;
use super::queue::{Queue, Ticket, Waiting};
use super::rate::{Rate, Throttle};

/// First attempts, and retries: those that wait for a budget hold up no others.
const LANES: usize = 2;

/// What a gate lets through.
#[derive(Clone, Copy, Debug)]
pub struct GateSettings {
    /// Calls in flight, at least 1.
    pub in_flight: u32,
    /// Calls in time.
    pub rate: Option<Rate>,
    /// Breaker.
    pub breaker: Option<BreakerSettings>,
    /// Retry budget.
    pub retries: Option<RetrySettings>,
    /// Calls that may wait. Further ones are refused.
    pub waiting: usize,
}

/// A call that comes to the gate.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Whom it belongs to: calls of one flow do not hold up others.
    pub flow: Arc<str>,
    /// Whether it repeats a call that failed.
    pub retry: bool,
    /// It gives up waiting then.
    pub until: Duration,
}

/// What became of an arrival.
#[derive(Debug)]
pub enum Entry {
    /// It may go.
    Passed(Pass),
    /// It waits: ask [`Gate::poll`].
    Waits(Ticket),
    /// As many wait as may.
    Full,
}

/// What became of one that waited.
#[derive(Debug)]
pub enum Decision {
    /// It may go.
    Go(Ticket, Pass),
    /// Its time was over first.
    Late(Ticket, Held),
}

/// Belongs to one call in flight; goes back to [`Gate::end`].
#[derive(Debug)]
#[must_use = "a pass that does not come back keeps its place"]
pub struct Pass {
    /// What it waited for.
    pub held: Held,
    began: Duration,
    permit: Option<Permit>,
}

/// Why calls wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The breaker is open, or its trial calls are on their way.
    Breaker,
    /// Retries have used up their budget.
    Retries,
    /// The rate.
    Rate,
    /// As many calls are in flight as may be.
    InFlight,
}

impl Reason {
    /// All of them, in the order in which they are asked for.
    pub const ALL: [Reason; 4] = [Reason::Breaker, Reason::Retries, Reason::Rate, Reason::InFlight];

    /// `breaker`, `rate`, `in_flight` or `retries`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Breaker => "breaker",
            Reason::Rate => "rate",
            Reason::InFlight => "in_flight",
            Reason::Retries => "retries",
        }
    }
}

/// How long a call was held, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held([Duration; Reason::ALL.len()]);

impl Held {
    /// How long for this reason.
    pub fn by(&self, reason: Reason) -> Duration {
        self.0[reason as usize]
    }

    /// How long in all.
    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }

    /// Reasons it was held for, with how long.
    pub fn reasons(&self) -> impl Iterator<Item = (Reason, Duration)> {
        Reason::ALL.into_iter().map(|reason| (reason, self.by(reason))).filter(|(_, time)| !time.is_zero())
    }

    fn since(&self, before: &Held) -> Held {
        let mut held = *self;
        held.0.iter_mut().zip(before.0).for_each(|(time, before)| *time = time.saturating_sub(before));
        held
    }
}

/// What a gate did since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Calls let through.
    pub passed: u64,
    /// Those of them that repeat a call that failed.
    pub retries: u64,
    /// Those of them that had to wait.
    pub waited: u64,
    /// Calls whose time was over before they could pass.
    pub late: u64,
    /// Calls refused because too many waited.
    pub refused: u64,
    /// Times the breaker opened.
    pub opened: u64,
    /// How long calls were held, added up over all that passed or were late.
    pub held: Held,
}

/// How a gate stands.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// State of the breaker, if there is one.
    pub breaker: Option<BreakerState>,
    /// Until when it is open, while it is.
    pub open_until: Option<Duration>,
    /// Calls in flight.
    pub in_flight: u32,
    /// Calls that may be.
    pub limit: u32,
    /// Calls that wait.
    pub waiting: usize,
    /// How long the one has waited that came first; nothing when none waits.
    pub oldest: Duration,
    /// Why the first of them does.
    pub reason: Option<Reason>,
    /// The part of the places that was taken lately, from 0 to 1.
    pub utilisation: f64,
    /// Since the start.
    pub counts: Counts,
}

/// A gate.
#[derive(Debug)]
pub struct Gate {
    limit: u32,
    most_waiting: usize,
    breaker: Option<Breaker>,
    throttle: Option<Throttle>,
    budget: Option<RetryBudget>,
    queue: Queue<LANES>,
    in_flight: u32,
    load: Average,
    counts: Counts,
    /// Why each lane's head waits, and when that may change by itself.
    blocked: [Option<(Reason, Option<Duration>)>; LANES],
    /// How long each lane has been blocked for each reason: what one was held for is a difference of two readings.
    clocks: [Held; LANES],
    read_at: Duration,
    /// The clocks as they were when each of those that wait came.
    came: BTreeMap<Ticket, Held>,
}

impl Gate {
    /// A gate that nothing has passed.
    pub fn new(settings: GateSettings) -> Gate {
        Gate {
            limit: settings.in_flight.max(1),
            most_waiting: settings.waiting,
            breaker: settings.breaker.map(Breaker::new),
            throttle: settings.rate.map(Throttle::new),
            budget: settings.retries.map(RetryBudget::new),
            queue: Queue::new(),
            in_flight: 0,
            load: Average::default(),
            counts: Counts::default(),
            blocked: [None; LANES],
            clocks: [Held::default(); LANES],
            read_at: Duration::ZERO,
            came: BTreeMap::new(),
        }
    }

    /// A call comes.
    pub fn enter(&mut self, now: Duration, arrival: Arrival) -> Entry {
        self.advance(now);
        let lane = usize::from(arrival.retry);
        if self.queue.head(lane).is_none() && self.blocks(now, lane).is_none() && !self.overtakes(lane) {
            return Entry::Passed(self.pass(now, arrival.retry, Held::default()));
        }
        if self.queue.len() >= self.most_waiting {
            self.counts.refused += 1;
            return Entry::Full;
        }
        let ticket = self.queue.push(now, arrival.flow, lane, arrival.until);
        self.came.insert(ticket, self.clocks[lane]);
        self.look(now);
        Entry::Waits(ticket)
    }

    /// Who may go, and whose time is over.
    pub fn poll(&mut self, now: Duration) -> Vec<Decision> {
        self.advance(now);
        let mut decisions = Vec::new();
        while let Some((ticket, waiting)) = self.queue.expired(now) {
            let held = self.held(ticket, &waiting);
            self.counts.late += 1;
            decisions.push(Decision::Late(ticket, held));
        }
        while let Some((lane, ticket)) = self.next(now) {
            let Some(waiting) = self.queue.remove(ticket) else { break };
            let held = self.held(ticket, &waiting);
            self.counts.waited += 1;
            decisions.push(Decision::Go(ticket, self.pass(now, lane == 1, held)));
        }
        self.look(now);
        decisions
    }

    /// When to [poll](Gate::poll) though nothing happens; nothing while nobody waits.
    pub fn next_at(&self) -> Option<Duration> {
        let lanes = self.blocked.iter().filter_map(|blocked| blocked.and_then(|(_, at)| at));
        lanes.chain(self.queue.next_end()).min()
    }

    /// One that waits gives up by itself.
    pub fn leave(&mut self, now: Duration, ticket: Ticket) {
        self.advance(now);
        if let Some(waiting) = self.queue.remove(ticket) {
            let _ = self.held(ticket, &waiting);
        }
        self.look(now);
    }

    /// A call that was let through ended.
    pub fn end(&mut self, now: Duration, mut pass: Pass, verdict: Verdict) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.measure(now);
        self.judge(now, &mut pass, verdict);
    }

    /// What a call tells before it ends: it keeps its place, and its end is no news any more.
    pub fn judge(&mut self, now: Duration, pass: &mut Pass, verdict: Verdict) {
        self.advance(now);
        if let (Some(breaker), Some(permit)) = (&mut self.breaker, pass.permit.take()) {
            breaker.end(now, permit, now.saturating_sub(pass.began), verdict);
            self.counts.opened = breaker.opened();
        }
        self.look(now);
    }

    /// How many calls wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// How many calls of a flow wait.
    pub fn waiting_of(&self, flow: &str) -> usize {
        self.queue.of_flow(flow)
    }

    /// How it stands.
    pub fn standing(&self, now: Duration) -> Standing {
        Standing {
            breaker: self.breaker.as_ref().map(|breaker| breaker.state(now)),
            open_until: self.breaker.as_ref().and_then(|breaker| breaker.open_until(now)),
            in_flight: self.in_flight,
            limit: self.limit,
            waiting: self.queue.len(),
            oldest: self.queue.oldest().map_or(Duration::ZERO, |since| now.saturating_sub(since)),
            reason: self.blocked.iter().flatten().map(|(reason, _)| *reason).next(),
            utilisation: self.load.mean(now).clamp(0.0, 1.0),
            counts: self.counts,
        }
    }

    /// The lane and ticket of the next one that may go.
    fn next(&mut self, now: Duration) -> Option<(usize, Ticket)> {
        let mut heads: Vec<(Duration, Ticket, usize)> =
            (0..LANES).filter_map(|lane| self.queue.head(lane).map(|(place, ticket)| (place, ticket, lane))).collect();
        heads.sort_unstable();
        let (_, ticket, lane) = heads.into_iter().find(|(_, _, lane)| self.blocks(now, *lane).is_none())?;
        Some((lane, ticket))
    }

    /// Whether one that comes now would overtake one of the other lane that may go.
    fn overtakes(&self, lane: usize) -> bool {
        (0..LANES).any(|other| {
            let budget = matches!(self.blocked[other], Some((Reason::Retries, _)));
            other != lane && self.queue.head(other).is_some() && !budget
        })
    }

    /// What keeps a lane from sending, and when that may change by itself.
    fn blocks(&mut self, now: Duration, lane: usize) -> Option<(Reason, Option<Duration>)> {
        if let Some(breaker) = self.breaker.as_ref().filter(|breaker| !breaker.admits(now)) {
            return Some((Reason::Breaker, breaker.open_until(now)));
        }
        if lane == 1
            && let Some(Err(at)) = self.budget.as_mut().map(|budget| budget.allows(now))
        {
            return Some((Reason::Retries, Some(at)));
        }
        if let Some(throttle) = self.throttle.as_ref().filter(|throttle| !throttle.is_ready(now)) {
            return Some((Reason::Rate, Some(throttle.ready_at())));
        }
        (self.in_flight >= self.limit).then_some((Reason::InFlight, None))
    }

    /// A call goes.
    fn pass(&mut self, now: Duration, retry: bool, held: Held) -> Pass {
        self.in_flight += 1;
        self.measure(now);
        self.counts.passed += 1;
        self.counts.retries += u64::from(retry);
        if let Some(throttle) = &mut self.throttle {
            throttle.take(now);
        }
        if let Some(budget) = &mut self.budget {
            budget.count(now, retry);
        }
        Pass { held, began: now, permit: self.breaker.as_mut().map(|breaker| breaker.begin(now)) }
    }

    /// What one that no longer waits was held for.
    fn held(&mut self, ticket: Ticket, waiting: &Waiting) -> Held {
        let before = self.came.remove(&ticket).unwrap_or_default();
        let held = self.clocks[waiting.lane].since(&before);
        self.counts.held.0.iter_mut().zip(held.0).for_each(|(sum, time)| *sum += time);
        held
    }

    fn measure(&mut self, now: Duration) {
        self.load.set(now, f64::from(self.in_flight) / f64::from(self.limit));
    }

    /// Moves the clocks on by the time since the last reading.
    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.read_at);
        self.read_at = self.read_at.max(now);
        for (clock, blocked) in self.clocks.iter_mut().zip(&self.blocked) {
            if let Some((reason, _)) = blocked {
                clock.0[*reason as usize] += passed;
            }
        }
    }

    /// Notes why each lane waits from now on.
    fn look(&mut self, now: Duration) {
        for lane in 0..LANES {
            let waits = self.queue.head(lane).is_some();
            self.blocked[lane] = if waits { self.blocks(now, lane) } else { None };
        }
    }
}
