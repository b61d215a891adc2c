//! Participants in processes of their own, as an operator meets them: who is let in, what is told, and what is never lost.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Json;
use axum::routing::post;
use serde_json::{Value, json};
use support::{PATIENCE, Process, Served, errors, pavane};
use tokio::net::TcpListener;

const TOKEN: &str = "a token for this test alone";

/// A service that counts what it is asked.
async fn service() -> (String, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let charge = post(move || {
        let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
        async move { Json(json!({ "receipt": number })) }
    });
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/charge", charge)).await });
    (url, calls)
}

fn workflow(name: &str) -> String {
    format!(
        "document: {{ dsl: '1.0.3', namespace: t, name: {name}, version: '1.0.0', metadata: {{ pavane: {{ mode: choreography }} }} }}\n\
         do: [ {{ charge: {{ call: http, with: {{ method: post, endpoint: 'http://payment/charge' }} }} }} ]"
    )
}

/// A configuration in a folder; the bus listens on a free port.
fn configured(folder: &Path, name: &str, bus: &str, payment: &str) -> PathBuf {
    let file = folder.join(name);
    let text = format!(
        "listen: {{ admin: '127.0.0.1:0', bus: '127.0.0.1:0' }}\nstore: {{ sqlite: {{ path: ./pavane.db }} }}\n\
         bus: {{ embedded: {{ {bus} }} }}\nservices: {{ payment: {{ {payment} }} }}\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// A hub, and the base URL of its bus.
async fn hub(config: &Path) -> (Served, String) {
    let (hub, line) = Served::told(Process::start(&["serve", "-c", config.to_str().unwrap()])).await;
    (hub, line.rsplit(' ').next().unwrap().to_owned())
}

async fn participant(config: &Path) -> Served {
    let config = config.to_str().unwrap();
    Served::of(Process::start(&["serve", "--role", "participant", "--service", "payment", "-c", config])).await
}

/// What a participant says that does not come up.
async fn refused(config: &Path) -> String {
    let output =
        pavane(&["serve", "--role", "participant", "--service", "payment", "-c", config.to_str().unwrap()]).await;
    assert!(!output.status.success());
    errors(&output)
}

/// Waits until its `/readyz` answers with a status.
async fn ready(participant: &Served, status: u16) -> Value {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = participant.ask("GET", "/readyz", &[], "").await;
        if answer.status == status {
            return answer.body;
        }
        assert!(tokio::time::Instant::now() < until, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn place_of_payment(hub: &Served) -> String {
    hub.get("/api/v1/services").await["services"][0]["participant"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn work_waits_for_a_participant_that_is_away_and_what_it_missed_it_learns() {
    let folder = tempfile::tempdir().unwrap();
    let (url, calls) = service().await;
    let payment = format!("url: '{url}', participant: remote");
    let config = configured(folder.path(), "hub.yaml", &format!("token: {{ value: '{TOKEN}' }}"), &payment);
    let (hub_process, bus) = hub(&config).await;
    let own = format!("url: '{bus}', token: {{ value: '{TOKEN}' }}");
    let own = configured(folder.path(), "payment.yaml", &own, &payment);

    assert_eq!(place_of_payment(&hub_process).await, "away");
    assert_eq!(hub_process.deploy(&workflow("first")).await.status, 201);
    let start = async |name: &str, key: &str| {
        let path = format!("/api/v1/workflows/t/{name}/instances");
        let answer = hub_process.ask("POST", &path, &[("idempotency-key", key)], "{}").await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.body["id"].as_str().unwrap().to_owned()
    };
    let waits = start("first", "1").await;
    // Nobody makes the call in its stead; who should is told.
    let progress = loop {
        let progress = hub_process.get(&format!("/api/v1/instances/{waits}/progress?after=1s")).await;
        if progress["standing"] == "stuck" {
            break progress;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((&progress["missing"][0]["to"], calls.load(Ordering::SeqCst)), (&json!("payment"), 0), "{progress:#}");

    let mut participant_process = participant(&own).await;
    ready(&participant_process, 200).await;
    assert_eq!(place_of_payment(&hub_process).await, "attached");
    let end = async |hub: &Served, id: &str| {
        hub.ask("GET", &format!("/api/v1/instances/{id}"), &[("prefer", "wait=60")], "").await.body
    };
    let ended = end(&hub_process, &waits).await;
    assert_eq!((&ended["status"], &ended["output"]), (&json!("completed"), &json!({ "receipt": 1 })), "{ended:#}");
    let tasks = hub_process.get(&format!("/api/v1/instances/{waits}/tasks")).await;
    assert_eq!(tasks["tasks"][0]["service_name"], "payment", "what it did is told at the hub: {tasks:#}");

    // Deployed while it was attached: it asks when the first message comes.
    assert_eq!(hub_process.deploy(&workflow("second")).await.status, 201);
    let ended = end(&hub_process, &start("second", "2").await).await;
    assert_eq!(ended["status"], "completed", "{ended:#}");

    // Killed, it is seen to be away at once; started again, it goes on with its store.
    participant_process.process.kill();
    let until = tokio::time::Instant::now() + PATIENCE;
    while place_of_payment(&hub_process).await != "away" {
        assert!(tokio::time::Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let waits = start("first", "3").await;
    let participant_process = participant(&own).await;
    assert_eq!(end(&hub_process, &waits).await["status"], "completed");
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    let metrics = participant_process.get("/metrics").await;
    assert!(metrics.as_str().unwrap().contains("pavane_calls_total 1\n"), "{metrics}");
    let elsewhere = participant_process.ask("GET", "/api/v1/instances", &[], "").await;
    assert_eq!(elsewhere.status, 404, "{elsewhere:?}");

    // The hub goes: the participant says so, and is ready again when a hub is back.
    let port = bus.rsplit(':').next().unwrap().to_owned();
    drop(hub_process);
    let why = ready(&participant_process, 503).await;
    assert!(why["detail"].as_str().unwrap().contains("hub"), "{why}");
    let text =
        std::fs::read_to_string(&config).unwrap().replace("bus: '127.0.0.1:0'", &format!("bus: '127.0.0.1:{port}'"));
    std::fs::write(&config, text).unwrap();
    let (hub_process, _) = hub(&config).await;
    ready(&participant_process, 200).await;
    assert_eq!(end(&hub_process, &waits).await["status"], "completed");
}

#[tokio::test]
async fn what_waits_in_the_store_of_a_participant_elsewhere_is_stuck_too() {
    let folder = tempfile::tempdir().unwrap();
    let (url, _) = service().await;
    let payment = format!("url: '{url}', participant: remote }}, stock: {{ url: '{url}', participant: remote");
    let (hub_process, bus) = hub(&configured(folder.path(), "hub.yaml", "", &payment)).await;
    let participant_process =
        participant(&configured(folder.path(), "payment.yaml", &format!("url: '{bus}'"), &payment)).await;
    ready(&participant_process, 200).await;
    let reserve = ", { reserve: { call: http, with: { method: post, endpoint: 'http://stock/charge' } } } ]";
    let deployed = hub_process.deploy(&workflow("both").replace(" ]", reserve)).await;
    assert_eq!(deployed.status, 201, "{deployed:?}");
    let started = hub_process.ask("POST", "/api/v1/workflows/t/both/instances", &[], "{}").await;
    let id = started.body["id"].as_str().unwrap();
    let until = tokio::time::Instant::now() + PATIENCE;
    let stuck = loop {
        let list = hub_process.get("/api/v1/instances?stuck=1s").await;
        if list["instances"][0]["id"] == id {
            break list;
        }
        assert!(tokio::time::Instant::now() < until, "{list:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let missing = &stuck["instances"][0]["stuck"];
    let told = (&missing["from"], &missing["to"], &missing["task"], &missing["expected"]);
    let (from, to, task, expected) = ("payment", "stock", "/do/1/reserve", "t.both.reserve.due.v2");
    assert_eq!(told, (&json!(from), &json!(to), &json!(task), &json!(expected)), "{stuck:#}");
    assert_eq!(stuck["all"], false, "nobody can ask the participant of stock: {stuck:#}");
}

#[tokio::test]
async fn who_does_not_belong_is_not_let_in_and_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let remote = "url: 'http://127.0.0.1:9', participant: remote";
    let token = format!("token: {{ value: '{TOKEN}' }}");
    let (hub_process, bus) = hub(&configured(folder.path(), "hub.yaml", &token, remote)).await;
    let own = |name: &str, token: &str, settings: &str| {
        configured(folder.path(), name, &format!("url: '{bus}', {token}"), settings)
    };

    let told = refused(&own("guess.yaml", "token: { value: 'another token of some length' }", remote)).await;
    assert!(told.contains("bus.embedded.token"), "{told}");
    let told = refused(&own("none.yaml", "", remote)).await;
    assert!(told.contains("bus.embedded.token"), "{told}");
    let told = refused(&own("short.yaml", "token: { value: short }", remote)).await;
    assert!(told.contains("at least 16 characters"), "{told}");
    let encrypted = configured(folder.path(), "https.yaml", "url: 'https://127.0.0.1:9'", remote);
    let told = refused(&encrypted).await;
    assert!(told.contains("bus.embedded.url") && told.contains("http://"), "{told}");
    let told = refused(&own("here.yaml", &token, "url: 'http://127.0.0.1:9'")).await;
    assert!(told.contains("participant: remote"), "{told}");

    // It has a store; another one than that is not taken in its place.
    let good = own("good.yaml", &token, remote);
    let mut first = participant(&good).await;
    ready(&first, 200).await;
    let again = refused(&good).await;
    assert!(again.contains("pavane-payment.db"), "the store has one process: {again}");
    first.process.signal("TERM");
    assert!(first.process.ended().await.success(), "{}", first.process.stderr());
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(folder.path().join(format!("pavane-payment.db{suffix}")));
    }
    let told = refused(&good).await;
    assert!(told.contains("another store") && told.contains("payment"), "{told}");

    // Requests that no participant makes.
    let ask = async |path: &str, token: &str, body: &str| {
        let server = pavane::client::Server::new(&bus);
        let shown = format!("Bearer {token}");
        let headers = [("authorization", shown.as_str()), ("content-type", "application/json")];
        let answer = server.ask(http::Method::POST, path, &headers, body.to_owned().into()).await.unwrap();
        (answer.status.as_u16(), answer.body["code"].as_str().unwrap_or_default().to_owned())
    };
    let session = json!({ "session": "none", "after": 0 }).to_string();
    assert_eq!(ask("/bus/v1/receive", "x", &session).await, (401, "unauthorized".into()));
    assert_eq!(ask("/bus/v1/receive", TOKEN, &session).await, (410, "session_over".into()));
    assert_eq!(ask("/bus/v1/receive", TOKEN, "{ no JSON").await, (400, "unreadable_body".into()));
    assert_eq!(ask("/bus/v1/elsewhere", TOKEN, "{}").await, (404, "not_found".into()));
    let early = json!({
        "protocol": pavane_bus::wire::PROTOCOL, "service": "payment", "version": "0.1.0", "process": "p", "store": 7, "clock": 0,
    });
    assert_eq!(ask("/bus/v1/attach", TOKEN, &early.to_string()).await, (409, "clock_skew".into()));
    drop(hub_process);
}

#[tokio::test]
async fn a_bus_that_strangers_could_reach_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let config = configured(folder.path(), "hub.yaml", "", "url: 'http://127.0.0.1:9', participant: remote");
    let text = std::fs::read_to_string(&config).unwrap().replace("bus: '127.0.0.1:0'", "bus: '0.0.0.0:0'");
    std::fs::write(&config, text).unwrap();
    let output = pavane(&["serve", "-c", config.to_str().unwrap()]).await;
    assert!(!output.status.success() && errors(&output).contains("bus.embedded.token"), "{}", errors(&output));
    for (arguments, part) in [
        (&["serve", "--role", "participant"][..], "--service"),
        (&["serve", "--service", "payment"], "--role participant"),
        (&["serve", "--role", "oracle"], "participant"),
        (&["serve", "--role", "participant", "--service", "paiment"], "it has payment"),
    ] {
        let output = pavane(&[arguments, &["-c", config.to_str().unwrap()]].concat()).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", errors(&output));
        assert!(errors(&output).contains(part), "{arguments:?}: {}", errors(&output));
    }
}
