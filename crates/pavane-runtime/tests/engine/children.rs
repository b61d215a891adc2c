//! Sub-workflows: who waits for whom, and what a crash between them leaves.

use pavane_core::record::{Status, WorkflowInstance};
use pavane_runtime::{Engine, Operation, Options};
use pavane_store::{Query, Store};

use crate::support::*;

fn child_of(store: &std::sync::Arc<Gate>, parent: &str) -> Option<WorkflowInstance> {
    let query = Query { correlation_id: Some(parent.to_owned()), limit: 9, ..Query::default() };
    store.instances(&query).unwrap().instances.into_iter().find(|row| row.id != parent)
}

async fn family(engine: &Engine, wait: bool, tasks: &str) -> String {
    deploy(engine, "child", tasks).await;
    deploy(engine, "parent", &child(wait)).await;
    start(engine, "parent").await
}

#[tokio::test]
async fn a_parent_gets_its_childs_output() {
    stores(async |store| {
        let engine = open(&store).await;
        let id = family(&engine, true, "- s: { set: { done: 7 } }").await;
        let ended = engine.wait(&id, PATIENCE).await.unwrap();
        assert_eq!(ended.output.unwrap().to_json(), r#"{"done":7}"#);
        let child = child_of(&store, &id).unwrap();
        // Another family behind it: what the first led to has happened by then.
        let next = start(&engine, "parent").await;
        assert_eq!(end(&engine, &next).await, "completed");
        quiet(&engine).await;
        assert!(!store.replayed.lock().unwrap().contains(&child.id), "who has ended is not fetched to be cancelled");
        assert_eq!((child.parent_id.as_deref(), child.parent_task.as_deref()), (Some(id.as_str()), Some("/do/0/c")));
    })
    .await;
}

#[tokio::test]
async fn a_childs_error_is_its_parents() {
    stores(async |store| {
        let engine = open(&store).await;
        let raise = "- r: { raise: { error: { type: 'https://t.example/no', status: 418, title: No } } }";
        let id = family(&engine, true, raise).await;
        let ended = engine.wait(&id, PATIENCE).await.unwrap();
        assert_eq!((ended.status, ended.error.unwrap().status), (Status::Faulted, 418));
    })
    .await;
}

#[tokio::test]
async fn a_child_that_nobody_waits_for_outlives_its_parent() {
    stores(async |store| {
        let engine = open(&store).await;
        let id = family(&engine, false, LISTEN).await;
        assert_eq!(end(&engine, &id).await, "completed");
        let child = child_of(&store, &id).unwrap();
        assert_eq!(child.status, Status::Waiting);
        engine.publish(vec![event("1", "ping")]).await.unwrap();
        assert_eq!(end(&engine, &child.id).await, "completed");
    })
    .await;
}

#[tokio::test]
async fn a_child_that_ended_while_its_parent_was_away_is_found_again() {
    stores(async |store| {
        let (services, mut calls) = script();
        let engine = open_with(Options::default(), &store, services).await;
        let id = family(&engine, true, CALL).await;
        let made = calls.recv().await.unwrap();
        // The child's end is durable; its parent may not have heard of it.
        let child = made.context.instance.clone();
        made.succeed();
        assert_eq!(end(&engine, &child).await, "completed");
        let store = crash(&store);
        let (services, mut calls) = script();
        let engine = open_with(Options::default(), &store, services).await;
        assert_eq!(end(&engine, &id).await, "completed");
        assert!(calls.try_recv().is_err(), "the child did not run again");
        assert_eq!(count(&store, &child, "started"), 1);
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_parent_cancels_its_child() {
    stores(async |store| {
        let engine = open(&store).await;
        let id = family(&engine, true, LONG).await;
        until("the child is there", || child_of(&store, &id).is_some()).await;
        engine.operate(&id, Operation::Cancel).await.unwrap();
        assert_eq!(end(&engine, &id).await, "cancelled");
        assert_eq!(end(&engine, &child_of(&store, &id).unwrap().id).await, "cancelled");
    })
    .await;
}
