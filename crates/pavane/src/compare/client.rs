//! A client of one mode: it starts an instance by that mode's route of the gateway, waits for its end, and when it is
//! refused or cut off asks again under the same key. Its time begins when the instance was due.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use pavane_core::definition::Mode;
use serde_json::{Value, json};

use super::subject::Subject;
use crate::demo::services::Fate;
use crate::measure::pool::{Pool, Unanswered};

/// Longest an instance may take before it counts as lost: far longer than any should, an outage included.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a connection may be idle: longer than the other mode is measured between two turns. One that the gateway closes
/// meanwhile would have to be made again while time is taken.
const IDLE: &str = "10m";

/// Pause of a client that was refused. Short against a restart, so that the pause is not what is measured; long against a
/// connection, so that asking is no load.
const PAUSE: Duration = Duration::from_millis(50);

/// How an instance ended, as its client was told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// Completed, with its output.
    Completed(Value),
    /// Faulted, with the error's status and detail, and what is undone.
    Faulted { error: String, fate: Option<Fate> },
    /// It has no end that its client knows of.
    Lost(String),
}

impl End {
    /// A word for it.
    pub fn word(&self) -> &'static str {
        match self {
            End::Completed(_) => "completed",
            End::Faulted { .. } => "faulted",
            End::Lost(_) => "lost",
        }
    }
}

/// What a client saw of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Its number.
    pub number: u64,
    /// Its id for its services, and the key it was started with.
    pub key: String,
    /// When it was due.
    pub due: Instant,
    /// From then to its end.
    pub took: Duration,
    /// Whether the first request that started it found somebody who took it.
    pub accepted: bool,
    /// When a request first was refused or cut off.
    pub failed_at: Option<Instant>,
    /// How it ended.
    pub end: End,
}

/// Starts instances in a mode.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pool: Pool,
    subject: Arc<Subject>,
    mode: Mode,
    /// The number of the first.
    first: u64,
}

/// What the configuration says of the gateway and its routes: one for each mode.
pub(crate) fn routes([namespace, name, version]: &[String; 3]) -> [(&'static str, Value); 2] {
    let route = |mode: Mode| {
        json!({
            "match": { "path": path(mode) },
            "workflow": format!("{namespace}/{name}"),
            "version": version,
            "mode": mode.as_str(),
            "wait": format!("{}s", PATIENCE.as_secs()),
        })
    };
    [("gateway", json!({ "timeouts": { "header": IDLE } })), ("routes", json!(Mode::ALL.map(route)))]
}

/// Where instances of a mode are started.
fn path(mode: Mode) -> String {
    format!("/{}", mode.as_str())
}

impl Client {
    /// A client that numbers its instances from `first` on.
    pub fn new(pool: Pool, subject: Arc<Subject>, mode: Mode, first: u64) -> Client {
        Client { pool, subject, mode, first }
    }

    /// Runs one instance to its end.
    ///
    /// # Errors
    /// A request that cannot be made.
    pub async fn one(self, number: u64, due: Instant) -> Result<Seen, String> {
        let number = self.first + number;
        let initial = self.mode.as_str().get(..1).unwrap_or_default();
        let key = format!("{initial}-{number:06}");
        let path = path(self.mode);
        let input = self.subject.input(&key, number);
        let (mut accepted, mut failed_at) = (true, None);
        let end = loop {
            let headers = [("idempotency-key", key.as_str())];
            let request = self.pool.request(Method::POST, &path, &headers, &input)?;
            let late = due + PATIENCE;
            let Ok(answer) = tokio::time::timeout_at(late.into(), self.pool.send(request)).await else {
                break End::Lost(format!("it did not end within {} s", PATIENCE.as_secs()));
            };
            let refused = match answer {
                Ok((status, body)) => match end(status, &body) {
                    Some(end) => break end,
                    None => true,
                },
                Err(unanswered) => matches!(unanswered, Unanswered::Refused(_)),
            };
            accepted &= !(refused && failed_at.is_none());
            failed_at.get_or_insert_with(Instant::now);
            if late < Instant::now() + PAUSE {
                break End::Lost(format!("nobody answered for {} s", PATIENCE.as_secs()));
            }
            tokio::time::sleep(PAUSE).await;
        };
        Ok(Seen { number, key, due, took: due.elapsed(), accepted, failed_at, end })
    }
}

/// What an answer says of the end; nothing when it asks to come again.
fn end(status: StatusCode, body: &[u8]) -> Option<End> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    match status {
        StatusCode::OK => Some(End::Completed(body)),
        StatusCode::ACCEPTED => Some(End::Lost(format!("it did not end within {} s", PATIENCE.as_secs()))),
        _ if text("code") == "instance_faulted" => Some(End::Faulted {
            error: format!("{status} {} {}", text("title"), text("detail")).trim_end().to_owned(),
            fate: Fate::of_failed(&body["compensation"]),
        }),
        StatusCode::SERVICE_UNAVAILABLE => None,
        _ => Some(End::Lost(format!("{status} {}", text("detail")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_say_how_it_ended() {
        let completed = end(StatusCode::OK, br#"{"a":1}"#);
        assert_eq!(completed, Some(End::Completed(serde_json::json!({ "a": 1 }))));
        let faulted =
            br#"{"code":"instance_faulted","title":"Declined","detail":"no","compensation":{"unresolved":[]}}"#;
        let wanted = End::Faulted { error: "402 Payment Required Declined no".into(), fate: Some(Fate::Undone) };
        assert_eq!(end(StatusCode::PAYMENT_REQUIRED, faulted), Some(wanted));
        assert_eq!(end(StatusCode::SERVICE_UNAVAILABLE, br#"{"code":"busy"}"#), None);
        // The workflow's own 503 is its end, the server's is not.
        let own = br#"{"code":"instance_faulted","title":"Away","compensation":{"unresolved":[]}}"#;
        assert_eq!(end(StatusCode::SERVICE_UNAVAILABLE, own).map(|end| end.word()), Some("faulted"));
        assert!(matches!(end(StatusCode::NOT_FOUND, b"{}"), Some(End::Lost(_))));
    }
}
