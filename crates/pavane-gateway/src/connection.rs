//! Connections: how many there may be, which HTTP they speak, and how long they may take to say something.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::body::{Body, Holding};
use crate::joined::Joined;
use crate::settings::GatewaySettings;
use crate::tls::ClientCertificate;

/// What an HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How often the beginning of a connection is looked at again when it came in pieces.
const LOOK: Duration = Duration::from_millis(10);

/// How often a quiet HTTP/2 connection is asked whether it is still there, and how long it has to say so.
const PING: Duration = Duration::from_secs(20);

/// How long a client may take when nothing else is set.
const HEAD: Duration = Duration::from_secs(15);

/// Header bytes beyond the limit that are still read, so that the client is told what was wrong.
const HEAD_ROOM: usize = 16 << 10;

/// Least bytes that hyper takes for a buffer.
const LEAST_BUFFER: usize = 16 << 10;

/// Connections that are open.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    open: AtomicUsize,
    freed: Notify,
}

/// The place of one connection among those that may be open; a WebSocket keeps it.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_waiters();
    }
}

impl Slots {
    /// How many are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Waits until fewer than `limit` connections are open, and takes a place. There is one taker, the listener.
    pub async fn take(self: &Arc<Slots>, limit: impl Fn() -> usize) -> Slot {
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.open() < limit() {
                self.open.fetch_add(1, Ordering::AcqRel);
                return Slot(self.clone());
            }
            freed.await;
        }
    }

    /// Waits until all are closed.
    pub async fn closed(&self) {
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            freed.await;
        }
    }
}

/// Which HTTP a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

/// Looks at the beginning of a connection without taking it. A client that says nothing is not waited for longer than
/// for the head of a request.
///
/// # Errors
/// It said nothing in time, or went away.
pub(crate) async fn speaks(stream: &TcpStream, settings: &GatewaySettings) -> io::Result<Speaks> {
    let look = async {
        let mut buffer = [0; PREFACE.len()];
        loop {
            let count = stream.peek(&mut buffer).await?;
            let seen = buffer.get(..count).unwrap_or_default();
            match PREFACE.strip_prefix(seen) {
                _ if seen.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => return Ok(Speaks::Http1),
                Some([]) => return Ok(Speaks::Http2),
                Some(_) => tokio::time::sleep(LOOK).await,
            }
        }
    };
    tokio::time::timeout(settings.timeouts.header.unwrap_or(HEAD), look).await?
}

/// Requests of one connection.
#[derive(Debug)]
struct Busy {
    now: AtomicUsize,
    began: Instant,
    /// Nanoseconds from `began` to when it last had none.
    rests: AtomicU64,
}

impl Busy {
    fn new() -> Busy {
        Busy { now: AtomicUsize::new(0), began: Instant::now(), rests: AtomicU64::new(0) }
    }

    /// Since when it has none.
    fn rests(&self) -> Option<Instant> {
        let rests = Duration::from_nanos(self.rests.load(Ordering::Acquire));
        (self.now.load(Ordering::Acquire) == 0).then(|| self.began + rests)
    }
}

/// A request whose answer has not ended.
struct Answering(Arc<Busy>);

impl Answering {
    fn new(busy: Arc<Busy>) -> Answering {
        busy.now.fetch_add(1, Ordering::AcqRel);
        Answering(busy)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        // Before it counts as none: who sees that there is none sees since when.
        let rests = u64::try_from(self.0.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.rests.store(rests, Ordering::Release);
        self.0.now.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Resolves when a connection had no request for so long: one that only says that it is there, or that sends the head of a
/// request byte by byte, takes a place from others. A timer for the connection, moved when it runs out, costs a request
/// nothing.
async fn quiet(busy: &Busy, idle: Duration) {
    let mut due = busy.began + idle;
    loop {
        tokio::time::sleep_until(due.into()).await;
        let now = Instant::now();
        due = busy.rests().unwrap_or(now) + idle;
        if due <= now {
            return;
        }
    }
}

/// A connection over TLS.
pub(crate) struct Secured {
    pub stream: TlsStream<TcpStream>,
    pub speaks: Speaks,
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// Makes a connection secure, in the time that the head of a request may take.
///
/// # Errors
/// The client does not, or not in time.
pub(crate) async fn handshake(
    stream: TcpStream,
    tls: &Arc<rustls::ServerConfig>,
    settings: &GatewaySettings,
) -> io::Result<Secured> {
    let within = settings.timeouts.header.unwrap_or(HEAD);
    let stream = tokio::time::timeout(within, TlsAcceptor::from(tls.clone()).accept(stream)).await??;
    let (_, session) = stream.get_ref();
    let speaks = if session.alpn_protocol() == Some(b"h2") { Speaks::Http2 } else { Speaks::Http1 };
    let certificate =
        session.peer_certificates().and_then(|chain| chain.first()).map(ClientCertificate::of).map(Arc::new);
    Ok(Secured { stream, speaks, certificate })
}

/// Resolves when the gateway stops, or is gone.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stopping| *stopping).await);
}

/// Serves a connection to its end, or until `stopping` says so and what was begun has ended.
pub(crate) async fn serve<I, A, F>(
    stream: I,
    speaks: Speaks,
    settings: &GatewaySettings,
    mut stopping: watch::Receiver<bool>,
    answer: A,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let busy = Arc::new(Busy::new());
    let service = service_fn(|request| {
        let (answering, answer) = (Answering::new(busy.clone()), answer(request));
        async move { Ok::<_, Infallible>(answer.await.map(|body| Body::new(Holding::new(body, answering)))) }
    });
    let stream = Joined(TokioIo::new(stream));
    let limits = &settings.limits;
    let idle = quiet(&busy, settings.timeouts.header.unwrap_or(HEAD));
    let stop = stopped(&mut stopping);
    let ended = match speaks {
        Speaks::Http1 => {
            let mut builder = http1::Builder::new();
            builder.max_headers(limits.headers).max_buf_size((limits.header_bytes + HEAD_ROOM).max(LEAST_BUFFER));
            let mut connection = pin!(builder.serve_connection(stream, service).with_upgrades());
            tokio::select! {
                ended = connection.as_mut() => ended,
                // What was said of a request is of no use.
                () = idle => Ok(()),
                () = stop => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
        Speaks::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(limits.streams)
                .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
                .keep_alive_interval(PING)
                .keep_alive_timeout(PING);
            let mut connection = pin!(builder.serve_connection(stream, service));
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = idle => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
                () = stop => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}
