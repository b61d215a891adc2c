//! Processes that a measurement starts, and what the operating system says they used.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde::Serialize;

/// The kernel counts CPU time for `/proc` in hundredths of a second on every architecture Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process that ends with this value.
#[derive(Debug)]
pub struct Process(Child);

/// What a process has used since its start. Zero where there is no `/proc`.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Used {
    /// CPU time in seconds, in user and system mode together.
    pub cpu: f64,
    /// Resident memory in bytes, now.
    pub rss: u64,
    /// Resident memory in bytes, at its most.
    pub peak: u64,
    /// Bytes handed to the block layer.
    pub written: u64,
}

impl Process {
    /// Starts a process and reads its standard output up to the first line that `found` takes. Blocks until then.
    ///
    /// # Errors
    /// It cannot be started, or ends before.
    pub fn start<T>(mut command: Command, mut found: impl FnMut(&str) -> Option<T>) -> Result<(Process, T), String> {
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

    /// Kills it with SIGKILL: it gets no chance to tidy up.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self) -> Result<(), String> {
        self.0.kill().and_then(|()| self.0.wait()).map(drop).map_err(|e| format!("process {}: {e}", self.0.id()))
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
    let status = read("status");
    Used {
        cpu: ticks / TICKS_PER_SECOND,
        rss: field(&status, "VmRSS:") * 1024,
        peak: field(&status, "VmHWM:") * 1024,
        written: field(&read("io"), "write_bytes:"),
    }
}
