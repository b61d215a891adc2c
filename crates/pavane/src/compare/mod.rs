//! `pavane compare`: both modes of one workflow, measured under the same load on the same machine.
//!
//! Each mode has processes and stores of its own ([`layout`]); the modes take turns, so that a machine that drifts drifts
//! for both. Correctness comes first: when a mode did anything wrong, no figure is told. Start reading at [`run`].

mod client;
mod correctness;
mod coupling;
mod layout;
mod measures;
mod outage;
mod page;
mod plot;
pub(crate) mod service;
pub(crate) mod subject;
mod text;
mod verdict;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pavane_core::definition::Mode;
use serde::Serialize;

use crate::measure::{Machine, chance::Chance, load};
use client::{Client, End, Seen};
use correctness::Correctness;
use coupling::Coupling;
pub(crate) use layout::Participants;
use layout::{Layout, Services};
use measures::{AtRate, Closed, Latency, ProcessFigures, Reading, count};
pub(crate) use outage::Kill;
use outage::{Outage, Plan};
pub(crate) use page::page;
use subject::{Answering, Subject};
pub(crate) use text::text;
pub(crate) use verdict::Thresholds;
use verdict::Verdict;

/// Instances that warm each mode up; their times are dropped.
const WARM_UP: u64 = 50;
/// Of each rate, what is due in the first second is dropped, too.
const DROPPED: Duration = Duration::from_secs(1);

/// What to run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Settings {
    pub instances: u64,
    pub in_flight: u64,
    pub rates_per_s: Vec<f64>,
    /// Seconds at each rate, after the second that is dropped.
    pub seconds: f64,
    pub kills: Vec<Kill>,
    /// Load under which the kills happen.
    pub outage_rate_per_s: f64,
    pub down_s: f64,
    pub objective_s: f64,
    pub service_time_ms: u64,
    /// Where participants run when the workflow is choreographed.
    pub participants: Participants,
    pub seed: u64,
    pub thresholds: Thresholds,
}

