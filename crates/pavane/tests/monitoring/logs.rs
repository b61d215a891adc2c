//! The log in JSON, line by line against the specification of ECS logging.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{PATIENCE, Process, Served, config};

const SECRET: &str = "sesame-open-7391";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// What a field may hold.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Type {
    /// RFC 3339, in UTC.
    Time,
    Text,
    Whole,
    /// An object of texts, without dots in their names.
    Labels,
}

/// The fields that the specification demands of each line, with their types (`spec/spec.json` of elastic/ecs-logging).
const REQUIRED: [(&str, Type); 4] =
    [("@timestamp", Type::Time), ("log.level", Type::Text), ("message", Type::Text), ("ecs.version", Type::Text)];

/// Other fields that lines may have, with the types of the schema.
const ALLOWED: [(&str, Type); 18] = [
    ("log.logger", Type::Text),
    ("service.name", Type::Text),
    ("service.version", Type::Text),
    ("process.pid", Type::Whole),
    ("event.dataset", Type::Text),
    ("event.action", Type::Text),
    ("event.outcome", Type::Text),
    ("event.duration", Type::Whole),
    ("trace.id", Type::Text),
    ("error.type", Type::Text),
    ("error.message", Type::Text),
    ("client.ip", Type::Text),
    ("http.request.method", Type::Text),
    ("http.request.id", Type::Text),
    ("http.response.status_code", Type::Whole),
    ("url.path", Type::Text),
    ("labels", Type::Labels),
    ("tags", Type::Text),
];

fn fits(value: &Value, type_: Type) -> bool {
    match type_ {
        Type::Time => value.as_str().is_some_and(|t| t.ends_with('Z') && t.parse::<pavane_core::Timestamp>().is_ok()),
        Type::Text => value.is_string(),
        Type::Whole => value.is_u64() || value.is_i64(),
        Type::Labels => value
            .as_object()
            .is_some_and(|labels| labels.iter().all(|(name, value)| !name.contains('.') && value.is_string())),
    }
}

/// A line, if it keeps to the specification.
fn checked(line: &str) -> BTreeMap<String, Value> {
    let fields: BTreeMap<String, Value> =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: no JSON: {line}"));
    for (name, type_) in REQUIRED {
        assert!(fields.get(name).is_some_and(|value| fits(value, type_)), "{name}: {line}");
    }
    let known: BTreeMap<&str, Type> = REQUIRED.into_iter().chain(ALLOWED).collect();
    for (name, value) in &fields {
        let type_ = known.get(name.as_str()).unwrap_or_else(|| panic!("{name} is no field of the schema: {line}"));
        assert!(fits(value, *type_), "{name} is no {type_:?}: {line}");
    }
    // In this order, so that people can read it.
    let at = |name: &str| line.find(&format!("\"{name}\"")).unwrap();
    assert!(at("@timestamp") < at("log.level") && at("log.level") < at("message"), "{line}");
    assert!(["error", "warn", "info", "debug", "trace"].contains(&fields["log.level"].as_str().unwrap()), "{line}");
    fields
}

fn serve(file: &std::path::Path, level: &str) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pavane"));
    command.args([OsStr::new("serve"), OsStr::new("-c"), file.as_os_str()]).env("PAVANE_LOG", level);
    Process::spawn(command)
}

