//! Errors as problem documents (RFC 9457) with a stable `code`.

use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pavane_core::Problem;
use pavane_runtime::Error;
use serde_json::{Value, json};

/// An answer that is an error.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    body: Value,
    retry_after: Option<u64>,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> ApiError {
        let title = status.canonical_reason().unwrap_or("Error");
        let body = json!({
            "type": format!("urn:pavane:error:{code}"),
            "title": title,
            "status": status.as_u16(),
            "code": code,
            "detail": detail.into(),
        });
        ApiError { status, body, retry_after: None }
    }

    /// What a caller sent is wrong.
    pub fn bad_request(code: &str, detail: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// A workflow's own error: its type, status and place.
    pub fn workflow(problem: &Problem, code: &str, more: &[(&str, Value)]) -> ApiError {
        let status = u16::try_from(problem.status).ok().and_then(|s| StatusCode::from_u16(s).ok());
        let status =
            status.filter(|s| s.is_client_error() || s.is_server_error()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut body = serde_json::to_value(problem).unwrap_or_default();
        body["code"] = json!(code);
        for (name, value) in more {
            body[*name] = value.clone();
        }
        ApiError { status, body, retry_after: None }
    }
}

impl ApiError {
    /// An input that does not fit its workflow's schema, with everything that is wrong: where, as a JSON pointer, and why.
    pub fn input(violations: &[(String, String)]) -> ApiError {
        let shown = |(place, why): &(String, String)| json!({ "pointer": place, "detail": why });
        let detail = "the input does not fit the schema of the workflow";
        let mut error = ApiError::bad_request("invalid_input", detail);
        error.body["errors"] = violations.iter().map(shown).collect();
        error
    }
}

impl From<ApiError> for pavane_bus::wire::CalledBack {
    fn from(error: ApiError) -> pavane_bus::wire::CalledBack {
        let text = |name: &str| error.body[name].as_str().unwrap_or_default().to_owned();
        pavane_bus::wire::CalledBack { status: error.status.as_u16(), code: text("code"), detail: text("detail") }
    }
}

impl From<ApiError> for pavane_gateway::Problem {
    fn from(error: ApiError) -> pavane_gateway::Problem {
        let body = error.body.as_object().cloned().unwrap_or_default();
        let problem = pavane_gateway::Problem::of(error.status, body);
        match error.retry_after {
            Some(seconds) => problem.retry_after(seconds),
            None => problem,
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        let text = error.to_string();
        match error {
            Error::Definition(diagnostics) => {
                let mut error = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_definition", text);
                error.body["diagnostics"] = json!(diagnostics);
                error
            }
            Error::VersionTaken { .. } => ApiError::new(StatusCode::CONFLICT, "version_taken", text),
            Error::UnknownWorkflow(_) => ApiError::new(StatusCode::NOT_FOUND, "unknown_workflow", text),
            Error::Mode(_) => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "mode_not_possible", text),
            Error::UnknownInstance(_) => ApiError::new(StatusCode::NOT_FOUND, "unknown_instance", text),
            Error::InvalidInput(problem) => ApiError::workflow(&problem, "invalid_input", &[]),
            Error::Conflict(_) => ApiError::new(StatusCode::CONFLICT, "conflict", text),
            Error::Answered => ApiError::new(StatusCode::CONFLICT, "callback_answered", text),
            Error::Late => ApiError::new(StatusCode::GONE, "callback_expired", text),
            Error::Busy { retry_after_seconds, .. } => {
                let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", text);
                ApiError { retry_after: Some(retry_after_seconds), ..error }
            }
            Error::Store(pavane_store::Error::Cursor { .. }) => ApiError::bad_request("invalid_query", text),
            // Nothing was acknowledged: asking again with the same key is safe once the operator has helped.
            Error::Store(_) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store_failed", text),
            Error::Away(_) => {
                let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "away", text);
                ApiError { retry_after: Some(1), ..error }
            }
            Error::Stopping => {
                let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", text);
                ApiError { retry_after: Some(1), ..error }
            }
        }
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> ApiError {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let detail =
                "the body is larger than this server takes (`limits.request_body`): pass large data by reference";
            return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail);
        }
        ApiError::bad_request("unreadable_body", rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> ApiError {
        ApiError::bad_request("invalid_query", rejection.body_text())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body.to_string()).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
