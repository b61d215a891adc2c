//! Services that take a call with 202 and call back: through the real binary, in both modes, with participants in the
//! engine's process and in processes of their own; and every way in which a callback can be wrong.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use pavane::client::{Answer, Server};
use serde_json::{Value, json};
use support::{PATIENCE, Process, Served, config};

/// A service that takes everything with 202, and the URLs it was given, by the name of the order.
#[derive(Clone, Default)]
struct Shipping {
    urls: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
    port: u16,
}

impl Shipping {
    async fn serve() -> Shipping {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shipping = Shipping { port: listener.local_addr().unwrap().port(), ..Shipping::default() };
        let router = Router::new().fallback(accept).with_state(shipping.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        shipping
    }

    /// The last URL that came for an order.
    async fn url(&self, order: &str) -> String {
        let wanted = async {
            loop {
                if let Some(url) = self.urls.lock().unwrap().get(order).and_then(|urls| urls.last()) {
                    return url.clone();
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wanted).await.unwrap_or_else(|_| panic!("no call came for {order}"))
    }
}

async fn accept(State(shipping): State<Shipping>, request: Request) -> StatusCode {
    let url = request.headers().get("pavane-callback").map(|url| url.to_str().unwrap().to_owned()).unwrap_or_default();
    let body = axum::body::to_bytes(request.into_body(), 10_000).await.unwrap();
    let order = serde_json::from_slice::<String>(&body).unwrap();
    shipping.urls.lock().unwrap().entry(order).or_default().push(url);
    StatusCode::ACCEPTED
}

fn workflow(timeout: &str) -> String {
    format!(
        "document: {{ dsl: '1.0.3', namespace: t, name: work, version: '1.0.0' }}\n\
         do:\n  - ship:\n      call: http\n      with: {{ method: post, endpoint: 'http://shipping/x', body: '${{ .order }}' }}\n      {timeout}\n      \
         metadata: {{ pavane: {{ await: callback, heartbeat: PT1M }} }}\n  - done: {{ set: '${{ {{ tracking: .id }} }}' }}\n"
    )
}

/// Posts to a whole URL.
async fn post(url: &str, body: impl ToString) -> Answer {
    let path_at = url.match_indices('/').nth(2).unwrap().0;
    let (base, path) = url.split_at(path_at);
    let headers = [("content-type", "application/json")];
    Server::new(base).ask(http::Method::POST, path, &headers, body.to_string().into()).await.unwrap()
}

fn told(answer: &Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.body["code"].as_str().unwrap_or_default())
}

async fn start(served: &Served, mode: &str, order: &str) -> String {
    let path = format!("/api/v1/workflows/t/work/instances?mode={mode}");
    let answer = served.ask("POST", &path, &[], json!({ "order": order }).to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.body["id"].as_str().unwrap().to_owned()
}

async fn end(served: &Served, id: &str) -> Value {
    served.ask("GET", &format!("/api/v1/instances/{id}"), &[("prefer", "wait=60")], "").await.body
}

/// Waits until the instance is known to wait for a callback alone.
async fn accepted(served: &Served, id: &str) -> Value {
    let wanted = async {
        loop {
            let progress = served.get(&format!("/api/v1/instances/{id}/progress")).await;
            // Its message may be on its way to be forgotten for a moment.
            if progress["standing"] == "waiting" && progress["waits"][0]["for"] == "callback" {
                return progress;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wanted).await.unwrap()
}

fn settings(shipping: &Shipping, more: &str) -> String {
    format!("services:\n  shipping: {{ url: 'http://127.0.0.1:{}'{more} }}\n", shipping.port)
}

#[tokio::test]
async fn a_service_completes_or_fails_its_task_later_in_both_modes() {
    let (shipping, folder) = (Shipping::serve().await, tempfile::tempdir().unwrap());
    let served = Served::start(&config(folder.path(), &settings(&shipping, ""))).await;
    assert_eq!(served.deploy(&workflow("")).await.status, 201);
    for mode in ["orchestration", "choreography"] {
        let order = format!("completed-{mode}");
        let id = start(&served, mode, &order).await;
        let url = shipping.url(&order).await;
        assert!(url.starts_with(&format!("{}/api/v1/callbacks/", served.url)), "{url}");
        let progress = accepted(&served, &id).await;
        assert_eq!((&progress["standing"], &progress["waits"][0]["service"]), (&json!("waiting"), &json!("shipping")));
        let shown = support::pavane(&["show", &id, "--server", &served.url]).await;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains("/do/0/ship waits for callback of shipping since "), "{shown}");
        assert_eq!(told(&post(&format!("{url}/heartbeat"), "").await), (200, ""));
        // What is wrong with a body leaves the call as it is.
        for (body, code) in
            [("", "invalid_callback"), ("{}", "invalid_callback"), (r#"{"ouput":1}"#, "invalid_callback")]
        {
            assert_eq!(told(&post(&url, body).await), (400, code), "{body}");
        }
        assert_eq!(told(&post(&url, json!({ "output": { "id": "s-1" } })).await), (200, ""));
        let ended = end(&served, &id).await;
        assert_eq!((&ended["status"], &ended["output"]), (&json!("completed"), &json!({ "tracking": "s-1" })));
        assert_eq!(told(&post(&url, json!({ "output": {} })).await), (409, "callback_answered"));
        assert_eq!(told(&post(&format!("{url}/heartbeat"), "").await), (409, "callback_answered"));

        let order = format!("failed-{mode}");
        let id = start(&served, mode, &order).await;
        let error = json!({ "error": { "status": 422, "title": "No", "detail": "nobody lives there" } });
        assert_eq!(told(&post(&shipping.url(&order).await, error).await), (200, ""));
        let ended = end(&served, &id).await;
        assert_eq!((&ended["status"], &ended["error"]["status"]), (&json!("faulted"), &json!(422)), "{ended}");
        assert_eq!(
            (&ended["error"]["detail"], &ended["error"]["instance"]),
            (&json!("nobody lives there"), &json!("/do/0/ship"))
        );
    }
}

#[tokio::test]
async fn a_token_that_was_not_made_here_is_refused() {
    let (shipping, folder) = (Shipping::serve().await, tempfile::tempdir().unwrap());
    let served = Served::start(&config(folder.path(), &settings(&shipping, ""))).await;
    served.deploy(&workflow("")).await;
    let first = start(&served, "orchestration", "first").await;
    start(&served, "choreography", "second").await;
    let (url, other) = (shipping.url("first").await, shipping.url("second").await);
    let (base, token) = url.rsplit_once('/').unwrap();
    let (claim, signature) = token.split_once('.').unwrap();
    let others = other.rsplit_once('.').unwrap().1;
    let turned: String = signature.chars().rev().collect();
    for forged in
        ["x".into(), claim.into(), format!("{claim}."), format!("{claim}.{others}"), format!("{claim}.{turned}")]
    {
        for path in ["", "/heartbeat"] {
            let answer = post(&format!("{base}/{forged}{path}"), json!({ "output": 1 })).await;
            assert_eq!(told(&answer), (403, "callback_forged"), "{forged}{path}");
        }
    }
    accepted(&served, &first).await;
}

#[tokio::test]
async fn a_callback_that_comes_too_late_is_on_record_and_ignored() {
    let (shipping, folder) = (Shipping::serve().await, tempfile::tempdir().unwrap());
    let served = Served::start(&config(folder.path(), &settings(&shipping, ""))).await;
    served.deploy(&workflow("timeout: { after: { milliseconds: 300 } }")).await;
    for (mode, late) in [("orchestration", 2), ("choreography", 4)] {
        let id = start(&served, mode, mode).await;
        let url = shipping.url(mode).await;
        let ended = end(&served, &id).await;
        assert_eq!((&ended["status"], &ended["error"]["status"]), (&json!("faulted"), &json!(408)), "{ended}");
        for _ in 0..2 {
            assert_eq!(told(&post(&url, json!({ "output": 1 })).await), (410, "callback_expired"));
        }
        assert_eq!(told(&post(&format!("{url}/heartbeat"), "").await), (410, "callback_expired"));
        let events = served.get(&format!("/api/v1/instances/{id}/events")).await;
        let events = events["events"].as_array().unwrap();
        let on_record = events.iter().filter(|e| e["type"] == "io.pavane.task.callback-late.v1");
        assert_eq!(on_record.count(), 1, "{mode}");
        assert_eq!(end(&served, &id).await["status"], "faulted");
        let metrics = served.ask("GET", "/metrics", &[], "").await;
        let metrics = metrics.body.as_str().unwrap_or_default().to_owned();
        assert!(metrics.contains(&format!("pavane_late_callbacks_total {late}\n")), "{metrics}");
    }
}

#[tokio::test]
async fn the_default_timeout_of_the_configuration_counts() {
    let (shipping, folder) = (Shipping::serve().await, tempfile::tempdir().unwrap());
    let more = format!("{}callbacks: {{ timeout: 200ms }}\n", settings(&shipping, ""));
    let served = Served::start(&config(folder.path(), &more)).await;
    served.deploy(&workflow("")).await;
    for mode in ["orchestration", "choreography"] {
        let id = start(&served, mode, mode).await;
        let ended = end(&served, &id).await;
        let detail = ended["error"]["detail"].as_str().unwrap();
        assert!(detail.contains("did not call back in time"), "{ended}");
    }
}

/// Clients that asked for it are told of the end: of a start at the API and at the gateway, after a restart, too.
#[tokio::test]
async fn whoever_asks_at_the_start_is_told_of_the_end() {
    let (client, folder) = (Client::serve().await, tempfile::tempdir().unwrap());
    let gateway = "listen: { admin: '127.0.0.1:0', gateway: '127.0.0.1:0' }\nstore: { sqlite: { path: ./pavane.db } }\n\
                   callbacks: { notify: [ 127.0.0.1 ] }\nroutes:\n  - { match: { path: /work, method: POST }, workflow: t/work }\n";
    let file = folder.path().join("pavane.yaml");
    std::fs::write(&file, format!("{gateway}workflows: [ ./work.yaml ]\n")).unwrap();
    let text = "document: { dsl: '1.0.3', namespace: t, name: work, version: '1.0.0' }\n\
                do: [ { fail: { if: .fail, raise: { error: { type: 'https://example.com/no', status: 422 } } } } ]\n";
    std::fs::write(folder.path().join("work.yaml"), text).unwrap();
    let mut served = Served::start(&file).await;
    let line = served.process.line("its gateway serves at").await;
    let gateway = Server::new(line.rsplit(' ').next().unwrap());
    let url = format!("http://127.0.0.1:{}/ended", client.port);
    let path = "/api/v1/workflows/t/work/instances";
    for (wrong, status, code) in [
        ("nowhere", 400, "invalid_notify"),
        ("ftp://127.0.0.1/x", 400, "invalid_notify"),
        ("http://elsewhere.example/x", 403, "notify_not_allowed"),
    ] {
        let answer = served.ask("POST", path, &[("pavane-notify", wrong)], "{}").await;
        assert_eq!(told(&answer), (status, code), "{wrong}");
        let headers = [("pavane-notify", wrong), ("content-type", "application/json")];
        let answer = gateway.ask(http::Method::POST, "/work", &headers, "{}".into()).await.unwrap();
        assert_eq!(told(&answer), (status, code), "{wrong} at the gateway");
    }
    assert_eq!(served.get("/api/v1/instances").await["instances"], json!([]), "nothing was started");

    let first = served.ask("POST", path, &[("pavane-notify", &url)], r#"{"n":1}"#).await;
    let heard = client.next().await;
    assert_eq!(heard, json!({ "id": first.body["id"], "status": "completed", "output": { "n": 1 } }));
    let headers = [("pavane-notify", &*url), ("content-type", "application/json")];
    gateway.ask(http::Method::POST, "/work", &headers, r#"{"fail":true}"#.into()).await.unwrap();
    let heard = client.next().await;
    assert_eq!((&heard["status"], &heard["error"]["status"]), (&json!("faulted"), &json!(422)), "{heard}");

    // Nobody takes it, and the server dies: the next one tells again.
    client.refuse(true);
    let third = served.ask("POST", path, &[("pavane-notify", &url)], r#"{"n":3}"#).await;
    client.next().await;
    served.process.kill();
    client.refuse(false);
    let served = Served::start(&file).await;
    let heard = client.next().await;
    assert_eq!(heard["id"], third.body["id"]);
    let told = async {
        loop {
            let events = served.get(&format!("/api/v1/instances/{}/events", third.body["id"].as_str().unwrap())).await;
            let events = events["events"].as_array().unwrap().clone();
            if let Some(event) = events.iter().find(|event| event["type"] == "io.pavane.workflow.notified.v1") {
                return event["data"]["delivered"].clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, told).await.unwrap(), true);
}

/// A client that hears of ends.
#[derive(Clone)]
struct Client {
    heard: Arc<tokio::sync::Mutex<tokio::sync::mpsc::UnboundedReceiver<Value>>>,
    refuses: Arc<std::sync::atomic::AtomicBool>,
    port: u16,
}

impl Client {
    async fn serve() -> Client {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tell, heard) = tokio::sync::mpsc::unbounded_channel();
        let (heard, port) = (Arc::new(tokio::sync::Mutex::new(heard)), listener.local_addr().unwrap().port());
        let client = Client { heard, refuses: Arc::default(), port };
        let refuses = client.refuses.clone();
        let router = Router::new().fallback(async move |body: axum::Json<Value>| {
            tell.send(body.0).unwrap();
            let refuses = refuses.load(std::sync::atomic::Ordering::SeqCst);
            if refuses { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::NO_CONTENT }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        client
    }

    fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, std::sync::atomic::Ordering::SeqCst);
    }

    async fn next(&self) -> Value {
        tokio::time::timeout(PATIENCE, self.heard.lock().await.recv()).await.unwrap().unwrap()
    }
}

fn participant(config: &Path) -> Process {
    let config = config.to_str().unwrap();
    Process::start(&["serve", "--role", "participant", "--service", "shipping", "-c", config])
}

/// The hub's process passes on what comes for a participant in a process of its own, and says so when it is away. A call
/// that it accepted is not made again after its restart.
#[tokio::test]
async fn callbacks_find_participants_in_processes_of_their_own() {
    let (shipping, folder) = (Shipping::serve().await, tempfile::tempdir().unwrap());
    let ports: Vec<_> = (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let [admin, bus] = [0, 1].map(|at: usize| ports[at].local_addr().unwrap());
    drop(ports);
    let file = folder.path().join("pavane.yaml");
    let text = format!(
        "listen: {{ admin: '{admin}', bus: '{bus}' }}\nstore: {{ sqlite: {{ path: ./pavane.db }} }}\n{}",
        settings(&shipping, ", participant: remote")
    );
    std::fs::write(&file, text).unwrap();
    let served = Served::start(&file).await;
    assert_eq!(served.deploy(&workflow("")).await.status, 201);
    let mut process = participant(&file);
    let id = start(&served, "choreography", "far").await;
    let url = shipping.url("far").await;
    assert!(url.starts_with(&format!("http://{admin}/")), "{url}");
    accepted(&served, &id).await;
    assert_eq!(told(&post(&format!("{url}/heartbeat"), "").await), (200, ""));
    let (base, token) = url.rsplit_once('/').unwrap();
    let forged = format!("{base}/{}.AAAA", token.split_once('.').unwrap().0);
    assert_eq!(told(&post(&forged, json!({ "output": 1 })).await), (403, "callback_forged"));
    process.kill();
    let away = post(&url, json!({ "output": 1 })).await;
    assert_eq!(told(&away), (503, "away"), "{away:?}");
    let _process = participant(&file);
    // A service calls back until it is taken.
    let taken = async {
        loop {
            let answer = post(&url, json!({ "output": { "id": "s-9" } })).await;
            if answer.status == 200 {
                return;
            }
            assert_eq!(answer.status, 503, "{answer:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taken).await.unwrap();
    let ended = end(&served, &id).await;
    assert_eq!((&ended["status"], &ended["output"]), (&json!("completed"), &json!({ "tracking": "s-9" })));
    assert_eq!(told(&post(&url, json!({ "output": 1 })).await), (409, "callback_answered"));
    assert_eq!(shipping.urls.lock().unwrap()["far"].len(), 1, "what was accepted is not asked for again");
}
