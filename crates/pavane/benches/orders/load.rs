//! The load: orders one after the other by hand, or one request to the engine; closed loop or open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use pavane_core::definition::Mode;
use serde_json::{Value, json};

use crate::pool::Pool;

/// Longest an order may take before it counts as lost: far longer than any should.
const PATIENCE: Duration = Duration::from_secs(60);

/// How an order is carried out.
#[derive(Clone)]
pub enum Orders {
    /// Four calls by hand, nothing kept: the floor.
    Raw(Pool),
    /// One request to the engine; the same calls are made durably, in a mode.
    Durable(Pool, Mode),
}

/// Orders that were carried out, and how long each took, in microseconds.
pub struct Run {
    pub orders: u64,
    pub took: Duration,
    pub latency: Histogram<u64>,
}

/// Keeps `in_flight` orders going until `orders` are done.
pub async fn closed(kind: &Orders, in_flight: u64, orders: u64) -> Result<Run, String> {
    let next = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let workers: Vec<_> = (0..in_flight.min(orders))
        .map(|_| {
            let (kind, next) = (kind.clone(), next.clone());
            tokio::spawn(async move {
                let mut latency = histogram()?;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= orders {
                        return Ok::<_, String>(latency);
                    }
                    let began = Instant::now();
                    kind.carry_out(number).await?;
                    latency.saturating_record(micros(began.elapsed()));
                }
            })
        })
        .collect();
    let mut latency = histogram()?;
    for worker in workers {
        latency.add(worker.await.map_err(|e| e.to_string())??).map_err(|e| e.to_string())?;
    }
    Ok(Run { orders, took: began.elapsed(), latency })
}

/// Places `orders` at a fixed rate, whatever becomes of those before. An order's time begins when it was due, so that
/// one that had to wait for its turn is not forgiven.
pub async fn open(kind: &Orders, rate: u64, orders: u64) -> Result<Run, String> {
    let began = Instant::now();
    let mut placed = Vec::new();
    for number in 0..orders {
        let due = began + Duration::from_micros(number * 1_000_000 / rate);
        tokio::time::sleep_until(due.into()).await;
        let kind = kind.clone();
        placed.push(tokio::spawn(async move { kind.carry_out(number).await.map(|()| micros(due.elapsed())) }));
    }
    let mut latency = histogram()?;
    for order in placed {
        latency.saturating_record(order.await.map_err(|e| e.to_string())??);
    }
    Ok(Run { orders, took: began.elapsed(), latency })
}

impl Orders {
    async fn carry_out(&self, number: u64) -> Result<(), String> {
        let order = order(number);
        match self {
            Orders::Raw(services) => by_hand(services, number, &order).await,
            Orders::Durable(engine, mode) => {
                let path = format!("/api/v1/workflows/bench/order/instances?mode={}", mode.as_str());
                let request = request(engine, Method::POST, &path, &[("prefer", "wait=60")], &order)?;
                let (status, body) = expect(engine, request).await?;
                match status {
                    StatusCode::OK => Ok(()),
                    _ => Err(format!("an order did not end in time: {}", String::from_utf8_lossy(&body))),
                }
            }
        }
    }
}

/// The four calls, with the same bodies that the definition makes.
async fn by_hand(services: &Pool, number: u64, order: &Value) -> Result<(), String> {
    let mut order = order.clone();
    let steps = [
        (
            Method::POST,
            "/reservations".to_owned(),
            json!({ "orderId": order["orderId"], "items": order["items"] }),
            "reservationId",
        ),
        (
            Method::POST,
            "/charges".to_owned(),
            json!({ "orderId": order["orderId"], "amount": order["total"] }),
            "chargeId",
        ),
        (
            Method::POST,
            "/shipments".to_owned(),
            json!({ "orderId": order["orderId"], "address": order["address"] }),
            "shipmentId",
        ),
    ];
    for (method, path, body, id) in steps {
        let (_, answer) = expect(services, request(services, method, &path, &[], &body)?).await?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
        order[id] = answer["id"].clone();
    }
    let path = format!("/orders/o-{number:08}/confirmation");
    expect(services, request(services, Method::PUT, &path, &[], &order)?).await.map(drop)
}

fn order(number: u64) -> Value {
    json!({
        "orderId": format!("o-{number:08}"),
        "items": [{ "sku": "lute", "quantity": 1, "price": 1900 }, { "sku": "strings", "quantity": 6, "price": 12 }],
        "total": 1972,
        "address": { "name": "Ada Lovelace", "street": "Rue de la Danse 4", "city": "Padova", "country": "IT" },
        "email": "ada@example.com",
    })
}

pub fn request(
    pool: &Pool,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", pool.host())
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::from(body.to_string()))).map_err(|e| e.to_string())
}

/// Sends a request that must succeed.
pub async fn expect(pool: &Pool, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String> {
    let what = format!("{} {}", request.method(), request.uri());
    let answer = tokio::time::timeout(PATIENCE, pool.send(request)).await;
    let (status, body) = answer.map_err(|_| format!("{what}: no answer within {} s", PATIENCE.as_secs()))??;
    match status.is_success() {
        true => Ok((status, body)),
        false => Err(format!("{what}: {status}: {}", String::from_utf8_lossy(&body))),
    }
}

fn histogram() -> Result<Histogram<u64>, String> {
    Histogram::new_with_max(600_000_000, 3).map_err(|e| e.to_string())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
