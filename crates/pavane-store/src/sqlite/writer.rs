//! Writing: one thread, one connection, group commit.
//!
//! Batches queue up while a transaction is written and its fsync awaited; the next transaction takes them all, and each
//! is acknowledged after the COMMIT that holds it. A batch is checked before any of it is written (`crate::batch`), so
//! one that conflicts fails alone. Any other failure ends the writing for good: see [`crate::Sqlite`].
//! Start at [`Session::transact`]; the rows themselves are written in `rows`.

mod bound;
mod messages;
mod rows;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pavane_watch::{COUNTS, Histogram, Reading, SECONDS};
use rusqlite::Connection;

use super::lock::Lock;
use super::mover::Mover;
use super::place::Place;
use super::{Stats, failed};
use crate::{Commit, Deployed, Done, Error, batch};
use rows::Rows;

/// Commits in one transaction. At about 10 µs each this is 40 ms: a first batch never waits longer for those behind it,
/// and one fsync is already shared so widely that more would gain nothing.
const GROUP: usize = 4_096;

/// After a group of this many commits others are likely to be on their way, and the next group waits for them a moment: a
/// transaction writes about as many pages for a few commits as for some ten. One instance alone never waits.
const BUSY: usize = 4;

/// How long it waits: as long as about one sync of a fast disk.
const GATHER: Duration = Duration::from_micros(300);

/// The writer thread as the store holds it.
#[derive(Debug)]
pub(super) struct Writer {
    path: String,
    /// Not bounded here: the callers bound the batches in flight (an instance waits for its own), and `commit` must
    /// not block.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct Counters {
    transactions: AtomicU64,
    commits: AtomicU64,
    bytes: AtomicU64,
    groups: Histogram,
    syncs: Histogram,
}

impl Default for Counters {
    fn default() -> Counters {
        let (groups, syncs) = (Histogram::new(COUNTS), Histogram::new(SECONDS));
        Counters {
            transactions: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            groups,
            syncs,
        }
    }
}

struct Job {
    work: Work,
    done: Done,
}

enum Work {
    Batch(Place, Vec<Commit>),
    Deploy(Place, Box<Deployed>),
    /// A location of this name is to have a number.
    Location(String),
}

/// The writer's side: what one connection has prepared and seen.
struct Session<'c> {
    path: &'c str,
    connection: &'c Connection,
    rows: Rows<'c>,
    counters: &'c Counters,
    /// Why nothing is written any more.
    broken: Option<String>,
}

impl Writer {
    /// Starts the thread. It owns the connection and the lock: the lock is let go when the file is closed.
    pub(super) fn start(connection: Connection, mover: Mover, lock: Lock, path: String) -> Result<Writer, Error> {
        let (jobs, queue) = mpsc::channel();
        let counters = Arc::new(Counters::default());
        let thread = std::thread::Builder::new().name("pavane-store".into()).spawn({
            let (path, counters) = (path.clone(), Arc::clone(&counters));
            move || {
                write(&connection, &path, &counters, &queue);
                // The last connection to close moves what is left of the log into the file: this one.
                drop(mover);
                if let Err((_, error)) = connection.close() {
                    tracing::warn!(path, %error, "the store was not closed in order; the next start recovers it");
                }
                drop(lock);
            }
        });
        let thread = thread.map_err(|e| Error::Failed {
            path: path.clone(),
            reason: format!("the writer thread cannot be started ({e}): allow this user more threads"),
        })?;
        Ok(Writer { path, jobs: Some(jobs), thread: Some(thread), counters })
    }

    pub(super) fn commit(&self, place: Place, batch: Vec<Commit>, done: Done) {
        self.send(Job { work: Work::Batch(place, batch), done });
    }

    pub(super) fn deploy(&self, place: Place, definition: &Deployed) -> Result<(), Error> {
        self.wait_for(Work::Deploy(place, Box::new(definition.clone())))
    }

