//! What is kept, for whom, and what browsers of other origins may do; answers compressed as they stream.

use std::io::Read;
use std::time::Duration;

use crate::support::{Got, Served, Service, serve};

async fn served(service: &Service, more: &str) -> Served {
    serve(&format!(
        "gateway: {{ auth: {{ keys: [ {{ name: k, sha256: '2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683' }} ] }} }}\nservices: {{ a: ['{}'] }}\nroutes:\n{more}\n",
        service.url
    ))
    .await
}

const CACHED: &str = "  - { match: { path: '/c/*' }, service: a, cache: 60s }
  - { match: { path: '/short' }, service: a, cache: 1s }
  - { match: { path: '/known' }, service: a, cache: 60s, auth: [key] }
  - { match: { path: '/hasty' }, service: a, cache: 60s, timeout: 1s }
";

#[tokio::test]
async fn an_answer_is_kept_as_it_allows() {
    let service = Service::start("a").await;
    let served = served(&service, CACHED).await;
    let ask = async |path: &str, headers: &[(&str, &str)]| served.ask("GET", path, headers, "").await;
    let fetched = async |path: &str, headers: &[(&str, &str)]| {
        let before = service.hits();
        for _ in 0..3 {
            assert_eq!(ask(path, headers).await.status, 200);
        }
        service.hits() - before
    };
    for (path, headers, hits) in [
        ("/c/plain", &[][..], 1),
        ("/c/plain?q=1", &[], 1),
        ("/c/no-store", &[("x-echo-cache-control", "no-store")], 3),
        ("/c/private", &[("x-echo-cache-control", "private, max-age=60")], 3),
        ("/c/zero", &[("x-echo-cache-control", "max-age=0")], 3),
        ("/c/own", &[("x-echo-cache-control", "max-age=60")], 1),
        ("/c/cookie", &[("x-echo-set-cookie", "a=b")], 3),
        ("/c/with-cookie", &[("cookie", "a=b")], 3),
        ("/c/authorized", &[("authorization", "Bearer x")], 3),
        ("/c/public", &[("authorization", "Bearer x"), ("x-echo-cache-control", "public, max-age=60")], 1),
        ("/c/range", &[("range", "bytes=0-1")], 3),
        ("/known", &[("x-api-key", "key")], 3),
    ] {
        assert_eq!(fetched(path, headers).await, hits, "{path} {headers:?}");
    }
    let hit = ask("/c/plain", &[]).await;
    assert_eq!((hit.header("cache-status"), hit.json()["path"].as_str()), ("pavane; hit", Some("/c/plain")));
    assert!(!hit.header("age").is_empty() && !hit.header("x-request-id").is_empty());
    let unknown = ask("/known", &[]).await;
    assert_eq!(unknown.status, 401, "what is kept is no way around authentication");
    // Variants by what the answer says it depends on.
    let vary = |language: &'static str| [("accept-language", language), ("x-echo-vary", "accept-language")];
    for (language, hits) in [("de", 1), ("fr", 1), ("de", 0), ("fr", 0)] {
        assert_eq!(fetched("/c/vary", &vary(language)).await, hits, "{language}");
    }
    // What is changed is fetched again.
    assert_eq!(served.ask("PUT", "/c/plain", &[("x-answer", "500")], "").await.status, 500);
    assert_eq!(fetched("/c/plain", &[]).await, 0);
    assert_eq!(served.ask("PUT", "/c/plain", &[], "").await.status, 200);
    assert_eq!(fetched("/c/plain", &[]).await, 1);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(fetched("/short", &[]).await, 1);
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(fetched("/short", &[]).await, 1, "it is not fresh for ever");
}

