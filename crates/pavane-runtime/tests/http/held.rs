//! Instances whose calls wait at the gate: given up there, nothing was sent and nothing is undone.

use std::sync::Arc;
use std::time::Duration;

use pavane_core::record::{CompensationStatus, Status, WorkflowInstance};
use pavane_runtime::effects::Network;
use pavane_runtime::{Engine, Operation, Options, StartRequest};
use pavane_store::Memory;

use super::*;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A task that can be undone, within a time.
const ORDER: &str = "document: { dsl: '1.0.3', namespace: t, name: order, version: '1.0.0' }
use:
  functions:
    refund: { call: http, with: { method: post, endpoint: 'http://shop/refunds', body: { undo: true } } }
do:
- charge:
    call: http
    with: { method: post, endpoint: 'http://shop/charges', body: '${ . }' }
    timeout: { after: { milliseconds: TIME } }
    metadata: { pavane: { compensate: refund } }
";

/// An engine whose only service is behind a breaker that has just opened.
async fn shut(open_for: &str) -> (Server, Network, Engine) {
    let server = Server::start(|_| Reply::Bytes(answer("503 Service Unavailable", &[], ""))).await;
    let read = format!(r#"{{"breaker": {{"min_calls": 1, "open_for": "{open_for}"}}}}"#);
    let read: ServiceSettings = serde_json::from_str(&read).unwrap();
    let network = network(&[("shop", ServiceSettings { url: Some(server.url("")), ..read })]);
    failure(send(&network, post("http://shop/x", "{}")).await);
    let engine = Engine::open(Options::default(), Arc::new(Memory::new()), Arc::new(network.clone())).await.unwrap();
    (server, network, engine)
}

async fn start(engine: &Engine, order: &str) -> String {
    engine.deploy("order", order, true).await.unwrap();
    let request = StartRequest {
        namespace: "t".into(),
        name: "order".into(),
        version: None,
        mode: None,
        input: value("{}"),
        idempotency_key: None,
        id: None,
        trace: None,
        notify: None,
    };
    engine.start(request).await.unwrap().id
}

async fn end(engine: &Engine, id: &str) -> WorkflowInstance {
    let ended = engine.wait(id, PATIENCE).await.unwrap();
    assert!(ended.status.is_terminal(), "it waits for ever: {ended:?}");
    ended
}

#[tokio::test]
async fn a_deadline_that_passes_at_the_gate_leaves_nothing_to_undo() {
    let (server, network, engine) = shut("1h").await;
    let id = start(&engine, &ORDER.replace("TIME", "600")).await;
    let ended = end(&engine, &id).await;
    assert_eq!((ended.status, ended.compensation.status), (Status::Faulted, CompensationStatus::None));
    let error = ended.error.unwrap();
    assert_eq!(error.status, 408);
    assert!(error.detail.unwrap().contains("was not sent: its deadline came before its turn (breaker"));
    assert_eq!((server.received().len(), network.traffic_of("shop").unwrap().standing.counts.late), (1, 1));
}

#[tokio::test]
async fn an_instance_that_is_cancelled_takes_its_call_back_from_the_gate() {
    let (server, network, engine) = shut("1h").await;
    let id = start(&engine, &ORDER.replace("TIME", "3600000")).await;
    let waited = tokio::time::timeout(PATIENCE, async {
        while network.waiting_of("shop", &id) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "its call comes to the gate");
    engine.operate(&id, Operation::Cancel).await.unwrap();
    let ended = end(&engine, &id).await;
    assert_eq!((ended.status, ended.compensation.status), (Status::Cancelled, CompensationStatus::None));
    assert_eq!((server.received().len(), network.traffic_of("shop").unwrap().standing.waiting), (1, 0));
}

#[tokio::test]
async fn the_loser_of_a_race_is_not_sent_when_its_turn_comes() {
    let (server, network, engine) = shut("500ms").await;
    let quick = Server::start(|_| json("1")).await;
    let race = format!(
        "document: {{ dsl: '1.0.3', namespace: t, name: order, version: '1.0.0' }}
do:
- race:
    fork:
      compete: true
      branches:
      - slow: {{ call: http, with: {{ method: post, endpoint: 'http://shop/charges' }} }}
      - quick: {{ call: http, with: {{ method: post, endpoint: '{}' }} }}
",
        quick.url("/x")
    );
    let id = start(&engine, &race).await;
    assert_eq!(end(&engine, &id).await.status, Status::Completed);
    // Its turn would be here by now.
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!((server.received().len(), quick.received().len()), (1, 1));
    let standing = network.traffic_of("shop").unwrap().standing;
    assert_eq!((standing.waiting, standing.in_flight, standing.counts.passed), (0, 0, 1));
}
