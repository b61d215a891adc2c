//! What the bench prints, and what it writes for machines.

use pavane_core::definition::Mode;
use serde_json::{Value, json};

/// Durable commits of one order, fewest and most. Orchestrated: its start, and one for each of its four calls.
/// Choreographed: its start, one for each call (two when it takes long: the token came, the call ended), and its end.
pub fn steps(mode: Mode) -> (f64, f64) {
    match mode {
        Mode::Orchestration => (5.0, 5.0),
        Mode::Choreography => (6.0, 10.0),
    }
}

/// The head of the table.
pub const HEADER: &str = "\
                         orders/s  to raw to orch      p50      p99    p99.9   CPU us/order            engine  written  fsyncs commits
                in flight                               ms       ms       ms   load services engine   RSS MiB  B/order  /order  /order";

/// What the words mean.
pub const LEGEND: &str = "
raw: four HTTP calls in sequence by a hand-written pooled hyper client, nothing durable
orchestrated: the same calls by the engine, each result on disk (fsync) before the next call
choreographed: the same calls by a participant for each service, each with a store of its own in one file, as durable
offered: 200 orders/s whatever becomes of them; times from the moment an order was due
offered+: the same beside 1,000 executions that wait in the engine";

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub kind: &'static str,
    /// Absent for calls by hand.
    pub mode: Option<Mode>,
    pub in_flight: u64,
    pub orders: u64,
    pub orders_per_second: f64,
    /// To the raw figure measured just before.
    pub to_raw: Option<f64>,
    /// To the orchestrated figure measured just before.
    pub to_orchestrated: Option<f64>,
    /// Milliseconds.
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    /// Microseconds an order.
    pub cpu_load: f64,
    pub cpu_services: f64,
    pub cpu_engine: f64,
    /// Mebibytes.
    pub rss: f64,
    /// Bytes an order.
    pub written: f64,
    /// For an order.
    pub fsyncs: f64,
    pub commits: f64,
}

impl Row {
    /// What it is compared by: its ratio to what is before it in the table, or its rate when that is nothing.
    pub fn compared(&self) -> f64 {
        self.to_orchestrated.or(self.to_raw).unwrap_or(self.orders_per_second)
    }

    fn json(&self) -> Value {
        json!({
            "kind": self.kind,
            "mode": self.mode.map(Mode::as_str),
            "in_flight": self.in_flight,
            "orders": self.orders,
            "orders_per_second": self.orders_per_second,
            "ratio_to_raw": self.to_raw,
            "ratio_to_orchestrated": self.to_orchestrated,
            "latency_ms": { "p50": self.p50, "p99": self.p99, "p99.9": self.p999 },
            "cpu_us_per_order": { "load": self.cpu_load, "services": self.cpu_services, "engine": self.cpu_engine },
            "engine_rss_mib": self.rss,
            "engine_written_bytes_per_order": self.written,
            "fsyncs_per_order": self.fsyncs,
            "commits_per_order": self.commits,
        })
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Row { kind, in_flight, orders_per_second, p50, p99, p999, .. } = self;
        let initial = self.mode.map_or("", |mode| &mode.as_str()[..1]);
        let kind = if kind.starts_with("offered") { format!("{kind} {initial}") } else { (*kind).to_owned() };
        let ratio = |ratio: Option<f64>| ratio.map_or(String::new(), |ratio| format!("{ratio:.3}"));
        write!(f, "{kind:<13} {in_flight:>8} {orders_per_second:>11.0} ")?;
        write!(f, "{:>7} {:>7}", ratio(self.to_raw), ratio(self.to_orchestrated))?;
        write!(f, " {p50:>8.2} {p99:>8.2} {p999:>8.2}  ")?;
        write!(f, "{:>5.0} {:>8.0} {:>6.0} ", self.cpu_load, self.cpu_services, self.cpu_engine)?;
        match self.mode {
            None => Ok(()),
            Some(_) => write!(f, "{:>9.0} {:>8.0} {:>7.2} {:>7.2}", self.rss, self.written, self.fsyncs, self.commits),
        }
    }
}

/// The rows for machines.
pub fn json(rows: &[Row]) -> String {
    let rows: Vec<Value> = rows.iter().map(Row::json).collect();
    let document = json!({ "benchmark": "orders", "machine": machine(), "rows": rows });
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

/// What it ran on.
pub fn machine() -> String {
    format!("pavane {} on {}", env!("CARGO_PKG_VERSION"), pavane::measure::Machine::here())
}
