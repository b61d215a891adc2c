//! The simulator over generated documents. `PAVANE_SCHEDULES` sets how many schedules, `PAVANE_SEED` from which seed.

use pavane_testkit::explore;

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
