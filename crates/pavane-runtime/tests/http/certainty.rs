//! What a failure tells about the effect: this decides whether a repeat keeps its key and whether a task is undone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pavane_core::engine::{Certainty, HttpRequest, Request};
use pavane_runtime::effects::NetworkOptions;
use pavane_runtime::services::{Idempotency, ServiceSettings};

use crate::server::*;

#[tokio::test]
async fn an_answer_is_definite_and_a_gateways_is_not() {
    let server = Server::start(|request| {
        let status = format!("{} Some Reason", &request.target[1..]);
        Reply::Bytes(answer(&status, &[("content-type", "text/plain")], "out of paper"))
    })
    .await;
    let network = network(&[]);
    for (status, title, certainty) in [
        (400, "Bad Request", Certainty::Definite),
        (404, "Not Found", Certainty::Definite),
        (408, "Request Timeout", Certainty::Definite),
        (429, "Too Many Requests", Certainty::Definite),
        (500, "Internal Server Error", Certainty::Definite),
        (502, "Bad Gateway", Certainty::Indeterminate),
        (503, "Service Unavailable", Certainty::Definite),
        (504, "Gateway Timeout", Certainty::Indeterminate),
        (599, "Communication Error", Certainty::Definite),
    ] {
        let told = failure(send(&network, post(server.url(&format!("/{status}")), "{}")).await);
        assert_eq!((told.0, told.1.as_str(), told.3), (status, title, certainty));
        assert!(told.2.contains("out of paper"), "{}", told.2);
    }
}

#[tokio::test]
async fn a_refused_connection_has_sent_nothing() {
    let (_kept, closed) = refusing();
    let network = network(&[]);
    for uri in [format!("http://{closed}/"), "http://no-such-host.invalid/".to_owned()] {
        let (status, _, detail, certainty) = failure(send(&network, post(uri, "{}")).await);
        assert_eq!((status, certainty), (500, Certainty::NotSent), "{detail}");
    }
    for uri in ["http://", "no uri at all", "/relative"] {
        let (status, _, detail, certainty) = failure(send(&network, post(uri, "{}")).await);
        assert_eq!((status, certainty), (400, Certainty::NotSent), "{detail}");
    }
}

#[tokio::test]
async fn a_cut_after_the_request_left_tells_nothing_and_is_not_repeated() {
    let server = Server::start(|request| match request.target.as_str() {
        "/head" => Reply::Cut(b"HTTP/1.1 200 O".to_vec()),
        "/body" => Reply::Cut(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec()),
        "/refused" => Reply::Cut(b"HTTP/1.1 409 Conflict\r\ncontent-length: 100\r\n\r\nhalf".to_vec()),
        _ => Reply::Cut(Vec::new()),
    })
    .await;
    let network = network(&[("shop", service(server.url("")))]);
    for (path, status, certainty) in [
        ("/", 500, Certainty::Indeterminate),
        ("/head", 500, Certainty::Indeterminate),
        ("/body", 500, Certainty::Indeterminate),
        // The answer was cut, the decision was not.
        ("/refused", 409, Certainty::Definite),
    ] {
        let before = server.received().len();
        let told = failure(send(&network, post(format!("http://shop{path}"), "{}")).await);
        assert_eq!((told.0, told.3), (status, certainty), "{path}: {}", told.2);
        assert!(told.2.contains("(service shop)") || status == 409, "{}", told.2);
        assert_eq!(server.received().len(), before + 1, "{path} is sent once");
    }
}

#[tokio::test]
async fn what_is_late_may_have_happened_unless_it_never_left() {
    let server = Server::start(|_| Reply::Gated(Vec::new())).await;
    let impatient = ServiceSettings { timeout: Some(Duration::from_millis(300)), ..service(server.url("")) };
    let network = network(&[("slow", impatient)]);
    let (status, _, detail, certainty) = failure(send(&network, post("http://slow/x", "{}")).await);
    assert_eq!((status, certainty), (408, Certainty::Indeterminate), "{detail}");
    let mut due = call(Request::Http(post(server.url("/x"), "{}")));
    due.deadline = Some(after(Duration::from_millis(300)));
    let (status, _, detail, certainty) = failure(perform(&network, due).await);
    assert_eq!((status, certainty), (408, Certainty::Indeterminate), "{detail}");
    assert_eq!(server.received().len(), 2);
}

#[tokio::test]
async fn a_call_that_is_late_before_its_turn_has_sent_nothing() {
    let server = Server::start(|_| Reply::Gated(answer("200 OK", &[], ""))).await;
    let network = network_with(&[], NetworkOptions { max_per_authority: 1, ..NetworkOptions::default() });
    let first = tokio::spawn({
        let (network, uri) = (network.clone(), server.url("/first"));
        async move { send(&network, post(uri, "{}")).await }
    });
    server.came.notified().await;
    let mut due = call(Request::Http(post(server.url("/second"), "{}")));
    due.deadline = Some(after(Duration::from_millis(100)));
    let (status, _, _, certainty) = failure(perform(&network, due).await);
    assert_eq!((status, certainty), (408, Certainty::NotSent));
    server.gate.notify_one();
    output(first.await.unwrap());
    assert_eq!(server.received().len(), 1);
}

