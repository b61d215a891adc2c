//! Instances: starting, watching and operating them.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::Query;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use pavane_core::definition::Mode;
use pavane_core::engine::lifecycle;
use pavane_core::record::{JournalEntry, ServiceTask, Status, WorkflowInstance};
use pavane_core::{Timestamp, Value as Data};
use pavane_runtime::watch::trace_of;
use pavane_runtime::{Cursor, Engine, Operation, StartRequest};
use pavane_store::Query as Filter;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::problem::ApiError;
use super::{Path, Shared, callbacks};

/// Instances on a page when the caller does not say.
const PAGE: usize = 50;

/// Longest a request waits for an instance: connections are cut by what stands between after about as long.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// How long one look of a stream waits for something new.
const STREAM_WAIT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StartQuery {
    version: Option<String>,
    mode: Option<String>,
}

pub(super) async fn start(
    api: Shared,
    Path((namespace, name)): Path<(String, String)>,
    query: Result<Query<StartQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let (Query(query), body) = (query?, body?);
    let mode = mode(query.mode.as_deref()).map_err(|why| ApiError::bad_request("unknown_mode", why))?;
    let input = input(&body)?;
    let wait = prefer_wait(&headers)?;
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let id = text("pavane-instance");
    if let Some(id) = &id
        && uuid::Uuid::parse_str(id).is_err()
    {
        return Err(ApiError::bad_request("invalid_id", "the header Pavane-Instance must be a UUID"));
    }
    let idempotency_key = text("idempotency-key");
    let trace = trace_of(text("traceparent").as_deref(), text("tracestate").as_deref());
    let notify = headers.get("pavane-notify").map(|url| String::from_utf8_lossy(url.as_bytes()).into_owned());
    let notify = callbacks::notify(&api.running.config, &api.running.network, notify)?;
    let request =
        StartRequest { namespace, name, version: query.version, mode, input, idempotency_key, id, trace, notify };
    let engine = &api.running.engine;
    let started = engine.start(request).await?;
    if let Some(wait) = wait {
        let record = engine.wait(&started.id, wait).await?;
        if record.status.is_terminal() {
            return finished(&record);
        }
    }
    let location = format!("/api/v1/instances/{}", started.id);
    let body = json!({ "id": started.id, "attached": started.attached });
    let mut response = (StatusCode::ACCEPTED, Json(body)).into_response();
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(applied(response, wait))
}

/// The input of a start; nothing is an empty object.
pub(crate) fn input(body: &[u8]) -> Result<Data, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Data::empty_object());
    }
    Data::parse(body).map_err(|e| ApiError::bad_request("invalid_json", format!("the input is no JSON: {e}")))
}

/// A mode by its word.
pub(crate) fn mode(word: Option<&str>) -> Result<Option<Mode>, String> {
    let known = || Mode::ALL.map(Mode::as_str).join(", ");
    word.map(|word| Mode::parse(word).ok_or_else(|| format!("`{word}` is no mode; there are {}", known()))).transpose()
}

/// The answer to a caller that waited: the output, or the error as a problem.
fn finished(record: &WorkflowInstance) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Finished<'a> {
        id: &'a str,
        output: Option<&'a pavane_core::Value>,
        status: Status,
    }
    let body = Finished { id: &record.id, output: ended(record)?, status: record.status };
    Ok(applied(Json(body).into_response(), Some(Duration::ZERO)))
}

/// What an instance that has ended came to: its output, or its error as a problem.
pub(crate) fn ended(record: &WorkflowInstance) -> Result<Option<&pavane_core::Value>, ApiError> {
    match (&record.status, &record.error) {
        (Status::Completed, _) => Ok(record.output.as_ref()),
        (_, Some(problem)) => {
            let about = [
                ("id", json!(record.id)),
                ("instance_status", json!(record.status)),
                ("compensation", json!(record.compensation)),
            ];
            Err(ApiError::workflow(problem, "instance_faulted", &about))
        }
        _ => Err(ApiError::new(StatusCode::CONFLICT, "instance_cancelled", "the instance was cancelled")),
    }
}

fn applied(mut response: Response, wait: Option<Duration>) -> Response {
    if wait.is_some() {
        response.headers_mut().insert("preference-applied", HeaderValue::from_static("wait"));
    }
    response
}

/// `Prefer: wait=N`
fn prefer_wait(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let preferences =
        headers.get_all("prefer").iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split([',', ';']));
    for preference in preferences {
        if let Some(seconds) = preference.trim().strip_prefix("wait=") {
            let seconds: u64 = seconds.trim_matches('"').parse().map_err(|_| {
                ApiError::bad_request(
                    "invalid_preference",
                    format!("`Prefer: wait={seconds}`: a number of seconds is needed"),
                )
            })?;
            return Ok(Some(Duration::from_secs(seconds).min(MAX_WAIT)));
        }
    }
    Ok(None)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    workflow: Option<String>,
    status: Option<String>,
    mode: Option<String>,
    correlation_id: Option<String>,
    started_after: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
    stuck: Option<String>,
}

