//! The service behind both doors: it tells what it was asked, answers as badly as it is told to, streams when it is let,
//! speaks back over a WebSocket, and is a gRPC service on a second port.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A service and where it is.
#[derive(Clone)]
pub struct Service {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    /// Lets the stream of `/stream` go on.
    pub go_on: Arc<Notify>,
    fetched: Arc<AtomicU64>,
}

impl Service {
    pub async fn serve() -> Service {
        let (http, grpc) = (listen().await, listen().await);
        let at = |listener: &TcpListener| listener.local_addr().expect("an address");
        let service = Service { http: at(&http), grpc: at(&grpc), go_on: Arc::default(), fetched: Arc::default() };
        tokio::spawn(service.clone().accept(http, false));
        tokio::spawn(service.clone().accept(grpc, true));
        service
    }

    async fn accept(self, listener: TcpListener, grpc: bool) {
        while let Ok((stream, _)) = listener.accept().await {
            let service = self.clone();
            tokio::spawn(async move {
                let answer = service_fn(move |request| {
                    let service = service.clone();
                    async move {
                        Ok::<_, Infallible>(if grpc { called(request).await } else { service.answer(request).await })
                    }
                });
                let stream = TokioIo::new(stream);
                // A client that goes away ends its connection.
                let _ = match grpc {
                    true => {
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(stream, answer)
                            .await
                    }
                    false => {
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(stream, answer)
                            .with_upgrades()
                            .await
                    }
                };
            });
        }
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match segments.as_slice() {
            ["status", status] => {
                let answer = Response::builder().status(*status).header("x-service", "said so");
                let answer = match *status {
                    "302" => answer.header(header::LOCATION, "http://elsewhere.example/a?b=c"),
                    "401" => answer.header(header::WWW_AUTHENTICATE, "Basic realm=\"inner\""),
                    "503" => answer.header(header::RETRY_AFTER, "7"),
                    _ => answer,
                };
                let body = if matches!(*status, "204" | "304") { Bytes::new() } else { Bytes::from("as asked\n") };
                answer.body(Full::new(body).boxed_unsync()).expect("an answer")
            }
            ["late"] => {
                tokio::time::sleep(Duration::from_secs(2)).await;
                text("late\n")
            }
            ["large"] => text(&"0123456789abcdef".repeat(64 << 10)),
            ["chunks"] => {
                let chunks = (0..100).map(|n| Ok(Frame::data(Bytes::from(format!("chunk {n}\n")))));
                Response::new(StreamBody::new(futures_util::stream::iter(chunks)).boxed_unsync())
            }
            ["stream"] => self.stream(),
            ["kept"] => {
                let number = self.fetched.fetch_add(1, Ordering::Relaxed);
                let mut answer = text(&format!("fetched {number}\n"));
                answer.headers_mut().insert(header::ETAG, HeaderValue::from_static("\"one\""));
                answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
                answer
            }
            ["cookies"] => {
                let mut answer = text("two\n");
                answer.headers_mut().append(header::SET_COOKIE, HeaderValue::from_static("a=1; Path=/"));
                answer.headers_mut().append(header::SET_COOKIE, HeaderValue::from_static("b=2; HttpOnly"));
                answer
            }
            ["socket"] => socket(&mut request),
            _ => told(request).await,
        }
    }

    /// One event at once, the second when the test has seen the first.
    fn stream(&self) -> Response<Body> {
        let go_on = self.go_on.clone();
        let events = futures_util::stream::unfold(0, move |number| {
            let go_on = go_on.clone();
            async move {
                match number {
                    0 => Some((Ok(Frame::data(Bytes::from("data: first\n\n"))), 1)),
                    1 => {
                        go_on.notified().await;
                        Some((Ok(Frame::data(Bytes::from("data: second\n\n"))), 2))
                    }
                    _ => None,
                }
            }
        });
        let mut answer = Response::new(StreamBody::new(events).boxed_unsync());
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        answer
    }
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a port")
}

fn text(body: &str) -> Response<Body> {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_owned())).boxed_unsync());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

/// Tells what came.
async fn told(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let headers: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    let told = json!({
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "headers": headers,
        "length": body.len(),
        "body": String::from_utf8_lossy(body.get(..body.len().min(200)).unwrap_or_default()),
    });
    let mut answer = text(&told.to_string());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Goes on as a WebSocket, as far as this test looks: bytes come back in capitals.
fn socket(request: &mut Request<Incoming>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.expect("an upgrade"));
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            buffer.make_ascii_uppercase();
            if stream.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    });
    Response::builder()
        .status(101)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        .body(Full::new(Bytes::new()).boxed_unsync())
        .expect("an answer")
}

/// A gRPC call: the message comes back, the status is a trailer.
async fn called(request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let te = request.headers().get(header::TE).cloned();
    let message = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut trailers = HeaderMap::new();
    let status = if path == "/shop.Orders/Get" { "0" } else { "12" };
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    let frames = [Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
    let mut answer = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync());
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer.headers_mut().insert("x-te", te.unwrap_or(HeaderValue::from_static("none")));
    answer
}
