//! `pavane run`: one workflow to its end in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use pavane_core::Value;
use pavane_core::definition;
use pavane_core::event::CloudEvent;
use pavane_core::program::Program;
use pavane_core::record::{Status, WorkflowInstance};
use pavane_runtime::{Error, StartRequest};
use serde_json::json;

use super::serve::ANY_PORT;
use super::{
    Done, FAILED, Failure, LATE, ModeArgument, OK, Output, duration_argument, json_argument, print_json, stand_ins,
};
use crate::config::Config;
use crate::server::Running;
use crate::stores::Storage;

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The definition to run; further files are deployed beside it, for sub-workflows.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Input: JSON, @file, or - for standard input.
    #[arg(short, long, default_value = "{}")]
    input: String,
    /// Mode to run in; the one the document asks for by default.
    #[arg(long, value_enum)]
    mode: Option<ModeArgument>,
    /// Configuration: services, secrets, and a durable store.
    #[arg(short, long)]
    config: Option<PathBuf>,
    /// Reach HOST[:PORT] at another address.
    #[arg(long, value_name = "HOST[:PORT]=ADDR:PORT", value_parser = resolve_argument)]
    resolve: Vec<(String, Option<u16>, SocketAddr)>,
    /// Grant a secret.
    #[arg(long, value_name = "NAME=JSON")]
    secret: Vec<String>,
    /// Publish a CloudEvent after the start: JSON or @file. Given several times, in order.
    #[arg(long, value_name = "JSON")]
    event: Vec<String>,
    /// Give up waiting after this long.
    #[arg(long, default_value = "30s", value_parser = duration_argument)]
    timeout: Duration,
    /// Further certificate authorities, in PEM.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Show the tasks, in the order of their start.
    #[arg(long)]
    tasks: bool,
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

impl Run {
    pub async fn run(self) -> Done {
        let input = Value::from(&json_argument(&self.input)?);
        let mut events = Vec::new();
        for event in &self.event {
            let event = CloudEvent::new(Value::from(&json_argument(event)?));
            events.push(event.map_err(|why| Failure::wrong(format!("--event: {why}")))?);
        }
        let running = self.open().await?;
        let mut first = None;
        for file in &self.files {
            let deployment = running.deploy(file, true).await.map_err(Failure::wrong)?;
            for warning in &deployment.diagnostics {
                eprintln!("{warning}");
            }
            first.get_or_insert(deployment);
        }
        let Some(first) = first else { return Err(Failure::wrong("name a definition to run")) };
        if running.engine.awaits_callbacks() {
            // Services must be able to reach it.
            running.serve().await.map_err(Failure::failed)?;
        }
        let request = StartRequest {
            namespace: first.namespace,
            name: first.name,
            version: Some(first.version),
            mode: self.mode.map(Into::into),
            input,
            idempotency_key: None,
            id: None,
            trace: None,
            notify: None,
        };
        let started = running.engine.start(request).await.map_err(|error| match error {
            Error::InvalidInput(_) | Error::Mode(_) => Failure::wrong(error.to_string()),
            error => Failure::failed(error.to_string()),
        })?;
        for event in events {
            running.engine.publish(vec![event]).await.map_err(|e| Failure::failed(e.to_string()))?;
        }
        let record =
            running.engine.wait(&started.id, self.timeout).await.map_err(|e| Failure::failed(e.to_string()))?;
        self.print(&running, &record).await?;
        running.stop().await;
        Ok(match record.status {
            Status::Completed => OK,
            status if status.is_terminal() => FAILED,
            _ => LATE,
        })
    }

    async fn open(&self) -> Result<Running, Failure> {
        let (mut config, storage) = match &self.config {
            Some(path) => (Config::read(path).map_err(Failure::all)?, Storage::Configured),
            None => (Config { hosts: self.hosts(), ..Config::default() }, Storage::Memory),
        };
        config.http.ca = self.ca.clone().or(config.http.ca);
        config.workflows.clear();
        // No server: where it listens for callbacks is nobody else's business.
        config.listen.admin = ANY_PORT;
        config.callbacks.url = None;
        // What a run leaves behind is nobody's: calls in flight need not end.
        config.shutdown = Some(Duration::ZERO);
        let mut secrets = BTreeMap::new();
        for secret in &self.secret {
            let (name, value) =
                secret.split_once('=').ok_or_else(|| Failure::wrong(format!("--secret {secret}: write NAME=JSON")))?;
            secrets.insert(name.to_owned(), crate::config::text_or_json(value));
        }
        Running::open(config, storage, self.resolve.clone(), secrets).await.map_err(Failure::all)
    }

    /// The hosts that the definitions call. What is wrong with a definition is said when it is deployed.
    fn hosts(&self) -> BTreeSet<String> {
        let texts = self.files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
        let definitions = texts.filter_map(|text| definition::read("", &text).definition);
        let programs = definitions.filter_map(|definition| Program::compile(&definition, &stand_ins(&definition)).ok());
        programs.flat_map(|program| program.hosts()).collect()
    }

    async fn print(&self, running: &Running, record: &WorkflowInstance) -> Result<(), Failure> {
        let mut result = json!({
            "id": record.id,
            "status": record.status,
            "output": record.output,
            "error": record.error,
            "compensation": record.compensation,
        });
        if self.tasks {
            let tasks = running.engine.tasks(&record.id).await.map_err(|e| Failure::failed(e.to_string()))?;
            result["tasks"] = tasks.iter().map(crate::api::task_json).collect();
        }
        if self.output == Output::Json {
            print_json(&result);
            return Ok(());
        }
        println!("{} {}", record.id, record.status.as_str());
        if let Some(output) = &record.output {
            print_json(&output.into());
        }
        if let Some(problem) = &record.error {
            println!("{} {} at {}", problem.status, problem.title, problem.instance);
            println!("{}", problem.detail.as_deref().unwrap_or(&problem.type_));
        }
        for reference in &record.compensation.compensated {
            println!("undone: {reference}");
        }
        for unresolved in &record.compensation.unresolved {
            println!("NOT undone: {} (key {}): {}", unresolved.reference, unresolved.key, unresolved.reason);
        }
        if self.tasks {
            print_json(&result["tasks"]);
        }
        Ok(())
    }
}

/// `HOST[:PORT]=ADDR:PORT`
fn resolve_argument(text: &str) -> Result<(String, Option<u16>, SocketAddr), String> {
    let wrong = || format!("`{text}`: write HOST[:PORT]=ADDR:PORT, for example api.example.com:443=127.0.0.1:9443");
    let (host, address) = text.split_once('=').ok_or_else(wrong)?;
    let address = address.parse().map_err(|_| wrong())?;
    match host.rsplit_once(':') {
        Some((host, port)) => Ok((host.to_owned(), Some(port.parse().map_err(|_| wrong())?), address)),
        None => Ok((host.to_owned(), None, address)),
    }
}
