//! The engine over both stores: what it keeps in memory, what it tells whom and when, and what a restart finds.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

mod alone;
mod backpressure;
mod bus;
mod callbacks;
mod children;
mod participants;
mod pinned;
mod stuck;
mod support;

use std::time::Duration;

use pavane_core::Value;
use pavane_core::engine::{Call, Outcome};
use pavane_core::record::Status;
use pavane_runtime::effects::{Context, Effects, Performed, Performing};
use pavane_runtime::{Engine, Error, Operation, Options};
use pavane_store::Store;
use support::*;

#[tokio::test]
async fn what_waits_leaves_memory_and_comes_back_on_input() {
    stores(async |store| {
        let engine = open(&store).await;
        deploy(&engine, "listener", LISTEN).await;
        let id = start(&engine, "listener").await;
        quiet(&engine).await;
        assert_eq!(engine.instance(&id).await.unwrap().status, Status::Waiting);
        engine.publish(vec![event("1", "ping")]).await.unwrap();
        assert_eq!(end(&engine, &id).await, "completed");
        quiet(&engine).await;
    })
    .await;
}

#[tokio::test]
async fn a_timer_fires_after_a_restart() {
    stores(async |store| {
        let engine = open(&store).await;
        deploy(&engine, "sleeper", "- w: { wait: { milliseconds: 1200 } }").await;
        let id = start(&engine, "sleeper").await;
        quiet(&engine).await;
        let store = crash(&store);
        let engine = open(&store).await;
        assert_eq!(end(&engine, &id).await, "completed");
        assert_eq!(count(&store, &id, "timer.fired"), 1);
    })
    .await;
}

/// What waits costs no memory: of many instances that wait for a day none stays.
#[tokio::test]
async fn a_large_population_that_waits_is_not_kept() {
    const MANY: usize = 100_000;
    let store = Gate::new(std::sync::Arc::new(pavane_store::Memory::new()));
    let engine = open(&store).await;
    deploy(&engine, "sleeper", LONG).await;
    let (mut last, mut most) = (String::new(), 0);
    for _ in 0..MANY / 500 {
        let mut starting = tokio::task::JoinSet::new();
        for _ in 0..500 {
            let engine = engine.clone();
            starting.spawn(async move { start(&engine, "sleeper").await });
        }
        while let Some(id) = starting.join_next().await {
            last = id.unwrap();
        }
        most = most.max(engine.counters().active);
    }
    assert!(most < 5_000, "{most} of {MANY} were in memory at once");
    quiet(&engine).await;
    assert_eq!(engine.counters().started, MANY as u64);
    engine.operate(&last, Operation::Cancel).await.unwrap();
    assert_eq!(end(&engine, &last).await, "cancelled");
}

#[tokio::test]
async fn a_call_is_made_after_its_commit_and_again_after_a_crash_with_the_same_key() {
    stores(async |store| {
        let (services, mut calls) = script();
        let engine = open_with(Options::default(), &store, services).await;
        deploy(&engine, "caller", CALL).await;
        store.set(Fate::Held);
        let starting = tokio::spawn({
            let engine = engine.clone();
            async move { start(&engine, "caller").await }
        });
        until("the start is on its way to the store", || store.held() == 1).await;
        assert!(calls.try_recv().is_err() && !starting.is_finished(), "nothing is done before it is durable");
        store.set(Fate::Written);
        let id = starting.await.unwrap();
        let first = calls.recv().await.unwrap();
        assert_eq!(first.context.instance, id);
        let store = crash(&store);
        let (services, mut calls) = script();
        let engine = open_with(Options::default(), &store, services).await;
        let second = calls.recv().await.unwrap();
        assert_eq!((&second.call.key, second.call.attempt), (&first.call.key, first.call.attempt));
        second.succeed();
        assert_eq!(end(&engine, &id).await, "completed");
        assert_eq!(count(&store, &id, "call.completed"), 1);
        assert!(calls.try_recv().is_err());
    })
    .await;
}

