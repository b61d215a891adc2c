//! Rate limits: how many requests in how long, for whom. Pure; time is an argument.
//!
//! The algorithm is that of the gates before services ([`Pace`]), with one number for each caller: the moment at which its
//! next request would be exactly in time. A caller may be early by a burst.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pavane_core::policy::{self, Pace};
use pavane_core::units::parse_rate;
use serde::Deserialize;
use serde::de::Error as _;

/// Callers that are remembered for one limit. Each is a hash and a moment: with all of them, some MiB.
const MAX_CALLERS: usize = 100_000;

/// Most requests of a rate: their interval is a microsecond at least, far below what clocks tell apart here.
const MOST: u32 = 1_000_000;

/// A rate as it is written: `100/s`, `100/s per client`, `1000/m per key burst 50`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    requests: policy::Rate,
    burst: u32,
    /// For whom it counts.
    pub per: Per,
}

/// For whom a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// All who use the route together.
    Route,
    /// Each address.
    Client,
    /// Each caller that authentication has named; others by address.
    Key,
}

impl Rate {
    /// Reads a rate.
    ///
    /// # Errors
    /// How to write it.
    pub fn parse(text: &str) -> Result<Rate, String> {
        let wrong =
            || format!("`{text}` is no rate: write for example 100/s, 100/s per client, 1000/m per key burst 50");
        let mut words = text.split_whitespace();
        let requests = parse_rate(words.next().ok_or_else(wrong)?).map_err(|_| wrong())?;
        if requests.calls > MOST {
            return Err(wrong());
        }
        let mut rate = Rate { requests, burst: requests.calls, per: Per::Route };
        while let Some(word) = words.next() {
            match (word, words.next()) {
                ("per", Some("route")) => rate.per = Per::Route,
                ("per", Some("client")) => rate.per = Per::Client,
                ("per", Some("key")) => rate.per = Per::Key,
                ("burst", Some(number)) => rate.burst = number.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?,
                _ => return Err(wrong()),
            }
        }
        Ok(rate)
    }

    /// A caller may be early by the rest of a burst.
    fn pace(&self) -> Pace {
        let interval = self.requests.interval();
        Pace { interval, tolerance: interval * (self.burst - 1) }
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Rate, D::Error> {
        Rate::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Who is counted together.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) enum Who<'a> {
    /// All of a route.
    Everybody,
    /// Whom authentication has named.
    Caller(&'a str),
    V4(std::net::Ipv4Addr),
    /// The first half of an address: whoever has one has its whole /64.
    V6(u64),
}

impl Who<'_> {
    /// Those at an address.
    pub fn at(address: IpAddr) -> Who<'static> {
        match address {
            IpAddr::V4(address) => Who::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Who::V6(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
        }
    }
}

/// What a limit says about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Whether it may go on.
    pub allowed: bool,
    /// Requests of a burst.
    pub limit: u32,
    /// Requests that could follow at once.
    pub remaining: u32,
    /// Until all of the burst is there again.
    pub reset: Duration,
    /// Until a request may go on, when this one may not.
    pub retry: Duration,
}

/// A limit and those who were counted by it.
#[derive(Debug)]
pub(crate) struct Limiter {
    pub rate: Rate,
    start: Instant,
    hasher: RandomState,
    /// By the hash of a caller: when its next request is in time, since `start`. Two callers with one hash share a
    /// limit; the hash is keyed, so that nobody can choose to.
    callers: Mutex<HashMap<u64, Duration>>,
}

impl Limiter {
    pub fn new(rate: Rate, start: Instant) -> Limiter {
        Limiter { rate, start, hasher: RandomState::new(), callers: Mutex::default() }
    }

    /// Counts a request.
    pub fn count(&self, caller: Who<'_>, now: Instant) -> Verdict {
        let now = now.saturating_duration_since(self.start);
        let caller = self.hasher.hash_one(caller);
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.len() >= MAX_CALLERS && !callers.contains_key(&caller) {
            // Who is in time again needs no memory. If all others are early, the newcomer pays for none of them.
            callers.retain(|_, due| *due > now);
            if callers.len() >= MAX_CALLERS {
                callers.clear();
            }
        }
        let due = callers.get(&caller).copied().unwrap_or_default().max(now);
        let (verdict, due) = judge(&self.rate, due, now);
        if verdict.allowed {
            callers.insert(caller, due);
        }
        verdict
    }
}

