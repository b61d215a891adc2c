//! The gateway as a whole: it listens, gives each request its surroundings and its route, and stops.
//!
//! Start reading at [`Gateway::serve`] and `answer`, the way of one request.

use std::borrow::Cow;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use pavane_watch::Spans;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::access::Entry;
use crate::body::{Body, BodyFault, Guarded, Holding, Whole};
use crate::connection::{self, Secured, Slot, Slots, Speaks};
use crate::exchange::{Answered, Came, Exchange};
use crate::filter::Next;
use crate::filter::cors::is_preflight;
use crate::headers::{self, Client};
use crate::openapi;
use crate::path;
use crate::port::Workflows;
use crate::problem::Problem;
use crate::proxy;
use crate::state::{Ground, Setup, State};
use crate::stats::{RouteStats, Snapshot, UpstreamNumbers};
use crate::table::{Unrouted, host_of};
use crate::tls::ClientCertificate;
use crate::units::Fault;
use crate::watched::{Facts, Watched};

/// How long to wait when the system has no more sockets.
const NO_SOCKET: Duration = Duration::from_millis(50);

/// A gateway; clones are handles of the same one.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

struct Shared {
    state: ArcSwap<State>,
    ground: Ground,
    slots: Arc<Slots>,
    spans: Spans,
    stopping: watch::Sender<bool>,
    unrouted: AtomicU64,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

impl Gateway {
    /// A gateway with a setup, a port to workflows and the TLS with which it speaks to services. It must be made within
    /// a runtime: services are asked for their health from here on.
    ///
    /// # Errors
    /// Every fault of the setup.
    pub fn new(setup: Setup, port: Arc<dyn Workflows>, tls: rustls::ClientConfig) -> Result<Gateway, Vec<Fault>> {
        Gateway::traced(setup, port, tls, Spans::default())
    }

    /// As [`Gateway::new`], with a place for spans.
    ///
    /// # Errors
    /// Every fault of the setup.
    pub fn traced(
        setup: Setup,
        port: Arc<dyn Workflows>,
        tls: rustls::ClientConfig,
        spans: Spans,
    ) -> Result<Gateway, Vec<Fault>> {
        let ground = Ground { port, tls };
        let state = State::build(setup, &ground, None)?;
        let shared = Shared {
            state: ArcSwap::from_pointee(state),
            ground,
            slots: Arc::default(),
            spans,
            stopping: watch::Sender::new(false),
            unrouted: AtomicU64::new(0),
        };
        Ok(Gateway { shared: Arc::new(shared) })
    }

    /// Replaces the setup as a whole. Requests that have begun end under the one they began with.
    ///
    /// # Errors
    /// Every fault of the new setup; the old one stays in force.
    pub fn replace(&self, setup: Setup) -> Result<(), Vec<Fault>> {
        let before = self.shared.state.load_full();
        let state = State::build(setup, &self.shared.ground, Some(&before))?;
        self.shared.state.store(Arc::new(state));
        Ok(())
    }

