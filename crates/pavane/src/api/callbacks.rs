//! Callbacks of services: `POST /api/v1/callbacks/{token}` completes or fails a call that was taken with 202, and
//! `/heartbeat` below it says that the work goes on. The token tells who waits, and is all the authority there is.
//!
//! Who waits may be the engine, a participant in this process, or one in a process of its own: then the hub passes on what
//! came, as it came, and that process tells whether the token is genuine.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use pavane_bus::wire::{Callback, CalledBack};
use pavane_core::engine::{Certainty, Outcome};
use pavane_core::problem::Kind;
use pavane_core::{Problem, Value};
use pavane_runtime::callbacks::{Forged, claimed};
use pavane_runtime::effects::Network;
use pavane_runtime::{Engine, Error};
use serde::Deserialize;
use serde_json::json;

use super::problem::ApiError;
use super::{Path, Shared};
use crate::config::Config;
use crate::server::Elsewhere;

/// The longest URL that is told of an end: what is usual, and kept with each instance.
const MAX_URL: usize = 2_000;

/// What a service says of its work: one of both.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    #[serde(default, deserialize_with = "given")]
    output: Option<serde_json::Value>,
    #[serde(default)]
    error: Option<Failed>,
}

/// An error as RFC 9457 describes it. Its instance is the task: a service does not know it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Failed {
    #[serde(default, rename = "type")]
    type_: Option<String>,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    status: Option<i64>,
    #[serde(default)]
    detail: Option<String>,
}

/// `null` is an output, too.
fn given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<serde_json::Value>, D::Error> {
    serde_json::Value::deserialize(from).map(Some)
}

pub(super) async fn answer(
    api: Shared,
    Path(token): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let body = String::from_utf8_lossy(&body?).into_owned();
    take(&api, Callback { token, beat: false, body }).await
}

pub(super) async fn heartbeat(api: Shared, Path(token): Path<String>) -> Result<Json<serde_json::Value>, ApiError> {
    take(&api, Callback { token, beat: true, body: String::new() }).await
}

async fn take(api: &Shared, callback: Callback) -> Result<Json<serde_json::Value>, ApiError> {
    let running = &api.running;
    let location = claimed(&callback.token).ok_or_else(|| forged(Forged))?.location;
    match &running.elsewhere {
        Elsewhere::Hub(hub) if hub.remote().contains(&location) => {
            let told = hub.call_back(&location, callback).await.map_err(Error::Away)?;
            if told.status != StatusCode::OK.as_u16() {
                let status = StatusCode::from_u16(told.status).unwrap_or(StatusCode::BAD_GATEWAY);
                return Err(ApiError::new(status, &told.code, told.detail));
            }
        }
        _ => match running.engines().into_iter().find(|engine| engine.location() == location) {
            Some(engine) => hand(&engine, &callback).await?,
            // Nobody could tell whether it is genuine; whoever waited is gone.
            None => return Err(Error::Late.into()),
        },
    }
    Ok(Json(json!({ "taken": true })))
}

/// The URL that a client gives to be told of the end of the instance that it starts. Only hosts that the operator knows are
/// called: clients must not choose what this process reaches.
pub(crate) fn notify(config: &Config, network: &Network, url: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(url) = url else { return Ok(None) };
    let parsed: Option<http::Uri> = url.parse().ok().filter(|_| url.len() <= MAX_URL);
    let web = |uri: &http::Uri| matches!(uri.scheme_str(), Some("http" | "https"));
    let host = parsed.as_ref().filter(|uri| web(uri)).and_then(http::Uri::host);
    let Some(host) = host else {
        let detail = format!("the header Pavane-Notify must be one http or https URL of at most {MAX_URL} characters");
        return Err(ApiError::bad_request("invalid_notify", detail));
    };
    if network.traffic_of(host).is_none() && !config.callbacks.notify.iter().any(|known| known == host) {
        let detail = format!(
            "`{host}` is neither a service nor one of `callbacks.notify`: whoever operates this server decides whom it calls"
        );
        return Err(ApiError::new(StatusCode::FORBIDDEN, "notify_not_allowed", detail));
    }
    Ok(Some(url))
}

