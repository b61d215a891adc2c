//! Processes of the bench: started, listened to, their CPU time read, ended with their value.

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// The kernel counts CPU time for `/proc` in hundredths of a second on every architecture Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process that ends with this value.
pub struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts a process and reads its output up to the first line that `found` takes.
    pub fn start<T>(mut command: Command, found: impl Fn(&str) -> Option<T>) -> (Process, T) {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut process = Process { child, lines };
        loop {
            let line = process.line();
            if let Some(found) = found(&line) {
                return (process, found);
            }
        }
    }

    /// Its next line.
    pub fn line(&mut self) -> String {
        let line = self.lines.next().and_then(Result::ok);
        line.unwrap_or_else(|| {
            eprintln!("error: a process of the bench ended early");
            std::process::exit(1)
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGTERM, so that nginx ends its workers.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// The address in a line, behind `http://` or alone.
pub fn address(line: &str) -> Option<SocketAddr> {
    line.split([' ', ';']).find_map(|word| word.strip_prefix("http://").unwrap_or(word).parse().ok())
}

/// A command that runs a program, on some cores if they are given.
pub fn pinned(program: &Path, cores: Option<&str>) -> Command {
    match cores {
        Some(cores) => {
            let mut command = Command::new("taskset");
            command.arg("-c").arg(cores).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// CPU time of a process and its children that run, in seconds, user and system together.
pub fn cpu(id: u32) -> f64 {
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let ids = children.split_whitespace().filter_map(|child| child.parse().ok()).chain([id]);
    ids.map(own_cpu).sum()
}

fn own_cpu(id: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; the 12th and 13th number behind it are ticks.
    let numbers = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    numbers.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>()
        / TICKS_PER_SECOND
}

/// The machine's load in the last minute: what else it had to do.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}
