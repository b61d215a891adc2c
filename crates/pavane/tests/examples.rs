//! The small stories of `examples/`: each checks clean, runs as its page says, and gives the output that lies beside it.
//!
//! A story is a folder with a definition and no `pavane.yaml`; one that has it needs services and is run elsewhere. The
//! commands are taken from the pages, so a page that no longer works fails here.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Fewer would mean that some were not found.
const STORIES: usize = 6;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn stories() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("examples")).unwrap();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("workflow.yaml").is_file() && !folder.join("pavane.yaml").is_file());
    folders.sort();
    assert!(folders.len() >= STORIES, "{folders:?}");
    folders
}

fn pavane(arguments: impl IntoIterator<Item = String>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pavane")).args(arguments).current_dir(root()).output().unwrap()
}

#[test]
fn stories_check_clean() {
    for folder in stories() {
        let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let definitions = files.filter(|file| file.extension().is_some_and(|e| e == "yaml"));
        let checked = pavane(["check".to_owned()].into_iter().chain(definitions.map(|f| f.display().to_string())));
        let told = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success() && told.contains("; 0 errors, 0 warnings"), "{told}");
    }
}

#[test]
fn stories_run_as_their_pages_say() {
    for folder in stories() {
        let page = std::fs::read_to_string(folder.join("README.md")).unwrap();
        let wanted: Value = serde_json::from_slice(&std::fs::read(folder.join("output.json")).unwrap()).unwrap();
        let commands: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("$ pavane run ")).collect();
        assert!(!commands.is_empty(), "{} shows no command that runs it", folder.display());
        for command in commands {
            let arguments = command.split_whitespace().chain(["--output", "json"]).map(str::to_owned);
            let ran = pavane(["run".to_owned()].into_iter().chain(arguments));
            let result: Value = serde_json::from_slice(&ran.stdout).unwrap_or_default();
            assert_eq!(
                (&result["status"], &result["output"]),
                (&Value::from("completed"), &wanted),
                "{command}\n{}",
                String::from_utf8_lossy(&ran.stderr)
            );
        }
    }
}
