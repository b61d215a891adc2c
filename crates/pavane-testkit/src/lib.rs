//! The seeded simulator of Pavane: it plays the driver over the core with virtual time, and breaks everything it may.
//!
//! One run is a document ([`generate`]), an environment of services ([`services`]), a schedule with faults
//! ([`schedule`]), the invariants that must hold at every step and at the end ([`invariants`]), and an independent
//! interpreter that says what a run may come to ([`reference`]); all of it follows from one seed. A failing run is shrunk and printed with its seed ([`shrink`]). This crate is for tests only and must
//! never be in the product. Start reading at [`explore`].

pub mod chance;
pub mod equivalence;
pub mod generate;
pub mod invariants;
pub mod observe;
pub mod reference;
pub mod schedule;
pub mod services;
pub mod shrink;

use pavane_core::definition::{self, Definition};
use pavane_core::program::{Program, Resources};

/// A run that broke an invariant or is not in the reference set, shrunk.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Seed of the exploration: it repeats the failure as the first one found.
    pub from: u64,
    /// Schedules with faults in each mode that the exploration runs.
    pub schedules: u64,
    /// Seed of the schedule.
    pub seed: u64,
    /// Seed of the services: their answers follow from it and the keys.
    pub services: u64,
    /// Where the nodes were, and whether anything but services went wrong.
    pub how: Option<(Placement, bool)>,
    /// The document, as small as it still fails.
    pub document: String,
    /// What broke.
    pub broken: String,
    /// What happened up to there.
    pub trace: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.broken)?;
        writeln!(f, "--- document\n{}", self.document)?;
        let (placement, noise) = match self.how {
            Some((placement, calm)) => (format!("{placement:?}"), if calm { "no faults" } else { "with faults" }),
            None => ("both".into(), "no faults"),
        };
        writeln!(
            f,
            "--- environment\nplacement {placement}, {noise}, schedule {}, services {}",
            self.seed, self.services
        )?;
        writeln!(f, "--- trace")?;
        self.trace.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        writeln!(
            f,
            "--- replay\nPAVANE_SEED={} PAVANE_DOCUMENTS=1 PAVANE_SCHEDULES={} cargo test -p pavane-testkit --test simulator",
            self.from,
            2 + 2 * self.schedules
        )
    }
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

/// Compiles a generated document through the same door as a user's, in both placements.
///
/// # Errors
/// The diagnostics, when there are any.
pub fn placements(document: &serde_json::Value) -> Result<(Program, Program), String> {
    compiled(document).map(|(_, programs)| programs)
}

/// As [`placements`], with the definition that the programs were made of.
///
/// # Errors
/// The diagnostics, when there are any.
pub fn compiled(document: &serde_json::Value) -> Result<(Definition, (Program, Program)), String> {
    let text = generate::text(document);
    let reading = definition::read("generated.json", &text);
    let told = |problems: &[definition::Diagnostic]| problems.iter().map(ToString::to_string).collect::<String>();
    let failed = reading.diagnostics.iter().any(|d| d.severity == definition::Severity::Error);
    let services = (0..generate::SERVICES).map(|n| format!("s{n}")).collect();
    match reading.definition {
        Some(definition) if !failed => {
            let engine = Program::compile(&definition, &Resources::new()).map_err(|p| told(&p))?;
            let placed = Program::choreograph(&definition, &Resources::new(), &services).map_err(|p| told(&p))?;
            Ok((definition, (engine, placed)))
        }
        _ => Err(format!("the generated document is refused:\n{}", told(&reading.diagnostics))),
    }
}
