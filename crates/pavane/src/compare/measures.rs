//! What a phase of load took: latencies, and what every process used and moved meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::client::{End, Seen};
use super::layout::Layout;
use crate::measure::process::{self, Used};
use crate::measure::{histogram, micros};

/// Quantiles of the distribution that is drawn: nine tenths, then nine tenths of the rest, and so on, with steps between.
const SPECTRUM: [f64; 15] =
    [0.0, 0.25, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999, 0.9995, 1.0];

/// A latency distribution, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    /// How many were measured.
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p999: f64,
    pub max: f64,
    /// The lowest and the highest p50 and p99 over the rounds.
    pub p50_range: [f64; 2],
    pub p99_range: [f64; 2],
    /// Pairs of a quantile and its latency.
    pub spectrum: Vec<(f64, f64)>,
}

impl Latency {
    /// Of the times of several rounds: one distribution over all, and how far the rounds are apart.
    ///
    /// # Errors
    /// Never.
    pub fn of(rounds: &[Vec<Duration>]) -> Result<Latency, String> {
        let mut all = histogram()?;
        let (mut p50_range, mut p99_range) = ([f64::INFINITY, 0.0], [f64::INFINITY, 0.0]);
        for times in rounds.iter().filter(|times| !times.is_empty()) {
            let mut one = histogram()?;
            times.iter().for_each(|time| one.saturating_record(micros(*time)));
            for (range, q) in [(&mut p50_range, 0.5), (&mut p99_range, 0.99)] {
                *range = [range[0].min(millis(&one, q)), range[1].max(millis(&one, q))];
            }
            all.add(&one).map_err(|e| e.to_string())?;
        }
        if all.is_empty() {
            return Ok(Latency::default());
        }
        Ok(Latency {
            count: all.len(),
            mean: all.mean() / 1_000.0,
            p50: millis(&all, 0.5),
            p95: millis(&all, 0.95),
            p99: millis(&all, 0.99),
            p999: millis(&all, 0.999),
            max: millis(&all, 1.0),
            p50_range,
            p99_range,
            spectrum: SPECTRUM.iter().map(|q| (*q, millis(&all, *q))).collect(),
        })
    }
}

fn millis(times: &Histogram<u64>, quantile: f64) -> f64 {
    times.value_at_quantile(quantile) as f64 / 1_000.0
}

/// What an instance took of everything, on average over a phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Costs {
    /// Instances that it is divided by.
    pub instances: u64,
    /// CPU in milliseconds: of the load itself, of all services, of Pavane's processes. Of services that are not ours:
    /// absent.
    pub cpu_ms_load: f64,
    pub cpu_ms_services: Option<f64>,
    pub cpu_ms_pavane: f64,
    /// Calls to services that Pavane made, repeats included.
    pub calls: f64,
    /// Messages from one location to another.
    pub messages: f64,
    /// Durable commits, and transactions that they shared, each with an fsync.
    pub commits: f64,
    pub fsyncs: f64,
    /// Bytes of rows made durable, the rows of messages included.
    pub row_bytes: f64,
    /// Bytes handed to the disk, logs and pages included.
    pub disk_bytes: f64,
    /// Bytes by which the files of the stores grew.
    pub file_bytes: f64,
    /// Bytes of HTTP between clients and engine, both ways.
    pub client_bytes: f64,
    /// Bytes of HTTP between Pavane and the services, both ways, and the exchanges. Of services that are not ours: absent.
    pub service_bytes: Option<f64>,
    pub exchanges: Option<f64>,
}

/// What everything had used at a moment.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    load: Used,
    services: Vec<Used>,
    pavane: Vec<Used>,
    numbers: BTreeMap<String, f64>,
    stored: u64,
    client_bytes: u64,
    service_bytes: u64,
    exchanges: u64,
}

impl Reading {
    /// Reads a layout's processes.
    ///
    /// # Errors
    /// One does not answer.
    pub async fn take(layout: &Layout) -> Result<Reading, String> {
        let done = layout.done().await?;
        let traffic = layout.client.traffic();
        Ok(Reading {
            load: process::own(),
            services: layout.services.iter().map(|service| service.used()).collect(),
            pavane: layout.pavane.iter().map(|member| member.used()).collect(),
            numbers: layout.numbers().await?,
            stored: layout.stored(),
            client_bytes: traffic.received() + traffic.sent(),
            service_bytes: done.iter().map(|done| done.received + done.sent).sum(),
            exchanges: done.iter().map(|done| done.exchanges).sum(),
        })
    }

