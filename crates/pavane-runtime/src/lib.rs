//! The async shell of Pavane: it loads, decides, commits, and only then performs.
//!
//! Start reading at [`Engine`], the handle everybody else holds; then `driver`, the one loop behind it. This crate must
//! not know a workflow rule: those are in `pavane-core`. It must not know SQL: that is in `pavane-store`.

mod alone;
pub mod callbacks;
mod driver;
pub mod effects;
mod engine;
pub mod lost;
mod observer;
mod outbox;
mod participant;
mod records;
mod registry;
pub mod services;
mod stuck;
pub mod watch;

pub use alone::{Home, Recognized, acquaint};
pub use engine::*;
pub use observer::{Copied, Reading, Source, Unread};
pub use records::Cursor;
pub(crate) use records::replay;
pub use stuck::{Lag, Late, Missing, Progress, STUCK_AFTER, Standing};

/// The clock of the whole process: nothing else asks for the time.
pub(crate) fn now() -> pavane_core::Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    pavane_core::Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