    /// Accepts connections until [`Gateway::stop`]. In a box, so that what drives a connection is compiled in this crate, and
    /// not in each that serves a gateway.
    pub fn serve(self, listener: TcpListener) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.accept(listener))
    }

    async fn accept(self, listener: TcpListener) {
        let mut stopping = self.shared.stopping.subscribe();
        loop {
            let limit = || self.shared.state.load().settings.limits.connections;
            let accepted = async {
                let (stream, peer) = listener.accept().await?;
                // One more than may be open waits here, others in the system's queue.
                Ok::<_, std::io::Error>((self.shared.slots.take(limit).await, stream, peer))
            };
            tokio::select! {
                accepted = accepted => match accepted {
                    Ok((slot, stream, peer)) => {
                        // Without it a small answer waits for the other side's acknowledgement.
                        let _ = stream.set_nodelay(true);
                        tokio::spawn(self.clone().connection(slot, stream, peer));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection cannot be accepted");
                        tokio::time::sleep(NO_SOCKET).await;
                    }
                },
                () = connection::stopped(&mut stopping) => return,
            }
        }
    }

    /// Takes no more connections, and gives requests that have begun so long to end.
    pub async fn stop(&self, within: Duration) {
        self.shared.stopping.send_replace(true);
        if tokio::time::timeout(within, self.shared.slots.closed()).await.is_err() {
            tracing::warn!(connections = self.shared.slots.open(), "connections of the gateway were cut");
        }
        let access = self.shared.state.load().access.clone();
        if let Some(access) = access {
            access.flush().await;
        }
    }

    /// The routes in force as OpenAPI 3.1.
    pub fn openapi(&self) -> serde_json::Value {
        let state = self.shared.state.load();
        openapi::document(&state.table, &*state.port)
    }

    /// What it has done.
    pub fn numbers(&self) -> Snapshot {
        let state = self.shared.state.load();
        Snapshot {
            connections: self.shared.slots.open(),
            unrouted: self.shared.unrouted.load(Ordering::Relaxed),
            routes: state.table.routes().iter().map(|route| route.stats.numbers(&route.name)).collect(),
            upstreams: state
                .upstreams
                .values()
                .map(|upstream| {
                    let (urls, well) = upstream.standing();
                    let limit = upstream.settings.shed.then(|| upstream.concurrency.standing().0);
                    UpstreamNumbers {
                        service: upstream.name.clone(),
                        urls,
                        well,
                        in_flight: upstream.in_flight(),
                        limit,
                    }
                })
                .collect(),
        }
    }

    async fn connection(self, slot: Slot, stream: TcpStream, peer: SocketAddr) {
        let slot = Arc::new(slot);
        let state = self.shared.state.load_full();
        let mut stopping = self.shared.stopping.subscribe();
        let begin = async {
            match &state.tls {
                None => connection::speaks(&stream, &state.settings).await.map(|speaks| Begun::Plain(stream, speaks)),
                Some(tls) => Ok(Begun::Tls(Box::new(connection::handshake(stream, tls, &state.settings).await?))),
            }
        };
        let begun = tokio::select! {
            begun = begin => begun,
            () = connection::stopped(&mut stopping) => return,
        };
        let (gateway, peer) = (self.clone(), Arc::new(Client::of(peer.ip())));
        let tls = state.tls.is_some();
        let answer = move |certificate: Option<Arc<ClientCertificate>>| {
            move |request| gateway.clone().answer(request, peer.clone(), tls, certificate.clone(), slot.clone())
        };
        match begun {
            Ok(Begun::Plain(stream, speaks)) => {
                connection::serve(stream, speaks, &state.settings, stopping, answer(None)).await;
            }
            Ok(Begun::Tls(secured)) => {
                let Secured { stream, speaks, certificate } = *secured;
                connection::serve(stream, speaks, &state.settings, stopping, answer(certificate)).await;
            }
            Err(error) => tracing::debug!(%error, "a connection did not begin"),
        }
    }

    /// The way of one request.
    async fn answer(
        self,
        request: Request<Incoming>,
        peer: Arc<Client>,
        tls: bool,
        certificate: Option<Arc<ClientCertificate>>,
        slot: Arc<Slot>,
    ) -> Answered {
        let began = Instant::now();
        let state = self.shared.state.load_full();
        let proxies = &state.settings.trusted_proxies;
        let trusted = proxies.iter().any(|block| block.contains(peer.address));
        let id = headers::request_id(request.headers(), trusted);
        let client = match trusted {
            true => Arc::new(Client::of(headers::client(peer.address, request.headers(), proxies))),
            false => peer.clone(),
        };
        let came =
            Came { peer, client: client.clone(), host: HeaderValue::from_static(""), tls, certificate, trusted, slot };
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let watched = Watched::begin(&self.shared.spans, request.headers());
        let access = state.access.clone();
        let (mut answer, route) = match enter(request, state, came, id.clone(), began) {
            Ok(mut exchange) => {
                exchange.watched = watched.clone();
                let route = exchange.found.route.clone();
                let busy = RouteStats::begin(&route.stats);
                let answer = Next::all().run(exchange).await;
                let trace = watched.as_ref().and_then(Watched::trace);
                route.stats.answered(answer.status().as_u16(), began.elapsed(), trace);
                (answer.map(|body| Body::new(Holding::new(body, busy))), Some(route))
            }
            Err(problem) => {
                self.shared.unrouted.fetch_add(1, Ordering::Relaxed);
                (problem.into_response(), None)
            }
        };
        let status = answer.status().as_u16();
        if let Some(watched) = watched {
            let route = route.as_ref().and_then(|route| route.name.split_once(' ')).map(|(_, path)| path);
            watched.end(&Facts { method: &method, uri: &uri, tls, client: client.address, route, status });
        }
        if let Some(access) = access {
            access.enter(&Entry {
                client: &client.text,
                method: method.as_str(),
                path: uri.path(),
                status,
                took: began.elapsed(),
                bytes: answer.body().size_hint().exact(),
                id: id.to_str().unwrap_or_default(),
                route: route.as_ref().map_or("", |route| &route.name),
            });
        }
        tracing::info!(
            target: "pavane_gateway::access",
            client = client.text, %method, path = uri.path(), status, request = ?id,
            "answered"
        );
        answer.headers_mut().insert(headers::REQUEST_ID, id);
        answer
    }
}

