//! A service that is away, seen from outside: orders wait for it, say so, survive a kill, and are done once.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use support::{PATIENCE, Served, config, json as output_of, pavane};

const ORDERS: usize = 30;

const ORDER: &str = "document: { dsl: '1.0.3', namespace: t, name: order, version: '1.0.0' }
do:
- charge: { call: http, with: { method: post, endpoint: 'http://payment/charges', body: '${ . }' } }
";

/// A payment service that can be ill, and what it charged under which key.
#[derive(Default)]
struct Payment {
    ill: AtomicBool,
    charged: Mutex<BTreeMap<String, usize>>,
}

async fn payment(service: Arc<Payment>) -> String {
    let serve = move |headers: HeaderMap| {
        let service = service.clone();
        async move {
            if service.ill.load(Ordering::SeqCst) {
                return (StatusCode::SERVICE_UNAVAILABLE, "away");
            }
            let key = headers["idempotency-key"].to_str().expect("a key").to_owned();
            *service.charged.lock().unwrap().entry(key).or_default() += 1;
            (StatusCode::OK, "1")
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/charges", post(serve))).await });
    url
}

/// The service as the API tells of it.
async fn service(served: &Served) -> Value {
    served.get("/api/v1/services").await["services"][0].clone()
}

async fn until(what: &str, served: &Served, so: impl Fn(&Value) -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !so(&service(served).await) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "it never came to this: {what}: {}", service(served).await);
}

async fn start(served: &Served, mode: &str) -> String {
    let path = format!("/api/v1/workflows/t/order/instances?mode={mode}");
    let answer = served.ask("POST", &path, &[], "{}").await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.body["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn orders_wait_for_a_service_that_is_away_and_are_done_once_whatever_happens() {
    let ill = Arc::new(Payment { ill: AtomicBool::new(true), ..Payment::default() });
    let url = payment(ill.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let settings = format!(
        "services: {{ payment: {{ url: '{url}', limits: {{ in_flight: 4, rate: 200/s, wait: 10m }}, retries: {{}},
           breaker: {{ min_calls: 3, open_for: 1h, half_open_calls: 2, slow: 20s }} }} }}"
    );
    let file = config(folder.path(), &settings);
    let mut served = Served::start(&file).await;
    assert_eq!(served.deploy(ORDER).await.status, 201);
    // The first ones fail: there is no retry in the document.
    for _ in 0..3 {
        let id = start(&served, "orchestration").await;
        let path = format!("/api/v1/instances/{id}");
        let ended = served.ask("GET", &path, &[("prefer", "wait=60")], "").await;
        assert_eq!(ended.body["status"], "faulted", "{ended:?}");
    }
    until("the breaker is open", &served, |payment| payment["breaker"] == "open").await;
    // The others wait, in both modes.
    let mut orders = Vec::new();
    for n in 0..ORDERS {
        orders.push(start(&served, if n % 2 == 0 { "orchestration" } else { "choreography" }).await);
    }
    until("all wait", &served, |payment| payment["waiting"] == ORDERS).await;
    let payment = service(&served).await;
    assert_eq!((&payment["waiting_for"], &payment["max_in_flight"]), (&json!("breaker"), &json!(4)));
    assert!(payment["open_for_ms"].as_u64().unwrap() > 3_000_000, "{payment}");
    let load = served.get("/api/v1/services/payment/load").await;
    assert_eq!((&load["backlog"], &load["demand"]), (&json!(ORDERS), &json!(ORDERS)));
    let unknown = served.ask("GET", "/api/v1/services/nobody/load", &[], "").await;
    assert_eq!((unknown.status.as_u16(), &unknown.body["code"]), (404, &json!("unknown_service")));
    let metrics = served.ask("GET", "/metrics", &[], "").await.body;
    let metrics = metrics.as_str().unwrap();
    for line in [
        format!("pavane_service_waiting{{service=\"payment\"}} {ORDERS}"),
        "pavane_service_breaker_state{service=\"payment\"} 2".into(),
        "pavane_service_breaker_opened_total{service=\"payment\"} 1".into(),
        "pavane_service_in_flight_limit{service=\"payment\"} 4".into(),
        "pavane_service_waited_seconds_total{service=\"payment\",reason=\"rate\"}".into(),
    ] {
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    let shown = pavane(&["services", "--server", &served.url]).await;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.lines().any(|line| line.contains("payment") && line.contains("open") && line.contains("0/4")),
        "{shown}"
    );
    for order in &orders[..2] {
        // A hop may wait a moment for its call before it is written.
        let tried = tokio::time::Instant::now() + PATIENCE;
        loop {
            let shown = pavane(&["show", order, "--server", &served.url]).await;
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            if shown.contains("waits for call of payment") && shown.contains("(not sent: breaker)") {
                break;
            }
            assert!(tokio::time::Instant::now() < tried, "{shown}");
        }
    }
    // It is killed with all of them at the gate. The next process finds the service well.
    served.process.kill();
    ill.ill.store(false, Ordering::SeqCst);
    served = Served::start(&file).await;
    for order in &orders {
        let path = format!("/api/v1/instances/{order}");
        let ended = served.ask("GET", &path, &[("prefer", "wait=60")], "").await;
        assert_eq!(ended.body["status"], "completed", "{ended:?}");
    }
    let charged = ill.charged.lock().unwrap().clone();
    assert_eq!((charged.len(), charged.values().max()), (ORDERS, Some(&1)), "each once: {charged:?}");
    let payment = service(&served).await;
    assert_eq!((&payment["breaker"], &payment["counts"]["passed"]), (&json!("closed"), &json!(ORDERS)));
}