impl Settings {
    /// Orchestrated, they have nothing to do.
    fn participants(&self, mode: Mode) -> Participants {
        match mode {
            Mode::Orchestration => Participants::Here,
            Mode::Choreography => self.participants,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub pavane: &'static str,
    pub command: Vec<String>,
    pub machine: Machine,
    /// Namespace, name, version of the workflow, and the digest of its program.
    pub workflow: [String; 3],
    pub digest: String,
    pub answered_by: &'static str,
    pub settings: Settings,
    pub correctness: Correctness,
    pub coupling: Coupling,
    /// One for each mode; none when one did anything wrong.
    pub modes: Vec<Figures>,
    pub verdict: Verdict,
}

/// The figures of a mode.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    pub mode: &'static str,
    pub rates: Vec<AtRate>,
    pub throughput: Option<Closed>,
    pub processes: Vec<ProcessFigures>,
    pub outages: Vec<Outage>,
}

/// Compares; stores and logs are in `folder`.
///
/// # Errors
/// What kept it from running.
pub(crate) async fn run(subject: Subject, settings: Settings, folder: &Path) -> Result<Report, String> {
    let subject = Arc::new(subject);
    let mut correctness = Correctness::new(&subject);
    let services =
        Services { time: Duration::from_millis(settings.service_time_ms), seed: settings.seed, failures: true };
    let mut layouts = Vec::new();
    let mut figures = Vec::new();
    let mut seen: [Vec<Seen>; 2] = Default::default();
    for mode in Mode::ALL {
        let folder = folder.join(mode.as_str());
        layouts.push(Layout::open(&subject, &services, settings.participants(mode), &folder).await?);
        let mode = mode.as_str();
        figures.push(Figures { mode, rates: Vec::new(), throughput: None, processes: Vec::new(), outages: Vec::new() });
    }
    let modes = || Mode::ALL.into_iter().enumerate();
    for (at, mode) in modes() {
        let client = Client::new(layouts[at].client.clone(), subject.clone(), mode, 0);
        let (warm, _) = load::closed(8, WARM_UP, move |number| client.clone().one(number, Instant::now())).await?;
        let first = warm.iter().find(|seen| seen.number == 0);
        let faults = first.is_some_and(|seen| matches!(seen.end, End::Faulted { .. }));
        if faults && subject.answering != Answering::Demo {
            return Err(format!(
                "with this input and {} the workflow faults: {}; give --input, or services with -c",
                subject.answered_by(),
                layouts[at].last_fault().await?
            ));
        }
        seen[at].extend(warm);
    }
    let mut first = WARM_UP;
    for rate in &settings.rates_per_s {
        let many = (rate * (settings.seconds + DROPPED.as_secs_f64())).ceil() as u64;
        for (at, mode) in modes() {
            let (layout, client) =
                (&layouts[at], Client::new(layouts[at].client.clone(), subject.clone(), mode, first));
            let (before, began) = (Reading::take(layout).await?, Instant::now());
            let (these, took) = load::open(*rate, many, |number, due| client.clone().one(number, due)).await?;
            let costs = Reading::take(layout).await?.since(&before, many);
            let measured = these.iter().filter(|seen| seen.due >= began + DROPPED).map(|seen| seen.took).collect();
            let latency_ms = Latency::of(&[measured])?;
            let sequence = f64::from(subject.explanation.straight.sequence);
            figures[at].rates.push(AtRate {
                offered_per_s: *rate,
                ended_per_s: many as f64 / took.as_secs_f64(),
                overhead_ms: latency_ms.p50 - sequence * settings.service_time_ms as f64,
                latency_ms,
                completed: count(&these, |end| matches!(end, End::Completed(_))),
                faulted: count(&these, |end| matches!(end, End::Faulted { .. })),
                costs,
            });
            seen[at].extend(these);
        }
        first += many;
    }
    for (at, mode) in modes() {
        let (layout, client) = (&layouts[at], Client::new(layouts[at].client.clone(), subject.clone(), mode, first));
        let before = Reading::take(layout).await?;
        let one = move |number| client.clone().one(number, Instant::now());
        let (these, took) = load::closed(settings.in_flight, settings.instances, one).await?;
        let costs = Reading::take(layout).await?.since(&before, settings.instances);
        let per_s = settings.instances as f64 / took.as_secs_f64();
        let latency_ms = Latency::of(&[these.iter().map(|seen| seen.took).collect()])?;
        let (in_flight, instances) = (settings.in_flight, settings.instances);
        figures[at].throughput =
            Some(Closed { in_flight, instances, per_s, per_s_range: [per_s, per_s], latency_ms, costs });
        figures[at].processes = measures::processes(layout);
        seen[at].extend(these);
    }
    for (layout, seen) in layouts.iter().zip(&seen) {
        correctness.look_at(&subject, layout, seen).await?;
    }
    correctness.compare(&subject, [&layouts[0], &layouts[1]], [&seen[0], &seen[1]]).await?;
    drop(layouts);
    let mut chance = Chance(settings.seed);
    for kill in &settings.kills {
        let phase = chance.below(1_000) as f64 / 1_000.0;
        for (at, mode) in modes() {
            let folder = folder.join(format!("{}-{}", mode.as_str(), kill.word()));
            let services = Services { failures: false, ..services.clone() };
            let mut layout = Layout::open(&subject, &services, settings.participants(mode), &folder).await?;
            let plan = Plan {
                kill: *kill,
                victim: victim(&subject)?,
                rate: settings.outage_rate_per_s,
                down: Duration::from_secs_f64(settings.down_s),
                phase,
                objective: Duration::from_secs_f64(settings.objective_s),
            };
            let (outage, seen) = outage::run(&mut layout, &subject, mode, &plan).await?;
            correctness.look_at(&subject, &layout, &seen).await?;
            figures[at].outages.push(outage);
        }
    }
    if !correctness.correct {
        figures.clear();
    }
    let coupling = Coupling::of(&subject)?;
    Ok(Report {
        pavane: env!("CARGO_PKG_VERSION"),
        command: std::env::args().collect(),
        machine: Machine::here(),
        workflow: subject.identity.clone(),
        digest: subject.digest.clone(),
        answered_by: subject.answered_by(),
        verdict: Verdict::of(&figures, &coupling, settings.thresholds),
        coupling,
        modes: figures,
        correctness,
        settings,
    })
}

/// The service in the middle of the way through: there is work before it and behind it.
fn victim(subject: &Subject) -> Result<String, String> {
    let calls: Vec<&str> = subject
        .explanation
        .tasks
        .iter()
        .filter_map(|task| task.location.as_ref())
        .map(|at| at.name())
        .filter(|name| *name != "engine")
        .collect();
    calls
        .get(calls.len() / 2)
        .map(|name| (*name).to_owned())
        .ok_or_else(|| "the workflow calls no service: nothing can be killed; give --kill none".into())
}
