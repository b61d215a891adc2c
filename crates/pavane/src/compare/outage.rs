//! An outage: a process is killed with SIGKILL under a steady load, and started again. What clients saw of it is told from
//! their records alone; [`told`] is a pure function of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pavane_core::definition::Mode;
use serde::Serialize;

use super::client::{Client, End, Seen};
use super::layout::{Layout, Member};
use super::subject::Subject;
use crate::measure::load;

/// Steady load before the kill, in seconds: enough for a baseline.
const BEFORE: f64 = 3.0;
/// The kill comes up to this much later, in seconds: at a random phase of whatever repeats itself.
const PHASE: f64 = 1.0;
/// Load goes on after the restart for this long, in seconds. A recovery that takes longer is told as none.
const AFTER: f64 = 6.0;
/// Width of a bucket of the timeline, and how exactly a recovery is told, in seconds.
pub(super) const BUCKET: f64 = 0.25;
/// Width of the windows that are compared with those before the kill, in seconds.
const WINDOW: f64 = 1.0;
/// The p99 of a window is back when it is within this much of the highest before the kill.
const BACK: f64 = 1.1;

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kill {
    /// A service's process, and that of its participant if it has one of its own.
    Service,
    /// The engine's process: with it the bus, and all participants that are in it.
    Engine,
}

impl Kill {
    /// A word for it.
    pub fn word(self) -> &'static str {
        match self {
            Kill::Service => "service",
            Kill::Engine => "engine",
        }
    }
}

/// The conditions of an outage.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub kill: Kill,
    /// The service to kill.
    pub victim: String,
    /// Instances begun in a second.
    pub rate: f64,
    /// From the kill to the restart.
    pub down: Duration,
    /// What is left of a second before the kill, from 0 to 1.
    pub phase: f64,
    /// An instance is on time within it.
    pub objective: Duration,
}

/// What clients saw of an outage. Times are seconds from the kill.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Outage {
    pub kill: Kill,
    /// The process that was killed.
    pub victim: String,
    pub rate_per_s: f64,
    /// When its restart began, and when it was ready.
    pub restarted_s: f64,
    pub ready_s: f64,
    /// From the kill until a client first noticed, in milliseconds, and by what: `refused`, `faulted`, `overdue`. Absent
    /// when none did.
    pub detected_ms: Option<f64>,
    pub detected_by: Option<&'static str>,
    /// From the beginning of the restart until the backlog is empty and p99 is back. Absent when that was not seen.
    pub recovery_s: Option<f64>,
    /// The p99 that it is to be back at, in milliseconds.
    pub baseline_p99_ms: f64,
    /// Instances due between kill and readiness.
    pub during: During,
    /// Instances due before, that the kill caught.
    pub caught: u64,
    pub timeline: Vec<Bucket>,
}

/// Instances due during the outage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct During {
    pub due: u64,
    /// Share whose start was taken at the first try, in percent.
    pub accepted_percent: f64,
    /// Share that completed within the objective, in percent: those unaffected.
    pub on_time_percent: f64,
    /// Share that completed later, and that faulted or were lost, in percent.
    pub late_percent: f64,
    pub failed_percent: f64,
}

/// Instances due in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Bucket {
    /// Its beginning.
    pub at_s: f64,
    pub on_time: u64,
    pub late: u64,
    pub failed: u64,
    /// The longest, in milliseconds.
    pub max_ms: f64,
}

/// An instance in seconds from the kill.
#[derive(Clone, Copy, Debug)]
struct Point {
    due: f64,
    took: f64,
    completed: bool,
    accepted: bool,
    failed_at: Option<f64>,
}

impl Point {
    fn end(&self) -> f64 {
        self.due + self.took
    }
}

/// Runs the load, kills, starts again; gives what clients saw.
///
/// # Errors
/// A process that cannot be killed or started.
pub(crate) async fn run(
    layout: &mut Layout,
    subject: &Arc<Subject>,
    mode: Mode,
    plan: &Plan,
) -> Result<(Outage, Vec<Seen>), String> {
    let client = Client::new(layout.client.clone(), subject.clone(), mode, 0);
    let before = BEFORE + plan.phase * PHASE;
    let seconds = before + plan.down.as_secs_f64() + AFTER;
    let (rate, count) = (plan.rate, (plan.rate * seconds).ceil() as u64);
    let began = Instant::now();
    let load =
        tokio::spawn(async move { load::open(rate, count, |number, due| client.clone().one(number, due)).await });
    tokio::time::sleep_until((began + Duration::from_secs_f64(before)).into()).await;
    let mut members: Vec<&mut Member> = match plan.kill {
        Kill::Engine => layout.pavane.iter_mut().take(1).collect(),
        Kill::Service => layout.beside(&plan.victim),
    };
    let first = members.first().ok_or_else(|| format!("there is no service {} to kill", plan.victim))?;
    let victim = first.name.clone();
    let killed = Instant::now();
    for member in &mut members {
        member.kill()?;
    }
    tokio::time::sleep_until((killed + plan.down).into()).await;
    let restarted = Instant::now();
    let mut ready = restarted;
    for member in members {
        ready = member.restart().await?;
    }
    let (seen, _) = load.await.map_err(|e| e.to_string())??;
    let after = |moment: Instant| match moment.checked_duration_since(killed) {
        Some(after) => after.as_secs_f64(),
        None => -(killed - moment).as_secs_f64(),
    };
    let points: Vec<Point> = seen
        .iter()
        .map(|seen| Point {
            due: after(seen.due),
            took: seen.took.as_secs_f64(),
            completed: matches!(seen.end, End::Completed(_)),
            accepted: seen.accepted,
            failed_at: seen.failed_at.map(after),
        })
        .collect();
    Ok((told(plan, &victim, &points, after(restarted), after(ready)), seen))
}

