//! Events between instances, and across restarts.

use pavane_core::record::Status;
use pavane_store::{Commit, Store};

use crate::support::*;

const BOTH: &str = "- l: { listen: { to: { all: [ { with: { type: ping } }, { with: { type: pong } } ] } } }";
const EMIT: &str = "- e: { emit: { event: { with: { source: 'https://t.example/emitter', type: ping } } } }";

#[tokio::test]
async fn an_instance_hears_another_one() {
    stores(async |store| {
        let engine = open(&store).await;
        deploy(&engine, "listener", LISTEN).await;
        deploy(&engine, "emitter", EMIT).await;
        let id = start(&engine, "listener").await;
        let other = start(&engine, "emitter").await;
        assert_eq!(end(&engine, &other).await, "completed");
        assert_eq!(end(&engine, &id).await, "completed");
        assert_eq!(count(&store, &id, "event.received"), 1);
    })
    .await;
}

#[tokio::test]
async fn events_are_neither_lost_nor_delivered_twice_over_a_restart() {
    stores(async |store| {
        let engine = open(&store).await;
        deploy(&engine, "listener", BOTH).await;
        let ids = [start(&engine, "listener").await, start(&engine, "listener").await];
        // Delivered, and the cursor is lost with the process.
        store.set(Fate::CursorLost);
        engine.publish(vec![event("1", "ping")]).await.unwrap();
        for id in &ids {
            until("the event has come", || count(&store, id, "event.received") == 1).await;
        }
        // Published, and the process is gone before anybody is told.
        let store = crash(&store);
        let (told, durable) = tokio::sync::oneshot::channel();
        let publish = vec![event("2", "pong")];
        store.commit(
            vec![Commit { publish, ..Commit::default() }],
            Box::new(move |result| told.send(result.is_ok()).unwrap()),
        );
        assert!(durable.await.unwrap());
        let engine = open(&store).await;
        for id in &ids {
            assert_eq!(end(&engine, id).await, "completed");
            assert_eq!(count(&store, id, "event.received"), 2, "each event once");
        }
        until("the cursor has come to the end", || store.published("listen", 1).unwrap().is_empty()).await;
    })
    .await;
}

#[tokio::test]
async fn what_is_published_while_nobody_listens_is_gone() {
    stores(async |store| {
        let engine = open(&store).await;
        deploy(&engine, "listener", LISTEN).await;
        engine.publish(vec![event("1", "ping")]).await.unwrap();
        until("nobody took it", || store.published("listen", 1).unwrap().is_empty()).await;
        let id = start(&engine, "listener").await;
        engine.publish(vec![event("2", "other")]).await.unwrap();
        until("nobody took it", || store.published("listen", 1).unwrap().is_empty()).await;
        assert_eq!(engine.instance(&id).await.unwrap().status, Status::Waiting);
        engine.publish(vec![event("3", "ping")]).await.unwrap();
        assert_eq!(end(&engine, &id).await, "completed");
    })
    .await;
}

#[tokio::test]
async fn many_subscribers_and_events_reach_each_other_in_order() {
    let store = Gate::new(std::sync::Arc::new(pavane_store::Memory::new()));
    let engine = open(&store).await;
    let tasks =
        "- l: { listen: { to: { all: [ { with: { type: ping } }, { with: { type: pong } } ] } }, output: { as: '.' } }";
    deploy(&engine, "listener", tasks).await;
    let mut ids = Vec::new();
    for _ in 0..300 {
        ids.push(start(&engine, "listener").await);
    }
    engine.publish(vec![event("1", "pong"), event("2", "ping"), event("2", "ping")]).await.unwrap();
    for id in ids {
        assert_eq!(end(&engine, &id).await, "completed");
        let causes: Vec<_> = store.journal(&id, 0, 99).unwrap().into_iter().filter_map(|e| e.causation_id).collect();
        assert_eq!(causes, ["1", "2"]);
    }
}
