//! When to choose which: what the figures say under the thresholds that a team sets. A pure function of the figures; it
//! says nothing that was not measured or read off the document.

use serde::Serialize;

use super::Figures;
use super::coupling::Coupling;
use super::outage::Kill;

/// What a team asks for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Thresholds {
    /// The p99 of an instance must stay within this, in milliseconds.
    pub p99_ms: f64,
    /// Figures that are apart by less than this, in percent of the larger one, count as alike.
    pub alike_percent: f64,
}

/// A figure of both modes, and whom it speaks for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Finding {
    /// What was measured, with its unit.
    pub measure: String,
    pub orchestration: Option<f64>,
    pub choreography: Option<f64>,
    /// `orchestration`, `choreography`, or nobody when they are alike or one is not known.
    pub favours: Option<&'static str>,
    /// Why it matters.
    pub why: &'static str,
}

/// Findings, and what follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Verdict {
    pub thresholds: Thresholds,
    pub findings: Vec<Finding>,
    /// Sentences.
    pub advice: Vec<String>,
}

/// Whether less of something is better.
#[derive(Clone, Copy)]
enum Better {
    Less,
    More,
}

impl Verdict {
    /// Of the figures of both modes, in the order of the modes; nothing of none.
    pub fn of(figures: &[Figures], coupling: &Coupling, thresholds: Thresholds) -> Verdict {
        let mut verdict = Verdict { thresholds, findings: Vec::new(), advice: Vec::new() };
        let [one, other] = figures else { return verdict };
        let pair = |of: &dyn Fn(&Figures) -> Option<f64>| (of(one), of(other));
        let slow = one.rates.first().map_or(0.0, |rate| rate.offered_per_s);
        verdict.add(
            format!("p50 at {slow} instances/s, ms"),
            pair(&|figures| figures.rates.first().map(|rate| rate.latency_ms.p50)),
            Better::Less,
            "what a caller who waits for the end waits on a quiet day",
        );
        verdict.add(
            format!("highest rate offered whose p99 was within {} ms, instances/s", thresholds.p99_ms),
            pair(&|figures| {
                let within = figures.rates.iter().filter(|rate| rate.latency_ms.p99 <= thresholds.p99_ms);
                Some(within.map(|rate| rate.offered_per_s).fold(0.0, f64::max))
            }),
            Better::More,
            "how much of your load keeps your promise on this machine",
        );
        verdict.add(
            "throughput with a fixed number in flight, instances/s".into(),
            pair(&|figures| figures.throughput.as_ref().map(|closed| closed.per_s)),
            Better::More,
            "how fast a backlog is worked off",
        );
        verdict.add(
            "CPU of Pavane for an instance, ms".into(),
            pair(&|figures| figures.throughput.as_ref().map(|closed| closed.costs.cpu_ms_pavane)),
            Better::Less,
            "what coordination costs in machines",
        );
        verdict.add(
            "bytes to disk for an instance".into(),
            pair(&|figures| figures.throughput.as_ref().map(|closed| closed.costs.disk_bytes)),
            Better::Less,
            "what durability costs in disks",
        );
        for (kill, what) in [(Kill::Service, "a service"), (Kill::Engine, "the engine")] {
            let outage = |figures: &Figures| figures.outages.iter().find(|outage| outage.kill == kill).cloned();
            verdict.add(
                format!("instances on time that were due while {what} was down, percent"),
                pair(&|figures| outage(figures).map(|outage| outage.during.on_time_percent)),
                Better::More,
                "how many of your users notice an outage",
            );
            verdict.add(
                format!("recovery after {what} was killed, s"),
                pair(&|figures| outage(figures).and_then(|outage| outage.recovery_s)),
                Better::Less,
                "how long an outage outlasts its cause",
            );
        }
        let count = |count: u32| Some(f64::from(count));
        verdict.add(
            "the most others that one knows".into(),
            (count(coupling.orchestration.fan_out), count(coupling.choreography.fan_out)),
            Better::Less,
            "how much one team must understand, and how much rests on one part",
        );
        let touched = |of: &dyn Fn(&super::coupling::Edit) -> Option<usize>| {
            let counts: Option<Vec<usize>> = coupling.edits.iter().map(of).collect();
            counts.filter(|counts| !counts.is_empty()).map(|c| c.iter().sum::<usize>() as f64 / c.len() as f64)
        };
        verdict.add(
            "parts whose share of the workflow changes with an edit, on average".into(),
            (
                touched(&|edit| Some(edit.orchestration.len())),
                touched(&|edit| edit.choreography.as_ref().map(Vec::len)),
            ),
            Better::Less,
            "how many must take up a new version before it can be used",
        );
        verdict.advise();
        verdict
    }

    fn add(&mut self, measure: String, pair: (Option<f64>, Option<f64>), better: Better, why: &'static str) {
        let (orchestration, choreography) = pair;
        if orchestration.is_none() && choreography.is_none() {
            return;
        }
        let favours = match (orchestration, choreography, better) {
            (Some(one), Some(other), better) => {
                let apart = (one - other).abs() > one.abs().max(other.abs()) * self.thresholds.alike_percent / 100.0;
                let first = match better {
                    Better::Less => one < other,
                    Better::More => one > other,
                };
                apart.then_some(if first { "orchestration" } else { "choreography" })
            }
            _ => None,
        };
        self.findings.push(Finding { measure, orchestration, choreography, favours, why });
    }

    fn advise(&mut self) {
        for mode in ["orchestration", "choreography"] {
            let for_it = self.findings.iter().filter(|finding| finding.favours == Some(mode));
            let named: Vec<String> = for_it.map(|finding| format!("{} ({})", finding.measure, finding.why)).collect();
            if !named.is_empty() {
                self.advice.push(format!("Choose {mode} if this counts most: {}.", named.join("; ")));
            }
        }
        let alike: Vec<&str> = self.findings.iter().filter(|f| f.favours.is_none()).map(|f| &*f.measure).collect();
        if !alike.is_empty() {
            self.advice.push(format!("No reason either way: {}.", alike.join("; ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(pair: (Option<f64>, Option<f64>), better: Better) -> Option<&'static str> {
        let thresholds = Thresholds { p99_ms: 300.0, alike_percent: 10.0 };
        let mut verdict = Verdict { thresholds, findings: Vec::new(), advice: Vec::new() };
        verdict.add("m".into(), pair, better, "w");
        verdict.findings.first().and_then(|finding| finding.favours)
    }

    #[test]
    fn what_is_nearly_alike_favours_nobody() {
        assert_eq!(finding((Some(100.0), Some(109.0)), Better::Less), None);
        assert_eq!(finding((Some(100.0), Some(120.0)), Better::Less), Some("orchestration"));
        assert_eq!(finding((Some(100.0), Some(120.0)), Better::More), Some("choreography"));
        assert_eq!(finding((Some(0.0), Some(0.0)), Better::More), None);
        assert_eq!(finding((None, Some(1.0)), Better::More), None);
    }

    #[test]
    fn without_figures_there_is_no_verdict() {
        let thresholds = Thresholds { p99_ms: 300.0, alike_percent: 10.0 };
        let coupling = Coupling {
            names: Vec::new(),
            orchestration: Default::default(),
            choreography: Default::default(),
            edits: Vec::new(),
        };
        let verdict = Verdict::of(&[], &coupling, thresholds);
        assert!(verdict.findings.is_empty() && verdict.advice.is_empty());
    }
}
