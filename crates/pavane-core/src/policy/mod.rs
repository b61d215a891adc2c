//! Policies towards a service: what may be sent to it now, and who waits.
//!
//! Small machines without a clock: each takes `now`, the time since a start that its owner chose, and never runs
//! backwards. [`Gate`] puts them together: a [`Breaker`], a [`Rate`], places for calls in flight and a [`RetryBudget`]
//! before one fair queue. Nothing here sends, sleeps or knows what a call is; start reading at [`Gate`].

mod breaker;
mod budget;
mod gate;
mod load;
mod queue;
mod rate;
mod window;

pub use breaker::{Breaker, BreakerSettings, BreakerState, Permit, Verdict};
pub use budget::{RetryBudget, RetrySettings};
pub use gate::{Arrival, Counts, Decision, Entry, Gate, GateSettings, Held, Pass, Reason, Standing};
pub use load::Average;
pub use queue::Ticket;
pub use rate::{Pace, Rate, Throttle};
