//! A call as it is counted and traced: the client's side of an HTTP exchange, by OpenTelemetry's semantic conventions.

use std::borrow::Cow;
use std::time::{Instant, SystemTime};

use http::Uri;
use pavane_core::engine::{Call, HttpRequest};
use pavane_watch::{Attribute, Kind, Parent, Span, SpanId, nanos};

use super::Context;
use crate::services::Service;
use crate::watch::{Trace, Watch};

/// A call under way.
pub(super) struct Watched {
    trace: Trace,
    instance: String,
    id: SpanId,
    began: Instant,
    at: SystemTime,
}

/// How a call ended.
pub(super) enum Ended<'a> {
    /// With a status, from a URI.
    Answered(u16, &'a Uri),
    /// Without an answer in time.
    Late,
    /// Without an answer.
    Failed,
}

impl Watched {
    /// A call that is sent now. Its span follows from its key and attempt: a service that is called again under one key
    /// can tell the attempts apart.
    pub fn begin(context: &Context, call: &Call) -> Watched {
        let trace = Trace::of(&context.instance, context.trace.as_ref());
        let key = call.key.get(..16).and_then(|start| u64::from_str_radix(start, 16).ok()).unwrap_or_default();
        let id = SpanId::of(key ^ u64::from(call.attempt));
        let (instance, began, at) = (context.instance.clone(), Instant::now(), SystemTime::now());
        Watched { trace, instance, id, began, at }
    }

    /// What the service is told.
    pub fn parent(&self) -> Parent {
        Parent { trace: self.trace.id, span: self.id, sampled: self.trace.sampled }
    }

    /// It has ended.
    pub fn end(self, watch: &Watch, call: &Call, request: &HttpRequest, service: Option<&Service>, ended: Ended<'_>) {
        let took = self.began.elapsed();
        let host = || request.uri.parse().ok().and_then(|uri: Uri| uri.host().map(str::to_owned)).unwrap_or_default();
        let name = service.map_or_else(|| Cow::Owned(host()), |service| Cow::Borrowed(service.name.as_str()));
        let code = match ended {
            Ended::Answered(status @ 100..=599, _) => {
                ["1xx", "2xx", "3xx", "4xx", "5xx"][usize::from(status / 100) - 1]
            }
            Ended::Late => "timeout",
            Ended::Answered(..) | Ended::Failed => "failed",
        };
        watch.services.of(&name).call(code, took.as_secs_f64(), self.trace.exemplar());
        if self.trace.is_recorded(&watch.spans) {
            watch.spans.offer(self.span(took, call, request, &name, &ended));
        }
    }

    fn span(
        self,
        took: std::time::Duration,
        call: &Call,
        request: &HttpRequest,
        service: &str,
        ended: &Ended<'_>,
    ) -> Span {
        let uri = match ended {
            Ended::Answered(_, uri) => Cow::Owned(uri.to_string()),
            Ended::Late | Ended::Failed => Cow::Borrowed(request.uri.as_str()),
        };
        // A query may hold what is secret, and so may what stands before a host.
        let uri = uri.split(['?', '#']).next().unwrap_or_default();
        let parsed: Option<Uri> = uri.parse().ok();
        let mut attributes: Vec<(&'static str, Attribute)> = vec![
            ("http.request.method", request.method.as_str().into()),
            ("pavane.instance.id", self.instance.into()),
            ("pavane.task.reference", (*call.reference).into()),
            ("pavane.service", service.into()),
        ];
        if let Some((parsed, host)) = parsed.as_ref().and_then(|uri| Some((uri, uri.host()?))) {
            let scheme = parsed.scheme_str().unwrap_or("http");
            let port = parsed.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
            let shown = parsed.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
            attributes.push(("url.full", format!("{scheme}://{host}{shown}{}", parsed.path()).into()));
            attributes.push(("server.address", host.into()));
            attributes.push(("server.port", i64::from(port).into()));
        }
        if call.attempt > 1 {
            attributes.push(("http.request.resend_count", i64::from(call.attempt - 1).into()));
        }
        if let Some(forward) = &call.compensates {
            attributes.push(("pavane.compensates", forward.as_str().into()));
        }
        let failure = match ended {
            Ended::Answered(status, _) => {
                attributes.push(("http.response.status_code", i64::from(*status).into()));
                (*status >= 400).then(|| status.to_string())
            }
            Ended::Late => Some("timeout".to_owned()),
            Ended::Failed => Some("no answer".to_owned()),
        };
        if let Some(failure) = &failure {
            attributes.push(("error.type", failure.as_str().into()));
        }
        let start = nanos(self.at);
        Span {
            trace: self.trace.id,
            id: self.id,
            parent: Some(self.trace.task(call.id.0)),
            state: self.trace.state(),
            name: request.method.clone(),
            kind: Kind::Client,
            start,
            end: start.saturating_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)),
            attributes,
            error: failure,
        }
    }
}
