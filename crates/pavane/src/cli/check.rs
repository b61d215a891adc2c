//! `pavane check`: everything that is wrong with definitions, file by file.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use pavane_core::definition::{self, Diagnostic, Mode, Severity};
use pavane_core::program::Program;
use serde_json::json;

use super::{Done, Failure, ModesArgument, OK, Output, WRONG, print_json, stand_ins};
use crate::config::Config;

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Definitions in YAML or JSON.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Mode to check for; the one each document asks for by default.
    #[arg(long, value_enum)]
    mode: Option<ModesArgument>,
    /// Configuration: its services have participants. Without it every host that a definition names has one.
    #[arg(short, long)]
    config: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Check {
    pub fn run(self) -> Done {
        let config = self.config.as_deref().map(Config::read).transpose().map_err(Failure::all)?;
        let services = config.map(|config| config.services.into_keys().collect::<BTreeSet<_>>());
        let mut diagnostics = Vec::new();
        let mut clean = 0;
        for file in &self.files {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(file).map_err(|e| Failure::wrong(format!("{name}: {e}")))?;
            let found = check(&name, &text, self.mode, services.as_ref());
            clean += usize::from(found.iter().all(|d| d.severity == Severity::Warning));
            diagnostics.extend(found);
        }
        let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
        match self.output {
            Output::Json => print_json(&json!({ "clean": errors == 0, "diagnostics": diagnostics })),
            Output::Text => {
                for diagnostic in &diagnostics {
                    println!("{diagnostic}");
                }
                let warnings = diagnostics.len() - errors;
                println!("{clean} of {} clean; {errors} errors, {warnings} warnings", self.files.len());
            }
        }
        Ok(if errors == 0 { OK } else { WRONG })
    }
}

/// Every problem of a definition. A schema that is to be fetched is not at hand here: that is no error of the file.
fn check(name: &str, text: &str, modes: Option<ModesArgument>, services: Option<&BTreeSet<String>>) -> Vec<Diagnostic> {
    let definition::Reading { definition, mut diagnostics } = definition::read(name, text);
    if let Some(definition) = definition {
        let resources = stand_ins(&definition);
        let modes = modes.map_or_else(|| vec![definition.document.mode], ModesArgument::modes);
        let checked = Program::compile(&definition, &resources).and_then(|program| {
            diagnostics.extend(program.advice(&definition));
            if !modes.contains(&Mode::Choreography) {
                return Ok(());
            }
            let services = services.cloned().unwrap_or_else(|| program.hosts());
            Program::choreograph(&definition, &resources, &services).map(drop)
        });
        diagnostics.extend(checked.err().unwrap_or_default());
        diagnostics.sort_by_key(|d| d.at);
    }
    diagnostics
}