    /// Gives the location of this name a number, if it has none.
    pub(super) fn add_location(&self, name: &str) -> Result<(), Error> {
        self.wait_for(Work::Location(name.to_owned()))
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// What is told of a store that is closed.
    pub(super) fn gone(&self) -> Error {
        gone(&self.path)
    }

    fn wait_for(&self, work: Work) -> Result<(), Error> {
        let (reply, answer) = mpsc::sync_channel(1);
        // The receiver below waits: a send that finds nobody cannot happen.
        let done: Done = Box::new(move |result| drop(reply.send(result)));
        self.send(Job { work, done });
        answer.recv().unwrap_or_else(|_| Err(self.gone()))
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            transactions: self.counters.transactions.load(Ordering::Relaxed),
            commits: self.counters.commits.load(Ordering::Relaxed),
            bytes: self.counters.bytes.load(Ordering::Relaxed),
        }
    }

    /// How many commits shared a transaction, and how many seconds its end took, fsync included.
    pub(super) fn distributions(&self) -> (Reading, Reading) {
        (self.counters.groups.read(), self.counters.syncs.read())
    }

    /// Ends the thread once everything queued is written. Called from a `done`, on the thread itself, it does not
    /// wait: the thread ends when it comes to the end of its queue.
    pub(super) fn close(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!(path = self.path, "the store's writer thread panicked");
        }
    }

    fn send(&self, job: Job) {
        let unsent = match &self.jobs {
            Some(jobs) => jobs.send(job).err().map(|mpsc::SendError(job)| job),
            None => Some(job),
        };
        if let Some(job) = unsent {
            (job.done)(Err(gone(&self.path)));
        }
    }
}

