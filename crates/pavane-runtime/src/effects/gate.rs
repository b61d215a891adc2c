//! The gate before a service: the pure [`policy::Gate`](pavane_core::policy::Gate) with a clock, a lock and somebody to
//! wake those who wait.
//!
//! Whoever changes something asks the policy who may go and tells them; what changes by time alone is the business of
//! one task for each gate, which lives while somebody waits. A call that is given up, at whatever point, leaves the
//! queue or gives its place back by being dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pavane_core::policy::{self, Arrival, Decision, Entry, GateSettings, Held, Pass, Standing, Ticket, Verdict};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// A gate, shared by all who call its service: workflows, and those who forward requests.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    state: Mutex<State>,
    /// Something is due sooner than the pacer thinks.
    sooner: Notify,
}

#[derive(Debug)]
struct State {
    policy: policy::Gate,
    waiting: HashMap<Ticket, oneshot::Sender<Result<Turn, Refused>>>,
    /// Until when the pacer sleeps; none when there is no pacer.
    paced: Option<Option<Duration>>,
    /// The process stops: nobody passes any more.
    closed: bool,
}

/// Why a call may not go.
#[derive(Debug)]
pub enum Refused {
    /// The breaker is open, for so much longer.
    Open(Duration),
    /// Its time was over first.
    Late(Held),
    /// As many wait as may.
    Full,
    /// The process stops.
    Closed,
}

/// A call's turn: it holds a place until it is dropped.
#[derive(Debug)]
pub struct Turn {
    gate: Gate,
    pass: Option<Pass>,
}

/// One that waits; dropped, it has given up.
struct Waiter {
    gate: Gate,
    ticket: Ticket,
}

impl Gate {
    pub(super) fn new(settings: GateSettings) -> Gate {
        let state = State { policy: policy::Gate::new(settings), waiting: HashMap::new(), paced: None, closed: false };
        Gate(Arc::new(Inner { started: Instant::now(), state: Mutex::new(state), sooner: Notify::new() }))
    }

    /// Waits for the turn of a call, until `until` at most.
    pub(super) async fn enter(&self, flow: &str, retry: bool, until: Instant) -> Result<Turn, Refused> {
        self.pass(flow, retry, until, true).await
    }

    /// Waits for the turn of a request that somebody waits for in person: for moments, and not for an open breaker.
    ///
    /// # Errors
    /// It may not go in that time.
    pub async fn enter_within(&self, flow: &str, retry: bool, wait: Duration) -> Result<Turn, Refused> {
        self.pass(flow, retry, Instant::now() + wait, false).await
    }

    async fn pass(&self, flow: &str, retry: bool, until: Instant, patient: bool) -> Result<Turn, Refused> {
        let (waiter, turn) = {
            let mut state = self.state();
            if state.closed {
                return Err(Refused::Closed);
            }
            let now = self.now();
            if let (false, Some(open)) = (patient, state.policy.standing(now).open_until) {
                return Err(Refused::Open(open.saturating_sub(now)));
            }
            let arrival = Arrival { flow: flow.into(), retry, until: self.at(until) };
            let ticket = match state.policy.enter(now, arrival) {
                Entry::Passed(pass) => return Ok(self.turn(pass)),
                Entry::Full => return Err(Refused::Full),
                Entry::Waits(ticket) => ticket,
            };
            let (sender, turn) = oneshot::channel();
            state.waiting.insert(ticket, sender);
            let told = self.poll(&mut state);
            drop(state);
            tell(told);
            (Waiter { gate: self.clone(), ticket }, turn)
        };
        let turn = turn.await;
        drop(waiter);
        // The sender is dropped only when the ticket is taken out by the one who holds it.
        turn.unwrap_or(Err(Refused::Late(Held::default())))
    }

