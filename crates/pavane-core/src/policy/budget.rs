//! Retry budget: how much of the load on a service may be repeats.
//!
//! A service that fails gets every call again; without a budget that doubles its load just when it can least bear it.
//! A retry beyond the budget is not refused, it waits: the retry was asked for by a document, and its task's deadline
//! says how long that is worth.

use std::time::Duration;

use super::rate::Rate;
use super::window::Window;

/// Over how much time calls and retries are compared: shorter, and a pause between two bursts would leave no budget.
const WINDOW: Duration = Duration::from_secs(10);

const FIRST: usize = 0;
const RETRY: usize = 1;

/// What of the calls may be repeats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetrySettings {
    /// Retries for each first attempt, from 0 on: 0.2 is one for every five.
    pub ratio: f64,
    /// Retries that may be made however few first attempts there are: without them a lone call could never be repeated.
    pub at_least: Rate,
}

impl Default for RetrySettings {
    fn default() -> RetrySettings {
        RetrySettings { ratio: 0.2, at_least: Rate { calls: 10, per: Duration::from_secs(1) } }
    }
}

impl RetrySettings {
    /// What is wrong with the settings: a key and a sentence for each.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if !(self.ratio.is_finite() && self.ratio >= 0.0) {
            problems.push(("ratio", format!("{} is no ratio: write 0.2 for one retry in five calls", self.ratio)));
        }
        if self.at_least.per_second() * WINDOW.as_secs_f64() < 1.0 {
            let why = "less than one retry in 10 s is too few: a lone call could not be repeated".to_owned();
            problems.push(("at_least", why));
        }
        problems
    }
}

/// Counts calls and retries.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    settings: RetrySettings,
    window: Window<2>,
}

impl RetryBudget {
    /// One that has seen no call.
    pub fn new(settings: RetrySettings) -> RetryBudget {
        RetryBudget { settings, window: Window::new(WINDOW) }
    }

    /// Whether a retry may be made; if not, when to ask again at the latest.
    ///
    /// # Errors
    /// The time until which nothing changes by itself; a first attempt before it may change it.
    pub fn allows(&mut self, now: Duration) -> Result<(), Duration> {
        let totals = self.window.totals(now);
        let most =
            self.settings.ratio * totals[FIRST] as f64 + self.settings.at_least.per_second() * WINDOW.as_secs_f64();
        if (totals[RETRY] as f64) + 1.0 <= most { Ok(()) } else { Err(self.window.next_slice()) }
    }

    /// A call is made.
    pub fn count(&mut self, now: Duration, retry: bool) {
        self.window.add(now, if retry { RETRY } else { FIRST });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_part_of_the_calls_and_never_none() {
        for (ratio, at_least, firsts, most) in
            [(0.2, 10, 0, 10), (0.2, 10, 100, 30), (0.0, 5, 1_000, 5), (1.0, 1, 50, 51)]
        {
            let per = Duration::from_secs(10);
            let mut budget = RetryBudget::new(RetrySettings { ratio, at_least: Rate { calls: at_least, per } });
            let now = Duration::from_millis(1_234);
            (0..firsts).for_each(|_| budget.count(now, false));
            let mut made = 0;
            while budget.allows(now).is_ok() && made < 10_000 {
                budget.count(now, true);
                made += 1;
            }
            assert_eq!(made, most, "{ratio} of {firsts}, at least {at_least}");
            assert_eq!(budget.allows(now), Err(Duration::from_secs(2)));
            assert_eq!(budget.allows(now + per), Ok(()), "later there is a budget again");
        }
    }

    #[test]
    fn settings_that_let_nothing_pass_are_refused() {
        let rate = |calls, seconds| Rate { calls, per: Duration::from_secs(seconds) };
        for (ratio, at_least, wrong) in [
            (0.2, rate(10, 1), &[][..]),
            (0.0, rate(1, 10), &[]),
            (-0.1, rate(1, 1), &["ratio"]),
            (f64::NAN, rate(1, 60), &["ratio", "at_least"]),
        ] {
            let problems = RetrySettings { ratio, at_least }.problems();
            assert_eq!(problems.iter().map(|(key, _)| *key).collect::<Vec<_>>(), wrong, "{ratio} {at_least:?}");
        }
    }
}
