//! `/metrics`, the alert rules and the dashboard, held against Debian's Prometheus.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use pavane::client::Server;
use pavane_core::definition::Mode;
use serde_json::{Value, json};

use crate::support::{PATIENCE, Process, Served, config};

const SAGA: &str = "../../examples/order-fulfilment/order.yaml";
const STARTS: &str = "/api/v1/workflows/shop/order-fulfilment/instances";

/// Workflows with numbers of their own, at most.
const MAX_WORKFLOWS: usize = pavane_runtime::watch::MAX_WORKFLOWS;

fn ops(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops").join(file)
}

/// A program of the package `prometheus`; nothing when the tests were told to do without.
fn program(name: &str) -> Option<Command> {
    let left_out = std::env::var("PAVANE_LEAVE_OUT").unwrap_or_default();
    if left_out.split(',').any(|program| program == "promtool") {
        eprintln!("left out: Prometheus is not there");
        return None;
    }
    let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(found.is_ok(), "`{name}` is not there: install it (apt-get install prometheus), or run `cargo xtask test`");
    Some(Command::new(name))
}

/// Runs `promtool`, gives it something to read, and expects it to be content.
fn promtool(arguments: &[&str], input: &str) {
    let Some(mut command) = program("promtool") else { return };
    let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}: {told}");
}

/// A Prometheus that ends with its value.
struct Prometheus {
    child: Child,
    http: Server,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// One that scrapes a target each second, with the configuration of `ops`.
    async fn start(folder: &Path, target: &str) -> Option<Prometheus> {
        let mut command = program("prometheus")?;
        let text = std::fs::read_to_string(ops("prometheus/prometheus.yml")).unwrap();
        let text = text.replace("127.0.0.1:8081", target).replace(": 15s", ": 1s");
        assert!(text.contains(target) && text.contains("scrape_interval: 1s"));
        std::fs::write(folder.join("prometheus.yml"), text).unwrap();
        std::fs::copy(ops("prometheus/rules.yml"), folder.join("rules.yml")).unwrap();
        // It takes no port 0: a free one, which nobody else is likely to take in between.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = command
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--enable-feature=exemplar-storage")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let prometheus = Prometheus { child, http: Server::new(&format!("http://127.0.0.1:{port}")) };
        prometheus.until("/-/ready", |answer| answer.is_string()).await;
        Some(prometheus)
    }

