//! `pavane compare`, and the services it starts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Done, FAILED, Failure, OK, Output, duration_argument, json_argument, picture, print_json};
use crate::compare::subject::{Answering, Subject};
use crate::compare::{self, Kill, Participants, Settings, Thresholds, service};
use crate::demo::services::Behaviour;
use crate::demo::temporary;
use crate::server::Asked;

#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// The definition to compare; further files are deployed beside it, for sub-workflows.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Input of every instance: JSON, @file, or - for standard input.
    #[arg(short, long)]
    input: Option<String>,
    /// Configuration: its services answer. Without it the demo's do, or stand-ins.
    #[arg(short, long)]
    config: Option<PathBuf>,
    /// Instances of the closed loop.
    #[arg(long, default_value_t = 1_000)]
    instances: u64,
    /// How many of them at the same time.
    #[arg(long, default_value_t = 64)]
    in_flight: u64,
    /// Rates of the open loop, in instances a second.
    #[arg(long, value_delimiter = ',', default_values_t = [25.0, 50.0, 100.0, 200.0])]
    rates: Vec<f64>,
    /// How long each rate is measured.
    #[arg(long, default_value = "4s", value_parser = duration_argument)]
    duration: Duration,
    /// What to kill: a service and the engine, one after the other, when nothing is said and the services are ours.
    #[arg(long, value_enum)]
    kill: Option<KillArgument>,
    /// An instance is on time within it.
    #[arg(long, default_value = "1s", value_parser = duration_argument)]
    objective: Duration,
    /// Where participants run when the workflow is choreographed: in the engine's process, or each in one of its own.
    #[arg(long, value_enum, default_value_t = Participants::Here)]
    participants: Participants,
    /// How long each call of our services takes.
    #[arg(long, default_value = "5ms", value_parser = duration_argument)]
    service_time: Duration,
    /// Decides payloads' fates and the moments of the kills.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// For the verdict: the p99 of an instance must stay within it.
    #[arg(long, default_value = "300ms", value_parser = duration_argument)]
    p99: Duration,
    /// For the verdict: figures apart by less than this, in percent of the larger one, count as alike.
    #[arg(long, default_value_t = 10.0)]
    alike: f64,
    /// Write report.html and report.json into this folder.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KillArgument {
    None,
    Service,
    Engine,
}

impl Compare {
    pub async fn run(self) -> Done {
        let positive = |rate: &f64| rate.is_finite() && *rate > 0.0;
        if self.instances == 0 || self.in_flight == 0 || !self.rates.iter().all(positive) {
            return Err(Failure::wrong("give at least one of --instances and --in-flight, and --rates above 0"));
        }
        let input = self.input.as_deref().map(json_argument).transpose()?;
        let subject = Subject::read(&self.files, self.config.as_deref(), input).map_err(Failure::wrong)?;
        let kills = match (self.kill, subject.answering) {
            (None | Some(KillArgument::None), Answering::Configured) | (Some(KillArgument::None), _) => Vec::new(),
            (Some(KillArgument::Service), Answering::Configured) => {
                return Err(Failure::wrong("--kill service: the services of the configuration are not ours to kill"));
            }
            (Some(KillArgument::Service), _) => vec![Kill::Service],
            (Some(KillArgument::Engine), _) => vec![Kill::Engine],
            (None, _) => vec![Kill::Service, Kill::Engine],
        };
        let settings = Settings {
            instances: self.instances,
            in_flight: self.in_flight,
            outage_rate_per_s: self.rates.iter().copied().fold(f64::INFINITY, f64::min),
            rates_per_s: self.rates,
            seconds: self.duration.as_secs_f64(),
            kills,
            down_s: 2.0,
            objective_s: self.objective.as_secs_f64(),
            service_time_ms: u64::try_from(self.service_time.as_millis()).unwrap_or(0),
            participants: self.participants,
            seed: self.seed,
            thresholds: Thresholds { p99_ms: self.p99.as_secs_f64() * 1_000.0, alike_percent: self.alike },
        };
        let name = subject.identity.join(" ");
        let pictures = [
            ("Orchestrated: the engine makes every call", picture::star(&name, &subject.explanation)),
            ("Choreographed: the participants hand the work on", picture::svg(&name, &subject.explanation)),
        ]
        .map(|(title, svg)| (title.to_owned(), svg));
        let folder = temporary("compare").map_err(Failure::failed)?;
        let mut asked = Asked::hear().map_err(Failure::failed)?;
        // Its processes end with it, however it ends.
        let report = tokio::select! {
            report = compare::run(subject, settings, &folder) => report,
            () = asked.again() => Err("it was stopped before its end".into()),
        };
        if let Err(error) = std::fs::remove_dir_all(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "the comparison's folder stays");
        }
        let report = report.map_err(Failure::failed)?;
        let value = serde_json::to_value(&report).map_err(|e| Failure::failed(e.to_string()))?;
        match self.output {
            Output::Json => print_json(&value),
            Output::Text => print!("{}", compare::text(&report)),
        }
        if let Some(folder) = self.report {
            let told = |file: &Path, e: std::io::Error| Failure::failed(format!("{}: {e}", file.display()));
            std::fs::create_dir_all(&folder).map_err(|e| told(&folder, e))?;
            for (name, text) in
                [("report.json", format!("{value:#}\n")), ("report.html", compare::page(&report, &pictures))]
            {
                let file = folder.join(name);
                std::fs::write(&file, text).map_err(|e| told(&file, e))?;
            }
        }
        Ok(if report.correctness.correct { OK } else { FAILED })
    }
}

/// A service of a comparison.
#[derive(Debug, Args)]
pub(crate) struct CompareService {
    #[arg(long)]
    name: String,
    #[arg(long)]
    port: u16,
    #[arg(long, value_parser = duration_argument)]
    time: Duration,
    #[arg(long)]
    books: Option<PathBuf>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 0.0)]
    declined: f64,
    #[arg(long, default_value_t = 0.0)]
    unshippable: f64,
}

impl CompareService {
    pub async fn run(self) -> Done {
        let behaviour = Behaviour {
            declined: self.declined,
            unshippable: self.unshippable,
            // The pause of a retry would be all that the p99 shows.
            unavailable: 0.0,
            lost: 0.0,
            latency: u64::try_from(self.time.as_millis()).unwrap_or(0),
            seed: self.seed,
        };
        let demo = self.books.map(|folder| (behaviour, folder));
        let settings = service::Settings { name: self.name, port: self.port, demo, time: self.time };
        service::serve(settings).await.map_err(Failure::failed)?;
        Ok(OK)
    }
}
