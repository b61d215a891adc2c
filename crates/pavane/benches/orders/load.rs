//! The load: orders one after the other by hand, or one request to the engine; closed loop or open.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use pavane::measure::pool::Pool;
use pavane::measure::{self, load};
use pavane_core::definition::Mode;
use serde_json::{Value, json};

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
    let kind = kind.clone();
    let one = move |number| {
        let kind = kind.clone();
        async move {
            let began = Instant::now();
            kind.carry_out(number).await.map(|()| began.elapsed())
        }
    };
    run(load::closed(in_flight, orders, one).await?)
}

/// Places `orders` at a fixed rate, whatever becomes of those before.
pub async fn open(kind: &Orders, rate: u64, orders: u64) -> Result<Run, String> {
    let one = |number, due: Instant| {
        let kind = kind.clone();
        async move { kind.carry_out(number).await.map(|()| due.elapsed()) }
    };
    run(load::open(rate as f64, orders, one).await?)
}

fn run((times, took): (Vec<Duration>, Duration)) -> Result<Run, String> {
    let mut latency = measure::histogram()?;
    times.iter().for_each(|time| latency.saturating_record(measure::micros(*time)));
    Ok(Run { orders: times.len() as u64, took, latency })
}

impl Orders {
    async fn carry_out(&self, number: u64) -> Result<(), String> {
        let order = order(number);
        match self {
            Orders::Raw(services) => by_hand(services, number, &order).await,
            Orders::Durable(engine, mode) => {
                let path = format!("/api/v1/workflows/bench/order/instances?mode={}", mode.as_str());
                let request = engine.request(Method::POST, &path, &[("prefer", "wait=60")], &order)?;
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
        let (_, answer) = expect(services, services.request(method, &path, &[], &body)?).await?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
        order[id] = answer["id"].clone();
    }
    let path = format!("/orders/o-{number:08}/confirmation");
    expect(services, services.request(Method::PUT, &path, &[], &order)?).await.map(drop)
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