#[tokio::test]
async fn an_outcome_that_was_not_durable_is_asked_for_again() {
    stores(async |store| {
        let (services, mut calls) = script();
        let engine = open_with(Options::default(), &store, services).await;
        deploy(&engine, "caller", CALL).await;
        let id = start(&engine, "caller").await;
        let made = calls.recv().await.unwrap();
        let key = made.call.key.clone();
        store.set(Fate::Held);
        made.succeed();
        until("the outcome is on its way to the store", || store.held() == 1).await;
        let store = crash(&store);
        let (services, mut calls) = script();
        let engine = open_with(Options::default(), &store, services).await;
        let again = calls.recv().await.unwrap();
        assert_eq!(again.call.key, key);
        again.succeed();
        assert_eq!(end(&engine, &id).await, "completed");
    })
    .await;
}

#[tokio::test]
async fn a_request_that_did_not_leave_after_a_crash_may_have_left_before_it() {
    use pavane_core::engine::Certainty;
    let store = Gate::new(std::sync::Arc::new(pavane_store::Memory::new()));
    let (services, mut calls) = script();
    let engine = open_with(Options::default(), &store, services).await;
    deploy(&engine, "caller", CALL).await;
    let id = start(&engine, "caller").await;
    calls.recv().await.unwrap();
    let store = crash(&store);
    let (services, mut calls) = script();
    let engine = open_with(Options::default(), &store, services).await;
    let problem = pavane_core::problem::Kind::Communication.problem("refused");
    calls.recv().await.unwrap().answer(Outcome::Failure { problem, certainty: Certainty::NotSent });
    assert_eq!(end(&engine, &id).await, "faulted");
    let payloads: String = store.journal(&id, 0, 99).unwrap().into_iter().map(|entry| entry.payload).collect();
    assert!(payloads.contains("indeterminate") && !payloads.contains("notSent"), "{payloads}");
}

#[tokio::test]
async fn a_suspended_instance_keeps_results_and_starts_nothing() {
    stores(async |store| {
        let (services, mut calls) = script();
        let engine = open_with(Options::default(), &store, services).await;
        deploy(
            &engine,
            "caller",
            &format!("{CALL}\n- b: {{ call: http, with: {{ method: post, endpoint: 'http://s/b' }} }}"),
        )
        .await;
        let id = start(&engine, "caller").await;
        let first = calls.recv().await.unwrap();
        engine.operate(&id, Operation::Suspend).await.unwrap();
        assert!(matches!(engine.operate(&id, Operation::Suspend).await, Err(Error::Conflict(_))));
        first.succeed();
        until("the result is kept", || count(&store, &id, "call.completed") == 1).await;
        let store = crash(&store);
        let (services, mut calls) = script();
        let engine = open_with(Options::default(), &store, services).await;
        assert_eq!(engine.instance(&id).await.unwrap().status, Status::Suspended);
        engine.operate(&id, Operation::Resume).await.unwrap();
        let next = calls.recv().await.unwrap();
        assert_eq!(&*next.call.reference, "/do/1/b", "the first call is not made again");
        next.succeed();
        assert_eq!(end(&engine, &id).await, "completed");
    })
    .await;
}

#[tokio::test]
async fn a_call_that_nobody_wants_any_more_is_withdrawn() {
    let store = Gate::new(std::sync::Arc::new(pavane_store::Memory::new()));
    let (services, mut calls) = script();
    let engine = open_with(Options::default(), &store, services).await;
    let soon = CALL.replace("- a: {", "- a: { timeout: { after: { milliseconds: 50 } },");
    deploy(&engine, "impatient", &soon).await;
    deploy(&engine, "caller", CALL).await;
    let late = start(&engine, "impatient").await;
    let given_up = calls.recv().await.unwrap();
    assert_eq!(end(&engine, &late).await, "faulted");
    let id = start(&engine, "caller").await;
    let wanted = calls.recv().await.unwrap();
    let withdrawn = async |made: &Made| tokio::time::timeout(PATIENCE, made.context.release.withdrawn()).await.is_ok();
    assert!(withdrawn(&given_up).await, "its deadline came first");
    engine.operate(&id, Operation::Cancel).await.unwrap();
    assert!(withdrawn(&wanted).await, "its instance is cancelled");
    let problem = pavane_core::problem::Kind::Communication.problem("not sent");
    wanted.answer(Outcome::Failure { problem, certainty: pavane_core::engine::Certainty::NotSent });
    assert_eq!(end(&engine, &id).await, "cancelled");
}

