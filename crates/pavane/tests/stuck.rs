//! Stuck instances as an operator sees them: listed, in `show`, and as a number to alarm on.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support;

use std::path::Path;
use std::time::Duration;

use pavane_store::{Commit, Outgoing, Sqlite, Store};
use serde_json::json;
use support::{Served, config, errors, pavane};

/// Puts a dead letter about an instance into the store of a server that is down.
async fn put_dead_letter(store: &Path, instance: &str) {
    let envelope = json!({
        "specversion": "1.0", "id": "1", "source": "/pavane/t/engine", "type": "t.work.charge.due.v1",
        "time": "2026-01-01T00:00:00.000Z", "subject": "/do/1/charge", "pvninstance": instance, "pvnkind": "token",
        "pvnto": "payment", "data": {},
    });
    let store = Sqlite::open(store, Duration::from_secs(30)).unwrap();
    let message =
        Outgoing { to: "payment".into(), envelope: envelope.to_string().into(), content: None, redelivered: false };
    let batch = vec![
        Commit { send: vec![(1, message)], ..Commit::default() },
        Commit { dead: vec![(1, "no program with this digest is deployed".into())], ..Commit::default() },
    ];
    let (told, durable) = tokio::sync::oneshot::channel();
    store.commit(batch, Box::new(move |result| told.send(result.is_ok()).unwrap()));
    assert!(durable.await.unwrap());
}

#[tokio::test]
async fn a_stuck_instance_is_listed_shown_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let configured = config(folder.path(), "services: { payment: { url: 'http://127.0.0.1:9' } }\n");
    let mut served = Served::start(&configured).await;
    served
        .deploy("document: { dsl: '1.0.3', namespace: t, name: work, version: '1.0.0' }\ndo: [ { rest: { wait: { hours: 1 } } } ]")
        .await;
    let started = served.ask("POST", "/api/v1/workflows/t/work/instances", &[], "{}").await;
    let id = started.body["id"].as_str().unwrap().to_owned();
    let at = |url: &str| ["--server".to_owned(), url.to_owned()];
    let ask = async |url: &str, arguments: &[&str]| {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).chain(at(url)).collect();
        let run = pavane(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
        (run.status.code(), String::from_utf8_lossy(&run.stdout).into_owned(), errors(&run))
    };
    let (code, listed, _) = ask(&served.url, &["ps", "--stuck"]).await;
    assert_eq!((code, listed.trim()), (Some(0), "no instance is stuck"));
    let (_, shown, _) = ask(&served.url, &["show", &id]).await;
    assert!(shown.contains("waiting, last seen: /do/0/rest") && shown.contains("waits for time"), "{shown}");
    assert!(served.get("/metrics").await.as_str().unwrap().contains("pavane_stuck_instances 0\n"));

    served.process.signal("TERM");
    served.process.ended().await;
    put_dead_letter(&folder.path().join("pavane.db"), &id).await;
    let served = Served::start(&configured).await;
    for arguments in [vec!["ps", "--stuck"], vec!["ps", "--stuck", "2m"], vec!["show", &id]] {
        let (code, told, why) = ask(&served.url, &arguments).await;
        assert_eq!(code, Some(0), "{why}");
        for part in [
            id.as_str(),
            "expected: t.work.charge.due.v1 for /do/1/charge",
            "from engine to payment, since 2026-01-01T00:00:00",
            "dead letter: no program with this digest is deployed",
            "pavane redrive engine:1",
        ] {
            assert!(told.contains(part), "{arguments:?} without `{part}`: {told}");
        }
    }
    let list = served.get("/api/v1/instances?stuck=60s&limit=5").await;
    assert_eq!((list["instances"][0]["id"].as_str(), &list["all"]), (Some(id.as_str()), &json!(true)), "{list:#}");
    assert_eq!(list["instances"][0]["stuck"]["dead_letter"], "engine:1");
    assert_eq!(served.get(&format!("/api/v1/instances/{id}/progress")).await["standing"], "stuck");
    // Nothing was due for so long.
    assert_eq!(served.get("/api/v1/instances?stuck=100000h").await["instances"], json!([]));
    assert!(served.get("/metrics").await.as_str().unwrap().contains("pavane_stuck_instances 1\n"));
    for query in ["stuck=soon", "stuck=1m&status=running", "stuck=&cursor=1"] {
        let refused = served.ask("GET", &format!("/api/v1/instances?{query}"), &[], "").await;
        assert_eq!((refused.status.as_u16(), &refused.body["code"]), (400, &json!("invalid_query")), "{query}");
    }
    let (code, _, why) = ask(&served.url, &["ps", "--stuck", "soon"]).await;
    assert!(code == Some(2) && why.contains("no duration"), "{why}");
}