#[tokio::test]
async fn a_deadline_that_passes_while_connecting_has_sent_nothing() {
    // A server of TLS that never answers the first message: the connection is not made yet.
    let server = Server::start(|_| Reply::Cut(Vec::new())).await;
    let uri = format!("https://{}/", server.address);
    let mut due = call(Request::Http(post(uri, "{}")));
    due.deadline = Some(after(Duration::from_millis(200)));
    let (_, _, detail, certainty) = failure(perform(&network(&[]), due).await);
    assert_eq!(certainty, Certainty::NotSent, "{detail}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_not_taken() {
    let server = Server::start(|request| {
        let status = if request.target == "/ok" { "200 OK" } else { "422 Unprocessable Content" };
        Reply::Bytes(answer(status, &[("content-type", "text/plain")], "x".repeat(2_000)))
    })
    .await;
    let network = network_with(&[], NetworkOptions { max_body: 1_000, ..NetworkOptions::default() });
    let (status, _, detail, certainty) = failure(send(&network, post(server.url("/ok"), "{}")).await);
    assert_eq!((status, certainty), (500, Certainty::Indeterminate));
    assert!(detail.contains("over 1000 bytes"), "{detail}");
    let (status, _, _, certainty) = failure(send(&network, post(server.url("/no"), "{}")).await);
    assert_eq!((status, certainty), (422, Certainty::Definite), "that it said no was read");
}

#[tokio::test]
async fn a_success_that_cannot_be_read_has_happened() {
    let server = Server::start(|_| json("{broken")).await;
    let (status, _, detail, certainty) = failure(send(&network(&[]), post(server.url("/"), "{}")).await);
    assert_eq!((status, certainty), (500, Certainty::Indeterminate));
    assert!(detail.contains("no JSON"), "{detail}");
}

#[tokio::test]
async fn after_a_redirect_that_told_of_work_done_a_failure_is_not_definite() {
    let (_kept, closed) = refusing();
    let server = Server::start(move |request| {
        let gone = format!("http://{closed}/");
        match request.target.as_str() {
            "/done" => Reply::Bytes(answer("303 See Other", &[("location", "/missing")], "")),
            "/done-elsewhere" => Reply::Bytes(answer("303 See Other", &[("location", &gone)], "")),
            "/moved" => Reply::Bytes(answer("307 Temporary Redirect", &[("location", &gone)], "")),
            _ => Reply::Bytes(answer("404 Not Found", &[], "")),
        }
    })
    .await;
    for (path, certainty) in [
        ("/done", Certainty::Indeterminate),
        ("/done-elsewhere", Certainty::Indeterminate),
        ("/moved", Certainty::NotSent),
        ("/missing", Certainty::Definite),
    ] {
        let request = HttpRequest { redirect: true, ..post(server.url(path), "{}") };
        assert_eq!(failure(send(&network(&[]), request).await).3, certainty, "{path}");
    }
}

/// A server that serves one request on a connection, says that more may come, and closes it when the second arrives:
/// what a service does that gives up an idle connection just when it is used again.
async fn closing() -> Server {
    let last = AtomicUsize::new(0);
    Server::start(move |request| {
        if last.swap(request.connection, Ordering::SeqCst) == request.connection {
            Reply::Cut(Vec::new())
        } else {
            json("1")
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_no_error_of_a_call_that_may_be_repeated() {
    for (idempotency, method, fails) in [
        (Some(Idempotency::Key), "POST", false),
        (Some(Idempotency::Natural), "POST", false),
        (Some(Idempotency::None), "POST", true),
        (Some(Idempotency::None), "PUT", false),
        (None, "POST", true),
        (None, "GET", false),
    ] {
        let server = closing().await;
        let mut settings = service(server.url(""));
        let uri = if idempotency.is_some() { "http://shop/x".to_owned() } else { server.url("/x") };
        settings.idempotency = idempotency.unwrap_or_default();
        let network = network(&[("shop", settings)]);
        let request = || HttpRequest { method: method.into(), ..post(uri.clone(), "{}") };
        assert_eq!(output(send(&network, request()).await), "1");
        let second = send(&network, request()).await;
        let case = format!("{idempotency:?} {method}");
        if fails {
            assert_eq!(failure(second).3, Certainty::Indeterminate, "{case}");
            assert_eq!(server.received().len(), 2, "{case}");
        } else {
            assert_eq!(output(second), "1", "{case}");
            let keys: Vec<_> = server
                .received()
                .iter()
                .map(|r| (r.header("idempotency-key").map(str::to_owned), r.body.clone()))
                .collect();
            assert_eq!(keys.len(), 3, "{case}");
            assert_eq!(keys[1], keys[2], "{case}: the same key and body");
        }
    }
}

#[tokio::test]
async fn a_compressed_answer_is_not_expanded() {
    // 64 KiB of zeros in 93 bytes would be a small bomb; an empty object in gzip shows the same.
    const GZIP: &[u8] = &[31, 139, 8, 0, 0, 0, 0, 0, 0, 3, 171, 174, 5, 0, 67, 191, 166, 163, 2, 0, 0, 0];
    let server = Server::start(|request| {
        let kind = if request.target == "/json" { "application/json" } else { "text/plain" };
        Reply::Bytes(answer("200 OK", &[("content-type", kind), ("content-encoding", "gzip")], GZIP))
    })
    .await;
    let network = network(&[]);
    let (_, _, detail, certainty) = failure(send(&network, get(server.url("/json"))).await);
    assert!(detail.contains("no JSON") && certainty == Certainty::Indeterminate, "{detail}");
    assert_eq!(server.last().header("accept-encoding"), None, "it was not asked for");
    assert_eq!(output(send(&network, get(server.url("/text"))).await), r#""H4sIAAAAAAAAA6uuBQBDv6ajAgAAAA==""#);
}
