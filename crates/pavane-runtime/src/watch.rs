//! What a runtime counts and traces, one for a process: numbers of workflows and services, and ids of spans.
//!
//! Ids of spans follow from the instance and the number of a task's run, so that every process of an instance gives the
//! same ones without asking anybody. Nothing here decides anything, and nothing waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use pavane_core::definition::Mode;
use pavane_core::engine::TraceContext;
use pavane_core::record::Status;
use pavane_core::{Timestamp, id};
use pavane_watch::{Family, Histogram, LIVES, MAX_STATE, Parent, SECONDS, SpanId, Spans, TraceId, mixed};

/// Workflows with numbers of their own: users choose their names. With some dozens of series each, a process stays below
/// what a series database takes from one target.
pub const MAX_WORKFLOWS: usize = 200;

/// Services and hosts with numbers of their own: documents name hosts.
pub const MAX_SERVICES: usize = 200;

/// How an instance or a task can end, in the order of their numbers.
pub const ENDS: [Status; 3] = [Status::Completed, Status::Faulted, Status::Cancelled];

/// Kinds of tasks, in the order of their numbers.
pub const KINDS: [&str; 12] =
    ["call", "do", "emit", "for", "fork", "listen", "raise", "run", "set", "switch", "try", "wait"];

/// How a call can end, in the order of its numbers: by the first digit of the status, or without an answer.
pub const CODES: [&str; 7] = ["1xx", "2xx", "3xx", "4xx", "5xx", "timeout", "failed"];

/// What is counted and traced.
#[derive(Debug)]
pub struct Watch {
    /// Where spans go.
    pub spans: Spans,
    /// By `namespace/name`.
    pub workflows: Family<WorkflowNumbers>,
    /// By the name of a service, or the host of an endpoint that names none.
    pub services: Family<ServiceNumbers>,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch::new(Spans::default())
    }
}

impl Watch {
    /// Numbers at 0, and a place for spans.
    pub fn new(spans: Spans) -> Watch {
        Watch { spans, workflows: Family::new(MAX_WORKFLOWS), services: Family::new(MAX_SERVICES) }
    }

    /// The trace of a new instance that nobody gave one, if traces are taken here: it says for every other process whether
    /// it is recorded.
    pub(crate) fn new_trace(&self, instance: &str) -> Option<TraceContext> {
        self.spans.are_taken().then(|| {
            let trace = Trace::of(instance, None);
            let parent = Parent { trace: trace.id, span: trace.own, sampled: self.spans.samples(trace.id) };
            TraceContext { parent: parent.to_string(), state: None }
        })
    }
}

/// The trace context of a request, if it has one that can be read.
pub fn trace_of(traceparent: Option<&str>, tracestate: Option<&str>) -> Option<TraceContext> {
    let parent = Parent::parse(traceparent?)?.to_string();
    let fits = |state: &&str| {
        !state.is_empty() && state.len() <= MAX_STATE && state.bytes().all(|b| (0x20..0x7f).contains(&b))
    };
    Some(TraceContext { parent, state: tracestate.map(str::trim).filter(fits).map(str::to_owned) })
}

/// A distribution that exists once something is recorded in it.
#[derive(Debug, Default)]
pub struct Rare(OnceLock<Histogram>);

impl Rare {
    fn record(&self, bounds: &'static [f64], value: f64, trace: Option<TraceId>) {
        self.0.get_or_init(|| Histogram::new(bounds)).record(value, trace);
    }

    /// It, if it exists.
    pub fn get(&self) -> Option<&Histogram> {
        self.0.get()
    }
}

/// Numbers of a workflow.
#[derive(Debug, Default)]
pub struct WorkflowNumbers {
    /// Instances started, by mode in the order of [`Mode::ALL`].
    pub started: [AtomicU64; 2],
    /// How long instances took from start to end in seconds, by mode and by [`ENDS`].
    pub lives: [[Rare; 3]; 2],
    /// How long tasks took in seconds, by [`KINDS`] and [`ENDS`].
    pub tasks: [[Rare; 3]; 12],
    /// Attempts that follow a failed one: of tries, and of compensations.
    pub retries: AtomicU64,
    /// Tasks undone.
    pub undone: AtomicU64,
    /// Compensations that failed for good.
    pub unresolved: AtomicU64,
}

