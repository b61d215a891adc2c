//! Circuit breaker: stops calls to a service that fails, and lets a few through to see whether it is back.
//!
//! *Closed*, calls flow and their outcomes are counted over a sliding window; *open*, none is sent; after a while it is
//! *half-open*, and a few trial calls decide. Outcomes of calls that began in an earlier period are no news.

use std::time::Duration;

use super::window::Window;

const ENDED: usize = 0;
const FAILED: usize = 1;
const SLOW: usize = 2;

/// The shortest window: in a tenth of less than this nothing ends.
const SHORTEST_WINDOW: Duration = Duration::from_millis(100);

/// When to open, and when to close again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerSettings {
    /// The part of failed calls, of those that ended in the window, at which it opens: above 0, at most 1.
    pub failure_rate: f64,
    /// Over how much time outcomes are counted.
    pub window: Duration,
    /// With fewer outcomes than this in the window it stays closed.
    pub min_calls: u32,
    /// How long it is open before it tries.
    pub open_for: Duration,
    /// Trial calls of the half-open state.
    pub half_open_calls: u32,
    /// A call that takes as long as this is slow, however it ends; none is slow when absent.
    pub slow: Option<Duration>,
    /// As `failure_rate`, of slow calls.
    pub slow_rate: f64,
}

impl Default for BreakerSettings {
    fn default() -> BreakerSettings {
        BreakerSettings {
            failure_rate: 0.5,
            window: Duration::from_secs(10),
            min_calls: 20,
            open_for: Duration::from_secs(5),
            half_open_calls: 3,
            slow: None,
            slow_rate: 0.5,
        }
    }
}

impl BreakerSettings {
    /// What is wrong with the settings: a key and a sentence for each.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        for (key, rate) in [("failure_rate", self.failure_rate), ("slow_rate", self.slow_rate)] {
            if !(rate > 0.0 && rate <= 1.0) {
                problems.push((key, format!("{rate} is no part of the calls: write a number above 0, up to 1")));
            }
        }
        for (key, calls) in [("min_calls", self.min_calls), ("half_open_calls", self.half_open_calls)] {
            if calls == 0 {
                problems.push((key, "at least 1 call is needed to judge by".to_owned()));
            }
        }
        if self.window < SHORTEST_WINDOW {
            problems.push(("window", format!("it must be {SHORTEST_WINDOW:?} at least")));
        }
        for (key, time) in [("open_for", Some(self.open_for)), ("slow", self.slow)] {
            if time == Some(Duration::ZERO) {
                problems.push((key, "it must be longer than nothing".to_owned()));
            }
        }
        problems
    }

    /// Whether so many of `ended` reach a rate.
    fn reached(rate: f64, of: u64, ended: u64) -> bool {
        of > 0 && of as f64 >= rate * ended as f64
    }
}

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// Nothing.
    Open,
    /// A few calls, to see.
    HalfOpen,
}

impl BreakerState {
    /// `closed`, `open` or `half_open`.
    pub fn as_str(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half_open",
        }
    }
}

/// What a call told about its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It did what it should, if only to refuse.
    Success,
    /// It failed, or did not answer.
    Failure,
    /// The call was given up before it could tell.
    NoNews,
}

/// Belongs to one call that was let through; goes back with its outcome.
#[derive(Debug)]
#[must_use = "a trial call whose outcome never comes keeps its place"]
pub struct Permit {
    period: u64,
}

#[derive(Clone, Debug)]
enum Phase {
    Closed(Window<3>),
    Open { until: Duration },
    HalfOpen { begun: u32, counts: [u32; 3] },
}

/// The breaker of one service.
#[derive(Clone, Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    phase: Phase,
    /// Rises with each change of state.
    period: u64,
    opened: u64,
}

impl Breaker {
    /// A closed one.
    pub fn new(settings: BreakerSettings) -> Breaker {
        Breaker { settings, phase: Phase::Closed(Window::new(settings.window)), period: 0, opened: 0 }
    }

