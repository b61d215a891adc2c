//! Bodies: one type for all, limits on what comes in, and what is held until one has ended.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::Sleep;

/// Whatever went wrong with a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body of a request or an answer, as a stream.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// What a body did that it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFault {
    TooLarge,
    Stalled,
    BrokenOff,
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BodyFault::TooLarge => "the body is larger than the route takes",
            BodyFault::Stalled => "the body stood still, or took, for too long",
            BodyFault::BrokenOff => "the body broke off",
        })
    }
}

impl std::error::Error for BodyFault {}

impl BodyFault {
    /// The fault that an error is about, if it is about one.
    pub fn behind(error: &(dyn std::error::Error + 'static)) -> Option<BodyFault> {
        let mut error = Some(error);
        while let Some(this) = error {
            if let Some(fault) = this.downcast_ref::<BodyFault>() {
                return Some(*fault);
            }
            error = this.source();
        }
        None
    }
}

/// When a body had come whole. What is slow before that is so because of whoever sends it.
#[derive(Clone, Debug)]
pub(crate) enum Whole {
    /// Of a body that there is none of: when its head had come.
    AtOnce(Instant),
    /// Of a body that is read.
    Later(Arc<OnceLock<Instant>>),
}

impl Whole {
    /// When, if it has.
    pub fn since(&self) -> Option<Instant> {
        match self {
            Whole::AtOnce(since) => Some(*since),
            Whole::Later(since) => since.get().copied(),
        }
    }
}

/// A body that is cut when it brings too much, or nothing for too long. It holds something until it has ended or is dropped.
pub(crate) struct Guarded<T = ()> {
    inner: Body,
    left: u64,
    idle: Duration,
    held: Option<T>,
    /// Set when all of it has come, if somebody wants to know.
    whole: Option<Arc<OnceLock<Instant>>>,
    /// Runs while the other side is waited for: a body that nobody asks for more does not stand still.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<T> Guarded<T> {
    pub fn new(inner: Body, most: u64, idle: Duration, held: T) -> Guarded<T> {
        Guarded { inner, left: most, idle, held: Some(held), whole: None, waiting: None }
    }

    /// Tells when all of it has come.
    pub fn whole(&mut self) -> Whole {
        let whole = self.whole.get_or_insert_default();
        if self.inner.is_end_stream() {
            whole.get_or_init(Instant::now);
        }
        Whole::Later(whole.clone())
    }
}

impl<T: Unpin> http_body::Body for Guarded<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else {
            let idle = self.idle;
            let sleep = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
            return match sleep.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(Some(Err(BodyFault::Stalled.into()))),
                Poll::Pending => Poll::Pending,
            };
        };
        self.waiting = None;
        if !matches!(frame, Some(Ok(_))) {
            self.held = None;
        }
        if let Some(Err(error)) = &frame {
            tracing::debug!(error, "a body broke off");
            return Poll::Ready(Some(Err(BodyFault::BrokenOff.into())));
        }
        if let Some(whole) = self.whole.as_ref().filter(|_| frame.is_none() || self.inner.is_end_stream()) {
            whole.get_or_init(Instant::now);
        }
        if let Some(data) = frame.as_ref().and_then(|f| f.as_ref().ok()).and_then(Frame::data_ref) {
            match self.left.checked_sub(data.remaining() as u64) {
                Some(left) => self.left = left,
                None => return Poll::Ready(Some(Err(BodyFault::TooLarge.into()))),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A body that holds something until it has ended or is dropped.
pub(crate) struct Holding<T> {
    inner: Body,
    held: Option<T>,
}

impl<T> Holding<T> {
    pub fn new(inner: Body, held: T) -> Holding<T> {
        Holding { inner, held: Some(held) }
    }
}

impl<T: Unpin> http_body::Body for Holding<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.held = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Reads a body whole.
///
/// # Errors
/// What it did that it may not, or that it broke off.
pub(crate) async fn collect(body: Body, within: Duration) -> Result<Bytes, BoxError> {
    match tokio::time::timeout(within, body.collect()).await {
        Ok(collected) => Ok(collected?.to_bytes()),
        Err(_) => Err(BodyFault::Stalled.into()),
    }
}
