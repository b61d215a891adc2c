//! The real binary after the store of a participant in a process of its own was lost: it is not let in, and an operator
//! chooses what becomes of the work that was under way there. Nobody is asked to pay twice, and no effect is left that nobody names.
//!
//! Start reading at [`adopted_work_goes_on_as_an_unknown_outcome`].

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support;

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::stub::Services;
use support::{Process, Served};

const ORDER: &str = "document: { dsl: '1.0.3', namespace: t, name: order, version: '1.0.0' }
use:
  functions:
    release: { call: http, with: { method: post, endpoint: 'http://inventory/release', body: '${ .input.order }' } }
    refund: { call: http, with: { method: post, endpoint: 'http://payment/refund', body: '${ .input.order }' } }
do:
  - reserve: { call: http, with: { method: post, endpoint: 'http://inventory/reserve', body: '${ .order }' }, output: { as: '${ $input }' }, metadata: { pavane: { compensate: release } } }
  - charge: { call: http, with: { method: post, endpoint: 'http://payment/charge', body: '${ .order }' }, output: { as: '${ $input }' }, metadata: { pavane: { compensate: refund } } }
  - confirm: { call: http, with: { method: post, endpoint: 'http://inventory/confirm', body: '${ .order }' }, output: { as: '${ $input }' } }
";

/// Two orders under way, of which `held` waits for `payment` and `past` has left it, and then payment's store is gone.
struct Disaster {
    services: Services,
    folder: tempfile::TempDir,
    config: PathBuf,
    held: String,
    past: String,
}

impl Disaster {
    async fn strikes() -> Disaster {
        let services = Services::serve().await;
        services.hang(&[("/payment/charge", "held"), ("/inventory/confirm", "past")]);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("order.yaml"), ORDER).unwrap();
        let config = configured(folder.path(), &services.settings(&["inventory", "payment"]));
        let (mut served, mut participant) = serve(&config).await;
        let (held, past) = (start(&served, "held").await, start(&served, "past").await);
        under_way(&served, &held, "charge").await;
        under_way(&served, &past, "confirm").await;
        served.process.kill();
        participant.kill();
        remove(&folder.path().join("pavane-payment.db"));
        services.hang(&[]);
        Disaster { services, folder, config, held, past }
    }

    async fn pavane(&self, arguments: &[&str]) -> std::process::Output {
        let config = self.config.to_str().unwrap();
        support::pavane(&[arguments, &["-c", config]].concat()).await
    }

    /// The participant is not let in, however often, and is told why and what can be done.
    async fn refuses(&self) {
        let mut served = Served::start(&self.config).await;
        for _ in 0..2 {
            let output = self.pavane(&["serve", "--role", "participant", "--service", "payment"]).await;
            let told = support::errors(&output);
            assert_eq!(output.status.code(), Some(1), "{told}");
            for part in ["participant of `payment`", "another store", "pavane adopt payment", "pavane abandon payment"]
            {
                assert!(told.contains(part), "{part}: {told}");
            }
        }
        // What is past the lost one needs it no more.
        self.past_goes_on(&served).await;
        served.process.signal("TERM");
        assert!(served.process.ended().await.success());
        assert!(self.folder.path().join("pavane-payment.db").is_file());
        assert_eq!(self.services.asked("held"), ["/inventory/reserve", "/payment/charge"]);
    }

    async fn past_goes_on(&self, served: &Served) {
        let record = ended(served, &self.past).await;
        assert_eq!(record["status"], "completed", "{record:#}");
        // The call that was in flight at the participant that was not lost was made again, and no other.
        let expected = ["/inventory/reserve", "/payment/charge", "/inventory/confirm", "/inventory/confirm"];
        assert_eq!(self.services.asked("past"), expected);
    }
}

