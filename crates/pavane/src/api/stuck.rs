//! Stuck instances: listed, told of one instance, and counted for `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use pavane_core::policy::Reason;
use pavane_core::record::Status;
use pavane_core::units::parse_duration;
use pavane_runtime::{Lag, Missing, Progress, STUCK_AFTER};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::problem::ApiError;
use super::{Api, Path, Shared};

/// How long a count holds: several scrapers, and those in a hurry, cost one look.
const HOLDS: Duration = Duration::from_secs(10);

/// Instances counted, at most: an alarm needs no larger number.
const MAX_COUNT: usize = 1_000;

/// Shorter than this, messages that were just taken count too: a sender forgets them a little later.
const SHORTEST: Duration = Duration::from_secs(1);

/// Events counted, at most: each is read for it.
const MAX_EVENTS: usize = 1_000;

/// What the last look at the stores found.
#[derive(Clone, Debug, Default)]
pub(super) struct Gauge(Arc<tokio::sync::Mutex<Option<(Instant, Backlog)>>>);

/// What waits in the stores, in numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Backlog {
    /// Messages.
    pub lag: Lag,
    /// Published events that were not delivered to everybody.
    pub events: usize,
    /// Instances that have not ended, by status.
    pub open: Vec<(Status, u64)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProgressQuery {
    after: Option<String>,
}

/// How one instance stands.
pub(super) async fn progress(
    api: Shared,
    Path(id): Path<String>,
    query: Result<Query<ProgressQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(query) = query?;
    let after = api.after(query.after.as_deref().unwrap_or_default())?;
    let Progress { standing, last, waits, missing } = api.running.engine.standing(&id, after).await?;
    let waits = waits.iter().map(|wait| {
        let mut body = json!(wait);
        body["since"] = json!(wait.since.to_string());
        body["until"] = json!(wait.until.map(|at| at.to_string()));
        let waits_at = |service: &&String| api.running.network.waiting_of(service, &id) > 0;
        let gate = wait.service.as_ref().filter(waits_at).and_then(|name| api.running.network.traffic_of(name));
        // Not sent yet: why, as of now.
        body["gate"] = json!(gate.map(|traffic| traffic.standing.reason.map_or("turn", Reason::as_str)));
        body
    });
    let waits: Vec<Value> = waits.collect();
    let last = last.map(|(task, at)| json!({ "task": task, "at": at.to_string() }));
    let missing: Vec<Value> = missing.iter().map(json_of).collect();
    Ok(Json(json!({ "standing": standing, "last": last, "waits": waits, "missing": missing })))
}

impl Api {
    /// A length of time of a query; the configured one for an empty text.
    fn after(&self, text: &str) -> Result<Duration, ApiError> {
        let configured = self.running.config.limits.stuck_after.unwrap_or(STUCK_AFTER);
        let given = match text {
            "" => configured,
            text => parse_duration(text).map_err(|why| ApiError::bad_request("invalid_query", why))?,
        };
        Ok(given.max(SHORTEST))
    }

    /// A page of stuck instances.
    pub(super) async fn stuck(&self, after: &str, limit: usize) -> Result<Json<Value>, ApiError> {
        let (found, all) = self.running.engine.stuck(self.after(after)?, limit).await?;
        let rows = found.iter().map(|(record, missing)| {
            let mut row = super::instances::instance(record);
            row["stuck"] = json_of(missing);
            row
        });
        Ok(Json(json!({ "instances": rows.collect::<Vec<_>>(), "next": null, "all": all })))
    }

    /// What waits in the stores, as of a little while ago.
    pub(super) async fn backlog(&self) -> Result<Backlog, ApiError> {
        let mut last = self.stuck.0.lock().await;
        if let Some((at, backlog)) = &*last
            && at.elapsed() < HOLDS
        {
            return Ok(backlog.clone());
        }
        let engine = &self.running.engine;
        let (lag, events) = (engine.lag(self.after("")?, MAX_COUNT).await?, engine.undelivered(MAX_EVENTS).await?);
        let backlog = Backlog { lag, events, open: engine.open_instances().await? };
        *last = Some((Instant::now(), backlog.clone()));
        Ok(backlog)
    }
}

fn json_of(missing: &Missing) -> Value {
    let mut body = json!(missing);
    body["since"] = json!(missing.since.to_string());
    // It stands with the instance.
    body.as_object_mut().map(|body| body.remove("instance"));
    body
}
