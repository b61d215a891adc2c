//! Traces at a collector: one connected tree for each order, in both modes, whichever processes took part.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json};
use axum::routing::post;
use http::Method;
use pavane::client::Server;
use pavane_core::definition::Mode;
use serde_json::{Value, json};

use crate::support::{PATIENCE, Process, Served, config};

/// Who asked in the first place.
const CALLER: &str = "00f067aa0ba902b7";
const LOAD: &str = "a token of the collector";

/// Serves on a free port.
async fn listen(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// A collector that keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

/// A span, as far as trees are about it.
#[derive(Clone, Debug)]
struct Span {
    trace: String,
    id: String,
    parent: Option<String>,
    name: String,
    kind: u64,
    times: (u64, u64),
    failed: bool,
    state: Option<String>,
    attributes: BTreeMap<String, String>,
    /// Of the process.
    instance: String,
}

impl Collector {
    async fn listen() -> (Collector, String) {
        let collector = Collector::default();
        let sink = collector.clone();
        let take = move |headers: HeaderMap, body: Bytes| async move {
            if headers["authorization"] != LOAD || headers["content-type"] != "application/json" {
                return (StatusCode::UNAUTHORIZED, Json(json!({})));
            }
            sink.0.lock().unwrap().extend(spans(&serde_json::from_slice(&body).unwrap()));
            (StatusCode::OK, Json(json!({ "partialSuccess": {} })))
        };
        let url = listen(Router::new().route("/v1/traces", post(take))).await;
        (collector, url)
    }

    /// The spans of a trace, once that of its instance has come and nothing follows.
    async fn trace(&self, trace: &str, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let found: Vec<Span> = self.0.lock().unwrap().iter().filter(|span| span.trace == trace).cloned().collect();
            if enough(&found) {
                return found;
            }
            assert!(tokio::time::Instant::now() < until, "{trace}: {found:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The spans of a request, each in the form that the protocol demands.
fn spans(request: &Value) -> Vec<Span> {
    let mut found = Vec::new();
    for resource in request["resourceSpans"].as_array().unwrap() {
        let process = attributes(&resource["resource"]["attributes"]);
        assert_eq!(process["service.name"], "pavane");
        for span in resource["scopeSpans"].as_array().unwrap().iter().flat_map(|s| s["spans"].as_array().unwrap()) {
            let hex = |name: &str, length: usize| {
                let text = span[name].as_str().unwrap_or_else(|| panic!("{name}: {span}"));
                assert!(text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit()), "{name}: {span}");
                text.to_owned()
            };
            let nanos = |name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
            found.push(Span {
                trace: hex("traceId", 32),
                id: hex("spanId", 16),
                parent: span.get("parentSpanId").map(|_| hex("parentSpanId", 16)),
                name: span["name"].as_str().unwrap().to_owned(),
                kind: span["kind"].as_u64().unwrap(),
                times: (nanos("startTimeUnixNano"), nanos("endTimeUnixNano")),
                failed: span["status"]["code"] == 2,
                state: span["traceState"].as_str().map(str::to_owned),
                attributes: attributes(&span["attributes"]),
                instance: process["service.instance.id"].clone(),
            });
        }
    }
    found
}

fn attributes(list: &Value) -> BTreeMap<String, String> {
    let value = |value: &Value| value.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
    list.as_array().unwrap().iter().map(|a| (a["key"].as_str().unwrap().to_owned(), value(&a["value"]))).collect()
}

/// Services that note the trace they are called in; the first request of `/flaky` fails.
#[derive(Clone, Default)]
struct Called(Arc<Mutex<Vec<(String, String, Option<String>)>>>);

impl Called {
    async fn listen() -> (Called, String) {
        let called = Called::default();
        let sink = called.clone();
        let answer = move |request: Request| async move {
            let text = |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
            let (path, parent) = (request.uri().path().to_owned(), text("traceparent").unwrap());
            let trace = parent.split('-').nth(1).unwrap().to_owned();
            let mut calls = sink.0.lock().unwrap();
            let first = !calls.iter().any(|(other, parent, _)| *other == path && parent.contains(&trace));
            calls.push((path.clone(), parent, text("tracestate")));
            match path.ends_with("/flaky") && first {
                true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                false => Json(json!({ "done": path })).into_response(),
            }
        };
        let url = listen(Router::new().fallback(answer)).await;
        (called, url)
    }

    /// Spans that services were called by in a trace.
    fn by(&self, trace: &str) -> Vec<(String, String)> {
        let calls = self.0.lock().unwrap();
        let parts = |(path, parent, _): &(String, String, Option<String>)| {
            let parts: Vec<&str> = parent.split('-').collect();
            assert_eq!((parts.len(), parts[3]), (4, "01"), "{parent}");
            (parts[1] == trace).then(|| (path.clone(), parts[2].to_owned()))
        };
        calls.iter().filter_map(parts).collect()
    }
}

const WORKFLOW: &str = "document: { dsl: '1.0.3', namespace: t, name: tour, version: '1.0.0' }
do:
  - reserve: { call: http, with: { method: post, endpoint: 'http://stock/reserve', body: { n: 1 } } }
  - careful:
      try:
        - charge: { call: http, with: { method: post, endpoint: 'http://bank/flaky', body: { n: 2 } } }
      catch:
        errors: { with: { type: 'https://serverlessworkflow.io/spec/1.0.0/errors/communication' } }
        retry: { delay: { milliseconds: 10 }, limit: { attempt: { count: 3 } } }
  - both:
      fork:
        branches:
          - tell: { call: http, with: { method: post, endpoint: 'http://stock/tell', body: { n: 3 } } }
          - note: { call: http, with: { method: post, endpoint: 'http://bank/note', body: { n: 4 } } }
  - give: { set: { done: true } }
";

/// Spans of an order: its instance, seven tasks, one of them twice, and five calls.
const SPANS: usize = 14;

/// An engine with a gateway and the participant of `stock`, and the participant of `bank` in a process of its own.
struct House {
    engine: Served,
    gateway: Server,
    _bank: Served,
    collector: Collector,
    called: Called,
}

impl House {
    async fn open(folder: &Path) -> House {
        let (collector, at) = Collector::listen().await;
        let (called, services) = Called::listen().await;
        std::fs::write(folder.join("tour.yaml"), WORKFLOW).unwrap();
        let write = |name: &str, more: &str| -> PathBuf {
            let file = folder.join(name);
            let text = format!(
                "store: {{ sqlite: {{ path: ./{name}.db }} }}\ntraces: {{ otlp: '{at}/', headers: {{ authorization: {{ value: {LOAD} }} }} }}\n\
                 services:\n  stock: {{ url: '{services}/stock' }}\n  bank: {{ url: '{services}/bank', participant: remote }}\n{more}"
            );
            std::fs::write(&file, text).unwrap();
            file
        };
        let file = write(
            "engine.yaml",
            "listen: { admin: '127.0.0.1:0', bus: '127.0.0.1:0', gateway: '127.0.0.1:0' }\nworkflows: [ ./tour.yaml ]\nroutes:\n  \
             - { match: { path: /tour }, workflow: t/tour, wait: 60s }\n  - { match: { path: '/stock/*' }, service: stock, strip: /stock }\n",
        );
        let (mut engine, line) = Served::told(Process::start(&["serve", "-c", file.to_str().unwrap()])).await;
        let bus = line.rsplit(' ').next().unwrap().to_owned();
        let line = engine.process.line("its gateway serves at").await;
        let gateway = Server::new(line.rsplit(' ').next().unwrap());
        let file = write("bank.yaml", &format!("bus: {{ embedded: {{ url: '{bus}' }} }}\n"));
        let start = ["serve", "--role", "participant", "--service", "bank", "-c", file.to_str().unwrap()];
        let bank = Served::of(Process::start(&start)).await;
        let until = tokio::time::Instant::now() + PATIENCE;
        while bank.ask("GET", "/readyz", &[], "").await.status != 200 {
            assert!(tokio::time::Instant::now() < until, "the participant of bank does not attach");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        House { engine, gateway, _bank: bank, collector, called }
    }
}

/// Whether every span but the first hangs on another one of the same trace, and the first on `caller`.
fn is_tree(spans: &[Span], caller: Option<&str>) {
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    assert_eq!(ids.len(), spans.len(), "no id is given twice: {spans:#?}");
    let inner = |span: &&Span| span.parent.as_deref().is_some_and(|parent| ids.contains(parent));
    let roots: Vec<&Span> = spans.iter().filter(|span| !inner(span)).collect();
    assert_eq!(roots.len(), 1, "one tree: {roots:#?} of {spans:#?}");
    assert_eq!(roots[0].parent.as_deref(), caller, "{:#?}", roots[0]);
}

fn parent<'s>(spans: &'s [Span], span: &Span) -> &'s Span {
    spans.iter().find(|other| Some(&other.id) == span.parent.as_ref()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_one_tree_across_gateway_engine_participants_and_services() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(folder.path()).await;
    for (number, mode) in Mode::ALL.into_iter().enumerate() {
        // By the HTTP API: who asks has a trace already.
        let trace = format!("{:032x}", 0xabcdef00_u64 + number as u64);
        let parent_of_all = format!("00-{trace}-{CALLER}-01");
        let path = format!("/api/v1/workflows/t/tour/instances?mode={}", mode.as_str());
        let headers = [("prefer", "wait=60"), ("traceparent", &*parent_of_all), ("tracestate", "shop=1")];
        let answer = house.engine.ask("POST", &path, &headers, "{}").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let spans = house.collector.trace(&trace, |spans| spans.len() >= SPANS).await;
        is_tree(&spans, Some(CALLER));
        assert!(spans.iter().all(|span| span.state.as_deref() == Some("shop=1")), "{spans:#?}");
        let instance = spans.iter().find(|span| span.name == "workflow t/tour").unwrap();
        assert_eq!((&*instance.attributes["pavane.mode"], instance.kind), (mode.as_str(), 1));
        assert_eq!(instance.attributes["pavane.instance.id"], answer.body["id"].as_str().unwrap());
        // Each call is the parent that its service was told, and the child of its task.
        let calls: Vec<&Span> = spans.iter().filter(|span| span.kind == 3).collect();
        let told = house.called.by(&trace);
        let ids: BTreeSet<&str> = calls.iter().map(|span| span.id.as_str()).collect();
        assert_eq!(ids, told.iter().map(|(_, span)| span.as_str()).collect(), "{told:?}");
        assert_eq!(calls.len(), 5, "{calls:#?}");
        for call in &calls {
            let task = parent(&spans, call);
            assert_eq!(task.attributes["pavane.task.reference"], call.attributes["pavane.task.reference"]);
            for (name, value) in [("http.request.method", "POST"), ("server.address", "127.0.0.1")] {
                assert_eq!(call.attributes[name], value, "{call:?}");
            }
            assert!(call.attributes["url.full"].starts_with("http://127.0.0.1:"), "{call:?}");
            assert!(call.times.0 <= call.times.1, "{call:?}");
        }
        let failed: Vec<&&Span> = calls.iter().filter(|span| span.failed).collect();
        assert_eq!(failed.len(), 1, "{failed:#?}");
        assert_eq!(failed[0].attributes["http.response.status_code"], "503");
        let try_ = spans.iter().find(|span| span.name == "try careful").unwrap();
        assert_eq!(parent(&spans, parent(&spans, failed[0])).id, try_.id, "a task hangs on the one around it");
        assert_eq!(parent(&spans, try_).id, instance.id);
        let places: BTreeSet<&str> =
            spans.iter().filter_map(|span| span.attributes.get("pavane.location")).map(String::as_str).collect();
        let processes: BTreeSet<&str> = spans.iter().map(|span| span.instance.as_str()).collect();
        match mode {
            Mode::Orchestration => assert_eq!((places, processes.len()), (BTreeSet::from(["engine"]), 1)),
            Mode::Choreography => {
                assert!(places.is_superset(&BTreeSet::from(["bank", "stock"])), "{places:?}");
                assert_eq!(processes.len(), 2, "two processes made one tree");
            }
        }
    }
    // By the gateway, in a trace that begins there.
    let answer = house.gateway.ask(Method::POST, "/tour", &[], "{}".into()).await.unwrap();
    let id = answer.headers["pavane-instance"].to_str().unwrap().to_owned();
    let of_instance = |span: &Span| span.attributes.get("pavane.instance.id") == Some(&id);
    let until = tokio::time::Instant::now() + PATIENCE;
    let trace = loop {
        if let Some(span) = house.collector.0.lock().unwrap().iter().find(|span| of_instance(span)) {
            break span.trace.clone();
        }
        assert!(tokio::time::Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let spans = house.collector.trace(&trace, |spans| spans.len() > SPANS).await;
    is_tree(&spans, None);
    let server = spans.iter().find(|span| span.kind == 2).unwrap();
    assert_eq!((&*server.name, server.parent.as_deref()), ("POST /tour", None));
    assert_eq!((&*server.attributes["http.route"], &*server.attributes["http.response.status_code"]), ("/tour", "200"));
    // And past it, to a service.
    let trace = "0000000000000000000000000000abcd";
    let headers = [("traceparent", &*format!("00-{trace}-{CALLER}-01"))];
    house.gateway.ask(Method::GET, "/stock/list", &headers, Bytes::new()).await.unwrap();
    let spans = house.collector.trace(trace, |spans| spans.len() >= 2).await;
    is_tree(&spans, Some(CALLER));
    let client = spans.iter().find(|span| span.kind == 3).unwrap();
    assert_eq!(house.called.by(trace), [("/stock/list".to_owned(), client.id.clone())]);
    let text = house.engine.get("/metrics").await;
    let text = text.as_str().unwrap();
    assert!(
        !text.contains("pavane_trace_spans_exported_total 0\n")
            && text.contains("pavane_trace_spans_dropped_total 0\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_that_nobody_records_leaves_no_spans() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(folder.path()).await;
    let ask = async |trace: &str, flags: &str| {
        let parent = format!("00-{trace}-{CALLER}-{flags}");
        let headers = [("prefer", "wait=60"), ("traceparent", &*parent)];
        let answer = house.engine.ask("POST", "/api/v1/workflows/t/tour/instances", &headers, "{}").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let (quiet, loud) = ("000000000000000000000000000000aa", "000000000000000000000000000000bb");
    ask(quiet, "00").await;
    ask(loud, "01").await;
    house.collector.trace(loud, |spans| spans.len() >= SPANS).await;
    assert!(!house.collector.0.lock().unwrap().iter().any(|span| span.trace == quiet));
    let calls = house.called.0.lock().unwrap();
    let told = calls.iter().filter(|(_, parent, _)| parent.contains(quiet));
    assert!(told.clone().count() == 5 && told.clone().all(|(_, parent, _)| parent.ends_with("-00")), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_down_costs_its_spans_and_one_warning() {
    let folder = tempfile::tempdir().unwrap();
    let refusing = tokio::net::TcpSocket::new_v4().unwrap();
    refusing.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = refusing.local_addr().unwrap().port();
    let text =
        "document: { dsl: '1.0.3', namespace: t, name: work, version: '1.0.0' }\ndo: [ { give: { set: { n: 1 } } } ]\n";
    std::fs::write(folder.path().join("work.yaml"), text).unwrap();
    let more = format!("workflows: [ ./work.yaml ]\ntraces: {{ otlp: 'http://127.0.0.1:{port}' }}\n");
    let mut served = Served::start(&config(folder.path(), &more)).await;
    let work = async |times: usize| {
        for _ in 0..times {
            let answer = served.ask("POST", "/api/v1/workflows/t/work/instances", &[("prefer", "wait=60")], "{}").await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    };
    work(20).await;
    let warned = || served.process.stderr().matches("traces cannot be sent").count();
    let until = tokio::time::Instant::now() + PATIENCE;
    while warned() == 0 {
        assert!(tokio::time::Instant::now() < until, "nobody is told");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Further attempts fail meanwhile, and work goes on.
    tokio::time::sleep(Duration::from_secs(4)).await;
    work(20).await;
    assert_eq!(warned(), 1, "{}", served.process.stderr());
    let text = served.get("/metrics").await;
    assert!(text.as_str().unwrap().contains("pavane_trace_spans_exported_total 0\n"), "{text}");
    served.process.signal("TERM");
    assert!(served.process.ended().await.success());
    assert_eq!(served.process.stderr().matches("traces cannot be sent").count(), 1);
}