/// Judges a request of a caller whose next one is in time at `due`; gives when the one after it is.
fn judge(rate: &Rate, due: Duration, now: Duration) -> (Verdict, Duration) {
    let pace = rate.pace();
    let ready_at = pace.ready_at(due);
    let allowed = ready_at <= now;
    let due = if allowed { pace.after(due, now) } else { due };
    let early = due.saturating_sub(now);
    let room = (pace.tolerance + pace.interval).saturating_sub(early);
    let remaining = u32::try_from(room.as_nanos() / pace.interval.as_nanos().max(1)).unwrap_or(u32::MAX);
    let retry = if allowed { Duration::ZERO } else { ready_at.saturating_sub(now) };
    (Verdict { allowed, limit: rate.burst, remaining, reset: early, retry }, due)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_written() {
        let rate = |calls, seconds, burst, per| Rate {
            requests: policy::Rate { calls, per: Duration::from_secs(seconds) },
            burst,
            per,
        };
        for (text, expected) in [
            ("100/s", Some(rate(100, 1, 100, Per::Route))),
            ("100/s per client", Some(rate(100, 1, 100, Per::Client))),
            ("60/m per key burst 5", Some(rate(60, 60, 5, Per::Key))),
            ("5/h burst 1 per route", Some(rate(5, 3_600, 1, Per::Route))),
            ("0/s", None),
            ("100", None),
            ("100/d", None),
            ("100/s per planet", None),
            ("100/s per", None),
            ("100/s burst 0", None),
            ("-1/s", None),
        ] {
            assert_eq!(Rate::parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_caller_may_be_early_by_a_burst() {
        let start = Instant::now();
        let limiter = Limiter::new(Rate::parse("10/s burst 3").unwrap(), start);
        // Milliseconds, whether it may go on, what is left, when all is there again, when to come back.
        for (at, allowed, remaining, reset, retry) in [
            (0, true, 2, 100, 0),
            (0, true, 1, 200, 0),
            (0, true, 0, 300, 0),
            (0, false, 0, 300, 100),
            (50, false, 0, 250, 50),
            (100, true, 0, 300, 0),
            (100, false, 0, 300, 100),
            (350, true, 1, 150, 0),
            (5_000, true, 2, 100, 0),
        ] {
            let verdict = limiter.count(Who::Caller("a"), start + Duration::from_millis(at));
            let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap();
            let got = (verdict.allowed, verdict.remaining, millis(verdict.reset), millis(verdict.retry));
            assert_eq!(got, (allowed, remaining, reset, retry), "at {at}");
        }
        assert!(limiter.count(Who::Caller("b"), start + Duration::from_secs(5)).allowed, "another caller has its own");
    }

    #[test]
    fn over_time_no_more_goes_on_than_the_rate() {
        let start = Instant::now();
        for text in ["7/s", "100/s burst 1", "30/m burst 10"] {
            let rate = Rate::parse(text).unwrap();
            let limiter = Limiter::new(rate, start);
            let seconds = 100;
            let tries = (0..seconds * 500).map(|n| start + Duration::from_millis(n * 2));
            let allowed = tries.filter(|at| limiter.count(Who::Caller("a"), *at).allowed).count();
            let most = rate.burst as usize
                + usize::try_from(seconds).unwrap() * rate.requests.calls as usize
                    / rate.requests.per.as_secs() as usize;
            assert!((most - 2..=most).contains(&allowed), "{text}: {allowed} of {most}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let start = Instant::now();
        let limiter = Limiter::new(Rate::parse("1/h per client").unwrap(), start);
        for caller in 0..MAX_CALLERS + 10 {
            assert!(limiter.count(Who::Caller(&caller.to_string()), start).allowed);
        }
        assert!(limiter.callers.lock().unwrap().len() <= MAX_CALLERS);
    }
}
