//! The HTTP API as its contract names it.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support;

use serde_json::{Value, json};
use support::{Served, config};

const ECHO: &str =
    "document: { dsl: '1.0.3', namespace: t, name: work, version: '1.0.0' }\ndo: [ { give: { set: '${ . }' } } ]\n";
const WORK: &str = "/api/v1/workflows/t/work/instances";

/// Every path and method of the contract has a handler, and the router has no path that the contract leaves out.
#[tokio::test]
async fn the_contract_names_every_route() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&config(folder.path(), "")).await;
    let contract = served.get("/openapi.json").await;
    assert_eq!(contract["openapi"], "3.1.0");
    let paths = contract["paths"].as_object().expect("paths");
    let router = include_str!("../src/api/mod.rs");
    let mut routes: Vec<&str> = router.split(".route(\"").skip(1).filter_map(|r| r.split('"').next()).collect();
    let mut named: Vec<&str> = paths.keys().map(String::as_str).collect();
    routes.sort_unstable();
    named.sort_unstable();
    assert_eq!(routes, named);
    for (path, methods) in paths {
        for method in ["get", "post", "put", "delete"] {
            let at = path.replace(['{', '}'], "");
            let answer = served.ask(&method.to_uppercase(), &at, &[], "").await;
            let taken = answer.body["code"] != "method_not_allowed";
            assert_eq!(taken, methods[method].is_object(), "{method} {path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn instances_are_listed_newest_first_page_by_page() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&config(folder.path(), "")).await;
    assert_eq!(served.deploy(ECHO).await.status, 201);
    assert_eq!(served.deploy(ECHO).await.status, 200, "it is there already");
    for n in 0..5 {
        let answer = served.ask("POST", WORK, &[("prefer", "wait=20")], format!("{{\"n\":{n}}}")).await;
        assert_eq!((answer.status.as_u16(), &answer.body["output"]), (200, &json!({ "n": n })), "{answer:?}");
    }
    let mut seen = Vec::new();
    let mut path = "/api/v1/instances?workflow=t/work&status=completed&limit=2".to_owned();
    loop {
        let page = served.get(&path).await;
        seen.extend(page["instances"].as_array().unwrap().iter().map(|i| i["input"]["n"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/instances?workflow=t/work&status=completed&limit=2&cursor={next}");
    }
    assert_eq!(seen, [4, 3, 2, 1, 0].map(Value::from));
    assert_eq!(served.get("/api/v1/instances?status=faulted").await["instances"], json!([]));
    let wrong = served.ask("GET", "/api/v1/instances?status=tired", &[], "").await;
    assert_eq!((wrong.status.as_u16(), &wrong.body["code"]), (400, &json!("invalid_query")));
}

#[tokio::test]
async fn a_stream_goes_on_after_the_last_event_seen() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&config(folder.path(), "")).await;
    served.deploy(ECHO).await;
    let started = served.ask("POST", WORK, &[], "{}").await;
    assert_eq!(started.status, 202);
    let path = started.headers["location"].to_str().unwrap().to_owned();
    served.ask("GET", &path, &[("prefer", "wait=20")], "").await;
    let stream = format!("{path}/events/stream");
    let whole = served.ask("GET", &stream, &[], "").await.body.as_str().unwrap().to_owned();
    assert!(whole.contains("workflow.started") && whole.contains("workflow.completed"), "{whole}");
    let last = whole.lines().rev().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let rest = served.ask("GET", &stream, &[("last-event-id", last)], "").await;
    assert!(!rest.body.to_string().contains("workflow."), "nothing is sent twice: {rest:?}");
}

#[tokio::test]
async fn a_limit_is_answered_with_when_to_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&config(folder.path(), "limits: { active_instances: 0 }")).await;
    served.deploy(ECHO).await;
    let answer = served.ask("POST", WORK, &[], "{}").await;
    assert_eq!((answer.status.as_u16(), &answer.body["code"]), (503, &json!("busy")), "{answer:?}");
    assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
}
