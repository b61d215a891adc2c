//! The HTTP client below every effect: TLS, name resolution, and the connections it may open. Read [`Pooled::send`] first.
//!
//! A connection that was idle may be closed by the service at any moment, and a request that meets this is no news about
//! the service: a failure tells whether its connection had served before (see [`Failure`]).

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper::body::{Body as _, Frame};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::client::legacy::connect::{
    CaptureConnection, Connected, Connection, HttpConnector, capture_connection,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pavane_core::Value;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::direct::Direct;
use super::egress::{Egress, EgressSettings, Guarded};
use super::http::causes;
use crate::services::{Services, port};
use crate::watch::Watch;

/// How calls reach the network.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// Services by host name.
    pub services: Services,
    /// Secrets to put back into requests.
    pub secrets: BTreeMap<String, Value>,
    /// Where calls may go that name no service.
    pub egress: EgressSettings,
    /// `HOST[:PORT]` that is to be reached at another address, TLS name and `Host` header unchanged.
    pub resolve: Vec<(String, Option<u16>, SocketAddr)>,
    /// A file of further certificate authorities, in PEM.
    pub ca: Option<PathBuf>,
    /// Larger response bodies are refused: they would become state.
    pub max_body: usize,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a call may take that has no shorter deadline: nothing waits for ever.
    pub call_timeout: Duration,
    /// Calls in flight to one authority. More connections than this make both sides slower.
    pub max_per_authority: usize,
    /// Calls in flight over all authorities: each holds a socket. Further ones wait their turn in order.
    pub max_calls: usize,
    /// What it counts and traces; one for the process.
    pub watch: Arc<Watch>,
}

impl Default for NetworkOptions {
    fn default() -> NetworkOptions {
        NetworkOptions {
            services: Services::default(),
            secrets: BTreeMap::new(),
            egress: EgressSettings::default(),
            resolve: Vec::new(),
            ca: None,
            max_body: 8 << 20,
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(30),
            max_per_authority: 64,
            max_calls: 1_024,
            watch: Arc::default(),
        }
    }
}

/// How long a connection is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(60);

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub(super) type Request = http::Request<Full<Bytes>>;

/// An answer: its head, and its body read whole.
pub(super) type Came = (http::response::Parts, Result<Bytes, Unread>);

/// A client with its connections.
#[derive(Clone)]
pub(super) struct Pooled {
    /// To `http://`.
    direct: Arc<Direct>,
    /// To `https://`, where the service may choose HTTP/2, whose connections serve many calls at once.
    shared: legacy::Client<HttpsConnector<Connector>, Full<Bytes>>,
}

/// Why a request has no answer.
pub(super) enum Failure {
    /// There is no connection: nothing has left.
    Unconnected(BoxError),
    /// It broke off, and may have been read. If its connection was `reused`, it may have been closed before.
    Broken { error: BoxError, reused: bool },
    /// The deadline came, while there was a connection or before.
    Late { connected: bool },
}

/// Why a body could not be read.
pub(super) enum Unread {
    Late,
    Broken(String),
}

/// Builds a client with its connections, which goes only where `egress` lets it, if that is given.
pub(super) fn client(options: &NetworkOptions, tls: rustls::ClientConfig, egress: Option<Arc<Egress>>) -> Pooled {
    let connector = Connector::new(options, egress);
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(connector.clone());
    let most = most_in_flight(options);
    let shared =
        legacy::Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).pool_max_idle_per_host(most).build(https);
    Pooled { direct: Direct::new(connector, IDLE, most), shared }
}

impl Pooled {
    /// Sends a request with an absolute URI and reads its answer, with a body of at most `max` bytes.
    ///
    /// # Errors
    /// There is no answer by the deadline.
    pub async fn send(&self, request: Request, deadline: Instant, max: usize) -> Result<Came, Failure> {
        if request.uri().scheme() == Some(&http::uri::Scheme::HTTP) {
            self.direct.send(request, deadline, max).await
        } else {
            // Boxed: the others do not need the room for this.
            Box::pin(self.send_shared(request, deadline, max)).await
        }
    }

