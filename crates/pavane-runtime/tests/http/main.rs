//! HTTP calls against a local server: what is sent, what an answer becomes, and what a failure tells about the effect.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails in a test fails the test")]

mod burst;
mod certainty;
mod connections;
mod egress;
mod gate;
mod held;
mod openapi;
mod server;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use pavane_core::definition::CallOutput;
use pavane_core::engine::{Call, Credentials, HttpRequest, Outcome, Request};
use pavane_runtime::effects::{Context, Effects, NetworkOptions};
use pavane_runtime::services::{Limits, ServiceSettings};
use server::*;

#[tokio::test]
async fn what_the_author_wrote_is_what_comes() {
    let server = Server::start(|_| json("{}")).await;
    let network = network(&[]);
    let request = HttpRequest {
        headers: vec![("X-Tag".into(), "a".into()), ("Accept".into(), "text/plain".into())],
        query: vec![("q".into(), "a b&c".into()), ("n".into(), "7".into())],
        ..post(server.url("/orders?fixed=1"), r#"{"größe":1.5}"#)
    };
    send(&network, request).await;
    let came = server.last();
    assert_eq!((came.method.as_str(), came.target.as_str()), ("POST", "/orders?fixed=1&q=a%20b%26c&n=7"));
    assert_eq!(came.body, r#"{"größe":1.5}"#);
    for (name, expected) in [("content-type", "application/json"), ("x-tag", "a"), ("accept", "text/plain")] {
        assert_eq!(came.header(name), Some(expected));
    }
    for method in ["PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "PURGE"] {
        send(&network, HttpRequest { method: method.into(), ..get(server.url("/x")) }).await;
        assert_eq!(server.last().method, method);
        assert_eq!(server.last().header("content-type"), None, "there is no body");
    }
}

#[tokio::test]
async fn a_body_goes_as_its_type_says() {
    let server = Server::start(|_| json("{}")).await;
    let network = network(&[]);
    for (kind, body, expected_kind, expected) in [
        (None, r#""text""#, "application/json", r#""text""#),
        (Some("text/plain"), r#""te\nxt""#, "text/plain", "te\nxt"),
        (Some("application/vnd.a+json"), r#""text""#, "application/vnd.a+json", r#""text""#),
        (Some("application/x-www-form-urlencoded"), r#""a=1&b=2""#, "application/x-www-form-urlencoded", "a=1&b=2"),
        (None, "null", "application/json", "null"),
        (None, "[1,2]", "application/json", "[1,2]"),
    ] {
        let headers = kind.iter().map(|kind| ("Content-Type".to_owned(), (*kind).to_owned())).collect();
        send(&network, HttpRequest { headers, ..post(server.url("/x"), body) }).await;
        assert_eq!((server.last().header("content-type"), server.last().body), (Some(expected_kind), expected.into()));
    }
}

#[tokio::test]
async fn services_are_told_who_calls_and_for_which_key() {
    let server = Server::start(|_| json("{}")).await;
    let network = network(&[]);
    let own = ("Idempotency-Key".to_owned(), "the author's".to_owned());
    let request = || Request::Http(HttpRequest { headers: vec![own.clone()], ..get(server.url("/x")) });
    let mut compensation = call(request());
    compensation.compensates = Some("key-0".into());
    compensation.attempt = 3;
    perform(&network, call(request())).await;
    perform(&network, compensation).await;
    let [first, second] = &server.received()[..] else { panic!("two calls") };
    assert_eq!(first.header("idempotency-key"), Some("key-1"), "the author's own would break the promise");
    assert_eq!(first.header("pavane-instance"), Some("instance-1"));
    assert_eq!(first.header("pavane-task"), Some("/do/0/gr%C3%B6%C3%9Fe"));
    assert_eq!(first.header("pavane-attempt"), Some("2"));
    assert_eq!(first.header("pavane-compensates"), None);
    assert_eq!(second.header("pavane-compensates"), Some("key-0"));
    let traces: Vec<Vec<&str>> =
        [first, second].iter().map(|r| r.header("traceparent").unwrap().split('-').collect()).collect();
    for parts in &traces {
        let hex = |text: &str, length| {
            text.len() == length
                && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
                && text.bytes().any(|b| b != b'0')
        };
        assert!(parts.len() == 4 && parts[0] == "00" && hex(parts[1], 32) && hex(parts[2], 16) && parts[3] == "01");
    }
    assert_eq!(traces[0][1], traces[1][1], "one trace for one instance");
    assert_ne!(traces[0][2], traces[1][2], "another span for another attempt");
}

#[tokio::test]
async fn a_call_that_awaits_a_callback_is_accepted_with_202_alone() {
    let server = Server::start(|request| match request.target.as_str() {
        "/accepted" => Reply::Bytes(answer("202 Accepted", &[("content-type", "application/json")], "{}")),
        _ => json("{\"a\":1}"),
    })
    .await;
    let network = network(&[]);
    let url = "http://h/api/v1/callbacks/token";
    let context = || Context { instance: "i".into(), callback: Some(url.into()), ..Context::default() };
    let awaiting = |path: &str| Call { callback: true, ..call(Request::Http(get(server.url(path)))) };
    let accepted = network.call(context(), awaiting("/accepted")).await.unwrap().outcome;
    assert_eq!(accepted, Outcome::Accepted);
    assert_eq!(server.last().header("pavane-callback"), Some(url));
    let at_once = network.call(context(), awaiting("/done")).await.unwrap().outcome;
    assert_eq!(output(at_once), r#"{"a":1}"#, "the service had the answer already");
    // One that awaits none has its answer with 202, and gives nobody a URL.
    assert_eq!(output(perform(&network, call(Request::Http(get(server.url("/accepted"))))).await), "{}");
    assert_eq!(server.last().header("pavane-callback"), None);
    // What a response shows of its request does not hold what only the service may have.
    let shown = HttpRequest { output: CallOutput::Response, ..get(server.url("/done")) };
    let shown = Call { callback: true, ..call(Request::Http(shown)) };
    let shown = output(network.call(context(), shown).await.unwrap().outcome);
    assert!(shown.contains(r#""pavane-callback":"***""#), "{shown}");
}

#[tokio::test]
async fn an_answer_becomes_its_output_mode() {
    let typed = |kind: &str, body: &[u8]| Reply::Bytes(answer("200 OK", &[("content-type", kind)], body));
    let server = Server::start(move |request| match request.target.as_str() {
        "/json" => typed("application/json; charset=utf-8", br#"{"a":1.0}"#),
        "/problem" => typed("application/problem+json", br#"{"a":2}"#),
        "/text" => typed("text/plain", "größe".as_bytes()),
        "/xml" => typed("application/atom+xml", b"<a/>"),
        "/binary" => typed("application/octet-stream", &[0, 255, 1]),
        "/latin" => typed("text/plain", &[0xe4]),
        "/untyped" => Reply::Bytes(answer("200 OK", &[], "plain")),
        "/untyped-json" => Reply::Bytes(answer("200 OK", &[], "[1]")),
        _ => Reply::Bytes(answer("204 No Content", &[], "")),
    })
    .await;
    let network = network(&[]);
    for (path, content, raw) in [
        ("/json", r#"{"a":1.0}"#, r#""eyJhIjoxLjB9""#),
        ("/problem", r#"{"a":2}"#, r#""eyJhIjoyfQ==""#),
        ("/text", r#""größe""#, r#""Z3LDtsOfZQ==""#),
        ("/xml", r#""<a/>""#, r#""PGEvPg==""#),
        ("/binary", r#""AP8B""#, r#""AP8B""#),
        ("/latin", r#""5A==""#, r#""5A==""#),
        ("/untyped", r#""plain""#, r#""cGxhaW4=""#),
        ("/untyped-json", "[1]", r#""WzFd""#),
        ("/none", "null", r#""""#),
    ] {
        assert_eq!(output(send(&network, get(server.url(path))).await), content, "{path}");
        let request = HttpRequest { output: CallOutput::Raw, ..get(server.url(path)) };
        assert_eq!(output(send(&network, request).await), raw, "{path}");
    }
    let authentication = Some(Credentials::Bearer { token: "t0ken".into() });
    let request = HttpRequest { output: CallOutput::Response, authentication, ..get(server.url("/json")) };
    let response = value(&output(send(&network, request).await));
    let at = |path: &[&str]| {
        path.iter().try_fold(response.clone(), |value, key| value.get(key)).map(|value| value.to_json())
    };
    assert_eq!(at(&["statusCode"]).as_deref(), Some("200"));
    assert_eq!(at(&["content", "a"]).as_deref(), Some("1.0"));
    assert_eq!(at(&["headers", "content-type"]).as_deref(), Some(r#""application/json; charset=utf-8""#));
    assert_eq!(at(&["request", "method"]).as_deref(), Some(r#""get""#));
    assert_eq!(at(&["request", "uri"]), Some(format!("{:?}", server.url("/json"))));
    assert_eq!(at(&["request", "headers", "idempotency-key"]).as_deref(), Some(r#""key-1""#));
    assert!(!response.to_json().contains("t0ken"), "credentials do not become state");
}

#[tokio::test]
async fn redirects_are_followed_when_the_author_says_so() {
    let server = Server::start(|request| {
        let to = |status: &str, to: &str| Reply::Bytes(answer(status, &[("location", to)], ""));
        match request.target.as_str() {
            "/302" => to("302 Found", "a/.././end?x=1"),
            "/303" => to("303 See Other", "/end"),
            "/307" => to("307 Temporary Redirect", "/end"),
            "/loop" => to("308 Permanent Redirect", "/loop"),
            "/304" => Reply::Bytes(answer("304 Not Modified", &[], "")),
            _ => json(r#"{"end":true}"#),
        }
    })
    .await;
    let network = network(&[]);
    for (from, method, body, target) in
        [("/302", "GET", "", "/end?x=1"), ("/303", "GET", "", "/end"), ("/307", "POST", "{}", "/end")]
    {
        let refused = failure(send(&network, post(server.url(from), "{}")).await);
        assert_eq!(refused.0.to_string(), from[1..], "not followed, and no success");
        let request = HttpRequest { redirect: true, ..post(server.url(from), "{}") };
        assert_eq!(output(send(&network, request).await), r#"{"end":true}"#);
        let last = server.last();
        assert_eq!((&*last.method, &*last.body, &*last.target), (method, body, target), "{from}");
    }
    let final_3xx = HttpRequest { redirect: true, ..get(server.url("/304")) };
    assert_eq!(output(send(&network, final_3xx).await), "null");
    let endless = HttpRequest { redirect: true, ..get(server.url("/loop")) };
    assert!(failure(send(&network, endless).await).2.contains("redirects more than 10 times"));
}

#[tokio::test]
async fn credentials_stay_with_the_host_they_are_for() {
    let other = Server::start(|_| json("{}")).await;
    let target = other.url("/");
    let server =
        Server::start(move |_| Reply::Bytes(answer("307 Temporary Redirect", &[("location", &target)], ""))).await;
    let network = network(&[]);
    for (credentials, expected) in [
        (Credentials::Basic { username: "ada".into(), password: "pä:ss".into() }, "Basic YWRhOnDDpDpzcw=="),
        (Credentials::Bearer { token: "t0ken".into() }, "Bearer t0ken"),
    ] {
        let request = HttpRequest { redirect: true, authentication: Some(credentials), ..get(server.url("/")) };
        send(&network, request).await;
        assert_eq!(server.last().header("authorization"), Some(expected));
        assert_eq!(other.last().header("authorization"), None);
    }
}

#[tokio::test]
async fn a_host_name_stands_for_its_service() {
    let (one, two) = (Server::start(|_| json("1")).await, Server::start(|_| json("2")).await);
    let both = ServiceSettings { url: None, urls: vec![one.url(""), two.url("/")], ..service("") };
    let network = network(&[("payment", service(one.url("/base/"))), ("stock", both)]);
    send(&network, get("http://payment/charges?a=1")).await;
    assert_eq!(one.last().target, "/base/charges?a=1");
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(output(send(&network, get("http://stock/x")).await));
    }
    assert_eq!(answers, ["1", "2", "1", "2"], "in turn");
}

#[tokio::test]
async fn a_service_gets_no_more_calls_at_once_than_it_allows() {
    let server = Server::start(|_| Reply::Gated(answer("200 OK", &[], "1"))).await;
    let limited =
        ServiceSettings { limits: Limits { in_flight: Some(2), ..Limits::default() }, ..service(server.url("")) };
    let network = network(&[("slow", limited)]);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let network = network.clone();
        calls.spawn(async move { output(send(&network, post("http://slow/x", "{}")).await) });
    }
    for _ in 0..6 {
        server.came.notified().await;
        server.gate.notify_one();
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.unwrap(), "1");
    }
    assert_eq!((server.received().len(), server.at_once.1.load(Ordering::SeqCst) <= 2), (6, true));
}

#[tokio::test]
async fn calls_that_wait_for_a_slow_service_hold_up_no_other() {
    let slow = Server::start(|_| Reply::Gated(answer("200 OK", &[], "1"))).await;
    let quick = Server::start(|_| json("2")).await;
    let limited =
        ServiceSettings { limits: Limits { in_flight: Some(1), ..Limits::default() }, ..service(slow.url("")) };
    let services = [("slow", limited), ("quick", service(quick.url("")))];
    let network = network_with(&services, NetworkOptions { max_calls: 2, ..NetworkOptions::default() });
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let network = network.clone();
        calls.spawn(async move { output(send(&network, post("http://slow/x", "{}")).await) });
    }
    slow.came.notified().await;
    // One is at the slow service and four wait for it; the second place is free.
    assert_eq!(output(send(&network, get("http://quick/x")).await), "2");
    for _ in 0..5 {
        slow.gate.notify_one();
        assert_eq!(calls.join_next().await.unwrap().unwrap(), "1");
    }
}

#[tokio::test]
async fn https_is_checked_against_the_given_authority() {
    let certified = rcgen::generate_simple_self_signed(vec!["shop.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let server = Server::start_with(Some(acceptor), |_| json(r#""secure""#)).await;
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, certified.cert.pem()).unwrap();
    let resolve: Vec<(String, Option<u16>, SocketAddr)> = vec![("shop.example".into(), None, server.address)];
    let options = NetworkOptions { resolve, ..NetworkOptions::default() };
    let trusting = network_with(&[], NetworkOptions { ca: Some(ca), ..options.clone() });
    assert_eq!(output(send(&trusting, get("https://shop.example/x")).await), r#""secure""#);
    assert_eq!(server.last().header("host"), Some("shop.example"), "the name stays, whatever the address");
    let doubting = network_with(&[], options);
    let (status, _, detail, certainty) = failure(send(&doubting, get("https://shop.example/x")).await);
    assert_eq!((status, certainty), (500, pavane_core::engine::Certainty::NotSent));
    assert!(detail.contains("certificate"), "{detail}");
}
