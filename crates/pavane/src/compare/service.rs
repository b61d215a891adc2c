//! A service of the comparison, in a process of its own: one of the demo's, with its books, or a stand-in that answers
//! every call. Beside its port it has another, for who measures: what goes over that one is not counted.
//!
//! Start reading at [`serve`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::demo::services::{Behaviour, Books, NAMES, Service};
use crate::measure::bytes::{Counted, Traffic};

/// What a service is asked to be.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Its name.
    pub name: String,
    /// 0 for any.
    pub port: u16,
    /// One of the demo's services, with its failures and its books in a folder; otherwise a stand-in.
    pub demo: Option<(Behaviour, PathBuf)>,
    /// How long each call takes.
    pub time: Duration,
}

/// What it has done since its start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Calls answered.
    pub exchanges: u64,
    /// Bytes read.
    pub received: u64,
    /// Bytes written.
    pub sent: u64,
    /// Keys that came with more than one request: of a stand-in only.
    pub misused_keys: u64,
    /// Different keys that came: of a stand-in only.
    pub keys: u64,
}

/// Serves until the process ends; prints its two addresses first.
///
/// # Errors
/// A port in use, a ledger that cannot be read.
pub(crate) async fn serve(settings: Settings) -> Result<(), String> {
    let told = |e: std::io::Error| format!("{}: {e}", settings.name);
    let listener = TcpListener::bind(("127.0.0.1", settings.port)).await.map_err(told)?;
    let control = TcpListener::bind(("127.0.0.1", 0)).await.map_err(told)?;
    let (address, at) = (listener.local_addr().map_err(told)?, control.local_addr().map_err(told)?);
    let stand_in = Arc::new(StandIn { name: settings.name.clone(), time: settings.time, keys: Mutex::default() });
    let (router, books) = match &settings.demo {
        Some((behaviour, folder)) => {
            let known = NAMES.iter().find(|name| **name == settings.name);
            let name = known.ok_or_else(|| format!("the demo has no service {}", settings.name))?;
            let service = Service::open(name, behaviour, Some(folder))?;
            (service.router(), Some(service))
        }
        None => (Router::new().fallback(answer).with_state(stand_in.clone()), None),
    };
    let (traffic, exchanges) = (Traffic::default(), Arc::new(AtomicU64::new(0)));
    let counted = exchanges.clone();
    let router = router.layer(from_fn(move |request: Request, next: Next| {
        counted.fetch_add(1, Ordering::Relaxed);
        next.run(request)
    }));
    let done = {
        let traffic = traffic.clone();
        move || {
            let (keys, misused_keys) = stand_in.used();
            let exchanges = exchanges.load(Ordering::Relaxed);
            Done { exchanges, received: traffic.received(), sent: traffic.sent(), misused_keys, keys }
        }
    };
    let told_books = move || books.as_ref().map_or_else(Books::default, Service::books);
    let controls = Router::new()
        .route("/done", get(async move || axum::Json(done())))
        .route("/books", get(async move || axum::Json(told_books())));
    println!("{address} {at}");
    let serving = axum::serve(Listener { inner: listener, traffic }, router);
    tokio::try_join!(serving.into_future(), axum::serve(control, controls).into_future()).map_err(told)?;
    Ok(())
}

/// A listener whose connections are counted.
struct Listener {
    inner: TcpListener,
    traffic: Traffic,
}

impl axum::serve::Listener for Listener {
    type Io = Counted<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The trait's own for a listener: it waits when the process has no file left, and tries again.
        let (stream, address) = axum::serve::Listener::accept(&mut self.inner).await;
        // Without it a small answer waits for the other side's acknowledgement.
        let _ = stream.set_nodelay(true);
        (Counted::new(stream, self.traffic.clone()), address)
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// Any service: it takes whatever it is sent, and gives it back with an id.
struct StandIn {
    name: String,
    time: Duration,
    /// Requests that came under each key, as digests: a key must not come with another request.
    keys: Mutex<BTreeMap<String, (String, bool)>>,
}

impl StandIn {
    /// Different keys, and those of them that came with more than one request.
    fn used(&self) -> (u64, u64) {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        (keys.len() as u64, keys.values().filter(|(_, misused)| *misused).count() as u64)
    }
}

async fn answer(
    State(stand_in): State<Arc<StandIn>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    tokio::time::sleep(stand_in.time).await;
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
    let request = format!("{method} {uri} {}", String::from_utf8_lossy(&body));
    if !key.is_empty() {
        let mut keys = stand_in.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = keys.entry(key.to_owned()).or_insert_with(|| (digest(&request), false));
        entry.1 |= entry.0 != digest(&request);
    }
    (StatusCode::OK, axum::Json(echo(&stand_in.name, key, &method, &uri, &body))).into_response()
}

/// What came, when it is an object, with who answers and an id that follows from the key.
fn echo(name: &str, key: &str, method: &Method, uri: &Uri, body: &Bytes) -> Value {
    let mut answer = match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => fields,
        Ok(body) => [("body".to_owned(), body)].into_iter().collect(),
        Err(_) => serde_json::Map::new(),
    };
    let id = format!("{name}-{}", digest(key));
    for (field, value) in [
        ("id", json!(id)),
        ("service", json!(name)),
        ("method", json!(method.as_str())),
        ("path", json!(uri.path())),
        ("status", json!("accepted")),
    ] {
        // What the caller sent is what it most likely reads again.
        answer.entry(field).or_insert(value);
    }
    Value::Object(answer)
}

/// 64 bits that follow from a text (FNV-1a): enough to tell requests of one run apart, and small to keep.
fn digest(text: &str) -> String {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_gives_back_what_it_was_sent() {
        let uri = Uri::from_static("/charges");
        let answer = echo("payment", "k1", &Method::POST, &uri, &Bytes::from_static(br#"{"amount":5,"status":"new"}"#));
        assert_eq!(answer["amount"], 5);
        assert_eq!(answer["status"], "new");
        assert_eq!(answer["path"], "/charges");
        assert_eq!(answer["id"], echo("payment", "k1", &Method::GET, &uri, &Bytes::new())["id"]);
        assert_ne!(answer["id"], echo("payment", "k2", &Method::GET, &uri, &Bytes::new())["id"]);
        assert_eq!(echo("a", "", &Method::POST, &uri, &Bytes::from_static(b"[1]"))["body"], json!([1]));
    }
}
