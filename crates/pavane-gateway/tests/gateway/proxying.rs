//! Routes to services: what each side gets of the other.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{PATIENCE, Raw, Service, got, read_all, serve, setup};

#[tokio::test]
async fn a_service_gets_the_request_and_the_client_its_answer() {
    let service = Service::start("inventory").await;
    let served = serve(&format!(
        "services: {{ inventory: ['{}/base/'] }}\nroutes:\n  - {{ match: {{ path: '/inventory/*' }}, service: inventory }}\n  - {{ match: {{ path: '/short/*' }}, service: inventory, strip: /short }}\n",
        service.url
    ))
    .await;
    let headers = [
        ("x-echo-x-answer-header", "yes"),
        ("x-answer", "418"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x_forwarded_for", "6.6.6.6"),
        ("pavane-caller", "root"),
        ("authorization", "Bearer mine"),
    ];
    let got = served.ask("PUT", "/inventory/a%2Db?q=%20", &headers, "hello").await;
    assert_eq!((got.status, got.header("x-answer-header")), (418, "yes"));
    let seen = got.json();
    assert_eq!(
        (&seen["method"], &seen["path"], &seen["body"]),
        (&json!("PUT"), &json!("/base/inventory/a-b?q=%20"), &json!("hello"))
    );
    let header = |name: &str| seen["headers"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!((header("x-forwarded-for"), header("x-forwarded-host")), ("127.0.0.1".into(), "gateway.example".into()));
    assert_eq!(header("forwarded"), "for=127.0.0.1;host=\"gateway.example\";proto=http");
    assert_eq!((header("te"), header("authorization")), ("trailers".into(), "Bearer mine".into()));
    assert_eq!(header("x-request-id"), got.header("x-request-id"));
    assert_eq!(header("content-length"), "5");
    for absent in ["x-hop", "connection", "x_forwarded_for", "pavane-caller"] {
        assert_eq!(header(absent), "", "{absent}");
    }
    assert_eq!(served.get("/short/x").await.json()["path"], "/base/x");
    assert_eq!(served.get("/short").await.json()["path"], "/base/");
    let numbers = served.gateway.numbers();
    assert_eq!((numbers.routes[0].answers[4], numbers.routes[1].answers[2]), (1, 2), "{numbers:?}");
}

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let service = Service::start("a").await;
    let served = serve(&format!(
        "gateway: {{ trusted_proxies: [127.0.0.0/8] }}\nservices: {{ a: ['{}'] }}\nroutes: [ {{ match: {{ path: '/*' }}, service: a }} ]\n",
        service.url
    ))
    .await;
    let headers = [("x-forwarded-for", "9.9.9.9"), ("x-forwarded-proto", "https"), ("x-request-id", "mine")];
    let seen = served.ask("GET", "/", &headers, "").await.json();
    assert_eq!(seen["headers"]["x-forwarded-for"], "9.9.9.9, 127.0.0.1");
    assert_eq!(
        (&seen["headers"]["x-forwarded-proto"], &seen["headers"]["x-request-id"]),
        (&json!("https"), &json!("mine"))
    );
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    // A service that answers each line as it comes, within one exchange.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 1024];
        let mut text = String::new();
        let mut begun = false;
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
            if !begun && text.contains("one") {
                begun = true;
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ngot 1\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
            }
            if text.contains("two") {
                stream.write_all(b"5\r\ngot 2\r\n0\r\n\r\n").await.unwrap();
                return;
            }
        }
    });
    let served =
        serve(&format!("services: {{ a: ['{url}'] }}\nroutes: [ {{ match: {{ path: '/*' }}, service: a }} ]\n")).await;
    let mut client = TcpStream::connect(served.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let first = until(&mut client, "got 1").await;
    assert!(first.starts_with("HTTP/1.1 200"), "the answer began before the request ended: {first}");
    client.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
    until(&mut client, "got 2").await;
}

async fn until(stream: &mut TcpStream, part: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains(part) {
        match tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await {
            Ok(Ok(count @ 1..)) => text.push_str(&String::from_utf8_lossy(&buffer[..count])),
            other => panic!("no `{part}`: {other:?} after {text}"),
        }
    }
    text
}

#[tokio::test]
async fn a_websocket_goes_through_and_other_upgrades_do_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let head = until(&mut stream, "\r\n\r\n").await.to_ascii_lowercase();
                if !head.contains("upgrade: websocket") {
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len());
                    return stream.write_all(answer.as_bytes()).await.unwrap();
                }
                let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\nhello";
                stream.write_all(answer.as_bytes()).await.unwrap();
                until(&mut stream, "ping").await;
                stream.write_all(b"pong").await.unwrap();
            });
        }
    });
    let served =
        serve(&format!("services: {{ a: ['{url}'] }}\nroutes: [ {{ match: {{ path: '/*' }}, service: a }} ]\n")).await;
    let mut client = TcpStream::connect(served.address).await.unwrap();
    let ask =
        "GET /chat HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n";
    client.write_all(ask.as_bytes()).await.unwrap();
    let head = until(&mut client, "hello").await;
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("sec-websocket-accept: x"), "{head}");
    assert_eq!(served.gateway.numbers().connections, 1, "a WebSocket counts as a connection");
    client.write_all(b"ping").await.unwrap();
    until(&mut client, "pong").await;
    let h2c = "GET / HTTP/1.1\r\nhost: h\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n";
    let answer = served.raw(h2c.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && !answer.contains("h2c") && !answer.contains("http2-settings"),
        "{answer}"
    );
}

