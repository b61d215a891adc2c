//! Spans in the JSON form of OTLP: what `POST /v1/traces` of a collector takes (OpenTelemetry Protocol 1.x, JSON Protobuf
//! Encoding). Ids are hexadecimal there, and 64-bit numbers are texts.

use std::fmt::Display;

use pavane_watch::{Attribute, Kind, Span};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

/// `STATUS_CODE_ERROR`
const ERROR: u32 = 2;

/// A request with spans of one process, which `resource` describes. It is written as it is walked through: spans are many.
pub(super) fn request(resource: &[(&'static str, Attribute)], spans: &[Span]) -> Vec<u8> {
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Request<'a> {
        resource_spans: [ResourceSpans<'a>; 1],
    }
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct ResourceSpans<'a> {
        resource: Resource<'a>,
        scope_spans: [ScopeSpans<'a>; 1],
    }
    #[derive(serde::Serialize)]
    struct Resource<'a> {
        attributes: Attributes<'a>,
    }
    #[derive(serde::Serialize)]
    struct ScopeSpans<'a> {
        scope: Scope,
        spans: Each<'a>,
    }
    #[derive(serde::Serialize)]
    struct Scope {
        name: &'static str,
        version: &'static str,
    }
    let scope = Scope { name: "pavane", version: env!("CARGO_PKG_VERSION") };
    let resource = Resource { attributes: Attributes(resource) };
    let request = Request {
        resource_spans: [ResourceSpans { resource, scope_spans: [ScopeSpans { scope, spans: Each(spans) }] }],
    };
    // Texts and numbers: writing them to memory cannot fail.
    serde_json::to_vec(&request).unwrap_or_default()
}

struct Each<'a>(&'a [Span]);

impl Serialize for Each<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(One))
    }
}

struct One<'a>(&'a Span);

impl Serialize for One<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Status<'a> {
            code: u32,
            message: &'a str,
        }
        let span = self.0;
        let mut to = to.serialize_map(None)?;
        to.serialize_entry("traceId", &Shown(span.trace))?;
        to.serialize_entry("spanId", &Shown(span.id))?;
        if let Some(parent) = span.parent {
            to.serialize_entry("parentSpanId", &Shown(parent))?;
        }
        if let Some(state) = &span.state {
            to.serialize_entry("traceState", &**state)?;
        }
        to.serialize_entry("name", &span.name)?;
        let kind = match span.kind {
            Kind::Internal => 1,
            Kind::Server => 2,
            Kind::Client => 3,
        };
        to.serialize_entry("kind", &kind)?;
        to.serialize_entry("startTimeUnixNano", &Shown(span.start))?;
        to.serialize_entry("endTimeUnixNano", &Shown(span.end.max(span.start)))?;
        to.serialize_entry("attributes", &Attributes(&span.attributes))?;
        if let Some(why) = &span.error {
            to.serialize_entry("status", &Status { code: ERROR, message: why })?;
        }
        to.end()
    }
}

struct Attributes<'a>(&'a [(&'static str, Attribute)]);

impl Serialize for Attributes<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct KeyValue<'a> {
            key: &'static str,
            value: AnyValue<'a>,
        }
        to.collect_seq(self.0.iter().map(|(key, attribute)| KeyValue { key, value: AnyValue(attribute) }))
    }
}

struct AnyValue<'a>(&'a Attribute);

impl Serialize for AnyValue<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut to = to.serialize_map(Some(1))?;
        match self.0 {
            Attribute::Text(text) => to.serialize_entry("stringValue", text)?,
            Attribute::Whole(number) => to.serialize_entry("intValue", &Shown(number))?,
        }
        to.end()
    }
}

/// A text: what something is shown as.
struct Shown<T>(T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

/// How many spans of a request the collector did not take, by its answer.
pub(super) fn rejected(answer: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let count = &answer["partialSuccess"]["rejectedSpans"];
    // A number of 64 bits may be a text.
    count.as_u64().or_else(|| count.as_str()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use pavane_watch::{SpanId, TraceId};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_span_is_written_as_the_protocol_has_it() {
        let one = Span {
            trace: TraceId::of(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736).unwrap(),
            id: SpanId::of(0xf0),
            parent: Some(SpanId::of(1)),
            state: Some("a=b".into()),
            name: "POST".into(),
            kind: Kind::Client,
            start: 1_700_000_000_000_000_001,
            end: 1_700_000_000_000_000_000,
            attributes: vec![("http.response.status_code", 503.into()), ("url.full", "http://h/p".into())],
            error: Some("503".into()),
        };
        let resource = [("service.name", "pavane".into())];
        let request: Value = serde_json::from_slice(&request(&resource, &[one])).unwrap();
        let of = &request["resourceSpans"][0];
        assert_eq!(
            of["resource"]["attributes"],
            json!([{ "key": "service.name", "value": { "stringValue": "pavane" } }])
        );
        assert_eq!(
            of["scopeSpans"][0]["spans"][0],
            json!({
                "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
                "spanId": "00000000000000f0",
                "parentSpanId": "0000000000000001",
                "traceState": "a=b",
                "name": "POST",
                "kind": 3,
                // No span ends before it begins, whatever clocks do.
                "startTimeUnixNano": "1700000000000000001",
                "endTimeUnixNano": "1700000000000000001",
                "attributes": [
                    { "key": "http.response.status_code", "value": { "intValue": "503" } },
                    { "key": "url.full", "value": { "stringValue": "http://h/p" } },
                ],
                "status": { "code": 2, "message": "503" },
            })
        );
    }

    #[test]
    fn what_a_collector_rejects_is_counted() {
        assert_eq!(rejected(b"{}") + rejected(b"") + rejected(b"no json"), 0);
        assert_eq!(rejected(br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"x"}}"#), 3);
        assert_eq!(rejected(br#"{"partialSuccess":{"rejectedSpans":4}}"#), 4);
    }
}