    /// Its state; one whose time is over is half-open.
    pub fn state(&self, now: Duration) -> BreakerState {
        match &self.phase {
            Phase::Closed(_) => BreakerState::Closed,
            Phase::Open { until } if now < *until => BreakerState::Open,
            Phase::Open { .. } | Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Until when it is open.
    pub fn open_until(&self, now: Duration) -> Option<Duration> {
        match self.phase {
            Phase::Open { until } if now < until => Some(until),
            _ => None,
        }
    }

    /// Whether a call may begin. While trial calls are on their way further ones wait for their outcomes.
    pub fn admits(&self, now: Duration) -> bool {
        match &self.phase {
            Phase::Closed(_) => true,
            Phase::Open { until } => *until <= now,
            Phase::HalfOpen { begun, .. } => *begun < self.settings.half_open_calls,
        }
    }

    /// How often it has opened, from closed or again from half-open.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// A call that is [admitted](Breaker::admits) begins.
    pub fn begin(&mut self, now: Duration) -> Permit {
        if matches!(self.phase, Phase::Open { until } if until <= now) {
            self.enter(Phase::HalfOpen { begun: 0, counts: [0; 3] });
        }
        if let Phase::HalfOpen { begun, .. } = &mut self.phase {
            *begun += 1;
        }
        Permit { period: self.period }
    }

    /// It ended after `took`.
    pub fn end(&mut self, now: Duration, permit: Permit, took: Duration, verdict: Verdict) {
        if permit.period != self.period {
            return;
        }
        let failed = verdict == Verdict::Failure;
        let slow = self.settings.slow.is_some_and(|slow| took >= slow);
        let BreakerSettings { failure_rate, slow_rate, min_calls, half_open_calls, .. } = self.settings;
        let reached = BreakerSettings::reached;
        match &mut self.phase {
            Phase::HalfOpen { begun, .. } if verdict == Verdict::NoNews => *begun = begun.saturating_sub(1),
            _ if verdict == Verdict::NoNews => {}
            Phase::Closed(window) => {
                window.add(now, ENDED);
                [(failed, FAILED), (slow, SLOW)]
                    .iter()
                    .filter(|(so, _)| *so)
                    .for_each(|(_, kind)| window.add(now, *kind));
                let [ended, failures, slows] = window.totals(now);
                let bad = failed && reached(failure_rate, failures, ended) || slow && reached(slow_rate, slows, ended);
                if bad && ended >= u64::from(min_calls) {
                    self.open(now);
                }
            }
            Phase::HalfOpen { counts, .. } => {
                counts[ENDED] += 1;
                counts[FAILED] += u32::from(failed);
                counts[SLOW] += u32::from(slow);
                let [ended, failures, slows] = *counts;
                // As soon as the other trials cannot change it any more.
                let trials = u64::from(half_open_calls);
                if reached(failure_rate, failures.into(), trials) || reached(slow_rate, slows.into(), trials) {
                    self.open(now);
                } else if ended >= half_open_calls {
                    self.enter(Phase::Closed(Window::new(self.settings.window)));
                }
            }
            // A call of this period cannot end while it is open: none began.
            Phase::Open { .. } => {}
        }
    }

    fn open(&mut self, now: Duration) {
        self.opened += 1;
        self.enter(Phase::Open { until: now.saturating_add(self.settings.open_for) });
    }

    fn enter(&mut self, phase: Phase) {
        self.period += 1;
        self.phase = phase;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a script against a breaker: each word does something, and what the state is afterwards is written down.
    /// `ok`, `bad`, `slow` make a whole call; `begin` begins one, `end-ok`, `end-bad` and `drop` end the oldest;
    /// `+500` lets milliseconds pass.
    fn play(settings: BreakerSettings, script: &str) -> String {
        let mut breaker = Breaker::new(settings);
        let mut now = Duration::ZERO;
        let mut begun: std::collections::VecDeque<(Permit, Duration)> = Default::default();
        let mut told = Vec::new();
        let mut before = BreakerState::Closed;
        for word in script.split_whitespace() {
            let quick = Duration::from_millis(1);
            let mut call = |took, verdict| {
                if breaker.admits(now) {
                    let permit = breaker.begin(now);
                    breaker.end(now, permit, took, verdict);
                } else {
                    told.push(format!("{word} refused"));
                }
            };
            match word {
                "ok" => call(quick, Verdict::Success),
                "bad" => call(quick, Verdict::Failure),
                "slow" => call(Duration::from_secs(2), Verdict::Success),
                "begin" if breaker.admits(now) => begun.push_back((breaker.begin(now), now)),
                "begin" => told.push("begin refused".into()),
                "end-ok" | "end-bad" | "drop" => {
                    let (permit, since) = begun.pop_front().unwrap();
                    let verdict = match word {
                        "end-ok" => Verdict::Success,
                        "end-bad" => Verdict::Failure,
                        _ => Verdict::NoNews,
                    };
                    breaker.end(now, permit, now - since, verdict);
                }
                millis => now += Duration::from_millis(millis.trim_start_matches('+').parse().unwrap()),
            }
            let state = breaker.state(now);
            if state != before {
                told.push(format!("{} after {word}", state.as_str()));
                before = state;
            }
        }
        told.join(", ")
    }

    fn settings() -> BreakerSettings {
        BreakerSettings { min_calls: 4, half_open_calls: 2, slow: Some(Duration::from_secs(1)), ..Default::default() }
    }

    #[test]
    fn it_opens_by_rate_tries_and_decides() {
        for (script, told) in [
            ("bad bad bad", ""),
            ("bad bad bad bad", "open after bad"),
            ("ok ok ok bad bad", ""),
            ("ok ok bad bad", "open after bad"),
            ("bad bad ok ok", ""),
            ("slow slow ok slow", "open after slow"),
            ("bad bad bad +10000 bad", ""),
            ("bad bad bad bad ok bad", "open after bad, ok refused, bad refused"),
            ("bad bad bad bad +4999 ok +1 ok ok", "open after bad, ok refused, half_open after +1, closed after ok"),
            ("bad bad bad bad +5000 ok bad", "open after bad, half_open after +5000, open after bad"),
            (
                "bad bad bad bad +5000 bad +5000 ok ok ok",
                "open after bad, half_open after +5000, open after bad, half_open after +5000, closed after ok",
            ),
            ("bad bad bad bad +5000 slow ok", "open after bad, half_open after +5000, open after slow, ok refused"),
            // Only as many trials as there are places, and one given up makes room for another.
            (
                "bad bad bad bad +5000 begin begin begin drop begin end-ok end-ok",
                "open after bad, half_open after +5000, begin refused, closed after end-ok",
            ),
            // What began before it opened tells nothing about now.
            (
                "begin begin bad bad bad bad +5000 end-bad end-bad ok ok",
                "open after bad, half_open after +5000, closed after ok",
            ),
            // A window begins anew when it closes.
            (
                "bad bad bad bad +5000 ok ok bad bad bad bad",
                "open after bad, half_open after +5000, closed after ok, open after bad",
            ),
        ] {
            assert_eq!(play(settings(), script), told, "{script}");
        }
        let strict = BreakerSettings { failure_rate: 1.0, min_calls: 3, half_open_calls: 3, slow: None, ..settings() };
        for (script, told) in [
            ("bad bad ok bad bad", ""),
            ("slow bad bad bad", ""),
            ("bad bad bad +5000 bad bad ok", "open after bad, half_open after +5000, closed after ok"),
        ] {
            assert_eq!(play(strict, script), told, "{script}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        assert_eq!(BreakerSettings::default().problems(), []);
        let wrong = BreakerSettings {
            failure_rate: 1.5,
            window: Duration::from_millis(5),
            min_calls: 0,
            open_for: Duration::ZERO,
            half_open_calls: 0,
            slow: Some(Duration::ZERO),
            slow_rate: f64::NAN,
        };
        let keys: Vec<&str> = wrong.problems().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["failure_rate", "slow_rate", "min_calls", "half_open_calls", "window", "open_for", "slow"]);
    }
}
