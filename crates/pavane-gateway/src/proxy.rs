//! From a request to a service and back: which URL, which headers, when again.
//!
//! A service that workflows call, too, is asked only in turn: each attempt passes its [`Gate`], and keeps its place there
//! until the answer has ended.
//!
//! A request is repeated only when that can do nothing twice: its connection was never made, or its method is idempotent
//! and its body was kept. Repeats have a budget.

use std::sync::Arc;
use std::time::Instant;

use http::header::{self, HeaderMap};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use pavane_core::policy::Verdict;

use crate::auth::Caller;
use crate::body::{Body, BodyFault, Guarded, Whole};
use crate::exchange::{Answered, Came, Exchange};
use crate::filter::authenticate::{CALLER, SCOPES};
use crate::headers::{self, Client};
use crate::path::Pattern;
use crate::port::{Gate, Turn, Turned};
use crate::problem::Problem;
use crate::replay::Replay;
use crate::settings::TimeoutSettings;
use crate::stall::Kept;
use crate::state::State;
use crate::table::ServiceTarget;
use crate::tunnel;
use crate::upstream::client::Unanswered;
use crate::upstream::{Common, Endpoint, InFlight};
use crate::watched::Watched;

/// How a body, or a WebSocket, may stand still when nothing else is set.
pub(crate) const IDLE: std::time::Duration = std::time::Duration::from_secs(60);
/// How long a body that is read whole may take when nothing else is set.
pub(crate) const WHOLE: std::time::Duration = std::time::Duration::from_secs(30);

pub(crate) async fn answer(exchange: Box<Exchange>, target: &ServiceTarget) -> Result<Answered, Problem> {
    let Exchange { request, whole, state, id, came, upgrade, caller, watched, .. } = *exchange;
    let (mut parts, body) = request.into_parts();
    // Not from the head on: a request may have waited for its turn at the cache.
    let began = Instant::now();
    let deadline = began + target.timeout;
    let path = path_for(&parts, target.strip.as_ref())?;
    prepare(&mut parts.headers, &came, upgrade.is_some());
    parts.headers.insert(headers::REQUEST_ID, id);
    if let Some(caller) = caller {
        tell(&mut parts.headers, &caller);
    }
    let idempotent = parts.method.is_idempotent();
    let within = state.settings.timeouts.body.unwrap_or(WHOLE);
    let body = Replay::new(body, idempotent, within).await.map_err(|error| broken(&*error))?;
    let client = came.client.clone();
    let sending = Sending { state, target, parts, path, body, whole, idempotent, began, deadline, client, watched };
    let (response, taken) = sending.send().await?;
    respond(response, taken, upgrade, &came, &sending.state.settings.timeouts)
}

/// Path and query as the service gets them.
pub(crate) fn path_for(parts: &Parts, strip: Option<&Pattern>) -> Result<PathAndQuery, Problem> {
    let path = parts.uri.path();
    let stripped = strip.map(ToString::to_string).and_then(|prefix| {
        let rest = path.strip_prefix(&prefix)?;
        if rest.is_empty() { Some("/") } else { Some(rest).filter(|rest| rest.starts_with('/')) }
    });
    let whole = match (stripped, parts.uri.path_and_query()) {
        (None, Some(whole)) => return Ok(whole.clone()),
        (stripped, _) => {
            let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            PathAndQuery::try_from(format!("{}{query}", stripped.unwrap_or(path)))
        }
    };
    let unreadable = |_| Problem::new(StatusCode::BAD_REQUEST, "bad_path").detail("the path cannot be read");
    whole.map_err(unreadable)
}

/// Headers as the service gets them. Framing, host and version are those of the new hop.
fn prepare(map: &mut HeaderMap, came: &Came, upgrade: bool) {
    headers::end_request_hop(map, came.trusted);
    headers::forward(map, &headers::Came { peer: &came.peer, host: &came.host, tls: came.tls, trusted: came.trusted });
    if upgrade {
        map.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
        map.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    }
}

/// Tells the service who asks.
fn tell(map: &mut HeaderMap, caller: &Caller) {
    for (name, value) in [(CALLER, caller.name.clone()), (SCOPES, caller.scopes.join(" "))] {
        if let Ok(value) = header::HeaderValue::try_from(value) {
            map.insert(name, value);
        }
    }
}

