//! Dead letters: messages between the engine and participants that no receiver could take.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::problem::ApiError;
use super::{Path, Shared};

pub(super) async fn list(api: Shared) -> Result<Json<Value>, ApiError> {
    let mut letters = Vec::new();
    for engine in api.running.engines() {
        for letter in engine.dead_letters().await? {
            let envelope = serde_json::from_str(&letter.message.envelope.text()).unwrap_or(Value::Null);
            letters.push(json!({
                "id": format!("{}:{}", engine.location(), letter.position),
                "from": engine.location(),
                "to": letter.message.to,
                "reason": letter.reason,
                "message": envelope,
            }));
        }
    }
    Ok(Json(json!({ "dead_letters": letters })))
}

pub(super) async fn redrive(api: Shared, Path(id): Path<String>) -> Result<Response, ApiError> {
    let unknown =
        || ApiError::new(StatusCode::NOT_FOUND, "unknown_dead_letter", format!("there is no dead letter {id}"));
    let (location, position) = id.rsplit_once(':').ok_or_else(unknown)?;
    let position: u64 = position.parse().map_err(|_| unknown())?;
    let engine = api.running.engines().into_iter().find(|engine| engine.location() == location).ok_or_else(unknown)?;
    match engine.redrive(position).await? {
        true => Ok((StatusCode::ACCEPTED, Json(json!({ "id": id }))).into_response()),
        false => Err(unknown()),
    }
}
