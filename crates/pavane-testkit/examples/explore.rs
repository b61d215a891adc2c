//! Explores for some minutes on as many threads as there are cores: `explore MINUTES SEED SCHEDULES`.
//!
//! Prints what it has run every ten seconds, and at a failure the shrunk document with the command that replays it.
//! Exits with 1 then.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pavane_testkit::Failure;
use pavane_testkit::equivalence::{Effort, Explored, explore};

/// Documents that a thread takes at once: enough to make the lock rare, few enough to end in time.
const BLOCK: u64 = 50;
/// How often progress is told.
const EVERY: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let [minutes, seed, schedules] = arguments[..] else {
        eprintln!("usage: explore MINUTES SEED SCHEDULES (three numbers)");
        return ExitCode::from(2);
    };
    let (started, limit) = (Instant::now(), Duration::from_secs(minutes.saturating_mul(60)));
    let next = AtomicU64::new(seed);
    let over = AtomicBool::new(false);
    let total = Mutex::new((Explored::default(), None::<Box<Failure>>, Instant::now()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{threads} threads from seed {seed} on, {schedules} schedules with faults for each workflow and mode");
    let work = || {
        while !over.load(Ordering::Relaxed) && started.elapsed() < limit {
            let from = next.fetch_add(BLOCK, Ordering::Relaxed);
            let result = explore(from, Effort { documents: BLOCK, schedules });
            let Ok(mut total) = total.lock() else { return };
            match result {
                Ok(explored) => total.0.add(&explored),
                Err(failure) => {
                    over.store(true, Ordering::Relaxed);
                    total.1.get_or_insert(failure);
                }
            }
            if total.2.elapsed() >= EVERY {
                total.2 = Instant::now();
                println!("{:>5} s  {}", started.elapsed().as_secs(), total.0);
                drop(std::io::stdout().flush());
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let (explored, failure) = match total.into_inner() {
        Ok((explored, failure, _)) => (explored, failure),
        Err(_) => {
            eprintln!("a thread stopped in the middle of its work");
            return ExitCode::FAILURE;
        }
    };
    println!("{:>5} s  {explored}", started.elapsed().as_secs());
    match failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            println!("\nFAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}
