//! Calls over plain HTTP/1.1, on kept connections without a task of their own. Read [`Direct::send`] first.
//!
//! A pooled client gives each connection a task, and every call goes there and back: two channels, two wake-ups, and with
//! several threads two changes of thread. Here a call drives its connection itself, from its request to the end of the
//! answer's body, and then leaves it to the next. A connection at rest is driven by nobody: that the service has closed it
//! is seen when it is used again, before anything of a request is written.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ahash::HashMap;
use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Method, Uri};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use super::network::{BoxError, Came, Connector, Failure, Request, Stream, Unread, whole};

/// Plain connections, and how they are made.
pub(super) struct Direct {
    connector: Connector,
    /// For how long a connection is kept that nobody uses.
    idle: Duration,
    /// The most that are kept to one authority.
    most: usize,
    kept: Mutex<Kept>,
}

/// Connections at rest.
#[derive(Default)]
struct Kept {
    /// By authority, the longest unused first.
    lines: HashMap<Box<str>, Vec<(Box<Line>, Instant)>>,
    /// Somebody sees to it that they do not grow old.
    watched: bool,
}

/// A connection. Its two halves meet in whoever has it. It goes from hand to hand in a box: it is large.
struct Line {
    sender: SendRequest<Full<Bytes>>,
    /// Gone once it has ended: with it goes what waits for an answer.
    connection: Option<Connection<Stream, Full<Bytes>>>,
    /// What requests call the other side.
    host: HeaderValue,
    /// Whether something of a request is still to be written.
    held_up: Arc<AtomicBool>,
}

