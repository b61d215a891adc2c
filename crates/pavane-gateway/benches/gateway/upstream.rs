//! The service behind both proxies: one thread, an answer as fast as it can be. GET gets 512 bytes, everything else what
//! the calls of an order need.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Serves until the process ends; prints its address first.
pub async fn serve() {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
    println!("{}", listener.local_addr().expect("its address"));
    let text = |status: &str, kind: &str, body: &str| -> &'static [u8] {
        let head = format!(
            "HTTP/1.1 {status}\r\ndate: Thu, 26 Nov 2026 12:00:00 GMT\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        (head + body).into_bytes().leak()
    };
    let get = text("200 OK", "text/plain", &"x".repeat(512));
    let other = text("201 Created", "application/json", r#"{"id":"x-7f3a9c","status":"accepted"}"#);
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        tokio::spawn(connection(stream, get, other));
    }
}

async fn connection(mut stream: TcpStream, get: &'static [u8], other: &'static [u8]) {
    let mut buffer = vec![0; 32 << 10];
    let mut filled = 0;
    loop {
        let read = buffer.get(..filled).unwrap_or_default();
        if let Some(whole) = length(read).filter(|whole| filled >= *whole) {
            let answer = if read.starts_with(b"GET ") { get } else { other };
            buffer.copy_within(whole..filled, 0);
            filled -= whole;
            if stream.write_all(answer).await.is_err() {
                return;
            }
            continue;
        }
        match stream.read(buffer.get_mut(filled..).unwrap_or_default()).await {
            Ok(count @ 1..) => filled += count,
            _ => return,
        }
    }
}

/// Bytes of head and body, once the head is there.
fn length(read: &[u8]) -> Option<usize> {
    let head = read.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    if read.starts_with(b"GET ") {
        return Some(head);
    }
    let text = std::str::from_utf8(read.get(..head)?).ok()?;
    let name = "content-length:";
    let line = text.lines().find(|line| line.get(..name.len()).is_some_and(|n| n.eq_ignore_ascii_case(name)));
    let body = line.and_then(|line| line.get(name.len()..)?.trim().parse().ok()).unwrap_or(0);
    Some(head + body)
}
