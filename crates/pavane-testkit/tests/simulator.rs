//! The simulator over generated documents. `PAVANE_DOCUMENTS` sets how many, `PAVANE_SCHEDULES` how many schedules in all
//! (four for each document at least), `PAVANE_SEED` from which seed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at what it did not expect")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use pavane_core::program::Program;
use pavane_testkit::chance::Chance;
use pavane_testkit::equivalence::{Effort, explore, explore_broken};
use pavane_testkit::schedule::{Breakage, bereaved, cramped};
use pavane_testkit::{Placement, compiled, generate};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn both_modes_do_what_the_reference_says() {
    let documents = number("PAVANE_DOCUMENTS", 20_000);
    let each = number("PAVANE_SCHEDULES", 0) / documents.max(1);
    // One in each mode is without faults.
    let effort = Effort { documents, schedules: (each.saturating_sub(2) / 2).max(1) };
    match explore(number("PAVANE_SEED", 1), effort) {
        Ok(explored) => {
            println!("{explored}");
            assert_eq!(explored.documents, effort.documents);
            if effort.documents >= 1_000 {
                assert!(explored.refined > explored.schedules / 2, "{explored}");
                assert!(explored.pairs > explored.documents / 4, "{explored}");
                assert!(explored.undecided < explored.schedules / 100, "{explored}");
            }
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
            Breakage::LostMessage | Breakage::OutboxAfterCommit => "does not end",
            // Its call was made, and then forgotten for a fence, or told of as one that never left.
            Breakage::ForgottenDelivery => "neither undone nor named|after it had been undone",
            // A token that is at two places does its work twice, and comes home twice.
            Breakage::MessageTwice => {
                "two outcomes|ended 2 times|neither undone|undone twice|another request|not end|its end"
            }
        };
        let failure = explore_broken(1, Effort { documents: 2_000, schedules: 5 }, Some(breakage))
            .expect_err(&format!("{breakage:?} goes unnoticed"));
        assert!(told.split('|').any(|words| failure.broken.contains(words)), "{breakage:?}: {failure}");
    }
}

/// Documents from a seed on, each choreographed, with the seeds of a schedule and of its services.
fn choreographed(documents: u64, run: impl Fn(&Program, u64, u64) -> Result<(), (String, Vec<String>)>) {
    let from = number("PAVANE_SEED", 1);
    for nth in 0..documents {
        let mut chance = Chance::new(from + nth);
        let document = generate::document(&mut chance);
        let (_, programs) = compiled(&document).unwrap();
        let (schedule, services) = (chance.next(), chance.next());
        if let Err((broken, trace)) = run(Placement::Services.of(&programs), schedule, services) {
            let text = generate::text(&document);
            panic!("{broken}\n{text}\n{}\nPAVANE_SEED={} PAVANE_HARDSHIPS=1", trace.join("\n"), from + nth);
        }
    }
}

/// Messages too large fail tasks, and whatever was done is undone or named all the same.
#[test]
fn nothing_is_left_when_messages_are_too_large() {
    let refused = Cell::new(0);
    choreographed(number("PAVANE_HARDSHIPS", 5_000), |program, schedule, services| {
        let bytes = 800 + (schedule % 2_500) as usize;
        refused.set(refused.get() + cramped(program, schedule, services, bytes)?);
        Ok(())
    });
    println!("{} messages were too large", refused.get());
    assert!(refused.get() > 0 || number("PAVANE_HARDSHIPS", 5_000) < 100);
}

/// A participant's store is lost at any moment: the instance ends once, and every effect that a copy knew is undone or named.
#[test]
fn nothing_is_left_unnamed_when_a_store_is_lost() {
    let found = RefCell::new(BTreeMap::new());
    choreographed(number("PAVANE_HARDSHIPS", 5_000), |program, schedule, services| {
        let extent = bereaved(program, schedule, services)?;
        *found.borrow_mut().entry(format!("{extent:?}")).or_insert(0) += 1;
        Ok(())
    });
    println!("{:?}", found.borrow());
    let each = ["Nothing", "Past", "Held", "Beyond"].map(|extent| format!("Some({extent})"));
    assert!(number("PAVANE_HARDSHIPS", 5_000) < 5_000 || each.iter().all(|e| found.borrow()[e] > 20), "{found:?}");
}
