//! `cargo xtask bench nfr`: what is promised beside behaviour, measured through the gateway, in both modes.
//!
//! Four parts. **Concurrency**: a thousand and ten thousand orders in flight. **Offered**: the time of a synchronous order at
//! a fixed rate; it begins when the order is due, so that one which had to wait is not forgiven. **Availability**: each
//! service and the server itself are killed and started again once a minute; clients ask again with the same key for five
//! seconds, and the books are audited. **Watching**: what logs, readers of metrics, and traces cost. Every part ends with an audit: a
//! figure is told of correct work alone. Start reading at [`run`].

mod availability;
mod house;
mod order;
mod report;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use pavane::measure::{self, Machine, load};
use pavane_core::definition::Mode;
use serde_json::{Value, json};

use house::{House, Switches};
use order::{Client, Ended};
use report::Table;

/// Orders in flight, and how many are placed for each of them.
const IN_FLIGHT: [u64; 2] = [1_000, 10_000];
const FOR_EACH: u64 = 2;

/// Orders offered in a second.
const RATES: [f64; 2] = [200.0, 1_000.0];

/// Files that a process needs for ten thousand connections.
const FILES: u64 = 32_768;

/// Set in the process that has so many.
const FILES_SET: &str = "PAVANE_BENCH_FILES";

/// Orders in flight while the cost of watching is measured, and of which rounds the median is told.
const WATCHED_IN_FLIGHT: u64 = 64;

#[derive(Parser)]
#[command(name = "nfr", about = "Concurrency, latency, availability and the cost of watching, in both modes")]
struct Arguments {
    /// How long services and server are killed, in minutes, for each mode.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// How long each rate is offered, in seconds.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// Parts: concurrency, offered, availability, watching.
    #[arg(long, value_delimiter = ',')]
    parts: Vec<String>,
    /// Mode: `orchestration`, `choreography`, or `both`.
    #[arg(long, default_value = "both")]
    mode: String,
    /// Fewer and shorter: to see that it works, not to quote.
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file, too, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    fn has(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|asked| asked == part)
    }
}

