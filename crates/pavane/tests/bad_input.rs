//! What can go wrong outside, through the real binary: definitions and requests that are wrong, disks, files, ports,
//! signals. Each must be told clearly, and nothing that was acknowledged may be lost.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support;

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::{PATIENCE, Process, Served, config, errors, pavane};

const HEAD: &str = "document: { dsl: '1.0.3', namespace: t, name: work, version: '1.0.0' }\n";
const WORK: &str = "/api/v1/workflows/t/work/instances";

/// A definition that gives its input back.
fn echo() -> String {
    format!(
        "{HEAD}input: {{ schema: {{ document: {{ type: object, properties: {{ n: {{ type: integer }} }} }} }} }}\n\
         do: [ {{ give: {{ set: '${{ . }}' }} }} ]\n"
    )
}

/// A definition that calls something at a port.
fn calls(port: u16) -> String {
    format!(
        "{HEAD}do: [ {{ ask: {{ call: http, with: {{ method: get, endpoint: 'http://127.0.0.1:{port}/' }} }} }} ]\n"
    )
}

#[tokio::test]
async fn a_definition_that_is_wrong_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&config(folder.path(), "")).await;
    for (text, place, parts) in [
        (format!("{HEAD}do: [ {{ a: {{ set: {{ x: 1 }} }}\n"), None, &["YAML"][..]),
        (format!("{HEAD}do: [ {{ a: {{ sett: {{ x: 1 }} }} }} ]\n"), Some(2), &["did you mean `set`?"][..]),
        (format!("{HEAD}do: [ {{ a: {{ set: {{ x: '${{ .a | }}' }} }} }} ]\n"), Some(2), &["check the jq text"][..]),
    ] {
        let answer = served.deploy(&text).await;
        assert_eq!(answer.status, 422, "{answer:?}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.body["code"], "invalid_definition");
        let first = &answer.body["diagnostics"][0];
        for part in parts {
            assert!(first.to_string().contains(part), "{part}: {first}");
        }
        let file = folder.path().join("wrong.yaml");
        std::fs::write(&file, &text).unwrap();
        for command in ["check", "run"] {
            let output = pavane(&[command, file.to_str().unwrap()]).await;
            assert_eq!(output.status.code(), Some(2), "{command}: {text}");
            let told = errors(&output) + &String::from_utf8_lossy(&output.stdout);
            let place = place.map_or("wrong.yaml:".to_owned(), |line| format!("wrong.yaml:{line}:"));
            assert!(told.contains(&place), "{command}: {told}");
        }
    }
    assert_eq!(served.get("/api/v1/workflows").await["workflows"], json!([]));
}

