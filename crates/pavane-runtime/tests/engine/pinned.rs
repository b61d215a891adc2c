//! Instances and the definition they are pinned to; instances that cannot go on.

use std::sync::atomic::Ordering;

use pavane_core::record::Status;
use pavane_runtime::{Error, Operation};

use crate::support::*;

#[tokio::test]
async fn an_instance_keeps_the_definition_it_started_with() {
    stores(async |store| {
        let engine = open(&store).await;
        let listen = |set: &str| workflow("w", &format!("{LISTEN}\n- s: {{ set: {{ by: {set} }} }}"));
        let first = engine.deploy("w", &listen("first"), false).await.unwrap();
        let id = start(&engine, "w").await;
        let again = engine.deploy("w", &listen("first"), false).await.unwrap();
        assert!(first.created && !again.created && first.digest == again.digest);
        let taken = engine.deploy("w", &listen("second"), false).await.unwrap_err();
        assert!(matches!(taken, Error::VersionTaken { ref digest, .. } if *digest == first.digest), "{taken}");
        let second = engine.deploy("w", &listen("second"), true).await.unwrap();
        assert_ne!(first.digest, second.digest);
        let store = crash(&store);
        let engine = open(&store).await;
        let newer = start(&engine, "w").await;
        engine.publish(vec![event("1", "ping")]).await.unwrap();
        for (id, digest, by) in [(id, first.digest, "first"), (newer, second.digest, "second")] {
            let ended = engine.wait(&id, PATIENCE).await.unwrap();
            assert_eq!((ended.digest, ended.output.unwrap().to_json()), (digest, format!(r#"{{"by":"{by}"}}"#)));
        }
    })
    .await;
}

#[tokio::test]
async fn an_instance_without_its_program_stays_and_is_taken_up_when_it_comes() {
    stores(async |store| {
        let engine = open(&store).await;
        deploy(&engine, "w", "- w: { wait: { milliseconds: 1100 } }").await;
        let id = engine.start(keyed("w", "k")).await.unwrap().id;
        let store = crash(&store);
        store.bare.store(true, Ordering::SeqCst);
        let engine = open(&store).await;
        // Another content under the same name, and the same key: there is an instance of it already.
        let other = workflow("w", "- s: { set: { by: other } }");
        engine.deploy("w", &other, false).await.unwrap();
        let found = engine.start(keyed("w", "k")).await.unwrap();
        assert_eq!((&found.id, found.attached), (&id, true));
        let refused = engine.operate(&id, Operation::Cancel).await.unwrap_err();
        assert!(matches!(&refused, Error::Conflict(why) if why.contains("is not deployed")), "{refused}");
        // The others go on.
        let new = start(&engine, "w").await;
        assert_eq!(end(&engine, &new).await, "completed");
        assert_eq!(count(&store, &id, "started"), 1);
        engine.deploy("w", &workflow("w", "- w: { wait: { milliseconds: 1100 } }"), true).await.unwrap();
        assert_eq!(end(&engine, &id).await, "completed");
    })
    .await;
}

#[tokio::test]
async fn a_damaged_journal_stops_its_instance_alone() {
    stores(async |store| {
        let engine = open(&store).await;
        deploy(&engine, "w", LISTEN).await;
        let (damaged, sound) = (start(&engine, "w").await, start(&engine, "w").await);
        let store = crash(&store);
        *store.damaged.lock().unwrap() = damaged.clone();
        let engine = open(&store).await;
        let refused = engine.operate(&damaged, Operation::Cancel).await.unwrap_err();
        assert!(matches!(&refused, Error::Conflict(why) if why.contains("damaged")), "{refused}");
        engine.publish(vec![event("1", "ping")]).await.unwrap();
        assert_eq!(end(&engine, &sound).await, "completed");
        assert_eq!(engine.instance(&damaged).await.unwrap().status, Status::Waiting);
        assert!(engine.tasks(&damaged).await.unwrap().is_empty());
    })
    .await;
}
