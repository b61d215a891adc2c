//! Debian packages that tests need: real programs that Pavane is held against.
//!
//! `cargo xtask test` installs what is missing when it may: on Debian, as root or with a `sudo` that asks for nothing. When
//! it may not, it says what to install and leaves those tests out: [`LEFT_OUT`] names the programs to them. A test that
//! finds its program neither there nor left out fails. Add a package to [`NEEDED`], and nothing else.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::stage::Stages;

/// A package, and the program by which it is known to be there.
struct Package {
    name: &'static str,
    program: &'static str,
    /// What is left out without it.
    tests: &'static str,
}

/// What there must be for a full test.
const NEEDED: &[Package] = &[
    Package {
        name: "prometheus",
        program: "promtool",
        tests: "scraping, alert rules and the dashboard against a real Prometheus",
    },
    Package { name: "nginx-light", program: "nginx", tests: "the gateway behind a real nginx" },
];

/// The variable that tells tests which programs they are to do without, by commas.
pub const LEFT_OUT: &str = "PAVANE_LEAVE_OUT";

/// Folders that hold programs but are not on the path of every user.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// Installs what is missing, if that is allowed. Gives the programs that tests must do without.
pub fn install(stages: &mut Stages) -> Vec<&'static str> {
    let missing = || NEEDED.iter().filter(|package| !is_there(package.program));
    let names: Vec<&str> = missing().map(|package| package.name).collect();
    if names.is_empty() {
        return Vec::new();
    }
    match apt() {
        Some(apt) => {
            // Lists that are not up to date may do; whether they did is seen below.
            let update = command(&apt, &["update", "--quiet"]);
            let install = [&["install", "--yes", "--quiet", "--no-install-recommends"][..], &names].concat();
            stages.run("Debian packages", update);
            stages.run("Debian packages", command(&apt, &install));
        }
        None => println!(
            "\n=== Debian packages: not installed, since this needs apt-get and root, or a `sudo` without a password. \
             Install them by hand: apt-get install {}",
            names.join(" ")
        ),
    }
    missing()
        .map(|package| {
            stages.left_out(&format!("{} ({} is not there)", package.tests, package.program));
            package.program
        })
        .collect()
}

/// Whether a program can be started by its name, or is in one of [`FOLDERS`].
fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.iter().map(|folder| Path::new(folder).to_owned()));
    folders.into_iter().any(|folder| folder.join(program).is_file())
}

/// How packages are installed here; nothing when that is not allowed.
fn apt() -> Option<Vec<&'static str>> {
    let quietly = |program: &str, args: &[&str]| {
        let done = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
    };
    if !is_there("apt-get") {
        return None;
    }
    match quietly("id", &["-u"]).as_deref() {
        Some("0") => Some(vec!["apt-get"]),
        _ => quietly("sudo", &["-n", "true"]).map(|_| vec!["sudo", "-n", "apt-get"]),
    }
}

fn command(words: &[&str], more: &[&str]) -> Command {
    let mut all = words.iter().chain(more);
    let mut command = Command::new(all.next().copied().unwrap_or("apt-get"));
    // Nobody is there to be asked.
    command.args(all).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}
