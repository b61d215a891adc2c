//! The demo: everything in one process, a thousand orders of a saga, and an audit of the books.
//!
//! The services run on threads of their own, as they would in processes of their own; the orders enter by a route of the
//! gateway, and every step is durable in a SQLite store. The same orders run in one mode after the other, over the same
//! services. Start reading at [`run`].

mod report;
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
use pavane_core::definition::Mode;
use pavane_gateway::Located;
use pavane_gateway::settings::RouteSettings;
use pavane_runtime::services::ServiceSettings;
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};

use crate::client::{Answer, Server};
use crate::config::Config;
use crate::server::{Asked, Running, Totals};
use crate::stores::Storage;
use services::{Behaviour, Books, Fate, NAMES, audit};

/// The saga.
pub(crate) const WORKFLOW: &str = include_str!("../../../../examples/order-fulfilment/order.yaml");

/// How long an order may take before the demo gives it up: far longer than any should.
const PATIENCE: Duration = Duration::from_secs(120);

/// What to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Orders.
    pub orders: usize,
    /// At the same time.
    pub in_flight: usize,
    /// Payments declined, in percent.
    pub declined: f64,
    /// Modes, one after the other.
    pub modes: Vec<Mode>,
    /// Go on serving.
    pub keep: bool,
}

/// How the orders of one mode ended.
#[derive(Debug)]
struct Run {
    mode: Mode,
    fates: BTreeMap<String, Fate>,
    latency: Histogram<u64>,
    took: Duration,
    errors: Vec<String>,
    /// What Pavane did for them.
    totals: Totals,
    /// Refusals by the services.
    refused: u64,
    /// Effects that were undone.
    undone: usize,
}

/// Runs the demo; true when the audit is clean.
///
/// # Errors
/// What kept it from running.
pub async fn run(settings: Settings) -> Result<bool, String> {
    let folder = temporary("demo")?;
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
    let address = running.serve().await?.admin;
    let gateway = running.serve_gateway().await?.ok_or("the demo has no gateway")?;
    let modes: Vec<&str> = settings.modes.iter().map(|mode| mode.as_str()).collect();
    println!("pavane demo: {} orders over five services: {}", settings.orders, modes.join(", then "));
    println!("  orders enter by the gateway at http://{gateway}");
    let mut runs: Vec<Run> = Vec::new();
    for mode in &settings.modes {
        let (totals, books) = (running.totals(), services.books());
        let mut run = orders(settings, *mode, gateway).await?;
        run.totals = running.totals() - totals;
        run.refused = refused(&services.books()) - refused(&books);
        run.undone = undone(&services.books()) - undone(&books);
        runs.push(run);
    }
    let fates = runs.iter().flat_map(|run| run.fates.clone()).collect();
    let audit = audit(&services.books(), &fates);
    report::print(settings, &runs, &audit);
    let clean = audit.problems.is_empty() && runs.iter().all(|run| run.errors.is_empty());
    if settings.keep {
        let asked = Asked::hear()?;
        println!("\nserving at http://{address}, its gateway at http://{gateway}; try:");
        println!("  pavane ps --server http://{address}");
        println!("  pavane ps --status faulted --server http://{address}");
        println!("ctrl-c ends it");
        running.until_stopped(asked).await?;
    } else {
        running.stop().await;
    }
    services.stop();
    Ok(clean)
}

fn refused(books: &[Books]) -> u64 {
    books.iter().map(|service| service.refused).sum()
}

fn undone(books: &[Books]) -> usize {
    books.iter().flat_map(|service| &service.effects).filter(|effect| effect.undone > 0).count()
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
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    (config.listen.admin, config.listen.gateway) = (free, Some(free));
    config.routes = Mode::ALL.map(route).to_vec();
    config.store.sqlite.path = folder.join("demo.db");
    config.services = NAMES
        .iter()
        .zip(addresses)
        .map(|(name, address)| ((*name).to_owned(), ServiceSettings::at(format!("http://{address}"))))
        .collect();
    config
}

/// Where orders of a mode are sent.
fn path(mode: Mode) -> String {
    format!("/{}/orders", mode.as_str())
}

/// The route of a mode's orders, which are waited for.
fn route(mode: Mode) -> Located<RouteSettings> {
    let to = RouteSettings::to_workflow(path(mode), "shop/order-fulfilment");
    Located::nowhere(RouteSettings { mode: Some(mode.as_str().to_owned()), wait: Some(PATIENCE), ..to })
}

/// Places all orders in one mode at the gateway, and waits for each.
async fn orders(settings: &Settings, mode: Mode, gateway: SocketAddr) -> Result<Run, String> {
    let server = Server::new(&format!("http://{gateway}"));
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
            let series = mode.as_str().chars().next().unwrap_or('o');
            let order = format!("{series}-{number:06}");
            let answer = place(&server, mode, &order, number).await;
            (order, answer, began.elapsed())
        });
    }
    let latency = Histogram::new_with_max(600_000_000, 3).map_err(|e| format!("latencies cannot be measured: {e}"))?;
    let mut run = Run {
        mode,
        fates: BTreeMap::new(),
        latency,
        took: Duration::ZERO,
        errors: Vec::new(),
        totals: Totals::default(),
        refused: 0,
        undone: 0,
    };
    while let Some(joined) = placed.join_next().await {
        bar.inc(1);
        let Ok((order, answer, took)) = joined else {
            run.errors.push("an order's task broke off".into());
            continue;
        };
        run.latency.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        match answer.and_then(|answer| fate(&answer)) {
            Ok(fate) => drop(run.fates.insert(order, fate)),
            Err(error) => run.errors.push(format!("order {order}: {error}")),
        }
    }
    bar.finish_and_clear();
    run.took = began.elapsed();
    Ok(run)
}

async fn place(server: &Server, mode: Mode, order: &str, number: usize) -> Result<Answer, String> {
    let body = order_of(order, number);
    let headers = [("content-type", "application/json"), ("idempotency-key", order)];
    let path = path(mode);
    loop {
        let answer = server.ask(Method::POST, &path, &headers, Bytes::from(body.to_string())).await?;
        if answer.status != 503 || answer.body["code"] != "busy" {
            return Ok(answer);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The input of an order; how much it is for follows from its number.
pub(crate) fn order_of(id: &str, number: usize) -> serde_json::Value {
    let pieces = 1 + number % 3;
    json!({
        "orderId": id,
        "items": [{ "sku": "lute", "quantity": pieces }],
        "total": 1_900 * pieces,
        "address": { "street": "Rue de la Danse 4", "city": "Padova" },
        "email": format!("{id}@example.com"),
    })
}

/// How an order ended, by the answer its client got.
fn fate(answer: &Answer) -> Result<Fate, String> {
    match answer.status.as_u16() {
        200 => Ok(Fate::Completed),
        202 => Err(format!("it did not end within {} s", PATIENCE.as_secs())),
        _ => Fate::of_failed(&answer.body["compensation"])
            .ok_or_else(|| format!("{} {}", answer.status, answer.body["detail"].as_str().unwrap_or_default())),
    }
}

fn progress(orders: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} orders  {per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(orders as u64).with_style(style)
}

/// A folder of our own among the temporary files.
pub(crate) fn temporary(purpose: &str) -> Result<PathBuf, String> {
    let folder = std::env::temp_dir().join(format!("pavane-{purpose}-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(folder)
}
