//! How busy something was lately.

use std::time::Duration;

/// How fast the past is forgotten: long enough that one scrape of a bursty service tells something, short enough that
/// a scaler sees a change within its own interval (30 s is usual).
const MEMORY: Duration = Duration::from_secs(15);

/// The mean of a number over the last while, each value weighted by how long it held, the past fading.
#[derive(Clone, Debug, Default)]
pub struct Average {
    value: f64,
    since: Duration,
    mean: f64,
}

impl Average {
    /// The number is this from now on.
    pub fn set(&mut self, now: Duration, value: f64) {
        self.mean = self.mean(now);
        self.since = self.since.max(now);
        self.value = value;
    }

    /// The mean as of now.
    pub fn mean(&self, now: Duration) -> f64 {
        let held = now.saturating_sub(self.since).as_secs_f64();
        let kept = (-held / MEMORY.as_secs_f64()).exp();
        self.value + (self.mean - self.value) * kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_follows_what_lasts_and_not_a_moment() {
        let at = Duration::from_secs;
        let mut load = Average::default();
        load.set(at(0), 1.0);
        assert!(load.mean(at(5)) < 0.3 && load.mean(at(60)) > 0.95);
        load.set(at(60), 0.0);
        load.set(at(61), 1.0);
        assert!(load.mean(at(61)) > 0.9, "one idle second");
        load.set(at(62), 0.0);
        assert!(load.mean(at(122)) < 0.05, "a minute of idleness");
        // Half of the time busy is half busy.
        for half_seconds in 0..200_u32 {
            load.set(at(122) + Duration::from_millis(500) * half_seconds, f64::from(half_seconds % 2));
        }
        assert!((load.mean(at(222)) - 0.5).abs() < 0.05, "{}", load.mean(at(222)));
    }
}
