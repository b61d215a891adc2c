//! CloudEvents from outside: binary, structured and batch mode of the HTTP binding.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use pavane_core::Value;
use pavane_core::event::CloudEvent;

use super::Shared;
use super::problem::ApiError;

/// Events in one batch.
const MAX_BATCH: usize = 1_000;

pub(super) async fn publish(
    api: Shared,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let events = read(&headers, &body?).map_err(|why| ApiError::bad_request("invalid_event", why))?;
    let count = events.len();
    api.running.engine.publish(events).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(serde_json::json!({ "accepted": count }))).into_response())
}

fn read(headers: &HeaderMap, body: &[u8]) -> Result<Vec<CloudEvent>, String> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let kind = text("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned();
    if kind == "application/cloudevents-batch+json" {
        let items = json(body)?.as_array().ok_or("a batch is an array of events")?;
        if items.len() > MAX_BATCH {
            return Err(format!("a batch may hold {MAX_BATCH} events, not {}", items.len()));
        }
        return items.into_iter().map(CloudEvent::new).collect();
    }
    if kind == "application/cloudevents+json" || text("ce-id").is_none() {
        return Ok(vec![CloudEvent::new(json(body)?)?]);
    }
    let mut envelope = Value::empty_object();
    for (name, value) in headers {
        if let (Some(attribute), Ok(value)) = (name.as_str().strip_prefix("ce-"), value.to_str()) {
            envelope = envelope.with(attribute, Value::text(value));
        }
    }
    if !kind.is_empty() {
        envelope = envelope.with("datacontenttype", Value::text(&kind));
    }
    if !body.is_empty() {
        let data = if kind.is_empty() || kind == "application/json" || kind.ends_with("+json") {
            json(body)?
        } else {
            Value::text(String::from_utf8_lossy(body))
        };
        envelope = envelope.with("data", data);
    }
    Ok(vec![CloudEvent::new(envelope)?])
}

fn json(body: &[u8]) -> Result<Value, String> {
    Value::parse(body).map_err(|e| format!("the body is no JSON: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_modes_are_read() {
        let event = r#"{"id":"1","source":"s","specversion":"1.0","type":"t","data":{"n":1}}"#;
        let with = |pairs: &[(&'static str, &'static str)]| {
            pairs.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect::<HeaderMap>()
        };
        let structured = read(&with(&[("content-type", "application/cloudevents+json")]), event.as_bytes()).unwrap();
        let batch = read(
            &with(&[("content-type", "application/cloudevents-batch+json")]),
            format!("[{event},{event}]").as_bytes(),
        )
        .unwrap();
        let binary = [
            ("ce-id", "1"),
            ("ce-source", "s"),
            ("ce-specversion", "1.0"),
            ("ce-type", "t"),
            ("content-type", "application/json"),
        ];
        let binary = read(&with(&binary), br#"{"n":1}"#).unwrap();
        assert_eq!((structured.len(), batch.len(), binary.len()), (1, 2, 1));
        assert_eq!(structured[0].data(), binary[0].data());
        assert!(read(&HeaderMap::new(), b"{}").unwrap_err().contains("`id` is missing"));
    }
}
