//! A service that is called by workflows and to which the gateway forwards requests: whoever comes, by whichever door, it
//! never gets more than it takes, and both doors learn from each other that it fails.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "what fails in a test fails the test")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use pavane::client::{Answer, Server};
use support::{Process, Served, config};
use tokio::task::JoinSet;

const WORKFLOW: &str = "
document: { dsl: '1.0.3', namespace: doors, name: call, version: '1.0.0' }
do:
  - ask: { call: http, with: { method: post, endpoint: http://shop/work, body: {} } }
";

/// A service that counts who is there at once, and can be made to fail.
#[derive(Default)]
struct Shop {
    now: AtomicUsize,
    most: AtomicUsize,
    came: AtomicUsize,
    last: Mutex<Option<Instant>>,
    failing: AtomicBool,
}

async fn work(State(shop): State<Arc<Shop>>) -> StatusCode {
    shop.came.fetch_add(1, Ordering::SeqCst);
    *shop.last.lock().unwrap() = Some(Instant::now());
    shop.most.fetch_max(shop.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(3)).await;
    shop.now.fetch_sub(1, Ordering::SeqCst);
    if shop.failing.load(Ordering::SeqCst) { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK }
}

/// A server with the service behind both doors.
struct Doors {
    shop: Arc<Shop>,
    served: Served,
    gateway: Server,
    _folder: tempfile::TempDir,
}

impl Doors {
    async fn open(limits: &str, route: &str) -> Doors {
        let shop = Arc::new(Shop::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(work).with_state(shop.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("call.yaml"), WORKFLOW).unwrap();
        let file = config(
            folder.path(),
            &format!(
                "services: {{ shop: {{ url: '{url}', {limits} }} }}\nworkflows: [call.yaml]\n\
                 routes: [ {{ match: {{ path: '/shop/*' }}, service: shop{route} }} ]"
            ),
        );
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("listen: { ", "listen: { gateway: '127.0.0.1:0', ")).unwrap();
        let process = Process::start(&["serve", "--config", file.to_str().unwrap()]);
        let mut served = Served::of(process).await;
        let line = served.process.line("gateway serves at").await;
        let gateway = Server::new(line.rsplit(' ').next().unwrap());
        Doors { shop, served, gateway, _folder: folder }
    }

    async fn forward(gateway: &Server) -> Answer {
        gateway.ask("POST".parse().unwrap(), "/shop/x", &[], "{}".into()).await.expect("an answer")
    }

    /// So many by each door, all at once; gives what the forwarded ones were answered.
    async fn burst(&self, many: usize) -> Vec<Answer> {
        let (mut forwarded, mut started) = (JoinSet::new(), JoinSet::new());
        for _ in 0..many {
            let (gateway, api) = (self.gateway.clone(), self.served.http.clone());
            forwarded.spawn(async move { Doors::forward(&gateway).await });
            started.spawn(async move { start(&api).await });
        }
        for instance in started.join_all().await {
            assert_eq!((instance.status.as_u16(), &instance.body["status"]), (200, &"completed".into()));
        }
        forwarded.join_all().await
    }
}

/// Runs an instance to its end.
async fn start(api: &Server) -> Answer {
    let path = "/api/v1/workflows/doors/call/instances";
    api.ask("POST".parse().unwrap(), path, &[("prefer", "wait=60")], "{}".into()).await.expect("an answer")
}

#[tokio::test]
async fn a_burst_through_both_doors_is_never_more_than_the_service_takes() {
    let doors = Doors::open("limits: { in_flight: 4 }", ", queue: 60s, timeout: 60s").await;
    let answers = doors.burst(150).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "with time enough everybody has a turn");
    assert_eq!(doors.shop.came.load(Ordering::SeqCst), 300);
    assert_eq!(doors.shop.most.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn who_cannot_wait_is_told_to_come_again() {
    let doors = Doors::open("limits: { in_flight: 1 }", ", queue: 0s").await;
    let answers = doors.burst(100).await;
    let busy: Vec<&Answer> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!(!busy.is_empty(), "a hundred at once for one place");
    for answer in &busy {
        assert_eq!((answer.status.as_u16(), &answer.body["code"]), (503, &"service_busy".into()));
        assert_eq!(answer.headers["retry-after"], "1");
    }
    let came = doors.shop.came.load(Ordering::SeqCst);
    assert_eq!((came, doors.shop.most.load(Ordering::SeqCst)), (200 - busy.len(), 1), "who was refused did not come");
}

#[tokio::test]
async fn a_rate_counts_both_doors() {
    let began = Instant::now();
    let doors = Doors::open("limits: { rate: 200/s }", ", queue: 60s, timeout: 60s").await;
    assert!(doors.burst(60).await.iter().all(|answer| answer.status == 200));
    // From before the first to the last: what came in that time is no more than the rate allows.
    let period = doors.shop.last.lock().unwrap().unwrap() - began + Duration::from_millis(20);
    assert!(120.0 <= 1.0 + period.as_secs_f64() * 200.0, "{period:?} are too short for 120");
}

#[tokio::test]
async fn what_one_door_learns_of_a_failing_service_the_other_knows() {
    let breaker = "breaker: { min_calls: 5, window: 60s, open_for: 2s, half_open_calls: 1 }";
    let doors = Doors::open(breaker, "").await;
    doors.shop.failing.store(true, Ordering::SeqCst);
    for _ in 0..5 {
        assert_eq!(Doors::forward(&doors.gateway).await.status, 500);
    }
    let refused = Doors::forward(&doors.gateway).await;
    assert_eq!((refused.status.as_u16(), &refused.body["code"]), (503, &"breaker_open".into()));
    let after: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&after), "{after}");
    assert_eq!(doors.shop.came.load(Ordering::SeqCst), 5, "it is left alone");
    let services = doors.served.get("/api/v1/services").await;
    assert_eq!(services["services"][0]["breaker"], "open", "{services:#}");
    // A workflow waits until the service is tried again, and then is the trial.
    doors.shop.failing.store(false, Ordering::SeqCst);
    assert_eq!(start(&doors.served.http).await.body["status"], "completed");
    assert_eq!(Doors::forward(&doors.gateway).await.status, 200, "and what it found opens the other door");
}

#[tokio::test]
async fn a_service_without_limits_is_forwarded_to_freely() {
    let doors = Doors::open("timeout: 30s", ", queue: 0s").await;
    assert!(doors.burst(100).await.iter().all(|answer| answer.status == 200));
}
