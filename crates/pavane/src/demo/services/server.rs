//! One demo service: its HTTP server, its idempotency, its ledger.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as PathOf, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Behaviour, Books, Effect, callbacks};
use crate::client::Server;

/// One service.
#[derive(Debug)]
pub(super) struct Shared {
    name: &'static str,
    behaviour: Behaviour,
    state: Mutex<Ledger>,
    /// Clients for callbacks, by base URL.
    pub(super) clients: Mutex<HashMap<String, Server>>,
}

#[derive(Debug, Default)]
struct Ledger {
    /// What each key was answered.
    answers: HashMap<String, Answered>,
    /// Effects by the id they were given.
    effects: HashMap<String, Effect>,
    /// Forward keys that were undone before they came: they must not be done any more.
    tombstones: HashMap<String, ()>,
    /// Where answers are still to be called back, by key.
    callbacks: HashMap<String, String>,
    /// Id of the effect of a key.
    by_key: HashMap<String, String>,
    /// Attempts for each order, to fail the first ones only.
    attempts: HashMap<String, u32>,
    next: u64,
    calls: u64,
    repeats: u64,
    refused: u64,
    balance: i64,
    file: Option<File>,
}

/// An answer that a repeat gets again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Answered {
    pub request: String,
    pub status: u16,
    pub body: Value,
}

/// A line of the ledger's file: everything one request changed.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    key: String,
    answered: Answered,
    /// The effect made or changed, with its id.
    effect: Option<(String, Effect)>,
    tombstone: Option<String>,
    /// Where the answer is to be called back; nothing once it was.
    #[serde(default)]
    callback: Option<String>,
}

/// What a request came to.
struct Work {
    status: StatusCode,
    body: Value,
    effect: Option<(String, Effect)>,
    tombstone: Option<String>,
}

impl Work {
    fn refused(status: StatusCode, why: &str) -> Work {
        Work { status, body: json!({ "title": why }), effect: None, tombstone: None }
    }
}

/// A request that asks for work.
struct Ask<'a> {
    key: &'a str,
    kind: &'static str,
    order: String,
    amount: i64,
}

impl Shared {
    pub fn open(name: &'static str, behaviour: Behaviour, folder: Option<&Path>) -> Result<Shared, String> {
        let mut ledger = Ledger::default();
        if let Some(folder) = folder {
            let path = folder.join(format!("{name}.jsonl"));
            let fail = |e: std::io::Error| format!("{}: {e}", path.display());
            let file = OpenOptions::new().create(true).append(true).read(true).open(&path).map_err(fail)?;
            for line in BufReader::new(&file).lines() {
                // A line cut off by a crash was never acknowledged.
                if let Ok(line) = serde_json::from_str::<Line>(&line.map_err(fail)?) {
                    ledger.replay(line);
                }
            }
            ledger.file = Some(file);
        }
        Ok(Shared { name, behaviour, state: Mutex::new(ledger), clients: Mutex::default() })
    }

    /// What is still to be called back: key, URL and answer.
    pub fn owed(&self) -> Vec<(String, String, Answered)> {
        let ledger = self.lock();
        let owed = ledger.callbacks.iter();
        owed.filter_map(|(key, url)| Some((key.clone(), url.clone(), ledger.answers.get(key)?.clone()))).collect()
    }

