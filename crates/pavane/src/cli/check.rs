//! `pavane check`: everything that is wrong with definitions, file by file.

use std::path::PathBuf;

use clap::Args;
use pavane_core::definition::{self, Diagnostic, Severity};
use pavane_core::program::{Program, Resources};
use serde_json::json;

use super::{Done, Failure, OK, Output, WRONG, print_json};

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Definitions in YAML or JSON.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Mode to check for.
    #[arg(long, default_value = "orchestration")]
    mode: String,
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Check {
    pub fn run(self) -> Done {
        if self.mode != "orchestration" {
            return Err(Failure::wrong(format!(
                "--mode {}: this version of Pavane checks for orchestration; choreography comes with a later one",
                self.mode
            )));
        }
        let mut diagnostics = Vec::new();
        let mut clean = 0;
        for file in &self.files {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(file).map_err(|e| Failure::wrong(format!("{name}: {e}")))?;
            let found = check(&name, &text);
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
fn check(name: &str, text: &str) -> Vec<Diagnostic> {
    let definition::Reading { definition, mut diagnostics } = definition::read(name, text);
    if let Some(definition) = definition {
        let anything = pavane_core::Value::empty_object();
        let resources: Resources =
            Program::resources_of(&definition).into_iter().map(|uri| (uri, anything.clone())).collect();
        if let Err(more) = Program::compile(&definition, &resources) {
            diagnostics.extend(more);
            diagnostics.sort_by_key(|d| d.at);
        }
    }
    diagnostics
}