/// Calls that never get their turn.
#[derive(Debug)]
struct Queue;

impl Effects for Queue {
    fn call(&self, context: Context, _: Call) -> Performing<Option<Performed>> {
        Box::pin(async move {
            context.release.withdrawn().await;
            std::future::pending().await
        })
    }

    fn fetch(&self, uri: String) -> Performing<Result<Value, String>> {
        Box::pin(async move { Err(uri) })
    }
}

#[tokio::test]
async fn a_deadline_that_comes_before_a_call_is_sent_leaves_nothing_to_undo() {
    stores(async |store| {
        let engine = Engine::open(Options::default(), store.clone(), std::sync::Arc::new(Queue)).await.unwrap();
        let undo =
            "use: { functions: { undo: { call: http, with: { method: post, endpoint: 'http://s/undo' } } } }\ndo:";
        let task = CALL.replace(
            "- a: {",
            "- a: { timeout: { after: { milliseconds: 50 } }, metadata: { pavane: { compensate: undo } },",
        );
        let text = workflow("impatient", &task).replace("do:", undo);
        engine.deploy("impatient", &text, false).await.unwrap();
        let id = start(&engine, "impatient").await;
        assert_eq!(end(&engine, &id).await, "faulted");
        let payloads: String = store.journal(&id, 0, 99).unwrap().into_iter().map(|entry| entry.payload).collect();
        assert!(payloads.contains("notSent") && !payloads.contains("undo"), "{payloads}");
    })
    .await;
}

#[tokio::test]
async fn callers_wait_for_the_end_and_no_longer_than_they_want() {
    let store = Gate::new(std::sync::Arc::new(pavane_store::Memory::new()));
    let (services, mut calls) = script();
    let engine = open_with(Options::default(), &store, services).await;
    deploy(&engine, "caller", CALL).await;
    let id = start(&engine, "caller").await;
    assert_eq!(engine.wait(&id, Duration::ZERO).await.unwrap().status, Status::Running);
    assert!(matches!(engine.wait("nobody", PATIENCE).await, Err(Error::UnknownInstance(_))));
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let (engine, id) = (engine.clone(), id.clone());
            tokio::spawn(async move { end(&engine, &id).await })
        })
        .collect();
    calls.recv().await.unwrap().succeed();
    for waiter in waiting {
        assert_eq!(waiter.await.unwrap(), "completed");
    }
    assert_eq!(end(&engine, &id).await, "completed", "and who comes late is told at once");
}

#[tokio::test]
async fn a_shutdown_lets_calls_end_and_does_not_wait_for_sub_workflows() {
    stores(async |store| {
        let (services, mut calls) = script();
        let engine = open_with(Options::default(), &store, services).await;
        deploy(&engine, "caller", CALL).await;
        deploy(&engine, "child", LONG).await;
        deploy(&engine, "parent", &child(true)).await;
        let parent = start(&engine, "parent").await;
        let id = start(&engine, "caller").await;
        let made = calls.recv().await.unwrap();
        // A deadline far beyond the test: whoever waits for it hangs.
        let stopping = tokio::spawn({
            let engine = engine.clone();
            async move { engine.shutdown(Duration::from_secs(3_600)).await }
        });
        while !matches!(engine.start(request("child")).await, Err(Error::Stopping)) {
            tokio::task::yield_now().await;
        }
        assert!(!stopping.is_finished(), "a call is in flight");
        made.succeed();
        tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap();
        assert_eq!(store.instance(&id).unwrap().unwrap().status, Status::Completed);
        assert!(!store.instance(&parent).unwrap().unwrap().status.is_terminal());
    })
    .await;
}