/// No connection could be made.
#[derive(Debug, thiserror::Error)]
#[error("no connection")]
struct NoConnection(#[source] BoxError);

/// Why there is no answer, with the request if none of it was written.
type Lost = (hyper::Error, Option<Request>);

impl Direct {
    pub fn new(connector: Connector, idle: Duration, most: usize) -> Arc<Direct> {
        Arc::new(Direct { connector, idle, most, kept: Mutex::default() })
    }

    /// Sends a request with an absolute URI, on a kept connection or a new one, and reads a body of at most `max` bytes.
    ///
    /// # Errors
    /// There is no answer by the deadline.
    pub async fn send(
        self: &Arc<Direct>,
        mut request: Request,
        deadline: Instant,
        max: usize,
    ) -> Result<Came, Failure> {
        let uri = std::mem::take(request.uri_mut());
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        *request.uri_mut() = target(&uri, request.method());
        loop {
            let (mut line, reused) = match self.take(authority) {
                Some(line) => (line, true),
                None => (self.connect(&uri, deadline).await?, false),
            };
            request.headers_mut().entry(HOST).or_insert_with(|| line.host.clone());
            match timeout_at(deadline, line.send(request)).await {
                Err(_) => return Err(Failure::Late { connected: true }),
                // The service closed it while it was at rest. Each kept one may end so, a new one ends the loop.
                Ok(Err((_, Some(unsent)))) if reused => request = unsent,
                Ok(Err((error, _))) => return Err(Failure::Broken { error: error.into(), reused }),
                Ok(Ok(response)) => {
                    let (head, incoming) = response.into_parts();
                    let body = line.read(incoming, deadline, max).await;
                    // What is left of a body would be read as the next answer.
                    if body.is_ok() {
                        self.keep(authority, line);
                    }
                    return Ok((head, body));
                }
            }
        }
    }

    async fn connect(&self, uri: &Uri, deadline: Instant) -> Result<Box<Line>, Failure> {
        let connecting = async {
            let host = HeaderValue::try_from(host(uri))?;
            let mut connector = self.connector.clone();
            poll_fn(|context| connector.poll_ready(context)).await?;
            let stream = connector.call(uri.clone()).await?;
            let held_up = stream.held_up();
            let (sender, connection) = Builder::new().handshake(stream).await?;
            Ok::<_, BoxError>(Box::new(Line { sender, connection: Some(connection), host, held_up }))
        };
        match timeout_at(deadline, connecting).await {
            Err(_) => Err(Failure::Late { connected: false }),
            Ok(made) => made.map_err(|why| Failure::Unconnected(NoConnection(why).into())),
        }
    }

    /// A kept connection to an authority, the one used last: the others may grow old.
    fn take(&self, authority: &str) -> Option<Box<Line>> {
        let now = Instant::now();
        let mut kept = self.kept();
        let lines = kept.lines.get_mut(authority)?;
        let (line, since) = lines.pop()?;
        if now.saturating_duration_since(since) < self.idle {
            return Some(line);
        }
        // All others are still older. They are closed without the lock.
        let old = std::mem::take(lines);
        drop(kept);
        drop((line, old));
        None
    }

    /// Keeps a connection if it can be used again.
    fn keep(self: &Arc<Direct>, authority: &str, mut line: Box<Line>) {
        if !line.rests() {
            return;
        }
        let now = Instant::now();
        let mut kept = self.kept();
        let too_many = match kept.lines.get_mut(authority) {
            Some(lines) if lines.len() >= self.most => Some(line),
            Some(lines) => {
                lines.push((line, now));
                None
            }
            None => {
                kept.lines.insert(authority.into(), vec![(line, now)]);
                None
            }
        };
        // A runtime that ends takes no more tasks.
        let runtime = if kept.watched { None } else { Handle::try_current().ok() };
        kept.watched |= runtime.is_some();
        drop(kept);
        // Closed without the lock.
        drop(too_many);
        if let Some(runtime) = runtime {
            self.watch(&runtime);
        }
    }

    /// Sees to it that connections nobody uses any more are closed, until there are none.
    fn watch(self: &Arc<Direct>, runtime: &Handle) {
        let (direct, idle) = (Arc::downgrade(self), self.idle);
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(idle).await;
                if !direct.upgrade().is_some_and(|direct| direct.close_old()) {
                    return;
                }
            }
        });
    }

    /// Closes those that were not used for long, and forgets authorities without any. Gives whether there are others.
    fn close_old(&self) -> bool {
        let (now, mut old) = (Instant::now(), Vec::new());
        let mut kept = self.kept();
        kept.lines.retain(|_, lines| {
            let fresh = lines.iter().position(|(_, since)| now.saturating_duration_since(*since) < self.idle);
            old.extend(lines.drain(..fresh.unwrap_or(lines.len())));
            !lines.is_empty()
        });
        kept.watched = !kept.lines.is_empty();
        let watched = kept.watched;
        drop(kept);
        // Closed without the lock.
        drop(old);
        watched
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Sends a request and waits for the head of its answer.
    async fn send(&mut self, request: Request) -> Result<http::Response<Incoming>, Lost> {
        let Line { sender, connection, .. } = self;
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

    /// Reads a body of at most `max` bytes.
    async fn read(&mut self, mut incoming: Incoming, deadline: Instant, max: usize) -> Result<Bytes, Unread> {
        let frames = |context: &mut Context<'_>| {
            if incoming.is_end_stream() {
                return Poll::Ready(None);
            }
            let quiet = &mut Context::from_waker(Waker::noop());
            // Asked first, so that the connection knows that more is wanted.
            let frame = Pin::new(&mut incoming).poll_frame(quiet);
            if frame.is_ready() {
                return frame;
            }
            drive(&mut self.connection, context);
            Pin::new(&mut incoming).poll_frame(quiet)
        };
        whole(frames, deadline, max).await
    }

    /// Brings it to rest after an answer; whether it can be used again.
    fn rests(&mut self) -> bool {
        // Mostly it has come to rest with the last byte of the answer. Otherwise nothing is waited for: what is there is read.
        if !self.sender.is_ready() {
            drive(&mut self.connection, &mut Context::from_waker(Waker::noop()));
        }
        // A service may answer before it has taken all of the request, and hyper would have the next one wait behind the rest.
        self.connection.is_some() && self.sender.is_ready() && !self.held_up.load(Ordering::Relaxed)
    }
}

