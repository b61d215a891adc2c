//! The requests that are sent through both doors, and what of their answers must be the same.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Response;
use serde_json::Value;

/// A request: method, target, headers, body.
pub type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

const JSON: (&str, &str) = ("content-type", "application/json");
const KEY: (&str, &str) = ("x-api-key", "key");

/// In this order: some depend on those before them.
pub const CASES: [Case; 60] = [
    // Routing.
    ("GET", "/echo", &[], ""),
    ("HEAD", "/cookies", &[], ""),
    ("POST", "/echo", &[JSON], "{\"a\":1}"),
    ("PUT", "/echo", &[("content-type", "text/plain")], "put"),
    ("PATCH", "/echo", &[], "patch"),
    ("DELETE", "/echo", &[], ""),
    ("OPTIONS", "/echo", &[], ""),
    ("GET", "/echo?a=1&b=%20&c=a+b&d&%C3%A9=%e9", &[], ""),
    ("GET", "/inner/items/7;x=1/a%20b?q", &[], ""),
    ("GET", "/inner/%61/%c3%a9", &[], ""),
    ("GET", "/items/17", &[], ""),
    ("GET", "/items/17/more", &[], ""),
    ("POST", "/items/17", &[], "{}"),
    ("GET", "/nowhere", &[], ""),
    ("GET", "/host", &[("host", "one.example")], ""),
    ("GET", "/host", &[("host", "a.two.example:8080")], ""),
    ("GET", "/host", &[("host", "three.example")], ""),
    ("GET", "/by-header", &[("x-version", "2")], ""),
    ("GET", "/by-header", &[], ""),
    // Paths that services read in different ways. nginx hands on the target as it came.
    ("GET", "/echo/../secret", &[], ""),
    ("GET", "/echo//secret", &[], ""),
    ("GET", "/echo/%2e%2e/secret", &[], ""),
    ("GET", "/echo%2fsecret", &[], ""),
    // Limits.
    ("POST", "/small", &[], "0123456789012345678901234567890123456789"),
    ("POST", "/small", &[], "0123456789"),
    ("GET", "/echo", &[("x-large", LARGE)], ""),
    ("GET", LONG, &[], ""),
    // Headers.
    ("GET", "/echo", &[("x-mine", "a"), ("x-mine", "b"), ("cookie", "a=1; b=2"), ("authorization", "Bearer t")], ""),
    ("GET", "/echo", &[("pavane-caller", "root"), ("pavane_caller", "root"), ("x_under", "1")], ""),
    ("GET", "/echo", &[("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6"), ("x-real-ip", "6.6.6.6")], ""),
    ("GET", "/echo", &[("x-forwarded-proto", "https"), ("x-forwarded-host", "evil"), ("x-forwarded-port", "1")], ""),
    ("GET", "/echo", &[("x-request-id", "mine"), ("range", "bytes=0-3"), ("if-none-match", "\"x\"")], ""),
    ("GET", "/cookies", &[], ""),
    ("GET", "/echo", &[("origin", "https://shop.example")], ""),
    (
        "OPTIONS",
        "/cors",
        &[
            ("origin", "https://shop.example"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-total"),
        ],
        "",
    ),
    ("GET", "/cors", &[("origin", "https://shop.example")], ""),
    ("GET", "/cors", &[("origin", "https://other.example")], ""),
    // Cache and compression.
    ("GET", "/kept", &[], ""),
    ("GET", "/kept", &[], ""),
    ("GET", "/kept", &[("if-none-match", "\"one\"")], ""),
    ("HEAD", "/kept", &[], ""),
    ("DELETE", "/kept", &[], ""),
    ("GET", "/kept", &[], ""),
    ("GET", "/large", &[], ""),
    ("GET", "/chunks", &[], ""),
    ("GET", "/packed/chunks", &[("accept-encoding", "gzip")], ""),
    // Who may ask, and how often.
    ("GET", "/guarded", &[], ""),
    ("GET", "/guarded", &[("x-api-key", "wrong")], ""),
    ("GET", "/guarded", &[KEY], ""),
    ("GET", "/scoped", &[KEY], ""),
    ("GET", "/rated", &[], ""),
    ("GET", "/rated", &[], ""),
    // Errors of services, and of the gateway.
    ("GET", "/status/302", &[], ""),
    ("GET", "/status/503", &[], ""),
    ("GET", "/late", &[], ""),
    ("GET", "/away", &[], ""),
    // Workflows.
    ("POST", "/orders", &[JSON, ("idempotency-key", "order-1")], "{\"n\":1}"),
    ("POST", "/orders", &[JSON, ("idempotency-key", "order-1")], "{\"n\":1}"),
    ("POST", "/orders", &[JSON], "{\"n\":\"x\"}"),
    ("POST", "/failing", &[JSON], "{}"),
];

/// A header beyond `limits.header_bytes`.
const LARGE: &str = {
    const BYTES: [u8; 17 << 10] = [b'a'; 17 << 10];
    match std::str::from_utf8(&BYTES) {
        Ok(text) => text,
        Err(_) => "",
    }
};

/// A target beyond 8 KiB.
const LONG: &str = {
    const BYTES: [u8; 9 << 10] = [b'/'; 9 << 10];
    match std::str::from_utf8(&BYTES) {
        Ok(text) => text,
        Err(_) => "",
    }
};

/// Headers of answers that each door has of its own: about the moment, the connection, the program.
const OWN: [&str; 6] = ["date", "server", "connection", "keep-alive", "transfer-encoding", "x-request-id"];

/// Headers of answers whose value is another one each time; that they are there is compared.
const CHANGING: [&str; 4] = ["pavane-instance", "ratelimit-reset", "retry-after", "age"];

/// Headers of requests that tell the service the way they came, or where it is itself.
const WAY: [&str; 4] = ["host:", "forwarded:", "x-forwarded-for:", "x-request-id:"];

/// What must be the same of an answer.
#[derive(Debug, PartialEq)]
pub struct Seen {
    pub status: u16,
    pub headers: BTreeMap<String, Vec<String>>,
    pub body: String,
}

impl Seen {
    pub fn of(answer: &Response<Bytes>) -> Seen {
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in answer.headers().iter().filter(|(name, _)| !OWN.contains(&name.as_str())) {
            let value = match CHANGING.contains(&name.as_str()) {
                true => "(changes)".to_owned(),
                false => anonymous(&String::from_utf8_lossy(value.as_bytes())),
            };
            headers.entry(name.as_str().to_owned()).or_default().push(value);
        }
        let body = answer.body();
        let body = match serde_json::from_slice::<Value>(body) {
            Ok(mut told) => {
                // What the service was told about the way is looked at by tests of its own.
                if let Some(headers) = told.get_mut("headers").and_then(Value::as_array_mut) {
                    headers.retain(|line| !WAY.iter().any(|own| line.as_str().is_some_and(|l| l.starts_with(own))));
                    headers.sort_by_key(ToString::to_string);
                }
                anonymous(&told.to_string())
            }
            Err(_) => String::from_utf8_lossy(body).into_owned(),
        };
        // The length of what tells of the way, or of an id, differs with them.
        if body.contains("\"headers\":[")
            || answer.headers().get("content-type").is_some_and(|t| t == "application/problem+json")
        {
            headers.remove("content-length");
        }
        Seen { status: answer.status().as_u16(), headers, body }
    }
}

/// A text whose ids are all alike.
fn anonymous(text: &str) -> String {
    let id = |part: &str| {
        part.len() == 36
            && part.bytes().enumerate().all(|(at, b)| match at {
                8 | 13 | 18 | 23 => b == b'-',
                _ => b.is_ascii_hexdigit(),
            })
    };
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    while let Some(first) = rest.chars().next() {
        match rest.get(..36).filter(|part| id(part)) {
            Some(_) => {
                out.push_str("ID");
                rest = rest.get(36..).unwrap_or_default();
            }
            None => {
                out.push(first);
                rest = rest.get(first.len_utf8()..).unwrap_or_default();
            }
        }
    }
    out
}
