//! Counts over the time that has just passed, in constant memory.

use std::time::Duration;

/// What has passed leaves the window in steps of a tenth of it: fine enough for a rate, and small.
const SLICES: usize = 10;

/// How often each of `K` things happened within the last `length`, give or take a slice.
#[derive(Clone, Debug)]
pub(super) struct Window<const K: usize> {
    slice: Duration,
    counts: [[u32; K]; SLICES],
    /// Number of the newest slice since the start.
    newest: u64,
}

impl<const K: usize> Window<K> {
    pub fn new(length: Duration) -> Window<K> {
        let slice = (length / SLICES as u32).max(Duration::from_nanos(1));
        Window { slice, counts: [[0; K]; SLICES], newest: 0 }
    }

    /// Counts one thing of a kind; a kind that there is none of is not counted.
    pub fn add(&mut self, now: Duration, kind: usize) {
        self.turn(now);
        let count = self.counts[(self.newest % SLICES as u64) as usize].get_mut(kind);
        count.into_iter().for_each(|count| *count = count.saturating_add(1));
    }

    /// How often each happened.
    pub fn totals(&mut self, now: Duration) -> [u64; K] {
        self.turn(now);
        let mut totals = [0; K];
        for slice in &self.counts {
            totals.iter_mut().zip(slice).for_each(|(total, count)| *total += u64::from(*count));
        }
        totals
    }

    /// When the next slice begins: until then nothing leaves the window.
    pub fn next_slice(&self) -> Duration {
        let nanos = self.slice.as_nanos().saturating_mul(u128::from(self.newest) + 1);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Empties the slices whose time has come round again.
    fn turn(&mut self, now: Duration) {
        let number = u64::try_from(now.as_nanos() / self.slice.as_nanos()).unwrap_or(u64::MAX);
        let passed = number.saturating_sub(self.newest).min(SLICES as u64);
        for step in 1..=passed {
            let gone = number - (passed - step);
            self.counts[(gone % SLICES as u64) as usize] = [0; K];
        }
        self.newest = self.newest.max(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let at = Duration::from_millis;
        let mut window = Window::<2>::new(at(1_000));
        for (now, kind) in [(0, 0), (50, 1), (450, 0), (999, 0)] {
            window.add(at(now), kind);
        }
        for (now, totals) in [(999, [3, 1]), (1_000, [2, 0]), (1_399, [2, 0]), (1_400, [1, 0]), (2_000, [0, 0])] {
            assert_eq!(window.totals(at(now)), totals, "at {now} ms");
        }
        window.add(at(2_000), 1);
        assert_eq!(window.totals(at(1_500)), [0, 1], "time does not run backwards");
        assert_eq!(window.totals(at(1_000_000)), [0, 0]);
        assert_eq!(window.next_slice(), at(1_000_100));
    }
}
