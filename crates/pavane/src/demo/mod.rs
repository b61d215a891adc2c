//! The demo: everything in one process, a thousand orders of a saga, and an audit of the books.
//!
//! The services run on threads of their own, as they would in processes of their own; the orders go through the HTTP
//! API, and every step is durable in a SQLite store. Start reading at [`run`].

pub mod services;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::Method;
use indicatif::{ProgressBar, ProgressStyle};
use pavane_runtime::services::{Idempotency, Limits, ServiceSettings};
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};

use crate::client::{Answer, Server};
use crate::config::Config;
use crate::server::{Running, Storage};
use services::{Audit, Behaviour, Books, Fate, NAMES, audit};

/// The saga.
const WORKFLOW: &str = include_str!("../../../../examples/order-fulfilment/workflow.yaml");

/// How long an order may take before the demo gives it up: far longer than any should.
const PATIENCE: u64 = 120;

/// What to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Orders.
    pub orders: usize,
    /// At the same time.
    pub in_flight: usize,
    /// Payments declined, in percent.
    pub declined: f64,
    /// Go on serving.
    pub keep: bool,
}

/// How the orders ended.
#[derive(Debug)]
struct Run {
    fates: BTreeMap<String, Fate>,
    latency: Histogram<u64>,
    took: Duration,
    errors: Vec<String>,
}

/// Runs the demo; true when the audit is clean.
///
/// # Errors
/// What kept it from running.
pub async fn run(settings: Settings) -> Result<bool, String> {
    let folder = temporary()?;
    let result = run_in(&settings, folder.clone()).await;
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        tracing::warn!(folder = %folder.display(), %error, "the demo's folder stays");
    }
    result
}

async fn run_in(settings: &Settings, folder: PathBuf) -> Result<bool, String> {
    let behaviour = Behaviour { declined: settings.declined, ..Behaviour::default() };
    let services = start_services(behaviour).await?;
    let running = Running::open(config(&folder, &services.addresses), Storage::Configured, Vec::new(), BTreeMap::new())
        .await
        .map_err(|problems| problems.join("\n"))?;
    running.engine.deploy("order-fulfilment.yaml", WORKFLOW, false).await.map_err(|e| e.to_string())?;
    let address = running.serve().await?;
    println!("pavane demo: {} orders over five services, every step durable in SQLite", settings.orders);
    let run = orders(settings, address).await?;
    let books = services.books();
    let audit = audit(&books, &run.fates);
    report(settings, &run, &books, &audit, &running);
    let clean = audit.problems.is_empty() && run.errors.is_empty();
    if settings.keep {
        println!("\nserving at http://{address}; try:");
        println!("  pavane ps --server http://{address}");
        println!("  pavane ps --status faulted --server http://{address}");
        println!("ctrl-c ends it");
        running.until_stopped().await?;
    } else {
        running.stop().await;
    }
    services.stop();
    Ok(clean)
}

/// The services on a runtime of their own: they must not share the engine's threads.
async fn start_services(behaviour: Behaviour) -> Result<services::Services, String> {
    let (sender, started) = oneshot::channel();
    std::thread::Builder::new()
        .name("demo-services".into())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                // The demo may have been ended already.
                let _ = sender.send(services::start([0; 5], &behaviour, None).await);
                std::future::pending::<()>().await;
            });
        })
        .map_err(|e| format!("the services cannot be started: {e}"))?;
    started.await.map_err(|_| "the services did not start".to_owned())?
}

fn config(folder: &std::path::Path, addresses: &[SocketAddr; 5]) -> Config {
    let mut config = Config::default();
    config.listen.admin = SocketAddr::from(([127, 0, 0, 1], 0));
    config.store.sqlite.path = folder.join("demo.db");
    config.services = NAMES
        .iter()
        .zip(addresses)
        .map(|(name, address)| {
            let settings = ServiceSettings {
                url: Some(format!("http://{address}")),
                urls: Vec::new(),
                idempotency: Idempotency::Key,
                timeout: None,
                limits: Limits::default(),
            };
            ((*name).to_owned(), settings)
        })
        .collect();
    config
}

