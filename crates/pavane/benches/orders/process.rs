//! Processes of the bench, and what the operating system says they used.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// The kernel counts CPU time for `/proc` in hundredths of a second on every architecture Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process that ends with this value.
pub struct Process(Child);

/// What a process has used since its start. Zero where there is no `/proc`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// CPU time in seconds, in user and system mode together.
    pub cpu: f64,
    /// Resident memory in bytes, now.
    pub rss: u64,
    /// Bytes handed to the block layer.
    pub written: u64,
}

impl Process {
    /// Starts a process and reads its standard output up to the first line that `found` takes.
    pub fn start<T>(mut command: Command, found: impl Fn(&str) -> Option<T>) -> Result<(Process, T), String> {
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| format!("{command:?}: {e}"))?;
        let output = child.stdout.take();
        let process = Process(child);
        for line in BufReader::new(output.ok_or("no output")?).lines() {
            if let Some(found) = found(&line.map_err(|e| e.to_string())?) {
                return Ok((process, found));
            }
        }
        Err(format!("{command:?} ended before it was ready"))
    }

    /// What it has used so far.
    pub fn used(&self) -> Used {
        used(&self.0.id().to_string())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What this process has used so far.
pub fn own() -> Used {
    used("self")
}

fn used(pid: &str) -> Used {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let stat = read("stat");
    // The name in parentheses may hold anything; what follows it are numbers. The 12th and 13th of them are ticks.
    let numbers: Vec<f64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().map(|n| n.parse().unwrap_or(0.0)).collect())
        .unwrap_or_default();
    let ticks: f64 = numbers.get(11..13).unwrap_or_default().iter().sum();
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    Used {
        cpu: ticks / TICKS_PER_SECOND,
        rss: field(&read("status"), "VmRSS:") * 1024,
        written: field(&read("io"), "write_bytes:"),
    }
}
