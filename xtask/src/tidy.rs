//! What keeps the house in order: formatting, lints, who may depend on whom, documents that name what exists.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::stage::{Stages, cargo, root};

/// Which of our crates each may use. Anything else is a room reaching into another.
const ALLOWED: &[(&str, &[&str])] = &[
    ("pavane-core", &[]),
    ("pavane-watch", &[]),
    ("pavane-store", &["pavane-core", "pavane-watch"]),
    ("pavane-bus", &["pavane-core", "pavane-store"]),
    ("pavane-runtime", &["pavane-core", "pavane-store", "pavane-bus", "pavane-watch"]),
    ("pavane-testkit", &["pavane-core", "pavane-store"]),
    ("pavane-gateway", &["pavane-core", "pavane-watch"]),
    ("pavane-config", &["pavane-core", "pavane-runtime", "pavane-gateway"]),
    (
        "pavane",
        &[
            "pavane-core",
            "pavane-store",
            "pavane-bus",
            "pavane-runtime",
            "pavane-gateway",
            "pavane-config",
            "pavane-watch",
        ],
    ),
    ("xtask", &[]),
];

/// Crates that the pure core must never use: they do I/O, keep time, or log.
const NOT_IN_CORE: &[&str] = &["tokio", "tracing", "hyper", "rusqlite", "rand"];

/// A longer file is a sign of a missing concept.
const MAX_LINES: usize = 900;

/// Documents that must be there.
const DOCUMENTS: &[&str] =
    &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "GLOSSARY.md", "CHANGELOG.md", "docs/SUMMARY.md"];

/// Longer, the bird's view is none.
const MAX_ARCHITECTURE: usize = 200;

/// Folders that a path in a document may begin with.
const FOLDERS: [&str; 7] = ["crates/", "docs/", "examples/", "fuzz/", "ops/", "xtask/", ".ci/"];

/// All checks.
pub fn run(stages: &mut Stages) {
    stages.run("format", cargo(&["fmt", "--all", "--", "--check"]));
    stages.run("lints", cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]));
    stages.check("directions between crates", directions());
    stages.check("files: headed, short, and of no machine", files());
    stages.check("paths in documents", documents());
}

fn directions() -> Vec<String> {
    let mut problems = Vec::new();
    for (name, allowed) in ALLOWED {
        let folder = if *name == "xtask" { root().join("xtask") } else { root().join("crates").join(name) };
        let manifest = match std::fs::read_to_string(folder.join("Cargo.toml")) {
            Ok(text) => text,
            Err(error) => {
                problems.push(format!("{name}: {error}"));
                continue;
            }
        };
        let product = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        for used in dependencies(product) {
            let ours = ALLOWED.iter().any(|(other, _)| *other == used);
            if ours && !allowed.contains(&used) {
                problems.push(format!("{name} must not use {used}"));
            }
            if *name == "pavane-core" && NOT_IN_CORE.contains(&used) {
                problems.push(format!("pavane-core must not use {used}: it is pure"));
            }
        }
    }
    if !root().join("crates/pavane-core/clippy.toml").is_file() {
        problems.push("crates/pavane-core/clippy.toml is missing: it forbids clocks and chance in the core".into());
    }
    problems
}

/// Names of the dependencies of a manifest's text.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let section = manifest.split("[dependencies]").nth(1).unwrap_or_default();
    section.lines().take_while(|line| !line.starts_with('[')).filter_map(|line| line.split(['.', ' ', '=']).next())
}

fn files() -> Vec<String> {
    let mut problems = Vec::new();
    for path in tracked() {
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        let name = path.display();
        if path.extension().is_some_and(|e| e == "rs") {
            if !text.starts_with("//!") {
                problems.push(format!("{name} does not open with `//!`: say what it is and where to start"));
            }
            let lines = text.lines().count();
            if lines > MAX_LINES {
                problems.push(format!("{name} has {lines} lines; past {MAX_LINES} a concept is missing"));
            }
        }
        if text.lines().any(names_machine) {
            problems.push(format!("{name} names a path of one machine"));
        }
    }
    problems
}

