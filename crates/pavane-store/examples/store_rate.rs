//! How many commits a second the SQLite store takes, each with one step and one task row, and how many share an fsync.
//!
//! `cargo run --release -p pavane-store --example store_rate -- [DIRECTORY] [SECONDS]`: the directory must be on the disk
//! to be measured (default: the present one). It keeps 1, 64 and 1,000 batches in flight, each case on a fresh file.

use std::error::Error;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use pavane_core::definition::Mode;
use pavane_core::record::{Compensation, JournalEntry, ServiceTask, Status, WorkflowInstance};
use pavane_core::{Timestamp, value::Value};
use pavane_store::{Commit, Sqlite, Store};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| ".".into());
    let seconds = arguments.next().map_or(Ok(5), |text| text.parse())?;
    for in_flight in [1, 64, 1_000] {
        let place = tempfile::tempdir_in(Path::new(&directory))?;
        measure(&place.path().join("rate.db"), in_flight, Duration::from_secs(seconds))?;
    }
    Ok(())
}

fn measure(path: &Path, in_flight: u32, length: Duration) -> Result<(), Box<dyn Error>> {
    let store = Sqlite::open(path, Duration::ZERO)?;
    let (send, acknowledged) = mpsc::channel();
    let begin = Instant::now();
    let commit = |instance: u32, seq: u64| {
        let (send, asked) = (send.clone(), Instant::now());
        // A receiver that is gone means that the measurement is over.
        store
            .commit(vec![step(instance, seq)], Box::new(move |r| drop(send.send((instance, seq, asked.elapsed(), r)))));
    };
    (0..in_flight).for_each(|instance| commit(instance, 1));
    let mut waits = Vec::new();
    while begin.elapsed() < length {
        let (instance, seq, wait, result) = acknowledged.recv()?;
        result?;
        waits.push(wait);
        commit(instance, seq + 1);
    }
    let (elapsed, stats) = (begin.elapsed().as_secs_f64(), store.stats());
    waits.sort_unstable();
    let at = |share: f64| waits.get((waits.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!(
        "{in_flight:>5} in flight: {:>8.0} commits/s, {:>6.0} fsyncs/s, {:>5.1} commits an fsync, p50 {:?}, p99 {:?}, p99.9 {:?}",
        stats.commits as f64 / elapsed,
        stats.transactions as f64 / elapsed,
        stats.commits as f64 / stats.transactions as f64,
        at(0.5),
        at(0.99),
        at(0.999),
    );
    Ok(())
}

/// A step as an engine makes it: 300 bytes of events, one task row of 500.
fn step(instance: u32, seq: u64) -> Commit {
    let id = format!("0193f0a0-0000-7000-8000-{instance:012}");
    let row = (seq == 1).then(|| WorkflowInstance {
        id: id.clone(),
        namespace: "shop".into(),
        name: "order".into(),
        version: "1.0.0".into(),
        digest: "d".repeat(64),
        mode: Mode::Orchestration,
        status: Status::Running,
        correlation_id: id.clone(),
        input: Value::text("i".repeat(200)),
        output: None,
        error: None,
        compensation: Compensation::default(),
        start_time: Timestamp(1_763_850_000_123),
        end_time: None,
        parent_id: None,
        parent_task: None,
    });
    let task = ServiceTask {
        id: format!("{id}:{seq}"),
        workflow_instance_id: id.clone(),
        reference: "/do/0/pay".into(),
        name: "pay".into(),
        service_name: Some("payments".into()),
        kind: "call".into(),
        status: Status::Completed,
        attempt: 1,
        input_data: Value::text("i".repeat(200)),
        output_data: Some(Value::text("o".repeat(200))),
        error: None,
        start_time: Timestamp(1_763_850_000_123),
        end_time: Some(Timestamp(1_763_850_000_200)),
        compensates: None,
        within: None,
    };
    let entry = JournalEntry {
        workflow_instance_id: id.clone(),
        seq,
        timestamp: Timestamp(1_763_850_000_123),
        event_type: "call.completed".into(),
        subject: "/do/0/pay".into(),
        service_task_id: Some(task.id.clone()),
        correlation_id: id,
        causation_id: None,
        payload: format!("[\"{}\"]", "p".repeat(296)),
    };
    Commit { entry: Some(entry), instance: row, tasks: vec![task], ..Commit::default() }
}
