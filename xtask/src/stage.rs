//! Running stages one after the other, and adding up what they report.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// What was run so far.
#[derive(Default)]
pub struct Stages {
    done: Vec<(String, Duration, bool)>,
    left_out: Vec<String>,
    passed: u64,
    failed: u64,
}

impl Stages {
    /// Runs a process, shows its output, and counts the results of every test runner in it.
    pub fn run(&mut self, name: &str, mut command: Command) {
        println!("\n=== {name}: {}", shown(&command));
        let began = Instant::now();
        let fine = match command.stdout(Stdio::piped()).spawn() {
            Ok(mut child) => {
                let (mut passed, mut failed) = (0, 0);
                if let Some(output) = child.stdout.take() {
                    for line in BufReader::new(output).lines().map_while(Result::ok) {
                        println!("{line}");
                        if let Some((p, f)) = results(&line) {
                            passed += p;
                            failed += f;
                        }
                    }
                }
                self.passed += passed;
                self.failed += failed;
                child.wait().is_ok_and(|status| status.success())
            }
            Err(error) => {
                eprintln!("error: {}: {error}", shown(&command));
                false
            }
        };
        self.note(name, began.elapsed(), fine);
    }

    /// A check that is a function.
    pub fn check(&mut self, name: &str, problems: Vec<String>) {
        println!("\n=== {name}");
        problems.iter().for_each(|problem| println!("{problem}"));
        self.note(name, Duration::ZERO, problems.is_empty());
    }

    /// A stage that could not be run.
    pub fn failed(&mut self, name: &str) {
        self.note(name, Duration::ZERO, false);
    }

    /// Something that cannot be tested on this machine: told at the end, so that nobody takes it for tested.
    pub fn left_out(&mut self, what: &str) {
        self.left_out.push(what.to_owned());
    }

    fn note(&mut self, name: &str, took: Duration, fine: bool) {
        // A stage without a test runner counts as one test itself.
        if fine {
            self.passed += 1
        } else {
            self.failed += 1
        }
        self.done.push((name.to_owned(), took, fine));
    }

    /// The summary, and whether all went well.
    pub fn finish(self) -> ExitCode {
        println!("\n=== summary");
        for (name, took, fine) in &self.done {
            println!("{:<6} {:>6.1} s  {name}", if *fine { "ok" } else { "FAILED" }, took.as_secs_f64());
        }
        self.left_out.iter().for_each(|what| println!("left out          {what}"));
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// `test result: ok. 12 passed; 0 failed; …`
fn results(line: &str) -> Option<(u64, u64)> {
    let rest = line.trim().strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut counts = rest.split("; ");
    let mut next = |word: &str| counts.next()?.strip_suffix(word)?.trim().parse().ok();
    Some((next("passed")?, next("failed")?))
}

fn shown(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// A cargo command in the project's root.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Any program in the project's root.
pub fn program(path: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(path);
    command.args(args).current_dir(root());
    command
}

/// The project's root.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The folder of the standard's conformance material.
pub fn conformance() -> Result<PathBuf, String> {
    let folder = match std::env::var_os("PAVANE_CONFORMANCE_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("..").join("shared").join("conformance"),
    };
    if folder.join("ctk-1.0.3").is_dir() {
        return Ok(folder);
    }
    Err(format!(
        "the standard's conformance material is not at {}; set PAVANE_CONFORMANCE_DIR to the folder that holds ctk-1.0.3, ctk-ows and examples",
        folder.display()
    ))
}

/// Examples that need no service, each with its input.
pub fn runnable_examples() -> Vec<(PathBuf, Option<PathBuf>)> {
    let Ok(entries) = std::fs::read_dir(root().join("examples")) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    folders.sort();
    let own = root();
    let relative = |path: PathBuf| path.strip_prefix(&own).map(Path::to_owned).unwrap_or(path);
    folders
        .into_iter()
        .filter(|folder| !folder.join("pavane.yaml").is_file())
        .map(|folder| (folder.join("workflow.yaml"), folder.join("input.json")))
        .filter(|(workflow, _)| std::fs::read_to_string(workflow).is_ok_and(|text| runs_alone(&text)))
        .map(|(workflow, input)| (relative(workflow), Some(input).filter(|i| i.is_file()).map(relative)))
        .collect()
}

/// Whether a workflow calls nobody and waits for nobody.
fn runs_alone(text: &str) -> bool {
    !["call: http", "call: openapi", "listen:", "run:"].iter().any(|word| text.contains(word))
}
