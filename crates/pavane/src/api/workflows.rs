//! Definitions: deploying and reading them.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pavane_runtime::Error;
use pavane_store::Deployed;
use serde_json::{Value, json};

use super::problem::ApiError;
use super::{Path, Shared};

pub(super) async fn deploy(api: Shared, body: Result<Bytes, BytesRejection>) -> Result<Response, ApiError> {
    let body = body?;
    let text = std::str::from_utf8(&body)
        .map_err(|e| ApiError::bad_request("unreadable_body", format!("the body is not UTF-8: {e}")))?;
    let deployment = api.running.engine.deploy("body", text, false).await?;
    let status = if deployment.created { StatusCode::CREATED } else { StatusCode::OK };
    let body = json!({
        "namespace": deployment.namespace,
        "name": deployment.name,
        "version": deployment.version,
        "digest": deployment.digest,
        "warnings": deployment.diagnostics,
    });
    Ok((status, Json(body)).into_response())
}

pub(super) async fn list(api: Shared) -> Json<Value> {
    let workflows: Vec<Value> = api.running.engine.definitions().iter().map(summary).collect();
    Json(json!({ "workflows": workflows }))
}

pub(super) async fn newest(
    api: Shared,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let versions: Vec<Value> = api
        .running
        .engine
        .definitions()
        .iter()
        .filter(|d| d.namespace == namespace && d.name == name)
        .map(summary)
        .collect();
    if versions.is_empty() {
        return Err(Error::UnknownWorkflow(format!("the workflow {namespace}/{name} is not deployed")).into());
    }
    Ok(Json(json!({ "namespace": namespace, "name": name, "versions": versions })))
}

pub(super) async fn version(
    api: Shared,
    Path((namespace, name, version)): Path<(String, String, String)>,
) -> Result<Json<Value>, ApiError> {
    let found = api
        .running
        .engine
        .definitions()
        .into_iter()
        .find(|d| d.namespace == namespace && d.name == name && d.version == version)
        .ok_or_else(|| Error::UnknownWorkflow(format!("{namespace}/{name} {version} is not deployed")))?;
    let mut body = summary(&found);
    body["text"] = json!(found.text);
    Ok(Json(body))
}

fn summary(deployed: &Deployed) -> Value {
    json!({
        "namespace": deployed.namespace,
        "name": deployed.name,
        "version": deployed.version,
        "digest": deployed.digest,
        "deployed_at": deployed.deployed_at.to_string(),
    })
}