/// What came of a callback that the hub passed on.
pub(crate) async fn passed_on(engine: &Engine, callback: &Callback) -> CalledBack {
    match hand(engine, callback).await {
        Ok(()) => CalledBack { status: StatusCode::OK.as_u16(), code: String::new(), detail: String::new() },
        Err(error) => error.into(),
    }
}

/// Gives a callback to the engine that it says it is for.
async fn hand(engine: &Engine, callback: &Callback) -> Result<(), ApiError> {
    // Calls are made after it is known.
    let callbacks = engine.callbacks().ok_or(Error::Stopping)?;
    let claim = callbacks.read(&callback.token).map_err(forged)?;
    let taken = match callback.beat {
        true => engine.heartbeat(&claim).await,
        false => engine.call_back(&claim, read(&callback.body)?).await,
    };
    taken.map_err(|error| match error {
        // It was in the journal when the call was made: its store is another one now.
        Error::UnknownInstance(_) => Error::Late.into(),
        error => error.into(),
    })
}

fn forged(_: Forged) -> ApiError {
    let detail = "this token was not made here, or with another secret: call back at the URL that came in the header \
                  `Pavane-Callback`, as it came";
    ApiError::new(StatusCode::FORBIDDEN, "callback_forged", detail)
}

/// The outcome that a body tells.
fn read(body: &str) -> Result<Outcome, ApiError> {
    let bad = |why: String| {
        let form = "send `{\"output\": …}`, or `{\"error\": {\"status\": 422, \"title\": …, \"detail\": …}}`";
        ApiError::bad_request("invalid_callback", format!("{why}: {form}"))
    };
    let said: Said = serde_json::from_str(body).map_err(|error| bad(format!("the body cannot be read ({error})")))?;
    match (said.output, said.error) {
        (Some(output), None) => Ok(Outcome::Success(Value::from(&output))),
        (None, Some(failed)) => {
            let kind = Kind::Communication.problem("the service failed the task");
            let status = failed.status.unwrap_or(kind.status);
            if !(400..600).contains(&status) {
                return Err(bad(format!("the status of an error is from 400 to 599, not {status}")));
            }
            // A title says enough.
            let default = kind.detail.filter(|_| failed.title.is_none());
            let (type_, title) = (failed.type_.unwrap_or(kind.type_), failed.title.unwrap_or(kind.title));
            let problem = Problem { type_, title, status, detail: failed.detail.or(default), instance: kind.instance };
            // The service says what became of it: a repeat is a new attempt.
            Ok(Outcome::Failure { problem, certainty: Certainty::Definite })
        }
        _ => Err(bad("a callback gives an `output` or an `error`".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_an_output_or_an_error() {
        for (body, output) in [(r#"{"output":{"a":1}}"#, r#"{"a":1}"#), (r#"{"output":null}"#, "null")] {
            let Ok(Outcome::Success(value)) = read(body) else { panic!("{body}") };
            assert_eq!(value.to_json(), output);
        }
        let failed = r#"{"error":{"type":"https://example.com/no","title":"No","status":422,"detail":"never"}}"#;
        for (body, expected) in [
            (failed, ("https://example.com/no", "No", 422, "never")),
            (
                r#"{"error":{}}"#,
                (
                    "https://serverlessworkflow.io/spec/1.0.0/errors/communication",
                    "Communication Error",
                    500,
                    "the service failed the task",
                ),
            ),
        ] {
            let Ok(Outcome::Failure { problem, certainty: Certainty::Definite }) = read(body) else { panic!("{body}") };
            let detail = problem.detail.unwrap_or_default();
            assert_eq!((&*problem.type_, &*problem.title, problem.status, &*detail), expected);
        }
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"output":1,"error":{}}"#,
            r#"{"outptu":1}"#,
            r#"{"error":{"status":200}}"#,
            r#"{"error":{"status":"high"}}"#,
            r#"{"error":"no"}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
