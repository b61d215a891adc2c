//! The relay: publishes what one store's steps have sent, until the bus has taken it.
//!
//! Messages to different receivers do not wait for each other: each receiver has a lane. A lane whose receiver is away
//! backs off as a whole; a message that its receiver cannot take now backs off alone. Messages come in memory from the
//! steps that sent them ([`Relay::offer`]); the store is read for those of an earlier process, and for those that found
//! their lane full. What was taken is forgotten in batches: after a crash some of it is published again, and its
//! receivers pass it over.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ahash::HashMap;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use pavane_store::{Commit, Error, Outgoing, Store};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use crate::{Bus, Handing, Refusal};

/// Messages read from the store in one go.
const PAGE: usize = 256;

/// Messages of one lane on their way at once: enough that their receiver's commits share transactions.
const AT_ONCE: usize = 256;

/// Messages a lane keeps in memory; those behind them stay in the store until there is room.
const MAX_WAITING: usize = 4_096;

/// Messages that were taken are forgotten together: as many, or those of so long.
const FORGET: usize = 256;
const FORGET_AFTER: Duration = Duration::from_millis(100);

/// The first wait after a refusal; it doubles up to the last.
const BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// How often a message is tried that its receiver cannot take: for about two minutes.
const MAX_TRIES: u32 = 32;

/// The relay of one store; clones are handles of the same one.
#[derive(Clone, Debug, Default)]
pub struct Relay {
    offered: Arc<Mutex<Vec<Offer>>>,
    wake: Arc<Notify>,
    progress: Arc<Tally>,
}

#[derive(Debug)]
struct Offer {
    position: u64,
    message: Outgoing,
    /// It may not be in the store yet, so it cannot be left there.
    ahead: bool,
}

#[derive(Debug, Default)]
struct Tally {
    came: AtomicU64,
    taken: AtomicU64,
    refused: AtomicU64,
    dead: AtomicU64,
}

/// Numbers since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Messages the bus has taken.
    pub taken: u64,
    /// Times that a message was not taken.
    pub refused: u64,
    /// Dead letters.
    pub dead: u64,
    /// Messages on their way now: sent, and neither taken nor dead.
    pub waiting: u64,
}

/// A message in a lane.
struct Waiting {
    position: u64,
    message: Outgoing,
    tries: u32,
}

impl Waiting {
    /// Its receiver may have begun to take it.
    fn again(mut self) -> Waiting {
        self.message.redelivered = true;
        self
    }
}

/// Messages to one receiver.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<Waiting>,
    in_flight: usize,
    /// The receiver was away as many times in a row.
    away: u32,
    not_before: Option<Instant>,
    /// Messages behind this position were left in the store.
    behind: Option<u64>,
}

struct Returned {
    waiting: Waiting,
    result: Result<(), Refusal>,
}

/// A message that is being published. These are driven by the relay itself: a task for each would cost more than what is done
/// in it.
type Publishing = Pin<Box<dyn Future<Output = Returned> + Send>>;

struct Run {
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    progress: Arc<Tally>,
    lanes: HashMap<String, Lane>,
    publishing: FuturesUnordered<Publishing>,
    /// Messages that wait for their own time.
    later: BTreeMap<(Instant, u64), Waiting>,
    /// Messages up to this position are those of an earlier process.
    left: u64,
    /// The highest position seen.
    seen: u64,
    forget: Commit,
    forget_at: Option<Instant>,
    /// Being taken out of the store: nothing waits for it but what is to be forgotten next.
    forgetting: Option<oneshot::Receiver<Result<(), Error>>>,
}

impl Relay {
    /// Messages that are in the store now, with their positions.
    pub fn offer(&self, messages: Vec<(u64, Outgoing)>) {
        self.add(messages, false);
    }

    /// Messages that will be in the store before anything that their receivers make of them. They must not be offered again.
    pub fn offer_ahead(&self, messages: Vec<(u64, Outgoing)>) {
        self.add(messages, true);
    }

    fn add(&self, messages: Vec<(u64, Outgoing)>, ahead: bool) {
        let offers = messages.into_iter().map(|(position, message)| Offer { position, message, ahead });
        self.offered.lock().unwrap_or_else(PoisonError::into_inner).extend(offers);
        self.wake.notify_one();
    }

    /// Numbers since the start.
    pub fn progress(&self) -> Progress {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Tally { came, taken, refused, dead } = &*self.progress;
        let (taken, dead) = (read(taken), read(dead));
        // Read last, so that none that was taken meanwhile is missing.
        let waiting = read(came).saturating_sub(taken + dead);
        Progress { taken, refused: read(refused), dead, waiting }
    }

