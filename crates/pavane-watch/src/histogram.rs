//! Distributions: how often a number fell between which bounds, with a trace to look at for each.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::TraceId;

/// Bounds for what takes moments: from a local call to the longest that a call may take by default and beyond.
pub const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// Bounds for what may take days: a workflow waits for people.
pub const LIVES: &[f64] =
    &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1_800.0, 3_600.0, 21_600.0, 86_400.0];

/// Bounds for numbers of things in one go.
pub const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 4_096.0];

/// A sum is kept in millionths: whole, so that it can be added to without a lock.
const PARTS: f64 = 1e6;

/// A distribution. Recording costs three atomic additions, and never waits.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: what is above them all.
    buckets: Box<[Bucket]>,
    sum: AtomicU64,
}

#[derive(Debug, Default)]
struct Bucket {
    count: AtomicU64,
    /// Taken only when nobody else has it: an exemplar more or less is no loss.
    exemplar: Mutex<Option<Exemplar>>,
}

/// One of the values in a bucket, and the trace that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    /// The trace.
    pub trace: TraceId,
    /// The value.
    pub value: f64,
    /// When it was recorded.
    pub at: SystemTime,
}

/// A distribution at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Upper bounds, in ascending order; the bucket without one follows them.
    pub bounds: &'static [f64],
    /// How many values fell into each bucket, and one of them.
    pub buckets: Vec<(u64, Option<Exemplar>)>,
    /// All values together.
    pub sum: f64,
}

impl Histogram {
    /// An empty distribution.
    pub fn new(bounds: &'static [f64]) -> Histogram {
        let buckets = (0..=bounds.len()).map(|_| Bucket::default()).collect();
        Histogram { bounds, buckets, sum: AtomicU64::new(0) }
    }

    /// Records a value, not negative, and the trace that it belongs to if that can be looked at.
    pub fn record(&self, value: f64, trace: Option<TraceId>) {
        let index = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        let Some(bucket) = self.buckets.get(index) else { return };
        bucket.count.fetch_add(1, Ordering::Relaxed);
        // Saturates: a conversion of what is too large gives the largest.
        self.sum.fetch_add((value * PARTS).round() as u64, Ordering::Relaxed);
        if let Some(trace) = trace
            && let Ok(mut exemplar) = bucket.exemplar.try_lock()
        {
            *exemplar = Some(Exemplar { trace, value, at: SystemTime::now() });
        }
    }

    /// What was recorded.
    pub fn read(&self) -> Reading {
        // Read before the buckets: what comes in between is then in the buckets alone, and no average is too high.
        let sum = self.sum.load(Ordering::Relaxed) as f64 / PARTS;
        let read = |bucket: &Bucket| {
            let exemplar = bucket.exemplar.try_lock().ok().and_then(|exemplar| *exemplar);
            (bucket.count.load(Ordering::Relaxed), exemplar)
        };
        Reading { bounds: self.bounds, buckets: self.buckets.iter().map(read).collect(), sum }
    }
}

impl Reading {
    /// Nothing recorded yet.
    pub fn none(bounds: &'static [f64]) -> Reading {
        Reading { bounds, buckets: vec![(0, None); bounds.len() + 1], sum: 0.0 }
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(count, _)| count).sum()
    }

    /// Adds what another distribution with the same bounds has.
    pub fn add(&mut self, other: &Reading) {
        for ((count, exemplar), (more, new)) in self.buckets.iter_mut().zip(&other.buckets) {
            *count += more;
            *exemplar = exemplar.or(*new);
        }
        self.sum += other.sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new(&[1.0, 10.0]);
        let trace = TraceId::of(7);
        for value in [0.0, 1.0, 1.5, 10.0, 11.0] {
            histogram.record(value, trace.filter(|_| value == 1.5));
        }
        let read = histogram.read();
        assert_eq!(read.buckets.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [2, 2, 1]);
        assert!((read.sum - 23.5).abs() < 1e-9 && read.count() == 5, "{read:?}");
        assert_eq!(read.buckets[1].1.map(|e| (e.trace, e.value)), Some((trace.unwrap(), 1.5)));
        assert_eq!((read.buckets[0].1, read.buckets[2].1), (None, None));
        let mut all = Reading::none(&[1.0, 10.0]);
        all.add(&read);
        all.add(&read);
        assert_eq!((all.count(), all.sum), (10, 47.0));
    }

    #[test]
    fn nobody_waits_for_an_exemplar() {
        let histogram = Histogram::new(&[1.0]);
        let held = histogram.buckets[0].exemplar.lock().unwrap();
        histogram.record(0.5, TraceId::of(7));
        drop(held);
        assert_eq!(histogram.read().buckets[0], (1, None), "it is counted, without a trace");
    }
}