    /// Notes that an answer need not be called back any more.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn called_back(&self, key: &str) -> Result<(), String> {
        let mut ledger = self.lock();
        let Some(answered) = ledger.answers.get(key).cloned() else { return Ok(()) };
        ledger.enter(Line { key: key.to_owned(), answered, effect: None, tombstone: None, callback: None })
    }

    pub fn books(&self) -> Books {
        let ledger = self.lock();
        let mut effects: Vec<Effect> = ledger.effects.values().cloned().collect();
        effects.sort_by(|a, b| (&a.order, &a.kind, &a.key).cmp(&(&b.order, &b.kind, &b.key)));
        Books {
            service: self.name.to_owned(),
            effects,
            calls: ledger.calls,
            repeats: ledger.repeats,
            refused: ledger.refused,
            balance: ledger.balance,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a thing happens to an order, in percent. Orders of the same number fare alike in every series.
    fn happens(&self, what: &str, order: &str, percent: f64) -> bool {
        let order = order.split_once('-').map_or(order, |(_, number)| number);
        let text = format!("{}/{what}/{order}", self.behaviour.seed);
        let hash =
            text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let mixed = (hash ^ (hash >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed >> 33) % 10_000) as f64 / 100.0 < percent
    }

    /// Answers a request: a key that came before gets its answer again. The answer to one that gives a `callback` comes
    /// there, the first time.
    async fn handle(
        self: &Arc<Self>,
        headers: &HeaderMap,
        callback: Option<String>,
        request: String,
        work: impl FnOnce(&mut Ledger, &str) -> Work,
    ) -> Response {
        if self.behaviour.latency > 0 {
            tokio::time::sleep(Duration::from_millis(self.behaviour.latency)).await;
        }
        let Some(key) = headers.get("idempotency-key").and_then(|k| k.to_str().ok()).map(str::to_owned) else {
            return (StatusCode::BAD_REQUEST, axum::Json(json!({ "title": "Idempotency-Key is missing" })))
                .into_response();
        };
        let answered = self.lock().answer(&key, request, callback.clone(), work);
        let (answered, is_new) = match answered {
            Ok(answered) => answered,
            Err(why) => {
                return (StatusCode::INTERNAL_SERVER_ERROR, axum::Json(json!({ "title": why }))).into_response();
            }
        };
        let status = StatusCode::from_u16(answered.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let callback = callback.filter(|_| is_new);
        if let Some(url) = callback.clone() {
            tokio::spawn(callbacks::deliver(self.clone(), key.clone(), url, answered.clone()));
        }
        if self.behaviour.lost > 0.0
            && self.happens("lost", &format!("{key}{}", self.lock().calls), self.behaviour.lost)
        {
            // The work is done and the caller never learns of it.
            return StatusCode::GATEWAY_TIMEOUT.into_response();
        }
        if callback.is_some() {
            return StatusCode::ACCEPTED.into_response();
        }
        (status, axum::Json(answered.body)).into_response()
    }

    /// Does something, with the failures it was told to have.
    fn perform(&self, ledger: &mut Ledger, ask: Ask<'_>) -> Work {
        if ledger.tombstones.contains_key(ask.key) {
            return Work::refused(StatusCode::CONFLICT, "this was undone before it came");
        }
        let attempt = ledger.attempts.entry(ask.order.clone()).or_default();
        *attempt += 1;
        let first = *attempt == 1;
        match ask.kind {
            "charge" if self.happens("declined", &ask.order, self.behaviour.declined) => {
                return Work::refused(StatusCode::PAYMENT_REQUIRED, "the card was declined");
            }
            "charge" if first && self.happens("unavailable", &ask.order, self.behaviour.unavailable) => {
                return Work::refused(StatusCode::SERVICE_UNAVAILABLE, "try again");
            }
            "shipment" if self.happens("unshippable", &ask.order, self.behaviour.unshippable) => {
                return Work::refused(StatusCode::UNPROCESSABLE_ENTITY, "nobody delivers there");
            }
            _ => {}
        }
        ledger.next += 1;
        let id = format!("{}-{}", ask.kind.get(..1).unwrap_or_default(), ledger.next);
        let before = ledger.by_key.get(ask.key).and_then(|id| ledger.effects.get(id));
        let executions = 1 + before.map_or(0, |effect| effect.executions);
        let effect = Effect {
            key: ask.key.to_owned(),
            order: ask.order,
            kind: ask.kind.to_owned(),
            amount: ask.amount,
            executions,
            undone: 0,
        };
        Work { status: StatusCode::CREATED, body: json!({ "id": id }), effect: Some((id, effect)), tombstone: None }
    }
}

impl Ledger {
    fn answer(
        &mut self,
        key: &str,
        request: String,
        callback: Option<String>,
        work: impl FnOnce(&mut Ledger, &str) -> Work,
    ) -> Result<(Answered, bool), String> {
        self.calls += 1;
        if let Some(answered) = self.answers.get(key) {
            self.repeats += 1;
            if answered.request != request {
                let body = json!({ "title": "this Idempotency-Key came with another request before" });
                return Ok((Answered { request, status: 422, body }, false));
            }
            return Ok((answered.clone(), false));
        }
        let Work { status, body, effect, tombstone } = work(self, key);
        if status.is_client_error() || status.is_server_error() {
            self.refused += 1;
        }
        let answered = Answered { request, status: status.as_u16(), body };
        self.enter(Line { key: key.to_owned(), answered: answered.clone(), effect, tombstone, callback })?;
        Ok((answered, true))
    }

    /// Writes a line, and does what it says.
    fn enter(&mut self, line: Line) -> Result<(), String> {
        if let Some(file) = &mut self.file {
            let text = serde_json::to_string(&line).map_err(|e| e.to_string())?;
            // One write: a kill leaves a whole line or none.
            file.write_all(format!("{text}\n").as_bytes()).map_err(|e| e.to_string())?;
        }
        self.replay(line);
        Ok(())
    }

    fn replay(&mut self, line: Line) {
        if let Some((id, effect)) = line.effect {
            let stands = |e: &Effect| if e.executions > 0 && e.undone == 0 { e.amount } else { 0 };
            self.balance += stands(&effect) - self.effects.get(&id).map_or(0, stands);
            self.next = self.next.max(id.rsplit_once('-').and_then(|(_, n)| n.parse().ok()).unwrap_or(0));
            self.by_key.insert(effect.key.clone(), id.clone());
            self.effects.insert(id, effect);
        }
        if let Some(forward) = line.tombstone {
            self.tombstones.insert(forward, ());
        }
        match line.callback {
            Some(url) => drop(self.callbacks.insert(line.key.clone(), url)),
            None => drop(self.callbacks.remove(&line.key)),
        }
        self.answers.insert(line.key, line.answered);
    }

    /// Undoes an effect by its id, or by the key of the request that made it. What never came is remembered, so that
    /// it does not come late.
    fn undo(&mut self, id: &str, forward: Option<&str>) -> Work {
        let by_key = forward.and_then(|key| self.by_key.get(key).cloned());
        let id = if self.effects.contains_key(id) { Some(id.to_owned()) } else { by_key };
        match id.and_then(|id| Some((id.clone(), self.effects.get(&id)?.clone()))) {
            Some((id, mut effect)) => {
                effect.undone += u32::from(effect.undone == 0);
                let tombstone = Some(effect.key.clone());
                Work {
                    status: StatusCode::OK,
                    body: json!({ "id": id, "undone": true }),
                    effect: Some((id, effect)),
                    tombstone,
                }
            }
            None => Work {
                status: StatusCode::OK,
                body: json!({ "undone": true }),
                effect: None,
                tombstone: forward.map(str::to_owned),
            },
        }
    }
}

type Service = State<Arc<Shared>>;

/// The routes of a service; each has its books at `/books`.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    let routes = match shared.name {
        "inventory" => Router::new().route("/reservations", post(reserve)).route("/reservations/{id}", delete(undo)),
        "payment" => Router::new().route("/charges", post(charge)).route("/charges/{id}/refund", post(undo)),
        "shipping" => Router::new().route("/shipments", post(ship)).route("/shipments/{id}", delete(undo)),
        "notification" => Router::new().route("/messages", post(notify)),
        _ => Router::new().route("/orders/{id}/confirmation", put(confirm).delete(undo)),
    };
    routes.route("/books", get(books)).with_state(shared)
}

