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
        let refused = |broken| Failure { seed, document: generate::text(&document), broken, trace: Vec::new() };
        let programs = placements(&document).map_err(|broken| Box::new(refused(broken)))?;
        explored.documents += 1;
        for nth in 0..SCHEDULES_PER_DOCUMENT {
            let seed = chance.next();
            let placement = if nth % 2 == 0 { Placement::Engine } else { Placement::Services };
            match schedule::run_broken(placement.of(&programs), seed, breakage) {
                Ok(run) => {
                    explored.schedules += 1;
                    explored.steps += run.steps;
                    explored.crashes += run.crashes;
                }
                Err((broken, trace)) if breakage.is_some() => {
                    return Err(Box::new(Failure { seed, document: generate::text(&document), broken, trace }));
                }
                Err(_) => return Err(Box::new(shrink::shrink(document, placement, seed))),
            }
        }
    }
    Ok(explored)
}

/// Where the nodes of a document are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// All at the engine.
    Engine,
    /// Each at the service that owns it.
    Services,
}

impl Placement {
    /// The program of this placement.
    pub fn of(self, programs: &(Program, Program)) -> &Program {
        match self {
            Placement::Engine => &programs.0,
            Placement::Services => &programs.1,
        }
    }
}

/// What [`compare`] compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compared {
    /// Documents generated.
    pub documents: u64,
    /// Those whose outcome no schedule decides: both modes were held to the same.
    pub compared: u64,
}

/// Runs `documents` documents in both placements without faults. Where the orchestrated runs agree with one another
/// whatever the schedule, the choreographed runs must agree with them.
///
/// # Errors
/// The first difference.
pub fn compare(seed: u64, documents: u64) -> Result<Compared, Box<Failure>> {
    const SCHEDULES: u64 = 4;
    let mut chance = Chance::new(seed);
    let mut compared = Compared::default();
    while compared.documents < documents {
        let document = generate::document(&mut chance);
        let (seed, text) = (chance.next(), generate::text(&document));
        let failure = |broken: String, trace| Box::new(Failure { seed, document: text.clone(), broken, trace });
        let programs = placements(&document).map_err(|broken| failure(broken, Vec::new()))?;
        compared.documents += 1;
        // What races, and what time decides, has more than one right outcome.
        if ["\"timeout\"", "\"compete\": true", "\"listen\""].iter().any(|race| text.contains(race)) {
            continue;
        }
        let observe = |program: &Program, nth: u64| {
            schedule::observe(program, seed.wrapping_add(nth), seed).map_err(|(broken, trace)| failure(broken, trace))
        };
        let orchestrated = observe(&programs.0, 0)?;
        let mut same = true;
        for nth in 1..SCHEDULES {
            same &= observe(&programs.0, nth)? == orchestrated;
        }
        if !same || orchestrated.raced {
            continue;
        }
        compared.compared += 1;
        for nth in 0..SCHEDULES {
            let choreographed = observe(&programs.1, nth)?;
            if !choreographed.raced && choreographed != orchestrated {
                return Err(failure(
                    format!("orchestrated: {orchestrated:#?}\nchoreographed: {choreographed:#?}"),
                    Vec::new(),
                ));
            }
        }
    }
    Ok(compared)
}

/// Compiles a generated document through the same door as a user's, in both placements.
///
/// # Errors
/// The diagnostics, when there are any.
pub fn placements(document: &serde_json::Value) -> Result<(Program, Program), String> {
    let text = generate::text(document);
    let reading = definition::read("generated.json", &text);
    let told = |problems: &[definition::Diagnostic]| problems.iter().map(ToString::to_string).collect::<String>();
    let failed = reading.diagnostics.iter().any(|d| d.severity == definition::Severity::Error);
    let services = (0..generate::SERVICES).map(|n| format!("s{n}")).collect();
    match reading.definition {
        Some(definition) if !failed => {
            let engine = Program::compile(&definition, &Resources::new()).map_err(|p| told(&p))?;
            let placed = Program::choreograph(&definition, &Resources::new(), &services).map_err(|p| told(&p))?;
            Ok((engine, placed))
        }
        _ => Err(format!("the generated document is refused:\n{}", told(&reading.diagnostics))),
    }
}
