//! What a measurement needs, whoever takes it: load in an open and a closed loop, a client as small as can be, processes
//! and what they use, counted bytes, chance from a seed.
//!
//! `pavane compare` and the benchmark share it. Nothing here knows what is measured. Start reading at [`load`].

pub mod bytes;
pub mod chance;
pub mod load;
pub mod pool;
pub mod process;

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// A histogram of times in microseconds, to a thousandth of each, up to ten minutes.
///
/// # Errors
/// Never, as its limits are fixed.
pub fn histogram() -> Result<Histogram<u64>, String> {
    Histogram::new_with_max(600_000_000, 3).map_err(|e| format!("latencies cannot be measured: {e}"))
}

/// A time in microseconds.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The numbers of a `/metrics` text that have no labels, by name.
pub fn numbers(metrics: &str) -> BTreeMap<String, f64> {
    let number = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    metrics.lines().filter(|line| !line.starts_with('#')).filter_map(number).collect()
}

/// What a measurement ran on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// Model of the processor.
    pub cpu: String,
    /// Operating system and release of its kernel.
    pub system: String,
}

impl Machine {
    /// This machine.
    pub fn here() -> Machine {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        Machine {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            cpu: model.map_or("unknown", |model| model.trim_start_matches([' ', '\t', ':'])).to_owned(),
            system: format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim()),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cores ({}), {}", self.cores, self.cpu, self.system)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_without_labels_are_read() {
        let text = "# HELP pavane_steps Steps\n# TYPE pavane_steps counter\npavane_steps_total 12\n\
                    pavane_instances_active 3\nlabelled{a=\"b\"} 4\n# EOF\n";
        let numbers = numbers(text);
        assert_eq!(numbers.get("pavane_steps_total"), Some(&12.0));
        assert_eq!(numbers.get("pavane_instances_active"), Some(&3.0));
        assert!(!numbers.contains_key("#"));
    }
}
