//! The processes of one mode: the five services of the demo with their books, and a server whose gateway takes the orders.
//! Each can be killed and started again where it was.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use pavane::demo::services::{Books, Fate, NAMES, audit};
use pavane::measure::pool::Pool;
use pavane::measure::process::{Process, Used};
use pavane_core::definition::Mode;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, spawn_blocking};

use super::order::{Client, Ended};

/// How long each call of a service takes.
const SERVICE_TIME: &str = "5ms";

/// How often a reader of metrics comes.
const SCRAPE: Duration = Duration::from_secs(1);

/// Problems that are told; the rest is counted.
const TOLD: usize = 10;

/// What of watching is on.
#[derive(Clone, Copy, Debug)]
pub struct Switches {
    /// The level of the server's log.
    log: &'static str,
    /// Whether the gateway writes an access log.
    access: bool,
    /// Whether metrics are read.
    metrics: bool,
    /// Whether a collector gets the traces of all orders.
    traces: bool,
}

impl Switches {
    /// Nothing is watched; then each thing alone; then all.
    pub const ALL: [(&'static str, Switches); 6] = [
        ("none", Switches::NONE),
        ("log at info", Switches { log: "info", ..Switches::NONE }),
        ("access log", Switches { access: true, ..Switches::NONE }),
        ("metrics read each second", Switches { metrics: true, ..Switches::NONE }),
        ("traces of all orders", Switches { traces: true, ..Switches::NONE }),
        ("all", Switches { log: "info", access: true, metrics: true, traces: true }),
    ];

    const NONE: Switches = Switches { log: "error", access: false, metrics: false, traces: false };
}

impl Default for Switches {
    /// As an operator has it.
    fn default() -> Switches {
        Switches { log: "warn", access: true, ..Switches::NONE }
    }
}

/// A process that can be started again with the same arguments.
pub struct Member {
    pub name: &'static str,
    arguments: Vec<String>,
    /// The text in the line by which it is known to be ready.
    ready: &'static str,
    log: PathBuf,
    process: Option<Process>,
    addresses: Vec<SocketAddr>,
    past: Used,
}

impl Member {
    async fn start(
        name: &'static str,
        arguments: Vec<String>,
        ready: &'static str,
        log: PathBuf,
    ) -> Result<Member, String> {
        let mut member =
            Member { name, arguments, ready, log, process: None, addresses: Vec::new(), past: Used::default() };
        member.restart().await?;
        Ok(member)
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) -> Result<(), String> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let used = process.used();
        self.past.cpu += used.cpu;
        self.past.peak = self.past.peak.max(used.peak);
        process.kill()
    }

    /// Starts it, at the same place as before.
    pub async fn restart(&mut self) -> Result<(), String> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&self.log);
        let file = file.map_err(|e| format!("{}: {e}", self.log.display()))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_pavane"));
        command.args(&self.arguments).stdin(Stdio::null()).stderr(file);
        let ready = self.ready;
        let found = move |line: &str| {
            let words = line.split([' ', ';']).map(|word| word.strip_prefix("http://").unwrap_or(word));
            let found: Vec<SocketAddr> = words.filter_map(|word| word.parse().ok()).collect();
            (line.contains(ready) && !found.is_empty()).then_some(found)
        };
        let started = spawn_blocking(move || Process::start(command, found)).await.map_err(|e| e.to_string())?;
        let (process, addresses) = started.map_err(|why| {
            format!("{}: {why}: {}", self.name, std::fs::read_to_string(&self.log).unwrap_or_default())
        })?;
        self.process = Some(process);
        self.addresses = addresses;
        Ok(())
    }

    fn used(&self) -> Used {
        let now = self.process.as_ref().map(Process::used).unwrap_or_default();
        Used { cpu: now.cpu + self.past.cpu, peak: now.peak.max(self.past.peak), ..now }
    }
}

/// Everything that runs for one mode.
pub struct House {
    pub mode: Mode,
    pub gateway: SocketAddr,
    admin: SocketAddr,
    /// The services, in the order of the demo's names, and the server last.
    pub members: Vec<Member>,
    switches: Switches,
    collector: Option<Collector>,
    _folder: tempfile::TempDir,
}