/// The log, once it says what it is waited for: it is read a moment after it was written.
async fn log_with(process: &Process, parts: &[&str]) -> String {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let log = process.stderr();
        if log.ends_with('\n') && parts.iter().all(|part| log.contains(part)) {
            return log;
        }
        assert!(tokio::time::Instant::now() < until, "{parts:?} are not in {log}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_keeps_to_the_schema_and_holds_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let workflow = "document: { dsl: '1.0.3', namespace: t, name: guarded, version: '1.0.0' }
use: { secrets: [ token ] }
do:
  - ask:
      call: http
      with:
        method: post
        endpoint: { uri: 'http://vault/open', authentication: { bearer: { token: '${ $secrets.token }' } } }
        headers: { x-token: '${ $secrets.token }' }
        body: { token: '${ $secrets.token }' }
";
    std::fs::write(folder.path().join("guarded.yaml"), workflow).unwrap();
    let refusing = tokio::net::TcpSocket::new_v4().unwrap();
    refusing.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = refusing.local_addr().unwrap().port();
    let file = config(folder.path(), "");
    let text = format!(
        "listen: {{ admin: '127.0.0.1:0', gateway: '127.0.0.1:0' }}\nstore: {{ sqlite: {{ path: ./pavane.db }} }}\n\
         workflows: [ ./guarded.yaml ]\nsecrets: {{ token: {{ value: {SECRET} }} }}\nlog: {{ format: ecs }}\n\
         services: {{ vault: {{ url: 'http://127.0.0.1:{port}' }} }}\n\
         routes:\n  - {{ match: {{ path: /guarded }}, workflow: t/guarded }}\n"
    );
    std::fs::write(&file, text).unwrap();
    let mut served = Served::of(serve(&file, "debug")).await;
    let line = served.process.line("its gateway serves at").await;
    let gateway = pavane::client::Server::new(line.rsplit(' ').next().unwrap());
    let headers = [("traceparent", &*format!("00-{TRACE}-00f067aa0ba902b7-01"))];
    let failed = gateway.ask(http::Method::POST, "/guarded", &headers, "{}".into()).await.unwrap();
    assert!(failed.status.is_server_error(), "{failed:?}");
    let id = failed.headers["pavane-instance"].to_str().unwrap().to_owned();
    served.process.signal("TERM");
    assert!(served.process.ended().await.success());
    let log = log_with(&served.process, &["pavane.instance", "pavane.access", "stopping"]).await;
    assert!(!log.contains(SECRET), "{log}");
    let lines: Vec<BTreeMap<String, Value>> = log.lines().map(checked).collect();
    let of = |dataset: &str| lines.iter().find(|line| line["event.dataset"] == dataset);
    let ended = of("pavane.instance").unwrap_or_else(|| panic!("no instance ended: {log}"));
    assert_eq!(ended["trace.id"], TRACE, "the trace of whoever asked");
    assert_eq!((&ended["event.action"], &ended["event.outcome"]), (&json!("instance-ended"), &json!("failure")));
    assert!(ended["error.type"].as_str().unwrap().ends_with("/communication"), "{ended:?}");
    assert_eq!(ended["labels"]["instance"], id);
    assert_eq!(ended["labels"]["workflow"], "t/guarded");
    assert_eq!(ended["service.name"], "pavane");
    let access = of("pavane.access").unwrap_or_else(|| panic!("no answer was told: {log}"));
    assert_eq!((&access["url.path"], &access["http.request.method"]), (&json!("/guarded"), &json!("POST")));
    assert_eq!(access["http.response.status_code"], failed.status.as_u16());
}

#[tokio::test]
async fn what_keeps_a_server_from_starting_is_a_line_of_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = config(folder.path(), "");
    let address = taken.local_addr().unwrap();
    std::fs::write(&file, format!("listen: {{ admin: '{address}' }}\nlog: {{ format: ecs }}\n")).unwrap();
    let mut process = serve(&file, "warn");
    assert!(!process.ended().await.success());
    let log = log_with(&process, &["listened on"]).await;
    let line = checked(log.trim_end());
    assert_eq!(line["log.level"], "error");
    assert!(line["message"].as_str().unwrap().contains("cannot be listened on"), "{log}");
}

/// Scripts read the log as it always was.
#[tokio::test]
async fn lines_are_for_people_unless_somebody_asks() {
    let folder = tempfile::tempdir().unwrap();
    let mut served = Served::of(serve(&config(folder.path(), ""), "info")).await;
    served.process.signal("TERM");
    assert!(tokio::time::timeout(PATIENCE, served.process.ended()).await.unwrap().success());
    let log = log_with(&served.process, &[" INFO ", "stopping: calls in flight may end"]).await;
    assert!(!log.contains('{'), "{log}");
}
