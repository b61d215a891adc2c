//! `pavane adopt` and `pavane abandon`: a participant's store was lost, and an operator decides what that means.

use std::path::PathBuf;

use clap::Args;
use pavane_runtime::lost::{Remedy, Replacement};
use serde_json::json;

use super::{Done, Failure, OK, Output, print_json};
use crate::config::Config;
use crate::stores;

#[derive(Debug, Args)]
pub(crate) struct Replace {
    /// The service whose participant has another store than before.
    service: String,
    /// The server's configuration; the server must not run.
    #[arg(short, long, default_value = "pavane.yaml")]
    config: PathBuf,
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Replace {
    pub async fn run(self, remedy: Remedy) -> Done {
        let config = Config::read(&self.config).map_err(Failure::all)?;
        let done = stores::give_new(&config, &self.service, remedy).await;
        let done = done.map_err(
            |(wrong, problems)| {
                if wrong { Failure::all(problems) } else { Failure::failed(problems.join("\n")) }
            },
        )?;
        match self.output {
            Output::Json => print_json(&self.report(&done)),
            Output::Text => self.tell(&done),
        }
        Ok(OK)
    }

    fn report(&self, done: &Replacement) -> serde_json::Value {
        let abandoned = done.abandoned.iter().map(|(id, unresolved)| json!({ "id": id, "unresolved": unresolved }));
        json!({
            "service": self.service,
            "adopted": done.adopted,
            "abandoned": abandoned.collect::<Vec<_>>(),
            "kept": done.kept,
        })
    }

    fn tell(&self, done: &Replacement) {
        let Replace { service, .. } = self;
        println!("the participant of {service} has a new store");
        println!("  {:>5} instances had left it, and are as they were", done.kept);
        println!("  {:>5} go on there, with their calls in flight as unknown outcomes", done.adopted.len());
        println!("  {:>5} were abandoned: they are faulted", done.abandoned.len());
        for (id, unresolved) in &done.abandoned {
            println!("{id}");
            for entry in unresolved {
                println!("  unresolved {}: {}", entry.reference, entry.reason);
            }
        }
        if !done.abandoned.is_empty() {
            println!("see at {service} what it did for them, then `pavane retry ID` undoes what is unresolved");
        }
    }
}
