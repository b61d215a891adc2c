//! Coverage-guided fuzzing on the stable compiler: LLVM's instrumentation by its flags, LLVM's fuzzer linked by `libfuzzer-sys`.
//!
//! The targets are the binaries of the crate `fuzz/`, a workspace of its own. What they find is in `fuzz/artifacts/`, what they
//! have seen so far in `fuzz/corpus/`; neither is kept with the project. A crash is fixed, and its input becomes a test.

use std::path::PathBuf;
use std::process::Command;

use crate::stage::{Stages, cargo, conformance, program, root};

/// The targets, and folders of the project whose files are where each begins, beside `fuzz/seeds/TARGET`.
const TARGETS: [(&str, &[&str]); 5] = [
    ("definition", &["examples", "crates/pavane-core/tests/fixtures"]),
    ("routes", &[]),
    ("events", &[]),
    ("proxy", &[]),
    ("wire", &[]),
];

/// What makes LLVM count the edges of the control flow and the operands of comparisons (as cargo-fuzz does, without its
/// sanitizers, which only nightly compilers have: this project has no unsafe code for them to watch).
const FLAGS: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=16",
];

/// Longest input in bytes: far beyond what it takes to reach any line, short enough for thousands of runs a second.
const MAX_LENGTH: u32 = 16 << 10;

/// Seconds after which one input counts as a hang.
const HANG: u32 = 20;

/// Memory in MiB at which one input counts as a leak of it.
const MEMORY: u32 = 2_048;

/// Builds the targets and runs each for so many minutes, or the one that is named.
pub fn run(stages: &mut Stages, minutes: u64, only: Option<&str>) {
    let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = only.filter(|name| !known.contains(name)) {
        eprintln!("error: there is no target `{unknown}`; there are {}", known.join(", "));
        return stages.failed("fuzz");
    }
    let Some(host) = host() else {
        eprintln!("error: `rustc -vV` does not tell its host");
        return stages.failed("fuzz");
    };
    // With a target given, the flags are not for build scripts and macros.
    let mut build = cargo(&["build", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target", &host]);
    build.env("RUSTFLAGS", FLAGS.join(" "));
    stages.run("build the fuzz targets", build);
    let built = root().join("fuzz/target").join(&host).join("release");
    for (name, seeds) in TARGETS.into_iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        let folder = |kind: &str| PathBuf::from("fuzz").join(kind).join(name);
        let (corpus, found) = (folder("corpus"), folder("artifacts"));
        for folder in [&corpus, &found] {
            if let Err(error) = std::fs::create_dir_all(root().join(folder)) {
                eprintln!("error: {}: {error}", folder.display());
                return stages.failed(name);
            }
        }
        // The first is where new inputs go; the others are read.
        let seeds = [corpus, folder("seeds")].into_iter().chain(seeds.iter().map(PathBuf::from));
        let seeds =
            seeds.chain(conformance().ok().filter(|_| name == "definition").map(|folder| folder.join("examples")));
        let mut fuzzer = program(&built.join(name), &[]);
        fuzzer.args(seeds.filter(|folder| root().join(folder).is_dir()));
        fuzzer.args([
            format!("-max_total_time={}", minutes * 60),
            format!("-artifact_prefix={}/", found.display()),
            format!("-max_len={MAX_LENGTH}"),
            format!("-timeout={HANG}"),
            format!("-rss_limit_mb={MEMORY}"),
            "-print_final_stats=1".to_owned(),
        ]);
        let words = folder("seeds").with_extension("dict");
        if root().join(&words).is_file() {
            fuzzer.arg(format!("-dict={}", words.display()));
        }
        stages.run(&format!("fuzz {name}"), fuzzer);
    }
}

/// The machine that is compiled on, as the compiler calls it.
fn host() -> Option<String> {
    let told = Command::new("rustc").arg("-vV").output().ok()?;
    let told = String::from_utf8(told.stdout).ok()?;
    told.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned)
}
