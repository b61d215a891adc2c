//! Mode equivalence: documents from a seed, run in both placements with and without faults, held against the invariants,
//! the reference and each other.
//!
//! - *Refinement*: every run is in the reference set of its document, environment and the answers it got.
//! - *Equality*: where that set has one member, all runs that got the services' answers are equal, in both placements.
//!
//! Each document has a seed of its own: a failure is replayed by exploring one document from its seed.

use pavane_core::Value;

use crate::chance::Chance;
use crate::reference::{self, Environment, Observed, Verdict};
use crate::schedule::{self, Breakage};
use crate::{Failure, Placement, compiled, generate, observe, services, shrink};

/// Id of every instance that the simulator runs.
pub const INSTANCE: &str = "00000000-0000-7000-8000-000000000001";

/// How much an exploration is to run.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Documents.
    pub documents: u64,
    /// Schedules with faults for each of them, in each placement.
    pub schedules: u64,
}

/// What an exploration ran.
#[derive(Clone, Copy, Debug, Default)]
pub struct Explored {
    /// Documents generated.
    pub documents: u64,
    /// Those that the reference can judge.
    pub covered: u64,
    /// Those for which the schedule decides nothing: both modes were held to be equal.
    pub race_free: u64,
    /// Schedules run.
    pub schedules: u64,
    /// Those that were found in the reference set.
    pub refined: u64,
    /// Those whose search was given up.
    pub undecided: u64,
    /// Pairs of an orchestrated and a choreographed run that were compared.
    pub pairs: u64,
    /// Steps decided.
    pub steps: u64,
    /// Crashes survived.
    pub crashes: u64,
    /// Messages sent between locations.
    pub messages: u64,
    /// Messages and answers that came again.
    pub duplicates: u64,
}

impl Explored {
    /// Adds what another exploration ran.
    pub fn add(&mut self, other: &Explored) {
        self.documents += other.documents;
        self.covered += other.covered;
        self.race_free += other.race_free;
        self.schedules += other.schedules;
        self.refined += other.refined;
        self.undecided += other.undecided;
        self.pairs += other.pairs;
        self.steps += other.steps;
        self.crashes += other.crashes;
        self.messages += other.messages;
        self.duplicates += other.duplicates;
    }
}

impl std::fmt::Display for Explored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let share = |part: u64, all: u64| part.saturating_mul(100) / all.max(1);
        write!(
            f,
            "{} workflows ({} % covered by the reference, {} % race-free), {} schedules ({} % in the reference set, {} \
             undecided), {} pairs of modes compared, {} steps, {} crashes, {} messages, {} duplicates",
            self.documents,
            share(self.covered, self.documents),
            share(self.race_free, self.documents),
            self.schedules,
            share(self.refined, self.schedules),
            self.undecided,
            self.pairs,
            self.steps,
            self.crashes,
            self.messages,
            self.duplicates
        )
    }
}

/// Explores documents from `seed` on: the n-th has the seed `seed + n`.
///
/// # Errors
/// The first run that is not as it must be, shrunk.
pub fn explore(seed: u64, effort: Effort) -> Result<Explored, Box<Failure>> {
    explore_broken(seed, effort, None)
}

/// As [`explore`], with something broken on purpose; the failure is not shrunk then, because it is wanted.
///
/// # Errors
/// The first run that is not as it must be.
pub fn explore_broken(seed: u64, effort: Effort, breakage: Option<Breakage>) -> Result<Explored, Box<Failure>> {
    let mut explored = Explored::default();
    for nth in 0..effort.documents {
        let from = seed.wrapping_add(nth);
        let document = generate::document(&mut Chance::new(from));
        if let Err(failure) = examine(&document, from, effort.schedules, breakage, &mut explored) {
            // A mutant is to be caught, not understood.
            let wanted = breakage.is_some() || std::env::var_os("PAVANE_NO_SHRINK").is_some();
            return Err(if wanted { failure } else { Box::new(shrink::shrink(&document, *failure)) });
        }
    }
    Ok(explored)
}

/// Runs one document in all ways and judges every run.
///
/// # Errors
/// The first run that is not as it must be.
pub fn examine(
    document: &serde_json::Value,
    from: u64,
    schedules: u64,
    breakage: Option<Breakage>,
    explored: &mut Explored,
) -> Result<(), Box<Failure>> {
    let mut chance = Chance::new(from ^ 0x5eed);
    let services = chance.next();
    let text = || generate::text(document);
    let failure = |seed, how, broken, trace| {
        Box::new(Failure { from, schedules, seed, services, how, document: text(), broken, trace })
    };
    let (definition, programs) = compiled(document).map_err(|broken| failure(0, None, broken, Vec::new()))?;
    let covered = reference::coverage::outside(&definition).is_none();
    let input = Value::object([("order", Value::integer(1))]);
    let answer = |key: &str, undoes: bool| services::answer(services, key, undoes);
    let child = |id: &str, wait: bool| services::child_end(services, id, wait);
    let environment = Environment { instance: INSTANCE, input: &input, answer: &answer, child: &child, run: None };
    let race_free = covered && reference::is_race_free(&definition, environment);
    explored.documents += 1;
    explored.covered += u64::from(covered);
    explored.race_free += u64::from(race_free);
    let mut equal: Vec<(Placement, Observed)> = Vec::new();
    for nth in 0..2 + 2 * schedules {
        let placement = if nth % 2 == 0 { Placement::Engine } else { Placement::Services };
        let (seed, calm) = (chance.next(), nth < 2 && breakage.is_none());
        let how = Some((placement, calm));
        let (run, watched) = schedule::watch(placement.of(&programs), seed, services, breakage, calm)
            .map_err(|(broken, trace)| failure(seed, how, broken, trace))?;
        explored.schedules += 1;
        explored.steps += run.steps;
        explored.crashes += run.crashes;
        explored.messages += run.messages;
        explored.duplicates += run.duplicates;
        if !covered || breakage.is_some() || observe::interfered(&watched).is_some() {
            continue;
        }
        let observed = observe::observed(&watched);
        match reference::judge(&definition, Environment { run: Some(&observed), ..environment }, &observed) {
            Verdict::Allowed => explored.refined += 1,
            Verdict::Undecided => explored.undecided += 1,
            Verdict::Outside(_) => {}
            Verdict::Refused(why) => {
                let trace = schedule::trace(placement.of(&programs), seed, services, calm);
                return Err(failure(seed, how, format!("the run is not in the reference set: {why}"), trace));
            }
        }
        if race_free && observe::is_undisturbed(services, &observed) {
            let alike = |other: &Observed| {
                other.end == observed.end && other.requested == observed.requested && other.emitted == observed.emitted
            };
            for (place, other) in equal.iter().filter(|(place, _)| *place != placement) {
                explored.pairs += 1;
                if !alike(other) {
                    let told = format!("{placement:?} and {place:?} differ: {observed:#?}\n{other:#?}");
                    return Err(failure(seed, how, told, Vec::new()));
                }
            }
            equal.push((placement, observed));
        }
    }
    Ok(())
}
