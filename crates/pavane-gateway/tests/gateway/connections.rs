//! Connections to services: kept, given up, and never confused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{PATIENCE, Served, serve};

/// What a service does with its connection after an answer.
#[derive(Clone, Copy, PartialEq)]
enum After {
    /// It waits for the next request.
    Keep,
    /// It says that it closes, and does.
    Say,
    /// It closes without a word.
    Close,
    /// It sends bytes that nobody has asked for.
    Chatter,
}

/// A service that answers each request with its target and counts its connections. The body of `/large` never ends.
struct Scripted {
    url: String,
    connections: Arc<AtomicUsize>,
}

impl Scripted {
    async fn start(after: After) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(Scripted::connection(stream, after));
            }
        });
        Scripted { url, connections }
    }

    async fn connection(mut stream: TcpStream, after: After) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let mut filled = 0;
            while !buffer[..filled].windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut buffer[filled..]).await {
                    Ok(count @ 1..) => filled += count,
                    _ => return,
                }
            }
            let head = String::from_utf8_lossy(&buffer[..filled]).into_owned();
            let target = head.split(' ').nth(1).unwrap().to_owned();
            let (length, close) = match (target.as_str(), after) {
                ("/large", _) => (1 << 30, ""),
                (_, After::Say) => (target.len(), "connection: close\r\n"),
                _ => (target.len(), ""),
            };
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{close}\r\n{target}");
            let extra = if after == After::Chatter { "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong" } else { "" };
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
            if !extra.is_empty() {
                // In a packet of its own, when the connection rests.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let _ = stream.write_all(extra.as_bytes()).await;
            }
            if matches!(after, After::Say | After::Close) {
                return;
            }
        }
    }

    async fn behind(&self) -> Served {
        let upstreams = "gateway: { upstreams: { a: { retries: { attempts: 0 } } } }\n";
        let routes = "routes: [ { match: { path: '/*' }, service: a } ]\n";
        serve(&format!("{upstreams}services: {{ a: ['{}'] }}\n{routes}", self.url)).await
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let service = Scripted::start(After::Keep).await;
    let served = service.behind().await;
    for number in 0..20 {
        let path = format!("/{number}");
        let got = served.ask(["GET", "POST", "HEAD"][number % 3], &path, &[], "").await;
        assert_eq!(got.status, 200);
        // What a HEAD would have brought is not read as the next answer.
        assert_eq!(got.text, if number % 3 == 2 { "" } else { &path });
    }
    // A HEAD is answered with a body here, which is an error of the service: its connection is given up.
    assert!(service.connections() <= 8, "{}", service.connections());
}

#[tokio::test]
async fn a_connection_that_the_service_closes_is_not_used_again() {
    for after in [After::Say, After::Close] {
        let service = Scripted::start(after).await;
        let served = service.behind().await;
        for number in 0..5 {
            let path = format!("/{number}");
            // Not idempotent, and without retries: a connection that is gone would be an error.
            let got = served.ask("POST", &path, &[], "").await;
            assert_eq!((got.status, got.text.as_str()), (200, path.as_str()), "{number}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(service.connections(), 5);
    }
}

#[tokio::test]
async fn what_a_service_sends_unasked_is_nobodys_answer() {
    let service = Scripted::start(After::Chatter).await;
    let served = service.behind().await;
    for number in 0..5 {
        let path = format!("/{number}");
        let got = served.ask("POST", &path, &[], "").await;
        assert_eq!((got.status, got.text.as_str()), (200, path.as_str()), "{number}");
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
    assert_eq!(service.connections(), 5, "a connection with stray bytes is given up");
}

#[tokio::test]
async fn an_answer_that_is_not_read_to_its_end_costs_its_connection() {
    let service = Scripted::start(After::Keep).await;
    let served = service.behind().await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut some = [0; 64];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut some)).await.unwrap().unwrap();
    assert!(read > 0);
    // The client goes away in the middle of it.
    drop(stream);
    let gone = async {
        while served.gateway.numbers().upstreams[0].in_flight > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("its place is free");
    assert_eq!(served.get("/next").await.text, "/next");
    assert_eq!(service.connections(), 2);
}

#[tokio::test]
async fn requests_at_the_same_time_have_connections_of_their_own() {
    let service = Scripted::start(After::Keep).await;
    let served = Arc::new(service.behind().await);
    for _ in 0..3 {
        let asked: Vec<_> = (0..32)
            .map(|number| {
                let served = served.clone();
                tokio::spawn(async move {
                    let path = format!("/{number}");
                    (served.get(&path).await.text, path)
                })
            })
            .collect();
        for asked in asked {
            let (text, path) = asked.await.unwrap();
            assert_eq!(text, path);
        }
    }
    assert!(service.connections() <= 32, "{}: they are kept", service.connections());
}