async fn books(State(shared): Service) -> axum::Json<Books> {
    axum::Json(shared.books())
}

async fn reserve(State(shared): Service, headers: HeaderMap, body: Bytes) -> Response {
    let pieces = |body: &Value| {
        let items = body["items"].as_array().into_iter().flatten();
        items.map(|item| item["quantity"].as_i64().unwrap_or(1)).sum::<i64>()
    };
    ask(&shared, &headers, &body, "reservation", "orderId", pieces).await
}

async fn charge(State(shared): Service, headers: HeaderMap, body: Bytes) -> Response {
    ask(&shared, &headers, &body, "charge", "orderId", |body| body["amount"].as_i64().unwrap_or(0)).await
}

async fn ship(State(shared): Service, headers: HeaderMap, body: Bytes) -> Response {
    ask(&shared, &headers, &body, "shipment", "orderId", |_| 1).await
}

async fn notify(State(shared): Service, headers: HeaderMap, body: Bytes) -> Response {
    ask(&shared, &headers, &body, "message", "orderId", |_| 1).await
}

async fn confirm(State(shared): Service, PathOf(order): PathOf<String>, headers: HeaderMap, body: Bytes) -> Response {
    let request = format!("confirm {order} {}", String::from_utf8_lossy(&body));
    let work = |ledger: &mut Ledger, key: &str| {
        shared.perform(ledger, Ask { key, kind: "confirmation", order: order.clone(), amount: 1 })
    };
    shared.handle(&headers, None, request, work).await
}

async fn undo(State(shared): Service, PathOf(id): PathOf<String>, headers: HeaderMap) -> Response {
    let forward = headers.get("pavane-compensates").and_then(|k| k.to_str().ok());
    let request = format!("undo {id} {}", forward.unwrap_or_default());
    shared.handle(&headers, None, request, |ledger, _| ledger.undo(&id, forward)).await
}

async fn ask(
    shared: &Arc<Shared>,
    headers: &HeaderMap,
    body: &Bytes,
    kind: &'static str,
    order: &str,
    amount: impl Fn(&Value) -> i64,
) -> Response {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return (StatusCode::BAD_REQUEST, axum::Json(json!({ "title": "the body is no JSON" }))).into_response();
    };
    let Some(order) = body[order].as_str().map(str::to_owned) else {
        return (StatusCode::BAD_REQUEST, axum::Json(json!({ "title": "orderId is missing" }))).into_response();
    };
    let request = format!("{kind} {body}");
    let work = |ledger: &mut Ledger, key: &str| shared.perform(ledger, Ask { key, kind, order, amount: amount(&body) });
    // Whoever packs takes longer than whoever counts.
    let callback = headers.get("pavane-callback").filter(|_| kind == "shipment");
    let callback = callback.and_then(|url| url.to_str().ok()).map(str::to_owned);
    shared.handle(headers, callback, request, work).await
}