impl Session<'_> {
    /// Writes a group in one transaction and acknowledges each job.
    fn transact(&mut self, group: Vec<Job>) {
        let mut refused = BTreeMap::new();
        if self.broken.is_none() {
            match self.write(&group) {
                Ok(alone) => refused = alone,
                Err(error) => self.give_up(&failed(self.path, &error)),
            }
        }
        for (nth, job) in group.into_iter().enumerate() {
            // What was not refused on its own shares the fate of the transaction.
            let result = match (refused.remove(&nth), &self.broken) {
                (Some(refusal), _) => Err(refusal),
                (None, Some(reason)) => Err(self.refusal(reason)),
                (None, None) => Ok(()),
            };
            acknowledge(self.path, job.done, result);
        }
    }

    /// Writes a group; tells which of its jobs were refused on their own.
    fn write(&mut self, group: &[Job]) -> rusqlite::Result<BTreeMap<usize, Error>> {
        match self.attempt(group) {
            // Perhaps an instance is here that was taken for new: nothing of the group has happened, and now each is looked
            // for.
            Err(error) if is_taken(&error) => {
                self.rows.take_back()?;
                self.rows.trust(false);
                let done = self.attempt(group);
                self.rows.trust(true);
                done
            }
            done => done,
        }
    }

    fn attempt(&mut self, group: &[Job]) -> rusqlite::Result<BTreeMap<usize, Error>> {
        let (mut commits, mut bytes, mut refused) = (0, 0, BTreeMap::new());
        self.rows.begin()?;
        for (nth, job) in group.iter().enumerate() {
            match self.job(&job.work)? {
                Ok((written, weight)) => {
                    commits += written;
                    bytes += weight;
                }
                Err(refusal) => drop(refused.insert(nth, refusal)),
            }
        }
        let began = Instant::now();
        self.rows.commit()?;
        self.counters.syncs.record(began.elapsed().as_secs_f64(), None);
        if commits > 0 {
            self.counters.groups.record(commits as f64, None);
        }
        if commits > 0 || bytes > 0 {
            self.counters.transactions.fetch_add(1, Ordering::Relaxed);
            self.counters.commits.fetch_add(commits, Ordering::Relaxed);
            self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(refused)
    }

    /// Writes one job: how many commits and bytes it was, or why it is refused. The outer error is SQLite's.
    fn job(&mut self, work: &Work) -> rusqlite::Result<Result<(u64, u64), Error>> {
        let (place, batch) = match work {
            Work::Batch(place, batch) => (*place, batch),
            Work::Deploy(place, definition) => {
                return self.rows.definition(*place, definition).map(|bytes| Ok((0, bytes)));
            }
            Work::Location(name) => return self.rows.location(name).map(|()| Ok((0, 0))),
        };
        let mut checked = self.check(place, batch)?;
        if checked.is_err() && self.rows.trusts() {
            // What is told is what is wrong first, and that may be with an instance that was taken for new.
            self.rows.trust(false);
            checked = self.check(place, batch)?;
            self.rows.trust(true);
        }
        if let Err(refused) = checked {
            return Ok(Err(refused));
        }
        let mut bytes = 0;
        for commit in batch {
            // The check has seen the owner; asking again costs a comparison of names.
            let owner = batch::owner(self.path, commit).ok().flatten();
            bytes += self.rows.write(place, owner, commit)?;
        }
        Ok(Ok((u64::try_from(batch.len()).unwrap_or(u64::MAX), bytes)))
    }

    /// Whether a batch can be written, or why not. The outer error is SQLite's.
    fn check(&mut self, place: Place, batch: &[Commit]) -> rusqlite::Result<Result<(), Error>> {
        self.rows.begin_batch();
        let mut failure = None;
        let checked = batch::check(self.path, batch, |id, first| {
            self.rows.last(place, id, first).map_err(|error| {
                let told = failed(self.path, &error);
                failure = Some(error);
                told
            })
        });
        failure.map_or(Ok(checked), Err)
    }

    fn give_up(&mut self, error: &Error) {
        let reason = match error {
            Error::Failed { reason, .. } => reason.clone(),
            other => other.to_string(),
        };
        tracing::error!(path = self.path, reason, "the store writes no more");
        self.broken = Some(reason);
        // SQLite has rolled back already after most failures; then this fails, and that is as good.
        drop(self.connection.execute_batch("rollback"));
    }

    fn refusal(&self, reason: &str) -> Error {
        Error::Failed { path: self.path.to_owned(), reason: reason.to_owned() }
    }
}

/// The thread: takes what is queued, writes it, until the store is dropped and the queue is empty.
fn write(connection: &Connection, path: &str, counters: &Counters, queue: &mpsc::Receiver<Job>) {
    let rows = match Rows::prepare(connection) {
        Ok(rows) => rows,
        Err(error) => {
            for job in queue {
                acknowledge(path, job.done, Err(failed(path, &error)));
            }
            return;
        }
    };
    let mut session = Session { path, connection, rows, counters, broken: None };
    let mut last = 0;
    while let Ok(first) = queue.recv() {
        if last >= BUSY {
            std::thread::sleep(GATHER);
        }
        let mut commits = first.work.commits();
        let mut group = vec![first];
        while commits < GROUP
            && let Ok(job) = queue.try_recv()
        {
            commits += job.work.commits();
            group.push(job);
        }
        last = commits;
        session.transact(group);
    }
}

/// Whether a row with the same unique values is there.
fn is_taken(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(failure, _)
        if failure.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE)
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}

fn weight(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

/// Calls `done`. One that panics must not take the writer with it: others wait for theirs.
fn acknowledge(path: &str, done: Done, result: Result<(), Error>) {
    if std::panic::catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!(path, "an acknowledgement of the store panicked");
    }
}

impl Work {
    fn commits(&self) -> usize {
        match self {
            Work::Batch(_, batch) => batch.len(),
            Work::Deploy(..) | Work::Location(_) => 1,
        }
    }
}

fn gone(path: &str) -> Error {
    Error::Failed { path: path.to_owned(), reason: "the writer thread has ended: start again".into() }
}
