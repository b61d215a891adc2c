//! What the gateway has done since it began, in numbers. Bounded by the routes and services of the settings.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pavane_watch::{Histogram, Reading, SECONDS, TraceId};

/// Numbers of one route.
#[derive(Debug, Default)]
pub(crate) struct RouteStats {
    /// Answers by the first digit of their status.
    answers: [AtomicU64; 6],
    /// Times to the beginning of answers, in seconds, by the same digit; there once one is needed.
    times: [OnceLock<Histogram>; 6],
    in_flight: AtomicU64,
}

impl RouteStats {
    /// A request came. What is given back counts it as in flight until it is dropped.
    pub fn begin(stats: &std::sync::Arc<RouteStats>) -> Busy {
        stats.in_flight.fetch_add(1, Ordering::Relaxed);
        Busy(stats.clone())
    }

    /// Its answer began.
    pub fn answered(&self, status: u16, took: Duration, trace: Option<TraceId>) {
        let digit = usize::from(status / 100);
        if let Some((count, times)) = self.answers.get(digit).zip(self.times.get(digit)) {
            count.fetch_add(1, Ordering::Relaxed);
            times.get_or_init(|| Histogram::new(SECONDS)).record(took.as_secs_f64(), trace);
        }
    }

    pub fn numbers(&self, route: &str) -> RouteNumbers {
        let mut answers = [0; 6];
        for (number, count) in answers.iter_mut().zip(&self.answers) {
            *number = count.load(Ordering::Relaxed);
        }
        RouteNumbers {
            route: route.to_owned(),
            answers,
            times: self.times.each_ref().map(|times| times.get().map(Histogram::read)),
            in_flight: self.in_flight.load(Ordering::Relaxed),
        }
    }
}

/// A request in flight.
pub(crate) struct Busy(std::sync::Arc<RouteStats>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All numbers at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Connections that are open.
    pub connections: usize,
    /// Requests that no route took, or that were refused before one was looked for.
    pub unrouted: u64,
    /// Routes, in the order of the file.
    pub routes: Vec<RouteNumbers>,
    /// Services, by name.
    pub upstreams: Vec<UpstreamNumbers>,
}

/// Numbers of one route.
#[derive(Clone, Debug)]
pub struct RouteNumbers {
    /// Its number in the file and its path.
    pub route: String,
    /// Answers by the first digit of their status.
    pub answers: [u64; 6],
    /// Seconds from requests to the beginning of their answers, by the first digit of their status.
    pub times: [Option<Reading>; 6],
    /// Requests whose answer has not ended.
    pub in_flight: u64,
}

/// Numbers of one service.
#[derive(Clone, Debug)]
pub struct UpstreamNumbers {
    /// Its name.
    pub service: String,
    /// Its URLs.
    pub urls: usize,
    /// Those that get requests.
    pub well: usize,
    /// Requests in flight.
    pub in_flight: usize,
    /// Requests that may be in flight, as learned, if load is shed.
    pub limit: Option<f64>,
}
