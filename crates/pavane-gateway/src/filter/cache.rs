//! Answering from what is kept, where RFC 9111 allows it, and fetching once for many who ask at once.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_cache_semantics::{AfterResponse, BeforeRequest, CachePolicy};

use super::{Filter, Later, Next};
use crate::body;
use crate::cache::{Kept, MAX_ANSWER, MAX_KEY, Store};
use crate::exchange::{Answered, Exchange};
use crate::proxy::WHOLE;
use crate::table::Route;

/// What the cache did (RFC 9211).
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Headers that say how long an answer is fresh, or that it is not for others.
const FRESHNESS: [HeaderName; 2] = [header::CACHE_CONTROL, header::EXPIRES];

/// The cache.
pub(super) struct Cache;

impl Filter for Cache {
    fn applies(&self, route: &Route) -> bool {
        route.cache.is_some()
    }

    fn call(&self, exchange: Box<Exchange>, next: Next) -> Later<'_> {
        Box::pin(async move {
            let store = exchange.state.cache.clone();
            let key = key(&exchange);
            let method = exchange.request.method().clone();
            if key.len() > MAX_KEY {
                return next.run(exchange).await;
            }
            if method == Method::GET
                && !exchange.request.headers().contains_key(header::RANGE)
                && exchange.upgrade.is_none()
            {
                return cached(&store, &key, exchange, next).await;
            }
            let answer = next.run(exchange).await;
            // What was changed is not what is kept (RFC 9111, section 4.4).
            if !method.is_safe() && (answer.status().is_success() || answer.status().is_redirection()) {
                store.forget(&key);
            }
            answer
        })
    }
}

/// The route is part of the key: two routes may lead one path to two services.
fn key(exchange: &Exchange) -> String {
    let path = exchange.request.uri().path_and_query().map_or("/", |p| p.as_str());
    let host = exchange.came.host.to_str().unwrap_or_default().to_ascii_lowercase();
    format!("{} {host} {path}", exchange.found.route.name)
}

async fn cached(store: &Arc<Store>, key: &str, mut exchange: Box<Exchange>, next: Next) -> Answered {
    let asks = Asks::of(&mut exchange);
    let (found, mut revalidate) = look(store, key, &asks.request);
    if let Some(answer) = found {
        return asks.conditional(answer);
    }
    let mut turn = None;
    if !store.passed(key) {
        turn = Some(store.turn(key).await);
        // Somebody may have fetched it while this one waited.
        let (found, again) = look(store, key, &asks.request);
        if let Some(answer) = found {
            return asks.conditional(answer);
        }
        revalidate = again;
        if store.passed(key) {
            // It cannot be kept: nobody need wait for anybody.
            turn = None;
        }
    }
    if let Some((_, headers)) = &revalidate {
        for name in [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE] {
            if let Some(value) = headers.get(&name) {
                exchange.request.headers_mut().insert(name, value.clone());
            }
        }
    }
    let usual = exchange.found.route.cache.unwrap_or_default();
    let answer =
        keep(store, key, next.run(exchange).await, &asks.request, revalidate.map(|(kept, _)| kept), usual).await;
    drop(turn);
    asks.conditional(answer)
}

/// What a request asks the cache for.
struct Asks {
    /// Without conditions of the client's own; those are about the client's cache, not about this one.
    request: Parts,
    none_match: Option<HeaderValue>,
}

impl Asks {
    fn of(exchange: &mut Exchange) -> Asks {
        let headers = exchange.request.headers_mut();
        let none_match = headers.remove(header::IF_NONE_MATCH);
        headers.remove(header::IF_MODIFIED_SINCE);
        let mut request = Request::builder().method(Method::GET).uri(exchange.request.uri().clone());
        if let Some(headers) = request.headers_mut() {
            *headers = exchange.request.headers().clone();
            // What is answered to somebody who is known, by whatever means, is for others only if it says so.
            if exchange.caller.is_some() || headers.contains_key(header::COOKIE) {
                headers.insert(header::AUTHORIZATION, HeaderValue::from_static("known"));
            }
        }
        // A method, a URI and headers that have been parsed before make a request.
        let request = request.body(()).unwrap_or_default().into_parts().0;
        Asks { request, none_match }
    }