#[tokio::test]
async fn a_client_that_has_it_already_is_told_so() {
    let service = Service::start("a").await;
    let served = served(&service, CACHED).await;
    let tag = [("x-echo-etag", "\"v1\"")];
    assert_eq!(served.ask("GET", "/c/tag", &tag, "").await.status, 200);
    for (asked, status) in [("\"v1\"", 304), ("W/\"v1\"", 304), ("\"v0\", \"v1\"", 304), ("\"v2\"", 200)] {
        let got = served.ask("GET", "/c/tag", &[("if-none-match", asked)], "").await;
        assert_eq!((got.status, got.text.is_empty()), (status, status == 304), "{asked}");
    }
    assert_eq!(service.hits(), 1);
    // What is stale is asked about with its tag; 304 makes it fresh.
    let stale = [("x-echo-etag", "\"v1\""), ("x-echo-cache-control", "max-age=0")];
    let first = served.ask("GET", "/c/stale", &stale, "").await;
    let again = [("x-echo-etag", "\"v1\""), ("x-answer", "304")];
    let got = served.ask("GET", "/c/stale", &again, "").await;
    assert_eq!((got.status, &got.text), (200, &first.text), "{got:?}");
    assert_eq!(service.hits(), 3);
    assert_eq!(served.ask("GET", "/c/stale", &stale, "").await.header("cache-status"), "pavane; hit");
}

#[tokio::test]
async fn many_who_ask_at_once_are_one_fetch() {
    let service = Service::start("a").await;
    let served = served(&service, CACHED).await;
    let slow = [("x-delay", "500")];
    let got: Vec<Got> = futures_util::future::join_all((0..20).map(|_| served.ask("GET", "/c/slow", &slow, ""))).await;
    assert!(got.iter().all(|g| g.status == 200 && g.text == got[0].text));
    assert_eq!(service.hits(), 1);
    // What cannot be kept is not waited for in turn.
    let slow = [("x-delay", "500"), ("x-echo-cache-control", "no-store")];
    let all = futures_util::future::join_all((0..20).map(|_| served.ask("GET", "/c/never", &slow, "")));
    tokio::time::timeout(Duration::from_secs(8), all).await.expect("one after the other takes ten seconds");
    assert_eq!(service.hits(), 1 + 20);
}

#[tokio::test]
async fn a_wait_for_somebody_elses_fetch_is_not_the_services_time() {
    let service = Service::start("a").await;
    let served = served(&service, CACHED).await;
    // What the first gets cannot be kept: the second asks for itself, 0.7 of its second later.
    let slow = [("x-delay", "700"), ("x-echo-cache-control", "no-store")];
    let ask = || served.ask("GET", "/hasty", &slow, "");
    let (first, second) = tokio::join!(ask(), ask());
    assert_eq!((first.status, second.status, service.hits()), (200, 200, 2));
    let late = [("x-delay", "1500"), ("x-echo-cache-control", "no-store")];
    assert_eq!(served.ask("GET", "/hasty", &late, "").await.status, 504);
}

