//! A small HTTP client for the command line: JSON in, JSON out, and errors a person can act on.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// How long any request may take beyond what it asks the server to wait.
const TIMEOUT: Duration = Duration::from_secs(330);

/// A client of one server.
#[derive(Clone, Debug)]
pub struct Server {
    base: String,
    /// What it shows to be let in.
    authorization: Option<HeaderValue>,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body; null when empty, a string when it is no JSON.
    pub body: Value,
}

impl Answer {
    /// An answer with the value of its body.
    pub fn read(status: StatusCode, headers: HeaderMap, bytes: &[u8]) -> Answer {
        let body = match serde_json::from_slice(bytes) {
            Ok(body) => body,
            Err(_) if bytes.is_empty() => Value::Null,
            Err(_) => Value::String(String::from_utf8_lossy(bytes).into_owned()),
        };
        Answer { status, headers, body }
    }
}

impl Server {
    /// A client of the server at a base URL.
    pub fn new(base: &str) -> Server {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Server { base: base.trim_end_matches('/').to_owned(), authorization: None, client }
    }

    /// As this one, showing a key, or `NAME:PASSWORD`, to be let in.
    ///
    /// # Errors
    /// What cannot be a header.
    pub fn with_token(self, token: &str) -> Result<Server, String> {
        let shown = match token.contains(':') {
            true => format!("Basic {}", STANDARD.encode(token)),
            false => format!("Bearer {token}"),
        };
        let mut shown = HeaderValue::try_from(shown).map_err(|_| "the token holds what no header can".to_owned())?;
        shown.set_sensitive(true);
        Ok(Server { authorization: Some(shown), ..self })
    }

    /// Sends a request; gives the body as a stream of bytes to read on.
    ///
    /// # Errors
    /// What to do when nobody answers.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<http::Response<hyper::body::Incoming>, String> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(shown) = &self.authorization {
            request = request.header(AUTHORIZATION, shown);
        }
        let request = request.body(Full::new(body)).map_err(|e| format!("{}{path}: {e}", self.base))?;
        match tokio::time::timeout(TIMEOUT, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(format!(
                "no server answers at {}: start one with `pavane serve` or `pavane dev`, or name another with --server (or PAVANE_SERVER)",
                self.base
            )),
            Ok(Err(error)) => Err(format!("{}: {error}", self.base)),
            Err(_) => Err(format!("{} did not answer in time", self.base)),
        }
    }

    /// Sends a request and reads its answer, whatever its status.
    ///
    /// # Errors
    /// As [`Server::send`].
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, String> {
        let (head, body) = self.send(method, path, headers, body).await?.into_parts();
        Ok(Answer::read(head.status, head.headers, &self.collect(body).await?))
    }

    /// As [`Server::ask`], with the body as it came.
    ///
    /// # Errors
    /// As [`Server::send`].
    pub async fn bytes(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        let (head, body) = self.send(method, path, headers, body).await?.into_parts();
        Ok((head.status, self.collect(body).await?))
    }

    async fn collect(&self, body: hyper::body::Incoming) -> Result<Bytes, String> {
        let collected = body.collect().await.map_err(|e| format!("the answer of {} broke off: {e}", self.base))?;
        Ok(collected.to_bytes())
    }

    /// Sends a request that must succeed.
    ///
    /// # Errors
    /// The server's problem, in its words.
    pub async fn get(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Value, String> {
        let answer = self.ask(method, path, headers, body).await?;
        if answer.status.is_success() { Ok(answer.body) } else { Err(problem(&answer)) }
    }
}

/// A problem document as a line for people.
pub fn problem(answer: &Answer) -> String {
    let text = |key: &str| answer.body[key].as_str().unwrap_or_default();
    let detail = if text("detail").is_empty() { text("title") } else { text("detail") };
    let mut line = format!("{} ({}): {detail}", answer.status, text("code"));
    for diagnostic in answer.body["diagnostics"].as_array().into_iter().flatten() {
        let part = |key: &str| diagnostic[key].as_str().unwrap_or_default();
        line.push_str(&format!(
            "\n{}[{}] {}:{}:{}  {}\n  {}",
            part("severity"),
            part("code"),
            part("file"),
            diagnostic["line"],
            diagnostic["column"],
            part("reference"),
            part("message")
        ));
    }
    line
}
