//! A service that takes its time: it takes a request with 202 and calls back a moment later, when it is asked to
//! (`Pavane-Callback`). What it owes is in its ledger: it calls back after a restart, too, until somebody takes it.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::server::{Answered, Shared};
use crate::client::Server;

/// How long the work seems to take.
const AFTER: Duration = Duration::from_millis(10);

/// The first wait before it calls back again when nobody took it; it doubles up to the longest.
const WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How often it calls back, at most: for half an hour or so. Nobody waits for a demo longer.
const MAX_CALLS: u32 = 1_000;

/// Calls back for everything that is owed since before.
pub(super) fn resume(shared: &Arc<Shared>) {
    for (key, url, answered) in shared.owed() {
        tokio::spawn(deliver(shared.clone(), key, url, answered));
    }
}

/// Calls back until it is taken, or nobody wants it.
pub(super) async fn deliver(shared: Arc<Shared>, key: String, url: String, answered: Answered) {
    tokio::time::sleep(AFTER).await;
    let body = said(&answered).to_string();
    // The base URL ends where the path begins.
    let path_at = url.match_indices('/').nth(2).map_or(url.len(), |(at, _)| at);
    let (base, path) = url.split_at(path_at);
    let server: Server = {
        let mut clients = shared.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.entry(base.to_owned()).or_insert_with(|| Server::new(base)).clone()
    };
    let mut wait = WAIT;
    for _ in 0..MAX_CALLS {
        let headers = [("content-type", "application/json")];
        match server.ask(Method::POST, path, &headers, body.clone().into()).await {
            Ok(answer) if is_last(answer.status) => break,
            Ok(_) | Err(_) => tokio::time::sleep(wait).await,
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    if let Err(error) = shared.called_back(&key) {
        tracing::warn!(error, "a callback is not in the ledger: it will come again");
    }
}

/// Whether an answer to a callback tells that it need not come again: it was taken, or nobody wants it.
fn is_last(status: StatusCode) -> bool {
    status.is_success() || matches!(status, StatusCode::FORBIDDEN | StatusCode::CONFLICT | StatusCode::GONE)
}

fn said(Answered { status, body, .. }: &Answered) -> Value {
    match status {
        ..400 => json!({ "output": body }),
        _ => json!({ "error": { "status": status, "title": body["title"] } }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_said_as_an_output_or_an_error() {
        let answered = |status, body| Answered { request: String::new(), status, body };
        assert_eq!(said(&answered(201, json!({ "id": 1 }))), json!({ "output": { "id": 1 } }));
        let refused = said(&answered(422, json!({ "title": "no" })));
        assert_eq!(refused, json!({ "error": { "status": 422, "title": "no" } }));
    }
}
