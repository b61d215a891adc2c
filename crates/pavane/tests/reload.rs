//! Services come and go while others run: the configuration is read again when its file has changed, and at SIGHUP.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support;

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::Path as Named;
use axum::routing::post;
use serde_json::{Value, json};
use support::{PATIENCE, Process, Served};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// A service that answers each call with the name it was called by; those named `slow` wait until told.
async fn service() -> (String, Arc<Notify>) {
    let go = Arc::new(Notify::new());
    let waits = go.clone();
    let answer = post(move |Named(name): Named<String>| {
        let waits = waits.clone();
        async move {
            if name == "slow" {
                waits.notified().await;
            }
            Json(json!({ "last": name }))
        }
    });
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/{name}", answer)).await });
    (url, go)
}

/// A workflow whose steps call, one after the other, `service/path`.
fn workflow(version: &str, calls: &[&str]) -> String {
    let step = |(at, call): (usize, &&str)| {
        format!("  - s{at}: {{ call: http, with: {{ method: post, endpoint: 'http://{call}' }} }}\n")
    };
    let steps: String = calls.iter().enumerate().map(step).collect();
    format!(
        "document: {{ dsl: '1.0.3', namespace: t, name: w, version: '{version}', metadata: {{ pavane: {{ mode: choreography }} }} }}\n\
         do:\n{steps}"
    )
}

fn configure(folder: &Path, services: &[(&str, String)], workflows: &str) -> PathBuf {
    let services: String = services.iter().map(|(name, settings)| format!("  {name}: {{ {settings} }}\n")).collect();
    let file = folder.join("pavane.yaml");
    let text = format!(
        "listen: {{ admin: '127.0.0.1:0', bus: '127.0.0.1:0' }}\nstore: {{ sqlite: {{ path: ./pavane.db }} }}\n\
         workflows: [ {workflows} ]\nservices:\n{services}"
    );
    std::fs::write(&file, text).unwrap();
    file
}