    /// Asks until the answer is as wanted.
    async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.http.ask(Method::GET, path, &[], Bytes::new()).await;
            if let Ok(answer) = &answer
                && answer.status.is_success()
                && wanted(&answer.body)
            {
                return answer.body.clone();
            }
            assert!(tokio::time::Instant::now() < until, "{path}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// A text within a query.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A server with the demo's services, which fail now and then, and a gateway before the saga.
async fn shop(folder: &Path) -> (Process, Served, Server) {
    let chances = "--port 0 --declined 20 --unavailable 100 --unshippable 30 --lost 0";
    let mut services = Process::start(&["demo-services"].into_iter().chain(chances.split(' ')).collect::<Vec<_>>());
    let mut settings = String::new();
    for name in pavane::demo::services::NAMES {
        let line = services.line(name).await;
        let url = line.split(' ').nth(1).expect("an address").to_owned();
        settings.push_str(&format!("  {name}: {{ url: '{url}', idempotency: key, timeout: 5s, breaker: {{}} }}\n"));
    }
    services.line("ready").await;
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(SAGA), folder.join("order.yaml")).unwrap();
    let file = config(folder, "");
    let text = format!(
        "listen: {{ admin: '127.0.0.1:0', gateway: '127.0.0.1:0' }}\nstore: {{ sqlite: {{ path: ./pavane.db }} }}\n\
         workflows: [ ./order.yaml ]\nservices:\n{settings}routes:\n  - {{ match: {{ path: /orders }}, workflow: shop/order-fulfilment, wait: 60s }}\n\
         \x20 - {{ match: {{ path: /stock }}, service: inventory }}\ntraces: {{ otlp: 'http://127.0.0.1:9' }}\n"
    );
    std::fs::write(&file, text).unwrap();
    let mut served = Served::start(&file).await;
    let line = served.process.line("its gateway serves at").await;
    let gateway = Server::new(line.rsplit(' ').next().unwrap());
    (services, served, gateway)
}

fn order(number: usize) -> String {
    let body = json!({
        "orderId": format!("o-{number:06}"), "items": [{ "sku": "lute", "quantity": 1 }],
        "total": 1_900, "address": { "city": "Padova" }, "email": "ada@example.com",
    });
    body.to_string()
}

/// Orders in both modes and through the gateway, one after the other.
async fn orders(served: &Served, gateway: &Server, numbers: std::ops::Range<usize>) {
    let headers = [("content-type", "application/json"), ("prefer", "wait=60")];
    for number in numbers {
        for (index, mode) in Mode::ALL.into_iter().enumerate() {
            let path = format!("{STARTS}?mode={}", mode.as_str());
            let answer = served.ask("POST", &path, &headers, order(number * 10 + index)).await;
            assert!(answer.body["id"].is_string(), "{answer:?}");
        }
        let answer = gateway.ask(Method::POST, "/orders", &headers, order(number * 10 + 2).into()).await.unwrap();
        assert!(answer.headers.contains_key("pavane-instance"), "{answer:?}");
    }
}

async fn metrics(served: &Served, accept: &str) -> String {
    let answer = served.ask("GET", "/metrics", &[("accept", accept)], "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body.as_str().expect("a text").to_owned()
}

/// The numbers of a family, each with its labels.
fn numbers(text: &str, name: &str) -> Vec<(String, f64)> {
    let of = |line: &str| {
        let (series, value) = line.split(" # ").next()?.rsplit_once(' ')?;
        let labels = series.strip_prefix(name)?;
        let whole = labels.is_empty() || labels.starts_with('{');
        Some((labels.to_owned(), value.parse().ok()?)).filter(|_| whole)
    };
    text.lines().filter_map(of).collect()
}

#[test]
fn the_rules_say_what_their_tests_say() {
    let folder = ops("prometheus");
    let file = |name: &str| folder.join(name).display().to_string();
    promtool(&["check", "rules", &file("rules.yml")], "");
    promtool(&["check", "config", &file("prometheus.yml")], "");
    promtool(&["test", "rules", &file("rules_test.yml")], "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_reads_a_server_under_load_and_fills_every_panel() {
    let folder = tempfile::tempdir().unwrap();
    let (_services, served, gateway) = shop(folder.path()).await;
    orders(&served, &gateway, 0..6).await;
    promtool(&["check", "metrics"], &metrics(&served, "text/plain").await);
    let text = metrics(&served, "application/openmetrics-text").await;
    assert!(text.ends_with("# EOF\n"), "{text}");
    for mode in Mode::ALL {
        let ended = numbers(&text, "pavane_workflow_instances_ended_total");
        let of_mode = ended.iter().filter(|(labels, _)| labels.contains(mode.as_str()));
        let least = if mode == Mode::Choreography { 6.0 } else { 12.0 };
        assert!(of_mode.map(|(_, count)| count).sum::<f64>() >= least, "{ended:?}");
    }
    // An exemplar leads from a number to the trace of an instance.
    let exemplar =
        text.lines().find(|line| line.starts_with("pavane_task_duration_seconds_bucket") && line.contains(" # {"));
    let trace = exemplar.and_then(|line| line.split("trace_id=\"").nth(1)).and_then(|rest| rest.get(..32)).unwrap();
    assert!(trace.bytes().all(|digit| digit.is_ascii_hexdigit()), "{trace}");
    for name in ["pavane_store_sync_seconds_count", "pavane_store_transaction_commits_count"] {
        assert!(numbers(&text, name)[0].1 > 0.0, "{name}: {text}");
    }

    let target = served.url.trim_start_matches("http://").to_owned();
    let Some(prometheus) = Prometheus::start(folder.path(), &target).await else { return };
    let up = format!("/api/v1/query?query={}", encoded("up{job=\"pavane\"} == 1"));
    let some = |answer: &Value| answer["data"]["result"].as_array().is_some_and(|result| !result.is_empty());
    prometheus.until(&up, some).await;
    // Rates need two looks at a number.
    let load = async {
        for round in 10.. {
            orders(&served, &gateway, round * 10..round * 10 + 2).await;
            let _ = gateway.ask(Method::GET, "/nowhere", &[], Bytes::new()).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let dashboard: Value = serde_json::from_slice(&std::fs::read(ops("grafana/pavane.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries: Vec<String> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
        .map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "30s"))
        .collect();
    assert!(queries.len() > 40, "{}", queries.len());
    let filled = async {
        for query in &queries {
            prometheus.until(&format!("/api/v1/query?query={}", encoded(query)), some).await;
        }
        let names = prometheus.until("/api/v1/label/__name__/values", |answer| answer["data"].is_array()).await;
        let names = names["data"].as_array().unwrap();
        // What rules and panels are about is what the server tells: a typing error would be silence for ever.
        let rules = std::fs::read_to_string(ops("prometheus/rules.yml")).unwrap();
        let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in words.filter(|word| word.starts_with("pavane_")) {
            assert!(names.iter().any(|known| known == name), "{name} is in a rule, and not told");
        }
        let exemplars = format!(
            "/api/v1/query_exemplars?query={}&start=0&end=9999999999",
            encoded("pavane_workflow_duration_seconds_bucket")
        );
        let found =
            prometheus.until(&exemplars, |answer| answer["data"].as_array().is_some_and(|d| !d.is_empty())).await;
        let trace = found["data"][0]["exemplars"][0]["labels"]["trace_id"].as_str().unwrap();
        assert_eq!(trace.len(), 32, "{found}");
        let rules = prometheus.until("/api/v1/rules", |answer| answer["data"]["groups"].is_array()).await;
        let bad: Vec<&Value> = rules["data"]["groups"][0]["rules"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|rule| !rule["lastError"].as_str().unwrap_or_default().is_empty())
            .collect();
        assert!(bad.is_empty(), "{bad:?}");
    };
    tokio::select! {
        () = load => unreachable!("it has no end"),
        () = filled => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_too_many_workflows_are_counted_as_others() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&config(folder.path(), "")).await;
    let extra = 5;
    for number in 0..MAX_WORKFLOWS + extra {
        let text = format!(
            "document: {{ dsl: '1.0.3', namespace: t, name: w{number}, version: '1.0.0' }}\ndo: [ {{ give: {{ set: {{ n: 1 }} }} }} ]\n"
        );
        assert_eq!(served.deploy(&text).await.status, 201);
        let path = format!("/api/v1/workflows/t/w{number}/instances");
        let answer = served.ask("POST", &path, &[("prefer", "wait=60")], "{}").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let text = metrics(&served, "").await;
    let started = numbers(&text, "pavane_workflow_instances_started_total");
    assert_eq!(started.len(), MAX_WORKFLOWS + 1, "as many names as there may be, and the others");
    let others = started.iter().find(|(labels, _)| labels.contains("workflow=\"other\""));
    assert_eq!(others.map(|(_, count)| *count), Some(extra as f64), "{started:?}");
    let dropped = numbers(&text, "pavane_metrics_labels_dropped_total");
    let workflows = dropped.iter().find(|(labels, _)| labels.contains("workflow"));
    assert_eq!(workflows.map(|(_, count)| *count), Some(extra as f64), "{dropped:?}");
    // What has no name is not lost.
    assert_eq!(numbers(&text, "pavane_instances_started_total")[0].1, (MAX_WORKFLOWS + extra) as f64);
}
