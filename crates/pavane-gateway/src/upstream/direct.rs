//! Kept connections to one URL over plain HTTP/1.1, without a task of their own.
//!
//! A pooled client gives each connection a task, and every request goes there and back: two channels, two wake-ups, and
//! with several threads two changes of thread. Here whoever sends a request drives its connection: while it waits for the
//! head of the answer, and then while the body is read. A connection at rest is driven by nobody; whether its other side
//! has closed it is looked at when it is taken.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tower_service::Service;

use super::client::{IDLE, MAX_HEAD, MAX_IDLE, Unanswered};
use crate::body::{Body, BoxError};
use crate::joined::Joined;

/// The kept connections to a URL.
#[derive(Debug, Default)]
pub(crate) struct Direct(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// The longest unused first.
    lines: VecDeque<(Box<Line>, Instant)>,
    /// Somebody sees to it that they do not grow old.
    watched: bool,
}

type Socket = Joined<TokioIo<TcpStream>>;

/// A connection. Its two halves meet in whoever has it. It goes from hand to hand in a box: it is large.
struct Line {
    sender: SendRequest<Body>,
    /// Gone once it has ended: with it goes what waits for an answer.
    connection: Option<Connection<Socket, Body>>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

impl Direct {
    /// Sends a request, on a kept connection or a new one to `at`, and waits for the head of its answer. Its target is path
    /// and query, and its headers name the host. `now` is when it began: near enough for the age of a connection.
    ///
    /// # Errors
    /// No connection could be made, or it broke off.
    pub async fn send(
        self: &Arc<Direct>,
        connector: &HttpConnector,
        at: &Uri,
        mut request: Request<Body>,
        now: Instant,
    ) -> Result<Response<Body>, Unanswered> {
        while let Some(mut line) = self.take(now) {
            match line.send(request).await {
                Ok(response) => return Ok(self.arriving(line, response)),
                // The other side closed it in this moment; none of the request has left.
                Err((_, Some(unsent))) => request = unsent,
                Err((error, None)) => return Err(Unanswered::Lost(error.into())),
            }
        }
        let mut line = connect(connector.clone(), at).await.map_err(Unanswered::NotSent)?;
        match line.send(request).await {
            Ok(response) => Ok(self.arriving(line, response)),
            Err((error, Some(_))) => Err(Unanswered::NotSent(error.into())),
            Err((error, None)) => Err(Unanswered::Lost(error.into())),
        }
    }

    fn arriving(self: &Arc<Direct>, line: Box<Line>, response: Response<Incoming>) -> Response<Body> {
        response.map(|incoming| Body::new(Arriving { incoming, line: Some(line), home: self.clone() }))
    }

    /// A kept connection that is still open, the one used last: the others may grow old.
    fn take(&self, now: Instant) -> Option<Box<Line>> {
        loop {
            let (mut line, since) = self.kept().lines.pop_back()?;
            if now.saturating_duration_since(since) < IDLE && line.rests() {
                return Some(line);
            }
        }
    }

    /// Keeps a connection if it can be used again.
    fn keep(self: &Arc<Direct>, mut line: Box<Line>) {
        if !line.rests() {
            return;
        }
        let mut kept = self.kept();
        kept.lines.push_back((line, Instant::now()));
        let too_many = if kept.lines.len() > MAX_IDLE { kept.lines.pop_front() } else { None };
        // A runtime that ends drops bodies, too, and takes no more tasks.
        let runtime = Handle::try_current().ok().filter(|_| !kept.watched);
        kept.watched |= runtime.is_some();
        drop(kept);
        // Closed without the lock.
        drop(too_many);
        if let Some(runtime) = runtime {
            let direct = Arc::downgrade(self);
            runtime.spawn(async move {
                loop {
                    tokio::time::sleep(IDLE).await;
                    if !direct.upgrade().is_some_and(|direct| direct.close_old()) {
                        return;
                    }
                }
            });
        }
    }

    /// Closes those that were not used for long. Gives whether there are others.
    fn close_old(&self) -> bool {
        let mut old = Vec::new();
        let mut kept = self.kept();
        while kept.lines.front().is_some_and(|(_, since)| since.elapsed() >= IDLE) {
            old.extend(kept.lines.pop_front());
        }
        kept.watched = !kept.lines.is_empty();
        kept.watched
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(mut connector: HttpConnector, at: &Uri) -> Result<Box<Line>, BoxError> {
    let stream = connector.call(at.clone()).await?;
    let (sender, connection) = Builder::new().max_buf_size(MAX_HEAD).handshake(Joined(stream)).await?;
    Ok(Box::new(Line { sender, connection: Some(connection) }))
}

/// Why there is no answer, with the request if none of it was sent.
type Failed = (hyper::Error, Option<Request<Body>>);

impl Line {
    async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, Failed> {
        let Line { sender, connection } = self;
        // Without tokio's budget, which would ask for another turn by a waker that wakes nobody.
        let mut answer = pin!(tokio::task::unconstrained(sender.try_send_request(request)));
        let answer = poll_fn(|context| {
            drive(connection, context);
            // What the connection has found is there by now: nobody has to be woken for it.
            answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        });
        answer.await.map_err(|mut error| {
            let unsent = error.take_message();
            (error.into_error(), unsent)
        })
    }

    /// Brings it to rest after an answer; whether it can be used again.
    fn rests(&mut self) -> bool {
        // Nothing is waited for: what is there is read, and its former user is not woken any more.
        drive(&mut self.connection, &mut Context::from_waker(Waker::noop()));
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// Moves a connection on as far as it goes now.
fn drive(connection: &mut Option<Connection<Socket, Body>>, context: &mut Context<'_>) {
    if connection.as_mut().is_some_and(|connection| Pin::new(connection).poll(context).is_ready()) {
        *connection = None;
    }
}

/// The body of an answer, and the connection by which it comes.
struct Arriving {
    incoming: Incoming,
    line: Option<Box<Line>>,
    home: Arc<Direct>,
}

impl Arriving {
    /// Gives the connection back once nothing more comes.
    fn settle(&mut self) {
        if let Some(line) = self.line.take_if(|_| self.incoming.is_end_stream()) {
            self.home.keep(line);
        }
    }
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let quiet = &mut Context::from_waker(Waker::noop());
        // Asked first, so that the connection knows that more is wanted.
        let mut frame = Pin::new(&mut this.incoming).poll_frame(quiet);
        if frame.is_pending() {
            if let Some(line) = &mut this.line {
                drive(&mut line.connection, context);
            }
            frame = Pin::new(&mut this.incoming).poll_frame(quiet);
        }
        match frame {
            Poll::Ready(Some(Ok(frame))) => {
                this.settle();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.line = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                if let Some(line) = this.line.take() {
                    this.home.keep(line);
                }
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        // An answer without a body is never asked for one.
        self.settle();
    }
}
