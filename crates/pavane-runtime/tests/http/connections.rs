//! Connections to services: that they are used again, that one which is of no more use is not, and that a call on one of
//! them ends as it would on a new one.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use pavane_core::engine::{Certainty, HttpRequest, Outcome, Request};
use pavane_runtime::effects::{Network, NetworkOptions};
use pavane_runtime::services::ServiceSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::server::*;

const A_MOMENT: Duration = Duration::from_millis(50);

/// Lets come what a service sends by now, in turns, however late each of them is.
async fn a_moment() {
    for _ in 0..5 {
        tokio::time::sleep(A_MOMENT / 5).await;
    }
}

/// By how many connections a server was called.
fn connections(server: &Server) -> usize {
    server.received().iter().map(|request| request.connection).max().unwrap_or_default()
}

async fn within(network: &Network, request: HttpRequest, limit: Duration) -> Outcome {
    let mut due = call(Request::Http(request));
    due.deadline = Some(after(limit));
    perform(network, due).await
}

#[tokio::test]
async fn calls_one_after_another_share_a_connection() {
    let server = Server::start(|_| json("1")).await;
    let network = network(&[]);
    for _ in 0..50 {
        assert_eq!(output(send(&network, post(server.url("/x"), "{}")).await), "1");
        assert_eq!(output(send(&network, get(server.url("/x"))).await), "1");
    }
    assert_eq!((server.received().len(), connections(&server)), (100, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_at_once_have_a_connection_each_and_those_after_them_take_the_same() {
    let server = Server::start(|_| Reply::Gated(answer("200 OK", &[], "1"))).await;
    let network = network(&[]);
    for _ in 0..3 {
        let mut calls = JoinSet::new();
        for _ in 0..64 {
            let (network, uri) = (network.clone(), server.url("/x"));
            calls.spawn(async move { output(send(&network, post(uri, "{}")).await) });
        }
        while !calls.is_empty() {
            server.gate.notify_one();
            if let Ok(Some(answer)) = tokio::time::timeout(Duration::from_millis(1), calls.join_next()).await {
                assert_eq!(answer.unwrap(), "1");
            }
        }
    }
    assert_eq!(server.received().len(), 3 * 64);
    assert!(connections(&server) <= 64, "{}", connections(&server));
}

#[tokio::test]
async fn an_answer_that_says_so_is_the_last_of_its_connection() {
    let server = Server::start(|request| match request.target.as_str() {
        // It says so, and stays open all the same.
        "/close" => Reply::Bytes(answer("200 OK", &[("connection", "close")], "1")),
        "/gone" => Reply::Cut(answer("200 OK", &[("connection", "close")], "1")),
        // Its body ends with the connection.
        _ => Reply::Cut(b"HTTP/1.0 200 OK\r\n\r\n\"to the end\"".to_vec()),
    })
    .await;
    let network = network(&[]);
    for (path, expected) in [("/close", "1"), ("/gone", "1"), ("/old", r#""to the end""#)] {
        let before = connections(&server);
        for _ in 0..3 {
            assert_eq!(output(send(&network, post(server.url(path), "{}")).await), expected, "{path}");
        }
        assert_eq!(connections(&server), before + 3, "{path}");
    }
    assert_eq!(server.received().len(), 9, "none was sent twice");
}

#[tokio::test]
async fn whatever_way_a_body_ends_the_connection_is_used_again() {
    let server = Server::start(|request| {
        Reply::Bytes(match request.target.as_str() {
            "/chunks" => {
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[1\r\n3\r\n,2]\r\n0\r\nx-trailer: t\r\n\r\n"
                    .to_vec()
            }
            "/none" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            "/head" => b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".to_vec(),
            "/hints" => {
                [b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".to_vec(), answer("200 OK", &[], "1")].concat()
            }
            "/large" => answer("200 OK", &[("content-type", "text/plain")], "x".repeat(3 << 20)),
            _ => answer("200 OK", &[], ""),
        })
    })
    .await;
    let network = network(&[]);
    let large = format!("{:?}", "x".repeat(3 << 20));
    for (method, path, expected) in [
        ("GET", "/chunks", "[1,2]"),
        ("GET", "/none", "null"),
        ("HEAD", "/head", "null"),
        ("GET", "/empty", "null"),
        ("POST", "/hints", "1"),
        ("GET", "/large", &large),
        ("GET", "/chunks", "[1,2]"),
    ] {
        let request = HttpRequest { method: method.into(), ..get(server.url(path)) };
        assert!(output(send(&network, request).await) == expected, "{method} {path}");
    }
    assert_eq!((server.received().len(), connections(&server)), (7, 1));
}

#[tokio::test]
async fn a_connection_that_was_closed_is_seen_to_be_so_before_anything_is_sent() {
    // It does not say that it closes. What comes after an answer is none that was asked for.
    for more in ["", "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"] {
        let server = Server::start(move |_| Reply::Left(answer("200 OK", &[], "1"), more.into())).await;
        let network = network(&[]);
        for n in 1..=4 {
            // Not to be repeated: a request that might have been read would fail.
            assert_eq!(output(send(&network, post(server.url("/x"), "{}")).await), "1", "{more}");
            a_moment().await;
            assert_eq!((server.received().len(), connections(&server)), (n, n), "{more}");
        }
    }
}

#[tokio::test]
async fn of_many_connections_that_are_given_up_each_is_tried_once() {
    // It gives a connection up just when it is used again. The first calls wait for each other.
    let seen = Mutex::new(BTreeSet::new());
    let server = Server::start(move |request| match seen.lock().unwrap().insert(request.connection) {
        true if request.connection <= 8 => Reply::Gated(answer("200 OK", &[], "1")),
        true => json("1"),
        false => Reply::Cut(Vec::new()),
    })
    .await;
    let network = network(&[]);
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let (network, uri) = (network.clone(), server.url("/x"));
            tokio::spawn(async move { output(send(&network, post(uri, "{}")).await) })
        })
        .collect();
    while server.received().len() < 8 {
        server.came.notified().await;
    }
    a_moment().await;
    server.gate.notify_waiters();
    for answer in calls {
        assert_eq!(answer.await.unwrap(), "1");
    }
    let once = failure(send(&network, post(server.url("/x"), "{}")).await);
    assert_eq!((once.3, server.received().len()), (Certainty::Indeterminate, 9), "{}", once.2);
    let put = HttpRequest { method: "PUT".into(), ..post(server.url("/x"), "{}") };
    assert_eq!(output(send(&network, put).await), "1");
    assert_eq!((server.received().len(), connections(&server)), (17, 9));
}

#[tokio::test]
async fn a_service_that_ends_with_a_request_may_have_done_what_it_says() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/x", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for reply in [answer("200 OK", &[], "1"), Vec::new()] {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(&reply).await.unwrap();
        }
        // With this it takes no more connections.
        drop(listener);
    });
    let network = network(&[]);
    let request = || HttpRequest { method: "PUT".into(), ..get(&uri) };
    assert_eq!(output(send(&network, request()).await), "1");
    let (status, _, detail, certainty) = failure(send(&network, request()).await);
    served.await.unwrap();
    assert!(detail.contains("Connection refused"), "the request is repeated: {detail}");
    assert_eq!((status, certainty), (500, Certainty::Indeterminate), "what has come of the first one, nobody knows");
    // Before the next, nothing has left.
    assert_eq!(failure(send(&network, request()).await).3, Certainty::NotSent);
}

