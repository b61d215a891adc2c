//! From a request to a workflow: its input, the wait for its end, and the routes by which a client comes back.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::body;
use crate::exchange::{Answered, Exchange};
use crate::path::Parameters;
use crate::port::{Outcome, Start};
use crate::problem::Problem;
use crate::proxy::{WHOLE, broken};
use crate::settings::InputKind;
use crate::table::{Role, WorkflowTarget};
use crate::watched::context;

/// The header that names the instance behind an answer.
const INSTANCE: HeaderName = HeaderName::from_static("pavane-instance");
/// The header by which a client asks to be told of the end.
const NOTIFY: HeaderName = HeaderName::from_static("pavane-notify");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Longest idempotency key: a UUID or a hash with some words fits well.
const MAX_KEY: usize = 255;

pub(crate) async fn answer(exchange: Box<Exchange>, target: &WorkflowTarget) -> Result<Answered, Problem> {
    match exchange.found.role {
        Role::Main => start(exchange, target).await,
        Role::Status => status(exchange, target).await,
        Role::Events => events(exchange, target).await,
    }
}

async fn start(exchange: Box<Exchange>, target: &WorkflowTarget) -> Result<Answered, Problem> {
    let Exchange { request, found, state, caller, watched, .. } = *exchange;
    let (parts, body) = request.into_parts();
    readable(&parts.headers)?;
    // Callers cannot meet in a key: nobody can send a line break in one.
    let key = key(&parts.headers)?.map(|key| match &caller {
        Some(caller) => format!("{}\n{key}", caller.name),
        None => key,
    });
    let prefers = Preferences::of(&parts.headers)?;
    let whole = state.settings.timeouts.body.unwrap_or(WHOLE);
    let body = body::collect(body, whole).await.map_err(|error| broken(&*error))?;
    let input = match target.input {
        InputKind::Body if body.iter().all(u8::is_ascii_whitespace) => Bytes::from_static(b"{}"),
        InputKind::Body => body,
        InputKind::Request => request_as_input(&parts, &found.parameters(parts.uri.path()), &body)?,
    };
    let wait = if prefers.asynchronous { None } else { Some(prefers.wait.unwrap_or(target.wait).min(target.wait)) };
    let (traceparent, tracestate) = context(watched.as_ref(), &parts.headers);
    let notify = parts.headers.get(NOTIFY).map(|url| String::from_utf8_lossy(url.as_bytes()).into_owned());
    let start = Start { workflow: target.workflow.clone(), input, key, wait, notify, traceparent, tracestate };
    let outcome = state.port.start(start).await?;
    let mut response = match outcome {
        Outcome::Completed { id, output } => named(json_of(StatusCode::OK, output), &id),
        Outcome::Running { id, status } => {
            let body = json!({ "id": id, "status": status }).to_string();
            let mut response = named(json_of(StatusCode::ACCEPTED, body.into()), &id);
            let location = format!("{}/instances/{id}", parts.uri.path().trim_end_matches('/'));
            if let Ok(location) = HeaderValue::try_from(location) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response
        }
        Outcome::Failed { id, problem, .. } => named(problem.into_response(), &id),
    };
    if prefers.asynchronous {
        response.headers_mut().insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
    } else if prefers.wait.is_some() {
        response.headers_mut().insert(PREFERENCE_APPLIED, HeaderValue::from_static("wait"));
    }
    Ok(response)
}

/// How an instance stands. It is there, so the answer is 200 whatever became of it.
async fn status(exchange: Box<Exchange>, target: &WorkflowTarget) -> Result<Answered, Problem> {
    let parameters = exchange.found.parameters(exchange.request.uri().path());
    let id = instance(&parameters)?;
    let prefers = Preferences::of(exchange.request.headers())?;
    let wait = prefers.wait.map(|wait| wait.min(target.wait));
    let (id, body) = match exchange.state.port.status(&target.workflow, id, wait).await? {
        Outcome::Completed { id, output } => {
            let output: Value = serde_json::from_slice(&output).unwrap_or_default();
            let body = json!({ "id": id, "status": "completed", "output": output });
            (id, body)
        }
        Outcome::Running { id, status } => {
            let body = json!({ "id": id, "status": status });
            (id, body)
        }
        Outcome::Failed { id, status, problem } => {
            let body = json!({ "id": id, "status": status, "error": problem.body() });
            (id, body)
        }
    };
    Ok(named(json_of(StatusCode::OK, body.to_string().into()), &id))
}

