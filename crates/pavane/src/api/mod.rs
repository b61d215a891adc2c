//! The HTTP API of the admin listener. `openapi.json` beside this file is its contract.
//!
//! Errors are problem documents with a stable `code`. Nothing here decides anything: it translates between HTTP and
//! [`pavane_runtime::Engine`].

pub mod bus;
pub(crate) mod callbacks;
mod door;
mod events;
mod exposition;
mod instances;
mod letters;
mod metrics;
mod problem;
mod services;
mod stuck;
mod workflows;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::de::DeserializeOwned;

use crate::participant::Standing;
use crate::server::{Elsewhere, Running};

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

pub(crate) use bus::{TAKEN, clock};
pub use door::Guard;
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

/// All routes, behind a door if there is one.
pub fn router(api: Api, door: Option<Guard>) -> Router {
    let routes = Router::new()
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
        .route("/api/v1/gateway/openapi", get(gateway))
        .route("/openapi.json", get(|| async { ([(header::CONTENT_TYPE, "application/json")], OPENAPI) }));
    finish(routes, api, door, "there is nothing at this path; see /openapi.json")
}

/// The routes of a participant in a process of its own: instances are asked for at its home.
pub fn participant(api: Api, door: Option<Guard>) -> Router {
    finish(
        Router::new(),
        api,
        door,
        "there is nothing at this path: this is the process of a participant; ask the engine's",
    )
}

/// Adds what every process has.
fn finish(routes: Router<Arc<Api>>, api: Api, door: Option<Guard>, nothing: &'static str) -> Router {
    let limit = api.max_body;
    let routes = routes
        .route("/api/v1/services", get(services::list))
        .route("/api/v1/services/{name}/load", get(services::load))
        .route("/api/v1/callbacks/{token}", post(callbacks::answer))
        .route("/api/v1/callbacks/{token}/heartbeat", post(callbacks::heartbeat))
        .route("/api/v1/dead-letters", get(letters::list))
        .route("/api/v1/dead-letters/{id}/redrive", post(letters::redrive))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::metrics))
        .fallback(move || async move { ApiError::new(StatusCode::NOT_FOUND, "not_found", nothing) })
        .method_not_allowed_fallback(|| async {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this path does not take that method; see /openapi.json",
            )
        })
        .layer(DefaultBodyLimit::max(limit))
        .with_state(Arc::new(api));
    match door {
        Some(door) => routes.layer(from_fn_with_state(door, door::admit)),
        None => routes,
    }
}

/// Whether a balancer may send requests here.
async fn ready(api: Shared) -> Result<&'static str, ApiError> {
    if !api.running.engine.takes_starts() {
        return Err(pavane_runtime::Error::Stopping.into());
    }
    match &api.running.elsewhere {
        Elsewhere::Participant(link) => match link.standing() {
            Standing::Attached(_) => Ok("ready\n"),
            Standing::Away(why) => Err(pavane_runtime::Error::Away(why).into()),
        },
        _ => Ok("ready\n"),
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
