//! A burst: a thousand orders at once against a service that takes twenty calls at a time and refuses the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use pavane_bus::Embedded;
use pavane_core::definition::Mode;
use pavane_core::record::{JournalEntry, Status};
use pavane_runtime::services::Limits;
use pavane_runtime::{Engine, Options, StartRequest};
use pavane_store::{Memory, Sqlite, Store};
use tokio::task::JoinSet;

use super::*;

const ORDERS: usize = 1_000;
const AT_ONCE: usize = 20;

/// Long enough that only a defect lets it pass.
const PATIENCE: Duration = Duration::from_secs(120);

const ORDER: &str = "document: { dsl: '1.0.3', namespace: t, name: order, version: '1.0.0' }
do:
- charge: { call: http, with: { method: post, endpoint: 'http://shop/charges', body: '${ . }' } }
- ship: { call: http, with: { method: post, endpoint: 'http://shop/parcels', body: '${ . }' } }
";

/// A mode, and the stores of engine and participant.
type House = (Mode, Arc<dyn Store>, Arc<dyn Store>);

/// Calls at the service now, the most there ever were, and all that were taken.
#[derive(Default)]
struct Counts {
    now: AtomicUsize,
    most: AtomicUsize,
    taken: AtomicUsize,
    refused: AtomicUsize,
}

/// A service that takes so many at a time.
async fn narrow(counts: Arc<Counts>) -> SocketAddr {
    let serve = move |body: String| {
        let counts = counts.clone();
        async move {
            let now = counts.now.fetch_add(1, Ordering::SeqCst) + 1;
            counts.most.fetch_max(now, Ordering::SeqCst);
            let answer = if now > AT_ONCE {
                counts.refused.fetch_add(1, Ordering::SeqCst);
                (StatusCode::SERVICE_UNAVAILABLE, "too many".to_owned())
            } else {
                tokio::time::sleep(Duration::from_millis(2)).await;
                counts.taken.fetch_add(1, Ordering::SeqCst);
                (StatusCode::OK, body)
            };
            let answer = (answer.0, [("content-type", "application/json")], answer.1);
            counts.now.fetch_sub(1, Ordering::SeqCst);
            answer
        }
    };
    let router = Router::new().route("/charges", post(serve.clone())).route("/parcels", post(serve));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_orders_at_once_come_through_and_the_service_never_sees_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| Arc::new(Sqlite::open(folder.path().join(name), Duration::ZERO).unwrap());
    let stores: [House; 3] = [
        (Mode::Orchestration, Arc::new(Memory::new()), Arc::new(Memory::new())),
        (Mode::Orchestration, file("home.db"), file("part.db")),
        (Mode::Choreography, Arc::new(Memory::new()), Arc::new(Memory::new())),
    ];
    for (mode, home, part) in stores {
        let counts = Arc::new(Counts::default());
        let address = narrow(counts.clone()).await;
        let limits = Limits { in_flight: Some(AT_ONCE), ..Limits::default() };
        let settings = ServiceSettings { limits, ..service(format!("http://{address}")) };
        let network = network(&[("shop", settings)]);
        let options = Options { services: ["shop".to_owned()].into(), ..Options::default() };
        let engine = Engine::open(options, home.clone(), Arc::new(network.clone())).await.unwrap();
        let participant = engine.participant("shop", part.clone()).await.unwrap();
        let bus = Arc::new(Embedded::default());
        for engine in [&engine, &participant] {
            engine.subscribe(&*bus);
        }
        for engine in [&engine, &participant] {
            engine.publish_to(bus.clone());
        }
        engine.deploy("order", ORDER, false).await.unwrap();
        let mut orders = JoinSet::new();
        for n in 0..ORDERS {
            let engine = engine.clone();
            let request = StartRequest {
                namespace: "t".into(),
                name: "order".into(),
                version: None,
                mode: Some(mode),
                input: value(&format!("{{\"order\":{n}}}")),
                idempotency_key: None,
                id: None,
                trace: None,
                notify: None,
            };
            orders.spawn(async move {
                let id = engine.start(request).await.unwrap().id;
                engine.wait(&id, PATIENCE).await.unwrap()
            });
        }
        while let Some(ended) = orders.join_next().await {
            let ended = ended.unwrap();
            assert_eq!(ended.status, Status::Completed, "{mode:?}: {:?}", ended.error);
            assert_eq!(ended.output, Some(ended.input), "{mode:?}: each has its own answer");
        }
        let count = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        assert_eq!((count(&counts.taken), count(&counts.refused)), (2 * ORDERS, 0), "{mode:?}");
        assert_eq!(count(&counts.most), AT_ONCE, "{mode:?}: the limit is kept, and used");
        let standing = network.traffic_of("shop").unwrap().standing;
        assert_eq!((standing.in_flight, standing.waiting), (0, 0));
        assert!(standing.counts.waited > 0 && standing.counts.late + standing.counts.refused == 0);
        // What waited says so in its history, where it ran.
        let calling = if mode == Mode::Choreography { &part } else { &home };
        let (steps, _) = calling.history(0, 0, 100_000).unwrap().steps;
        let told = |entry: &JournalEntry| entry.payload.contains(r#""held":{"service":"shop","inFlight":"#);
        let told = steps.iter().filter(|(entry, _)| told(entry)).count() as u64;
        assert!(told > 0 && told <= standing.counts.waited, "{mode:?}: {told} of {}", standing.counts.waited);
        engine.shutdown(PATIENCE).await;
        participant.shutdown(PATIENCE).await;
    }
}
