//! What the tests share: a gateway on a free port, services that show what they got, workflows that do as they are told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pavane_gateway::settings::{GatewaySettings, RouteSettings};
use pavane_gateway::{Answer, Body, Fault, Gateway, Located, Outcome, Problem, Setup, Start, WorkflowName, Workflows};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Far longer than anything a test waits for should take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// As much of a configuration as the gateway reads.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    gateway: GatewaySettings,
    #[serde(default)]
    routes: Vec<Located<RouteSettings>>,
    #[serde(default)]
    services: BTreeMap<String, Vec<String>>,
}

pub fn setup(text: &str) -> Setup {
    let File { gateway, routes, services } = serde_saphyr::from_str(text).expect("a configuration");
    Setup { settings: gateway, routes, services }
}

fn tls() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

/// A gateway that listens.
pub struct Served {
    pub gateway: Gateway,
    pub address: SocketAddr,
    pub workflows: Arc<Fake>,
}

pub fn build(text: &str) -> Result<(Gateway, Arc<Fake>), Vec<Fault>> {
    let workflows = Arc::new(Fake::default());
    Ok((Gateway::new(setup(text), workflows.clone(), tls())?, workflows))
}

pub async fn serve(text: &str) -> Served {
    let (gateway, workflows) = build(text).expect("a valid configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(gateway.clone().serve(listener));
    Served { gateway, address, workflows }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn code(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        assert_eq!(self.json()["status"], self.status);
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

impl Served {
    /// Sends a request on a connection of its own.
    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Got {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "gateway.example");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("in time").unwrap();
        got(response).await
    }

    pub async fn get(&self, path: &str) -> Got {
        self.ask("GET", path, &[], "").await
    }

    /// Sends bytes as they stand, and reads until the gateway closes the connection or is quiet for a while.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The gateway may have refused before it has read all.
        let _ = stream.write_all(bytes).await;
        read_all(&mut stream, Duration::from_millis(800)).await
    }
}

pub async fn got(response: Response<Incoming>) -> Got {
    let (head, body) = response.into_parts();
    let bytes = tokio::time::timeout(PATIENCE, body.collect()).await.expect("in time").unwrap().to_bytes();
    Got { status: head.status.as_u16(), headers: head.headers, text: String::from_utf8_lossy(&bytes).into_owned() }
}

/// What comes until the end, or until nothing has come for `quiet`.
pub async fn read_all(stream: &mut TcpStream, quiet: Duration) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(count @ 1..)) = tokio::time::timeout(quiet, stream.read(&mut buffer)).await {
        text.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A service that answers with what it got: `{service, method, path, headers, body}`. `x-answer` sets its status,
/// `x-delay` its delay in milliseconds, and headers that begin with `x-echo-` come back without that.
pub struct Service {
    pub url: String,
    pub hits: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Service {
    pub async fn start(name: &'static str) -> Service {
        Service::at(name, "127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn at(name: &'static str, address: SocketAddr) -> Service {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let hits = Arc::new(AtomicUsize::new(0));
        let counter = hits.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let counter = counter.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| echo(name, request, counter.clone()));
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Service { url, hits, task }
    }

    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    pub fn address(&self) -> SocketAddr {
        self.url.trim_start_matches("http://").parse().unwrap()
    }

    /// Closes it and all its connections.
    pub async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn echo(
    name: &'static str,
    request: Request<Incoming>,
    hits: Arc<AtomicUsize>,
) -> Result<Response<Body>, std::convert::Infallible> {
    hits.fetch_add(1, Ordering::SeqCst);
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok());
    if let Some(delay) = header("x-delay").and_then(|v| v.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let mut headers = serde_json::Map::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        match headers.get_mut(name.as_str()) {
            Some(Value::String(before)) => before.push_str(&format!("|{value}")),
            _ => drop(headers.insert(name.to_string(), Value::String(value))),
        }
    }
    let shown = json!({
        "service": name,
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map(|p| p.as_str()),
        "version": format!("{:?}", head.version),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    let mut response = Response::new(pavane_gateway::full(shown.to_string()));
    if let Some(status) = header("x-answer").and_then(|v| v.parse().ok()) {
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
    }
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    for (name, value) in &head.headers {
        if let Some(name) = name.as_str().strip_prefix("x-echo-") {
            response.headers_mut().append(http::HeaderName::try_from(name).unwrap(), value.clone());
        }
    }
    Ok(response)
}

/// A service of raw bytes: it records all it gets and answers each head that is complete with the same bytes.
pub struct Raw {
    pub url: String,
    got: Arc<Mutex<Vec<u8>>>,
}

impl Raw {
    pub async fn start(answer: &'static [u8]) -> Raw {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let got = Arc::new(Mutex::new(Vec::new()));
        let sink = got.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let sink = sink.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        sink.lock().unwrap().extend_from_slice(&buffer[..count]);
                        let head = buffer[..count].windows(4).any(|w| w == b"\r\n\r\n");
                        if head && stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Raw { url, got }
    }

    /// All bytes that came.
    pub fn got(&self) -> String {
        String::from_utf8_lossy(&self.got.lock().unwrap()).into_owned()
    }
}

/// Workflows without an engine. `wait/*` end when they are told to, `refuse/*` refuse their input, `fail/*` fail, all
/// others complete with their input at once.
#[derive(Default)]
pub struct Fake {
    pub starts: Mutex<Vec<Start>>,
    ended: tokio::sync::watch::Sender<bool>,
}

pub const INSTANCE: &str = "018f0000-0000-7000-8000-000000000001";

impl Fake {
    pub fn end(&self) {
        self.ended.send_replace(true);
    }

    async fn outcome(&self, workflow: &WorkflowName, input: Bytes, wait: Option<Duration>) -> Outcome {
        let id = INSTANCE.to_owned();
        if workflow.namespace == "fail" {
            let body = json!({ "type": "about:blank", "title": "No stock", "status": 409, "code": "instance_faulted" });
            let problem = Problem::of(StatusCode::CONFLICT, body.as_object().unwrap().clone());
            return Outcome::Failed { id, status: "faulted".into(), problem };
        }
        if workflow.namespace == "wait" {
            let mut ended = self.ended.subscribe();
            let end = ended.wait_for(|ended| *ended);
            if tokio::time::timeout(wait.unwrap_or_default(), end).await.is_err() {
                return Outcome::Running { id, status: "running".into() };
            }
        }
        Outcome::Completed { id, output: input }
    }
}

impl Workflows for Fake {
    fn start(&self, start: Start) -> Answer<'_, Outcome> {
        Box::pin(async move {
            self.starts.lock().unwrap().push(start.clone());
            if start.workflow.namespace == "refuse" {
                return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_input").detail("everything is wrong"));
            }
            Ok(self.outcome(&start.workflow, start.input, start.wait).await)
        })
    }

    fn status<'a>(&'a self, workflow: &WorkflowName, id: &str, wait: Option<Duration>) -> Answer<'a, Outcome> {
        let (workflow, id) = (workflow.clone(), id.to_owned());
        Box::pin(async move {
            if id != INSTANCE {
                return Err(Problem::new(StatusCode::NOT_FOUND, "unknown_instance"));
            }
            Ok(self.outcome(&workflow, "{\"n\":1}".into(), wait).await)
        })
    }

    fn events<'a>(&'a self, _: &WorkflowName, id: &str, after: Option<String>) -> Answer<'a, Body> {
        let text = format!("id: 2\nevent: done\ndata: {{\"instance\":\"{id}\",\"after\":{after:?}}}\n\n");
        Box::pin(async move { Ok(pavane_gateway::full(text)) })
    }

    fn input_schema(&self, workflow: &WorkflowName) -> Result<Option<Value>, String> {
        match workflow.namespace.as_str() {
            "absent" => Err(format!("{}/{} is not deployed", workflow.namespace, workflow.name)),
            "shop" => Ok(Some(json!({ "type": "object", "required": ["orderId"] }))),
            _ => Ok(None),
        }
    }
}
