//! How many repeats there may be: a share of the requests, so that a service which is down does not get several times
//! the load that brought it down.

use std::sync::{Mutex, PoisonError};

/// Repeats that are there before any request came: a quiet route may repeat, too.
const RESERVE: f64 = 10.0;
/// Most repeats that gather: what was saved in an hour must not be spent in a second.
const MOST: f64 = 100.0;

/// A budget of repeats.
#[derive(Debug)]
pub(crate) struct Budget {
    share: f64,
    left: Mutex<f64>,
}

impl Budget {
    /// A budget of so many repeats for each request.
    pub fn new(share: f64) -> Budget {
        Budget { share, left: Mutex::new(RESERVE) }
    }

    /// A request came.
    pub fn deposit(&self) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = (*left + self.share).min(MOST);
    }

    /// Takes one repeat, if there is one.
    pub fn withdraw(&self) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let there = self.share > 0.0 && *left >= 1.0;
        if there {
            *left -= 1.0;
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_a_share_of_the_requests() {
        for (share, requests, repeats) in [(0.2, 1_000, 210), (0.0, 1_000, 0), (1.0, 50, 60)] {
            let budget = Budget::new(share);
            let mut taken = 0;
            for _ in 0..requests {
                budget.deposit();
                // Everything fails: as many repeats are asked for as there are.
                while budget.withdraw() {
                    taken += 1;
                }
            }
            assert!((repeats - 1..=repeats).contains(&taken), "{share}: {taken}");
        }
    }

    #[test]
    fn what_was_saved_is_limited() {
        let budget = Budget::new(0.5);
        (0..10_000).for_each(|_| budget.deposit());
        assert_eq!((0..1_000).filter(|_| budget.withdraw()).count(), 100);
    }
}
