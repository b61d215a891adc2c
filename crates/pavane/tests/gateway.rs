//! The gateway of a whole server: routes to services and to durable workflows, taken up from the file while it runs.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::Method;
use pavane::client::{Answer, Server};
use serde_json::{Value, json};
use support::{PATIENCE, Process, Served, config, errors, pavane};

const ECHO: &str = "document: { dsl: '1.0.3', namespace: t, name: echo, version: '1.0.0' }
input: { schema: { document: { type: object, required: [n], properties: { n: { type: integer }, s: { type: string } } } } }
do: [ { give: { set: '${ . }' } } ]
";
const SLOW: &str = "document: { dsl: '1.0.3', namespace: t, name: slow, version: '1.0.0' }
do: [ { rest: { wait: { milliseconds: 1500 } } }, { give: { set: { done: true } } } ]
";
const FAIL: &str = "document: { dsl: '1.0.3', namespace: t, name: fail, version: '1.0.0' }
do: [ { fail: { raise: { error: { type: 'https://example.com/no-stock', status: 409, title: No stock, detail: Come back on Monday } } } } ]
";
const GONE: &str = "document: { dsl: '1.0.3', namespace: t, name: gone, version: '1.0.0' }
do: [ { ask: { call: http, with: { method: get, endpoint: 'http://127.0.0.1:1/inner' } } } ]
";
const ROUTES: &str = "listen: { admin: '127.0.0.1:0', gateway: '127.0.0.1:0' }
store: { sqlite: { path: ./pavane.db } }
workflows: [ '*.wf.yaml' ]
services: { own: { url: 'http://ADMIN' } }
routes:
  - { match: { path: /echo }, workflow: t/echo }
  - { match: { path: /slow }, workflow: t/slow, wait: 100ms }
  - { match: { path: /fail }, workflow: t/fail }
  - { match: { path: /gone }, workflow: t/gone }
";

struct Gated {
    served: Served,
    gateway: Server,
    file: PathBuf,
}

impl Gated {
    async fn start(folder: &Path) -> Gated {
        Gated::with(folder, ROUTES).await
    }

    async fn with(folder: &Path, routes: &str) -> Gated {
        for (name, text) in [("echo", ECHO), ("slow", SLOW), ("fail", FAIL), ("gone", GONE)] {
            std::fs::write(folder.join(format!("{name}.wf.yaml")), text).unwrap();
        }
        let file = config(folder, "");
        std::fs::write(&file, routes).unwrap();
        let process = Process::start(&["serve".as_ref(), "-c".as_ref(), file.as_os_str()]);
        let mut served = Served::of(process).await;
        let line = served.process.line("its gateway serves at").await;
        let gateway = Server::new(line.rsplit(' ').next().unwrap());
        Gated { served, gateway, file }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &'static str) -> Answer {
        let method: Method = method.parse().unwrap();
        self.gateway.ask(method, path, headers, Bytes::from_static(body.as_bytes())).await.unwrap()
    }
}

#[tokio::test]
async fn a_route_starts_a_durable_workflow_and_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let gated = Gated::start(folder.path()).await;
    let answer = gated.ask("POST", "/echo", &[], "{\"n\":1}").await;
    assert_eq!((answer.status.as_u16(), &answer.body), (200, &json!({ "n": 1 })), "{answer:?}");
    let id = answer.headers["pavane-instance"].to_str().unwrap();
    let record = gated.served.get(&format!("/api/v1/instances/{id}")).await;
    assert_eq!((&record["status"], &record["name"]), (&json!("completed"), &json!("echo")));

    let wrong = gated.ask("POST", "/echo", &[], "{\"n\":\"x\",\"s\":2}").await;
    assert_eq!((wrong.status.as_u16(), &wrong.body["code"]), (400, &json!("invalid_input")), "{wrong:?}");
    let mut places: Vec<&str> =
        wrong.body["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
    places.sort_unstable();
    assert_eq!(places, ["/n", "/s"], "every problem is told");
    assert_eq!(gated.ask("POST", "/echo", &[], "{nonsense").await.body["code"], "invalid_json");

    let failed = gated.ask("POST", "/fail", &[], "").await;
    assert_eq!((failed.status.as_u16(), &failed.body["title"]), (409, &json!("No stock")), "{failed:?}");
    assert_eq!(failed.body["detail"], "Come back on Monday", "what an author says is for the caller");
    let gone = gated.ask("POST", "/gone", &[], "").await;
    assert!(gone.status.is_server_error() && !gone.body.to_string().contains("127.0.0.1"), "{gone:?}");
    let inner = gated.served.get(&format!("/api/v1/instances/{}", gone.body["id"].as_str().unwrap())).await;
    assert!(inner["error"]["detail"].as_str().unwrap().contains("127.0.0.1"), "operators are told: {inner}");
    let metrics = gated.served.get("/metrics").await;
    let metrics = metrics.as_str().unwrap();
    for part in [
        "pavane_gateway_answers_total{route=\"1 /echo\",status=\"2xx\"} 1",
        "pavane_gateway_answers_total{route=\"1 /echo\",status=\"4xx\"} 2",
        "pavane_gateway_urls_well{service=\"own\"} 1",
    ] {
        assert!(metrics.contains(part), "{part}: {metrics}");
    }
}

