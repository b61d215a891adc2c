//! CloudEvents from outside. How they are read is in `pavane_core::event`.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use pavane_core::event;

use super::Shared;
use super::problem::ApiError;

pub(super) async fn publish(
    api: Shared,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let texts = headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let texts: Vec<(&str, &str)> = texts.collect();
    let events =
        event::read(texts.iter().copied(), &body?).map_err(|why| ApiError::bad_request("invalid_event", why))?;
    let count = events.len();
    api.running.engine.publish(events).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(serde_json::json!({ "accepted": count }))).into_response())
}