    /// Publishes what the store held up to position `left` when its process began, and whatever is offered, until told
    /// to stop.
    ///
    /// # Errors
    /// The store failed.
    pub async fn run(
        &self,
        store: Arc<dyn Store>,
        left: u64,
        bus: Arc<dyn Bus>,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let mut run = Run {
            store,
            bus,
            progress: self.progress.clone(),
            lanes: HashMap::default(),
            publishing: FuturesUnordered::new(),
            later: BTreeMap::new(),
            left,
            seen: 0,
            forget: Commit::default(),
            forget_at: None,
            forgetting: None,
        };
        run.read_what_was_left().await?;
        let timer = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(timer);
        while !*stopping.borrow_and_update() {
            let offered = std::mem::take(&mut *self.offered.lock().unwrap_or_else(PoisonError::into_inner));
            offered.into_iter().for_each(|offer| run.take_in(offer));
            run.catch_up().await?;
            run.publish();
            run.forget(false);
            let next = run.next_time();
            if let Some(next) = next.filter(|next| *next != timer.deadline()) {
                timer.as_mut().reset(next);
            }
            tokio::select! {
                done = forgotten(&mut run.forgetting) => done?,
                () = self.wake.notified() => {}
                Some(returned) = run.publishing.next(), if !run.publishing.is_empty() => {
                    run.returned(returned);
                    while let Some(Some(returned)) = run.publishing.next().now_or_never() {
                        run.returned(returned);
                    }
                }
                () = &mut timer, if next.is_some() => {}
                _ = stopping.changed() => {}
            }
        }
        // What was taken need not be published again.
        run.end().await
    }
}

impl Run {
    /// Reads what an earlier process left.
    async fn read_what_was_left(&mut self) -> Result<(), Error> {
        let left = self.left;
        while self.seen < left {
            let page = self.page(self.seen).await?;
            let full = page.len() == PAGE;
            for (position, message) in page.into_iter().filter(|(position, _)| *position <= left) {
                self.take_in(Offer { position, message, ahead: false });
            }
            self.seen = if full { self.seen } else { left };
        }
        Ok(())
    }

    /// Puts a message into its lane; one that finds the lane full stays in the store.
    fn take_in(&mut self, Offer { position, message, ahead }: Offer) {
        self.seen = self.seen.max(position);
        self.progress.came.fetch_add(1, Ordering::Relaxed);
        if !self.lanes.contains_key(&message.to) {
            self.lanes.insert(message.to.clone(), Lane::default());
        }
        let Some(lane) = self.lanes.get_mut(&message.to) else { return };
        if ahead || lane.behind.is_none() && lane.waiting.len() < MAX_WAITING {
            lane.waiting.push_back(Waiting { position, message, tries: 0 });
        } else {
            let before = position.saturating_sub(1);
            lane.behind = Some(lane.behind.map_or(before, |behind| behind.min(before)));
        }
    }

    /// Fetches what was left in the store for lanes that have room again.
    async fn catch_up(&mut self) -> Result<(), Error> {
        let wanting = |lane: &Lane| lane.behind.is_some() && lane.waiting.is_empty() && lane.not_before.is_none();
        let receivers: Vec<String> =
            self.lanes.iter().filter(|(_, lane)| wanting(lane)).map(|(receiver, _)| receiver.clone()).collect();
        for receiver in receivers {
            while let Some(after) = self.lanes.get(&receiver).and_then(|lane| lane.behind) {
                let page = self.page(after).await?;
                let end = self.seen;
                let Some(lane) = self.lanes.get_mut(&receiver) else { break };
                let mut last = after;
                for (position, message) in page {
                    if position > end || lane.waiting.len() >= MAX_WAITING {
                        break;
                    }
                    last = position;
                    if message.to == receiver {
                        lane.waiting.push_back(Waiting { position, message, tries: 0 });
                    }
                }
                lane.behind = Some(last).filter(|last| *last < end && *last != after);
                if lane.waiting.len() >= MAX_WAITING {
                    break;
                }
            }
        }
        Ok(())
    }

    fn page(&self, after: u64) -> impl Future<Output = Result<Vec<(u64, Outgoing)>, Error>> + use<> {
        let (store, left) = (self.store.clone(), self.left);
        let read = tokio::task::spawn_blocking(move || store.outgoing(after, PAGE));
        async move {
            // The runtime is going down: nothing more is published.
            let mut page = read.await.unwrap_or(Ok(Vec::new()))?;
            for (position, message) in &mut page {
                // The process before this one may have handed it over and not lived to note it.
                message.redelivered = *position <= left;
            }
            Ok(page)
        }
    }

