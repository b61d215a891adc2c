//! The pooled HTTP clients below all routes.

use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::body::Body;
use crate::settings::Protocol;

/// How long a connection may be idle before it is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Idle connections kept to one URL: more are open while they are needed.
const MAX_IDLE: usize = 128;

/// Bytes of an answer's head: a service that sends more is broken.
const MAX_HEAD: usize = 64 << 10;

type Pooled = Client<HttpsConnector<HttpConnector>, Body>;

/// One client for each way to speak HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    auto: Pooled,
    http2: Pooled,
    /// For WebSockets: over TLS, a service must not choose HTTP/2.
    http1: Pooled,
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
        let http2 = builder.http2_only(true).build(connector().enable_http2().wrap_connector(http));
        Clients { auto, http2, http1 }
    }

    /// The client for WebSockets.
    pub fn websocket(&self) -> &Pooled {
        &self.http1
    }

    /// The client for a protocol.
    pub fn of(&self, protocol: Protocol) -> &Pooled {
        match protocol {
            Protocol::Auto => &self.auto,
            Protocol::Http2 => &self.http2,
        }
    }
}
