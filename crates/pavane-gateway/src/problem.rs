//! Answers that are errors: problem documents (RFC 9457) with a stable `code`.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::body::{self, Body};

/// An answer that is an error. Its body is `{type, title, status, code}`, and `detail` where it helps the caller and
/// tells nobody what is behind the gateway.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    code: Cow<'static, str>,
    body: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of the gateway's own.
    pub fn new(status: StatusCode, code: &'static str) -> Problem {
        let mut body = Map::new();
        body.insert("type".into(), json!(format!("urn:pavane:error:{code}")));
        body.insert("title".into(), json!(status.canonical_reason().unwrap_or("Error")));
        body.insert("status".into(), json!(status.as_u16()));
        body.insert("code".into(), json!(code));
        Problem { status, code: Cow::Borrowed(code), body, headers: Vec::new() }
    }

    /// A problem document as it stands; its `code` is that of the problem.
    pub fn of(status: StatusCode, body: Map<String, Value>) -> Problem {
        let code = body.get("code").and_then(Value::as_str).unwrap_or("error").to_owned();
        Problem { status, code: Cow::Owned(code), body, headers: Vec::new() }
    }

    /// With a sentence for the caller.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Problem {
        self.body.insert("detail".into(), Value::String(detail.into()));
        self
    }

    /// Without the sentence for people: it may tell what is not the caller's business.
    #[must_use]
    pub fn without_detail(mut self) -> Problem {
        self.body.remove("detail");
        self
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Problem {
        if let Ok(value) = value.try_into() {
            self.headers.push((name, value));
        }
        self
    }

    /// With the time after which it is worth to come back, in seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Problem {
        self.header(header::RETRY_AFTER, seconds)
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its code.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Its document.
    pub fn body(&self) -> Value {
        Value::Object(self.body.clone())
    }

    /// The answer.
    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(body::full(Value::Object(self.body).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.headers);
        response
    }
}
