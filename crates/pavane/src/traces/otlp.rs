//! Spans in the JSON form of OTLP: what `POST /v1/traces` of a collector takes (OpenTelemetry Protocol 1.x, JSON Protobuf
//! Encoding). Ids are hexadecimal there, and 64-bit numbers are texts.

use pavane_watch::{Attribute, Kind, Span};
use serde_json::{Value, json};

/// `STATUS_CODE_ERROR`
const ERROR: u32 = 2;

/// A request with spans of one process, which `resource` describes.
pub(super) fn request(resource: &[(&'static str, Attribute)], spans: &[Span]) -> Value {
    let scope = json!({ "name": "pavane", "version": env!("CARGO_PKG_VERSION") });
    let spans: Vec<Value> = spans.iter().map(span).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": attributes(resource) },
        "scopeSpans": [{ "scope": scope, "spans": spans }],
    }] })
}

fn span(span: &Span) -> Value {
    let mut value = json!({
        "traceId": span.trace.to_string(),
        "spanId": span.id.to_string(),
        "name": span.name,
        "kind": match span.kind {
            Kind::Internal => 1,
            Kind::Server => 2,
            Kind::Client => 3,
        },
        "startTimeUnixNano": span.start.to_string(),
        "endTimeUnixNano": span.end.max(span.start).to_string(),
        "attributes": attributes(&span.attributes),
    });
    if let Some(parent) = span.parent {
        value["parentSpanId"] = json!(parent.to_string());
    }
    if let Some(state) = &span.state {
        value["traceState"] = json!(&**state);
    }
    if let Some(why) = &span.error {
        value["status"] = json!({ "code": ERROR, "message": why });
    }
    value
}

fn attributes(attributes: &[(&'static str, Attribute)]) -> Vec<Value> {
    let value = |attribute: &Attribute| match attribute {
        Attribute::Text(text) => json!({ "stringValue": text }),
        Attribute::Whole(number) => json!({ "intValue": number.to_string() }),
    };
    attributes.iter().map(|(key, attribute)| json!({ "key": key, "value": value(attribute) })).collect()
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
        let request = request(&resource, &[one]);
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
