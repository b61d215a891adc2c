//! What is counted and traced, wherever it happens: histograms, families of numbers by name, trace contexts, spans.
//!
//! It must never slow, block or fail what it watches: recording is a few atomic operations, and what has no room is
//! dropped and counted. It knows no other crate of Pavane and shows nothing to anybody: the binary does. Start reading at
//! [`Histogram`], and at [`Spans`] for traces.

mod family;
mod histogram;
mod span;
mod trace;

pub use family::{Family, OTHER};
pub use histogram::{COUNTS, Exemplar, Histogram, LIVES, Reading, SECONDS};
pub use span::{Attribute, Kind, MAX_WAITING, Span, Spans, Tracing, nanos};
pub use trace::{MAX_STATE, Parent, SpanId, TraceId, mixed};