#[tokio::test]
async fn pages_of_listed_origins_may_ask() {
    let service = Service::start("a").await;
    let served = served(
        &service,
        "  - { match: { path: /listed, method: [GET, PUT] }, service: a, auth: [key], cors: { origins: 'https://shop.example', headers: [x-api-key, content-type], expose: [x-total], credentials: true, max_age: 10m } }\n  - { match: { path: /open }, service: a, cors: { origins: '*' } }\n  - { match: { path: /closed }, service: a }\n",
    )
    .await;
    let preflight = async |path: &str, origin: &str, method: &str, headers: &str| {
        let asked = [
            ("origin", origin),
            ("access-control-request-method", method),
            ("access-control-request-headers", headers),
        ];
        served.ask("OPTIONS", path, &asked, "").await
    };
    let got = preflight("/listed", "https://shop.example", "PUT", "X-Api-Key").await;
    assert_eq!((got.status, got.header("access-control-allow-origin")), (204, "https://shop.example"));
    assert_eq!(
        (got.header("access-control-allow-methods"), got.header("access-control-allow-headers")),
        ("PUT", "X-Api-Key")
    );
    assert_eq!((got.header("access-control-allow-credentials"), got.header("access-control-max-age")), ("true", "600"));
    for (origin, headers) in
        [("https://evil.example", "x-api-key"), ("https://shop.example", "x-other"), ("https://shop.example.evil", "")]
    {
        let got = preflight("/listed", origin, "PUT", headers).await;
        assert_eq!((got.status, got.header("access-control-allow-methods")), (204, ""), "{origin} {headers}");
    }
    assert_eq!(preflight("/listed", "https://shop.example", "DELETE", "").await.status, 405);
    let refused = served.ask("GET", "/listed", &[("origin", "https://shop.example")], "").await;
    assert_eq!(
        (refused.status, refused.header("access-control-allow-origin")),
        (401, "https://shop.example"),
        "a page may read why"
    );
    let got = served
        .ask(
            "GET",
            "/listed",
            &[("origin", "https://shop.example"), ("x-api-key", "key"), ("x-echo-access-control-allow-origin", "*")],
            "",
        )
        .await;
    let origins: Vec<_> = got.headers.get_all("access-control-allow-origin").iter().collect();
    assert_eq!((got.status, origins.len(), got.header("access-control-expose-headers")), (200, 1, "x-total"));
    assert_eq!(got.header("vary"), "origin");
    let evil = served.ask("GET", "/listed", &[("origin", "https://evil.example"), ("x-api-key", "key")], "").await;
    assert_eq!(evil.header("access-control-allow-origin"), "");
    assert_eq!(
        served
            .ask("GET", "/open", &[("origin", "https://any.example")], "")
            .await
            .header("access-control-allow-origin"),
        "*"
    );
    let through = preflight("/closed", "https://shop.example", "GET", "").await;
    assert_eq!(
        (through.status, &through.json()["method"]),
        (200, &serde_json::json!("OPTIONS")),
        "a service may answer for itself"
    );
}

#[tokio::test]
async fn answers_are_compressed_for_those_who_take_it() {
    let service = Service::start("a").await;
    let served = served(&service, "  - { match: { path: '/z/*' }, service: a, compress: true, cache: 60s }\n  - { match: { path: /plain }, service: a }\n").await;
    let filler = "x".repeat(3_000);
    let ask = async |path: &str, more: &[(&str, &str)]| {
        let headers: Vec<_> = [("x-filler", filler.as_str())].into_iter().chain(more.iter().copied()).collect();
        let stream = tokio::net::TcpStream::connect(served.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::get(path).header("host", "h");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
        (head.headers, bytes)
    };
    let (plain, whole) = ask("/z/x", &[("x-echo-etag", "\"v1\"")]).await;
    assert_eq!((plain["vary"].to_str().unwrap(), plain.contains_key("content-encoding")), ("accept-encoding", false));
    // The same answer, from the cache.
    let (headers, bytes) = ask("/z/x", &[("accept-encoding", "br, gzip"), ("x-echo-etag", "\"v1\"")]).await;
    assert_eq!(
        (&headers["content-encoding"], &headers["etag"]),
        (&"gzip".parse().unwrap(), &"W/\"v1\"".parse().unwrap())
    );
    assert!(bytes.len() < whole.len() / 4, "{} of {}", bytes.len(), whole.len());
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(bytes.as_ref()).read_to_string(&mut unpacked).unwrap();
    assert_eq!(unpacked.as_bytes(), whole);
    assert_eq!(service.hits(), 1);
    for (path, more) in [
        ("/plain", &[][..]),
        ("/z/encoded", &[("x-echo-content-encoding", "br")]),
        ("/z/whole", &[("x-echo-cache-control", "no-transform")]),
        ("/z/refused", &[("accept-encoding", "gzip;q=0")]),
    ] {
        let more: Vec<_> = [("accept-encoding", "gzip")]
            .into_iter()
            .filter(|_| path != "/z/refused")
            .chain(more.iter().copied())
            .collect();
        let (headers, _) = ask(path, &more).await;
        assert!(headers.get("content-encoding").is_none_or(|e| e != "gzip"), "{path}: {headers:?}");
    }
}