/// A connection that has said how it goes on.
enum Begun {
    Plain(TcpStream, Speaks),
    Tls(Box<Secured>),
}

/// Checks a request, brings it into its one form, and finds its route.
fn enter(
    mut request: Request<Incoming>,
    state: Arc<State>,
    mut came: Came,
    id: HeaderValue,
    began: Instant,
) -> Result<Box<Exchange>, Problem> {
    let bad = |code, why: &str| Problem::new(StatusCode::BAD_REQUEST, code).detail(why);
    let limits = &state.settings.limits;
    if headers::size(request.headers()) > limits.header_bytes || request.headers().len() > limits.headers {
        let problem = Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large");
        return Err(close(problem.detail("the headers are larger or more than the gateway takes")));
    }
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
        return Err(problem.header(header::ALLOW, HeaderValue::from_static("")));
    }
    if request.uri().path_and_query().is_some_and(|p| p.as_str().len() > path::MAX_TARGET) {
        return Err(close(Problem::new(StatusCode::URI_TOO_LONG, "uri_too_long")));
    }
    let host = host_of(request.uri(), request.headers()).map_err(|why| bad("bad_host", why))?;
    came.host = shown_host(request.uri(), request.headers());
    let path = path::normalise(request.uri().path()).map_err(|why| bad("bad_path", why))?;
    let found = state.table.find(&host, &asked_method(&request), &path, request.headers());
    let found = found.map_err(|unrouted| match unrouted {
        Unrouted::NotFound => Problem::new(StatusCode::NOT_FOUND, "not_found"),
        Unrouted::Method(allowed) => {
            let allowed: Vec<&str> = allowed.iter().map(Method::as_str).collect();
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
            problem.header(header::ALLOW, allowed.join(", "))
        }
    })?;
    let most = found.route.max_body;
    if request.body().size_hint().lower() > most {
        return Err(proxy::refused(BodyFault::TooLarge));
    }
    let target = match (path, request.uri().path_and_query()) {
        // As it came.
        (Cow::Borrowed(_), Some(target)) => target.clone(),
        (path, target) => {
            let query = target.and_then(PathAndQuery::query).map(|query| format!("?{query}")).unwrap_or_default();
            let target = PathAndQuery::try_from(format!("{path}{query}"));
            target.map_err(|_| bad("bad_path", "the path cannot be read"))?
        }
    };
    let websocket = request.version() == http::Version::HTTP_11 && headers::wants_websocket(request.headers());
    let upgrade = websocket.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    parts.uri = Uri::from(target);
    let idle = state.settings.timeouts.idle.unwrap_or(proxy::IDLE);
    let (whole, body) = match body.is_end_stream() {
        // Most requests: nothing is to be watched, and nothing need be kept for that.
        true => (Whole::AtOnce(began), crate::body::empty()),
        false => {
            let mut body = Guarded::new(Body::new(body.map_err(Into::into)), most, idle, ());
            (body.whole(), Body::new(body))
        }
    };
    Ok(Box::new(Exchange {
        request: Request::from_parts(parts, body),
        whole,
        found,
        state,
        id,
        came,
        upgrade,
        caller: None,
        began,
        watched: None,
    }))
}

/// The method by which a route is found: a preflight is about another one.
fn asked_method(request: &Request<Incoming>) -> Cow<'_, Method> {
    let asked = request
        .headers()
        .get(header::ACCESS_CONTROL_REQUEST_METHOD)
        .filter(|_| is_preflight(request.method(), request.headers()));
    let asked = asked.and_then(|method| Method::from_bytes(method.as_bytes()).ok());
    asked.map_or(Cow::Borrowed(request.method()), Cow::Owned)
}

/// The host as the client wrote it; it has been found to be one.
fn shown_host(uri: &Uri, headers: &HeaderMap) -> HeaderValue {
    let authority = uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    authority.or_else(|| headers.get(header::HOST).cloned()).unwrap_or(HeaderValue::from_static(""))
}

/// What is left of such a request is not read.
fn close(problem: Problem) -> Problem {
    problem.header(header::CONNECTION, HeaderValue::from_static("close"))
}