/// What the records of the clients tell.
fn told(plan: &Plan, victim: &str, points: &[Point], restarted: f64, ready: f64) -> Outage {
    let objective = plan.objective.as_secs_f64();
    let detected = detected(points, objective);
    let baseline = baseline(points);
    let during: Vec<&Point> = points.iter().filter(|point| (0.0..ready).contains(&point.due)).collect();
    let share = |wanted: &dyn Fn(&Point) -> bool| match during.len() {
        0 => 0.0,
        all => 100.0 * during.iter().filter(|point| wanted(point)).count() as f64 / all as f64,
    };
    Outage {
        kill: plan.kill,
        victim: victim.to_owned(),
        rate_per_s: plan.rate,
        restarted_s: restarted,
        ready_s: ready,
        detected_ms: detected.map(|(at, _)| at * 1_000.0),
        detected_by: detected.map(|(_, by)| by),
        recovery_s: recovered(points, restarted, baseline),
        baseline_p99_ms: baseline * 1_000.0,
        during: During {
            due: during.len() as u64,
            accepted_percent: share(&|point| point.accepted),
            on_time_percent: share(&|point| point.completed && point.took <= objective),
            late_percent: share(&|point| point.completed && point.took > objective),
            failed_percent: share(&|point| !point.completed),
        },
        caught: points.iter().filter(|point| point.due < 0.0 && point.end() > 0.0).count() as u64,
        timeline: timeline(points, objective),
    }
}

/// When a client first noticed, and by what. Nothing fails in these runs but by the kill.
fn detected(points: &[Point], objective: f64) -> Option<(f64, &'static str)> {
    let signs = points.iter().flat_map(|point| {
        let refused = point.failed_at.map(|at| (at, "refused"));
        let faulted = (!point.completed).then(|| (point.end(), "faulted"));
        let overdue = (point.took > objective).then_some((point.due + objective, "overdue"));
        [refused, faulted, overdue]
    });
    signs.flatten().filter(|(at, _)| *at >= 0.0).min_by(|a, b| a.0.total_cmp(&b.0))
}

/// The highest p99 of the windows before the kill, in seconds, of those that ended before it.
fn baseline(points: &[Point]) -> f64 {
    let ended: Vec<Point> = points.iter().filter(|point| point.end() < 0.0).copied().collect();
    let first = ended.iter().map(|point| point.due).fold(0.0, f64::min);
    let windows = steps(first, 0.0 - WINDOW).filter_map(|from| p99(&ended, from).map(|(p99, _)| p99));
    windows.fold(0.0, f64::max)
}

/// From the restart until everything due before it has ended and a window is as those before the kill.
fn recovered(points: &[Point], restarted: f64, baseline: f64) -> Option<f64> {
    let last = points.iter().map(|point| point.due).fold(0.0, f64::max);
    let backlog = points.iter().filter(|point| point.due < restarted).map(Point::end).fold(restarted, f64::max);
    let back = |from: &f64| {
        let window = p99(points, *from);
        *from >= backlog && window.is_some_and(|(p99, completed)| completed && p99 <= baseline * BACK)
    };
    steps(restarted, last - WINDOW).find(back).map(|from| from - restarted)
}

fn steps(from: f64, to: f64) -> impl Iterator<Item = f64> {
    (0..).map(move |step: u32| from + f64::from(step) * BUCKET).take_while(move |at| *at <= to + 1e-9)
}

/// The p99 of the instances due in the window from a moment on, and whether all completed.
fn p99(points: &[Point], from: f64) -> Option<(f64, bool)> {
    let window: Vec<&Point> = points.iter().filter(|point| (from..from + WINDOW).contains(&point.due)).collect();
    let mut times: Vec<f64> = window.iter().map(|point| point.took).collect();
    times.sort_by(f64::total_cmp);
    let rank = (times.len() * 99).div_ceil(100);
    let p99 = times.get(rank.checked_sub(1)?)?;
    Some((*p99, window.iter().all(|point| point.completed)))
}

