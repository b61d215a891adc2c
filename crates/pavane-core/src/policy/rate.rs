//! Rate limit: the generic cell rate algorithm (ITU-T I.371), one number of state.

use std::time::Duration;

/// How much sooner than its time a call may come. Timers wake up to some milliseconds late, several calls at once;
/// without this what they lose would be lost for good. In any period of length `t` there are at most
/// `1 + (t + SLACK) / interval` calls.
const SLACK: Duration = Duration::from_millis(20);

/// So many calls in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Calls, at least 1.
    pub calls: u32,
    /// In this time.
    pub per: Duration,
}

impl Rate {
    /// Calls per second.
    pub fn per_second(&self) -> f64 {
        f64::from(self.calls) / self.per.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Time from one call to the next, when they are exactly in time.
    pub fn interval(&self) -> Duration {
        self.per / self.calls.max(1)
    }
}

/// The algorithm itself: who keeps when the next one is due asks it whether that is soon enough. Times are since a start
/// that the asker chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From one to the next, when they are exactly in time.
    pub interval: Duration,
    /// How much sooner than its time one may come.
    pub tolerance: Duration,
}

impl Pace {
    /// From when on one that is due at a time may come.
    pub fn ready_at(&self, due: Duration) -> Duration {
        due.saturating_sub(self.tolerance)
    }

    /// One comes: when the next is due.
    pub fn after(&self, due: Duration, now: Duration) -> Duration {
        due.max(now).saturating_add(self.interval)
    }
}

/// Lets calls pass at a rate.
#[derive(Clone, Debug)]
pub struct Throttle {
    pace: Pace,
    /// When the next call is due if all come on time.
    due: Duration,
}

impl Throttle {
    /// One that has let nothing pass.
    pub fn new(rate: Rate) -> Throttle {
        Throttle { pace: Pace { interval: rate.interval(), tolerance: SLACK }, due: Duration::ZERO }
    }

    /// When the next call may pass.
    pub fn ready_at(&self) -> Duration {
        self.pace.ready_at(self.due)
    }

    /// Whether a call may pass.
    pub fn is_ready(&self, now: Duration) -> bool {
        self.ready_at() <= now
    }

    /// A call passes.
    pub fn take(&mut self, now: Duration) {
        self.due = self.pace.after(self.due, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_come_at_the_rate_whatever_the_timers_do() {
        for (calls, per, step) in [(500, 1, 1), (10, 1, 1), (10, 1, 7), (5_000, 1, 1), (30, 60, 3), (1, 1, 11)] {
            let rate = Rate { calls, per: Duration::from_secs(per) };
            let mut throttle = Throttle::new(rate);
            let mut passed = Vec::new();
            for now in (0..120_000).step_by(step).map(Duration::from_millis) {
                while throttle.is_ready(now) {
                    throttle.take(now);
                    passed.push(now);
                }
            }
            let expected = rate.per_second() * 120.0;
            let got = passed.len() as f64;
            let burst = 1.0 + SLACK.as_secs_f64() * rate.per_second();
            assert!(got <= expected + burst + 1.0, "{rate:?}: {got} of {expected}");
            assert!(got >= expected * 0.99, "{rate:?}: late timers cost {expected} - {got}");
            for (i, from) in passed.iter().enumerate().step_by(37) {
                for (n, to) in passed.iter().enumerate().skip(i).step_by(53) {
                    let most = 1.0 + (*to - *from + SLACK).as_secs_f64() * rate.per_second() + 1e-6;
                    assert!((n - i + 1) as f64 <= most + 1e-6, "{rate:?}: {} from {from:?} to {to:?}", n - i + 1);
                }
            }
        }
    }

    #[test]
    fn an_idle_time_saves_nothing_up() {
        let mut throttle = Throttle::new(Rate { calls: 10, per: Duration::from_secs(1) });
        throttle.take(Duration::ZERO);
        let later = Duration::from_secs(3_600);
        throttle.take(later);
        assert!(!throttle.is_ready(later));
        assert_eq!(throttle.ready_at(), later + Duration::from_millis(100) - SLACK);
    }
}
