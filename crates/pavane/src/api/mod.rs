//! The HTTP API of the admin listener. `openapi.json` beside this file is its contract.
//!
//! Errors are problem documents with a stable `code`. Nothing here decides anything: it translates between HTTP and
//! [`pavane_runtime::Engine`].

mod events;
mod instances;
mod letters;
mod metrics;
mod problem;
mod stuck;
mod workflows;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::server::Running;

/// Largest request body when nothing else is configured: an input is kept, journalled and cloned.
const MAX_BODY: usize = 4 << 20;

/// The contract.
pub const OPENAPI: &str = include_str!("openapi.json");

/// What handlers share.
#[derive(Clone, Debug)]
pub struct Api {
    pub(crate) running: Running,
    max_body: usize,
    stuck: stuck::Gauge,
}

impl Api {
    /// An API over a running engine.
    pub fn new(running: Running, max_body: Option<usize>) -> Api {
        Api { running, max_body: max_body.unwrap_or(MAX_BODY), stuck: stuck::Gauge::default() }
    }
}

pub(crate) use instances::{ended, follow, input, mode, task as task_json};
pub(crate) use problem::ApiError;

pub(crate) type Shared = axum::extract::State<Arc<Api>>;

/// The parameters of a path. What cannot be read as text names nothing; axum's own answer would be plain text.
struct Path<T>(T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Path<T>, ApiError> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(parameters)) => Ok(Path(parameters)),
            Err(unreadable) => Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", unreadable.body_text())),
        }
    }
}

/// All routes.
pub fn router(api: Api) -> Router {
    let limit = api.max_body;
    Router::new()
        .route("/api/v1/workflows", get(workflows::list).post(workflows::deploy))
        .route("/api/v1/workflows/{namespace}/{name}", get(workflows::newest))
        .route("/api/v1/workflows/{namespace}/{name}/instances", post(instances::start))
        .route("/api/v1/workflows/{namespace}/{name}/{version}", get(workflows::version))
        .route("/api/v1/instances", get(instances::list))
        .route("/api/v1/instances/{id}", get(instances::one))
        .route("/api/v1/instances/{id}/tasks", get(instances::tasks))
        .route("/api/v1/instances/{id}/progress", get(stuck::progress))
        .route("/api/v1/instances/{id}/events", get(instances::events))
        .route("/api/v1/instances/{id}/events/stream", get(instances::stream))
        .route("/api/v1/instances/{id}/{operation}", post(instances::operate))
        .route("/api/v1/events", post(events::publish))
        .route("/api/v1/services", get(services))
        .route("/api/v1/gateway/openapi", get(gateway))
        .route("/api/v1/dead-letters", get(letters::list))
        .route("/api/v1/dead-letters/{id}/redrive", post(letters::redrive))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(|| async { ([(header::CONTENT_TYPE, "application/json")], OPENAPI) }))
        .fallback(|| async {
            ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path; see /openapi.json")
        })
        .method_not_allowed_fallback(|| async {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this path does not take that method; see /openapi.json",
            )
        })
        .layer(DefaultBodyLimit::max(limit))
        .with_state(Arc::new(api))
}

/// Whether a balancer may send requests here.
async fn ready(api: Shared) -> Result<&'static str, ApiError> {
    match api.running.engine.takes_starts() {
        true => Ok("ready\n"),
        false => Err(pavane_runtime::Error::Stopping.into()),
    }
}

/// The gateway's routes, for those who call them.
async fn gateway(api: Shared) -> Result<Response, ApiError> {
    match api.running.gateway() {
        Some(gateway) => Ok(axum::Json(gateway.openapi()).into_response()),
        None => {
            Err(ApiError::new(StatusCode::NOT_FOUND, "no_gateway", "this server has no gateway: it has no `routes`"))
        }
    }
}

async fn services(api: Shared) -> Response {
    let services: Vec<_> = api
        .running
        .network
        .options()
        .services
        .iter()
        .map(|service| {
            let settings = &service.settings;
            let urls: Vec<&String> = settings.url.iter().chain(&settings.urls).collect();
            json!({
                "name": service.name,
                "urls": urls,
                "idempotency": format!("{:?}", settings.idempotency).to_lowercase(),
                "timeout_ms": settings.timeout.map(|t| t.as_millis() as u64),
                "max_in_flight": settings.limits.in_flight,
            })
        })
        .collect();
    axum::Json(json!({ "services": services })).into_response()
}