#[tokio::test]
async fn a_new_connection_that_breaks_off_is_not_tried_again() {
    let server = Server::start(|_| Reply::Cut(Vec::new())).await;
    let network = network(&[]);
    for request in [get(server.url("/x")), post(server.url("/x"), "{}")] {
        let before = server.received().len();
        let (status, _, detail, certainty) = failure(send(&network, request).await);
        assert_eq!((status, certainty), (500, Certainty::Indeterminate), "{detail}");
        assert!(detail.contains("connection closed before message completed"), "{detail}");
        assert_eq!(server.received().len(), before + 1);
    }
}

#[tokio::test]
async fn what_is_left_of_a_body_is_no_answer_to_the_next_call() {
    let server = Server::start(|request| match request.target.as_str() {
        "/over" => Reply::Bytes(answer("200 OK", &[], "x".repeat(100_000))),
        "/no" => Reply::Bytes(answer("422 Unprocessable Entity", &[], "x".repeat(100_000))),
        "/half" => Reply::Cut(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec()),
        "/chunk" => {
            Reply::Bytes(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n".to_vec())
        }
        _ => json("1"),
    })
    .await;
    let network = network_with(&[], NetworkOptions { max_body: 1_000, ..NetworkOptions::default() });
    for (path, status, certainty, told) in [
        ("/over", 500, Certainty::Indeterminate, "a body over 1000 bytes"),
        ("/no", 422, Certainty::Definite, "422"),
        ("/half", 500, Certainty::Indeterminate, "a body that broke off"),
        ("/chunk", 500, Certainty::Indeterminate, "a body that broke off"),
    ] {
        assert_eq!(output(send(&network, get(server.url("/fine"))).await), "1", "{path}");
        let failed = failure(send(&network, get(server.url(path))).await);
        assert_eq!((failed.0, failed.3), (status, certainty), "{path}: {}", failed.2);
        assert!(failed.2.contains(told), "{path}: {}", failed.2);
    }
    assert_eq!(output(send(&network, get(server.url("/fine"))).await), "1");
    assert_eq!((server.received().len(), connections(&server)), (9, 5));
}

#[tokio::test]
async fn a_deadline_tells_how_far_the_call_came() {
    let stalled = |bytes: &str| Reply::Stalled(bytes.into());
    let server = Server::start(move |request| match request.target.as_str() {
        "/nothing" => stalled(""),
        "/head" => stalled("HTTP/1.1 200 OK\r\ncontent-"),
        "/body" => stalled("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"),
        "/chunks" => stalled("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        "/refused" => stalled("HTTP/1.1 409 Conflict\r\ncontent-length: 10\r\n\r\nhalf"),
        _ => json("1"),
    })
    .await;
    let network = network(&[]);
    for kept in [false, true] {
        for (path, status, certainty) in [
            ("/nothing", 408, Certainty::Indeterminate),
            ("/head", 408, Certainty::Indeterminate),
            ("/body", 408, Certainty::Indeterminate),
            ("/chunks", 408, Certainty::Indeterminate),
            ("/refused", 409, Certainty::Definite),
        ] {
            if kept {
                assert_eq!(output(send(&network, get(server.url("/fine"))).await), "1");
            }
            let before = server.received().len();
            let limit = Duration::from_millis(200);
            let failed = failure(within(&network, post(server.url(path), "{}"), limit).await);
            assert_eq!((failed.0, failed.3), (status, certainty), "{path}: {}", failed.2);
            assert_eq!(server.received().len(), before + 1, "{path}");
        }
    }
    assert_eq!(connections(&server), 10, "what is late is not waited for");
}

#[tokio::test]
async fn a_deadline_before_there_is_a_connection_has_sent_nothing() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody is let in any more once this many wait.
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(A_MOMENT * 4, TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
    }
    for resolve in [Vec::new(), vec![("shop.example".to_owned(), None, address)]] {
        let host = if resolve.is_empty() { address.to_string() } else { "shop.example".into() };
        let options = NetworkOptions { resolve, connect_timeout: A_MOMENT * 6, ..NetworkOptions::default() };
        let network = network_with(&[], options);
        let request = || post(format!("http://{host}/x"), "{}");
        let (status, _, detail, certainty) = failure(within(&network, request(), A_MOMENT * 4).await);
        assert_eq!((status, certainty), (408, Certainty::NotSent), "{detail}");
        let (status, _, detail, certainty) = failure(send(&network, request()).await);
        assert_eq!((status, certainty), (500, Certainty::NotSent), "{detail}");
        assert!(detail.contains("no connection"), "{detail}");
    }
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_has_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        let mut open = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            // It reads no more of it.
            stream.write_all(&answer("413 Payload Too Large", &[], "too large")).await.unwrap();
            open.push(stream);
        }
        open
    });
    let network = network(&[]);
    let large = format!("{:?}", "x".repeat(16 << 20));
    for _ in 0..2 {
        let request = post(format!("http://{address}/x"), &large);
        let (status, _, detail, certainty) = failure(within(&network, request, Duration::from_secs(10)).await);
        assert_eq!((status, certainty), (413, Certainty::Definite), "{detail}");
        assert!(detail.ends_with("too large"), "{detail}");
    }
    assert_eq!(served.await.unwrap().len(), 2, "one that has not taken its request is not used again");
}

#[tokio::test]
async fn what_was_a_service_is_not_reached_by_what_is_left_of_it() {
    let server = Server::start(|_| json("1")).await;
    let egress = pavane_runtime::effects::EgressSettings { deny_private: true, ..Default::default() };
    let settings: ServiceSettings = service(server.url(""));
    let network = network_with(&[("shop", settings)], NetworkOptions { egress, ..NetworkOptions::default() });
    assert_eq!(output(send(&network, get("http://shop/x")).await), "1");
    network.replace(&Default::default());
    let (_, _, detail, certainty) = failure(send(&network, get(server.url("/x"))).await);
    assert!(detail.contains("egress.deny_private") && certainty == Certainty::NotSent, "{detail}");
    assert_eq!(server.received().len(), 1);
}
