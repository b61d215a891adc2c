//! What the demo prints: a column for each mode, and the audit of the books of all.

use super::services::{Audit, Fate};
use super::{Run, Settings};

/// Problems shown.
const SHOWN: usize = 20;

pub(super) fn print(settings: &Settings, runs: &[Run], audit: &Audit) {
    let line = |name: &str, value: &dyn Fn(&Run) -> String, note: &str| {
        let values: String = runs.iter().map(|run| format!("{:>15}", value(run))).collect();
        println!("{}", format!("  {name:<14}{values}   {note}").trim_end());
    };
    let millis =
        |run: &Run, quantile: f64| format!("{:.0} ms", run.latency.value_at_quantile(quantile) as f64 / 1_000.0);
    let count = |run: &Run, wanted: fn(&Fate) -> bool| run.fates.values().filter(|fate| wanted(fate)).count();
    let completed = |run: &Run| count(run, |fate| *fate == Fate::Completed);
    let unresolved = |run: &Run| count(run, |fate| matches!(fate, Fate::Unresolved(_)));
    line("", &|run| run.mode.as_str().into(), "");
    let in_flight = format!("{} in flight", settings.in_flight.min(settings.orders));
    line("orders/s", &|run| format!("{:.0}", settings.orders as f64 / run.took.as_secs_f64()), &in_flight);
    line("latency p50", &|run| millis(run, 0.5), "from the order to its answer");
    line("latency p99", &|run| millis(run, 0.99), "");
    line("completed", &|run| completed(run).to_string(), "paid, shipped and confirmed");
    line("failed", &|run| (settings.orders - completed(run) - unresolved(run)).to_string(), "and everything undone");
    line("unresolved", &|run| unresolved(run).to_string(), "failed, and something could not be undone");
    line("calls", &|run| run.totals.calls.to_string(), "made to the services");
    line("refused", &|run| run.refused.to_string(), "of them, by the services");
    line("retries", &|run| run.totals.retries.to_string(), "of calls that were refused for a while");
    line("compensations", &|run| run.undone.to_string(), "effects undone, in reverse order");
    line("messages", &|run| run.totals.messages.to_string(), "between the participants");
    line("steps", &|run| run.totals.steps.to_string(), "each durable in SQLite");
    line("transactions", &|run| run.totals.transactions.to_string(), "that steps shared, each with an fsync");
    let problems: Vec<&String> = runs.iter().flat_map(|run| &run.errors).chain(&audit.problems).collect();
    let clean = problems.is_empty();
    let found = format!("{} effects of {} orders add up, no key executed twice", audit.effects, audit.orders);
    println!(
        "  audit: {}",
        if clean { format!("clean: {found}") } else { format!("NOT clean: {} problems", problems.len()) }
    );
    for problem in problems.into_iter().take(SHOWN) {
        println!("    {problem}");
    }
}
