//! What the gateway costs: the same requests straight to a service, and through the gateway, over the same connections.
//!
//! `cargo xtask bench gateway [--seconds 5] [--connections 32] [--json FILE]`. Client, gateway and service share one
//! process and its cores, so that only ratios of one run mean something.

#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pavane_gateway::settings::RouteSettings;
use pavane_gateway::{Answer, Body, Gateway, Located, Outcome, Problem, Setup, Start, WorkflowName, Workflows};
use tokio::net::{TcpListener, TcpStream};

/// What each series asks for, and what its route has beside a path.
const SERIES: [(&str, &str, &str); 4] = [
    ("service alone", "/plain", ""),
    ("through the gateway", "/plain", "- { match: { path: /plain }, service: a }\n"),
    (
        "with a rate and a key",
        "/guarded",
        "- { match: { path: /guarded }, service: a, rate: 1000000/s per client, auth: [key] }\n",
    ),
    ("from its cache", "/kept", "- { match: { path: /kept }, service: a, cache: 60s }\n"),
];

/// An API key and its hash.
const KEY: (&str, &str) = ("key", "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683");

/// Longest time that is told apart, in microseconds.
const LONGEST: u64 = 60_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
    let number = |name: &str, usual: u64| option(name).map_or(usual, |text| text.parse().expect("a number"));
    let (seconds, connections) = (number("--seconds", 5), number("--connections", 32));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let measured = runtime.block_on(measure(Duration::from_secs(seconds), connections));
    println!("{seconds} s each, {connections} connections, client, gateway and service in one process");
    let first = measured.first().map_or(1.0, |m| m.rate);
    for Measured { name, rate, p50, p99 } in &measured {
        println!(
            "  {name:<24} {rate:>8.0} requests/s  {:>5.0} %  p50 {p50:>6} µs  p99 {p99:>6} µs",
            100.0 * rate / first
        );
    }
    if let Some(file) = option("--json") {
        let rows: Vec<_> = measured
            .iter()
            .map(|m| serde_json::json!({ "series": m.name, "requests_per_second": m.rate, "p50_us": m.p50, "p99_us": m.p99 }))
            .collect();
        std::fs::write(file, serde_json::Value::from(rows).to_string()).expect("the file is written");
    }
}

struct Measured {
    name: &'static str,
    rate: f64,
    p50: u64,
    p99: u64,
}

async fn measure(duration: Duration, connections: u64) -> Vec<Measured> {
    let service = service().await;
    let gateway = gateway(service).await;
    let mut measured = Vec::new();
    for (name, path, route) in SERIES {
        let address = if route.is_empty() { service } else { gateway };
        let until = Instant::now() + duration;
        let clients: Vec<_> = (0..connections).map(|_| tokio::spawn(client(address, path, until))).collect();
        let mut times = Histogram::<u64>::new_with_max(LONGEST, 3).expect("a histogram");
        for client in clients {
            times.add(client.await.expect("a client")).expect("of the same kind");
        }
        measured.push(Measured {
            name,
            rate: times.len() as f64 / duration.as_secs_f64(),
            p50: times.value_at_quantile(0.5),
            p99: times.value_at_quantile(0.99),
        });
    }
    measured
}

/// Asks on one connection until the time is over. Gives the times of its requests in microseconds.
async fn client(address: SocketAddr, path: &'static str, until: Instant) -> Histogram<u64> {
    let stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    let mut times = Histogram::new_with_max(LONGEST, 3).expect("a histogram");
    while Instant::now() < until {
        let began = Instant::now();
        let request = Request::get(path).header("host", "bench").header("x-api-key", KEY.0);
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.expect("its body");
        times.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    times
}

async fn service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let body = Bytes::from(vec![b'x'; 512]);
            let answer = service_fn(move |_| {
                let body = body.clone();
                async move { Ok::<_, Infallible>(Response::new(Full::new(body))) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}

async fn gateway(service: SocketAddr) -> SocketAddr {
    let routes: String = SERIES.iter().map(|(_, _, route)| *route).collect();
    let routes: Vec<Located<RouteSettings>> = serde_saphyr::from_str(&routes).expect("routes");
    let settings = format!("auth: {{ keys: [ {{ name: bench, sha256: '{}' }} ] }}", KEY.1);
    let settings = serde_saphyr::from_str(&settings).expect("settings");
    let services = BTreeMap::from([("a".to_owned(), vec![format!("http://{service}")])]);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("TLS");
    let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let gateway = Gateway::new(Setup { settings, routes, services }, Arc::new(NoWorkflows), tls).expect("a gateway");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(gateway.serve(listener));
    address
}

/// No workflows: they are measured by `bench orders`.
struct NoWorkflows;

impl Workflows for NoWorkflows {
    fn start(&self, _: Start) -> Answer<'_, Outcome> {
        Box::pin(async { Err(Problem::new(http::StatusCode::NOT_FOUND, "not_found")) })
    }

    fn status<'a>(&'a self, _: &WorkflowName, _: &str, _: Option<Duration>) -> Answer<'a, Outcome> {
        Box::pin(async { Err(Problem::new(http::StatusCode::NOT_FOUND, "not_found")) })
    }

    fn events<'a>(&'a self, _: &WorkflowName, _: &str, _: Option<String>) -> Answer<'a, Body> {
        Box::pin(async { Err(Problem::new(http::StatusCode::NOT_FOUND, "not_found")) })
    }

    fn input_schema(&self, workflow: &WorkflowName) -> Result<Option<serde_json::Value>, String> {
        Err(format!("{} is not here", workflow.name))
    }
}