    fn publish(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= now) {
            let waiting = entry.remove();
            if let Some(lane) = self.lanes.get_mut(&waiting.message.to) {
                lane.waiting.push_front(waiting);
            }
        }
        for lane in self.lanes.values_mut() {
            if lane.not_before.is_some_and(|at| at > now) {
                continue;
            }
            lane.not_before = None;
            // A receiver that was away is asked with one message whether it is back.
            let at_once = if lane.away > 0 { 1 } else { AT_ONCE };
            while lane.in_flight < at_once
                && let Some(mut waiting) = lane.waiting.pop_front()
            {
                lane.in_flight += 1;
                // Handed over whole, so that its receiver need not copy it. Should it come back, the envelope is enough.
                let content = waiting.message.content.take();
                let handing = self.bus.publish(Outgoing { content, ..waiting.message.clone() });
                self.publishing.push(Box::pin(publish(waiting, handing)));
            }
        }
    }

    /// What became of a message.
    fn returned(&mut self, returned: Returned) {
        let Returned { mut waiting, result } = returned;
        let receiver = &waiting.message.to;
        let Some(lane) = self.lanes.get_mut(receiver) else { return };
        lane.in_flight -= 1;
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(()) => {
                lane.away = 0;
                count(&self.progress.taken);
                self.forget.delivered.push(waiting.position);
            }
            Err(Refusal::Unavailable(why)) => {
                count(&self.progress.refused);
                if lane.away == 0 {
                    tracing::warn!(receiver, why, "messages wait for their receiver");
                }
                // Those that were sent together came back together: they count once.
                if lane.not_before.is_none() {
                    lane.not_before = Some(Instant::now() + backoff(lane.away));
                    lane.away = lane.away.saturating_add(1);
                }
                lane.waiting.push_front(waiting.again());
            }
            Err(Refusal::Later(why)) if waiting.tries < MAX_TRIES => {
                count(&self.progress.refused);
                let at = Instant::now() + backoff(waiting.tries);
                tracing::debug!(receiver, why, tries = waiting.tries, "a message waits");
                waiting.tries += 1;
                self.later.insert((at, waiting.position), waiting.again());
            }
            Err(Refusal::Later(why) | Refusal::Never(why)) => {
                count(&self.progress.dead);
                tracing::error!(receiver, why, position = waiting.position, "a message became a dead letter");
                self.forget.dead.push((waiting.position, why));
            }
        }
        if !self.forget.delivered.is_empty() || !self.forget.dead.is_empty() {
            self.forget_at.get_or_insert_with(|| Instant::now() + FORGET_AFTER);
        }
    }

    /// Takes what has come to its end out of the store, unless it is being done: then with what comes to it meanwhile.
    fn forget(&mut self, all: bool) {
        let count = self.forget.delivered.len() + self.forget.dead.len();
        let due = self.forget_at.is_some_and(|at| at <= Instant::now());
        if self.forgetting.is_some() || count == 0 || !(all || due || count >= FORGET) {
            return;
        }
        self.forget_at = None;
        let (written, is_written) = oneshot::channel();
        self.store.commit(
            vec![std::mem::take(&mut self.forget)],
            Box::new(move |result| {
                // The relay may have been dropped.
                let _ = written.send(result);
            }),
        );
        self.forgetting = Some(is_written);
    }

    /// Forgets what is left to be forgotten.
    async fn end(&mut self) -> Result<(), Error> {
        loop {
            self.forget(true);
            match self.forgetting {
                Some(_) => forgotten(&mut self.forgetting).await?,
                None => return Ok(()),
            }
        }
    }

    /// When something is due without being told.
    fn next_time(&self) -> Option<Instant> {
        let lanes = self.lanes.values().filter(|lane| !lane.waiting.is_empty() || lane.behind.is_some());
        let lanes = lanes.filter_map(|lane| lane.not_before);
        let later = self.later.keys().map(|(at, _)| *at).take(1);
        let forget_at = self.forget_at.filter(|_| self.forgetting.is_none());
        lanes.chain(later).chain(forget_at).min()
    }
}

/// Waits until a message was taken. A receiver that panics must not take the others' messages with it.
async fn publish(waiting: Waiting, handing: Handing) -> Returned {
    let result = AssertUnwindSafe(handing).catch_unwind().await;
    let result = result.unwrap_or_else(|_| Err(Refusal::Later("its receiver panicked".into())));
    Returned { waiting, result }
}

/// Resolves when what is being forgotten is gone; never when nothing is.
async fn forgotten(forgetting: &mut Option<oneshot::Receiver<Result<(), Error>>>) -> Result<(), Error> {
    let Some(written) = forgetting else { return std::future::pending().await };
    let result = written.await;
    *forgetting = None;
    // A store that is closing answers nobody.
    result.unwrap_or(Ok(()))
}

fn backoff(tries: u32) -> Duration {
    BACKOFF.saturating_mul(1_u32.checked_shl(tries.min(16)).unwrap_or(u32::MAX)).min(MAX_BACKOFF)
}
