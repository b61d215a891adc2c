//! Calls that are accepted and answered by a callback: what a restart makes of them, and who is told what.

use pavane_core::engine::{Certainty, Outcome};
use pavane_core::problem::Kind;
use pavane_runtime::Error;
use pavane_runtime::callbacks::{Callbacks, Claim};

use crate::support::*;

const AWAITS: &str =
    "- a: { call: http, with: { method: post, endpoint: 'http://s/a' }, metadata: { pavane: { await: callback } } }";
const SHORT: &str = "- a: { call: http, with: { method: post, endpoint: 'http://s/a' }, timeout: { after: { milliseconds: 50 } }, metadata: { pavane: { await: callback } } }";

fn callbacks() -> Callbacks {
    Callbacks::new("http://h", b"a secret")
}

/// What the URL of a call says.
fn claim(made: &Made) -> Claim {
    let url = made.context.callback.as_deref().unwrap();
    callbacks().read(url.rsplit('/').next().unwrap()).unwrap()
}

fn output(text: &str) -> Outcome {
    Outcome::Success(pavane_core::Value::text(text))
}

#[tokio::test]
async fn what_was_accepted_is_not_sent_again_after_a_restart_and_ends_with_its_callback() {
    stores(|store| async move {
        let (effects, mut calls) = script();
        let engine = open_with(Default::default(), &store, effects).await;
        deploy(&engine, "w", AWAITS).await;
        let id = start(&engine, "w").await;
        // Nobody could answer a call without its URL.
        assert!(tokio::time::timeout(std::time::Duration::from_millis(50), calls.recv()).await.is_err());
        engine.take_callbacks(callbacks());
        let made = calls.recv().await.unwrap();
        let claim = claim(&made);
        assert_eq!((&*claim.location, &*claim.instance, &*claim.key), ("engine", &*id, &*made.call.key));
        made.answer(Outcome::Accepted);
        quiet(&engine).await;
        assert_eq!(engine.instance(&id).await.unwrap().status.as_str(), "waiting");
        let store = crash(&store);
        let (effects, mut calls) = script();
        let engine = open_with(Default::default(), &store, effects).await;
        engine.take_callbacks(callbacks());
        engine.call_back(&claim, output("done")).await.unwrap();
        assert_eq!(end(&engine, &id).await, "completed");
        assert!(calls.try_recv().is_err(), "it was sent again");
        for again in [engine.call_back(&claim, output("other")).await, engine.heartbeat(&claim).await] {
            assert!(matches!(again, Err(Error::Answered)), "{again:?}");
        }
        assert_eq!(engine.counters().late_callbacks, 0);
    })
    .await;
}

#[tokio::test]
async fn a_callback_counts_before_the_service_has_answered() {
    stores(|store| async move {
        let (effects, mut calls) = script();
        let engine = open_with(Default::default(), &store, effects).await;
        engine.take_callbacks(callbacks());
        deploy(&engine, "w", AWAITS).await;
        let id = start(&engine, "w").await;
        let made = calls.recv().await.unwrap();
        let problem = Kind::Communication.problem("no");
        let failed = Outcome::Failure { problem, certainty: Certainty::Definite };
        engine.call_back(&claim(&made), failed).await.unwrap();
        made.answer(Outcome::Accepted);
        assert_eq!(end(&engine, &id).await, "faulted");
        quiet(&engine).await;
    })
    .await;
}

#[tokio::test]
async fn a_late_callback_is_on_record_once_and_changes_nothing() {
    stores(|store| async move {
        let (effects, mut calls) = script();
        let engine = open_with(Default::default(), &store, effects).await;
        engine.take_callbacks(callbacks());
        deploy(&engine, "w", SHORT).await;
        let id = start(&engine, "w").await;
        let made = calls.recv().await.unwrap();
        let claim = claim(&made);
        made.answer(Outcome::Accepted);
        assert_eq!(end(&engine, &id).await, "faulted");
        for _ in 0..2 {
            let late = engine.call_back(&claim, output("late")).await;
            assert!(matches!(late, Err(Error::Late)), "{late:?}");
        }
        assert!(matches!(engine.heartbeat(&claim).await, Err(Error::Late)));
        assert_eq!((engine.counters().late_callbacks, count(&store, &id, "callback.late")), (2, 1));
        let stranger = Claim { instance: "nobody".into(), ..claim };
        assert!(matches!(engine.call_back(&stranger, output("x")).await, Err(Error::UnknownInstance(_))));
    })
    .await;
}

#[tokio::test]
async fn the_secret_of_a_store_is_made_once() {
    stores(|store| async move {
        let secret = open(&store).await.callback_secret().await.unwrap();
        assert!(secret.len() >= 32 && secret.iter().any(|byte| *byte != secret[0]), "{secret:?}");
        let store = crash(&store);
        assert_eq!(open(&store).await.callback_secret().await.unwrap(), secret);
    })
    .await;
}
