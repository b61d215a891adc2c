//! Cross-origin requests of browsers (the Fetch standard): preflights are answered here, before a secret is asked for, for
//! they carry none.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};

use super::{Filter, Later, Next};
use crate::body;
use crate::exchange::{Answered, Exchange};
use crate::settings::CorsSettings;
use crate::table::Route;

/// Cross-origin requests.
pub(super) struct Cors;

impl Filter for Cors {
    fn applies(&self, route: &Route) -> bool {
        route.cors.is_some()
    }

    fn call(&self, exchange: Box<Exchange>, next: Next) -> Later<'_> {
        Box::pin(async move {
            let route = exchange.found.route.clone();
            let Some(settings) = &route.cors else { return next.run(exchange).await };
            let headers = exchange.request.headers();
            let origin = headers.get(header::ORIGIN).cloned();
            let allowed = origin.as_ref().and_then(|origin| allowed(settings, origin));
            if is_preflight(exchange.request.method(), headers) {
                return preflight(settings, allowed, &exchange);
            }
            let mut answer = next.run(exchange).await;
            // The service's own words about it would be a second answer to one question.
            let about: Vec<_> =
                answer.headers().keys().filter(|n| n.as_str().starts_with("access-control-")).cloned().collect();
            about.iter().for_each(|name| drop(answer.headers_mut().remove(name)));
            mark(settings, allowed, answer.headers_mut());
            if let Some(expose) = list(&settings.expose) {
                answer.headers_mut().insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose);
            }
            answer
        })
    }
}

/// Whether a request asks what another one may do.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight(settings: &CorsSettings, allowed: Option<HeaderValue>, exchange: &Exchange) -> Answered {
    let mut answer = Answered::new(body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    let asked = exchange.request.headers();
    let method = asked.get(header::ACCESS_CONTROL_REQUEST_METHOD).cloned();
    let wanted = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let wanted = wanted.split(',').map(str::trim).filter(|name| !name.is_empty());
    let fits = wanted.clone().all(|name| settings.headers.iter().any(|h| h == "*" || h.eq_ignore_ascii_case(name)));
    let known = allowed.is_some();
    mark(settings, allowed, headers);
    headers.append(
        header::VARY,
        HeaderValue::from_static("access-control-request-method, access-control-request-headers"),
    );
    if known && fits {
        // The route was found by this method: it takes it.
        method.map(|method| headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, method));
        if let Some(names) = list(&wanted.map(str::to_owned).collect::<Vec<_>>()) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
        let seconds = settings.max_age.map_or(5, |age| age.as_secs());
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(seconds));
    }
    answer
}

/// What the browser is told about an origin: `*` when every origin may, itself when it is listed.
fn allowed(settings: &CorsSettings, origin: &HeaderValue) -> Option<HeaderValue> {
    if settings.origins.iter().any(|o| o == "*") {
        return Some(HeaderValue::from_static("*"));
    }
    settings.origins.iter().any(|o| o.as_bytes().eq_ignore_ascii_case(origin.as_bytes())).then(|| origin.clone())
}

fn mark(settings: &CorsSettings, allowed: Option<HeaderValue>, headers: &mut HeaderMap) {
    let every = allowed.as_ref().is_some_and(|allowed| allowed == "*");
    if !every {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    if let Some(allowed) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if settings.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

fn list(names: &[String]) -> Option<HeaderValue> {
    if names.is_empty() { None } else { HeaderValue::try_from(names.join(", ")).ok() }
}