async fn told(served: &Served, part: &str) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !served.process.stderr().contains(part) {
        assert!(tokio::time::Instant::now() < until, "no `{part}` in: {}", served.process.stderr());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn start(served: &Served, version: &str) -> String {
    let path = format!("/api/v1/workflows/t/w/instances?version={version}");
    let answer = served.ask("POST", &path, &[], "{}").await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.body["id"].as_str().unwrap().to_owned()
}

async fn end(served: &Served, id: &str) -> Value {
    served.ask("GET", &format!("/api/v1/instances/{id}"), &[("prefer", "wait=60")], "").await.body
}

#[tokio::test]
async fn services_are_added_and_removed_while_others_run() {
    let folder = tempfile::tempdir().unwrap();
    let (url, go) = service().await;
    let at = |more: &str| format!("url: '{url}'{more}");
    let payment = ("payment", at(""));
    std::fs::write(folder.path().join("1.yaml"), workflow("1.0.0", &["payment/slow", "payment/paid"])).unwrap();
    let file = configure(folder.path(), std::slice::from_ref(&payment), "1.yaml");
    let mut served = Served::start(&file).await;
    let under_way = start(&served, "1.0.0").await;
    // It names a service that nobody knows yet.
    let inserted = workflow("2.0.0", &["payment/charged", "stock/reserved", "mail/sent"]);
    let refused = served.deploy(&inserted).await;
    assert!(refused.status == 422 && refused.body.to_string().contains("P102"), "{refused:?}");

    // One that is in this process, and one that will attach.
    std::fs::write(folder.path().join("2.yaml"), &inserted).unwrap();
    let all = [payment.clone(), ("stock", at("")), ("mail", at(", participant: remote"))];
    configure(folder.path(), &all, "1.yaml, 2.yaml");
    let line = served.process.line("are taken up").await;
    assert!(!line.contains("next start"), "{line}");
    let bus = line.rsplit(' ').next().unwrap().to_owned();
    let with_bus = std::fs::read_to_string(&file).unwrap() + &format!("bus: {{ embedded: {{ url: '{bus}' }} }}\n");
    let mail = folder.path().join("mail.yaml");
    std::fs::write(&mail, with_bus).unwrap();
    let mail = Served::of(Process::start(&[
        "serve",
        "--role",
        "participant",
        "--service",
        "mail",
        "-c",
        mail.to_str().unwrap(),
    ]));
    let _mail = mail.await;

    let new = start(&served, "2.0.0").await;
    let ended = end(&served, &new).await;
    assert_eq!((&ended["status"], &ended["output"]), (&json!("completed"), &json!({ "last": "sent" })), "{ended:#}");
    // The one under way was not touched.
    assert_eq!(served.get(&format!("/api/v1/instances/{under_way}")).await["status"], "running");
    go.notify_one();
    let ended = end(&served, &under_way).await;
    assert_eq!(ended["output"], json!({ "last": "paid" }), "{ended:#}");

    // Away with one: it is no service any more, and the others go on.
    configure(folder.path(), &all[..2], "1.yaml");
    served.process.line("are taken up").await;
    let known = served.get("/api/v1/services").await;
    let names: Vec<&str> = known["services"].as_array().unwrap().iter().filter_map(|s| s["name"].as_str()).collect();
    assert_eq!(names, ["payment", "stock"]);
    go.notify_one();
    let last = start(&served, "1.0.0").await;
    assert_eq!(end(&served, &last).await["status"], "completed");
}

#[tokio::test]
async fn a_route_to_a_workflow_that_comes_with_it_is_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let (url, _) = service().await;
    std::fs::write(folder.path().join("1.yaml"), workflow("1.0.0", &["payment/paid"])).unwrap();
    let payment = [("payment", format!("url: '{url}'"))];
    let written = |workflows: &str, more: &str| {
        let file = configure(folder.path(), &payment, workflows);
        let text = std::fs::read_to_string(&file).unwrap().replace("admin:", "gateway: '127.0.0.1:0', admin:") + more;
        std::fs::write(&file, text).unwrap();
        file
    };
    let mut served = Served::start(&written("", "")).await;
    let line = served.process.line("its gateway serves at").await;
    let gateway = pavane::client::Server::new(line.rsplit(' ').next().unwrap());
    let order = async || {
        let headers = [("content-type", "application/json")];
        gateway.ask(http::Method::POST, "/orders", &headers, "{}".into()).await.unwrap()
    };
    assert_eq!(order().await.status, 404);
    written("1.yaml", "routes: [ { match: { path: /orders, method: POST }, workflow: t/w, wait: 10s } ]\n");
    let until = tokio::time::Instant::now() + PATIENCE;
    while order().await.status == 404 {
        assert!(tokio::time::Instant::now() < until, "{}", served.process.stderr());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = order().await;
    assert_eq!((answer.status.as_u16(), &answer.body), (200, &json!({ "last": "paid" })), "{answer:?}");
}

#[tokio::test]
async fn a_server_whose_output_nobody_reads_follows_its_file_too() {
    let folder = tempfile::tempdir().unwrap();
    let (url, _) = service().await;
    std::fs::write(folder.path().join("1.yaml"), workflow("1.0.0", &["payment/paid"])).unwrap();
    let payment = [("payment", format!("url: '{url}'"))];
    let file = configure(folder.path(), &payment, "");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pavane"));
    let mut child = command
        .args(["serve", "-c", file.to_str().unwrap()])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    // Its output is closed by now.
    let server = pavane::client::Server::new(line.split(' ').find(|word| word.starts_with("http://")).unwrap());
    configure(folder.path(), &payment, "1.yaml");
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = server.ask(http::Method::GET, "/api/v1/workflows/t/w", &[], "".into()).await;
        if found.unwrap().status == 200 {
            break;
        }
        assert!(tokio::time::Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_configuration_that_is_wrong_changes_nothing_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let (url, _) = service().await;
    let payment = ("payment", format!("url: '{url}'"));
    std::fs::write(folder.path().join("1.yaml"), workflow("1.0.0", &["payment/paid"])).unwrap();
    let file = configure(folder.path(), std::slice::from_ref(&payment), "1.yaml");
    let mut served = Served::start(&file).await;
    std::fs::write(&file, "servces: {}\n").unwrap();
    served.process.signal("HUP");
    told(&served, "did you mean `services`?").await;
    told(&served, "the server goes on as it was").await;
    configure(folder.path(), &[("payment", format!("url: '{url}', participant: remote"))], "1.yaml");
    served.process.signal("HUP");
    told(&served, "services.payment.participant: a participant moves at a start only").await;
    configure(folder.path(), &[payment.clone(), ("stock", "url: 'http://127.0.0.1:9'".into())], "1.yaml, missing.yaml");
    served.process.signal("HUP");
    told(&served, "there is no such file").await;
    assert_eq!(served.get("/api/v1/services").await["services"].as_array().unwrap().len(), 1);
    // What is read at a start alone is told.
    let file = configure(folder.path(), &[payment], "1.yaml");
    let text = std::fs::read_to_string(&file).unwrap() + "limits: { active_instances: 5 }\n";
    std::fs::write(&file, text).unwrap();
    served.process.signal("HUP");
    let line = served.process.line("are taken up").await;
    assert!(line.contains("limits at the next start only"), "{line}");
    let id = start(&served, "1.0.0").await;
    assert_eq!(end(&served, &id).await["status"], "completed");
}
