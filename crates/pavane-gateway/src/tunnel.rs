//! Two upgraded connections joined: what comes from one goes to the other until one ends or both stand still.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Joins them when both are upgraded, in a task of its own that holds `held` for as long.
pub(crate) fn join(client: OnUpgrade, service: OnUpgrade, idle: Duration, held: impl Send + 'static) {
    tokio::spawn(async move {
        let _held = held;
        // Either side may go before the upgrade is there; the other is closed by being dropped.
        let (Ok(client), Ok(service)) = tokio::join!(client, service) else { return };
        let moved = Arc::new(AtomicBool::new(false));
        let mut client = Seen { io: TokioIo::new(client), moved: moved.clone() };
        let mut service = Seen { io: TokioIo::new(service), moved: moved.clone() };
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut service) => {}
            () = still(&moved, idle) => tracing::debug!("a WebSocket stood still and was closed"),
        }
    });
}

/// Resolves when nothing has moved for so long.
async fn still(moved: &AtomicBool, idle: Duration) {
    loop {
        tokio::time::sleep(idle).await;
        if !moved.swap(false, Ordering::Relaxed) {
            return;
        }
    }
}

/// A connection that tells when something was read from it.
struct Seen<T> {
    io: T,
    moved: Arc<AtomicBool>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Seen<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.moved.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Seen<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