#[tokio::test]
async fn http2_goes_through_with_its_trailers() {
    // A service in the manner of gRPC: HTTP/2 without asking, the status in trailers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                assert_eq!(
                    (request.version(), &request.headers()["te"]),
                    (http::Version::HTTP_2, &"trailers".parse().unwrap())
                );
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let trailers = async {
                    Some(Ok(http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())])))
                };
                Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(body).with_trailers(trailers)))
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let served = serve(&format!(
        "gateway: {{ upstreams: {{ a: {{ protocol: http2 }} }} }}\nservices: {{ a: ['{url}'] }}\nroutes: [ {{ match: {{ path: '/pkg.Service/*' }}, service: a }} ]\n"
    ))
    .await;
    let stream = TcpStream::connect(served.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://h/pkg.Service/Method")
        .header("te", "trailers")
        .header("content-type", "application/grpc");
    let request = request.body(Full::new(Bytes::from_static(b"\0\0\0\0\x01x"))).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes().as_ref(), b"\0\0\0\0\x01x");
    let nowhere = sender.send_request(Request::get("http://h/x").body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(got(nowhere).await.code(), "not_found");
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_a_problem_with_a_code() {
    let slow = Service::start("slow").await;
    let broken = Raw::start(b"what is this\r\n\r\n").await;
    let served = serve(&format!(
        "services: {{ slow: ['{}'], broken: ['{}'], gone: ['http://127.0.0.1:1'] }}\nroutes:\n  - {{ match: {{ path: '/slow' }}, service: slow, timeout: 100ms }}\n  - {{ match: {{ path: '/broken' }}, service: broken }}\n  - {{ match: {{ path: '/gone' }}, service: gone }}\n",
        slow.url, broken.url
    ))
    .await;
    let late = served.ask("POST", "/slow", &[("x-delay", "20000")], "").await;
    assert_eq!((late.status, late.code().as_str()), (504, "service_timeout"));
    for path in ["/broken", "/gone"] {
        let got = served.ask("POST", path, &[], "").await;
        assert_eq!((got.status, got.code().as_str()), (502, "service_unreachable"), "{path}");
        assert!(!got.text.contains("127.0.0.1"), "nobody learns where the service is: {got:?}");
    }
}

#[tokio::test]
async fn stopping_lets_a_request_end() {
    let service = Service::start("a").await;
    let served = serve(&format!(
        "services: {{ a: ['{}'] }}\nroutes: [ {{ match: {{ path: '/*' }}, service: a }} ]\n",
        service.url
    ))
    .await;
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    let mut busy = TcpStream::connect(served.address).await.unwrap();
    busy.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nx-delay: 300\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let gateway = served.gateway.clone();
    let stopped = tokio::spawn(async move { gateway.stop(Duration::from_secs(20)).await });
    assert!(until(&mut busy, "}").await.starts_with("HTTP/1.1 200"));
    assert_eq!(read_all(&mut idle, PATIENCE).await, "", "an idle connection is closed");
    tokio::time::timeout(PATIENCE, stopped).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_setup_is_replaced_as_a_whole_or_not_at_all() {
    let (one, two) = (Service::start("one").await, Service::start("two").await);
    let text = |service: &str, path: &str, rate: &str| {
        format!(
            "services: {{ a: ['{service}'] }}\nroutes: [ {{ match: {{ path: {path} }}, service: a, rate: {rate} }} ]\n"
        )
    };
    let served = serve(&text(&one.url, "/x", "2/h")).await;
    assert_eq!(served.get("/x").await.json()["service"], "one");
    let faults = served.gateway.replace(setup(&text("nonsense", "x", "2/h"))).unwrap_err();
    assert_eq!(faults.len(), 3, "the URL, the path, and the service that is not there then: {faults:?}");
    assert_eq!(served.get("/x").await.json()["service"], "one");
    // A request that has begun ends under the setup it began with.
    let slow = served.ask("GET", "/y", &[("x-delay", "400")], "");
    served.gateway.replace(setup(&text(&one.url, "/y", "9/h"))).unwrap();
    let replaced = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        served.gateway.replace(setup(&text(&two.url, "/x", "2/h"))).unwrap();
    };
    let (slow, ()) = tokio::join!(slow, replaced);
    assert_eq!(slow.json()["service"], "one");
    assert_eq!(served.get("/y").await.status, 404);
    assert_eq!(served.get("/x").await.json()["service"], "two");
    // What was counted is counted on where the rate is the same.
    served.gateway.replace(setup(&text(&two.url, "/x", "2/h"))).unwrap();
    assert_eq!(served.get("/x").await.status, 200);
    assert_eq!(served.get("/x").await.status, 429);
    assert_eq!(served.gateway.numbers().routes[0].answers[2], 2);
}
