//! A request's body that may be sent again: kept when it is small, or as long as nobody has read of it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use crate::body::{self, Body, BoxError};

/// Largest body that is kept to be sent again: copies of larger ones cost more than a repeat is worth.
const MAX_KEPT: u64 = 64 << 10;

/// A body and its copies.
pub(crate) enum Replay {
    /// As often as needed.
    Kept(Bytes),
    /// Again only if none of it was read: the connection was never made.
    Lent(Lent),
}

impl Replay {
    /// Keeps a body if it is small and `keep` says that it may have to be sent again.
    ///
    /// # Errors
    /// The body could not be read.
    pub async fn new(body: Body, keep: bool, within: Duration) -> Result<Replay, BoxError> {
        if body.is_end_stream() {
            return Ok(Replay::Kept(Bytes::new()));
        }
        let small = body.size_hint().upper().is_some_and(|most| most <= MAX_KEPT);
        match keep && small {
            true => Ok(Replay::Kept(body::collect(body, within).await?)),
            false => Ok(Replay::Lent(Lent { body: Arc::new(Mutex::new(body)), read: Arc::default() })),
        }
    }

    /// Whether it can be sent after it was sent before.
    pub fn again(&self) -> bool {
        match self {
            Replay::Kept(_) => true,
            Replay::Lent(lent) => !lent.read.load(Ordering::Acquire),
        }
    }

    /// A copy to send.
    pub fn copy(&self) -> Body {
        match self {
            Replay::Kept(bytes) if bytes.is_empty() => body::empty(),
            Replay::Kept(bytes) => body::full(bytes.clone()),
            Replay::Lent(lent) => Body::new(lent.clone()),
        }
    }
}

/// One body, behind each of its copies.
#[derive(Clone)]
pub(crate) struct Lent {
    body: Arc<Mutex<Body>>,
    read: Arc<AtomicBool>,
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.read.store(true, Ordering::Release);
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}
