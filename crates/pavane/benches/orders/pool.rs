//! A hand-written pooled HTTP/1.1 client: as little as can be between the measurement and the socket. It is the
//! baseline's client, and the load generator's.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Connections to one address.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    places: Semaphore,
}

impl Pool {
    /// At most `most` connections to `address`.
    pub fn new(address: SocketAddr, most: usize) -> Pool {
        Pool(Arc::new(Inner { address, idle: Mutex::default(), places: Semaphore::new(most) }))
    }

    /// The `Host` header of its requests.
    pub fn host(&self) -> String {
        self.0.address.to_string()
    }

    /// Sends one request and reads its answer.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
        let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", self.0.address);
        let _place = self.0.places.acquire().await.map_err(|e| fail(&e))?;
        let mut connection = match self.idle() {
            Some(connection) => connection,
            None => self.connect().await.map_err(|e| fail(&e))?,
        };
        let response = connection.send_request(request).await.map_err(|e| fail(&e))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|e| fail(&e))?.to_bytes();
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
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // What broke shows in the request that used it.
            let _ = connection.await;
        });
        Ok(sender)
    }
}
