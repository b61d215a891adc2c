//! The simulator over generated documents. `PAVANE_SCHEDULES` sets how many schedules, `PAVANE_SEED` from which seed.

use pavane_testkit::schedule::Breakage;
use pavane_testkit::{compare, explore, explore_broken};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn every_schedule_keeps_the_invariants() {
    let (seed, schedules) = (number("PAVANE_SEED", 1), number("PAVANE_SCHEDULES", 20_000));
    match explore(seed, schedules) {
        Ok(explored) => {
            println!("{explored:?}");
            assert!(explored.schedules >= schedules && explored.crashes > schedules / 4, "{explored:?}");
        }
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn both_placements_are_seen_alike() {
    let (seed, documents) = (number("PAVANE_SEED", 1), number("PAVANE_DOCUMENTS", 20_000));
    match compare(seed, documents) {
        Ok(compared) => {
            println!("{compared:?}");
            assert!(compared.compared > documents / 10, "{compared:?}");
        }
        Err(failure) => panic!("{failure}"),
    }
}

/// Invariants that cannot fail prove nothing: each thing broken on purpose is noticed, and for the right reason.
#[test]
fn every_breakage_is_noticed() {
    for breakage in Breakage::ALL {
        let told = match breakage {
            Breakage::LostEntry => "does not follow|replay differs|cannot",
            Breakage::LostAtCrash => "replay differs",
            // The decision that follows a crash is another one: its call differs, or the effect is known to nobody.
            Breakage::EffectBeforeCommit => "neither undone nor named|repeated with another request|does not end",
            Breakage::FalseUndo => "neither undone nor named",
            Breakage::ChangedKey | Breakage::ForgetfulService => {
                "neither undone nor named|undone twice|after it had been undone"
            }
            Breakage::ChangedBody => "repeated with another request",
            Breakage::NoTombstone => "after it had been undone",
            Breakage::EndedTwice => "ended 2 times",
            Breakage::EventTwice => "taken in twice",
            Breakage::LostMessage => "does not end",
            // Its call was made, and then forgotten for a fence, or told of as one that never left.
            Breakage::ForgottenDelivery => "neither undone nor named|after it had been undone",
            // A token that is at two places does its work twice, and comes home twice.
            Breakage::MessageTwice => {
                "two outcomes|ended 2 times|neither undone|undone twice|another request|not end|its end"
            }
        };
        let failure = explore_broken(1, 20_000, Some(breakage)).expect_err(&format!("{breakage:?} goes unnoticed"));
        assert!(told.split('|').any(|words| failure.broken.contains(words)), "{breakage:?}: {failure}");
    }
}
