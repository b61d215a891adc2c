//! An answer that keeps something for as long as it lasts, and whose reader may stand still only for so long.
//!
//! Who reads an answer slowly keeps its place at the service. Who does not read it at all must not, or a handful of clients
//! could take all the places of a service for good. Only the time in which it is the reader's turn is counted: how long the
//! service may be silent is another matter.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::body::{Body, BodyFault, BoxError};

/// A body that keeps `T`.
pub(crate) struct Kept<T> {
    inner: Body,
    idle: Duration,
    state: Arc<Mutex<State<T>>>,
    watch: Option<JoinHandle<()>>,
}

struct State<T> {
    kept: Option<T>,
    /// Since when it is the reader's turn.
    readers: Option<Instant>,
    cut: bool,
}

impl<T: Send + 'static> Kept<T> {
    pub fn new(inner: Body, idle: Duration, kept: T) -> Kept<T> {
        let state = State { kept: Some(kept), readers: None, cut: false };
        Kept { inner, idle, state: Arc::new(Mutex::new(state)), watch: None }
    }
}

fn locked<T>(state: &Mutex<State<T>>) -> MutexGuard<'_, State<T>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives back what is kept once the reader has stood still for too long.
async fn watch<T>(state: Weak<Mutex<State<T>>>, idle: Duration) {
    let mut next = Instant::now() + idle;
    loop {
        tokio::time::sleep_until(next).await;
        let Some(state) = state.upgrade() else { return };
        let mut state = locked(&state);
        let due = state.readers.map(|since| since + idle);
        if due.is_none_or(|due| due > Instant::now()) {
            next = due.unwrap_or_else(|| Instant::now() + idle);
            continue;
        }
        tracing::debug!(?idle, "an answer that nobody reads was cut");
        state.cut = true;
        state.kept = None;
        return;
    }
}

impl<T: Send + Unpin + 'static> http_body::Body for Kept<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        {
            let mut state = locked(&self.state);
            if state.cut {
                return Poll::Ready(Some(Err(BodyFault::Stalled.into())));
            }
            state.readers = None;
        }
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else { return Poll::Pending };
        let ended = !matches!(frame, Some(Ok(_))) || self.inner.is_end_stream();
        {
            let mut state = locked(&self.state);
            if ended {
                state.kept = None;
            } else {
                state.readers = Some(Instant::now());
            }
        }
        if !ended && self.watch.is_none() {
            self.watch = Some(tokio::spawn(watch(Arc::downgrade(&self.state), self.idle)));
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

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    /// A body of three pieces, of which each takes so long to come.
    fn pieces(each: Duration) -> Body {
        let frames = futures_util::stream::unfold(0, move |n| async move {
            tokio::time::sleep(each).await;
            let frame: Result<_, BoxError> = Ok(Frame::data(Bytes::from_static(b"x")));
            (n < 3).then_some((frame, n + 1))
        });
        Body::new(StreamBody::new(Box::pin(frames)))
    }

    #[tokio::test]
    async fn what_is_kept_goes_with_the_end_or_with_a_reader_that_stands_still() {
        let kept = Arc::new(());
        let taken = || Arc::strong_count(&kept) > 1;
        // A service that is slower than a reader may be is borne.
        let idle = Duration::from_millis(200);
        let mut body = Kept::new(pieces(idle * 2), idle, kept.clone());
        for _ in 0..3 {
            assert!(body.frame().await.unwrap().is_ok() && taken());
        }
        assert!(body.frame().await.is_none() && !taken());
        let mut body = Kept::new(pieces(Duration::ZERO), idle, kept.clone());
        assert!(body.frame().await.unwrap().is_ok() && taken());
        let given_back = async {
            while taken() {
                tokio::time::sleep(Duration::from_millis(5)).await
            }
        };
        assert!(tokio::time::timeout(idle * 100, given_back).await.is_ok(), "nobody reads on, and it is kept");
        let fault = body.frame().await.unwrap().unwrap_err();
        assert_eq!(BodyFault::behind(&*fault), Some(BodyFault::Stalled));
        let mut body = Kept::new(pieces(Duration::ZERO), Duration::from_secs(60), kept.clone());
        assert!(body.frame().await.unwrap().is_ok() && taken());
        drop(body);
        assert!(!taken(), "whoever read has gone");
    }
}