/// Whether a line holds an absolute path of the machine it was written on. Within a longer path (of a URL, of the
/// project) the same letters are somebody's own name.
fn names_machine(line: &str) -> bool {
    let machine = ["/wo", "rk/"].concat();
    let inner = |c: char| c.is_alphanumeric() || "}_-./".contains(c);
    let mut before = line.match_indices(&machine).map(|(at, _)| &line[..at]);
    before.any(|before| before.ends_with("://") || !before.ends_with(inner))
}

fn documents() -> Vec<String> {
    let mut problems: Vec<String> =
        DOCUMENTS.iter().filter(|name| !root().join(name).is_file()).map(|name| format!("{name} is missing")).collect();
    let pages: Vec<PathBuf> =
        tracked().into_iter().filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap_or_default();
    for page in &pages {
        let Ok(text) = std::fs::read_to_string(root().join(page)) else { continue };
        let name = page.display();
        let prose = prose(&text);
        for path in quoted_paths(&prose).filter(|path| !root().join(path).exists()) {
            problems.push(format!("{name} names `{path}`, which does not exist"));
        }
        let folder = root().join(page).parent().map(Path::to_owned).unwrap_or_else(root);
        for link in links(&prose).filter(|link| !folder.join(link).exists()) {
            problems.push(format!("{name} links to {link}, which does not exist"));
        }
        if let Ok(inner) = page.strip_prefix("docs")
            && inner != Path::new("SUMMARY.md")
            && !summary.contains(&format!("({})", inner.display()))
        {
            problems.push(format!("docs/SUMMARY.md does not list {}", inner.display()));
        }
        if page == Path::new("ARCHITECTURE.md") && text.lines().count() > MAX_ARCHITECTURE {
            problems.push(format!("{name} has more than {MAX_ARCHITECTURE} lines"));
        }
    }
    problems
}

/// A page without its blocks of code.
fn prose(text: &str) -> String {
    let mut code = false;
    let outside = |line: &&str| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    };
    text.lines().filter(outside).collect::<Vec<_>>().join("\n")
}

/// Paths of the project in backticks.
fn quoted_paths(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|quoted| {
        !quoted.contains([' ', '*', '{', '<', ':', '$', '@', '|', '(', '"', '\n'])
            && FOLDERS.iter().any(|folder| quoted.starts_with(folder))
    })
}

/// Targets of links within the project, without what follows `#`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#']).next())
        .filter(|link| !link.is_empty() && !link.contains("://") && !link.starts_with("mailto:"))
}

/// Files under version control, and those about to be.
fn tracked() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().filter(|line| !line.ends_with(".lock")).map(|line| Path::new(line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_machine_is_told_from_a_part_of_another_path() {
        for (line, named) in [
            (["see /wo", "rk/notes"].concat(), true),
            (["/wo", "rk/"].concat(), true),
            (["open(\"/wo", "rk/a\")"].concat(), true),
            (["file:/wo", "rk/a"].concat(), true),
            (["file:///wo", "rk/a"].concat(), true),
            (["http://wo", "rk/a"].concat(), false),
            (["POST /workflows/t/wo", "rk/instances"].concat(), false),
            (["`target/wo", "rk/x`"].concat(), false),
            (["{namespace}/wo", "rk/x"].concat(), false),
        ] {
            assert_eq!(names_machine(&line), named, "{line}");
        }
    }

    #[test]
    fn paths_and_links_are_found_in_prose_only() {
        let page = "See `crates/a.rs` and [b](docs/b.md#x), not `cargo run` or [c](https://c.example).\n```\n`crates/no`\n```\n";
        let prose = prose(page);
        assert_eq!(quoted_paths(&prose).collect::<Vec<_>>(), ["crates/a.rs"]);
        assert_eq!(links(&prose).collect::<Vec<_>>(), ["docs/b.md"]);
    }
}
