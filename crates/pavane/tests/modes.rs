//! One workflow in both modes over the same services: the record that people ask for is the same, side by side.
//!
//! Start reading at [`both_modes_leave_the_same_record`].

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pavane_core::definition::Mode;
use serde_json::{Value, json};
use support::{Process, Served};

/// Its failures that the test chooses come one after another: what races with a failure may differ in any mode.
const SAGA: &str = "../../examples/order-fulfilment/order.yaml";

async fn services(folder: &Path, declined: u8) -> (Process, String) {
    let chances = format!("--port 0 --declined {declined} --unavailable 50 --unshippable 0 --lost 0");
    let mut process = Process::start(&["demo-services"].into_iter().chain(chances.split(' ')).collect::<Vec<_>>());
    let mut settings = String::new();
    for name in pavane::demo::services::NAMES {
        let line = process.line(name).await;
        let url = line.split(' ').nth(1).expect("an address").to_owned();
        settings.push_str(&format!("  {name}: {{ url: '{url}', idempotency: key, timeout: 5s }}\n"));
    }
    process.line("ready").await;
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(SAGA), folder.join("workflow.yaml")).unwrap();
    (process, format!("workflows: [ ./workflow.yaml ]\nservices:\n{settings}"))
}

async fn order(served: &Served, mode: Mode, number: u32) -> String {
    let body = json!({
        "orderId": format!("{}-{number:06}", mode.as_str()), "items": [{ "sku": "lute", "quantity": 1 }],
        "total": 1_900, "address": { "city": "Padova" }, "email": "ada@example.com",
    });
    let path = format!("/api/v1/workflows/shop/order-fulfilment/instances?mode={}", mode.as_str());
    let headers = [("content-type", "application/json"), ("prefer", "wait=60")];
    let answer = served.ask("POST", &path, &headers, body.to_string()).await;
    answer.body["id"].as_str().unwrap_or_else(|| panic!("no id: {answer:?}")).to_owned()
}

/// What may differ is taken out: ids, times, digests, the mode, and what the services number.
fn plain(value: &Value, id: &str, mode: Mode) -> Value {
    const DIFFERENT: [&str; 12] = [
        "id",
        "digest",
        "mode",
        "start_time",
        "end_time",
        "time",
        "startedAt",
        "completedAt",
        "createdAt",
        "faultedAt",
        "cancelledAt",
        "retriedAt",
    ];
    const NUMBERED: [&str; 4] = ["reservationId", "chargeId", "shipmentId", "key"];
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !DIFFERENT.contains(&name.as_str()) && !NUMBERED.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), plain(value, id, mode)))
            .collect(),
        Value::Array(items) => items.iter().map(|item| plain(item, id, mode)).collect(),
        // An answer of a service that was numbered, and what was made of it.
        Value::String(text) => json!(text.replace(id, "ID").replace(mode.as_str(), "MODE")),
        other => other.clone(),
    }
}

/// The record of an instance: its row, its tasks and its events, each a set, because branches run side by side.
async fn record(served: &Served, id: &str, mode: Mode) -> (Value, BTreeSet<String>, Vec<String>) {
    let path = format!("/api/v1/instances/{id}");
    let row = served.get(&path).await;
    assert_eq!(row["mode"], mode.as_str());
    let rows = |body: &Value, list: &str| -> Vec<String> {
        let items = body[list].as_array().expect("a list").clone();
        items.iter().map(|item| plain(item, id, mode).to_string()).collect()
    };
    let mut tasks = served.get(&format!("{path}/tasks")).await;
    // Runs are numbered by each location; what one undoes is known by its reference, too.
    let references: BTreeMap<String, Value> = tasks["tasks"]
        .as_array()
        .expect("tasks")
        .iter()
        .map(|task| (task["id"].as_str().expect("an id").to_owned(), task["reference"].clone()))
        .collect();
    for task in tasks["tasks"].as_array_mut().expect("tasks") {
        if let Some(undone) = task["compensates"].as_str() {
            task["compensates"] = references[undone].clone();
        }
    }
    let tasks = rows(&tasks, "tasks").into_iter().collect();
    let events = served.get(&format!("{path}/events")).await;
    let told = events["events"].as_array().expect("events").iter().map(|event| {
        let task = event["data"]["task"].as_str().unwrap_or_default();
        format!("{} {task}", event["type"].as_str().expect("a type"))
    });
    let mut told: Vec<String> = told.collect();
    assert!(told[0].contains("workflow.started"), "{told:?}");
    assert!(told.last().unwrap().contains("workflow."), "{told:?}");
    told.sort();
    (plain(&row, id, mode), tasks, told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_modes_leave_the_same_record() {
    for declined in [0, 100] {
        let folder = tempfile::tempdir().unwrap();
        let (_services, config) = services(folder.path(), declined).await;
        let served = Served::start(&support::config(folder.path(), &config)).await;
        for number in 1..=6 {
            let mut records = Vec::new();
            for mode in Mode::ALL {
                let id = order(&served, mode, number).await;
                records.push(record(&served, &id, mode).await);
            }
            let [(row, tasks, events), (other_row, other_tasks, other_events)] = <[_; 2]>::try_from(records).unwrap();
            assert_eq!(row, other_row);
            assert_eq!(tasks, other_tasks);
            assert_eq!(events, other_events);
            let expected = if declined == 0 { "completed" } else { "faulted" };
            assert_eq!(row["status"], expected, "{row:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_under_way_shows_where_it_is_and_goes_on_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let (_services, config) = services(folder.path(), 0).await;
    let config = support::config(folder.path(), &config.replace("workflow.yaml", "waits.yaml"));
    let text = "document: { dsl: '1.0.3', namespace: t, name: waits, version: '1.0.0' }
do:
  - reserve: { call: http, with: { method: post, endpoint: 'http://inventory/reservations', body: '${ . }' } }
  - pause: { wait: { seconds: 2 }, metadata: { pavane: { owner: payment } } }
  - done: { set: { done: true } }
";
    std::fs::write(folder.path().join("waits.yaml"), text).unwrap();
    let mut served = Served::start(&config).await;
    let body = r#"{ "orderId": "o-1", "items": [{ "sku": "lute", "quantity": 1 }] }"#;
    let path = "/api/v1/workflows/t/waits/instances?mode=choreography";
    let answer = served.ask("POST", path, &[("content-type", "application/json")], body).await;
    let id = answer.body["id"].as_str().expect("an id").to_owned();
    let tasks = format!("/api/v1/instances/{id}/tasks");
    let waiting = |tasks: &Value| {
        let tasks = tasks["tasks"].as_array().expect("tasks").clone();
        tasks.iter().any(|task| task["name"] == "pause" && task["status"] == "waiting")
    };
    let until = tokio::time::Instant::now() + support::PATIENCE;
    while !waiting(&served.get(&tasks).await) {
        assert!(tokio::time::Instant::now() < until, "the participant of payment never waits");
    }
    served.process.kill();
    served = Served::start(&config).await;
    let ended = served.ask("GET", &format!("/api/v1/instances/{id}"), &[("prefer", "wait=60")], "").await;
    assert_eq!(ended.body["output"], json!({ "done": true }), "{ended:?}");
}
