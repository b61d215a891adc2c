//! Services: how their gates stand, and what a scaler asks.

use axum::Json;
use axum::http::StatusCode;
use pavane_core::policy::Reason;
use pavane_runtime::effects::Traffic;
use serde_json::{Value, json};

use super::problem::ApiError;
use super::{Path, Shared};

/// Every service of the configuration, with what is on its way to it.
pub(super) async fn list(api: Shared) -> Json<Value> {
    let services: Vec<Value> = api
        .running
        .network
        .traffic()
        .iter()
        .map(|traffic| {
            let mut body = json_of(traffic);
            body["participant"] = json!(api.running.participant_of(&traffic.service.name));
            body
        })
        .collect();
    Json(json!({ "services": services }))
}

/// What a scaler asks: numbers at the top level, so that KEDA's `metrics-api` finds each by its name.
pub(super) async fn load(api: Shared, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    let Some(traffic) = api.running.network.traffic_of(&name) else {
        let why = format!("there is no service `{name}` in the configuration; GET /api/v1/services lists them");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_service", why));
    };
    let standing = traffic.standing;
    Ok(Json(json!({
        "backlog": standing.waiting,
        "in_flight": standing.in_flight,
        "demand": standing.waiting + standing.in_flight as usize,
        "utilisation": rounded(standing.utilisation),
        "oldest_ms": standing.oldest.as_millis() as u64,
    })))
}

fn json_of(traffic: &Traffic) -> Value {
    let Traffic { service, standing, open_for } = traffic;
    let settings = &service.settings;
    let urls: Vec<&String> = settings.url.iter().chain(&settings.urls).collect();
    let rate = settings.limits.rate.map(|rate| rate.per_second());
    let counts = standing.counts;
    json!({
        "name": service.name,
        "urls": urls,
        "idempotency": format!("{:?}", settings.idempotency).to_lowercase(),
        "timeout_ms": settings.timeout.map(|t| t.as_millis() as u64),
        "max_in_flight": standing.limit,
        "max_per_second": rate,
        "breaker": standing.breaker.map(|state| state.as_str()),
        "open_for_ms": open_for.map(|left| left.as_millis() as u64),
        "in_flight": standing.in_flight,
        "waiting": standing.waiting,
        "waiting_for": standing.reason.map(Reason::as_str),
        "oldest_ms": standing.oldest.as_millis() as u64,
        "utilisation": rounded(standing.utilisation),
        "counts": {
            "passed": counts.passed,
            "retries": counts.retries,
            "waited": counts.waited,
            "late": counts.late,
            "refused": counts.refused,
            "opened": counts.opened,
        },
    })
}

/// Two digits are what a mean over some seconds is worth.
fn rounded(share: f64) -> f64 {
    (share * 100.0).round() / 100.0
}
