//! nginx in front of the gateway, as `ops/nginx/nginx.conf` has it: the same requests give the same answers through nginx
//! and without it, and services and rates see the client, not nginx.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod requests;
mod service;
#[path = "../support/mod.rs"]
mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use requests::{CASES, Case, Seen};
use serde_json::Value;
use service::Service;
use support::{PATIENCE, Process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const ORDER: &str = "document: { dsl: '1.0.3', namespace: t, name: order, version: '1.0.0' }
input: { schema: { document: { type: object, required: [n], properties: { n: { type: integer } } } } }
do: [ { give: { set: '${ . }' } } ]
";
const FAILING: &str = "document: { dsl: '1.0.3', namespace: t, name: failing, version: '1.0.0' }
do: [ { fail: { raise: { error: { type: 'https://example.com/no-stock', status: 409, title: No stock } } } } ]
";
const LONG: &str = "document: { dsl: '1.0.3', namespace: t, name: long, version: '1.0.0' }
do: [ { rest: { wait: { milliseconds: 700 } } }, { give: { set: { done: true } } } ]
";
const CONFIG: &str = "listen: { admin: '127.0.0.1:0', gateway: '127.0.0.1:0' }
store: { sqlite: { path: ./pavane.db } }
workflows: [ '*.wf.yaml' ]
services:
  a: { url: 'http://HTTP' }
  grpc: { url: 'http://GRPC' }
  away: { url: 'http://127.0.0.1:1' }
gateway:
  trusted_proxies: [ 127.0.0.1 ]
  auth: { keys: [ { name: shop, sha256: '2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683' } ] }
  upstreams: { grpc: { protocol: http2 } }
routes:
  - { match: { path: '/echo/*' }, service: a }
  - { match: { path: '/inner/*' }, service: a, strip: /inner }
  - { match: { path: '/items/{id}', method: GET }, service: a }
  - { match: { path: /host, host: one.example }, service: a }
  - { match: { path: /host, host: '*.two.example' }, service: a }
  - { match: { path: /by-header, headers: { x-version: '2' } }, service: a }
  - { match: { path: /small }, service: a, max_body: 16 }
  - { match: { path: /cookies }, service: a }
  - { match: { path: /cors }, service: a, cors: { origins: 'https://shop.example', headers: [x-total] } }
  - { match: { path: /kept }, service: a, cache: 60s }
  - { match: { path: /large }, service: a }
  - { match: { path: /chunks }, service: a }
  - { match: { path: '/packed/*' }, service: a, strip: /packed, compress: true }
  - { match: { path: /guarded }, service: a, auth: [key] }
  - { match: { path: /scoped }, service: a, auth: [key], scopes: [orders] }
  - { match: { path: /rated }, service: a, rate: 1/h per client }
  - { match: { path: '/status/{status}' }, service: a }
  - { match: { path: /late }, service: a, timeout: 300ms }
  - { match: { path: /away }, service: away }
  - { match: { path: /stream }, service: a }
  - { match: { path: /socket }, service: a }
  - { match: { path: '/shop.Orders/*' }, service: grpc }
  - { match: { path: /orders }, workflow: t/order }
  - { match: { path: /failing }, workflow: t/failing }
  - { match: { path: /long }, workflow: t/long, wait: 50ms }
";

/// The client's address: not that of nginx, which is trusted.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Where Debian's package has it, when `PATH` does not.
const PLACES: [&str; 3] = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"];

/// nginx, if it is there. A run that may not install it goes without it, and says so.
fn nginx() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("nginx"));
    let found = in_path.chain(PLACES.iter().map(PathBuf::from)).find(|file| file.is_file());
    if found.is_none() {
        let left_out = std::env::var("PAVANE_LEAVE_OUT").unwrap_or_default();
        let remedy = "nginx is not there: `apt-get install nginx-light`, or PAVANE_LEAVE_OUT=nginx to do without";
        assert!(left_out.split(',').any(|program| program == "nginx"), "{remedy}");
        eprintln!("skipped: {remedy}");
    }
    found
}

