//! A hand-written pooled HTTP/1.1 client: as little as can be between the measurement and the socket. It is the
//! client of the load, and the benchmark's baseline.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::bytes::{Counted, Traffic};

/// Connections to one address.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    places: Semaphore,
    traffic: Traffic,
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// Nobody took the connection: it was not sent.
    #[error("{0}")]
    Refused(String),
    /// The connection ended before the answer: it may have been taken.
    #[error("{0}")]
    Cut(String),
}

impl From<Unanswered> for String {
    fn from(unanswered: Unanswered) -> String {
        unanswered.to_string()
    }
}

impl Pool {
    /// At most `most` connections to `address`.
    pub fn new(address: SocketAddr, most: usize) -> Pool {
        let traffic = Traffic::default();
        Pool(Arc::new(Inner { address, idle: Mutex::default(), places: Semaphore::new(most), traffic }))
    }

    /// The bytes of its connections.
    pub fn traffic(&self) -> &Traffic {
        &self.0.traffic
    }

    /// A request to its address with a JSON body.
    ///
    /// # Errors
    /// A path or a header that cannot be one.
    pub fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.0.address.to_string())
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Full::new(Bytes::from(body.to_string()))).map_err(|e| e.to_string())
    }

    /// Sends one request and reads its answer.
    ///
    /// # Errors
    /// When there is none.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Unanswered> {
        let told = |e: &dyn std::fmt::Display| format!("{}: {e}", self.0.address);
        let _place = self.0.places.acquire().await.map_err(|e| Unanswered::Refused(told(&e)))?;
        let mut connection = match self.idle() {
            Some(connection) => connection,
            None => self.connect().await.map_err(|e| Unanswered::Refused(told(&e)))?,
        };
        let response = connection.send_request(request).await.map_err(|e| Unanswered::Cut(told(&e)))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|e| Unanswered::Cut(told(&e)))?.to_bytes();
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok((status, body))
    }

    fn idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(SendRequest::is_ready)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.0.address).await?;
        stream.set_nodelay(true)?;
        let stream = Counted::new(stream, self.0.traffic.clone());
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // What broke shows in the request that used it.
            let _ = connection.await;
        });
        Ok(sender)
    }
}