    /// 304 when the client has the same already.
    fn conditional(&self, answer: Answered) -> Answered {
        let weak = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        let tag = answer.headers().get(header::ETAG).and_then(|v| v.to_str().ok()).map(weak);
        let asked = self.none_match.as_ref().and_then(|v| v.to_str().ok()).unwrap_or_default();
        let same = answer.status() == StatusCode::OK
            && tag.is_some_and(|tag| asked == "*" || asked.split(',').any(|asked| weak(asked) == tag));
        if !same {
            return answer;
        }
        let (mut parts, _) = answer.into_parts();
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.remove(header::CONTENT_TYPE);
        Response::from_parts(parts, body::empty())
    }
}

type Revalidate = Option<(Arc<Kept>, HeaderMap)>;

/// An answer that is fresh, or one that could be made fresh by asking.
fn look(store: &Store, key: &str, request: &Parts) -> (Option<Answered>, Revalidate) {
    let now = SystemTime::now();
    let mut revalidate = None;
    for kept in store.get(key).iter() {
        match kept.policy.before_request(request, now) {
            BeforeRequest::Fresh(parts) => return (Some(answer(parts, kept, "pavane; hit")), None),
            BeforeRequest::Stale { request, matches: true } if revalidate.is_none() => {
                revalidate = Some((kept.clone(), request.headers));
            }
            BeforeRequest::Stale { .. } => {}
        }
    }
    (None, revalidate)
}

fn answer(parts: http::response::Parts, kept: &Kept, status: &'static str) -> Answered {
    let mut response = Response::from_parts(parts, body::full(kept.body.clone()));
    response.headers_mut().insert(CACHE_STATUS, HeaderValue::from_static(status));
    response
}

/// Keeps an answer that may be kept.
async fn keep(
    store: &Arc<Store>,
    key: &str,
    mut fetched: Answered,
    request: &Parts,
    before: Option<Arc<Kept>>,
    usual: Duration,
) -> Answered {
    let now = SystemTime::now();
    if let (Some(before), StatusCode::NOT_MODIFIED) = (&before, fetched.status()) {
        usually(&mut fetched, usual);
        let (AfterResponse::NotModified(policy, parts) | AfterResponse::Modified(policy, parts)) =
            before.policy.after_response(request, &fetched, now);
        let kept = Kept { policy, body: before.body.clone() };
        let response = answer(parts, &kept, "pavane; fwd=stale; collapsed=?0");
        if response.status() != StatusCode::NOT_MODIFIED {
            store.put(key, kept, Some(before));
            return response;
        }
    }
    fetched.headers_mut().insert(CACHE_STATUS, HeaderValue::from_static("pavane; fwd=miss"));
    let small = fetched.body().size_hint().exact().is_some_and(|bytes| bytes <= MAX_ANSWER);
    let mut policy_view = Response::new(());
    *policy_view.status_mut() = fetched.status();
    *policy_view.headers_mut() = fetched.headers().clone();
    policy_view.headers_mut().remove(CACHE_STATUS);
    usually(&mut policy_view, usual);
    let policy = CachePolicy::new(request, &policy_view);
    // What sets a cookie is for one client. What is stale at once, and cannot be asked about, is of no use.
    let useful = policy.time_to_live(now) > Duration::ZERO || fetched.headers().contains_key(header::ETAG);
    if !small || !policy.is_storable() || !useful || fetched.headers().contains_key(header::SET_COOKIE) {
        store.passes(key);
        return fetched;
    }
    let (parts, incoming) = fetched.into_parts();
    match body::collect(incoming, WHOLE).await {
        Ok(bytes) => {
            store.put(key, Kept { policy, body: bytes.clone() }, before.as_ref());
            Response::from_parts(parts, body::full(bytes))
        }
        Err(error) => {
            tracing::debug!(error, "an answer broke off while it was kept");
            crate::problem::Problem::new(StatusCode::BAD_GATEWAY, "service_unreachable").into_response()
        }
    }
}

/// An answer that says nothing about how long it is fresh is so for as long as the route says.
fn usually<B>(answer: &mut Response<B>, usual: Duration) {
    let silent = FRESHNESS.iter().all(|name| !answer.headers().contains_key(name));
    if silent
        && answer.status() != StatusCode::PARTIAL_CONTENT
        && let Ok(value) = HeaderValue::try_from(format!("max-age={}", usual.as_secs().max(1)))
    {
        answer.headers_mut().insert(header::CACHE_CONTROL, value);
    }
}
