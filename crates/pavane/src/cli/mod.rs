//! The command line; one file for each command, or for each family of them.
//!
//! Output with `-o json` is stable; text is for people. Exit codes: 0 done, 1 it failed, 2 the input or the usage is
//! wrong, 3 it did not end in time.

mod check;
mod compare;
mod demo;
mod explain;
mod picture;
mod remote;
mod replace;
mod run;
mod secret;
mod serve;
mod show;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use pavane_core::definition::{Definition, Mode};
use pavane_core::program::{Program, Resources};
use pavane_runtime::lost::Remedy;

use crate::config::LogFormat;
use crate::log;

/// Threads for what blocks: reads of the store, of which four run at a time, and looking up names, which may hang. Each costs
/// some megabytes of the allocator's, and they come and go with the load.
const BLOCKING_THREADS: usize = 64;

/// Done.
const OK: u8 = 0;
/// It failed, or was cancelled.
const FAILED: u8 = 1;
/// The input or the usage is wrong.
const WRONG: u8 = 2;
/// It did not end in time.
const LATE: u8 = 3;

/// Write a workflow once, run it over your services: durable, with retries, sagas and records.
#[derive(Debug, Parser)]
#[command(name = "pavane", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log: error, warn, info, debug, or a filter such as `pavane_runtime=debug`.
    #[arg(long, global = true, env = "PAVANE_LOG", default_value = "warn")]
    log: String,
    /// Threads for workflows, HTTP and gateway; the store has one of its own. Half of the cores if not given.
    #[arg(long, global = true, env = "PAVANE_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    threads: Option<u16>,
    /// Form of the log: for people, JSON in the form of the Elastic Common Schema, or by whether a terminal reads it.
    #[arg(long, global = true, env = "PAVANE_LOG_FORMAT", value_enum)]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a thousand orders of a saga over five services and audit the books.
    Demo(demo::Demo),
    /// Serve the workflows of a folder, and take up changes as they are saved.
    Dev(serve::Dev),
    /// Serve: engine and HTTP API, as configured.
    Serve(serve::Serve),
    /// Run one workflow to its end in this process.
    Run(run::Run),
    /// Check definitions and say everything that is wrong with them.
    Check(check::Check),
    /// Explain what choreography makes of a definition: who does what, and who hands work to whom.
    Explain(explain::Explain),
    /// Measure both modes of a definition under the same load, outages included.
    Compare(compare::Compare),
    /// Be a service of a comparison.
    #[command(hide = true)]
    CompareService(compare::CompareService),
    /// Deploy definitions to a server.
    Deploy(remote::Deploy),
    /// Start an instance on a server.
    Start(remote::Start),
    /// List instances.
    Ps(remote::Ps),
    /// Show an instance with its tasks.
    Show(show::Show),
    /// Show an instance's lifecycle events.
    Events(remote::Events),
    /// Cancel an instance: what it did is undone.
    Cancel(remote::Operate),
    /// Suspend an instance: no new call starts.
    Suspend(remote::Operate),
    /// Resume a suspended instance.
    Resume(remote::Operate),
    /// Retry now what waits for a retry, or what could not be undone.
    Retry(remote::Operate),
    /// Publish a CloudEvent.
    Emit(remote::Emit),
    /// List the services a server knows.
    Services(remote::ServicesOf),
    /// List messages between participants that could not be delivered, or send them again.
    Redrive(remote::Redrive),
    /// Take a new store for a participant whose store was lost: what is known of its work goes on.
    Adopt(replace::Replace),
    /// Take a new store for a participant whose store was lost: instances with a part in the lost one end.
    Abandon(replace::Replace),
    /// Make an API key, or the hash of a password, for the gateway's configuration.
    Secret(secret::Secret),
    /// Run the five services of the demo, to try `examples/order-fulfilment` against.
    DemoServices(demo::DemoServices),
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs; stable.
    Json,
}

/// A mode to run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArgument {
    /// The engine calls the services.
    Orchestration,
    /// The services' participants hand the work on to each other.
    Choreography,
}

impl From<ModeArgument> for Mode {
    fn from(mode: ModeArgument) -> Mode {
        match mode {
            ModeArgument::Orchestration => Mode::Orchestration,
            ModeArgument::Choreography => Mode::Choreography,
        }
    }
}

/// One mode, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModesArgument {
    /// One after the other.
    Both,
    /// The engine calls the services.
    Orchestration,
    /// The services' participants hand the work on to each other.
    Choreography,
}

impl ModesArgument {
    fn modes(self) -> Vec<Mode> {
        match self {
            ModesArgument::Both => Mode::ALL.to_vec(),
            ModesArgument::Orchestration => vec![Mode::Orchestration],
            ModesArgument::Choreography => vec![Mode::Choreography],
        }
    }
}

