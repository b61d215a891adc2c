//! A process that is killed while it commits: what it acknowledged is there, and no batch is there by half.
//!
//! The test runs its own binary again as the process to kill; `PAVANE_KILL_STORE` tells it that it is that one.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use pavane_store::{Sqlite, Store};

use crate::support::*;

const VARIABLE: &str = "PAVANE_KILL_STORE";

/// Instances that step at the same time, each waiting for its own acknowledgement.
const WRITERS: u64 = 8;

/// How long the process lives, round by round: from hardly open to many checkpoints behind it. In milliseconds.
const LIVES: [u64; 8] = [0, 3, 11, 40, 70, 130, 310, 700];

#[test]
fn what_was_acknowledged_survives_a_kill() {
    if let Some(path) = std::env::var_os(VARIABLE) {
        commit_for_ever(Path::new(&path));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("killed.db");
    let mut acknowledged = HashSet::new();
    for life in LIVES {
        acknowledged.extend(run_and_kill(&path, life));
        // The lock fell with its holder.
        let store = Sqlite::open(&path, Duration::from_secs(30)).unwrap();
        check(&store, &acknowledged);
    }
    assert!(acknowledged.len() > 100, "only {} commits were acknowledged", acknowledged.len());
}

/// The process to kill: steps instances and prints each acknowledged step in one write.
fn commit_for_ever(path: &Path) -> ! {
    let store = Arc::new(Sqlite::open(path, Duration::from_secs(30)).unwrap());
    println!("\nopen");
    let (send, acknowledged) = mpsc::channel();
    for writer in 0..WRITERS {
        let id = format!("i{writer}");
        let seq = store.journal(&id, 0, usize::MAX).unwrap().len() as u64;
        commit(&store, writer, seq + 1, &send);
    }
    loop {
        let (writer, seq) = acknowledged.recv().unwrap();
        let mut out = std::io::stdout().lock();
        out.write_all(format!("ok {writer} {seq}\n").as_bytes()).unwrap();
        out.flush().unwrap();
        drop(out);
        commit(&store, writer, seq + 1, &send);
    }
}

/// One batch of three commits: the step, a task row and two events that carry its number.
fn commit(store: &Arc<Sqlite>, writer: u64, seq: u64, send: &mpsc::Sender<(u64, u64)>) {
    let id = format!("i{writer}");
    let first = if seq == 1 { start(&id) } else { step(&id, seq) };
    let mut rows = step(&id, seq + 1);
    rows.tasks = vec![task(&id, u32::try_from(seq).unwrap())];
    rows.publish = vec![event(&format!("{writer}-{seq}-a"))];
    let batch = vec![first, rows, publish(&format!("{writer}-{seq}-b"))];
    let send = send.clone();
    store.commit(
        batch,
        Box::new(move |result| {
            result.unwrap();
            send.send((writer, seq + 1)).unwrap();
        }),
    );
}

/// Runs the process for `life` milliseconds after it opened the store; returns what it acknowledged.
fn run_and_kill(path: &Path, life: u64) -> Vec<(u64, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::what_was_acknowledged_survives_a_kill", "--nocapture"])
        .env(VARIABLE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (opened, open) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut acknowledged = Vec::new();
        for line in lines.map_while(Result::ok) {
            if line == "open" {
                opened.send(()).unwrap();
            }
            let mut words = line.split(' ');
            // A line is shorter than what a pipe takes at once, so the kill cuts none in two.
            if let (Some("ok"), Some(writer), Some(seq), None) =
                (words.next(), words.next(), words.next(), words.next())
                && let (Ok(writer), Ok(seq)) = (writer.parse(), seq.parse())
            {
                acknowledged.push((writer, seq));
            }
        }
        acknowledged
    });
    open.recv_timeout(Duration::from_secs(60)).unwrap();
    std::thread::sleep(Duration::from_millis(life));
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

fn check(store: &Sqlite, acknowledged: &HashSet<(u64, u64)>) {
    let published = store.published("r", usize::MAX).unwrap();
    assert!(published.iter().map(|(at, _)| *at).eq(1..=published.len() as u64), "positions have no gaps");
    let published: HashSet<String> = published.iter().map(|(_, event)| event.id()).collect();
    let mut batches = 0;
    for writer in 0..WRITERS {
        let id = format!("i{writer}");
        let journal = store.journal(&id, 0, usize::MAX).unwrap();
        let last = journal.len() as u64;
        assert!(journal.iter().map(|e| e.seq).eq(1..=last), "{id}: positions have no gaps");
        assert_eq!(last % 2, 0, "{id}: half a batch is there");
        assert_eq!(store.tasks(&id).unwrap().len() as u64, last / 2, "{id}: tasks");
        for seq in (1..last).step_by(2) {
            assert!(
                published.contains(&format!("{writer}-{seq}-a")) && published.contains(&format!("{writer}-{seq}-b"))
            );
        }
        batches += journal.len() / 2;
        let newest = acknowledged.iter().filter(|(w, _)| *w == writer).map(|(_, seq)| *seq).max();
        assert!(newest.unwrap_or(0) <= last, "{id}: step {newest:?} was acknowledged, the journal ends at {last}");
    }
    assert_eq!(published.len(), batches * 2, "every event belongs to a whole batch");
}