/// `pavane serve` with the routes above.
struct Gateway {
    _process: Process,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Gateway {
    async fn start(service: &Service) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("order", ORDER), ("failing", FAILING), ("long", LONG)] {
            std::fs::write(folder.path().join(format!("{name}.wf.yaml")), text).unwrap();
        }
        let file = folder.path().join("pavane.yaml");
        let text = CONFIG.replace("HTTP", &service.http.to_string()).replace("GRPC", &service.grpc.to_string());
        std::fs::write(&file, text).unwrap();
        let mut process = Process::start(&["serve".as_ref(), "-c".as_ref(), file.as_os_str()]);
        let line = process.line("its gateway serves at").await;
        let address = line.rsplit('/').next().unwrap().parse().unwrap();
        Gateway { _process: process, address, _folder: folder }
    }
}

/// nginx with the configuration of `ops/nginx` before a gateway; ends with its value.
struct Proxy {
    child: Child,
    http: SocketAddr,
    grpc: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Proxy {
    async fn start(nginx: &Path, gateway: SocketAddr) -> Proxy {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops/nginx/nginx.conf");
        let shipped = std::fs::read_to_string(shipped).unwrap();
        let folder = tempfile::tempdir().unwrap();
        // As another user, nginx would not reach a folder of ours.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let (http, grpc) = (free().await, free().await);
        let mut text = shipped.clone();
        for (before, after) in [
            ("127.0.0.1:8080", gateway.to_string()),
            ("127.0.0.1:8088", http.to_string()),
            ("127.0.0.1:8089", grpc.to_string()),
            ("http {\n", format!("http {{\n{}", own_folders())),
            // In the foreground, a child of this test.
            ("worker_processes auto;", "daemon off; worker_processes 2;".to_owned()),
        ] {
            assert!(text.contains(before), "`ops/nginx/nginx.conf` has no `{before}`");
            text = text.replace(before, &after);
        }
        let config = folder.path().join("nginx.conf");
        std::fs::write(&config, text).unwrap();
        let command = || {
            let mut command = Command::new(nginx);
            command.arg("-p").arg(folder.path()).arg("-c").arg(&config).args(["-e", "stderr"]).stdin(Stdio::null());
            command
        };
        let tested = command().arg("-t").output().unwrap();
        assert!(tested.status.success(), "nginx -t: {}", String::from_utf8_lossy(&tested.stderr));
        let child = command().stdout(Stdio::null()).spawn().unwrap();
        let proxy = Proxy { child, http, grpc, _folder: folder };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(http).await.is_err() {
            assert!(Instant::now() < until, "nginx does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        proxy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // TERM, so that its workers end with it.
        let _ = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// Folders for what nginx keeps in files, below its prefix.
fn own_folders() -> String {
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    kinds.map(|kind| format!("    {kind}_temp_path {kind};\n")).concat()
}

/// An address that was free a moment ago.
async fn free() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// Both doors to gateways of their own: what one of them counts or keeps is not in the way of the other.
struct Doors {
    service: Service,
    direct: Gateway,
    _behind: Gateway,
    proxy: Proxy,
}

impl Doors {
    async fn open(nginx: &Path) -> Doors {
        let service = Service::serve().await;
        // The cached answers are numbered: each gateway has a service of its own for them.
        let direct = Gateway::start(&Service::serve().await).await;
        let behind = Gateway::start(&service).await;
        let proxy = Proxy::start(nginx, behind.address).await;
        Doors { service, direct, _behind: behind, proxy }
    }
}

async fn connect(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// Sends a request on a connection of its own; gives the answer as it begins.
async fn begin(to: SocketAddr, from: IpAddr, case: &Case) -> Response<Incoming> {
    let (method, target, headers, body) = *case;
    let stream = TokioIo::new(connect(from, to).await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::builder().method(method).uri(target);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "gateway.example");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap();
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
    answer
        .unwrap_or_else(|_| panic!("{method} {target}: no answer"))
        .unwrap_or_else(|e| panic!("{method} {target}: {e}"))
}

async fn ask(to: SocketAddr, from: IpAddr, case: &Case) -> Response<Bytes> {
    let (head, body) = begin(to, from, case).await.into_parts();
    let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("it ends");
    Response::from_parts(head, body.unwrap_or_else(|e| panic!("{case:?}: {e}")).to_bytes())
}

/// A header as the service got it.
fn told<'a>(answer: &'a Value, name: &str) -> Option<&'a str> {
    let mut lines = answer["headers"].as_array()?.iter().filter_map(Value::as_str);
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test]
async fn the_same_requests_give_the_same_answers_with_and_without_nginx() {
    let Some(nginx) = nginx() else { return };
    let doors = Doors::open(&nginx).await;
    let (mut statuses, mut differences) = (Vec::new(), Vec::new());
    for case in &CASES {
        let direct = ask(doors.direct.address, CLIENT.into(), case).await;
        let through = ask(doors.proxy.http, CLIENT.into(), case).await;
        let shown = format!("{} {:.60} {:.100}", case.0, case.1, format!("{:?}", case.2));
        assert!(through.headers().contains_key("x-request-id"), "{shown}");
        let (with, without) = (Seen::of(&through), Seen::of(&direct));
        if with != without {
            differences.push(format!("{shown}: through nginx {with:.300?}, without it {without:.300?}"));
        }
        statuses.push(direct.status().as_u16());
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    // What is compared is not sixty times the same.
    for status in [200, 204, 302, 304, 400, 401, 403, 404, 405, 409, 413, 414, 429, 431, 502, 503, 504] {
        assert!(statuses.contains(&status), "{status} was not seen: {statuses:?}");
    }
}

#[tokio::test]
async fn services_and_rates_see_the_client_and_not_nginx() {
    let Some(nginx) = nginx() else { return };
    let doors = Doors::open(&nginx).await;
    let lies: &[(&str, &str)] = &[
        ("x-forwarded-for", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("x-request-id", "mine"),
        ("x-real-ip", "6.6.6.6"),
    ];
    let answer = ask(doors.proxy.http, CLIENT.into(), &("GET", "/echo", lies, "")).await;
    let body: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(told(&body, "x-forwarded-for"), Some("127.0.0.2, 127.0.0.1"), "{body}");
    assert_eq!(told(&body, "forwarded"), Some("for=127.0.0.1;host=\"gateway.example\";proto=http"), "{body}");
    assert_eq!((told(&body, "x-real-ip"), told(&body, "x-forwarded-host")), (None, Some("gateway.example")), "{body}");
    // One id for nginx's log, for Pavane's, for the service, and for the client.
    let id = answer.headers()["x-request-id"].to_str().unwrap();
    assert_eq!(told(&body, "x-request-id"), Some(id));
    assert!(id != "mine" && id.len() == 32, "{id}");
    // Who comes without nginx is not believed.
    let answer = ask(doors.direct.address, CLIENT.into(), &("GET", "/echo", lies, "")).await;
    let body: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(told(&body, "x-forwarded-for"), Some("127.0.0.2"), "{body}");
    // One request an hour for each client, not for all that come through nginx.
    for (client, status) in [(2, 200), (3, 200), (2, 429), (3, 429)] {
        let answer = ask(doors.proxy.http, Ipv4Addr::new(127, 0, 0, client).into(), &("GET", "/rated", &[], "")).await;
        assert_eq!(answer.status(), status, "127.0.0.{client}");
    }
}

#[tokio::test]
async fn events_come_through_nginx_while_the_stream_is_open() {
    let Some(nginx) = nginx() else { return };
    let doors = Doors::open(&nginx).await;
    let answer = begin(doors.proxy.http, CLIENT.into(), &("GET", "/stream", &[], "")).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    let mut next = async || {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("it comes while the stream is open");
        frame.map(|frame| frame.unwrap().into_data().unwrap())
    };
    assert_eq!(next().await.unwrap(), "data: first\n\n");
    doors.service.go_on.notify_one();
    assert_eq!(next().await.unwrap(), "data: second\n\n");
    assert_eq!(next().await, None);
    // And those of an instance that runs on.
    let started = ask(doors.proxy.http, CLIENT.into(), &("POST", "/long", &[], "")).await;
    assert_eq!(started.status(), 202);
    let location = started.headers()["location"].to_str().unwrap().to_owned();
    let events: &'static str = format!("{location}/events").leak();
    let events = ask(doors.proxy.http, CLIENT.into(), &("GET", events, &[], "")).await;
    assert!(String::from_utf8_lossy(events.body()).contains("workflow.completed"), "{events:?}");
}

#[tokio::test]
async fn a_websocket_goes_through_nginx_and_no_other_upgrade() {
    let Some(nginx) = nginx() else { return };
    let doors = Doors::open(&nginx).await;
    let ask = |upgrade: &str| {
        format!(
            "GET /socket HTTP/1.1\r\nhost: gateway.example\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    for door in [doors.direct.address, doors.proxy.http] {
        let mut stream = connect(CLIENT.into(), door).await;
        stream.write_all(ask("websocket").as_bytes()).await.unwrap();
        let head = head(&mut stream).await;
        assert!(head.starts_with("http/1.1 101 ") && head.contains("sec-websocket-accept:"), "{head}");
        for word in ["hello", "again"] {
            stream.write_all(word.as_bytes()).await.unwrap();
            let mut back = [0; 5];
            tokio::time::timeout(PATIENCE, stream.read_exact(&mut back)).await.expect("it comes back").unwrap();
            assert_eq!(back, word.to_ascii_uppercase().as_bytes());
        }
        let mut stream = connect(CLIENT.into(), door).await;
        stream.write_all(ask("h2c").as_bytes()).await.unwrap();
        let head = self::head(&mut stream).await;
        assert!(!head.starts_with("http/1.1 101 "), "{head}");
    }
}

/// Reads the head of an answer, in lower case.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("it answers");
        head.push(byte.unwrap());
    }
    String::from_utf8_lossy(&head).to_lowercase()
}

#[tokio::test]
async fn grpc_goes_through_nginx_with_its_trailers() {
    let Some(nginx) = nginx() else { return };
    let doors = Doors::open(&nginx).await;
    for (path, status) in [("/shop.Orders/Get", "0"), ("/shop.Orders/Nonsense", "12")] {
        let mut seen: Vec<(u16, HeaderMap, Bytes, HeaderMap)> = Vec::new();
        for door in [doors.direct.address, doors.proxy.grpc] {
            let stream = TokioIo::new(connect(CLIENT.into(), door).await);
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            let request = Request::post(format!("http://gateway.example{path}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(Bytes::from_static(b"\0\0\0\0\x03abc")))
                .unwrap();
            let answer =
                tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("an answer").unwrap();
            let (mut head, body) = answer.into_parts();
            let body = body.collect().await.unwrap();
            let trailers = body.trailers().cloned().unwrap_or_default();
            for name in ["date", "server", "x-request-id"] {
                head.headers.remove(name);
            }
            seen.push((head.status.as_u16(), head.headers, body.to_bytes(), trailers));
        }
        assert_eq!(seen[0], seen[1], "{path}: without nginx, and through it");
        assert_eq!(
            (seen[1].2.as_ref(), &seen[1].3["grpc-status"]),
            (&b"\0\0\0\0\x03abc"[..], &status.parse().unwrap())
        );
        assert_eq!(seen[1].1["x-te"], "trailers");
    }
}