/// A request on its way to a service.
struct Sending<'a> {
    state: Arc<State>,
    target: &'a ServiceTarget,
    parts: Parts,
    path: PathAndQuery,
    body: Replay,
    whole: Whole,
    idempotent: bool,
    began: Instant,
    deadline: Instant,
    client: Arc<Client>,
    watched: Option<Watched>,
}

/// What a request takes at its service until its answer has ended.
type Taken = (InFlight, Option<Box<dyn Turn>>);

/// How one attempt ended.
enum Attempt {
    Answered(Response<Body>),
    /// Nothing was sent.
    NotSent(String),
    /// Something may have happened.
    Lost(String),
    Late,
    /// It was the client's own body.
    Body(BodyFault),
}

impl Sending<'_> {
    async fn send(&self) -> Result<(Response<Body>, Taken), Problem> {
        let upstream = &self.target.upstream;
        let gate = self.state.port.gate(&upstream.name);
        let mut turn = self.turn(gate.as_deref(), false).await.map_err(turned)?;
        let common = Common { client: &self.client.text, path: self.path.as_str(), headers: &self.parts.headers };
        upstream.budget.deposit();
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        loop {
            // The moment of the first attempt need not be asked for.
            let now = if tried.is_empty() { self.began } else { Instant::now() };
            let Some((endpoint, in_flight)) = upstream.pick(&common, &tried, now) else {
                return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_healthy_url").retry_after(1));
            };
            let attempt = self.attempt(&endpoint, tried.len(), now).await;
            if let Some(turn) = &mut turn {
                turn.judge(attempt.verdict());
            }
            let repeat = match &attempt {
                Attempt::Answered(response) => {
                    let fine = !temporary(response.status());
                    endpoint.record(fine);
                    !fine && self.idempotent
                }
                Attempt::NotSent(_) => {
                    endpoint.record(false);
                    true
                }
                Attempt::Lost(_) => {
                    endpoint.record(false);
                    self.idempotent
                }
                Attempt::Late => {
                    endpoint.record(false);
                    false
                }
                Attempt::Body(_) => false,
            };
            let attempts = tried.len();
            tried.push(endpoint);
            if repeat
                && attempts < upstream.settings.retries.attempts as usize
                && self.body.again()
                && upstream.budget.withdraw()
            {
                // Its place is for the next attempt. Without one, what came of this one stands.
                drop(turn.take());
                if let Ok(next) = self.turn(gate.as_deref(), true).await {
                    turn = next;
                    continue;
                }
            }
            return match attempt {
                Attempt::Answered(response) => Ok((response, (in_flight, turn))),
                Attempt::NotSent(why) | Attempt::Lost(why) => {
                    tracing::warn!(service = upstream.name, why, "a service cannot be reached");
                    Err(Problem::new(StatusCode::BAD_GATEWAY, "service_unreachable"))
                }
                Attempt::Late => Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "service_timeout")),
                Attempt::Body(fault) => Err(refused(fault)),
            };
        }
    }

    /// Waits for the turn of an attempt, if the service has a gate.
    async fn turn(&self, gate: Option<&dyn Gate>, retry: bool) -> Result<Option<Box<dyn Turn>>, Turned> {
        let Some(gate) = gate else { return Ok(None) };
        let left = self.deadline.saturating_duration_since(Instant::now());
        let flow = ["client ", &self.client.text].concat();
        gate.enter(&flow, retry, self.target.queue.min(left)).await.map(Some)
    }

    /// Sends it, for the first time or again after so many attempts.
    async fn attempt(&self, endpoint: &Endpoint, before: usize, now: Instant) -> Attempt {
        let mut request = Request::new(self.body.copy());
        *request.method_mut() = self.parts.method.clone();
        *request.headers_mut() = self.parts.headers.clone();
        let websocket = self.parts.headers.contains_key(header::UPGRADE);
        let protocol = self.target.upstream.settings.protocol;
        // A request over a connection of its service has no host in its target, and a span names the whole.
        let asked = self
            .watched
            .as_ref()
            .map(|watched| (watched.ask(request.headers_mut()), endpoint.uri(self.path.as_str()).unwrap_or_default()));
        let way = match endpoint.address(&mut request, &self.path, protocol, websocket, now) {
            Ok(way) => way,
            Err(why) => return Attempt::NotSent(why.to_string()),
        };
        let answer = tokio::time::timeout_at(self.deadline.into(), self.state.clients.send(way, request)).await;
        if let Some((asked, uri)) = asked {
            let ended = match &answer {
                Ok(Ok(response)) => Ok(response.status().as_u16()),
                Ok(Err(_)) => Err("no answer"),
                Err(_) => Err("timeout"),
            };
            asked.end(&self.parts.method, &uri, &self.target.upstream.name, before, ended);
        }
        match answer {
            Ok(Ok(response)) => Attempt::Answered(response),
            Ok(Err(unanswered)) => match (unanswered.body_fault(), unanswered) {
                (Some(fault), _) => Attempt::Body(fault),
                (None, Unanswered::NotSent(error)) => Attempt::NotSent(chain(&*error)),
                (None, Unanswered::Lost(error)) => Attempt::Lost(chain(&*error)),
            },
            // Of a client that is still sending, the service cannot be blamed.
            Err(_) if self.whole.since().is_none() => Attempt::Body(BodyFault::Stalled),
            Err(_) => Attempt::Late,
        }
    }
}