/// Takes spans and forgets them.
struct Collector {
    requests: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn collector() -> Result<(SocketAddr, Collector), String> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.map_err(|e| e.to_string())?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    let requests: Arc<AtomicU64> = Arc::default();
    let counted = requests.clone();
    let take = async move |_: axum::body::Bytes| {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let app = axum::Router::new().fallback(take).layer(axum::extract::DefaultBodyLimit::disable());
    let task = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
    Ok((address, Collector { requests, task }))
}

impl House {
    pub async fn open(mode: Mode, switches: Switches) -> Result<House, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let at = folder.path();
        let books = at.join("books");
        std::fs::create_dir_all(&books).map_err(|e| format!("{}: {e}", books.display()))?;
        let mut members = Vec::new();
        for name in NAMES {
            // Its own port, known before, so that it comes back there.
            let port = free()?.port().to_string();
            let words = ["compare-service", "--name", name, "--port", &port, "--time", SERVICE_TIME, "--books"];
            let mut arguments: Vec<String> = words.map(str::to_owned).to_vec();
            arguments.push(books.display().to_string());
            members.push(Member::start(name, arguments, "", at.join(format!("{name}.log"))).await?);
        }
        let (gateway, admin) = (free()?, free()?);
        let config = at.join("pavane.yaml");
        let mut settings = settings(mode, &members, gateway, admin, switches)?;
        let collector = match switches.traces {
            true => {
                let (address, collector) = collector().await?;
                settings["traces"] = json!({ "otlp": format!("http://{address}"), "ratio": 1 });
                Some(collector)
            }
            false => None,
        };
        std::fs::write(&config, settings.to_string()).map_err(|e| format!("{}: {e}", config.display()))?;
        std::fs::write(at.join("order.wf.yaml"), include_str!("order.yaml")).map_err(|e| e.to_string())?;
        let arguments = ["serve", "--log", switches.log, "-c", &config.display().to_string()].map(str::to_owned);
        members
            .push(Member::start("server", arguments.to_vec(), "its gateway serves at", at.join("server.log")).await?);
        Ok(House { mode, gateway, admin, members, switches, collector, _folder: folder })
    }

    /// What the server used.
    pub fn used(&self) -> Used {
        self.members.last().map(Member::used).unwrap_or_default()
    }

    /// Reads metrics as a monitor does, if that is on, until it is aborted.
    pub fn reader(&self) -> JoinHandle<()> {
        let (pool, on) = (Pool::new(self.admin, 1), self.switches.metrics);
        tokio::spawn(async move {
            if !on {
                return;
            }
            loop {
                if let Ok(request) = pool.request(Method::GET, "/metrics", &[], &Value::Null) {
                    // A server that is away now is read next time.
                    let _ = pool.send(request).await;
                }
                tokio::time::sleep(SCRAPE).await;
            }
        })
    }

    /// Asks again for orders whose client gave up, then holds the books against what clients were told. Gives how much is
    /// wrong, and tells the first of it.
    pub async fn audit(&self, client: &Client, ended: &[Ended]) -> Result<u64, String> {
        let mut wrong = Vec::new();
        if self.collector.as_ref().is_some_and(|collector| collector.requests.load(Ordering::Relaxed) == 0) {
            wrong.push("the collector got no spans".to_owned());
        }
        let mut fates = BTreeMap::new();
        for order in ended {
            let end = match &order.end {
                Ok(()) => Ok(()),
                Err(_) => client.end_of(order.number).await,
            };
            match end {
                Ok(()) => drop(fates.insert(client.key(order.number), Fate::Completed)),
                Err(why) => wrong.push(format!("order {} is lost: {why}", client.key(order.number))),
            }
        }
        wrong.extend(audit(&self.books(client.before()).await?, &fates).problems);
        wrong.iter().take(TOLD).for_each(|problem| eprintln!("{}: {problem}", self.mode.as_str()));
        Ok(wrong.len() as u64)
    }

    /// The books, without the orders of other clients before.
    async fn books(&self, of: impl Fn(&str) -> bool) -> Result<Vec<Books>, String> {
        let mut all = Vec::new();
        for service in self.members.iter().take(NAMES.len()) {
            let control = service.addresses.get(1).ok_or_else(|| format!("{} has no books", service.name))?;
            let pool = Pool::new(*control, 1);
            let (_, text) = pool.send(pool.request(Method::GET, "/books", &[], &Value::Null)?).await?;
            let mut books: Books = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", service.name))?;
            let standing = |books: &Books| -> i64 {
                books.effects.iter().filter(|e| e.executions > 0 && e.undone == 0).map(|e| e.amount).sum()
            };
            let whole = standing(&books);
            books.effects.retain(|effect| of(&effect.order));
            // The balance is kept over all orders: what is left out of the list is left out of it.
            books.balance -= whole - standing(&books);
            all.push(books);
        }
        Ok(all)
    }
}

fn settings(
    mode: Mode,
    services: &[Member],
    gateway: SocketAddr,
    admin: SocketAddr,
    switches: Switches,
) -> Result<Value, String> {
    let mut urls = BTreeMap::new();
    for service in services {
        let address = service.addresses.first().ok_or_else(|| format!("{} tells no address", service.name))?;
        urls.insert(service.name, json!({ "url": format!("http://{address}"), "limits": { "in_flight": 1_024 } }));
    }
    let mut settings = json!({
        "listen": { "admin": admin.to_string(), "gateway": gateway.to_string() },
        "store": { "sqlite": { "path": "nfr.db" } },
        "workflows": ["*.wf.yaml"],
        "services": urls,
        "gateway": { "limits": { "connections": 20_000 } },
        "routes": [{
            "match": { "path": "/orders", "method": "POST" },
            "workflow": "shop/order-fulfilment",
            "mode": mode.as_str(),
            "wait": "60s",
            "rate": "1000000/s per client",
        }],
    });
    if switches.access {
        settings["gateway"]["access_log"] = json!("access.log");
    }
    Ok(settings)
}

/// An address that was free a moment ago.
fn free() -> Result<SocketAddr, String> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(|e| e.to_string())?;
    listener.local_addr().map_err(|e| e.to_string())
}