    /// What was used since another reading, for each of so many instances.
    pub fn since(&self, before: &Reading, instances: u64) -> Costs {
        let each = |amount: f64| amount / instances.max(1) as f64;
        let cpu = |used: &[Used]| used.iter().map(|used| used.cpu).sum::<f64>();
        let number = |name: &str| {
            let of = |reading: &Reading| reading.numbers.get(name).copied().unwrap_or(0.0);
            each(of(self) - of(before))
        };
        let written = |used: &[Used]| used.iter().map(|used| used.written).sum::<u64>();
        let ours = !self.services.is_empty();
        let grown = |now: u64, then: u64| each(now.saturating_sub(then) as f64);
        Costs {
            instances,
            cpu_ms_load: each((self.load.cpu - before.load.cpu) * 1_000.0),
            cpu_ms_services: ours.then(|| each((cpu(&self.services) - cpu(&before.services)) * 1_000.0)),
            cpu_ms_pavane: each((cpu(&self.pavane) - cpu(&before.pavane)) * 1_000.0),
            calls: number("pavane_calls_total"),
            messages: number("pavane_messages_total"),
            commits: number("pavane_store_commits_total"),
            fsyncs: number("pavane_store_transactions_total"),
            row_bytes: number("pavane_store_bytes_total"),
            disk_bytes: grown(written(&self.pavane), written(&before.pavane)),
            file_bytes: grown(self.stored, before.stored),
            client_bytes: grown(self.client_bytes, before.client_bytes),
            service_bytes: ours.then(|| grown(self.service_bytes, before.service_bytes)),
            exchanges: ours.then(|| grown(self.exchanges, before.exchanges)),
        }
    }
}

/// What one rate came to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AtRate {
    /// Instances begun in a second.
    pub offered_per_s: f64,
    /// Instances ended in a second, from the first due to the last end.
    pub ended_per_s: f64,
    /// From the moment each was due to its end, of those due after the warm-up.
    pub latency_ms: Latency,
    /// The median less what the services take on the longest way through: what coordination adds.
    pub overhead_ms: f64,
    pub completed: u64,
    pub faulted: u64,
    pub costs: Costs,
}

/// As many at a time as were asked for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Closed {
    pub in_flight: u64,
    pub instances: u64,
    pub per_s: f64,
    /// The lowest and the highest of the rounds.
    pub per_s_range: [f64; 2],
    pub latency_ms: Latency,
    pub costs: Costs,
}

/// How many ended in a way.
pub(crate) fn count(seen: &[Seen], wanted: fn(&End) -> bool) -> u64 {
    seen.iter().filter(|seen| wanted(&seen.end)).count() as u64
}

/// A process and what it used over the whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProcessFigures {
    pub name: String,
    /// Seconds.
    pub cpu_s: f64,
    /// Bytes of resident memory, at the most.
    pub peak_bytes: u64,
}

/// What each process of a layout used.
pub(crate) fn processes(layout: &Layout) -> Vec<ProcessFigures> {
    let members = layout.pavane.iter().chain(&layout.services);
    members
        .map(|member| {
            let used = member.used();
            ProcessFigures { name: member.name.clone(), cpu_s: used.cpu, peak_bytes: used.peak }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_all_rounds() -> Result<(), String> {
        let times = |from: u64, to: u64| (from..=to).map(Duration::from_millis).collect::<Vec<_>>();
        let latency = Latency::of(&[times(1, 50), times(51, 100)])?;
        let near = |got: f64, wanted: f64| (got - wanted).abs() <= wanted * 0.002;
        assert_eq!(latency.count, 100);
        assert!(near(latency.p50, 50.0) && near(latency.p99, 99.0) && near(latency.max, 100.0), "{latency:?}");
        assert!(near(latency.p50_range[0], 25.0) && near(latency.p50_range[1], 75.0), "{latency:?}");
        assert!(near(latency.p99_range[0], 50.0) && near(latency.p99_range[1], 100.0), "{latency:?}");
        assert!(latency.spectrum.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{latency:?}");
        assert_eq!(Latency::of(&[Vec::new()])?, Latency::default());
        Ok(())
    }
}