#[tokio::test]
async fn a_start_that_is_wrong_creates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&config(folder.path(), "limits: { request_body: 2000 }")).await;
    assert_eq!(served.deploy(&echo()).await.status, 201);
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(3_000));
    for (path, body, status, code) in [
        (WORK, r#"{"n":"one"}"#, 400, "invalid_input"),
        (WORK, r#"{"n":"#, 400, "invalid_json"),
        (WORK, large.as_str(), 413, "body_too_large"),
        ("/api/v1/workflows/t/play/instances", "{}", 404, "unknown_workflow"),
        ("/api/v1/workflows/t/work/instances?version=9.0.0", "{}", 404, "unknown_workflow"),
        ("/api/v1/workflows/t/work/instances?mode=ballet", "{}", 400, "unknown_mode"),
    ] {
        let answer = served.ask("POST", path, &[("prefer", "wait=5")], body.to_owned()).await;
        assert_eq!((answer.status.as_u16(), &answer.body["code"]), (status, &json!(code)), "{answer:?}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
    let instances = served.get("/api/v1/instances").await;
    assert_eq!(instances["instances"], json!([]), "nothing was created");
}

#[tokio::test]
async fn a_key_stands_for_one_input() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&config(folder.path(), "")).await;
    served.deploy(&echo()).await;
    let key = [("idempotency-key", "k"), ("prefer", "wait=10")];
    let first = served.ask("POST", WORK, &key, r#"{"n":1}"#).await;
    let again = served.ask("POST", WORK, &key, r#"{ "n": 1 }"#).await;
    let other = served.ask("POST", WORK, &key, r#"{"n":2}"#).await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (200, 200), "{first:?} {again:?}");
    assert_eq!(first.body, again.body);
    assert_eq!((other.status.as_u16(), &other.body["code"]), (409, &json!("conflict")), "{other:?}");
    assert_eq!(served.get("/api/v1/instances").await["instances"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_service_that_is_not_there_is_a_communication_error_after_its_retries() {
    let folder = tempfile::tempdir().unwrap();
    // Bound and kept, so that nobody else gets the port, and never listened on.
    let refusing = tokio::net::TcpSocket::new_v4().unwrap();
    refusing.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = refusing.local_addr().unwrap().port();
    let served = Served::start(&config(folder.path(), "")).await;
    let text = format!(
        "{HEAD}do:\n  - careful:\n      try: [ {{ ask: {{ call: http, with: {{ method: get, endpoint: 'http://127.0.0.1:{port}/' }} }} }} ]\n      \
         catch: {{ errors: {{ with: {{ type: 'https://serverlessworkflow.io/spec/1.0.0/errors/communication' }} }}, \
         retry: {{ delay: {{ milliseconds: 1 }}, limit: {{ attempt: {{ count: 2 }} }} }} }}\n"
    );
    let deployed = served.deploy(&text).await;
    assert_eq!(deployed.status, 201, "{deployed:?}");
    let answer = served.ask("POST", WORK, &[("prefer", "wait=30")], "{}").await;
    assert!(answer.status.is_server_error(), "{answer:?}");
    assert!(answer.body["type"].as_str().unwrap().ends_with("/communication"), "{answer:?}");
    assert!(answer.body["detail"].as_str().unwrap().contains("refused"), "{answer:?}");
    let id = answer.body["id"].as_str().unwrap();
    let tasks = served.get(&format!("/api/v1/instances/{id}/tasks")).await;
    let asked: Vec<&Value> = tasks["tasks"].as_array().unwrap().iter().filter(|t| t["name"] == "ask").collect();
    assert_eq!(asked.len(), 3, "the first and two retries: {tasks:#}");
}

#[tokio::test]
async fn a_full_disk_stops_the_server_and_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "");
    let program = format!("ulimit -f 1024; exec '{}' serve -c '{}'", env!("CARGO_BIN_EXE_pavane"), config.display());
    let mut shell = Command::new("sh");
    // Ignored, the limit is an error of the write; it would end the process otherwise.
    shell.arg("-c").arg(format!("trap '' XFSZ; {program}"));
    let mut served = Served::of(Process::spawn(shell)).await;
    served.deploy(&echo()).await;
    let input = format!(r#"{{"text":"{}"}}"#, "x".repeat(20_000));
    let mut acknowledged = Vec::new();
    let refused = loop {
        assert!(acknowledged.len() < 1_000, "the limit is never met");
        match served.http.ask(http::Method::POST, WORK, &[], input.clone().into()).await {
            Ok(answer) if answer.status == 202 => acknowledged.push(answer.body["id"].as_str().unwrap().to_owned()),
            other => break other,
        }
    };
    let answer = refused.expect("the caller is told before the process ends");
    assert_eq!((answer.status.as_u16(), &answer.body["code"]), (503, &json!("store_failed")), "{answer:?}");
    let status = served.process.ended().await;
    assert_eq!(status.code(), Some(1), "{}", served.process.stderr());
    let told = served.process.stderr();
    assert!(told.contains("error: ") && told.contains("pavane.db"), "{told}");
    assert!(!acknowledged.is_empty());

    let served = Served::start(&config).await;
    for id in &acknowledged {
        let answer = served.ask("GET", &format!("/api/v1/instances/{id}"), &[("prefer", "wait=30")], "").await;
        assert_eq!(answer.body["status"], "completed", "{answer:?}");
    }
}

#[tokio::test]
async fn a_damaged_store_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "");
    let mut served = Served::start(&config).await;
    served.deploy(&echo()).await;
    for n in 0..40 {
        served.ask("POST", WORK, &[("prefer", "wait=10")], format!(r#"{{"n":{n}}}"#)).await;
    }
    served.process.signal("TERM");
    assert_eq!(served.process.ended().await.code(), Some(0), "{}", served.process.stderr());
    let file = folder.path().join("pavane.db");
    let length = file.metadata().unwrap().len();
    let mut database = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    database.seek(SeekFrom::Start(4_096)).unwrap();
    database.write_all(&vec![0xA5; usize::try_from(length - 4_096).unwrap()]).unwrap();
    drop(database);
    let mut process = Process::start(&["serve", "-c", config.to_str().unwrap()]);
    let status = process.ended().await;
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    assert!(process.stderr().contains("damaged") && process.stderr().contains("backup"), "{}", process.stderr());
}

#[tokio::test]
async fn a_file_that_a_participant_had_to_itself_is_told_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "services: { payment: { url: 'http://127.0.0.1:9' } }\n");
    let former = folder.path().join("pavane-payment.db");
    std::fs::write(&former, "").unwrap();
    let output = pavane(&["serve", "-c", config.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told = errors(&output);
    assert!(told.contains("pavane-payment.db holds what the participant of `payment` did"), "{told}");
    assert!(told.contains("then move") && told.contains("participant: remote"), "{told}");
    std::fs::remove_file(&former).unwrap();
    let served = Served::start(&config).await;
    assert_eq!(served.ask("GET", "/readyz", &[], "").await.status, 200);
}

#[tokio::test]
async fn a_port_in_use_is_told_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let file = folder.path().join("pavane.yaml");
    std::fs::write(&file, format!("listen: {{ admin: '{address}' }}\n")).unwrap();
    let output = pavane(&["serve", "-c", file.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(1));
    let told = errors(&output);
    assert!(told.contains(&address.to_string()) && told.contains("listen.admin"), "{told}");
}

#[tokio::test]
async fn a_second_server_on_a_store_says_who_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "");
    let mut first = Served::start(&config).await;
    let output = pavane(&["serve", "-c", config.to_str().unwrap()]).await;
    assert_ne!(output.status.code(), Some(0));
    let told = errors(&output);
    assert!(told.contains(&format!("process {}", first.process.id())) && told.contains("store.sqlite.path"), "{told}");
    // One that is still waiting takes over as soon as the first lets go.
    let second = Process::start(&["serve", "-c", config.to_str().unwrap()]);
    first.process.kill();
    let second = Served::of(second).await;
    assert_eq!(second.ask("GET", "/readyz", &[], "").await.status, 200);
}

/// A service that takes a request and answers when it is told to.
struct Slow(TcpListener);

impl Slow {
    /// Waits for a request, and gives what answers it.
    async fn asked(&self) -> std::net::TcpStream {
        let listener = self.0.try_clone().unwrap();
        let accepted = tokio::task::spawn_blocking(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 1_024];
            assert!(stream.read(&mut head).unwrap() > 0);
            stream
        });
        tokio::time::timeout(PATIENCE, accepted).await.expect("a request comes").unwrap()
    }
}

async fn served_with_a_call_in_flight(folder: &Path) -> (Served, std::net::TcpStream, String) {
    let slow = Slow(TcpListener::bind("127.0.0.1:0").unwrap());
    let served = Served::start(&config(folder, "shutdown: 60s")).await;
    let deployed = served.deploy(&calls(slow.0.local_addr().unwrap().port())).await;
    assert_eq!(deployed.status, 201, "{deployed:?}");
    let started = served.ask("POST", WORK, &[], "{}").await;
    let stream = slow.asked().await;
    (served, stream, started.body["id"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_call_in_flight_may_end_before_the_server_stops() {
    let folder = tempfile::tempdir().unwrap();
    let (mut served, mut call, id) = served_with_a_call_in_flight(folder.path()).await;
    served.process.signal("TERM");
    // It takes nothing new from then on.
    let refused = async {
        while served.http.ask(http::Method::POST, WORK, &[], "{}".into()).await.is_ok_and(|a| a.status == 202) {}
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("it stops taking orders");
    call.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 8\r\n\r\n{\"n\":17}")
        .unwrap();
    assert_eq!(served.process.ended().await.code(), Some(0), "{}", served.process.stderr());
    let again = Served::start(&folder.path().join("pavane.yaml")).await;
    let instance = again.ask("GET", &format!("/api/v1/instances/{id}"), &[("prefer", "wait=30")], "").await;
    assert_eq!(instance.body["output"], json!({ "n": 17 }), "{instance:?}");
}

#[tokio::test]
async fn a_second_signal_ends_the_server_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (mut served, _call, _) = served_with_a_call_in_flight(folder.path()).await;
    served.process.signal("TERM");
    let refused = async {
        while served.http.ask(http::Method::POST, WORK, &[], "{}".into()).await.is_ok_and(|a| a.status == 202) {}
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("it stops taking orders");
    let began = std::time::Instant::now();
    served.process.signal("TERM");
    let status = served.process.ended().await;
    assert!(!status.success(), "what was in flight is cut: {status}");
    // The call in flight would have held it for a minute.
    assert!(began.elapsed() < std::time::Duration::from_secs(50), "the first signal's deadline ended it");
}