    /// Lets nobody pass any more; who waits is told so.
    pub(super) fn close(&self) {
        let waiting = {
            let mut state = self.state();
            state.closed = true;
            let (now, waiting) = (self.now(), std::mem::take(&mut state.waiting));
            waiting.keys().for_each(|ticket| state.policy.leave(now, *ticket));
            waiting
        };
        tell(waiting.into_values().map(|sender| (Some(sender), Err(Refused::Closed))).collect());
    }

    /// How it stands, and for how much longer its breaker is open.
    pub(super) fn standing(&self) -> (Standing, Option<Duration>) {
        let now = self.now();
        let standing = self.state().policy.standing(now);
        (standing, standing.open_until.map(|until| until.saturating_sub(now)))
    }

    /// How many calls of a flow wait.
    pub(super) fn waiting_of(&self, flow: &str) -> usize {
        self.state().policy.waiting_of(flow)
    }

    fn turn(&self, pass: Pass) -> Turn {
        Turn { gate: self.clone(), pass: Some(pass) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.0.started.elapsed()
    }

    fn at(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.0.started)
    }

    /// Who may go now, and who is late; sees to it that somebody looks again when something is due. To be told when the
    /// lock is gone: a turn that nobody takes comes back at once.
    #[must_use]
    fn poll(&self, state: &mut State) -> Vec<Told> {
        let mut told = Vec::new();
        for decision in state.policy.poll(self.now()) {
            let (ticket, answer) = match decision {
                Decision::Go(ticket, pass) => (ticket, Ok(self.turn(pass))),
                Decision::Late(ticket, held) => (ticket, Err(Refused::Late(held))),
            };
            told.push((state.waiting.remove(&ticket), answer));
        }
        if state.policy.waiting() > 0 {
            let next = state.policy.next_at();
            match state.paced {
                None => {
                    // Without a runtime nobody waits any more: those in the queue are about to be dropped.
                    if let Ok(runtime) = Handle::try_current() {
                        state.paced = Some(next);
                        runtime.spawn(pace(self.clone()));
                    }
                }
                Some(paced) if next.is_some_and(|next| paced.is_none_or(|paced| next < paced)) => {
                    self.0.sooner.notify_one();
                }
                Some(_) => {}
            }
        }
        told
    }
}

/// An answer, and who waits for it.
type Told = (Option<oneshot::Sender<Result<Turn, Refused>>>, Result<Turn, Refused>);

fn tell(told: Vec<Told>) {
    for (sender, answer) in told {
        // Whoever has gone in the meantime has its turn dropped, which gives it to the next.
        let _ = sender.map(|sender| sender.send(answer));
    }
}

/// Looks again whenever something is due, while somebody waits.
async fn pace(gate: Gate) {
    loop {
        let (told, next) = {
            let mut state = gate.state();
            let told = gate.poll(&mut state);
            let next = state.policy.next_at();
            state.paced = (state.policy.waiting() > 0).then_some(next);
            (told, state.paced)
        };
        tell(told);
        let Some(next) = next else { return };
        let sooner = gate.0.sooner.notified();
        match next {
            Some(at) => {
                let _ = tokio::time::timeout_at(gate.0.started + at, sooner).await;
            }
            None => sooner.await,
        }
    }
}

impl Turn {
    /// What it waited for.
    pub(super) fn held(&self) -> Held {
        self.pass.as_ref().map(|pass| pass.held).unwrap_or_default()
    }

    /// The call ended.
    pub(super) fn end(mut self, verdict: Verdict) {
        self.give_back(verdict);
    }

    /// The service has answered: what that tells of it does not wait until whoever reads the answer has done so.
    pub fn judge(&mut self, verdict: Verdict) {
        let Some(pass) = self.pass.as_mut() else { return };
        let told = {
            let mut state = self.gate.state();
            state.policy.judge(self.gate.now(), pass, verdict);
            self.gate.poll(&mut state)
        };
        tell(told);
    }