#[tokio::test]
async fn a_client_comes_back_for_what_takes_longer() {
    let folder = tempfile::tempdir().unwrap();
    let gated = Gated::start(folder.path()).await;
    let key = [("idempotency-key", "order-1")];
    let first = gated.ask("POST", "/slow", &key, "").await;
    assert_eq!(first.status, 202, "{first:?}");
    let location = first.headers["location"].to_str().unwrap().to_owned();
    let id = first.body["id"].as_str().unwrap().to_owned();
    assert_eq!(location, format!("/slow/instances/{id}"));
    assert_eq!(gated.ask("GET", &location, &[], "").await.body, json!({ "id": id, "status": "waiting" }));
    // An instance is found only at its own workflow's route.
    assert_eq!(gated.ask("GET", &format!("/echo/instances/{id}"), &[], "").await.status, 404);
    let answer = loop {
        let answer = gated.ask("POST", "/slow", &key, "").await;
        if answer.status != 202 {
            break answer;
        }
    };
    assert_eq!((answer.status.as_u16(), &answer.body), (200, &json!({ "done": true })), "{answer:?}");
    assert_eq!(answer.headers["pavane-instance"].to_str().unwrap(), id, "the same key, the same instance");
    let events = gated.ask("GET", &format!("{location}/events"), &[], "").await;
    assert!(events.body.as_str().unwrap().contains("workflow.completed"), "{events:?}");
    let status = gated.ask("GET", &location, &[], "").await;
    assert_eq!(status.body, json!({ "id": id, "status": "completed", "output": { "done": true } }));
}

#[tokio::test]
async fn routes_are_taken_up_while_it_runs_and_a_bad_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut gated = Gated::start(folder.path()).await;
    let admin = gated.served.url.trim_start_matches("http://").to_owned();
    let with = ROUTES.replace("ADMIN", &admin) + "  - { match: { path: '/own/*' }, service: own, strip: /own }\n";
    assert_eq!(gated.ask("GET", "/own/healthz", &[], "").await.status, 404);
    // The time of a file has seconds in some file systems.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    std::fs::write(&gated.file, &with).unwrap();
    let taken_up = async {
        while gated.ask("GET", "/own/healthz", &[], "").await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken_up).await.expect("the new route is there");

    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    std::fs::write(&gated.file, with.replace("service: own, strip", "service: onw, strip")).unwrap();
    let told = async {
        while !gated.served.process.stderr().contains("goes on as it was") {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("it is told");
    let stderr = gated.served.process.stderr();
    assert!(
        stderr.contains("pavane.yaml:10:5: routes: 5. `/own/*`: service: `onw` is not under `services`"),
        "{stderr}"
    );
    assert_eq!(gated.ask("GET", "/own/healthz", &[], "").await.body, Value::String("ok\n".into()));
    gated.served.process.signal("TERM");
    assert!(gated.served.process.ended().await.success());
}

#[tokio::test]
async fn keys_made_by_the_command_open_a_route_that_is_shown_as_openapi() {
    let folder = tempfile::tempdir().unwrap();
    let made = pavane(&["secret", "key", "shop"]).await;
    let key = String::from_utf8(made.stdout.clone()).unwrap().trim().to_owned();
    let told = errors(&made);
    let line = told.lines().find(|line| line.contains("sha256")).expect("the line for the file").trim();
    let entry = line.trim_start_matches("- ").replace("scopes: []", "scopes: [orders]");
    let mut text =
        ROUTES.replace("workflow: t/echo }", "workflow: t/echo, auth: [key], scopes: [orders], rate: 100/s per key }");
    text.push_str(&format!("gateway: {{ auth: {{ keys: [ {entry} ] }} }}\n"));
    let gated = Gated::with(folder.path(), &text).await;
    assert_eq!(gated.ask("POST", "/echo", &[], "{\"n\":1}").await.status, 401);
    let answer = gated.ask("POST", "/echo", &[("x-api-key", &key)], "{\"n\":1}").await;
    assert_eq!((answer.status.as_u16(), &answer.body), (200, &json!({ "n": 1 })), "{answer:?}");
    assert_eq!(answer.headers["ratelimit-limit"], "100");
    let shown = gated.served.get("/api/v1/gateway/openapi").await;
    let operation = &shown["paths"]["/echo"]["post"];
    assert_eq!(operation["security"], json!([{ "key": ["orders"] }]));
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(schema["required"], json!(["n"]), "the schema is the workflow's own: {shown}");
}
