//! The CloudEvents 1.0 envelope: what `emit` publishes and `listen` consumes.

use serde::{Deserialize, Serialize};

use crate::value::Value;

/// A CloudEvent as one object: the required attributes are checked when it is made, all others are kept as they came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CloudEvent {
    envelope: Value,
}

/// Events in one batch: each is a commit's worth of work for whoever listens.
const MAX_BATCH: usize = 1_000;

/// The attributes every CloudEvent must carry (CloudEvents 1.0, section "Required attributes").
const REQUIRED: [&str; 4] = ["id", "source", "specversion", "type"];

impl CloudEvent {
    /// Checks an envelope in the JSON event format.
    ///
    /// # Errors
    /// A sentence that names the attribute at fault.
    pub fn new(envelope: Value) -> Result<CloudEvent, String> {
        if !envelope.is_object() {
            return Err("a CloudEvent is a JSON object with id, source, specversion and type".into());
        }
        for name in REQUIRED {
            match envelope.get(name) {
                Some(value) if value.as_str().is_some_and(|s| !s.is_empty()) => {}
                Some(_) => return Err(format!("the CloudEvent attribute `{name}` must be a non-empty string")),
                None => return Err(format!("the CloudEvent attribute `{name}` is missing")),
            }
        }
        if envelope.get("specversion").is_some_and(|v| v.as_str() != Some("1.0")) {
            return Err("only CloudEvents of specversion 1.0 are understood".into());
        }
        Ok(CloudEvent { envelope })
    }

    /// The whole envelope as data.
    pub fn envelope(&self) -> &Value {
        &self.envelope
    }

    /// The attribute `id`; with [`CloudEvent::source`] it tells one event from all others.
    pub fn id(&self) -> String {
        self.attribute("id")
    }

    /// The attribute `source`.
    pub fn source(&self) -> String {
        self.attribute("source")
    }

    /// The attribute `type`.
    pub fn type_(&self) -> String {
        self.attribute("type")
    }

    /// The event's data; null when it has none.
    pub fn data(&self) -> Value {
        self.envelope.get("data").unwrap_or_default()
    }

    fn attribute(&self, name: &str) -> String {
        self.envelope.get(name).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// Reads the events of an HTTP request: structured, a batch, or binary (CloudEvents' HTTP binding 1.0.2). Headers are names
/// in lower case with their values; those that are no text are left out.
///
/// # Errors
/// A sentence that says what is wrong; none of the events is to be taken then.
pub fn read<'h>(
    headers: impl Iterator<Item = (&'h str, &'h str)> + Clone,
    body: &[u8],
) -> Result<Vec<CloudEvent>, String> {
    let text = |name: &str| headers.clone().find(|(n, _)| *n == name).map(|(_, value)| value);
    let kind = text("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim();
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
        if let Some(attribute) = name.strip_prefix("ce-") {
            envelope = envelope.with(attribute, Value::text(value));
        }
    }
    if !kind.is_empty() {
        envelope = envelope.with("datacontenttype", Value::text(kind));
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
        let of = |headers: &[(&'static str, &'static str)], body: &str| read(headers.iter().copied(), body.as_bytes());
        let structured = of(&[("content-type", "application/cloudevents+json")], event).unwrap();
        let batch =
            of(&[("content-type", "application/cloudevents-batch+json")], &format!("[{event},{event}]")).unwrap();
        let binary = [
            ("ce-id", "1"),
            ("ce-source", "s"),
            ("ce-specversion", "1.0"),
            ("ce-type", "t"),
            ("content-type", "application/json"),
        ];
        let binary = of(&binary, r#"{"n":1}"#).unwrap();
        assert_eq!((structured.len(), batch.len(), binary.len()), (1, 2, 1));
        assert_eq!(structured[0].data(), binary[0].data());
        assert!(of(&[], "{}").unwrap_err().contains("`id` is missing"));
    }
}
