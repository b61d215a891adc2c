//! `cargo xtask bench orders`: what durability costs, in either mode. The same four calls of an order, by hand without any
//! durability, and orchestrated and choreographed with every step on disk, in turn, on the same cores, in one run.
//!
//! Four processes' worth of work share the machine: the load (this process), the services, the engine, and for the
//! baseline the load and the services alone. Absolute figures are the machine's; the ratio within a run is the figure to
//! compare. Start reading at [`run`].

mod load;
mod report;
mod services;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use http::Method;
use pavane::measure;
use pavane::measure::pool::Pool;
use pavane::measure::process::{self, Process, Used};
use pavane_core::definition::Mode;
use serde_json::json;

use load::{Orders, Run};
use report::Row;

/// How many orders are kept in flight.
const IN_FLIGHT: [u64; 3] = [1, 64, 1_000];

/// Connections of the baseline's client, and of the engine to the services: more make both slower.
const CONNECTIONS: usize = 64;

/// Executions that wait in the engine while orders are offered at a fixed rate.
const WAITING: u64 = 1_000;

/// Orders offered per second in the open loop.
const RATE: u64 = 200;

/// A warm-up of at least this many seconds tells how many orders a measurement takes.
const WARM: f64 = 0.5;

#[derive(Parser)]
#[command(name = "orders", about = "Durable orders against the same calls made by hand")]
struct Arguments {
    /// Write the figures to this file, too, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Measure for a shorter time: to see that it works, not to quote.
    #[arg(long)]
    quick: bool,
    /// How often each way is measured, in turn; the median of each is told.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Only this many in flight.
    #[arg(long)]
    in_flight: Option<u64>,
    /// Mode: `orchestration`, `choreography`, or `both`.
    #[arg(long, default_value = "both")]
    mode: String,
    /// Keep the store of the run in this folder.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Be the services.
    #[arg(long, hide = true)]
    services: bool,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Everything that runs.
struct House {
    services: Process,
    engine: Process,
    raw: Orders,
    engine_at: Pool,
    admin: Pool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // One thread for the load and one for the services: the engine competes for the same cores.
    let done = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string());
    let done = done.and_then(|runtime| match arguments.services {
        true => runtime.block_on(services::serve()),
        false => runtime.block_on(run(&arguments)),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), String> {
    let scratch = tempfile::tempdir().map_err(|e| e.to_string())?;
    let folder = arguments.keep.as_deref().unwrap_or(scratch.path());
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let house = House::open(folder).await?;
    // Many short rounds: the machine's speed goes up and down within minutes, and what is compared is to meet the same.
    let (seconds, offered) = if arguments.quick { (1.0, 1.0) } else { (3.0, 5.0) };
    let rounds = if arguments.quick { 1 } else { arguments.rounds.max(1) };
    let modes = match arguments.mode.as_str() {
        "both" => Mode::ALL.to_vec(),
        word => vec![
            Mode::parse(word).ok_or_else(|| format!("--mode {word}: there are both, orchestration, choreography"))?,
        ],
    };
    println!("{}", report::machine());
    println!("{}", report::HEADER);
    let mut rows = Vec::new();
    for in_flight in IN_FLIGHT.into_iter().filter(|n| arguments.in_flight.is_none_or(|only| only == *n)) {
        let mut groups = Vec::new();
        for _ in 0..rounds {
            let raw = house.closed(&house.raw, in_flight, seconds).await?;
            let mut group = vec![raw];
            for mode in &modes {
                let row = house.closed(&house.durable(*mode), in_flight, seconds).await?;
                let orchestrated = group.get(1).map(|first| row.orders_per_second / first.orders_per_second);
                let to_raw = Some(row.orders_per_second / raw.orders_per_second);
                group.push(Row { to_raw, to_orchestrated: orchestrated, ..row });
            }
            groups.push(group);
        }
        // Of each way the round with its median ratio: each ratio is taken within seconds, on a machine as it was then.
        for way in 0..=modes.len() {
            let mut of_way: Vec<Row> = groups.iter().filter_map(|group| group.get(way)).copied().collect();
            of_way.sort_by(|a, b| a.compared().total_cmp(&b.compared()));
            if let Some(row) = of_way.get(of_way.len() / 2) {
                println!("{row}");
                rows.push(*row);
            }
        }
    }
    if arguments.in_flight.is_none() {
        for row in house.offered(&modes, offered).await? {
            println!("{row}");
            rows.push(row);
        }
    }
    println!("{}", report::LEGEND);
    if let Some(file) = &arguments.json {
        std::fs::write(file, report::json(&rows)).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    for row in &rows {
        let Some((fewest, most)) = row.mode.map(report::steps) else { continue };
        // The token of the last order may be on its way when the numbers are read.
        let expected = 0.999 * fewest..=1.001 * most;
        if !row.kind.starts_with("offered") && !expected.contains(&row.commits) {
            let (kind, commits) = (row.kind, row.commits);
            return Err(format!("an order takes {fewest} to {most} durable commits when {kind}, not {commits}"));
        }
    }
    Ok(())
}

impl House {
    async fn open(folder: &Path) -> Result<House, String> {
        let own = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut command = Command::new(own);
        command.arg("--services");
        let (services, at) = Process::start(command, |line| line.parse::<SocketAddr>().ok())?;
        let config = folder.join("pavane.yaml");
        let service = json!({ "url": format!("http://{at}") });
        let names = ["inventory", "payment", "shipping", "orders"];
        let settings = json!({
            "listen": { "admin": "127.0.0.1:0" },
            "store": { "sqlite": { "path": "bench.db" } },
            "services": names.map(|name| (name, service.clone())).into_iter().collect::<BTreeMap<_, _>>(),
            "http": { "max_connections": CONNECTIONS },
        });
        std::fs::write(&config, settings.to_string()).map_err(|e| format!("{}: {e}", config.display()))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_pavane"));
        command.arg("serve").arg("-c").arg(&config).stderr(Stdio::inherit());
        let address = |line: &str| line.split("http://").nth(1)?.split_whitespace().next()?.parse::<SocketAddr>().ok();
        let (engine, admin) = Process::start(command, address)?;
        let most = usize::try_from(WAITING).unwrap_or(usize::MAX);
        let house = House {
            services,
            engine,
            raw: Orders::Raw(Pool::new(at, CONNECTIONS)),
            // Each order waits on a connection of its own, as clients do.
            engine_at: Pool::new(admin, most),
            admin: Pool::new(admin, CONNECTIONS),
        };
        for text in [include_str!("order.yaml"), include_str!("waiting.yaml")] {
            let request = house.admin.request(Method::POST, "/api/v1/workflows", &[], &json!({}))?;
            let request = request.map(|_| http_body_util::Full::new(bytes::Bytes::from_static(text.as_bytes())));
            load::expect(&house.admin, request).await?;
        }
        Ok(house)
    }

    fn durable(&self, mode: Mode) -> Orders {
        Orders::Durable(self.engine_at.clone(), mode)
    }

    /// A closed loop of about `seconds`, after one that warms up and tells how many orders that is.
    async fn closed(&self, orders: &Orders, in_flight: u64, seconds: f64) -> Result<Row, String> {
        let mut few = in_flight * 2 + 50;
        let per_second = loop {
            let began = Instant::now();
            load::closed(orders, in_flight, few).await?;
            let took = began.elapsed().as_secs_f64();
            if took > WARM {
                break few as f64 / took;
            }
            few *= 2;
        };
        let many = ((per_second * seconds) as u64).max(in_flight * 4);
        self.measured(orders, in_flight, load::closed(orders, in_flight, many)).await
    }

    /// A fixed rate, alone and beside many executions that wait.
    async fn offered(&self, modes: &[Mode], seconds: f64) -> Result<Vec<Row>, String> {
        let many = (RATE as f64 * seconds * 2.0) as u64;
        let mut rows = Vec::new();
        for (waiting, kind) in [(0, "offered"), (WAITING, "offered+")] {
            for _ in 0..waiting {
                let path = "/api/v1/workflows/bench/waiting/instances";
                load::expect(&self.admin, self.admin.request(Method::POST, path, &[], &json!({}))?).await?;
            }
            for mode in modes {
                let orders = self.durable(*mode);
                let row = self.measured(&orders, waiting, load::open(&orders, RATE, many)).await?;
                rows.push(Row { kind, ..row });
            }
        }
        Ok(rows)
    }

    async fn measured(
        &self,
        orders: &Orders,
        in_flight: u64,
        run: impl Future<Output = Result<Run, String>>,
    ) -> Result<Row, String> {
        let mode = match orders {
            Orders::Raw(_) => None,
            Orders::Durable(_, mode) => Some(*mode),
        };
        let before = self.numbers().await?;
        let used = self.used();
        let run = run.await?;
        let spent = self.used();
        // The last orders are answered before the last numbers are counted.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let after = self.numbers().await?;
        let per_order = |name: &str| {
            let of = |numbers: &BTreeMap<String, f64>| numbers.get(name).copied().unwrap_or(0.0);
            (of(&after) - of(&before)) / run.orders as f64
        };
        let cpu = |part: usize| (spent[part].cpu - used[part].cpu) * 1e6 / run.orders as f64;
        let quantile = |q: f64| run.latency.value_at_quantile(q) as f64 / 1_000.0;
        Ok(Row {
            kind: match mode {
                None => "raw",
                Some(Mode::Orchestration) => "orchestrated",
                Some(Mode::Choreography) => "choreographed",
            },
            mode,
            in_flight,
            orders: run.orders,
            orders_per_second: run.orders as f64 / run.took.as_secs_f64(),
            to_raw: None,
            to_orchestrated: None,
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            cpu_load: cpu(0),
            cpu_services: cpu(1),
            cpu_engine: cpu(2),
            rss: spent[2].rss as f64 / 1_048_576.0,
            written: (spent[2].written - used[2].written) as f64 / run.orders as f64,
            commits: per_order("pavane_steps_total"),
            fsyncs: per_order("pavane_store_transactions_total"),
        })
    }

    /// What the load, the services and the engine have used.
    fn used(&self) -> [Used; 3] {
        [process::own(), self.services.used(), self.engine.used()]
    }

    /// The engine's own numbers.
    async fn numbers(&self) -> Result<BTreeMap<String, f64>, String> {
        let request = self.admin.request(Method::GET, "/metrics", &[], &json!(null))?;
        let (_, text) = load::expect(&self.admin, request).await?;
        let text = String::from_utf8_lossy(&text);
        Ok(measure::numbers(&text))
    }
}
