//! Mutants of the core: each rule of the protocol is switched off by a patch, and the simulator must notice.
//!
//! The patches in `crates/pavane-testkit/mutants/` are applied one after the other to a copy of the workspace: the
//! product holds nothing that is there for tests alone. A patch that does not apply any more fails, too: bring it up to
//! date with the code it breaks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::stage::{Stages, root, target};

/// Where the patches are.
const PATCHES: &str = "crates/pavane-testkit/mutants";
/// Workflows that a mutant may survive, at most.
const DOCUMENTS: &str = "20000";
/// Schedules of all of them.
const SCHEDULES: &str = "200000";

/// Applies each patch, runs the simulator, and prints a line of the table in `docs/equivalence.md`.
pub fn run(stages: &mut Stages) {
    let copy = target().join("mutants").join("workspace");
    let patches = match prepare(&copy) {
        Ok(patches) if !patches.is_empty() => patches,
        Ok(_) => return stages.check("mutants", vec![format!("no patch in {PATCHES}")]),
        Err(error) => return stages.check("mutants", vec![error]),
    };
    let mut table = Vec::new();
    for file in patches {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let caught = apply(&copy, &file, false).and_then(|()| {
            let caught = simulate(&copy);
            apply(&copy, &file, true).and(caught)
        });
        match caught {
            Ok((seed, seconds, broken)) => {
                table.push(format!("| `{name}` | {seed} | {seconds:.1} | {broken} |"));
                stages.check(&format!("mutant {name}: caught at seed {seed}"), Vec::new());
            }
            Err(why) => stages.check(&format!("mutant {name}"), vec![why]),
        }
    }
    println!("\n| mutant | seed | s | what noticed |\n|---|---|---|---|\n{}", table.join("\n"));
}

/// A fresh copy of what the simulator is built from, and the patches.
fn prepare(copy: &Path) -> Result<Vec<PathBuf>, String> {
    let told = |what: &Path, error: std::io::Error| format!("{}: {error}", what.display());
    if copy.exists() {
        std::fs::remove_dir_all(copy).map_err(|e| told(copy, e))?;
    }
    for name in ["Cargo.toml", "Cargo.lock", "crates", "xtask", ".cargo"] {
        let from = root().join(name);
        if from.exists() {
            copy_all(&from, &copy.join(name)).map_err(|e| told(&from, e))?;
        }
    }
    let folder = root().join(PATCHES);
    let entries = std::fs::read_dir(&folder).map_err(|e| told(&folder, e))?;
    let mut patches: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    patches.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
    patches.sort();
    Ok(patches)
}

fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    if from.is_dir() {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            copy_all(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::copy(from, to).map(drop)
}

fn apply(copy: &Path, file: &Path, reverse: bool) -> Result<(), String> {
    let mut patch = Command::new("patch");
    patch.args(["--strip", "1", "--silent", "--batch", "--directory"]).arg(copy).arg("--input").arg(file);
    if reverse {
        patch.arg("--reverse");
    }
    let output = patch.output().map_err(|error| format!("the program `patch` is needed: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    Err(format!("{} does not apply: bring it up to date with the code it breaks\n{told}", file.display()))
}

/// The seed at which the simulator failed, after how many seconds, and why.
fn simulate(copy: &Path) -> Result<(u64, f64, String), String> {
    let cargo = || {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(copy).env("CARGO_TARGET_DIR", target().join("mutants").join("target"));
        cargo.args(["test", "--package", "pavane-testkit", "--test", "simulator"]);
        cargo
    };
    let built = cargo().arg("--no-run").output().map_err(|error| error.to_string())?;
    if !built.status.success() {
        return Err(format!("it does not compile:\n{}", String::from_utf8_lossy(&built.stderr)));
    }
    let began = Instant::now();
    let mut simulator = cargo();
    simulator.args(["both_modes", "--", "--nocapture"]);
    simulator.env("PAVANE_DOCUMENTS", DOCUMENTS).env("PAVANE_SCHEDULES", SCHEDULES).env("PAVANE_NO_SHRINK", "1");
    let output = simulator.output().map_err(|error| error.to_string())?;
    let seconds = began.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let seed = text.split("PAVANE_SEED=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    let Some(seed) = seed.filter(|_| !output.status.success()) else {
        return Err(format!("nobody noticed in {DOCUMENTS} workflows and {seconds:.0} s"));
    };
    let broken = text.lines().skip_while(|line| !line.contains("panicked at")).nth(1).unwrap_or_default();
    // Keys, data and places are of no use in a table.
    let told = broken.split([':', ';']).next().unwrap_or_default();
    let words = told.split(' ').filter(|word| !word.starts_with(['/', '(']) && word.len() < 40);
    Ok((seed, seconds, words.collect::<Vec<_>>().join(" ")))
}