impl WorkflowNumbers {
    pub(crate) fn started(&self, mode: Mode) {
        if let Some(started) = self.started.get(position(&Mode::ALL, &mode)) {
            started.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn ended(&self, mode: Mode, status: Status, millis: i64, trace: Option<TraceId>) {
        let of_mode = self.lives.get(position(&Mode::ALL, &mode));
        if let Some(life) = of_mode.and_then(|lives| lives.get(position(&ENDS, &status))) {
            life.record(LIVES, seconds(millis), trace);
        }
    }

    pub(crate) fn task(&self, kind: &str, status: Status, millis: i64, trace: Option<TraceId>) {
        let of_kind = self.tasks.get(position(&KINDS, &kind));
        if let Some(task) = of_kind.and_then(|tasks| tasks.get(position(&ENDS, &status))) {
            task.record(SECONDS, seconds(millis), trace);
        }
    }
}

/// Numbers of a service as workflows call it.
#[derive(Debug, Default)]
pub struct ServiceNumbers {
    /// How long calls took once they were sent, in seconds, by [`CODES`].
    pub calls: [Rare; 7],
}

impl ServiceNumbers {
    pub(crate) fn call(&self, code: &str, seconds: f64, trace: Option<TraceId>) {
        if let Some(calls) = self.calls.get(position(&CODES, &code)) {
            calls.record(SECONDS, seconds, trace);
        }
    }
}

fn position<T: PartialEq>(all: &[T], one: &T) -> usize {
    all.iter().position(|other| other == one).unwrap_or(all.len())
}

fn seconds(millis: i64) -> f64 {
    millis.max(0) as f64 / 1e3
}

/// A recorded time in nanoseconds since 1970.
pub(crate) fn nanos(at: Timestamp) -> u64 {
    u64::try_from(at.0).unwrap_or_default().saturating_mul(1_000_000)
}

/// The trace of an instance, and its own spans in it.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Its id: that of whoever started the instance, or the instance's own.
    pub id: TraceId,
    /// The span of the instance.
    pub own: SpanId,
    /// The span that caused the instance; none when the trace begins with it.
    pub parent: Option<SpanId>,
    /// Whether it may be recorded: whoever began it says so.
    pub sampled: bool,
    /// Whether the instance was started in a trace, by others or by this program.
    pub given: bool,
    state: Option<Arc<str>>,
    seed: u64,
}

impl Trace {
    /// The trace of an instance that was started in a context, or in none.
    pub fn of(instance: &str, context: Option<&TraceContext>) -> Trace {
        // An id that is no UUID has a digest.
        let number = match uuid::Uuid::parse_str(instance) {
            Ok(id) if !id.is_nil() => id.as_u128(),
            _ => {
                let digest = id::digest(instance.as_bytes());
                digest.get(..32).and_then(|start| u128::from_str_radix(start, 16).ok()).unwrap_or_default().max(1)
            }
        };
        let seed = (number as u64) ^ ((number >> 64) as u64).rotate_left(32);
        let own = SpanId::of(mixed(seed, 0));
        let given = context.and_then(|context| Parent::parse(&context.parent));
        let fallback = TraceId::of(number.max(1));
        let id = given.map(|given| given.trace).or(fallback).unwrap_or_else(first);
        Trace {
            id,
            own,
            // The context of an instance whose trace begins with it names its own span.
            parent: given.map(|given| given.span).filter(|span| *span != own),
            sampled: given.is_none_or(|given| given.sampled),
            given: given.is_some(),
            state: context.and_then(|context| context.state.as_deref()).map(Arc::from),
            seed,
        }
    }

    /// The span of a task's run.
    pub fn task(&self, run: u32) -> SpanId {
        SpanId::of(mixed(self.seed, u64::from(run) + 1))
    }

    /// Whether its spans are to be made.
    pub fn is_recorded(&self, spans: &Spans) -> bool {
        self.given && self.sampled && spans.are_taken()
    }

    /// The trace to show for a number, if anybody may have recorded it.
    pub fn exemplar(&self) -> Option<TraceId> {
        Some(self.id).filter(|_| self.sampled)
    }

    /// `tracestate`, as it came.
    pub fn state(&self) -> Option<Arc<str>> {
        self.state.clone()
    }
}

/// The trace with the lowest number.
fn first() -> TraceId {
    // 1 is a trace: the loop ends at once.
    (1..).find_map(TraceId::of).unwrap_or_else(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    #[test]
    fn every_process_gives_the_same_ids() {
        let (spans, _queue) = Spans::new(1.0);
        let context = Watch::new(spans).new_trace(ID);
        let trace = Trace::of(ID, context.as_ref());
        assert_eq!(trace.id.to_string(), ID.replace('-', ""));
        assert_eq!((trace.parent, trace.sampled, trace.given), (None, true, true), "the trace begins with it");
        let elsewhere = Trace::of(ID, context.as_ref());
        assert_eq!((trace.own, trace.task(0), trace.task(1)), (elsewhere.own, elsewhere.task(0), elsewhere.task(1)));
        assert!(trace.own != trace.task(0) && trace.task(0) != trace.task(1));
        // Another instance in the same trace has other spans.
        let other = Trace::of("01890a5d-ac96-774b-bcce-b302099a8058", context.as_ref());
        assert_eq!((other.id, other.parent), (trace.id, Some(trace.own)));
        assert!(other.own != trace.own && other.task(0) != trace.task(0));
    }

    #[test]
    fn without_a_trace_the_instance_names_it() {
        assert_eq!(Watch::default().new_trace(ID), None, "nobody takes traces");
        let trace = Trace::of(ID, None);
        assert_eq!((trace.id.to_string(), trace.given), (ID.replace('-', ""), false));
        let (spans, _queue) = Spans::new(1.0);
        assert!(!trace.is_recorded(&spans), "it began when no traces were taken: its tree would have no root");
        assert!(Trace::of("no uuid", None).id != trace.id);
    }

    #[test]
    fn a_context_from_outside_is_taken_as_far_as_it_is_one() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(trace_of(None, Some("a=b")), None);
        assert_eq!(trace_of(Some("00-0"), None), None);
        let state = |text: &str| trace_of(Some(parent), Some(text)).unwrap().state;
        assert_eq!(state("a=b,c=d"), Some("a=b,c=d".to_owned()));
        assert_eq!((state(&"x".repeat(513)), state("a=ö"), state("")), (None, None, None));
    }
}