#[tokio::test]
async fn what_waited_says_so_and_a_stop_does_not_wait_for_it() {
    let ill = Arc::new(Payment { ill: AtomicBool::new(true), ..Payment::default() });
    let url = payment(ill.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let breaker = "breaker: { min_calls: 1, open_for: 500ms, half_open_calls: 1 }";
    let settings = format!("shutdown: 1h\nservices: {{ payment: {{ url: '{url}', {breaker} }} }}");
    let mut served = Served::start(&config(folder.path(), &settings)).await;
    served.deploy(ORDER).await;
    start(&served, "orchestration").await;
    until("the breaker is open", &served, |payment| payment["breaker"] == "open").await;
    ill.ill.store(false, Ordering::SeqCst);
    for mode in ["orchestration", "choreography"] {
        let order = start(&served, mode).await;
        served.ask("GET", &format!("/api/v1/instances/{order}"), &[("prefer", "wait=60")], "").await;
        if mode == "choreography" {
            continue;
        }
        let told = pavane(&["events", &order, "-o", "json", "--server", &served.url]).await;
        let told = output_of(&told);
        let held = told["events"].as_array().unwrap().iter().find(|event| event["type"] == "io.pavane.task.held.v1");
        let held = &held.unwrap_or_else(|| panic!("it does not say that it waited: {told}"))["data"];
        assert_eq!((&held["task"], &held["service"]), (&json!("/do/0/charge"), &json!("payment")));
        assert!(held["waitedMs"]["breaker"].as_u64().unwrap() > 0, "{held}");
        let shown = pavane(&["show", &order, "--server", &served.url]).await;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains("/do/0/charge waited for payment: breaker "), "{shown}");
    }
    // Ill once more: the next order waits, and the server stops without it.
    ill.ill.store(true, Ordering::SeqCst);
    start(&served, "orchestration").await;
    until("the breaker is open again", &served, |payment| payment["breaker"] == "open").await;
    let settings =
        format!("shutdown: 1h\nservices: {{ payment: {{ url: '{url}', breaker: {{ min_calls: 1, open_for: 1h }} }} }}");
    served.process.signal("TERM");
    assert!(served.process.ended().await.success());
    let file = config(folder.path(), &settings);
    served = Served::start(&file).await;
    start(&served, "orchestration").await;
    until("the breaker is open for long", &served, |payment| payment["breaker"] == "open").await;
    let order = start(&served, "orchestration").await;
    until("the order waits", &served, |payment| payment["waiting"] == 1).await;
    served.process.signal("TERM");
    assert!(served.process.ended().await.success(), "{}", served.process.stderr());
    ill.ill.store(false, Ordering::SeqCst);
    let served = Served::start(&file).await;
    let ended = served.ask("GET", &format!("/api/v1/instances/{order}"), &[("prefer", "wait=60")], "").await;
    assert_eq!(ended.body["status"], "completed", "{ended:?}");
}
