//! A service is added while instances run: a new version of a workflow hands work to it, the old one goes on as it was.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support;

use std::collections::BTreeSet;

use pavane_core::definition::read;
use pavane_core::program::{Program, Resources, coupling};
use serde_json::{Value, json};
use support::Served;
use support::stub::Services;

/// A version of the workflow; `more` is a step between reserving and charging.
fn order(version: &str, more: &str) -> String {
    let task = |name: &str, at: &str| {
        format!(
            "  - {name}: {{ call: http, with: {{ method: post, endpoint: 'http://{at}/{name}', body: '${{ .order }}' }}, \
             output: {{ as: '${{ $input }}' }} }}\n"
        )
    };
    let more = if more.is_empty() { String::new() } else { task("score", more) };
    format!(
        "document: {{ dsl: '1.0.3', namespace: t, name: order, version: '{version}', metadata: {{ pavane: {{ mode: \
         choreography }} }} }}\ndo:\n{}{more}{}{}",
        task("reserve", "inventory"),
        task("charge", "payment"),
        task("confirm", "orders"),
    )
}

const BEFORE: [&str; 3] = ["inventory", "orders", "payment"];
const AFTER: [&str; 4] = ["fraud", "inventory", "orders", "payment"];

async fn start(served: &Served, order: &str) -> String {
    let headers = [("content-type", "application/json")];
    let body = json!({ "order": order }).to_string();
    let answer = served.ask("POST", "/api/v1/workflows/t/order/instances", &headers, body).await;
    answer.body["id"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

async fn ended(served: &Served, id: &str) -> Value {
    served.ask("GET", &format!("/api/v1/instances/{id}"), &[("prefer", "wait=60")], "").await.body
}

/// Waits until a service was asked for an order.
async fn asked(services: &Services, order: &str, path: &str) {
    let until = tokio::time::Instant::now() + support::PATIENCE;
    while !services.asked(order).contains(&path.to_owned()) {
        assert!(tokio::time::Instant::now() < until, "{path} is never asked for {order}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[test]
fn a_new_step_changes_what_its_neighbours_know_and_nobody_else() {
    let program = |text: &str| {
        let definition = read("order.yaml", text).definition.unwrap();
        let services: BTreeSet<String> = AFTER.map(str::to_owned).into();
        Program::choreograph(&definition, &Resources::new(), &services).unwrap()
    };
    let (old, new) = (program(&order("1.0.0", "")), program(&order("1.1.0", "fraud")));
    let touched = coupling(&old, &new);
    let names =
        |list: &[pavane_core::program::Location]| list.iter().map(|at| at.name().to_owned()).collect::<Vec<_>>();
    assert_eq!((names(&touched.added), names(&touched.removed)), (vec!["fraud".to_owned()], Vec::new()));
    assert_eq!(names(&touched.changed), ["inventory", "payment"]);
    assert_eq!(names(&touched.unchanged), ["engine", "orders"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_instances_end_by_the_old_version_and_new_ones_by_the_new() {
    let services = Services::serve().await;
    services.hang(&[("/payment/charge", "old")]);
    let folder = tempfile::tempdir().unwrap();
    let mut served = Served::start(&support::config(folder.path(), &services.settings(&BEFORE))).await;
    assert_eq!(served.deploy(&order("1.0.0", "")).await.status, 201);
    let old = start(&served, "old").await;
    asked(&services, "old", "/payment/charge").await;
    // The configuration does not know the service yet: nothing is deployed, and the reason says what to do.
    let refused = served.deploy(&order("1.1.0", "fraud")).await;
    let told = refused.body["diagnostics"].to_string();
    assert!(refused.status == 422 && told.contains("P102") && told.contains("fraud"), "{refused:?}");
    // Adding it takes a restart, which loses nothing, however it comes.
    served.process.kill();
    let served = Served::start(&support::config(folder.path(), &services.settings(&AFTER))).await;
    let path = format!("/api/v1/instances/{old}");
    assert_eq!(served.get(&path).await["status"], "running");
    assert_eq!(served.deploy(&order("1.1.0", "fraud")).await.status, 201);
    let new = start(&served, "new").await;
    let record = ended(&served, &new).await;
    assert_eq!((&record["status"], &record["version"]), (&json!("completed"), &json!("1.1.0")), "{record:#}");
    assert_eq!(services.asked("new"), ["/inventory/reserve", "/fraud/score", "/payment/charge", "/orders/confirm"]);
    // The old one is still under way, at a participant that has served the new version meanwhile.
    assert_eq!(served.get(&path).await["status"], "running");
    services.hang(&[]);
    drop(served);
    let served = Served::start(&support::config(folder.path(), &services.settings(&AFTER))).await;
    let record = ended(&served, &old).await;
    assert_eq!((&record["status"], &record["version"]), (&json!("completed"), &json!("1.0.0")), "{record:#}");
    let asked: BTreeSet<String> = services.asked("old").into_iter().collect();
    assert_eq!(asked, ["/inventory/reserve", "/payment/charge", "/orders/confirm"].map(str::to_owned).into());
}
