//! A request in its trace: the gateway's side as a server, and as a client of services, by OpenTelemetry's semantic
//! conventions. Where nobody takes spans, headers pass as they came.

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use pavane_watch::{Attribute, Kind, MAX_STATE, Parent, Span, SpanId, Spans, TraceId, mixed, nanos};
use uuid::Uuid;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The trace of a request.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    spans: Spans,
    /// The gateway's own span, as it is told on.
    own: Parent,
    /// Who asked.
    cause: Option<SpanId>,
    state: Option<Arc<str>>,
    began: SystemTime,
}

/// What is known of a request once it is answered.
pub(crate) struct Facts<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub tls: bool,
    pub client: std::net::IpAddr,
    /// The pattern that its path fits; none when no route took it.
    pub route: Option<&'a str>,
    pub status: u16,
}

impl Watched {
    /// A request that came; nothing when nobody takes spans. A trace that is under way goes on, and whoever began it says
    /// whether it is recorded.
    pub fn begin(spans: &Spans, headers: &HeaderMap) -> Option<Watched> {
        if !spans.are_taken() {
            return None;
        }
        let given = one(headers, &TRACEPARENT).and_then(Parent::parse);
        let span = new_span();
        let own = match given {
            Some(given) => Parent { span, ..given },
            None => {
                let trace = TraceId::of(Uuid::now_v7().as_u128())?;
                Parent { trace, span, sampled: spans.samples(trace) }
            }
        };
        let fits = |state: &&str| !state.is_empty() && state.len() <= MAX_STATE;
        let state = given.and_then(|_| one(headers, &TRACESTATE)).filter(fits).map(Arc::from);
        let cause = given.map(|given| given.span);
        Some(Watched { spans: spans.clone(), own, cause, state, began: SystemTime::now() })
    }

    /// The trace, where it is recorded.
    pub fn trace(&self) -> Option<TraceId> {
        Some(self.own.trace).filter(|_| self.own.sampled)
    }

    /// It was answered.
    pub fn end(self, facts: &Facts<'_>) {
        if !self.own.sampled {
            return;
        }
        let mut attributes: Vec<(&'static str, Attribute)> = vec![
            ("http.request.method", facts.method.as_str().into()),
            ("url.path", facts.uri.path().into()),
            ("url.scheme", if facts.tls { "https" } else { "http" }.into()),
            ("client.address", facts.client.to_string().into()),
            ("http.response.status_code", i64::from(facts.status).into()),
        ];
        attributes.extend(facts.route.map(|route| ("http.route", route.into())));
        // What the client did wrong is no error of the server.
        let error = (facts.status >= 500).then(|| facts.status.to_string());
        attributes.extend(error.as_deref().map(|error| ("error.type", error.into())));
        self.spans.offer(Span {
            trace: self.own.trace,
            id: self.own.span,
            parent: self.cause,
            state: self.state,
            name: match facts.route {
                Some(route) => format!("{} {route}", facts.method),
                None => facts.method.to_string(),
            },
            kind: Kind::Server,
            start: nanos(self.began),
            end: nanos(SystemTime::now()),
            attributes,
            error,
        });
    }

    /// An attempt at a service begins: what it is told.
    pub fn ask(&self, headers: &mut HeaderMap) -> Asked<'_> {
        let span = new_span();
        // Hexadecimal digits and hyphens.
        if let Ok(value) = HeaderValue::try_from(Parent { span, ..self.own }.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
        Asked { of: self, span, began: SystemTime::now() }
    }
}

/// An attempt at a service.
pub(crate) struct Asked<'a> {
    of: &'a Watched,
    span: SpanId,
    began: SystemTime,
}

impl Asked<'_> {
    /// It has ended: with a status, or without an answer for this reason.
    pub fn end(self, method: &Method, uri: &Uri, service: &str, attempt: usize, ended: Result<u16, &'static str>) {
        if !self.of.own.sampled {
            return;
        }
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let mut attributes: Vec<(&'static str, Attribute)> = vec![
            ("http.request.method", method.as_str().into()),
            // A query may hold what is secret.
            ("url.full", format!("{}://{host}:{port}{}", uri.scheme_str().unwrap_or("http"), uri.path()).into()),
            ("server.address", host.into()),
            ("server.port", i64::from(port).into()),
            ("pavane.service", service.into()),
        ];
        if attempt > 0 {
            attributes.push(("http.request.resend_count", i64::try_from(attempt).unwrap_or(i64::MAX).into()));
        }
        let error = match ended {
            Ok(status) => {
                attributes.push(("http.response.status_code", i64::from(status).into()));
                (status >= 400).then(|| status.to_string())
            }
            Err(why) => Some(why.to_owned()),
        };
        attributes.extend(error.as_deref().map(|error| ("error.type", error.into())));
        self.of.spans.offer(Span {
            trace: self.of.own.trace,
            id: self.span,
            parent: Some(self.of.own.span),
            state: self.of.state.clone(),
            name: method.to_string(),
            kind: Kind::Client,
            start: nanos(self.began),
            end: nanos(SystemTime::now()),
            attributes,
            error,
        });
    }
}

/// `traceparent` and `tracestate` of what follows from a request.
pub(crate) fn context(watched: Option<&Watched>, headers: &HeaderMap) -> (Option<String>, Option<String>) {
    let text = |name| one(headers, name).map(str::to_owned);
    match watched {
        Some(watched) => (Some(watched.own.to_string()), watched.state.as_deref().map(str::to_owned)),
        None => (text(&TRACEPARENT), text(&TRACESTATE)),
    }
}

/// The value of a header that stands once.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())?.to_str().ok()
}

fn new_span() -> SpanId {
    let (high, low) = Uuid::now_v7().as_u64_pair();
    SpanId::of(mixed(low, high))
}
