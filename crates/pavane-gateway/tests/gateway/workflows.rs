//! Routes to workflows: synchronous answers, and coming back for those that take longer.

use serde_json::json;

use crate::support::{INSTANCE, build, serve};

const ROUTES: &str = "routes:
  - { match: { path: /echo }, workflow: t/echo }
  - { match: { path: /slow }, workflow: wait/slow, wait: 50ms }
  - { match: { path: /patient }, workflow: wait/slow, wait: 20s }
  - { match: { path: /refuse }, workflow: refuse/all }
  - { match: { path: /fail }, workflow: fail/all }
  - { match: { path: '/customers/{customer}/orders', method: PUT }, workflow: t/echo, input: request }
  - { match: { path: /small }, workflow: t/echo, max_body: 10 }
";

#[tokio::test]
async fn a_workflow_answers_like_a_service() {
    let served = serve(ROUTES).await;
    let got = served.ask("POST", "/echo", &[("content-type", "application/json")], "{\"n\":1}").await;
    assert_eq!((got.status, got.json()), (200, json!({ "n": 1 })));
    assert_eq!((got.header("pavane-instance"), got.header("cache-control")), (INSTANCE, "no-store"));
    assert!(!got.header("x-request-id").is_empty());
    assert_eq!(served.ask("POST", "/echo", &[], "").await.json(), json!({}), "no body is an empty object");
    let got = served.ask("PUT", "/customers/a%20b/orders?x=1", &[], "[1]").await;
    assert_eq!(
        (&got.json()["parameters"], &got.json()["body"]),
        (&json!({ "customer": "a b" }), &json!([1])),
        "{got:?}"
    );
}

#[tokio::test]
async fn a_workflow_that_takes_longer_is_come_back_for() {
    let served = serve(ROUTES).await;
    let got = served.ask("POST", "/slow", &[("idempotency-key", "k")], "{}").await;
    assert_eq!((got.status, got.header("location")), (202, format!("/slow/instances/{INSTANCE}").as_str()), "{got:?}");
    let location = got.header("location").to_owned();
    assert_eq!(served.get(&location).await.json(), json!({ "id": INSTANCE, "status": "running" }));
    let events = served.ask("GET", &format!("{location}/events"), &[("last-event-id", "1")], "").await;
    assert_eq!((events.header("content-type"), events.text.contains("Some(\"1\")")), ("text/event-stream", true));
    served.workflows.end();
    let ended = served.get(&location).await.json();
    assert_eq!(ended, json!({ "id": INSTANCE, "status": "completed", "output": { "n": 1 } }));
    let again = served.ask("POST", "/slow", &[("idempotency-key", "k")], "{}").await;
    assert_eq!((again.status, again.json()), (200, json!({})));
    let keys: Vec<Option<String>> = served.workflows.starts.lock().unwrap().iter().map(|s| s.key.clone()).collect();
    assert_eq!(keys, [Some("k".to_owned()), Some("k".to_owned())]);
    assert_eq!(served.get("/slow/instances/018f0000-0000-7000-8000-00000000000f").await.code(), "unknown_instance");
    assert_eq!(served.get("/slow/instances/nonsense").await.code(), "unknown_instance");
}

#[tokio::test]
async fn the_caller_may_prefer_not_to_wait() {
    let served = serve(ROUTES).await;
    for (prefer, applied) in [("respond-async", "respond-async"), ("wait=0", "wait")] {
        let got = served.ask("POST", "/patient", &[("prefer", prefer)], "{}").await;
        assert_eq!((got.status, got.header("preference-applied")), (202, applied), "{got:?}");
    }
    assert_eq!(served.workflows.starts.lock().unwrap()[0].wait, None);
    assert_eq!(served.ask("POST", "/patient", &[("prefer", "wait=x")], "{}").await.code(), "invalid_preference");
}

#[tokio::test]
async fn what_is_wrong_is_told_as_a_problem() {
    let served = serve(ROUTES).await;
    let gzip = [("content-encoding", "gzip")];
    let text = [("content-type", "text/plain")];
    let keys = [("idempotency-key", "a"), ("idempotency-key", "b")];
    let long = "k".repeat(256);
    let key = [("idempotency-key", long.as_str())];
    for (path, headers, body, status, code) in [
        ("/refuse", &[][..], "{}", 400, "invalid_input"),
        ("/fail", &[], "{}", 409, "instance_faulted"),
        ("/echo", &gzip, "{}", 415, "unsupported_encoding"),
        ("/echo", &text, "{}", 415, "unsupported_media_type"),
        ("/echo", &keys, "{}", 400, "invalid_idempotency_key"),
        ("/echo", &key, "{}", 400, "invalid_idempotency_key"),
        ("/small", &[], "{\"n\": 12345}", 413, "body_too_large"),
        ("/nowhere", &[], "{}", 404, "not_found"),
    ] {
        let got = served.ask("POST", path, headers, body).await;
        assert_eq!((got.status, got.code().as_str()), (status, code), "{got:?}");
    }
    let got = served.get("/nowhere").await;
    assert!(got.json().get("detail").is_none(), "nobody learns what is here: {got:?}");
    let got = served.get("/echo").await;
    assert_eq!((got.status, got.header("allow"), got.code().as_str()), (405, "POST", "method_not_allowed"));
    let faulted = served.get(&format!("/fail/instances/{INSTANCE}")).await.json();
    assert_eq!((&faulted["status"], &faulted["error"]["title"]), (&json!("faulted"), &json!("No stock")));
}

#[tokio::test]
async fn a_route_to_a_workflow_that_is_not_there_is_a_fault() {
    let faults = build("routes:\n  - { match: { path: /x }, workflow: absent/one }\n").map(|_| ()).unwrap_err();
    assert_eq!(faults[0].to_string(), "2:5: routes: 1 /x: workflow: absent/one is not deployed");
}
