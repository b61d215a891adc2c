//! Spans: what happened in a trace, from when to when. They wait in a queue for whoever exports them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

use crate::{SpanId, TraceId};

/// Spans that wait to be exported: about 10 MB, and some seconds of load. Further ones are dropped: what is watched must
/// not wait for a collector.
pub const MAX_WAITING: usize = 16_384;

/// Something that happened in a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The trace.
    pub trace: TraceId,
    /// Its own id.
    pub id: SpanId,
    /// The span around it; none for the first of a trace.
    pub parent: Option<SpanId>,
    /// `tracestate`, as it came.
    pub state: Option<Arc<str>>,
    /// What happened, in few words and without numbers of single things.
    pub name: String,
    /// Whose side it is.
    pub kind: Kind,
    /// When it began, in nanoseconds since 1970.
    pub start: u64,
    /// When it ended.
    pub end: u64,
    /// What else is known, by names of the semantic conventions where they have one.
    pub attributes: Vec<(&'static str, Attribute)>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// Whose side of an exchange a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Neither: within the process.
    Internal,
    /// Who was asked.
    Server,
    /// Who asked.
    Client,
}

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A text.
    Text(String),
    /// A whole number.
    Whole(i64),
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Attribute {
        Attribute::Text(text.to_owned())
    }
}

impl From<String> for Attribute {
    fn from(text: String) -> Attribute {
        Attribute::Text(text)
    }
}

impl From<i64> for Attribute {
    fn from(number: i64) -> Attribute {
        Attribute::Whole(number)
    }
}

/// Where spans go; clones are handles of the same queue. The default takes none.
#[derive(Clone, Debug, Default)]
pub struct Spans(Option<Arc<Tracing>>);

/// The queue, and which traces are recorded.
#[derive(Debug)]
pub struct Tracing {
    queue: mpsc::Sender<Span>,
    /// Traces whose chance is below it are recorded.
    threshold: u64,
    dropped: AtomicU64,
    exported: AtomicU64,
}

/// Bits of a trace's id that are chance, by W3C Trace Context level 2; those of a UUID are, too.
const CHANCE: u32 = 56;

impl Spans {
    /// A queue, and its other end. `ratio` of the traces that begin here are recorded, from 0 to 1.
    pub fn new(ratio: f64) -> (Spans, mpsc::Receiver<Span>) {
        let (queue, receiver) = mpsc::channel(MAX_WAITING);
        let whole = 1_u64 << CHANCE;
        let threshold = (ratio.clamp(0.0, 1.0) * whole as f64) as u64;
        (
            Spans(Some(Arc::new(Tracing {
                queue,
                threshold,
                dropped: AtomicU64::new(0),
                exported: AtomicU64::new(0),
            }))),
            receiver,
        )
    }

    /// Whether anybody takes spans.
    pub fn are_taken(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a trace that begins here is recorded: the same in every process with the same ratio.
    pub fn samples(&self, trace: TraceId) -> bool {
        let chance = trace.number() as u64 & ((1 << CHANCE) - 1);
        self.0.as_ref().is_some_and(|tracing| chance < tracing.threshold)
    }

    /// Gives a span to whoever exports them. Never waits: without room it is dropped and counted.
    pub fn offer(&self, span: Span) {
        if let Some(tracing) = &self.0
            && tracing.queue.try_send(span).is_err()
        {
            tracing.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes spans that were taken out of the queue and lost.
    pub fn lost(&self, count: u64) {
        if let Some(tracing) = &self.0 {
            tracing.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Notes spans that somebody has now.
    pub fn exported(&self, count: u64) {
        if let Some(tracing) = &self.0 {
            tracing.exported.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Spans that were exported.
    pub fn sent(&self) -> u64 {
        self.0.as_ref().map_or(0, |tracing| tracing.exported.load(Ordering::Relaxed))
    }

    /// Spans that were dropped.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |tracing| tracing.dropped.load(Ordering::Relaxed))
    }

    /// Spans that wait to be exported.
    pub fn waiting(&self) -> usize {
        self.0.as_ref().map_or(0, |tracing| tracing.queue.max_capacity() - tracing.queue.capacity())
    }
}

/// A time in nanoseconds since 1970.
pub fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mixed;

    fn span() -> Span {
        let (trace, id) = (TraceId::of(1).unwrap(), SpanId::of(1));
        let (name, attributes) = (String::new(), Vec::new());
        Span {
            trace,
            id,
            parent: None,
            state: None,
            name,
            kind: Kind::Internal,
            start: 0,
            end: 0,
            attributes,
            error: None,
        }
    }

    #[test]
    fn what_has_no_room_is_dropped_and_counted() {
        let (spans, queue) = Spans::new(1.0);
        for _ in 0..MAX_WAITING + 7 {
            spans.offer(span());
        }
        assert_eq!((spans.waiting(), spans.dropped()), (MAX_WAITING, 7));
        // Nobody exports any more.
        drop(queue);
        spans.offer(span());
        assert_eq!(spans.dropped(), 8);
        Spans::default().offer(span());
    }

    #[test]
    fn a_part_of_the_traces_is_recorded() {
        let part = |ratio| {
            let (spans, _queue) = Spans::new(ratio);
            let trace = |n| TraceId::of(u128::from(mixed(1, n)) << 64 | u128::from(mixed(2, n)));
            (0..10_000).filter_map(trace).filter(|trace| spans.samples(*trace)).count()
        };
        assert_eq!((part(0.0), part(1.0)), (0, 10_000));
        assert!((2_000..3_000).contains(&part(0.25)), "{}", part(0.25));
        assert!(!Spans::default().samples(TraceId::of(1).unwrap()));
    }
}