impl Cli {
    /// Starts logging to standard error.
    fn init_tracing(&self) {
        let filter = tracing_subscriber::EnvFilter::try_new(&self.log).unwrap_or_else(|_| "warn".into());
        let colour = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
        self.log_format.into_iter().for_each(log::decide);
        let lines = tracing_subscriber::fmt().with_ansi(colour).event_format(log::Lines::default());
        lines.with_env_filter(filter).with_writer(std::io::stderr).init();
    }

    /// Runs the command in a runtime of its own. The runtime is made here and not by the binary: what it drives is compiled
    /// where it is first driven, and the whole of this crate is once enough.
    pub fn execute(self) -> ExitCode {
        self.init_tracing();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.threads())
            .max_blocking_threads(BLOCKING_THREADS)
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => {
                let code = runtime.block_on(self.run());
                // A thread that still reads the store must not hold the exit up.
                runtime.shutdown_timeout(Duration::from_millis(500));
                code
            }
            Err(error) => {
                log::complain(&format!("the runtime cannot be started: {error}"));
                ExitCode::from(FAILED)
            }
        }
    }

    /// Threads of the runtime. The engine's loop keeps one busy; measured, more of them cost more than they bring on
    /// two cores.
    fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.map_or((cores / 2).max(1), usize::from)
    }

    /// Runs the command.
    async fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Demo(command) => command.run().await,
            Command::Dev(command) => command.run().await,
            Command::Serve(command) => command.run().await,
            Command::Run(command) => command.run().await,
            Command::Check(command) => command.run(),
            Command::Explain(command) => command.run(),
            Command::Compare(command) => command.run().await,
            Command::CompareService(command) => command.run().await,
            Command::Deploy(command) => command.run().await,
            Command::Start(command) => command.run().await,
            Command::Ps(command) => command.run().await,
            Command::Show(command) => command.run().await,
            Command::Events(command) => command.run().await,
            Command::Cancel(command) => command.run("cancel").await,
            Command::Suspend(command) => command.run("suspend").await,
            Command::Resume(command) => command.run("resume").await,
            Command::Retry(command) => command.run("retry").await,
            Command::Emit(command) => command.run().await,
            Command::Services(command) => command.run().await,
            Command::Redrive(command) => command.run().await,
            Command::Adopt(command) => command.run(Remedy::Adopt).await,
            Command::Abandon(command) => command.run(Remedy::Abandon).await,
            Command::Secret(command) => command.run(),
            Command::DemoServices(command) => command.run().await,
        };
        match done {
            Ok(code) => ExitCode::from(code),
            Err(Failure { code, message }) => {
                log::complain(&message);
                ExitCode::from(code)
            }
        }
    }
}

/// A command that did not do what it should, with its exit code.
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// The input or the usage is wrong.
    fn wrong(message: impl Into<String>) -> Failure {
        Failure { code: WRONG, message: message.into() }
    }

    /// It failed.
    fn failed(message: impl Into<String>) -> Failure {
        Failure { code: FAILED, message: message.into() }
    }

    /// Several things are wrong.
    fn all(problems: Vec<String>) -> Failure {
        Failure::wrong(problems.join("\n"))
    }
}

pub(crate) type Done = Result<u8, Failure>;

/// A JSON argument: the text itself, `@file`, or `-` for standard input.
fn json_argument(argument: &str) -> Result<serde_json::Value, Failure> {
    let (what, text) = match argument.strip_prefix('@') {
        Some(file) => (file, std::fs::read_to_string(file).map_err(|e| Failure::wrong(format!("{file}: {e}")))?),
        None if argument == "-" => {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut std::io::stdin(), &mut text)
                .map_err(|e| Failure::wrong(format!("standard input: {e}")))?;
            ("standard input", text)
        }
        None => ("the argument", argument.to_owned()),
    };
    serde_json::from_str(&text).map_err(|e| {
        let file = std::path::Path::new(argument).is_file();
        let meant = if file { format!("; the file is meant by `@{argument}`") } else { String::new() };
        Failure::wrong(format!("{what} is no JSON: {e}{meant}"))
    })
}

/// A duration argument.
fn duration_argument(text: &str) -> Result<std::time::Duration, String> {
    pavane_core::units::parse_duration(text)
}

/// Stand-ins for the schemas that a definition refers to: where nothing is deployed, they are not fetched.
fn stand_ins(definition: &Definition) -> Resources {
    Program::resources_of(definition).into_iter().map(|uri| (uri, pavane_core::Value::empty_object())).collect()
}

fn print_json(value: &serde_json::Value) {
    println!("{}", serde_json::to_string_pretty(value).unwrap_or_default());
}
