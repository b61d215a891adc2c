//! A local server that shows what it received and answers exactly what the test wants, byte for byte.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pavane_core::engine::{Call, CallId, Certainty, HttpRequest, Outcome, Request};
use pavane_core::{Timestamp, Value};
use pavane_runtime::effects::{Context, Effects, Network, NetworkOptions, Performed};
use pavane_runtime::services::{ServiceSettings, Services};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// Which connection it came by, from 1.
    pub connection: usize,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let first = found.next();
        assert_eq!(found.next(), None, "the header {name} came twice");
        first
    }
}

/// What a server does with a request.
pub enum Reply {
    /// These bytes; the connection stays.
    Bytes(Vec<u8>),
    /// These bytes (perhaps none), and the connection is closed.
    Cut(Vec<u8>),
    /// These bytes when the server's gate is opened.
    Gated(Vec<u8>),
    /// These bytes; a little later the others, and the connection is closed.
    Left(Vec<u8>, Vec<u8>),
    /// These bytes, and then nothing for ever.
    Stalled(Vec<u8>),
}

type Script = dyn Fn(&Received) -> Reply + Send + Sync;

/// A server; it ends with the test's runtime.
pub struct Server {
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    pub came: Arc<Notify>,
    pub gate: Arc<Notify>,
    pub at_once: Arc<(AtomicUsize, AtomicUsize)>,
}

/// An answer with a body of a type.
pub fn answer(status: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut out = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| out.push_str(&format!("{name}: {value}\r\n")));
    out.push_str("\r\n");
    let mut out = out.into_bytes();
    out.extend_from_slice(body);
    out
}

pub fn json(body: &str) -> Reply {
    Reply::Bytes(answer("200 OK", &[("content-type", "application/json")], body))
}

/// An address that refuses connections for as long as the socket is kept: bound, so that no other test gets its port,
/// and never listened on.
pub fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

impl Server {
    pub async fn start(script: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Server {
        Server::start_with(None, script).await
    }

    pub async fn start_with(
        tls: Option<tokio_rustls::TlsAcceptor>,
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server {
            address: listener.local_addr().unwrap(),
            received: Arc::default(),
            came: Arc::default(),
            gate: Arc::default(),
            at_once: Arc::default(),
        };
        let shared = Shared {
            script: Arc::new(script),
            received: server.received.clone(),
            came: server.came.clone(),
            gate: server.gate.clone(),
            at_once: server.at_once.clone(),
        };
        tokio::spawn(async move {
            for connection in 1.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (shared, tls) = (shared.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                shared.serve(stream, connection).await;
                            }
                        }
                        None => shared.serve(stream, connection).await,
                    }
                });
            }
        });
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    pub fn last(&self) -> Received {
        self.received().pop().unwrap()
    }
}

#[derive(Clone)]
struct Shared {
    script: Arc<Script>,
    received: Arc<Mutex<Vec<Received>>>,
    came: Arc<Notify>,
    gate: Arc<Notify>,
    at_once: Arc<(AtomicUsize, AtomicUsize)>,
}

impl Shared {
    async fn serve(self, mut stream: impl AsyncRead + AsyncWrite + Unpin, connection: usize) {
        while let Some(mut request) = read(&mut stream).await {
            request.connection = connection;
            let now = self.at_once.0.fetch_add(1, Ordering::SeqCst) + 1;
            self.at_once.1.fetch_max(now, Ordering::SeqCst);
            let reply = (self.script)(&request);
            self.received.lock().unwrap().push(request);
            self.came.notify_one();
            let (bytes, stays) = match reply {
                Reply::Bytes(bytes) => (bytes, true),
                Reply::Cut(bytes) => (bytes, false),
                Reply::Gated(bytes) => {
                    self.gate.notified().await;
                    (bytes, true)
                }
                Reply::Left(bytes, more) => {
                    let _ = stream.write_all(&bytes).await;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    (more, false)
                }
                Reply::Stalled(bytes) => {
                    let _ = stream.write_all(&bytes).await;
                    std::future::pending().await
                }
            };
            self.at_once.0.fetch_sub(1, Ordering::SeqCst);
            if stream.write_all(&bytes).await.is_err() || !stays {
                // Some streams need an end of their own before they close.
                let _ = stream.shutdown().await;
                return;
            }
        }
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Received> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let mut request = Received { method: first.next()?.into(), target: first.next()?.into(), ..Received::default() };
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap();
        request.headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    request.body = String::from_utf8(body).unwrap();
    Some(request)
}

/// A GET of a URI.
pub fn get(uri: impl Into<String>) -> HttpRequest {
    HttpRequest {
        method: "GET".into(),
        uri: uri.into(),
        headers: Vec::new(),
        query: Vec::new(),
        body: None,
        output: Default::default(),
        redirect: false,
        authentication: None,
    }
}

pub fn post(uri: impl Into<String>, body: &str) -> HttpRequest {
    HttpRequest { method: "POST".into(), body: Some(value(body)), ..get(uri) }
}

pub fn value(json: &str) -> Value {
    Value::parse(json.as_bytes()).unwrap()
}

pub fn network(services: &[(&str, ServiceSettings)]) -> Network {
    network_with(services, NetworkOptions::default())
}

pub fn network_with(services: &[(&str, ServiceSettings)], options: NetworkOptions) -> Network {
    let services: BTreeMap<_, _> = services.iter().map(|(name, s)| ((*name).to_owned(), s.clone())).collect();
    Network::new(NetworkOptions { services: Services::new(services).unwrap(), ..options }).unwrap()
}

pub fn service(url: impl Into<String>) -> ServiceSettings {
    ServiceSettings::at(url)
}

pub fn call(request: Request) -> Call {
    Call {
        id: CallId(1),
        reference: "/do/0/größe".into(),
        key: "key-1".into(),
        attempt: 2,
        compensates: None,
        request: Arc::new(request),
        deadline: None,
        callback: false,
    }
}

pub async fn perform(network: &Network, call: Call) -> Outcome {
    performed(network, "instance-1", call).await.outcome
}

pub async fn performed(network: &Network, instance: &str, call: Call) -> Performed {
    network.call(Context { instance: instance.into(), ..Context::default() }, call).await.unwrap()
}

pub async fn send(network: &Network, request: HttpRequest) -> Outcome {
    perform(network, call(Request::Http(request))).await
}

/// The output as JSON.
pub fn output(outcome: Outcome) -> String {
    match outcome {
        Outcome::Success(value) => value.to_json(),
        other => panic!("{other:?}"),
    }
}

/// Status, title, detail and certainty of a failure.
pub fn failure(outcome: Outcome) -> (i64, String, String, Certainty) {
    match outcome {
        Outcome::Failure { problem, certainty } => {
            (problem.status, problem.title, problem.detail.unwrap_or_default(), certainty)
        }
        other => panic!("{other:?}"),
    }
}

/// A time after now.
pub fn after(duration: Duration) -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap() + duration;
    Timestamp(i64::try_from(since.as_millis()).unwrap())
}
