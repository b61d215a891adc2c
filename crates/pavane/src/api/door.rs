//! Who may use the HTTP API: what stands under `admin` in the configuration, for every path but the probes and those of callbacks.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use pavane_gateway::Door;

/// Paths for everybody: whoever starts the process again must be able to ask, and they tell nothing else.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

const METRICS: &str = "/metrics";

/// Behind it a token says for which call its bearer may speak: services that answer later know no key of ours.
const CALLBACKS: &str = "/api/v1/callbacks/";

/// The door, and what is beside it.
#[derive(Clone, Debug)]
pub struct Guard {
    /// The door.
    pub door: Arc<Door>,
    /// Whether the metrics are for everybody.
    pub open_metrics: bool,
}

/// Lets in who shows a key or a password.
pub(super) async fn admit(guard: State<Guard>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let open = guard.open_metrics && path == METRICS;
    if PROBES.contains(&path) || open || path.starts_with(CALLBACKS) {
        return next.run(request).await;
    }
    match guard.door.admit(request.headers()).await {
        Ok(caller) => {
            tracing::debug!(caller, method = %request.method(), path, "admitted");
            next.run(request).await
        }
        Err(problem) => {
            tracing::info!(method = %request.method(), path, "refused: no credentials, or wrong ones");
            problem.into_response().map(axum::body::Body::new)
        }
    }
}
