//! How messages travel between the locations of an instance.
//!
//! A message leaves with the commit of the step that sends it: it is in its sender's store until it is somebody else's.
//! The [`relay`] of that store publishes it on a [`Bus`] until the bus has taken it. With [`Embedded`] a message is
//! taken when its receiver has it durably, so that the senders' stores are the log of this bus and no message is
//! written twice; a broker takes it when it is durable there. Every message is delivered at least once, in any order:
//! receivers know what they have had.
//!
//! Start reading at [`Bus`]. This crate must not know what a message means.

mod embedded;
mod hub;
mod relay;
pub mod wire;

use std::fmt;
use std::future::Future;
use std::pin::Pin;

pub use embedded::Embedded;
pub use hub::{Hub, LEASE, Over, Unfit};
pub use relay::{Progress, Relay};

use pavane_store::Outgoing;

/// A message on its way from one hand to the next: done when it is durable there.
pub type Handing = Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send>>;

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing can be taken there now: it is tried again for as long as it takes.
    #[error("{0}")]
    Unavailable(String),
    /// This message cannot be taken now: it is tried again a limited number of times.
    #[error("{0}")]
    Later(String),
    /// This message can never be taken: it becomes a dead letter.
    #[error("{0}")]
    Never(String),
}

/// A participant, as the bus sees it.
pub trait Consumer: Send + Sync + fmt::Debug {
    /// Takes a message. It may have had it before.
    fn take(&self, message: Outgoing) -> Handing;
}

/// The port.
pub trait Bus: Send + Sync + fmt::Debug {
    /// Publishes a message to the participant it is for. Done when it needs nobody's memory any more.
    fn publish(&self, message: Outgoing) -> Handing;

    /// From now on messages to a participant are for this consumer. Of several, the one that came last gets them: a
    /// participant that came back takes the place of the one that went.
    fn subscribe(&self, participant: &str, consumer: std::sync::Arc<dyn Consumer>);

    /// From now on messages to a participant wait.
    fn unsubscribe(&self, participant: &str);
}