pub(super) async fn list(
    api: Shared,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(query) = query?;
    let bad = |what: String| ApiError::bad_request("invalid_query", what);
    let limit = query.limit.unwrap_or(PAGE).clamp(1, 1_000);
    if let Some(after) = &query.stuck {
        let others = [&query.workflow, &query.status, &query.mode, &query.correlation_id, &query.started_after];
        if others.into_iter().chain([&query.cursor]).any(Option::is_some) {
            return Err(bad("`stuck` goes with `limit` alone: it lists those that wait longest".into()));
        }
        return api.stuck(after, limit).await;
    }
    let statuses: Result<Vec<Status>, ApiError> = query
        .status
        .iter()
        .flat_map(|s| s.split(','))
        .map(|word| {
            Status::parse(word).ok_or_else(|| {
                bad(format!("`{word}` is no status; there are {}", Status::ALL.map(Status::as_str).join(", ")))
            })
        })
        .collect();
    let started_after = query
        .started_after
        .map(|t| t.parse::<Timestamp>().map_err(|e| bad(format!("started_after: {e}"))))
        .transpose()?;
    let filter = Filter {
        workflow: query.workflow,
        statuses: statuses?,
        mode: mode(query.mode.as_deref()).map_err(bad)?,
        correlation_id: query.correlation_id,
        started_after,
        limit,
        cursor: query.cursor,
    };
    let page = api.running.engine.instances(filter).await?;
    let instances: Vec<Value> = page.instances.iter().map(instance).collect();
    Ok(Json(json!({ "instances": instances, "next": page.next })))
}

pub(super) async fn one(api: Shared, Path(id): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    let engine = &api.running.engine;
    let wait = prefer_wait(&headers)?;
    let record = match wait {
        Some(wait) => engine.wait(&id, wait).await?,
        None => engine.instance(&id).await?,
    };
    Ok(applied(Json(instance(&record)).into_response(), wait))
}

pub(super) async fn tasks(api: Shared, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let tasks = api.running.engine.tasks(&id).await?;
    Ok(Json(json!({ "tasks": tasks.iter().map(task).collect::<Vec<_>>() })))
}

pub(super) async fn events(api: Shared, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let engine = &api.running.engine;
    let record = engine.instance(&id).await?;
    let mut events = Vec::new();
    let mut cursor = Cursor::default();
    loop {
        let entries = engine.journal(&id, &cursor, Duration::ZERO).await?;
        let Some((_, last)) = entries.last() else { break };
        cursor = last.clone();
        for (entry, _) in &entries {
            events.extend(lifecycle_of(entry, &record));
        }
    }
    Ok(Json(json!({ "events": events })))
}

/// The lifecycle events of one step. A step that cannot be read is shown as such, never left out.
fn lifecycle_of(entry: &JournalEntry, record: &WorkflowInstance) -> Vec<Value> {
    match lifecycle(entry, &record.namespace, &record.name) {
        Ok(events) => events.iter().map(|event| event.envelope().into()).collect(),
        Err(error) => vec![json!({ "error": error, "seq": entry.seq })],
    }
}

/// Server-sent events: the id of each is the cursor after its step, so that `Last-Event-ID` goes on where it was.
pub(super) async fn stream(api: Shared, Path(id): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    let engine = api.running.engine.clone();
    let record = engine.instance(&id).await?;
    Ok(follow(engine, record, headers.get("last-event-id").and_then(|v| v.to_str().ok())))
}

/// The lifecycle of an instance after an event, as server-sent events until it ends.
pub(crate) fn follow(engine: Engine, record: WorkflowInstance, after: Option<&str>) -> Response {
    let after = after.and_then(|after| after.parse().ok()).unwrap_or_default();
    let follow = Follow { engine, record, after, ready: Vec::new(), ended: false };
    let stream = futures_util::stream::unfold(follow, |mut follow| async move {
        let event = follow.next().await?;
        Some((Ok::<_, Infallible>(event), follow))
    });
    Sse::new(stream).keep_alive(KeepAlive::default()).into_response()
}

struct Follow {
    engine: Engine,
    record: WorkflowInstance,
    after: Cursor,
    /// In reverse.
    ready: Vec<Event>,
    ended: bool,
}

impl Follow {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            // Asked before the journal is read: what an ended instance has is all there, and nobody need wait for more.
            let over = self.engine.instance(&self.record.id).await.is_ok_and(|r| r.status.is_terminal());
            let wait = if over { Duration::ZERO } else { STREAM_WAIT };
            let entries = self.engine.journal(&self.record.id, &self.after, wait).await.ok()?;
            self.ended = over && entries.is_empty();
            for (entry, cursor) in entries {
                let events = lifecycle_of(&entry, &self.record);
                let id = cursor.to_string();
                self.ready.extend(events.iter().map(|event| {
                    let name = event["type"].as_str().unwrap_or("error").to_owned();
                    Event::default().id(&id).event(name).data(event.to_string())
                }));
                self.after = cursor;
            }
            self.ready.reverse();
        }
    }
}

pub(super) async fn operate(api: Shared, Path((id, operation)): Path<(String, String)>) -> Result<Response, ApiError> {
    let operation = match operation.as_str() {
        "cancel" => Operation::Cancel,
        "suspend" => Operation::Suspend,
        "resume" => Operation::Resume,
        "retry" => Operation::Retry,
        other => {
            let detail = format!("`{other}` is no operation: there are cancel, suspend, resume, retry");
            return Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", detail));
        }
    };
    api.running.engine.operate(&id, operation).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": id }))).into_response())
}

/// An instance in the API's form: times as RFC 3339.
pub(crate) fn instance(record: &WorkflowInstance) -> Value {
    let mut body = serde_json::to_value(record).unwrap_or_default();
    body["start_time"] = json!(record.start_time.to_string());
    body["end_time"] = json!(record.end_time.map(|t| t.to_string()));
    body
}

/// A task in the API's form.
pub(crate) fn task(task: &ServiceTask) -> Value {
    let mut body = serde_json::to_value(task).unwrap_or_default();
    body["start_time"] = json!(task.start_time.to_string());
    body["end_time"] = json!(task.end_time.map(|t| t.to_string()));
    body
}