fn main() -> ExitCode {
    if std::env::var_os(FILES_SET).is_none() {
        return with_files();
    }
    let arguments = Arguments::parse();
    // One thread for the load; another for what waits for processes.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let done = runtime.map_err(|e| e.to_string()).and_then(|runtime| runtime.block_on(run(&arguments)));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("error: orders were lost, doubled, or answered wrongly: see above");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs itself again with as many files as ten thousand connections need; the processes it starts inherit that.
fn with_files() -> ExitCode {
    let own = std::env::current_exe().unwrap_or_default();
    let script = format!("ulimit -n {FILES} 2>/dev/null || ulimit -n $(ulimit -Hn); exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(own).args(std::env::args_os().skip(1)).env(FILES_SET, FILES.to_string());
    match command.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: sh: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the parts that are asked for; whether all work was correct.
async fn run(arguments: &Arguments) -> Result<bool, String> {
    let modes = match arguments.mode.as_str() {
        "both" => Mode::ALL.to_vec(),
        word => vec![
            Mode::parse(word).ok_or_else(|| format!("--mode {word}: there are both, orchestration, choreography"))?,
        ],
    };
    println!("{}, load average {}", Machine::here(), report::load_average());
    let mut correct = true;
    let mut told = serde_json::Map::new();
    for (part, run) in [("concurrency", 0), ("offered", 1), ("availability", 2), ("watching", 3)] {
        if !arguments.has(part) {
            continue;
        }
        let table = match run {
            0 => concurrency(arguments, &modes).await?,
            1 => offered(arguments, &modes).await?,
            2 => availability::table(arguments, &modes).await?,
            _ => watching(arguments, &modes).await?,
        };
        println!("\n{table}");
        correct &= table.correct;
        told.insert(part.to_owned(), table.json());
    }
    if let Some(file) = &arguments.json {
        let value =
            json!({ "machine": Machine::here(), "load_average": report::load_average(), "parts": Value::from(told) });
        std::fs::write(file, format!("{value:#}\n")).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    Ok(correct)
}

/// So many orders at the same time, each waiting on a connection of its own.
async fn concurrency(arguments: &Arguments, modes: &[Mode]) -> Result<Table, String> {
    let mut table = Table::new(
        "Concurrent orders",
        &["in flight", "orders", "orders/s", "p50 ms", "p99 ms", "server RSS MiB", "server CPU µs/order"],
    );
    for mode in modes {
        for in_flight in IN_FLIGHT {
            let in_flight = if arguments.quick { in_flight / 10 } else { in_flight };
            let house = House::open(*mode, Switches::default()).await?;
            let client = Client::new(&house, in_flight);
            let before = house.used();
            let one = {
                let client = client.clone();
                move |number| client.clone().place(number, std::time::Instant::now())
            };
            let (ended, took) = load::closed(in_flight, in_flight * FOR_EACH, one).await?;
            let used = house.used();
            let wrong = house.audit(&client, &ended).await?;
            let times = times(&ended)?;
            let orders = ended.len() as f64;
            table.row(
                *mode,
                wrong,
                [
                    in_flight as f64,
                    orders,
                    orders / took.as_secs_f64(),
                    times.value_at_quantile(0.5) as f64 / 1e3,
                    times.value_at_quantile(0.99) as f64 / 1e3,
                    used.peak as f64 / 1_048_576.0,
                    (used.cpu - before.cpu) * 1e6 / orders,
                ],
            );
        }
    }
    Ok(table)
}

/// Orders at a fixed rate, whatever becomes of those before.
async fn offered(arguments: &Arguments, modes: &[Mode]) -> Result<Table, String> {
    let mut table =
        Table::new("Orders offered at a rate", &["offered/s", "orders", "done/s", "p50 ms", "p99 ms", "p99.9 ms"]);
    let seconds = if arguments.quick { 3.0 } else { arguments.seconds };
    for mode in modes {
        let house = House::open(*mode, Switches::default()).await?;
        for rate in RATES {
            let client = Client::new(&house, 4_096);
            // What is cold is not what is asked for.
            let warm = client.clone();
            let (mut ended, _) =
                load::open(rate, (rate * 1.0) as u64, move |n, due| warm.clone().place(n, due)).await?;
            let (warm, placing) = (ended.len() as u64, client.clone());
            let count = (rate * seconds) as u64;
            let (measured, took) = load::open(rate, count, move |n, due| placing.clone().place(warm + n, due)).await?;
            let times = times(&measured)?;
            ended.extend(measured);
            let wrong = house.audit(&client, &ended).await?;
            let quantile = |q: f64| times.value_at_quantile(q) as f64 / 1e3;
            let done = count as f64 / took.as_secs_f64();
            table.row(*mode, wrong, [rate, count as f64, done, quantile(0.5), quantile(0.99), quantile(0.999)]);
        }
    }
    Ok(table)
}

/// The same closed loop with one thing watched after the other.
async fn watching(arguments: &Arguments, modes: &[Mode]) -> Result<Table, String> {
    let mut table = Table::new(
        "What watching costs, 64 orders in flight",
        &["orders/s", "to none", "server CPU µs/order", "CPU to none"],
    );
    let (rounds, seconds) = if arguments.quick { (1, 1.0) } else { (3, 5.0) };
    for mode in modes {
        let mut houses = Vec::new();
        for (name, switches) in Switches::ALL {
            let house = House::open(*mode, switches).await?;
            let client = Client::new(&house, WATCHED_IN_FLIGHT);
            houses.push((name, house, client, Vec::new(), Vec::new()));
        }
        // In turn, so that a machine that drifts drifts for all.
        for _ in 0..rounds {
            for (_, house, client, all, figures) in &mut houses {
                let reader = house.reader();
                let (before, began) = (house.used(), std::time::Instant::now());
                let placed = client.clone();
                let until = began + Duration::from_secs_f64(seconds);
                let ended = placed.keep_placing(WATCHED_IN_FLIGHT, until).await?;
                let (used, took) = (house.used(), began.elapsed().as_secs_f64());
                reader.abort();
                let orders = ended.len() as f64;
                figures.push((orders / took, (used.cpu - before.cpu) * 1e6 / orders));
                all.extend(ended);
            }
        }
        let mut none = None;
        for (name, house, client, all, figures) in &mut houses {
            figures.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (rate, cpu) = figures.get(figures.len() / 2).copied().unwrap_or_default();
            let (rate_none, cpu_none) = *none.get_or_insert((rate, cpu));
            let wrong = house.audit(client, all).await?;
            table.named(*mode, name, wrong, [rate, rate / rate_none, cpu, cpu / cpu_none]);
        }
    }
    Ok(table)
}

/// The times of orders, in microseconds.
fn times(ended: &[Ended]) -> Result<hdrhistogram::Histogram<u64>, String> {
    let mut times = measure::histogram()?;
    ended.iter().for_each(|ended| times.saturating_record(measure::micros(ended.took)));
    Ok(times)
}
