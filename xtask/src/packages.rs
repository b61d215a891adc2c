//! Debian packages that the full test needs beside Rust: they are installed when that may be done, and named when not.

use std::process::Command;

use crate::stage::Stages;

/// A package, the program in it that is looked for, and why.
const PACKAGES: [(&str, &str, &str); 1] = [("nginx-light", "nginx", "the tests of `ops/nginx`")];

/// Where programs of administrators are, too, when they are not in `PATH`.
const FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/bin", "/sbin"];

/// Installs what is missing; a stage of its own that fails with what to do.
pub fn install(stages: &mut Stages) {
    let missing: Vec<_> = PACKAGES.iter().filter(|(_, program, _)| !there(program)).collect();
    if missing.is_empty() {
        return;
    }
    let names: Vec<&str> = missing.iter().map(|(package, ..)| *package).collect();
    if administrator()
        && apt_get(&["update"])
        && apt_get(&[&["install", "--yes", "--no-install-recommends"], &*names].concat())
    {
        return stages.check("packages", Vec::new());
    }
    let tell = |(package, program, why): &&(&str, &str, &str)| {
        format!("`{program}` is missing, for {why}: as administrator, apt-get install {package}")
    };
    stages.check("packages", missing.iter().map(tell).collect());
}

fn there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(FOLDERS.iter().map(Into::into)).any(|folder| folder.join(program).is_file())
}

/// Whether this process may install anything.
fn administrator() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn apt_get(arguments: &[&str]) -> bool {
    let mut command = Command::new("apt-get");
    // Nothing is asked, and no service is started.
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    command.status().is_ok_and(|status| status.success())
}
