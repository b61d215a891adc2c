//! Limits, and a store that is slow or fails.

use std::sync::Arc;

use pavane_runtime::{Error, Options};
use pavane_store::{Memory, Store};

use crate::support::*;

#[tokio::test]
async fn more_active_instances_than_allowed_are_refused_and_children_are_not() {
    let store = Gate::new(Arc::new(Memory::new()));
    let (services, mut calls) = script();
    let engine = open_with(Options { max_active: 1, ..Options::default() }, &store, services).await;
    deploy(&engine, "child", CALL).await;
    deploy(&engine, "parent", &child(true)).await;
    let parent = start(&engine, "parent").await;
    let made = calls.recv().await.unwrap();
    let refused = engine.start(request("parent")).await.unwrap_err();
    assert!(matches!(refused, Error::Busy { .. }), "{refused}");
    made.succeed();
    assert_eq!(end(&engine, &parent).await, "completed");
    quiet(&engine).await;
    engine.start(request("parent")).await.unwrap();
}

#[tokio::test]
async fn while_the_store_is_behind_the_queue_fills_and_no_more() {
    let store = Gate::new(Arc::new(Memory::new()));
    let engine = open_with(Options { max_queued: 10, ..Options::default() }, &store, script().0).await;
    deploy(&engine, "sleeper", LONG).await;
    store.set(Fate::Held);
    let (mut accepted, mut refused) = (Vec::new(), 0);
    // What is refused is refused at once; what is accepted waits for the store.
    while refused == 0 {
        let mut starting = Box::pin({
            let engine = engine.clone();
            async move { engine.start(request("sleeper")).await }
        });
        match futures_poll(&mut starting).await {
            Some(answer) => {
                assert!(matches!(answer, Err(Error::Busy { .. })), "{answer:?}");
                refused += 1;
            }
            None => accepted.push(starting),
        }
        assert!(accepted.len() < 10_000, "everything is taken while nothing is written");
    }
    store.set(Fate::Written);
    for starting in accepted {
        let id = starting.await.unwrap().id;
        assert!(store.instance(&id).unwrap().is_some());
    }
}

/// Polls once, after everything else had a turn.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let polled = std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    });
    let polled = polled.await;
    tokio::task::yield_now().await;
    polled
}

#[tokio::test]
async fn a_store_that_fails_stops_the_engine_and_nobody_is_told_what_is_not_durable() {
    stores(async |store| {
        let (services, mut calls) = script();
        let engine = open_with(Options::default(), &store, services).await;
        deploy(&engine, "caller", CALL).await;
        store.set(Fate::Held);
        let mut starting = Vec::new();
        // The second finds the instance of the first, which is not durable yet.
        for _ in 0..2 {
            let engine = engine.clone();
            starting.push(tokio::spawn(async move { engine.start(keyed("caller", "k")).await }));
            until("the first is on its way", || store.held() == 1).await;
        }
        // Both were taken: a start of another instance behind them has come to the store.
        starting.push(tokio::spawn({
            let engine = engine.clone();
            async move { engine.start(keyed("caller", "behind")).await }
        }));
        until("the last is on its way", || store.held() == 2).await;
        store.set(Fate::Failed);
        for start in starting {
            let answer = start.await.unwrap();
            assert!(matches!(answer, Err(Error::Store(_))), "{answer:?}");
        }
        assert!(engine.failed().await.contains("broken by the test"));
        assert!(matches!(engine.start(request("caller")).await, Err(Error::Store(_))));
        assert!(calls.try_recv().is_err(), "nothing was done");
        let nothing = store.instances(&pavane_store::Query { limit: 9, ..Default::default() }).unwrap();
        assert!(nothing.instances.is_empty());
    })
    .await;
}