async fn events(exchange: Box<Exchange>, target: &WorkflowTarget) -> Result<Answered, Problem> {
    let parameters = exchange.found.parameters(exchange.request.uri().path());
    let id = instance(&parameters)?;
    let after = exchange.request.headers().get("last-event-id").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let body = exchange.state.port.events(&target.workflow, id, after).await?;
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn json_of(status: StatusCode, bytes: Bytes) -> Answered {
    let mut response = Response::new(body::full(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // What one instance came to is nobody else's answer.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn named(mut response: Answered, id: &str) -> Answered {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(INSTANCE, id);
    }
    response
}

fn instance(parameters: &Parameters) -> Result<&str, Problem> {
    let id = parameters.iter().find(|(name, _)| name == "instance").map(|(_, id)| id.as_str());
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "unknown_instance");
    id.filter(|id| uuid::Uuid::parse_str(id).is_ok()).ok_or_else(unknown)
}

/// A workflow's input is JSON, as it stands: what is compressed could be a thousand times what was counted.
pub(crate) fn readable(headers: &HeaderMap) -> Result<(), Problem> {
    let encoded =
        headers.get_all(header::CONTENT_ENCODING).iter().any(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded {
        let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding");
        let problem = problem.detail("the body of a start must not be compressed");
        return Err(problem.header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    }
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind == "application/json" || kind.ends_with("+json") {
        true => Ok(()),
        false => Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type")
            .detail("the input of a workflow is application/json")),
    }
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let wrong = || {
        Problem::new(StatusCode::BAD_REQUEST, "invalid_idempotency_key")
            .detail(format!("one Idempotency-Key of 1 to {MAX_KEY} visible characters is taken"))
    };
    match (keys.next(), keys.next()) {
        (None, _) => Ok(None),
        (Some(key), None) if (1..=MAX_KEY).contains(&key.len()) => {
            key.to_str().map(|key| Some(key.to_owned())).map_err(|_| wrong())
        }
        _ => Err(wrong()),
    }
}

/// `Prefer` (RFC 7240).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Preferences {
    asynchronous: bool,
    wait: Option<Duration>,
}

impl Preferences {
    pub fn of(headers: &HeaderMap) -> Result<Preferences, Problem> {
        let mut preferences = Preferences::default();
        let values = headers.get_all("prefer").iter().filter_map(|v| v.to_str().ok());
        for preference in values.flat_map(|v| v.split([',', ';'])).map(str::trim) {
            if preference.eq_ignore_ascii_case("respond-async") {
                preferences.asynchronous = true;
            } else if let Some(seconds) = preference.strip_prefix("wait=") {
                let seconds: u64 = seconds.trim_matches('"').parse().map_err(|_| {
                    Problem::new(StatusCode::BAD_REQUEST, "invalid_preference")
                        .detail("`Prefer: wait=` needs a number of seconds")
                })?;
                preferences.wait = Some(Duration::from_secs(seconds));
            }
        }
        Ok(preferences)
    }
}

/// The whole request as an input, for workflows that need more of it than its body.
pub(crate) fn request_as_input(
    parts: &http::request::Parts,
    parameters: &Parameters,
    body: &[u8],
) -> Result<Bytes, Problem> {
    let body: Value = match body.iter().all(u8::is_ascii_whitespace) {
        true => Value::Null,
        false => serde_json::from_slice(body).map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, "invalid_json").detail(format!("the body is no JSON: {error}"))
        })?,
    };
    let text = |encoded: &str| percent_decode_str(encoded).decode_utf8_lossy().into_owned();
    let parameters: serde_json::Map<String, Value> =
        parameters.iter().map(|(name, value)| (name.clone(), Value::String(text(value)))).collect();
    let mut query = serde_json::Map::new();
    for pair in parts.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let [name, value] = [name, value].map(|part| text(&part.replace('+', " ")));
        // A name that stands twice has a list, in the order of the query.
        match query.get_mut(&name) {
            None => drop(query.insert(name, Value::String(value))),
            Some(Value::Array(values)) => values.push(Value::String(value)),
            Some(one) => *one = Value::Array(vec![one.take(), Value::String(value)]),
        }
    }
    let input = json!({
        "method": parts.method.as_str(),
        "path": parts.uri.path(),
        "parameters": parameters,
        "query": query,
        "body": body,
    });
    Ok(input.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_are_read_in_any_company() {
        for (prefer, expected) in [
            (vec![], Some((false, None))),
            (vec!["respond-async"], Some((true, None))),
            (vec!["respond-async, wait=5"], Some((true, Some(5)))),
            (vec!["handling=lenient", "wait=\"3\""], Some((false, Some(3)))),
            (vec!["wait=soon"], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in &prefer {
                headers.append("prefer", HeaderValue::from_static(value));
            }
            let read = Preferences::of(&headers).ok().map(|p| (p.asynchronous, p.wait.map(|w| w.as_secs())));
            assert_eq!(read, expected, "{prefer:?}");
        }
    }

    #[test]
    fn a_whole_request_can_be_the_input() {
        let request = http::Request::put("/orders/a%20b?x=1&x=2&y=c+d&z").body(()).unwrap();
        let parameters = vec![("id".to_owned(), "a%20b".to_owned())];
        let input = request_as_input(&request.into_parts().0, &parameters, b" {\"n\": 1} ").unwrap();
        let input: Value = serde_json::from_slice(&input).unwrap();
        assert_eq!(
            input,
            json!({ "method": "PUT", "path": "/orders/a%20b", "parameters": { "id": "a b" },
                    "query": { "x": ["1", "2"], "y": "c d", "z": "" }, "body": { "n": 1 } })
        );
    }
}
