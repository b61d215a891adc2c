//! The headers of a call: Pavane's own, and those that its author gave.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use pavane_core::engine::{Call, Credentials, HttpRequest};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::time::Instant;

use super::Context;
use super::watched::Watched;

/// Tells a service where it may answer later. Whoever has it may do so.
pub(super) const CALLBACK: &str = "pavane-callback";

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const INSTANCE: HeaderName = HeaderName::from_static("pavane-instance");
const TASK: HeaderName = HeaderName::from_static("pavane-task");
const ATTEMPT: HeaderName = HeaderName::from_static("pavane-attempt");
const DEADLINE: HeaderName = HeaderName::from_static("pavane-deadline");
const COMPENSATES: HeaderName = HeaderName::from_static("pavane-compensates");
const ANSWER_AT: HeaderName = HeaderName::from_static(CALLBACK);
const TRACE: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");

/// More headers than most calls have of Pavane's own.
const USUAL: usize = 8;

/// Headers of an author: services take some hundred at most, and a map of headers has an end, too.
const MAX_HEADERS: usize = 1_000;

/// What a header may not hold as it is, apart from what is not ASCII.
const HEADER: &AsciiSet = &CONTROLS.add(b'%');

/// Headers of Pavane's own, each name once. An author's of the same name gives way.
pub(super) type Own = Vec<(HeaderName, HeaderValue)>;

/// Headers of Pavane's own. The trace belongs to the instance, the span to this attempt of this call. What is not
/// answered by `deadline` is not waited for: a service need not begin what it cannot end by then.
pub(super) fn own(context: &Context, call: &Call, watched: &Watched, deadline: Instant) -> Own {
    let mut headers = Vec::with_capacity(USUAL);
    let mut set = |name: HeaderName, value: &str| {
        // Keys and ids are ASCII; a reference may not be, and other bytes in a header mean something else to everybody.
        let value = match value.is_ascii() {
            true => HeaderValue::from_str(value),
            false => HeaderValue::from_str(&utf8_percent_encode(value, HEADER).to_string()),
        };
        headers.extend(value.ok().map(|value| (name, value)));
    };
    set(KEY, &call.key);
    set(INSTANCE, &context.instance);
    set(TASK, &call.reference);
    set(ATTEMPT, &call.attempt.to_string());
    let left = deadline.saturating_duration_since(Instant::now()).as_millis();
    set(DEADLINE, &crate::now().plus_millis(i64::try_from(left).unwrap_or(i64::MAX)).to_string());
    if let Some(forward) = &call.compensates {
        set(COMPENSATES, forward);
    }
    if let Some(url) = &context.callback {
        set(ANSWER_AT, url);
    }
    set(TRACE, &watched.parent().to_string());
    if let Some(state) = context.trace.as_ref().and_then(|trace| trace.state.as_deref()) {
        set(TRACE_STATE, state);
    }
    headers
}

/// Headers the author gave, and the credentials, with room for as many `more`.
pub(super) fn of_author(request: &HttpRequest, more: usize) -> Result<HeaderMap, String> {
    if request.headers.len() > MAX_HEADERS {
        return Err(format!("{} headers are more than the {MAX_HEADERS} that a call may have", request.headers.len()));
    }
    // A body has a type, and the client names the host.
    let mut headers = HeaderMap::with_capacity(request.headers.len() + more + 3);
    for (name, value) in &request.headers {
        let header: HeaderName = name.parse().map_err(|_| format!("`{name}` cannot be the name of a header"))?;
        let value = HeaderValue::from_str(value).map_err(|_| format!("the header `{name}` cannot have this value"))?;
        headers.append(header, value);
    }
    let authorization = match &request.authentication {
        Some(Credentials::Basic { username, password }) => {
            Some(format!("Basic {}", BASE64.encode(format!("{username}:{password}"))))
        }
        Some(Credentials::Bearer { token }) => Some(format!("Bearer {token}")),
        None => None,
    };
    if let Some(authorization) = authorization {
        let value = HeaderValue::from_str(&authorization).map_err(|_| "the credentials cannot be a header")?;
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_so_many_headers_and_no_more() {
        let with = |count: usize| {
            let request = HttpRequest {
                method: "GET".into(),
                uri: "http://a/".into(),
                headers: (0..count).map(|n| (format!("x-{n}"), "v".to_owned())).collect(),
                query: Vec::new(),
                body: None,
                output: pavane_core::definition::CallOutput::Content,
                redirect: false,
                authentication: None,
            };
            of_author(&request, USUAL).map(|headers| headers.len())
        };
        assert_eq!(with(MAX_HEADERS), Ok(MAX_HEADERS));
        let told = with(100_000).unwrap_err();
        assert_eq!(told, "100000 headers are more than the 1000 that a call may have");
    }
}
