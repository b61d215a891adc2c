//! The CloudEvents 1.0 envelope: what `emit` publishes and `listen` consumes.

use serde::{Deserialize, Serialize};

use crate::value::Value;

/// A CloudEvent as one object: the required attributes are checked when it is made, all others are kept as they came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CloudEvent {
    envelope: Value,
}

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