/// A configuration whose payment has a participant in a process of its own.
fn configured(folder: &Path, services: &str) -> PathBuf {
    let bus = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let services = services.replace("/payment', ", "/payment', participant: remote, ");
    let file = folder.join("pavane.yaml");
    let text = format!(
        "listen: {{ admin: '127.0.0.1:0', bus: '{bus}' }}\nstore: {{ sqlite: {{ path: ./pavane.db }} }}\n\
         workflows: [ ./order.yaml ]\n{services}"
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// The engine's process, and that of the participant, which is let in.
async fn serve(config: &Path) -> (Served, Process) {
    let served = Served::start(config).await;
    let arguments = ["serve", "--role", "participant", "--service", "payment", "-c", config.to_str().unwrap()];
    let participant = Served::of(Process::start(&arguments)).await;
    let until = tokio::time::Instant::now() + support::PATIENCE;
    while !participant.ask("GET", "/readyz", &[], "").await.status.is_success() {
        assert!(tokio::time::Instant::now() < until, "{}", participant.process.stderr());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    (served, participant.process)
}

async fn start(served: &Served, order: &str) -> String {
    let path = "/api/v1/workflows/t/order/instances?mode=choreography";
    let body = json!({ "order": order }).to_string();
    let answer = served.ask("POST", path, &[("content-type", "application/json")], body).await;
    answer.body["id"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

/// Waits until the engine's record shows a task as running.
async fn under_way(served: &Served, id: &str, task: &str) {
    let until = tokio::time::Instant::now() + support::PATIENCE;
    loop {
        let tasks = served.get(&format!("/api/v1/instances/{id}/tasks")).await;
        let runs = |row: &Value| row["name"] == task && row["status"] == "running";
        if tasks["tasks"].as_array().unwrap().iter().any(runs) {
            return;
        }
        assert!(tokio::time::Instant::now() < until, "{task} never runs: {tasks:#}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn ended(served: &Served, id: &str) -> Value {
    served.ask("GET", &format!("/api/v1/instances/{id}"), &[("prefer", "wait=60")], "").await.body
}

fn references(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|entry| entry["reference"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopted_work_goes_on_as_an_unknown_outcome() {
    let disaster = Disaster::strikes().await;
    disaster.refuses().await;
    let other = disaster.pavane(&["adopt", "inventory"]).await;
    assert_eq!(other.status.code(), Some(2));
    assert!(support::errors(&other).contains("nothing was lost"), "{}", support::errors(&other));
    let adopted = disaster.pavane(&["adopt", "payment", "-o", "json"]).await;
    let expected = json!({ "service": "payment", "adopted": [disaster.held], "abandoned": [], "kept": 0 });
    assert_eq!(support::json(&adopted), expected, "{}", support::errors(&adopted));
    let again = disaster.pavane(&["adopt", "payment"]).await;
    assert_eq!(again.status.code(), Some(2), "it is done");
    let (served, _participant) = serve(&disaster.config).await;
    let record = ended(&served, &disaster.held).await;
    assert_eq!(
        (&record["status"], &record["error"]["instance"]),
        (&json!("faulted"), &json!("/do/1/charge")),
        "{record:#}"
    );
    assert_eq!(record["compensation"]["compensated"], json!(["/do/1/charge", "/do/0/reserve"]));
    // Nobody was asked to pay again, and what may have been paid was paid back.
    let expected = ["/inventory/reserve", "/payment/charge", "/payment/refund", "/inventory/release"];
    assert_eq!(disaster.services.asked("held"), expected);
    disaster.past_goes_on(&served).await;
    let tasks = served.get(&format!("/api/v1/instances/{}/tasks", disaster.held)).await;
    let charge = tasks["tasks"].as_array().unwrap().iter().find(|task| task["name"] == "charge").unwrap();
    assert_eq!(charge["status"], "faulted", "what the new store did is seen: {tasks:#}");
    // New orders are served by the new store.
    let fresh = start(&served, "fresh").await;
    assert_eq!(ended(&served, &fresh).await["status"], "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_instances_end_at_once_and_are_undone_when_an_operator_says_so() {
    let disaster = Disaster::strikes().await;
    disaster.refuses().await;
    let abandoned = disaster.pavane(&["abandon", "payment", "-o", "json"]).await;
    let report = support::json(&abandoned);
    assert_eq!((&report["adopted"], &report["kept"]), (&json!([]), &json!(0)), "{report:#}");
    assert_eq!(report["abandoned"][0]["id"], json!(disaster.held));
    assert_eq!(references(&report["abandoned"][0]["unresolved"]), ["/do/1/charge", "/do/0/reserve"]);
    let (served, _participant) = serve(&disaster.config).await;
    let record = ended(&served, &disaster.held).await;
    assert_eq!(record["status"], "faulted");
    let detail = record["error"]["detail"].as_str().unwrap();
    assert!(detail.contains("the participant of payment was lost") && detail.contains("pavane retry"), "{detail}");
    assert_eq!(references(&record["compensation"]["unresolved"]), ["/do/1/charge", "/do/0/reserve"]);
    disaster.past_goes_on(&served).await;
    // Nothing happened by itself.
    assert_eq!(disaster.services.asked("held"), ["/inventory/reserve", "/payment/charge"]);
    let path = format!("/api/v1/instances/{}", disaster.held);
    let retried = served.ask("POST", &format!("{path}/retry"), &[], "").await;
    assert!(retried.status.is_success(), "{retried:?}");
    let until = tokio::time::Instant::now() + support::PATIENCE;
    loop {
        let record = served.get(&path).await;
        if record["compensation"]["compensated"] == json!(["/do/1/charge", "/do/0/reserve"]) {
            assert_eq!(record["compensation"]["unresolved"], json!([]));
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{record:#}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let expected = ["/inventory/reserve", "/payment/charge", "/payment/refund", "/inventory/release"];
    assert_eq!(disaster.services.asked("held"), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_put_back_needs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("order.yaml"), ORDER).unwrap();
    let services = Services::serve().await;
    let config = configured(folder.path(), &services.settings(&["inventory", "payment"]));
    let stop = async |(mut served, mut participant): (Served, Process)| {
        for process in [&mut participant, &mut served.process] {
            process.signal("TERM");
            assert!(process.ended().await.success(), "{}", process.stderr());
        }
    };
    stop(serve(&config).await).await;
    let (file, aside) = (folder.path().join("pavane-payment.db"), folder.path().join("aside.db"));
    std::fs::rename(&file, &aside).unwrap();
    let served = Served::start(&config).await;
    let arguments = ["serve", "--role", "participant", "--service", "payment", "-c", config.to_str().unwrap()];
    let mut process = Process::start(&arguments);
    assert_eq!(process.ended().await.code(), Some(1), "{}", process.stderr());
    drop(served);
    remove(&file);
    std::fs::rename(&aside, &file).unwrap();
    stop(serve(&config).await).await;
}

/// Removes a database with its log.
fn remove(file: &Path) {
    for part in ["", "-wal", "-shm"] {
        // Its log is gone when it was closed in good order.
        let _ = std::fs::remove_file(format!("{}{part}", file.display()));
    }
}
