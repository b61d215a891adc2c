//! The seeded simulator of Pavane: it plays the driver over the core with virtual time, and breaks everything it may.
//!
//! One run is a document ([`generate`]), an environment of services ([`services`]), a schedule with faults
//! ([`schedule`]) and the invariants that must hold at every step and at the end ([`invariants`]); all of it follows
//! from one seed. A failing run is shrunk and printed with its seed ([`shrink`]). This crate is for tests only and must
//! never be in the product. Start reading at [`explore`].

pub mod chance;
pub mod generate;
pub mod invariants;
pub mod schedule;
pub mod services;
pub mod shrink;

use chance::Chance;
use pavane_core::definition;
use pavane_core::program::{Program, Resources};
use schedule::Breakage;

/// What [`explore`] ran.
#[derive(Clone, Copy, Debug, Default)]
pub struct Explored {
    /// Documents generated.
    pub documents: u64,
    /// Schedules run.
    pub schedules: u64,
    /// Steps decided.
    pub steps: u64,
    /// Crashes survived.
    pub crashes: u64,
}

/// A run that broke an invariant, shrunk.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Seed of the schedule: with the document, it repeats the run.
    pub seed: u64,
    /// The document, as small as it still fails.
    pub document: String,
    /// What broke.
    pub broken: String,
    /// What happened up to there.
    pub trace: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "seed {}: {}\n--- document\n{}\n--- trace", self.seed, self.broken, self.document)?;
        self.trace.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Runs at least `schedules` schedules from `seed` on: many for each document, because compiling is what costs.
///
/// # Errors
/// The first run that broke an invariant, shrunk.
pub fn explore(seed: u64, schedules: u64) -> Result<Explored, Box<Failure>> {
    explore_broken(seed, schedules, None)
}

/// As [`explore`], with something broken; the failure is not shrunk then, because it is wanted.
///
/// # Errors
/// The first run that broke an invariant.
pub fn explore_broken(seed: u64, schedules: u64, breakage: Option<Breakage>) -> Result<Explored, Box<Failure>> {
    const SCHEDULES_PER_DOCUMENT: u64 = 50;
    let mut explored = Explored::default();
    let mut chance = Chance::new(seed);
    while explored.schedules < schedules {
        let document = generate::document(&mut chance);
        let program = compile(&document).map_err(|broken| {
            Box::new(Failure { seed, document: generate::text(&document), broken, trace: Vec::new() })
        })?;
        explored.documents += 1;
        for _ in 0..SCHEDULES_PER_DOCUMENT {
            let seed = chance.next();
            match schedule::run_broken(&program, seed, breakage) {
                Ok(run) => {
                    explored.schedules += 1;
                    explored.steps += run.steps;
                    explored.crashes += run.crashes;
                }
                Err((broken, trace)) if breakage.is_some() => {
                    return Err(Box::new(Failure { seed, document: generate::text(&document), broken, trace }));
                }
                Err(_) => return Err(Box::new(shrink::shrink(document, seed))),
            }
        }
    }
    Ok(explored)
}

/// Compiles a generated document through the same door as a user's.
///
/// # Errors
/// The diagnostics, when there are any.
pub fn compile(document: &serde_json::Value) -> Result<Program, String> {
    let text = generate::text(document);
    let reading = definition::read("generated.json", &text);
    let problems: Vec<String> = reading
        .diagnostics
        .iter()
        .filter(|d| d.severity == definition::Severity::Error)
        .map(ToString::to_string)
        .collect();
    match reading.definition {
        Some(definition) if problems.is_empty() => Program::compile(&definition, &Resources::new())
            .map_err(|problems| problems.iter().map(ToString::to_string).collect::<String>()),
        _ => Err(format!("the generated document is refused:\n{}", problems.concat())),
    }
}
