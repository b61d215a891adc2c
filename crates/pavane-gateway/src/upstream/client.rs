//! The HTTP clients below all routes. Plain HTTP/1.1, which most services speak, goes by [`Direct`]; TLS, HTTP/2 and
//! WebSockets by a pooled client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::direct::Direct;
use crate::body::{Body, BodyFault, BoxError};
use crate::settings::Protocol;

/// How long a connection may be idle before it is closed.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// Idle connections kept to one URL: more are open while they are needed.
pub(super) const MAX_IDLE: usize = 128;

/// Bytes of an answer's head: a service that sends more is broken.
pub(super) const MAX_HEAD: usize = 64 << 10;

type Pooled = Client<HttpsConnector<HttpConnector>, Body>;

/// One client for each way to speak HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    auto: Pooled,
    http2: Pooled,
    /// For WebSockets: over TLS, a service must not choose HTTP/2.
    http1: Pooled,
    /// Makes connections without TLS.
    plain: HttpConnector,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// No connection could be made: nothing was sent.
    NotSent(BoxError),
    /// The connection broke off: it may have been read.
    Lost(BoxError),
}

/// How a request goes to a URL.
pub(crate) enum Way<'a> {
    /// Over kept connections, made to this address; and when the request began.
    Direct(&'a Arc<Direct>, &'a Uri, Instant),
    /// By the pooled client of a protocol.
    Pooled(Protocol),
    /// By the one for WebSockets.
    WebSocket,
}

impl Unanswered {
    /// The fault of the request's own body, if that was it.
    pub fn body_fault(&self) -> Option<BodyFault> {
        let (Unanswered::NotSent(error) | Unanswered::Lost(error)) = self;
        BodyFault::behind(&**error)
    }
}

impl Clients {
    pub fn new(tls: &rustls::ClientConfig, connect: Duration) -> Clients {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(connect));
        let tls = Arc::new(tls.clone());
        let connector = || hyper_rustls::HttpsConnectorBuilder::new().with_tls_config((*tls).clone()).https_or_http();
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(IDLE).pool_max_idle_per_host(MAX_IDLE).pool_timer(TokioTimer::new());
        builder.timer(TokioTimer::new()).http1_max_buf_size(MAX_HEAD);
        let auto = builder.build(connector().enable_all_versions().wrap_connector(http.clone()));
        let http1 = builder.build(connector().enable_http1().wrap_connector(http.clone()));
        let http2 = builder.http2_only(true).build(connector().enable_http2().wrap_connector(http.clone()));
        Clients { auto, http2, http1, plain: http }
    }

    /// Sends a request, and waits for the head of its answer.
    ///
    /// # Errors
    /// There is none.
    pub async fn send(&self, way: Way<'_>, request: Request<Body>) -> Result<Response<Body>, Unanswered> {
        let client = match way {
            Way::Direct(direct, at, now) => return direct.send(&self.plain, at, request, now).await,
            Way::Pooled(protocol) => self.of(protocol),
            Way::WebSocket => &self.http1,
        };
        match client.request(request).await {
            Ok(response) => Ok(response.map(|body| Body::new(body.map_err(Into::into)))),
            Err(error) if error.is_connect() => Err(Unanswered::NotSent(error.into())),
            Err(error) => Err(Unanswered::Lost(error.into())),
        }
    }

    /// The client for a protocol.
    pub fn of(&self, protocol: Protocol) -> &Pooled {
        match protocol {
            Protocol::Auto => &self.auto,
            Protocol::Http2 => &self.http2,
        }
    }
}
