//! The one door for automation: `cargo xtask test|tidy|bench|ctk|sim|fuzz`.
//!
//! Each command is a list of stages; each stage is a process that anybody could start by hand, and is printed as such.
//! Nothing here builds or tests anything itself. Start reading at [`main`].

mod fuzz;
mod mutants;
mod packages;
mod stage;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use stage::{Stages, cargo, program};

/// Schedules the simulator runs in a full test.
const SCHEDULES: &str = "100000";
/// And in a quick one.
const QUICK_SCHEDULES: &str = "5000";
/// Documents it compares in both placements in a quick one.
const QUICK_DOCUMENTS: &str = "1000";

/// Schedules with faults that `sim --minutes` runs for each workflow in each mode.
const SCHEDULES_PER_WORKFLOW: u64 = 4;

/// States of the model of fork and race that `sim` visits: as many as fit into some gigabytes.
const MODEL_STATES: &str = "400000";

#[derive(Parser)]
#[command(about = "Automation of the project")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that must hold: tidy, all tests, the conformance features, the demo.
    Test {
        /// Leave out what takes minutes: tests of the binary, among them those against other programs, the release build,
        /// most schedules of the simulator.
        #[arg(long)]
        quick: bool,
    },
    /// Formatting, lints, directions between crates, paths in documents.
    Tidy,
    /// Measure: `bench orders [--json FILE] [--quick]`, `bench gateway [--json FILE]`, `bench nfr [--json FILE] [--quick]`.
    Bench {
        /// Which benchmark.
        name: String,
        /// Passed on to it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// The standard's conformance features alone.
    Ctk,
    /// The simulator alone, for longer.
    Sim {
        /// For so many minutes on new seeds, on all cores.
        #[arg(long, conflicts_with = "schedules")]
        minutes: Option<u64>,
        /// Switch off one rule of the core after the other in a copy of it: the simulator must notice each.
        #[arg(long, conflicts_with_all = ["schedules", "minutes"])]
        mutants: bool,
        /// How many schedules.
        #[arg(long, default_value_t = 1_000_000)]
        schedules: u64,
        /// From which seed; 1, or with `--minutes` one that was not used yet.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Fuzz what reads input from outside, guided by the code that it reaches.
    Fuzz {
        /// For so many minutes each.
        #[arg(long, default_value_t = 5)]
        minutes: u64,
        /// One target alone: definition, routes, events, proxy or wire.
        #[arg(long)]
        target: Option<String>,
    },
}

fn main() -> ExitCode {
    let mut stages = Stages::default();
    match Cli::parse().task {
        Task::Tidy => tidy::run(&mut stages),
        Task::Ctk => stages.run("conformance features", cargo(&["test", "--package", "pavane", "--test", "ctk"])),
        Task::Sim { mutants: true, .. } => mutants::run(&mut stages),
        Task::Sim { minutes: Some(minutes), seed, .. } => {
            let explore = ["run", "--release", "--package", "pavane-testkit", "--example", "explore", "--"];
            let mut simulator = cargo(&explore);
            simulator.args([minutes, seed.unwrap_or_else(new_seed), SCHEDULES_PER_WORKFLOW].map(|n| n.to_string()));
            stages.run("simulator", simulator);
        }
        Task::Sim { schedules, seed, .. } => {
            let seed = seed.unwrap_or(1);
            let mut simulator = cargo(&["test", "--release", "--package", "pavane-testkit", "--", "--nocapture"]);
            simulator.env("PAVANE_SCHEDULES", schedules.to_string()).env("PAVANE_SEED", seed.to_string());
            simulator.env("PAVANE_MODEL_STATES", MODEL_STATES);
            stages.run("simulator", simulator);
        }
        Task::Bench { name, args } if name == "orders" => {
            let mut bench = cargo(&["bench", "--package", "pavane", "--bench", "orders", "--"]);
            bench.args(args);
            stages.run("bench orders", bench);
        }
        Task::Bench { name, args } if name == "gateway" => {
            // The server is measured as it is released.
            stages.run("release build", cargo(&["build", "--release", "--package", "pavane"]));
            let mut bench = cargo(&[
                "bench",
                "--package",
                "pavane",
                "--package",
                "pavane-gateway",
                "--bench",
                "gateway",
                "--",
                "--pavane",
            ]);
            bench.arg(stage::target().join("release").join("pavane")).args(args);
            stages.run("bench gateway", bench);
        }
        Task::Bench { name, args } if name == "nfr" => {
            let mut bench = cargo(&["bench", "--package", "pavane", "--bench", "nfr", "--"]);
            bench.args(args);
            stages.run("bench nfr", bench);
        }
        Task::Bench { name, .. } => {
            eprintln!("error: there is no benchmark `{name}`; there are `orders`, `gateway` and `nfr`");
            return ExitCode::from(2);
        }
        Task::Fuzz { minutes, target } => fuzz::run(&mut stages, minutes, target.as_deref()),
        Task::Test { quick } => test(&mut stages, quick),
    }
    stages.finish()
}

/// Seeds of documents count up from here, so that runs at different times have different ones.
fn new_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| since.as_secs().wrapping_mul(1_000_000))
}

fn test(stages: &mut Stages, quick: bool) {
    if let Err(missing) = stage::conformance() {
        eprintln!("error: {missing}");
        stages.failed("conformance material");
        return;
    }
    tidy::run(stages);
    if quick {
        let mut others = cargo(&["test", "--workspace", "--exclude", "pavane"]);
        others.env("PAVANE_SCHEDULES", QUICK_SCHEDULES).env("PAVANE_DOCUMENTS", QUICK_DOCUMENTS);
        stages.run("tests but for the binary's", others);
        stages.run("conformance features", cargo(&["test", "--package", "pavane", "--lib", "--test", "ctk"]));
        return;
    }
    let left_out = packages::install(stages);
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]);
    tests.env("PAVANE_SCHEDULES", SCHEDULES).env(packages::LEFT_OUT, left_out.join(","));
    stages.run("all tests", tests);
    stages.run("release build", cargo(&["build", "--release", "--package", "pavane"]));
    let pavane = stage::target().join("release").join("pavane");
    stages.run("demo", program(&pavane, &["demo"]));
    for (file, input) in stage::runnable_examples() {
        let mut run = program(&pavane, &["run"]);
        run.arg(&file);
        if let Some(input) = input {
            run.arg("--input").arg(format!("@{}", input.display()));
        }
        stages.run(&format!("run {}", file.display()), run);
    }
}
