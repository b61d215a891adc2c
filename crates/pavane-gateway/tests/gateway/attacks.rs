//! Requests that are meant to do harm, as raw bytes.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, Raw, Served, Service, read_all, serve};

const FINE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A gateway that guards `/admin` with a route of its own and sends everything else to another service.
async fn guarded(more: &str) -> (Served, Raw, Raw) {
    let (public, admin) = (Raw::start(FINE).await, Raw::start(FINE).await);
    let served = serve(&format!(
        "{more}\nservices: {{ public: ['{}'], admin: ['{}'] }}\nroutes:\n  - {{ match: {{ path: '/admin/*', headers: {{ x-guard: open }} }}, service: admin }}\n  - {{ match: {{ path: '/public/*' }}, service: public }}\n  - {{ match: {{ path: /start }}, workflow: t/echo }}\n",
        public.url, admin.url
    ))
    .await;
    (served, public, admin)
}

fn statuses(answer: &str) -> Vec<&str> {
    answer.split("HTTP/1.1 ").skip(1).filter_map(|part| part.get(..3)).collect()
}

/// Of two ways to frame a body, a proxy and a service may each take another: the rest of the body is then a request
/// that nobody has checked. The gateway takes one way, refuses what is ambiguous, and frames anew what it sends.
#[tokio::test]
async fn a_request_cannot_be_smuggled_in_a_body() {
    let smuggled = "GET /admin/secret HTTP/1.1\r\nhost: h\r\nx-guard: open\r\n\r\n";
    let length = smuggled.len() + 5;
    let chunk = smuggled.len();
    for (name, head, body) in [
        ("CL.TE", format!("content-length: {length}\r\ntransfer-encoding: chunked"), format!("0\r\n\r\n{smuggled}")),
        (
            "TE.CL",
            "transfer-encoding: chunked\r\ncontent-length: 4".to_owned(),
            format!("{chunk:x}\r\n{smuggled}\r\n0\r\n\r\n"),
        ),
        (
            "TE.TE",
            "transfer-encoding: chunked\r\ntransfer-encoding: identity".to_owned(),
            format!("0\r\n\r\n{smuggled}"),
        ),
        ("odd TE", "transfer-encoding: xchunked".to_owned(), smuggled.to_owned()),
        ("chunked not last", "transfer-encoding: chunked, gzip".to_owned(), format!("0\r\n\r\n{smuggled}")),
        (
            "space before colon",
            format!("content-length : {length}\r\ntransfer-encoding : chunked"),
            format!("0\r\n\r\n{smuggled}"),
        ),
        ("two lengths", format!("content-length: 0\r\ncontent-length: {chunk}"), smuggled.to_owned()),
        ("list of lengths", format!("content-length: 0, {chunk}"), smuggled.to_owned()),
        ("signed length", "content-length: +0".to_owned(), smuggled.to_owned()),
        (
            "folded header",
            format!("x: y\r\n transfer-encoding: chunked\r\ncontent-length: {chunk}"),
            smuggled.to_owned(),
        ),
        ("bare CR", format!("x: y\rtransfer-encoding: chunked\r\ncontent-length: {chunk}"), smuggled.to_owned()),
        ("chunk size overflow", "transfer-encoding: chunked".to_owned(), format!("ffffffffffffffff0\r\n{smuggled}")),
        ("length with underscore", format!("content_length: 4\r\ncontent-length: {chunk}"), smuggled.to_owned()),
    ] {
        let (served, public, admin) = guarded("").await;
        let request = format!("POST /public/x HTTP/1.1\r\nhost: h\r\n{head}\r\n\r\n{body}");
        let answer = served.raw(request.as_bytes()).await;
        let forwarded = public.got().to_ascii_lowercase();
        // The smuggled text is nothing, a body, or a request that the gateway itself routed: never part of another.
        let heads = forwarded.matches(" http/1.1\r\n").count();
        let framed_as_body = forwarded.contains(&format!("content-length: {chunk}\r\n"))
            || forwarded.contains(&format!("\r\n{chunk:x}\r\nget /admin"));
        let carried = usize::from(forwarded.contains("get /admin"));
        assert!(heads <= 1 + carried && (carried == 0 || framed_as_body), "{name}: {forwarded}");
        assert!(
            !(forwarded.contains("content-length") && forwarded.contains("transfer-encoding")),
            "{name}: {forwarded}"
        );
        assert!(!forwarded.contains("content_length"), "{name}: {forwarded}");
        let through = admin.got();
        assert!(through.is_empty() || through.contains("x-forwarded-for: 127.0.0.1"), "{name}: {through}");
        let ambiguous = [
            "TE.TE",
            "odd TE",
            "chunked not last",
            "space before colon",
            "two lengths",
            "list of lengths",
            "signed length",
        ];
        if ambiguous.contains(&name) {
            assert_eq!((statuses(&answer), forwarded.as_str()), (vec!["400"], ""), "{name}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_path_cannot_walk_around_a_route() {
    let (served, public, admin) = guarded("").await;
    for path in [
        "/public/../admin/x",
        "/public/%2e%2e/admin/x",
        "/public/%2E./admin/x",
        "/public/..;/admin/x",
        "/public/..%2fadmin/x",
        "/public/..%5cadmin/x",
        "/public\\..\\admin/x",
        "/public/.//admin",
        "//public/../admin",
        "/public//x",
        "/public/%00",
        "/public/x%0d%0aInjected:%201",
        "/public/%",
        "http://h/public/../admin/x",
    ] {
        let answer = served
            .raw(format!("GET {path} HTTP/1.1\r\nhost: h\r\nx-guard: open\r\nconnection: close\r\n\r\n").as_bytes())
            .await;
        assert_eq!(statuses(&answer), ["400"], "{path}: {answer}");
    }
    assert_eq!((public.got(), admin.got()), (String::new(), String::new()));
    // The guarded path in another spelling is the guarded path.
    let answer = served.raw(b"GET /%61dmin/x HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
    assert_eq!(statuses(&answer), ["404"], "{answer}");
    served.raw(b"GET /%61dmin/x HTTP/1.1\r\nhost: h\r\nx-guard: open\r\nconnection: close\r\n\r\n").await;
    assert!(admin.got().starts_with("GET /admin/x HTTP/1.1"), "{}", admin.got());
}

#[tokio::test]
async fn a_host_is_one_host() {
    let (served, public, _) = guarded("").await;
    for head in [
        "GET /public/x HTTP/1.1",
        "GET /public/x HTTP/1.1\r\nhost: a\r\nhost: b",
        "GET http://a/public/x HTTP/1.1\r\nhost: b",
        "GET /public/x HTTP/1.1\r\nhost: a b",
        "GET /public/x HTTP/1.1\r\nhost: a@b",
    ] {
        let answer = served.raw(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes()).await;
        assert_eq!(statuses(&answer), ["400"], "{head}: {answer}");
    }
    for head in ["CONNECT public:80 HTTP/1.1\r\nhost: public:80", "TRACE /public/x HTTP/1.1\r\nhost: h"] {
        let answer = served.raw(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes()).await;
        assert_eq!(statuses(&answer), ["405"], "{head}: {answer}");
    }
    assert_eq!(public.got(), "");
}

#[tokio::test]
async fn a_header_cannot_be_injected() {
    let (served, public, _) = guarded("").await;
    // Into a header of the request, and through the headers that the gateway writes by itself.
    for header in [
        "x: a\nx-forwarded-for: 6.6.6.6",
        "x: a\0b",
        "x\x01: a",
        "connection: x-forwarded-for, host, x-request-id",
        "x-forwarded-for: 6.6.6.6",
        "forwarded: for=6.6.6.6",
    ] {
        served
            .raw(format!("GET /public/x HTTP/1.1\r\nhost: h\r\n{header}\r\nconnection: close\r\n\r\n").as_bytes())
            .await;
    }
    let forwarded = public.got();
    assert!(!forwarded.contains("6.6.6.6"), "{forwarded}");
    let heads = forwarded.matches("GET /public/x HTTP/1.1").count();
    assert!(heads >= 1 && forwarded.matches("x-forwarded-for: 127.0.0.1\r\n").count() == heads, "{forwarded}");
    assert_eq!(forwarded.matches("x-request-id: ").count(), heads, "{forwarded}");
    // Into the answer, by way of the path that a Location repeats.
    let answer = served.raw(b"POST /start%0d%0aset-cookie:a=b HTTP/1.1\r\nhost: h\r\nprefer: respond-async\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").await;
    assert!(!answer.to_ascii_lowercase().contains("set-cookie"), "{answer}");
}

#[tokio::test]
async fn headers_and_bodies_have_a_largest_size() {
    let (served, public, _) = guarded("gateway: { limits: { body: 1000, header_bytes: 2048, headers: 20 } }").await;
    let fill = |bytes: usize| "a".repeat(bytes);
    let many: String = (0..30).map(|n| format!("x-{n}: 1\r\n")).collect();
    for (name, request, status) in [
        ("one header", format!("GET /public/x HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n", fill(3_000)), "431"),
        ("a huge header", format!("GET /public/x HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n", fill(100_000)), "431"),
        ("many headers", format!("GET /public/x HTTP/1.1\r\nhost: h\r\n{many}\r\n"), "431"),
        ("a path", format!("GET /public/{} HTTP/1.1\r\nhost: h\r\n\r\n", fill(9_000)), "414"),
        ("a length", "POST /public/x HTTP/1.1\r\nhost: h\r\ncontent-length: 1001\r\n\r\n".to_owned(), "413"),
        ("a workflow's", "POST /start HTTP/1.1\r\nhost: h\r\ncontent-length: 99999999999\r\n\r\n".to_owned(), "413"),
        (
            "chunks",
            format!(
                "POST /start HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n800\r\n{}\r\n0\r\n\r\n",
                fill(0x800)
            ),
            "413",
        ),
    ] {
        let answer = served.raw(request.as_bytes()).await;
        assert_eq!(statuses(&answer), [status], "{name}: {answer}");
    }
    assert_eq!(public.got(), "");
    // To a service, chunks are counted as they pass: the client is told, and the service gets no whole request.
    let chunks = format!(
        "POST /public/x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n{}",
        "100\r\n".to_owned() + &fill(256) + "\r\n"
    );
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(chunks.as_bytes()).await.unwrap();
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let _ = stream.write_all(format!("100\r\n{}\r\n", fill(256)).as_bytes()).await;
    }
    let answer = read_all(&mut stream, Duration::from_millis(500)).await;
    let at_service = public.got();
    assert!(!at_service.ends_with("0\r\n\r\n"), "the service must not take it for whole: {at_service}");
    // A service that answered before its request was whole has its answer passed on.
    assert!(["413", "200"].contains(statuses(&answer).first().unwrap_or(&"none")), "{answer}");
}

/// A little text can be a great deal compressed: what comes compressed is not unpacked here.
#[tokio::test]
async fn a_body_is_never_unpacked() {
    let (served, public, _) = guarded("").await;
    let packed = "\x1f\x08pretend to be a gigabyte";
    let request = format!(
        "POST /start HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n{packed}",
        packed.len()
    );
    let answer = served.raw(request.as_bytes()).await;
    assert!(statuses(&answer) == ["415"] && answer.contains("unsupported_encoding"), "{answer}");
    assert!(served.workflows.starts.lock().unwrap().is_empty());
    served.raw(request.replace("/start", "/public/x").as_bytes()).await;
    let forwarded = public.got();
    assert!(forwarded.contains("content-encoding: gzip") && forwarded.ends_with(packed), "{forwarded}");
}

/// Clients that send a byte now and then hold a connection for no longer than they may.
#[tokio::test]
async fn a_slow_client_is_cut_off() {
    let more = "gateway: { timeouts: { header: 400ms, idle: 400ms, body: 400ms } }";
    let (served, _, _) = guarded(more).await;
    for (name, begins, says) in [
        ("silence", "", ""),
        ("a preface that does not end", "PRI * HTTP/2.0\r\n", ""),
        ("a head that does not end", "GET /public/x HTTP/1.1\r\nhost: h\r\n", ""),
        ("silence after a request", "GET /public/x HTTP/1.1\r\nhost: h\r\n\r\n", "200"),
        ("a body that stands still", "POST /start HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\n{", "408"),
    ] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(begins.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{name}: it is kept open");
        assert_eq!(statuses(&String::from_utf8_lossy(&answer)).concat(), says, "{name}");
    }
    // Over HTTP/2, saying that one is there is not enough.
    let stream = TcpStream::connect(served.address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let stream = hyper_util::rt::TokioIo::new(stream);
    let handshake =
        hyper::client::conn::http2::handshake::<_, _, http_body_util::Empty<bytes::Bytes>>(executor, stream);
    let (_sender, connection) = handshake.await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, connection).await;
    assert!(ended.is_ok(), "an idle connection is closed");
    // Drops that never stop do not help either.
    for (name, begins, drop) in [
        ("a head in drops", "GET /public/x HTTP/1.1\r\nhost: h\r\nx: ", "a"),
        ("a body in drops", "POST /start HTTP/1.1\r\nhost: h\r\ncontent-length: 1000\r\n\r\n", " "),
    ] {
        let stream = TcpStream::connect(served.address).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        write.write_all(begins.as_bytes()).await.unwrap();
        let drops = tokio::spawn(async move {
            while write.write_all(drop.as_bytes()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, read.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{name}: it goes on for ever");
        drops.abort();
    }
}

#[tokio::test]
async fn connections_have_a_largest_number() {
    let service = Service::start("a").await;
    let served = serve(&format!(
        "gateway: {{ limits: {{ connections: 2 }}, timeouts: {{ header: 2s }} }}\nservices: {{ a: ['{}'] }}\nroutes: [ {{ match: {{ path: '/*' }}, service: a }} ]\n",
        service.url
    ))
    .await;
    let idle = [TcpStream::connect(served.address).await.unwrap(), TcpStream::connect(served.address).await.unwrap()];
    while served.gateway.numbers().connections < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let began = Instant::now();
    let got = served.get("/").await;
    assert_eq!(got.status, 200, "it had its turn when others were cut off");
    assert!(began.elapsed() > Duration::from_millis(500), "it waited for a place");
    drop(idle);
}
