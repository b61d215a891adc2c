//! The standard's conformance features (CTK), both families, in both modes, byte for byte through the public interface.
//!
//! Each scenario's definition goes to the real binary, `pavane run`, and the hosts it calls are stand-ins on this
//! machine, reached by `--resolve` and trusted by `--ca`. The feature files are read from where the standard's material
//! is kept; nothing of them is copied or changed. Start reading at [`main`].

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

#[path = "ctk/hosts.rs"]
mod hosts;

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use cucumber::writer::{self, Stats as _};
use cucumber::{World as _, WriterExt as _, gherkin::Step, given, then, when};
use pavane_core::definition::Mode;
use serde_json::Value;

/// Scenarios of each family: fewer would mean that some were not found.
const SCENARIOS: usize = 21;

/// The mode that scenarios run in now.
static MODE: AtomicUsize = AtomicUsize::new(0);

/// One scenario.
#[derive(Debug, Default, cucumber::World)]
struct World {
    definition: String,
    input: Option<Value>,
    result: Value,
}

#[given("a workflow with definition:")]
fn definition(world: &mut World, step: &Step) {
    world.definition = text(step);
}

#[given("given the workflow input is:")]
fn input(world: &mut World, step: &Step) {
    world.input = Some(yaml(step));
}

#[when("the workflow is executed")]
async fn execute(world: &mut World) {
    let hosts = hosts::running().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("workflow.yaml");
    std::fs::write(&file, &world.definition).expect("the definition is written");
    let mut run = Command::new(env!("CARGO_BIN_EXE_pavane"));
    let mode = Mode::ALL[MODE.load(Ordering::SeqCst)];
    run.arg("run").arg(&file).args(["--mode", mode.as_str()]);
    run.args(["--tasks", "--output", "json", "--ca"]).arg(&hosts.ca);
    for host in hosts::HOSTS {
        run.arg("--resolve").arg(format!("{host}:443=127.0.0.1:{}", hosts.port));
    }
    if let Some(input) = &world.input {
        run.arg("--input").arg(input.to_string());
    }
    let output = tokio::task::spawn_blocking(move || run.output()).await.expect("it runs").expect("it runs");
    world.result = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no result: {}", String::from_utf8_lossy(&output.stderr)));
}

#[then("the workflow should complete")]
fn completes(world: &mut World) {
    assert_eq!(world.result["status"], "completed", "{:#}", world.result);
}

#[then("the workflow should complete with output:")]
fn completes_with(world: &mut World, step: &Step) {
    completes(world);
    assert_eq!(world.result["output"], yaml(step));
}

#[then("the workflow should fault")]
fn faults(world: &mut World) {
    assert_eq!(world.result["status"], "faulted", "{:#}", world.result);
}

#[then("the workflow should fault with error:")]
fn faults_with(world: &mut World, step: &Step) {
    faults(world);
    assert_eq!(world.result["error"], yaml(step));
}

#[then(regex = r"^the workflow output should have properties (.+)$")]
fn has_properties(world: &mut World, names: String) {
    for name in names.split(',').map(|name| name.trim().trim_matches('\'')) {
        assert!(property(&world.result["output"], name).is_some(), "no `{name}` in {:#}", world.result["output"]);
    }
}

#[then(regex = r"^the workflow output should have a '(.+)' property with value:$")]
fn has_property_with(world: &mut World, step: &Step, name: String) {
    let expected = yaml(step);
    assert_eq!(property(&world.result["output"], &name), Some(&expected));
}

#[then(regex = r"^the workflow output should have a '(.+)' property containing (\d+) items$")]
fn has_items(world: &mut World, name: String, count: usize) {
    let items = property(&world.result["output"], &name).and_then(Value::as_array);
    assert_eq!(items.map(Vec::len), Some(count), "{:#}", world.result["output"]);
}

#[then(regex = r"^(\w+) should run first$")]
fn runs_first(world: &mut World, name: String) {
    assert_eq!(order(world).first(), Some(&name));
}

#[then(regex = r"^(\w+) should run last$")]
fn runs_last(world: &mut World, name: String) {
    assert_eq!(order(world).last(), Some(&name));
}

#[then(regex = r"^(\w+) should run after (\w+)$")]
fn runs_after(world: &mut World, name: String, before: String) {
    let order = order(world);
    let position = |wanted: &str| order.iter().position(|name| name == wanted);
    assert!(position(&before).is_some() && position(&name) > position(&before), "{order:?}");
}

fn order(world: &World) -> Vec<String> {
    let tasks = world.result["tasks"].as_array().expect("tasks");
    tasks.iter().filter_map(|task| task["name"].as_str().map(str::to_owned)).collect()
}

fn property<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, name| value.get(name))
}

/// The doc string of a step, without its media type and its indentation.
fn text(step: &Step) -> String {
    let doc = step.docstring().expect("the step has a doc string");
    let body = doc.strip_prefix("yaml\n").or_else(|| doc.strip_prefix("yaml")).unwrap_or(doc);
    let indent =
        body.lines().filter(|l| !l.trim().is_empty()).map(|l| l.len() - l.trim_start().len()).min().unwrap_or(0);
    body.lines().map(|line| line.get(indent..).unwrap_or("")).collect::<Vec<_>>().join("\n")
}

fn yaml(step: &Step) -> Value {
    let value = pavane_core::definition::document(&text(step)).expect("the doc string is YAML");
    (&value).into()
}

fn conformance() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = match std::env::var_os("PAVANE_CONFORMANCE_DIR") {
        Some(folder) => root.join(folder),
        None => root.join("../shared/conformance"),
    };
    assert!(
        folder.join("ctk-1.0.3").is_dir(),
        "the standard's conformance material is not at {}; set PAVANE_CONFORMANCE_DIR",
        folder.display()
    );
    folder
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (mut passed, mut failed) = (0, 0);
    for (index, mode) in Mode::ALL.into_iter().enumerate() {
        MODE.store(index, Ordering::SeqCst);
        for family in ["ctk-1.0.3", "ctk-ows"] {
            println!("=== {family}, {}", mode.as_str());
            let features = conformance().join(family);
            let writer = runtime.block_on(
                World::cucumber()
                    .with_writer(writer::Basic::stdout().summarized().fail_on_skipped())
                    .max_concurrent_scenarios(4)
                    .with_default_cli()
                    .run(features),
            );
            let complete = writer.scenarios_stats().passed;
            println!("{family}, {}: {complete} of {SCENARIOS} scenarios passed", mode.as_str());
            passed += complete;
            let unnoticed = usize::from(writer.execution_has_failed() && complete == SCENARIOS);
            failed += SCENARIOS.saturating_sub(complete) + unnoticed;
        }
    }
    println!("test result: {}. {passed} passed; {failed} failed; 0 ignored", if failed == 0 { "ok" } else { "FAILED" });
    std::process::exit(i32::from(failed > 0));
}