/// Moves a connection on as far as it goes now.
fn drive(connection: &mut Option<Connection<Stream, Full<Bytes>>>, context: &mut Context<'_>) {
    if connection.as_mut().is_some_and(|connection| Pin::new(connection).poll(context).is_ready()) {
        *connection = None;
    }
}

/// What a request names of its URI: path and query, or where a tunnel is to lead.
fn target(uri: &Uri, method: &Method) -> Uri {
    let mut parts = http::uri::Parts::default();
    if *method == Method::CONNECT {
        parts.authority = uri.authority().cloned();
    } else {
        match uri.path_and_query() {
            Some(path) if path.as_str() != "/" => parts.path_and_query = Some(path.clone()),
            _ => return Uri::default(),
        }
    }
    // Of either part alone a URI can always be made.
    Uri::from_parts(parts).unwrap_or_default()
}

/// The host as its header names it: without a port that goes without saying, and without a user.
fn host(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    match uri.port_u16() {
        None | Some(80) => host.to_owned(),
        Some(port) => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use hyper_util::client::legacy;
    use hyper_util::rt::TokioExecutor;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::network::NetworkOptions;
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    fn connector(resolve: Vec<(String, Option<u16>, std::net::SocketAddr)>) -> Connector {
        Connector::new(&NetworkOptions { resolve, ..NetworkOptions::default() }, None)
    }

    fn request(method: &str, uri: &str) -> Request {
        http::Request::builder().method(method).uri(uri).header("x-own", "1").body(Full::default()).unwrap()
    }

    async fn head(stream: &mut TcpStream) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        String::from_utf8(head).ok()
    }

    /// Answers each request, or one and closes the connection a little later, and counts its connections: all, and those
    /// that are open.
    async fn service(stays: bool) -> (String, Arc<[AtomicUsize; 2]>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/", listener.local_addr().unwrap());
        let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let counted = counts.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                for count in &*counted {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                let counted = counted.clone();
                tokio::spawn(async move {
                    while head(&mut stream).await.is_some() && stream.write_all(ANSWER).await.is_ok() && stays {}
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    counted[1].fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        (uri, counts)
    }

    fn now(counts: &[AtomicUsize; 2]) -> [usize; 2] {
        counts.each_ref().map(|count| count.load(Ordering::SeqCst))
    }

    async fn sent(direct: &Arc<Direct>, uri: &str) -> Result<Bytes, String> {
        let deadline = Instant::now() + Duration::from_secs(5);
        match direct.send(request("POST", uri), deadline, 100).await {
            Ok((_, Ok(body))) => Ok(body),
            Ok((_, Err(Unread::Broken(why)))) => Err(why),
            Ok((_, Err(Unread::Late))) | Err(Failure::Late { .. }) => Err("late".into()),
            Err(Failure::Unconnected(error) | Failure::Broken { error, .. }) => Err(error.to_string()),
        }
    }

    async fn at_once(direct: &Arc<Direct>, uri: &str, calls: usize) {
        let calls = (0..calls).map(|_| sent(direct, uri));
        for body in futures_util::future::join_all(calls).await {
            assert_eq!(body.unwrap(), "ok");
        }
    }

    #[tokio::test]
    async fn what_nobody_uses_is_closed() {
        let (uri, counts) = service(true).await;
        let direct = Direct::new(connector(Vec::new()), Duration::from_millis(200), 8);
        at_once(&direct, &uri, 3).await;
        assert_eq!(now(&counts), [3, 3]);
        let patience = Instant::now() + Duration::from_secs(5);
        while now(&counts)[1] > 0 || !direct.kept().lines.is_empty() {
            assert!(Instant::now() < patience, "{:?}", now(&counts));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // And so it is when that is over.
        assert_eq!(sent(&direct, &uri).await.unwrap(), "ok");
        assert_eq!((now(&counts), direct.kept().watched), ([4, 1], true));
    }

    #[tokio::test]
    async fn what_is_too_old_is_not_used() {
        let (uri, counts) = service(true).await;
        let direct = Direct::new(connector(Vec::new()), Duration::from_millis(100), 8);
        // As if nobody saw to it.
        direct.kept().watched = true;
        at_once(&direct, &uri, 2).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        at_once(&direct, &uri, 1).await;
        assert_eq!(now(&counts)[0], 3);
        assert_eq!(direct.kept().lines.values().map(Vec::len).sum::<usize>(), 1);
    }

    #[tokio::test]
    async fn no_more_are_kept_than_may_be() {
        let (uri, counts) = service(true).await;
        let direct = Direct::new(connector(Vec::new()), Duration::from_secs(60), 2);
        at_once(&direct, &uri, 5).await;
        assert_eq!(now(&counts)[0], 5);
        assert_eq!(direct.kept().lines.values().map(Vec::len).sum::<usize>(), 2);
        at_once(&direct, &uri, 2).await;
        assert_eq!(now(&counts)[0], 5);
    }

    #[tokio::test]
    async fn a_turn_that_is_used_up_loses_no_answer() {
        let (uri, counts) = service(false).await;
        let direct = Direct::new(connector(Vec::new()), Duration::from_secs(60), 8);
        let mut kept = 0;
        // tokio ends a task's turn at the 128th thing it does, wherever that is.
        for done in 110..130 {
            let call = {
                let (direct, uri) = (direct.clone(), uri.clone());
                async move {
                    for _ in 0..done {
                        tokio::task::consume_budget().await;
                    }
                    sent(&direct, &uri).await
                }
            };
            assert_eq!(tokio::spawn(call).await.unwrap().unwrap(), "ok", "{done}");
            kept += direct.kept().lines.values().map(Vec::len).sum::<usize>();
            // In turns, so that the end of the connection has come, however late this one is.
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        assert_eq!(now(&counts)[0], 20);
        assert!(kept > 0, "the next call has found a connection that was closed");
    }

    #[tokio::test]
    async fn a_request_looks_as_the_common_client_writes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let told = || vec![("shop.example".to_owned(), None, address), ("[::1]".to_owned(), None, address)];
        let direct = Direct::new(connector(told()), Duration::from_secs(60), 8);
        let common = legacy::Client::builder(TokioExecutor::new()).build(connector(told()));
        for (method, uri) in [
            ("GET", "http://shop.example"),
            ("GET", "http://shop.example/"),
            ("GET", "http://shop.example?a=b"),
            ("GET", "http://shop.example:80/x?a=b&c=%20"),
            ("POST", "http://shop.example:8080/x//y/?"),
            ("DELETE", "HTTP://Shop.Example:443/X"),
            ("OPTIONS", "http://ada:secret@shop.example:8080/x"),
            ("PURGE", "http://[::1]:8080/x"),
            ("HEAD", "http://shop.example:/x"),
            ("CONNECT", "http://shop.example:8080/x"),
            ("CONNECT", "http://ada@shop.example"),
        ] {
            let served = async {
                let mut heads = Vec::new();
                for _ in 0..2 {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    heads.extend(head(&mut stream).await);
                    stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.unwrap();
                }
                heads
            };
            let called = async {
                common.request(request(method, uri)).await.unwrap();
                let deadline = Instant::now() + Duration::from_secs(5);
                assert!(direct.send(request(method, uri), deadline, 100).await.is_ok(), "{method} {uri}");
            };
            let (heads, ()) = tokio::join!(served, called);
            assert_eq!(heads[0], heads[1], "{method} {uri}");
        }
    }
}
