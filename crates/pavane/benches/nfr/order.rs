//! A client that places orders through the gateway: it waits for the end, and asks again under the same key when it is
//! refused or cut off.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use pavane::measure::pool::Pool;
use serde_json::{Value, json};

use super::house::House;

/// How long a client goes on asking, counted from when the order was due.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long a run without kills waits for an order before it counts as lost: far longer than any should take.
const LONG: Duration = Duration::from_secs(120);

/// Pause of a client that was refused.
const PAUSE: Duration = Duration::from_millis(50);

/// Keys of different clients do not meet.
static CLIENTS: AtomicU64 = AtomicU64::new(0);

/// Places orders, numbered under a name of its own.
#[derive(Clone)]
pub struct Client {
    pool: Pool,
    gateway: SocketAddr,
    name: Arc<str>,
    patience: Duration,
    /// The number of the next order of [`Client::keep_placing`].
    next: Arc<AtomicU64>,
}

/// How an order ended for its client.
#[derive(Clone, Debug)]
pub struct Ended {
    pub number: u64,
    pub took: Duration,
    /// It was answered with its output, or why not in time.
    pub end: Result<(), String>,
}

impl Client {
    /// A client with so many connections at most.
    pub fn new(house: &House, connections: u64) -> Client {
        let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
        let most = usize::try_from(connections).unwrap_or(usize::MAX);
        let name = format!("{}{number}", house.mode.as_str().get(..1).unwrap_or_default()).into();
        Client {
            pool: Pool::new(house.gateway, most),
            gateway: house.gateway,
            name,
            patience: LONG,
            next: Arc::default(),
        }
    }

    /// It gives an order up after [`PATIENCE`].
    pub fn impatient(self) -> Client {
        Client { patience: PATIENCE, ..self }
    }

    /// The key of an order, which is its id, too.
    pub fn key(&self, number: u64) -> String {
        format!("{}-{number:07}", self.name)
    }

    /// Tells this client's orders from others.
    pub fn before(&self) -> impl Fn(&str) -> bool + use<> {
        let prefix = format!("{}-", self.name);
        move |order| order.starts_with(&prefix)
    }

    /// Places an order and waits for its end.
    ///
    /// # Errors
    /// A request that cannot be made.
    pub async fn place(self, number: u64, due: Instant) -> Result<Ended, String> {
        let end = self.ask(&self.pool, number, due + self.patience).await?;
        Ok(Ended { number, took: due.elapsed(), end })
    }

    /// Keeps so many orders going until a moment; their numbers follow those of earlier calls.
    ///
    /// # Errors
    /// As [`Client::place`].
    pub async fn keep_placing(self, in_flight: u64, until: Instant) -> Result<Vec<Ended>, String> {
        let workers: Vec<_> = (0..in_flight)
            .map(|_| {
                let client = self.clone();
                tokio::spawn(async move {
                    let mut ended = Vec::new();
                    while Instant::now() < until {
                        let number = client.next.fetch_add(1, Ordering::Relaxed);
                        ended.push(client.clone().place(number, Instant::now()).await?);
                    }
                    Ok::<_, String>(ended)
                })
            })
            .collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.await.map_err(|e| e.to_string())??);
        }
        Ok(all)
    }

    /// How an order ended that its client gave up: asked for once more, with all the time it needs.
    pub async fn end_of(&self, number: u64) -> Result<(), String> {
        self.ask(&Pool::new(self.gateway, 1), number, Instant::now() + LONG).await?
    }

    async fn ask(&self, pool: &Pool, number: u64, late: Instant) -> Result<Result<(), String>, String> {
        let key = self.key(number);
        let body = order(&key, number);
        loop {
            let request = pool.request(Method::POST, "/orders", &[("idempotency-key", key.as_str())], &body)?;
            let why = match tokio::time::timeout_at(late.into(), pool.send(request)).await {
                Err(_) => return Ok(Err("no answer in time".into())),
                Ok(Ok((StatusCode::OK, _))) => return Ok(Ok(())),
                // It goes on: the same key waits on.
                Ok(Ok((StatusCode::ACCEPTED, _))) => continue,
                Ok(Ok((StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY, body))) => {
                    String::from_utf8_lossy(&body).into_owned()
                }
                Ok(Ok((status, body))) => return Ok(Err(format!("{status} {}", String::from_utf8_lossy(&body)))),
                Ok(Err(unanswered)) => unanswered.to_string(),
            };
            if Instant::now() + PAUSE >= late {
                return Ok(Err(why));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn order(id: &str, number: u64) -> Value {
    let pieces = 1 + number % 3;
    json!({
        "orderId": id,
        "items": [{ "sku": "lute", "quantity": pieces }],
        "total": 1_900 * pieces,
        "address": { "street": "Rue de la Danse 4", "city": "Padova" },
        "email": format!("{id}@example.com"),
    })
}
