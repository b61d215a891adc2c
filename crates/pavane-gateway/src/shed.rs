//! How many requests a service gets at once, learned from how long it takes: beyond that they are refused early, which
//! costs less than all of them being late. Pure; durations are arguments.
//!
//! A gradient limit (after Netflix's concurrency-limits): what answers take now is held against what they take without
//! load. When they get slower, fewer go on at once; when they do not, a few more are tried. What they take without load is
//! learned only while there is little of it, or it would follow every overload until nothing is slow any more.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Requests at once, at least: with none there is nothing to learn from.
const LEAST: f64 = 4.0;
/// To begin with.
const BEGIN: f64 = 20.0;
/// At most: what sockets and memory of one process bear.
const MOST: f64 = 2_000.0;
/// How much slower than without load is still taken for chance.
const TOLERANCE: f64 = 2.0;
/// Answers that are judged together, at least: fewer say too little.
const WINDOW: u32 = 10;
/// How much slower answers under little load count for what they take without any.
const SLOWER: f64 = 0.1;

/// A limit that learns.
#[derive(Debug)]
pub(crate) struct Concurrency(Mutex<Learned>);

#[derive(Clone, Copy, Debug)]
struct Learned {
    limit: f64,
    in_flight: u32,
    /// Seconds that an answer takes without load; 0: none came yet.
    unloaded: f64,
    window: Window,
}

/// Answers that are judged together.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    answers: u32,
    lost: u32,
    seconds: f64,
    /// Most requests that were there at once.
    most: u32,
}

impl Default for Concurrency {
    fn default() -> Concurrency {
        let learned = Learned { limit: BEGIN, in_flight: 0, unloaded: 0.0, window: Window::default() };
        Concurrency(Mutex::new(learned))
    }
}

impl Concurrency {
    /// Whether one more request may go on: how many there are then. It must be told to [`Concurrency::end`] or
    /// [`Concurrency::leave`].
    pub fn begin(&self) -> Option<u32> {
        let mut learned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = f64::from(learned.in_flight) < learned.limit;
        learned.in_flight += u32::from(fits);
        fits.then_some(learned.in_flight)
    }

    /// A request that was one of `begun` when it began has ended: with an answer after so long, or, with `None`, without
    /// one in time.
    pub fn end(&self, begun: u32, took: Option<Duration>) {
        let mut learned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What is slow at the end of a rush was slow because of it.
        let at_once = learned.in_flight.max(begun);
        let window = &mut learned.window;
        window.most = window.most.max(at_once);
        match took {
            Some(took) => {
                window.answers += 1;
                window.seconds += took.as_secs_f64().max(1e-6);
            }
            None => window.lost += 1,
        }
        learned.in_flight = learned.in_flight.saturating_sub(1);
        // About as many as can be there at once: each change is seen before the next.
        let enough = f64::from(learned.window.answers + learned.window.lost) >= learned.limit.max(f64::from(WINDOW));
        if enough {
            learned.judge();
        }
    }

    /// A request has ended in a way that says nothing about the service.
    pub fn leave(&self) {
        let mut learned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        learned.in_flight = learned.in_flight.saturating_sub(1);
    }

    /// The limit, and how many are in flight.
    pub fn standing(&self) -> (f64, u32) {
        let learned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (learned.limit, learned.in_flight)
    }
}

impl Learned {
    fn judge(&mut self) {
        let Window { answers, lost, seconds, most } = std::mem::take(&mut self.window);
        if answers > 0 {
            let now = seconds / f64::from(answers);
            // With the least limit there is little load, too: a service that has become slower for good is found out there.
            let used_up = f64::from(most) >= self.limit / 2.0;
            let little = !used_up || f64::from(most) <= LEAST;
            if self.unloaded == 0.0 || now < self.unloaded {
                self.unloaded = now;
            } else if little {
                self.unloaded += (now - self.unloaded) * SLOWER;
            }
            let gradient = (TOLERANCE * self.unloaded / now).clamp(0.5, 1.0);
            if gradient < 1.0 {
                self.limit *= (1.0 + gradient) / 2.0;
            } else if lost == 0 && used_up {
                // A limit that is not used up says nothing about whether it is too high.
                self.limit += self.limit.sqrt();
            }
        }
        self.limit *= 1.0 - 0.5 * f64::from(lost) / f64::from(answers + lost).max(1.0);
        self.limit = self.limit.clamp(LEAST, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many begin as may, and end after `took` of them.
    fn round(concurrency: &Concurrency, took: impl Fn(u32) -> Duration) {
        let begun: Vec<u32> = std::iter::from_fn(|| concurrency.begin()).take(3_000).collect();
        let took = took(u32::try_from(begun.len()).unwrap());
        begun.into_iter().for_each(|begun| concurrency.end(begun, Some(took)));
    }

    /// A service that takes 10 ms for each request as long as no more than `capacity` are there at once, and longer in
    /// proportion when there are. Every client that may come does. Gives the limit after so many rounds.
    fn settle(concurrency: &Concurrency, capacity: f64, rounds: usize) -> f64 {
        for _ in 0..rounds {
            round(concurrency, |begun| Duration::from_secs_f64(0.010 * (f64::from(begun) / capacity).max(1.0)));
        }
        concurrency.standing().0
    }

    #[test]
    fn the_limit_follows_what_the_service_can_bear() {
        let concurrency = Concurrency::default();
        let idle = settle(&Concurrency::default(), 1e9, 200);
        assert!(idle > 1_000.0, "without slowness it grows: {idle}");
        for rounds in [20, 200, 2_000] {
            let limit = settle(&concurrency, 100.0, rounds);
            assert!((100.0..400.0).contains(&limit), "after {rounds} more: {limit}");
        }
    }

    #[test]
    fn answers_that_become_slow_lower_it_and_it_recovers() {
        let concurrency = Concurrency::default();
        for _ in 0..2_000 {
            let begun = concurrency.begin().expect("it fits");
            concurrency.end(begun, Some(Duration::from_millis(10)));
        }
        let before = concurrency.standing().0;
        for _ in 0..100 {
            let begun = concurrency.begin().expect("it fits");
            concurrency.end(begun, Some(Duration::from_millis(200)));
        }
        let slow = concurrency.standing().0;
        assert!(slow < before / 2.0, "{before} to {slow}");
        let fast = settle(&concurrency, 1e9, 100);
        assert!(fast > before, "{slow} to {fast}");
    }

    #[test]
    fn a_service_that_is_slower_for_good_is_not_starved_for_ever() {
        let concurrency = Concurrency::default();
        settle(&concurrency, 100.0, 50);
        // From now on everything takes ten times as long, whatever the load.
        let mut least = f64::MAX;
        for _ in 0..1_000 {
            round(&concurrency, |_| Duration::from_millis(100));
            least = least.min(concurrency.standing().0);
        }
        let limit = concurrency.standing().0;
        assert!(least < 10.0 && limit > 100.0, "{least} to {limit}");
    }

    #[test]
    fn what_is_lost_lowers_it_to_a_least() {
        let concurrency = Concurrency::default();
        for _ in 0..200 {
            let begun = concurrency.begin().expect("it fits");
            concurrency.end(begun, None);
        }
        assert_eq!(concurrency.standing(), (LEAST, 0));
        let begun = (0..100).filter(|_| concurrency.begin().is_some()).count();
        assert_eq!(begun, 4, "so many at once, and no more");
    }
}