    async fn send_shared(&self, mut request: Request, deadline: Instant, max: usize) -> Result<Came, Failure> {
        let connection = capture_connection(&mut request);
        let response = match timeout_at(deadline, self.shared.request(request)).await {
            Err(_) => return Err(Failure::Late { connected: used(&connection).is_some() }),
            Ok(Err(error)) if error.is_connect() => return Err(Failure::Unconnected(error.into())),
            Ok(Err(error)) => {
                let reused = used(&connection).is_some_and(|used| used.get());
                return Err(Failure::Broken { error: error.into(), reused });
            }
            Ok(Ok(response)) => response,
        };
        response.extensions().get().iter().for_each(|used: &&Used| used.set());
        let (head, mut incoming) = response.into_parts();
        let body = whole(|context| Pin::new(&mut incoming).poll_frame(context), deadline, max).await;
        Ok((head, body))
    }
}

/// Whether the connection of a request has served before; nothing when there was none.
fn used(connection: &CaptureConnection) -> Option<Used> {
    let metadata = connection.connection_metadata();
    let mut extras = http::Extensions::new();
    metadata.as_ref()?.get_extras(&mut extras);
    extras.remove::<Used>()
}

/// Reads a body whole, of frames as they come.
pub(super) async fn whole(
    mut next: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>>,
    deadline: Instant,
    max: usize,
) -> Result<Bytes, Unread> {
    let reading = async {
        let (mut parts, mut length) = (Vec::new(), 0_usize);
        while let Some(frame) = poll_fn(&mut next).await {
            let frame = frame.map_err(|error| Unread::Broken(format!("a body that broke off: {}", causes(&error))))?;
            // Trailers are nothing that anybody asks for.
            let Ok(data) = frame.into_data() else { continue };
            length = length.saturating_add(data.len());
            if length > max {
                return Err(Unread::Broken(format!(
                    "a body over {max} bytes, the most that is taken (`http.max_body`)"
                )));
            }
            parts.push(data);
        }
        // Mostly it comes in one piece, and is not copied.
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Bytes::from(parts.concat()) })
    };
    timeout_at(deadline, reading).await.unwrap_or(Err(Unread::Late))
}

/// The largest answer that is read of what is no call: enough for a word about what went wrong.
const MAX_ANSWER: usize = 64 << 10;

/// The longest that is waited for it: time has an end.
const MAX_WAIT: Duration = Duration::from_secs(86_400);

/// A client for what is no call of a workflow: it believes and finds services as calls do.
#[derive(Clone)]
pub struct Client(Pooled);

impl Client {
    /// Sets it up.
    ///
    /// # Errors
    /// A CA file that cannot be read.
    pub fn new(options: &NetworkOptions) -> Result<Client, String> {
        tls(options).map(|tls| Client(client(options, tls, None)))
    }

    /// Sends a request and reads its answer, whatever its status, within a time. An answer of more than 64 KiB is read as
    /// empty.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn send(
        &self,
        request: http::Request<Full<Bytes>>,
        within: Duration,
    ) -> Result<(http::StatusCode, http::HeaderMap, Bytes), String> {
        let deadline = Instant::now() + within.min(MAX_WAIT);
        match self.0.send(request, deadline, MAX_ANSWER).await {
            Ok((_, Err(Unread::Late))) | Err(Failure::Late { .. }) => Err("it did not answer in time".into()),
            Ok((head, body)) => Ok((head.status, head.headers, body.unwrap_or_default())),
            Err(Failure::Unconnected(error) | Failure::Broken { error, .. }) => Err(causes(&*error)),
        }
    }
}

/// The most calls that may be in flight to one authority: as many connections are kept, or a service with a larger limit
/// of its own would get new ones all the time.
fn most_in_flight(options: &NetworkOptions) -> usize {
    let own = options.services.iter().filter_map(|service| service.settings.limits.in_flight);
    own.chain([options.max_per_authority]).max().unwrap_or_default().min(options.max_calls)
}