    fn give_back(&mut self, verdict: Verdict) {
        let Some(pass) = self.pass.take() else { return };
        let told = {
            let mut state = self.gate.state();
            state.policy.end(self.gate.now(), pass, verdict);
            self.gate.poll(&mut state)
        };
        tell(told);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.give_back(Verdict::NoNews);
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let told = {
            let mut state = self.gate.state();
            if state.waiting.remove(&self.ticket).is_none() {
                return;
            }
            state.policy.leave(self.gate.now(), self.ticket);
            self.gate.poll(&mut state)
        };
        tell(told);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use pavane_core::policy::{BreakerSettings, Rate, RetrySettings};

    use super::*;

    const LIMIT: u32 = 3;

    /// A stream of numbers that look random, the same for the same seed (xorshift).
    fn chance(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    }

    /// Calls that come, go, give up and are cut at every point, on several threads: none is forgotten, no place is lost,
    /// and there are never too many.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nobody_is_forgotten_and_no_place_is_lost() {
        let breaker = BreakerSettings { min_calls: 5, open_for: Duration::from_millis(3), ..Default::default() };
        let rate = Rate { calls: 2_000, per: Duration::from_secs(1) };
        let retries = RetrySettings { ratio: 0.5, at_least: Rate { calls: 500, per: Duration::from_secs(1) } };
        for round in 0..4_u64 {
            let gate = Gate::new(GateSettings {
                in_flight: LIMIT,
                rate: (round & 1 == 1).then_some(rate),
                breaker: (round & 2 == 2).then_some(breaker),
                retries: (round & 2 == 2).then_some(retries),
                waiting: 1_000,
            });
            let at_once = Arc::new(AtomicU32::new(0));
            let mut calls = tokio::task::JoinSet::new();
            for n in 0..400_u64 {
                let (gate, at_once) = (gate.clone(), at_once.clone());
                let call = async move {
                    let mut seed = (n + 1) * 7_919 + round;
                    for _ in 0..5 {
                        let patient = !chance(&mut seed).is_multiple_of(4);
                        let patience = if patient { 60_000 } else { chance(&mut seed) % 20 };
                        let until = Instant::now() + Duration::from_millis(patience);
                        let retry = chance(&mut seed).is_multiple_of(4);
                        let Ok(turn) = gate.enter(&format!("i{}", n % 7), retry, until).await else {
                            assert!(!patient, "call {n} was told that its time is over");
                            continue;
                        };
                        assert!(at_once.fetch_add(1, Ordering::SeqCst) < LIMIT, "too many at once");
                        let hold = chance(&mut seed) % 3;
                        if hold > 0 {
                            tokio::time::sleep(Duration::from_millis(hold)).await;
                        }
                        at_once.fetch_sub(1, Ordering::SeqCst);
                        match chance(&mut seed) % 8 {
                            0 => drop(turn),
                            1..4 => turn.end(Verdict::Failure),
                            _ => turn.end(Verdict::Success),
                        }
                    }
                };
                calls.spawn(call);
            }
            // Some are cut while they wait; they hold no place then.
            let mut cut = Vec::new();
            for n in 0..50 {
                let gate = gate.clone();
                let until = Instant::now() + Duration::from_secs(60);
                let waits = tokio::spawn(async move { drop(gate.enter("cut", n % 2 == 0, until).await) });
                cut.push(waits);
                tokio::task::yield_now().await;
            }
            cut.iter().for_each(tokio::task::JoinHandle::abort);
            let all = async { while calls.join_next().await.transpose().unwrap().is_some() {} };
            let ended = tokio::time::timeout(Duration::from_secs(60), all).await;
            assert!(ended.is_ok(), "round {round}: {:?}", gate.standing());
            let (standing, _) = gate.standing();
            assert_eq!((standing.in_flight, standing.waiting), (0, 0), "round {round}");
            assert!(standing.counts.waited > 0, "round {round}");
        }
    }
}