impl Attempt {
    /// What it tells of the service. A refusal of the request is an answer like any other.
    fn verdict(&self) -> Verdict {
        match self {
            Attempt::Answered(response) => match response.status() {
                status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Verdict::Failure,
                _ => Verdict::Success,
            },
            Attempt::NotSent(_) | Attempt::Lost(_) | Attempt::Late => Verdict::Failure,
            Attempt::Body(_) => Verdict::NoNews,
        }
    }
}

/// The problem of a request whose turn did not come.
fn turned(turned: Turned) -> Problem {
    let (code, seconds) = match turned {
        Turned::Open(left) => ("breaker_open", left.as_secs() + u64::from(left.subsec_nanos() > 0)),
        Turned::Busy => ("service_busy", 1),
        Turned::Stopping => ("stopping", 1),
    };
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code).retry_after(seconds)
}

/// Answers that a service gives while it cannot do its work.
fn temporary(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// What the client gets of a service's answer.
fn respond(
    response: Response<Body>,
    taken: Taken,
    upgrade: Option<OnUpgrade>,
    came: &Came,
    timeouts: &TimeoutSettings,
) -> Result<Answered, Problem> {
    let idle = timeouts.idle.unwrap_or(IDLE);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(client), true) = (upgrade, headers::wants_websocket(response.headers())) else {
            return Err(Problem::new(StatusCode::BAD_GATEWAY, "unexpected_upgrade"));
        };
        let mut response = response;
        let service = hyper::upgrade::on(&mut response);
        // A WebSocket is no request any more: its place at the gate is free again.
        tunnel::join(client, service, idle, (taken.0, came.slot.clone()));
        let (mut parts, _) = response.into_parts();
        headers::end_hop(&mut parts.headers);
        parts.headers.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
        parts.version = Version::HTTP_11;
        return Ok(Response::from_parts(parts, crate::body::empty()));
    }
    let (mut parts, body) = response.into_parts();
    headers::end_hop(&mut parts.headers);
    parts.version = Version::HTTP_11;
    let body = match taken {
        (in_flight, None) => Body::new(Guarded::new(body, u64::MAX, idle, in_flight)),
        taken => Body::new(Kept::new(Body::new(Guarded::new(body, u64::MAX, idle, ())), idle, taken)),
    };
    Ok(Response::from_parts(parts, body))
}

/// The problem of a body that could not be read.
pub(crate) fn broken(error: &(dyn std::error::Error + 'static)) -> Problem {
    match BodyFault::behind(error) {
        Some(fault) => refused(fault),
        None => Problem::new(StatusCode::BAD_REQUEST, "unreadable_body").detail("the body broke off"),
    }
}

/// The problem of a body that did what it may not.
pub(crate) fn refused(fault: BodyFault) -> Problem {
    match fault {
        BodyFault::TooLarge => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
        BodyFault::Stalled => Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout"),
        BodyFault::BrokenOff => Problem::new(StatusCode::BAD_REQUEST, "unreadable_body"),
    }
    .detail(fault.to_string())
    // What is left of the body is not read: the connection cannot be used again.
    .header(header::CONNECTION, header::HeaderValue::from_static("close"))
}

/// An error with its reasons.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        text.push_str(": ");
        text.push_str(&reason.to_string());
        source = reason.source();
    }
    text
}
