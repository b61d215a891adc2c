//! Whether a URL gets requests: a pure account of what it did. Time is an argument.
//!
//! Two judges: the gateway's own questions (active), and the answers to clients (passive). Either can leave a URL out;
//! the passive one lets it in again after a while, for it learns nothing of what gets no requests.

use std::time::{Duration, Instant};

/// Longest a URL is left out, however often it fails: it must be found again when it is well.
const MAX_EJECTION: Duration = Duration::from_secs(300);

/// What is known of a URL.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    rules: Rules,
    failures: u32,
    /// How often it was left out since it last did well.
    ejections: u32,
    ejected_until: Option<Instant>,
    unwell: bool,
    /// Answers in a row that speak against `unwell`.
    against: u32,
}

/// When a URL is judged how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Failures of clients' requests in a row until it is left out; 0: never.
    pub eject_after: u32,
    /// For how long, the first time.
    pub eject_for: Duration,
    /// Bad answers in a row to the gateway's own questions until it is unwell.
    pub fall: u32,
    /// Good ones until it is well again.
    pub rise: u32,
}

impl Health {
    /// A URL of which nothing bad is known.
    pub fn new(rules: Rules) -> Health {
        Health { rules, failures: 0, ejections: 0, ejected_until: None, unwell: false, against: 0 }
    }

    /// Whether it gets requests.
    pub fn takes(&self, now: Instant) -> bool {
        !self.unwell && self.ejected_until.is_none_or(|until| now >= until)
    }

    /// A client's request ended.
    pub fn request(&mut self, fine: bool, now: Instant) {
        if fine {
            self.failures = 0;
            // One that does well after it was let in again has its past forgotten.
            if self.takes(now) {
                (self.ejections, self.ejected_until) = (0, None);
            }
            return;
        }
        self.failures = self.failures.saturating_add(1);
        // One that was just let in again and fails at once is left out at once.
        let patience = if self.ejections > 0 { 1 } else { self.rules.eject_after };
        if self.rules.eject_after > 0
            && self.failures >= patience
            && self.ejected_until.is_none_or(|until| now >= until)
        {
            let times = 1_u32.checked_shl(self.ejections).unwrap_or(u32::MAX);
            let duration = self.rules.eject_for.saturating_mul(times).min(MAX_EJECTION);
            self.ejected_until = now.checked_add(duration);
            self.ejections += 1;
            self.failures = 0;
        }
    }

    /// The gateway's own question was answered. Gives whether the judgement changed.
    pub fn check(&mut self, fine: bool) -> bool {
        if fine != self.unwell {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let changes = self.against >= if self.unwell { self.rules.rise } else { self.rules.fall };
        if changes {
            self.unwell = !self.unwell;
            self.against = 0;
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { eject_after: 3, eject_for: Duration::from_secs(10), fall: 2, rise: 2 };

    #[test]
    fn a_url_that_fails_is_left_out_for_longer_each_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::new(RULES);
        // Time, whether the request was fine, and whether the URL gets requests afterwards.
        for (seconds, fine, takes) in [
            (0, false, true),
            (0, false, true),
            (0, true, true),
            (1, false, true),
            (1, false, true),
            (1, false, false),
            // A late answer of before changes nothing.
            (5, true, false),
            (10, false, false),
            // Let in again at 11, it fails at once: out for 20 s.
            (11, false, false),
            (30, false, false),
            (31, true, true),
            (31, false, true),
        ] {
            health.request(fine, at(seconds));
            assert_eq!(health.takes(at(seconds)), takes, "at {seconds}, {fine}");
        }
    }

    #[test]
    fn a_url_is_unwell_and_well_after_so_many_answers() {
        let mut health = Health::new(RULES);
        for (fine, changed, takes) in [
            (false, false, true),
            (true, false, true),
            (false, false, true),
            (false, true, false),
            (true, false, false),
            (false, false, false),
            (true, false, false),
            (true, true, true),
        ] {
            assert_eq!((health.check(fine), health.takes(Instant::now())), (changed, takes));
        }
    }

    #[test]
    fn without_a_limit_nothing_is_left_out() {
        let mut health = Health::new(Rules { eject_after: 0, ..RULES });
        (0..100).for_each(|_| health.request(false, Instant::now()));
        assert!(health.takes(Instant::now()));
    }
}
