//! `cargo xtask bench gateway`: what the gateway costs beside nginx, and beside the HTTP API.
//!
//! **Requests**: the same GET of 512 bytes over the same connections, through the gateway (routing, a rate limit, metrics
//! and access log) and through nginx as a reverse proxy, in turn, with as many workers as the gateway has threads. Load,
//! service, gateway and nginx are processes of their own. **Orders**: the same synchronous workflow by a route of the
//! gateway and by the API of one server. Requests per second depend on whatever else the machine does; CPU time of the
//! process under test for each request much less. Start reading at [`run`].

#![expect(clippy::expect_used, reason = "a benchmark that cannot be set up has failed")]

mod load;
mod process;
mod subject;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use load::Plan;
use process::Process;
use serde_json::json;
use subject::{Orders, Subject};

/// The path that is asked for, below a route with a parameter, as routes have.
const PATH: &str = "/plain/items/17";

/// The load goes on for so long before anything is counted: connections are made, buffers have grown.
const WARM: f64 = 0.5;

/// Options, of the bench and of the processes it starts from its own binary.
struct Options(Vec<String>);

impl Options {
    fn text(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|argument| argument == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn number(&self, name: &str, usual: f64) -> f64 {
        self.text(name).map_or(usual, |text| text.parse().expect("a number"))
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|argument| argument == name)
    }

    fn whole(&self, name: &str, usual: usize) -> usize {
        self.text(name).map_or(usual, |text| text.parse().expect("a whole number"))
    }
}

fn main() {
    let options = Options(std::env::args().collect());
    let address = |name: &str| -> SocketAddr { options.text(name).expect(name).parse().expect("an address") };
    let single = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match options.text("--role") {
        Some("upstream") => single().block_on(upstream::serve()),
        Some("load") => {
            let told = single().block_on(load::run(Plan::of(&options), address("--to")));
            println!("{told}");
        }
        Some("gateway") => subject::serve_alone(address("--service"), options.text("--log").expect("--log"), &options),
        Some(other) => panic_with(&format!("there is no role `{other}`")),
        None => run(&options),
    }
}

fn panic_with(why: &str) -> ! {
    eprintln!("error: {why}");
    std::process::exit(2)
}

/// One measurement of one subject.
#[derive(Clone, Copy)]
struct Measured {
    per_second: f64,
    p50: f64,
    p99: f64,
    /// CPU time of the process under test for each request, in microseconds.
    cpu: f64,
}

/// Starts this binary in a role, on some cores if it is pinned.
fn own(role: &str, cores: Option<&str>) -> Command {
    let mut command = process::pinned(&std::env::current_exe().expect("this binary"), cores);
    command.arg("--role").arg(role);
    command
}

fn run(options: &Options) {
    let seconds = options.number("--seconds", 4.0);
    let rounds = options.whole("--rounds", 5);
    let connections = options.whole("--connections", 64);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // As `pavane serve` has.
    let threads = options.whole("--threads", (cores / 2).max(1));
    // Pinned, the proxies have the first cores for themselves, and the load and the service the others.
    let (front, back) = match options.has("--pin") && cores > threads {
        true => (Some(format!("0-{}", threads - 1)), Some(format!("{threads}-{}", cores - 1))),
        false => (None, None),
    };
    let folder = tempfile::tempdir().expect("a folder");
    let (_service, at) = Process::start(own("upstream", back.as_deref()), process::address);
    let mut subjects = vec![match options.text("--pavane") {
        Some(binary) => Subject::pavane(&PathBuf::from(binary), folder.path(), at, front.as_deref()),
        None => Subject::alone(folder.path(), at, threads, front.as_deref()),
    }];
    match subject::nginx() {
        Some(binary) => subjects.push(Subject::nginx(&binary, folder.path(), at, threads, front.as_deref())),
        None => eprintln!("nginx is not there: `apt-get install nginx-light` to compare with it"),
    }
    println!(
        "{cores} cores, load average {}; {threads} thread(s) and nginx worker(s); {connections} connections; {rounds} rounds of {seconds} s{}",
        process::load_average(),
        if front.is_some() { "; pinned" } else { "" }
    );
    println!("{:<28} {:>11} {:>9} {:>9} {:>15} {:>7}", "", "requests/s", "p50 µs", "p99 µs", "CPU µs/request", "ratio");
    let plan = |path: &str| Plan { seconds, warm: WARM, connections, path: path.to_owned(), order: None };
    let mut taken: Vec<Vec<Measured>> = vec![Vec::new(); subjects.len()];
    for _ in 0..rounds {
        for (subject, taken) in subjects.iter().zip(&mut taken) {
            taken.push(subject.measure(&plan(PATH), back.as_deref()));
        }
    }
    let mut rows = Vec::new();
    let reference = taken.get(1).map(|nginx| median(nginx));
    for (subject, taken) in subjects.iter().zip(&taken) {
        let m = median(taken);
        let ratio = reference.map_or(1.0, |nginx| m.per_second / nginx.per_second);
        println!(
            "{:<28} {:>11.0} {:>9.0} {:>9.0} {:>15.1} {ratio:>7.2}",
            subject.name, m.per_second, m.p50, m.p99, m.cpu
        );
        rows.push(json!({
            "subject": subject.name, "requests_per_second": m.per_second, "p50_us": m.p50, "p99_us": m.p99,
            "cpu_us_per_request": m.cpu, "ratio_to_nginx": reference.map(|nginx| m.per_second / nginx.per_second),
            "cpu_ratio_to_nginx": reference.map(|nginx| m.cpu / nginx.cpu),
        }));
    }
    let orders = options.text("--pavane").map(|binary| {
        drop(subjects);
        orders(&PathBuf::from(binary), at, options)
    });
    if let Some(file) = options.text("--json") {
        let told = json!({ "cores": cores, "threads": threads, "connections": connections, "requests": rows, "orders": orders });
        std::fs::write(file, told.to_string()).expect("the file is written");
    }
}

