//! Who is measured: the gateway in a process of its own, a whole `pavane serve`, nginx; and a server that takes orders.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pavane_gateway::settings::RouteSettings;
use pavane_gateway::{Answer, Body, Gateway, Located, Outcome, Problem, Setup, Start, WorkflowName, Workflows};
use tokio::net::TcpListener;

use super::load::Plan;
use super::process::{self, Process};
use super::{Measured, Options, measured, own};

/// Routes as a small shop has them; the measured one is among them, with a rate that counts and is never reached.
const ROUTES: &str = "- { match: { path: '/plain/{kind}/{id}', method: GET }, service: a, rate: 1000000/s per client }
- { match: { path: /orders, method: POST }, service: a }
- { match: { path: '/orders/{id}', method: GET }, service: a }
- { match: { path: '/carts/{id}/items' }, service: a }
- { match: { path: /search, method: GET }, service: a }
- { match: { path: '/images/*', method: GET }, service: a }
- { match: { path: '/admin/*', host: admin.example }, service: a }
- { match: { path: /health, method: GET }, service: a }
";

/// The workflow of an order: four calls, one after the other.
const WORKFLOW: &str = include_str!("../../../pavane/benches/orders/order.yaml");

/// What is measured, running.
pub struct Subject {
    pub name: &'static str,
    process: Process,
    address: SocketAddr,
}

impl Subject {
    /// The gateway in a process of this binary.
    pub fn alone(folder: &Path, service: SocketAddr, threads: usize, cores: Option<&str>) -> Subject {
        let mut command = own("gateway", cores);
        command.arg("--service").arg(service.to_string()).arg("--threads").arg(threads.to_string());
        command.arg("--log").arg(folder.join("alone.log"));
        let (process, address) = Process::start(command, process::address);
        Subject { name: "the gateway alone", process, address }
    }

    /// A server as released, with its gateway.
    pub fn pavane(binary: &Path, folder: &Path, service: SocketAddr, cores: Option<&str>) -> Subject {
        let routes: String = ROUTES.lines().map(|line| format!("  {line}\n")).collect();
        let text = format!(
            "listen: {{ admin: '127.0.0.1:0', gateway: '127.0.0.1:0' }}\nstore: {{ sqlite: {{ path: ./pavane.db }} }}\n\
             services: {{ a: {{ url: 'http://{service}' }} }}\ngateway: {{ access_log: ./access.log }}\nroutes:\n{routes}"
        );
        let (process, _, address) = serve(binary, folder, &text, cores);
        Subject { name: "pavane serve", process, address }
    }

    /// nginx as a reverse proxy that keeps its connections and writes its access log in batches.
    pub fn nginx(binary: &Path, folder: &Path, service: SocketAddr, workers: usize, cores: Option<&str>) -> Subject {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        drop(listener);
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {0}/{kind};\n", folder.display()))
            .collect();
        let text = format!(
            "daemon off;\nworker_processes {workers};\npid {0}/nginx.pid;\nerror_log stderr warn;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n{temporary}access_log {0}/nginx.log combined buffer=64k flush=1s;\n\
             keepalive_requests 100000000;\n\
             upstream service {{ server {service}; keepalive 128; keepalive_requests 100000000; }}\n\
             server {{ listen {address};\n\
             location / {{ proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
             proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $remote_addr; }} }}\n}}\n",
            folder.display()
        );
        let config = folder.join("nginx.conf");
        std::fs::write(&config, text).expect("the configuration is written");
        let mut command = process::pinned(binary, cores);
        command.arg("-p").arg(folder).arg("-c").arg(&config).args(["-e", "stderr"]);
        // It says nothing when it is ready.
        let shell = format!("echo starting; exec {}", quoted(&command));
        let mut command = std::process::Command::new("sh");
        command.arg("-c").arg(shell);
        let (process, ()) = Process::start(command, |line| (line == "starting").then_some(()));
        while std::net::TcpStream::connect(address).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Subject { name: "nginx", process, address }
    }

    /// Runs the load against it.
    pub fn measure(&self, plan: &Plan, cores: Option<&str>) -> Measured {
        measured(plan, self.address, cores, || process::cpu(self.process.id()))
    }
}

/// A command as a shell reads it.
fn quoted(command: &std::process::Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|word| format!("'{}'", word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// nginx, if it is there.
pub fn nginx() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join("nginx")).find(|file| file.is_file())
}

/// Starts `pavane serve`; gives the addresses of its API and its gateway.
fn serve(binary: &Path, folder: &Path, text: &str, cores: Option<&str>) -> (Process, SocketAddr, SocketAddr) {
    let config = folder.join("pavane.yaml");
    std::fs::write(&config, text).expect("the configuration is written");
    let mut command = process::pinned(binary, cores);
    command.arg("serve").arg("-c").arg(&config);
    let (mut process, api) = Process::start(command, process::address);
    let gateway = process::address(&process.line()).expect("the gateway's address");
    (process, api, gateway)
}

/// A server that takes orders by both ways.
pub struct Orders {
    process: Process,
    api: SocketAddr,
    gateway: SocketAddr,
}

/// A way to place an order.
pub struct OrderWay {
    pub to: SocketAddr,
    pub path: String,
    /// Headers that it needs.
    pub headers: &'static str,
}

impl Orders {
    pub fn start(binary: &Path, folder: &Path, service: SocketAddr) -> Orders {
        std::fs::write(folder.join("order.wf.yaml"), WORKFLOW).expect("the workflow is written");
        let services: String = ["inventory", "payment", "shipping", "orders"]
            .iter()
            .map(|name| format!("  {name}: {{ url: 'http://{service}' }}\n"))
            .collect();
        let text = format!(
            "listen: {{ admin: '127.0.0.1:0', gateway: '127.0.0.1:0' }}\nstore: {{ sqlite: {{ path: ./pavane.db }} }}\n\
             workflows: [ '*.wf.yaml' ]\nservices:\n{services}gateway: {{ access_log: ./access.log }}\nroutes:\n  \
             - {{ match: {{ path: /orders, method: POST }}, workflow: bench/order, rate: 1000000/s per client }}\n"
        );
        let (process, api, gateway) = serve(binary, folder, &text, None);
        Orders { process, api, gateway }
    }

    /// The API first.
    pub fn ways(&self) -> [OrderWay; 2] {
        let api = "/api/v1/workflows/bench/order/instances".to_owned();
        [
            OrderWay { to: self.api, path: api, headers: "prefer: wait=60\r\n" },
            OrderWay { to: self.gateway, path: "/orders".to_owned(), headers: "" },
        ]
    }

    pub fn measure(&self, plan: &Plan, to: SocketAddr) -> Measured {
        measured(plan, to, None, || process::cpu(self.process.id()))
    }
}

/// Is the gateway alone: prints its address and serves until the process ends.
pub fn serve_alone(service: SocketAddr, log: &str, options: &Options) {
    let threads = options.whole("--threads", 1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let routes: Vec<Located<RouteSettings>> = serde_saphyr::from_str(ROUTES).expect("routes");
        let settings = serde_saphyr::from_str(&format!("access_log: '{log}'")).expect("settings");
        let services = BTreeMap::from([("a".to_owned(), vec![format!("http://{service}")])]);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider);
        let tls = tls.with_safe_default_protocol_versions().expect("TLS");
        let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        let gateway =
            Gateway::new(Setup { settings, routes, services }, Arc::new(NoWorkflows), tls).expect("a gateway");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("its address"));
        let served = tokio::spawn(gateway.serve(listener));
        served.await.expect("it serves");
    });
}

/// No workflows: orders are measured on a whole server.
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