fn timeline(points: &[Point], objective: f64) -> Vec<Bucket> {
    let index = |point: &Point| (point.due / BUCKET).floor() as i64;
    let (Some(first), Some(last)) = (points.iter().map(index).min(), points.iter().map(index).max()) else {
        return Vec::new();
    };
    let mut buckets: Vec<Bucket> =
        (first..=last).map(|index| Bucket { at_s: index as f64 * BUCKET, ..Bucket::default() }).collect();
    for point in points {
        let Some(bucket) = usize::try_from(index(point) - first).ok().and_then(|at| buckets.get_mut(at)) else {
            continue;
        };
        match (point.completed, point.took <= objective) {
            (false, _) => bucket.failed += 1,
            (true, true) => bucket.on_time += 1,
            (true, false) => bucket.late += 1,
        }
        bucket.max_ms = bucket.max_ms.max(point.took * 1_000.0);
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let (down, objective) = (Duration::from_secs(2), Duration::from_millis(500));
        Plan { kill: Kill::Engine, victim: "engine".into(), rate: 20.0, down, phase: 0.0, objective }
    }

    /// 20 in a second from 3 s before the kill to 8 s after; each takes what `took` says.
    fn points(took: impl Fn(f64) -> f64) -> Vec<Point> {
        let dues = (0..220).map(|number| f64::from(number) / 20.0 - 3.0);
        dues.map(|due| Point { due, took: took(due), completed: true, accepted: true, failed_at: None }).collect()
    }

    #[test]
    fn those_due_while_it_is_away_are_late_until_it_is_back() {
        // Away from 0 to 2.5; then a backlog that is worked off by 3.2.
        let took = |due: f64| if (0.0..2.5).contains(&due) { 3.2 - due } else { 0.05 };
        let outage = told(&plan(), "engine", &points(took), 2.0, 2.5);
        assert_eq!(outage.during.due, 50);
        assert_eq!(outage.during.on_time_percent, 0.0);
        assert_eq!(outage.during.late_percent, 100.0);
        // The first is overdue half a second after it was due.
        assert_eq!(outage.detected_by, Some("overdue"));
        assert!((outage.detected_ms.unwrap_or(0.0) - 500.0).abs() < 1.0, "{outage:?}");
        // The backlog is empty at 3.2: the first step after it.
        assert_eq!(outage.recovery_s, Some(1.25));
        assert!((outage.baseline_p99_ms - 50.0).abs() < 1e-6);
    }

    #[test]
    fn the_first_sign_counts() {
        let mut points = points(|_| 0.05);
        let during: Vec<usize> = (0..points.len()).filter(|at| (0.0..2.5).contains(&points[*at].due)).collect();
        for at in &during {
            let due = points[*at].due;
            points[*at] = Point { completed: false, accepted: false, failed_at: Some(due + 0.01), ..points[*at] };
        }
        let outage = told(&plan(), "payment", &points, 2.0, 2.5);
        assert_eq!(outage.detected_by, Some("refused"));
        assert!((outage.detected_ms.unwrap_or(0.0) - 10.0).abs() < 1.0, "{outage:?}");
        assert_eq!((outage.during.failed_percent, outage.during.accepted_percent), (100.0, 0.0));
    }

    #[test]
    fn what_does_not_come_back_is_not_recovered() {
        let outage = told(&plan(), "engine", &points(|due| if due < 0.0 { 0.05 } else { 0.2 }), 2.0, 2.5);
        assert_eq!(outage.recovery_s, None);
        assert_eq!((outage.during.on_time_percent, outage.detected_ms), (100.0, None));
        // Within a tenth is back, at the first step after the last that was due before the restart.
        let outage = told(&plan(), "engine", &points(|due| if due < 0.0 { 0.05 } else { 0.054 }), 2.0, 2.5);
        assert_eq!(outage.recovery_s, Some(0.25));
    }

    #[test]
    fn the_timeline_counts_by_when_they_were_due() {
        let outage =
            told(&plan(), "engine", &points(|due| if (0.0..1.0).contains(&due) { 0.7 } else { 0.05 }), 2.0, 2.5);
        let at = |at: f64| outage.timeline.iter().find(|bucket| bucket.at_s == at).copied().unwrap_or_default();
        assert_eq!(at(0.5), Bucket { at_s: 0.5, on_time: 0, late: 5, failed: 0, max_ms: 700.0 });
        assert_eq!(at(-1.0).on_time, 5);
        assert_eq!(outage.timeline.iter().map(|b| b.on_time + b.late + b.failed).sum::<u64>(), 220);
        assert_eq!(outage.caught, 1);
    }
}