/// Orders by the gateway's route and by the API, in turn: CPU time of the server for each.
fn orders(binary: &std::path::Path, service: SocketAddr, options: &Options) -> serde_json::Value {
    let seconds = options.number("--seconds", 4.0);
    let rounds = options.whole("--rounds", 5);
    let folder = tempfile::tempdir().expect("a folder");
    let house = Orders::start(binary, folder.path(), service);
    let mut taken = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (way, taken) in house.ways().into_iter().zip(&mut taken) {
            let plan = Plan { seconds, warm: WARM, connections: 64, path: way.path.clone(), order: Some(way.headers) };
            taken.push(house.measure(&plan, way.to));
        }
    }
    println!(
        "\n{:<28} {:>11} {:>9} {:>9} {:>15} {:>7}",
        "orders, 64 in flight", "orders/s", "p50 µs", "p99 µs", "CPU µs/order", "CPU"
    );
    let api = median(&taken[0]);
    let mut rows = Vec::new();
    for (name, taken) in ["by the API", "by the gateway"].into_iter().zip(&taken) {
        let m = median(taken);
        let more = m.cpu / api.cpu;
        println!("{name:<28} {:>11.0} {:>9.0} {:>9.0} {:>15.1} {more:>7.2}", m.per_second, m.p50, m.p99, m.cpu);
        rows.push(json!({
            "way": name, "orders_per_second": m.per_second, "p50_us": m.p50, "p99_us": m.p99, "cpu_us_per_order": m.cpu,
            "cpu_ratio_to_api": more,
        }));
    }
    serde_json::Value::from(rows)
}

/// The median of each figure.
fn median(taken: &[Measured]) -> Measured {
    let of = |figure: fn(&Measured) -> f64| {
        let mut figures: Vec<f64> = taken.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or(0.0)
    };
    Measured { per_second: of(|m| m.per_second), p50: of(|m| m.p50), p99: of(|m| m.p99), cpu: of(|m| m.cpu) }
}

/// Runs the load against an address while the CPU time of some processes is read.
fn measured(plan: &Plan, to: SocketAddr, cores: Option<&str>, used: impl Fn() -> f64) -> Measured {
    let mut command = own("load", cores);
    command.args(plan.arguments()).arg("--to").arg(to.to_string());
    // It says when it begins to count, and then what it counted.
    let (mut load, ()) = Process::start(command, |line| (line == "counting").then_some(()));
    let before = used();
    std::thread::sleep(Duration::from_secs_f64(plan.seconds));
    let spent = used() - before;
    let told: serde_json::Value = serde_json::from_str(&load.line()).expect("what was counted");
    let figure = |name: &str| told[name].as_f64().expect("a figure");
    let per_second = figure("requests") / figure("seconds");
    Measured { per_second, p50: figure("p50"), p99: figure("p99"), cpu: spent * 1e6 / (per_second * plan.seconds) }
}
