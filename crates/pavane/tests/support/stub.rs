//! Services that note what they are asked, and hang where they are told to.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Json};

/// Any number of services behind one port: the first segment of a path names one. A body is the name of an order, as JSON.
#[derive(Clone, Default)]
pub struct Services {
    /// Path and order of each request.
    books: Arc<Mutex<Vec<(String, String)>>>,
    /// Requests that get no answer.
    hanging: Arc<Mutex<Vec<(String, String)>>>,
    port: u16,
}

impl Services {
    /// Serves on a free port.
    pub async fn serve() -> Services {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let services = Services { port, ..Services::default() };
        let router = Router::new().fallback(answer).with_state(services.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        services
    }

    /// The lines of a configuration for some of them.
    pub fn settings(&self, names: &[&str]) -> String {
        let line =
            |name: &&str| format!("  {name}: {{ url: 'http://127.0.0.1:{}/{name}', idempotency: key }}\n", self.port);
        format!("services:\n{}", names.iter().map(line).collect::<String>())
    }

    /// From now on these requests, path and order, get no answer, and all others do.
    pub fn hang(&self, requests: &[(&str, &str)]) {
        let requests = requests.iter().map(|(path, order)| ((*path).to_owned(), (*order).to_owned()));
        *self.hanging.lock().unwrap() = requests.collect();
    }

    /// What was asked for an order, in its order.
    pub fn asked(&self, order: &str) -> Vec<String> {
        let books = self.books.lock().unwrap();
        books.iter().filter(|(_, of)| of == order).map(|(path, _)| path.clone()).collect()
    }
}

async fn answer(State(services): State<Services>, request: Request) -> axum::response::Response {
    let path = request.uri().path().to_owned();
    let body = axum::body::to_bytes(request.into_body(), 10_000).await.expect("a body");
    let entry = (path, serde_json::from_slice::<String>(&body).expect("an order"));
    services.books.lock().unwrap().push(entry.clone());
    if services.hanging.lock().unwrap().contains(&entry) {
        std::future::pending::<()>().await;
    }
    Json(serde_json::json!({})).into_response()
}