/// Places all orders and waits for each.
async fn orders(settings: &Settings, address: SocketAddr) -> Result<Run, String> {
    let server = Server::new(&format!("http://{address}"));
    let places = Arc::new(Semaphore::new(settings.in_flight));
    let bar = progress(settings.orders);
    let began = Instant::now();
    let mut placed = tokio::task::JoinSet::new();
    for number in 0..settings.orders {
        let (server, places) = (server.clone(), places.clone());
        placed.spawn(async move {
            // The semaphore is never closed.
            let _place = places.acquire_owned().await;
            let began = Instant::now();
            let order = format!("o-{number:06}");
            let answer = place(&server, &order, number).await;
            (order, answer, began.elapsed())
        });
    }
    let latency = Histogram::new_with_max(600_000_000, 3).map_err(|e| format!("latencies cannot be measured: {e}"))?;
    let mut run = Run { fates: BTreeMap::new(), latency, took: Duration::ZERO, errors: Vec::new() };
    while let Some(joined) = placed.join_next().await {
        bar.inc(1);
        let Ok((order, answer, took)) = joined else {
            run.errors.push("an order's task broke off".into());
            continue;
        };
        run.latency.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        match answer.map(|answer| fate(&answer)) {
            Ok(Some(fate)) => drop(run.fates.insert(order, fate)),
            Ok(None) => run.errors.push(format!("order {order} did not end within {PATIENCE} s")),
            Err(error) => run.errors.push(format!("order {order}: {error}")),
        }
    }
    bar.finish_and_clear();
    run.took = began.elapsed();
    Ok(run)
}

async fn place(server: &Server, order: &str, number: usize) -> Result<Answer, String> {
    let pieces = 1 + number % 3;
    let body = json!({
        "orderId": order,
        "items": [{ "sku": "lute", "quantity": pieces }],
        "total": 1_900 * pieces,
        "address": { "street": "Rue de la Danse 4", "city": "Padova" },
        "email": format!("{order}@example.com"),
    });
    let wait = format!("wait={PATIENCE}");
    let headers = [("content-type", "application/json"), ("prefer", wait.as_str()), ("idempotency-key", order)];
    let path = "/api/v1/workflows/shop/order-fulfilment/instances";
    loop {
        let answer = server.ask(Method::POST, path, &headers, Bytes::from(body.to_string())).await?;
        if answer.status != 503 || answer.body["code"] != "busy" {
            return Ok(answer);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// How an order ended, by the answer its client got.
fn fate(answer: &Answer) -> Option<Fate> {
    if answer.status == 200 {
        return Some(Fate::Completed);
    }
    Fate::of_failed(&answer.body["compensation"])
}

fn progress(orders: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} orders  {per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(orders as u64).with_style(style)
}

fn report(settings: &Settings, run: &Run, books: &[Books], audit: &Audit, running: &Running) {
    let millis = |quantile: f64| run.latency.value_at_quantile(quantile) as f64 / 1_000.0;
    let count = |wanted: fn(&Fate) -> bool| run.fates.values().filter(|fate| wanted(fate)).count();
    let completed = count(|fate| *fate == Fate::Completed);
    let unresolved = count(|fate| matches!(fate, Fate::Unresolved(_)));
    let calls: u64 = books.iter().map(|b| b.calls).sum();
    let refused: u64 = books.iter().map(|b| b.refused).sum();
    let undone: usize = books.iter().flat_map(|b| &b.effects).filter(|e| e.undone > 0).count();
    let failed = settings.orders - completed;
    let line = |name: &str, number: &str, rest: String| println!("  {name:<14} {number:>9}   {rest}");
    line(
        "orders",
        &settings.orders.to_string(),
        format!(
            "{:.0} orders/s, {} in flight",
            settings.orders as f64 / run.took.as_secs_f64(),
            settings.in_flight.min(settings.orders)
        ),
    );
    let latency = format!("p50; p90 {:.0} ms, p99 {:.0} ms", millis(0.9), millis(0.99));
    line("latency", &format!("{:.0} ms", millis(0.5)), latency);
    line("completed", &completed.to_string(), "paid, shipped and confirmed".into());
    let undone_orders = failed.saturating_sub(unresolved);
    line("failed", &failed.to_string(), format!("{undone_orders} undone, {unresolved} unresolved"));
    line("calls", &calls.to_string(), format!("{refused} refused by the services"));
    line("retries", &running.engine.counters().retries.to_string(), "of calls that were refused for a while".into());
    line("compensations", &undone.to_string(), "effects undone, in reverse order".into());
    if let Some(store) = &running.sqlite {
        let stats = store.stats();
        line("steps", &stats.commits.to_string(), format!("durable, in {} transactions", stats.transactions));
    }
    if audit.problems.is_empty() && run.errors.is_empty() {
        let found = format!("{} effects of {} orders add up, no key executed twice", audit.effects, audit.orders);
        line("audit", "clean", found);
        return;
    }
    const SHOWN: usize = 20;
    line("audit", "NOT clean", format!("{} problems", audit.problems.len() + run.errors.len()));
    for problem in run.errors.iter().chain(&audit.problems).take(SHOWN) {
        println!("    {problem}");
    }
}

/// A folder of our own among the temporary files.
fn temporary() -> Result<PathBuf, String> {
    let folder = std::env::temp_dir().join(format!("pavane-demo-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(folder)
}
