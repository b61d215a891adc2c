//! `/bus/v1/`: where participants in processes of their own attach to the bus of this one.
//!
//! A listener of its own, so that whoever may reach it need not reach the HTTP API. Everything asked here shows the shared token.
//! What is said is in [`pavane_bus::wire`], what it means in [`pavane_bus::Hub`].

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use pavane_bus::wire::{Answers, Definition, Errands, Hello, Moved, Publish, Published, Receive, Told, Welcome};
use pavane_bus::{Hub, Over, Unfit};
use pavane_core::Timestamp;
use pavane_runtime::{Engine, Recognized};
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq;

use super::Path;
use super::problem::ApiError;

/// Largest request: [`crate::participant`] sends less than 4 MiB together, but for one message that is larger alone.
const MAX_BODY: usize = 64 << 20;

/// What handlers share.
#[derive(Clone, Debug)]
struct Door {
    hub: Hub,
    home: Engine,
    token: Option<Arc<str>>,
}

type Shared = State<Door>;

/// The body of a request; what cannot be read is told as a problem document.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, ApiError> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Body(body)),
            Err(JsonRejection::BytesRejection(unread)) => Err(unread.into()),
            Err(unread) => Err(ApiError::bad_request("unreadable_body", unread.body_text())),
        }
    }
}

/// The routes of a hub. Without a token everybody who reaches them is let in.
pub fn router(hub: Hub, home: Engine, token: Option<String>) -> Router {
    let door = Door { hub, home, token: token.map(Arc::from) };
    Router::new()
        .route("/bus/v1/attach", post(attach))
        .route("/bus/v1/receive", post(receive))
        .route("/bus/v1/answer", post(answer))
        .route("/bus/v1/tell", post(tell))
        .route("/bus/v1/moved", post(moved))
        .route("/bus/v1/publish", post(publish))
        .route("/bus/v1/definitions/{digest}", get(definition))
        .fallback(|| async {
            ApiError::new(StatusCode::NOT_FOUND, "not_found", "participants attach at /bus/v1/attach")
        })
        .layer(from_fn_with_state(door.clone(), admit))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(door)
}

/// Lets in who shows the token.
async fn admit(door: Shared, request: Request, next: Next) -> Result<Response, ApiError> {
    let shown = request.headers().get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let shown = shown.strip_prefix(b"Bearer ").unwrap_or_default();
    match &door.token {
        // The time it takes must not tell how much of a guess was right.
        Some(token) if !bool::from(token.as_bytes().ct_eq(shown)) => Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "the token is not the hub's: write the same `bus.embedded.token` into both configurations",
        )),
        _ => Ok(next.run(request).await),
    }
}

async fn attach(door: Shared, Body(hello): Body<Hello>) -> Result<Json<Welcome>, ApiError> {
    let now = clock();
    door.hub.check(&hello, now)?;
    let service = &hello.service;
    if door.home.recognize(service, hello.store).await? == Recognized::Other {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "another_store",
            format!(
                "the participant of `{service}` has come with another store than the engine knows: work that was under way there \
                 is not in it. Put the right file back (`store.sqlite.path` of its configuration, with `-{service}` in its \
                 name). If it is lost, choose `pavane adopt {service}` or `pavane abandon {service}`, with both processes \
                 stopped and the new file where the engine's configuration has it"
            ),
        ));
    }
    let session = door.hub.attach(&hello, now)?;
    let definitions = door.home.taking_part(service);
    Ok(Json(Welcome { session, version: env!("CARGO_PKG_VERSION").into(), definitions }))
}

async fn receive(door: Shared, Body(asked): Body<Receive>) -> Result<Json<Errands>, ApiError> {
    let errands = door.hub.receive(&asked.session, asked.after).await?;
    Ok(Json(Errands { errands }))
}

async fn answer(door: Shared, Body(answers): Body<Answers>) -> Result<StatusCode, ApiError> {
    door.hub.answer(&answers.session, answers.answers)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn tell(door: Shared, Body(told): Body<Told>) -> Result<StatusCode, ApiError> {
    door.hub.told(&told.session, told.number, told.tale)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn moved(door: Shared, Body(moved): Body<Moved>) -> Result<StatusCode, ApiError> {
    door.hub.moved(&moved.session)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn publish(door: Shared, Body(publish): Body<Publish>) -> Result<Json<Published>, ApiError> {
    let answers = door.hub.publish(&publish.session, publish.messages).await?;
    Ok(Json(Published { answers }))
}

async fn definition(door: Shared, Path(digest): Path<String>) -> Result<Json<Definition>, ApiError> {
    match door.home.definition(&digest) {
        Some(definition) => Ok(Json((&*definition).into())),
        None => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "unknown_definition",
            format!("no program with digest {digest} is deployed here"),
        )),
    }
}

impl From<Over> for ApiError {
    fn from(over: Over) -> ApiError {
        ApiError::new(StatusCode::GONE, "session_over", over.to_string())
    }
}

impl From<Unfit> for ApiError {
    fn from(unfit: Unfit) -> ApiError {
        let code = match unfit {
            Unfit::Protocol { .. } => "another_protocol",
            Unfit::Service(_) => "not_remote",
            Unfit::Clock { .. } => "clock_skew",
            Unfit::Taken { .. } => TAKEN,
        };
        ApiError::new(StatusCode::CONFLICT, code, unfit.to_string())
    }
}

/// The code of [`Unfit::Taken`], which passes by itself when the other process was killed.
pub(crate) const TAKEN: &str = "participant_taken";

/// This machine's clock: what a participant and its hub compare.
pub(crate) fn clock() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
