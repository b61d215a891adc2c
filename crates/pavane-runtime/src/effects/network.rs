//! The pooled HTTP client below every effect: TLS, name resolution, and the connections it may open.
//!
//! Each connection remembers whether it has served: one that was idle may be closed by the service at any moment, and a
//! request that meets this is no news about the service (see [`Used`]).

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pavane_core::Value;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;

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

pub(super) type Pooled = legacy::Client<HttpsConnector<Connector>, Full<Bytes>>;

/// Builds a client with its connections, which goes only where `egress` lets it, if that is given.
pub(super) fn client(options: &NetworkOptions, tls: rustls::ClientConfig, egress: Option<Arc<Egress>>) -> Pooled {
    let mut http = HttpConnector::new_with_resolver(Guarded::new(GaiResolver::new(), egress.clone()));
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(options.connect_timeout));
    let resolve = options.resolve.clone().into();
    let connector = Connector { http, egress, resolve, timeout: options.connect_timeout };
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(connector);
    legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(Duration::from_secs(60))
        .pool_max_idle_per_host(most_in_flight(options))
        .build(https)
}

/// The largest answer that is read of what is no call: enough for a word about what went wrong.
const MAX_ANSWER: usize = 64 << 10;

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
        let asked = async {
            let (head, body) = self.0.request(request).await.map_err(|error| causes(&error))?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            Ok((head.status, head.headers, body))
        };
        tokio::time::timeout(within, asked).await.unwrap_or_else(|_| Err("it did not answer in time".into()))
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

/// A connection that remembers whether it has served.
pub(super) struct Stream {
    io: TokioIo<TcpStream>,
    used: Used,
}

/// Whether a connection has brought an answer before.
#[derive(Clone, Debug, Default)]
pub(super) struct Used(Arc<AtomicBool>);

impl Used {
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Stream {
    fn new(io: TokioIo<TcpStream>) -> Stream {
        Stream { io, used: Used::default() }
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
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

type Connecting = Pin<Box<dyn Future<Output = Result<Stream, Box<dyn std::error::Error + Send + Sync>>> + Send>>;

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = Box<dyn std::error::Error + Send + Sync>;
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