/// How services are believed: by the machine's certificate authorities, and those of [`NetworkOptions::ca`].
///
/// # Errors
/// A CA file that cannot be read.
pub fn tls(options: &NetworkOptions) -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS cannot be set up: {e}"))?;
    Ok(builder.with_root_certificates(roots(options)?).with_no_client_auth())
}

fn roots(options: &NetworkOptions) -> Result<rustls::RootCertStore, String> {
    let mut roots = rustls::RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    // A machine without certificates can still call http, and what `ca` names.
    roots.add_parsable_certificates(native.certs);
    if let Some(path) = &options.ca {
        let fail = |why: String| format!("the CA file {}: {why}", path.display());
        let pem = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
        let mut pem = pem.as_slice();
        let certificates: Result<Vec<CertificateDer<'_>>, _> = rustls_pemfile::certs(&mut pem).collect();
        let certificates = certificates.map_err(|e| fail(e.to_string()))?;
        if certificates.is_empty() {
            return Err(fail("it holds no certificate in PEM".into()));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|e| fail(e.to_string()))?;
        }
    }
    Ok(roots)
}

/// Connects where the name says, or where it is told to, unless that may not be.
#[derive(Clone)]
pub(super) struct Connector {
    http: HttpConnector<Guarded<GaiResolver>>,
    egress: Option<Arc<Egress>>,
    resolve: Arc<[(String, Option<u16>, SocketAddr)]>,
    timeout: Duration,
}

impl Connector {
    pub fn new(options: &NetworkOptions, egress: Option<Arc<Egress>>) -> Connector {
        let mut http = HttpConnector::new_with_resolver(Guarded::new(GaiResolver::new(), egress.clone()));
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(options.connect_timeout));
        let resolve = options.resolve.clone().into();
        Connector { http, egress, resolve, timeout: options.connect_timeout }
    }
}

/// A connection that remembers whether it has served, and whether it has written all it was given.
pub(super) struct Stream {
    io: TokioIo<TcpStream>,
    used: Used,
    held_up: Arc<AtomicBool>,
}

/// Whether a connection has brought an answer before.
#[derive(Clone, Debug, Default)]
struct Used(Arc<AtomicBool>);

impl Used {
    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Stream {
    fn new(io: TokioIo<TcpStream>) -> Stream {
        Stream { io, used: Used::default(), held_up: Arc::default() }
    }

    /// Whether something is still to be written that the other side has not taken.
    pub fn held_up(&self) -> Arc<AtomicBool> {
        self.held_up.clone()
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().extra(self.used.clone())
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

/// A request is written in one piece: a list of pieces costs the system more than it costs to join them.
impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.held_up.store(written.is_pending(), Ordering::Relaxed);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

type Connecting = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Connecting;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        tower_service::Service::<Uri>::poll_ready(&mut self.http, context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let (host, port) = (uri.host().unwrap_or_default(), port(&uri));
        let told = self.resolve.iter().find(|(h, p, _)| h.eq_ignore_ascii_case(host) && p.is_none_or(|p| p == port));
        if let Some((_, _, address)) = told {
            let (address, timeout) = (*address, self.timeout);
            return Box::pin(async move {
                let stream = tokio::time::timeout(timeout, TcpStream::connect(address)).await??;
                stream.set_nodelay(true)?;
                Ok(Stream::new(TokioIo::new(stream)))
            });
        }
        // An address as such is not looked up.
        if let Some(Err(denied)) = self.egress.as_ref().map(|egress| egress.judge_literal(host)) {
            return Box::pin(async move { Err(denied.into()) });
        }
        let connecting = tower_service::Service::call(&mut self.http, uri);
        Box::pin(async move { connecting.await.map(Stream::new).map_err(Into::into) })
    }
}
