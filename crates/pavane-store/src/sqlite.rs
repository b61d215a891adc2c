//! The durable store: one SQLite file, one thread that writes it, a few connections that read it.
//!
//! [`Sqlite::open`] takes the lock (`lock`), brings the schema up to date (`schema`) and starts the writer (`writer`), beside
//! which the log is moved into the file (`mover`); reads go through a small pool (`reader`). A file can hold the stores of several locations ([`Sqlite::location`]): what
//! they write shares transactions, and each sees its own (`place`). The text of a message between two of them is written once. This module holds what they share: how a
//! connection is set up and how SQLite's errors are told to an operator. It must know no workflow rule and start no
//! second writer.

mod lock;
mod mover;
mod place;
mod reader;
mod schema;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pavane_core::Timestamp;
use pavane_core::event::CloudEvent;
use pavane_core::record::{JournalEntry, ServiceTask, Status, WorkflowInstance};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use place::Place;

use crate::{Commit, DeadLetter, Deployed, Done, Due, Error, History, Outgoing, Page, Query, Store};

/// Size of a page: rows of 300 to 500 bytes share one; measured, 8 KiB wrote faster than SQLite's 4 KiB.
const PAGE_BYTES: i64 = 8_192;

/// Pages in the write-ahead log before they are moved to the file (48 MiB), beside the writer: seldom enough that a page
/// which every transaction writes is moved once for many; little enough that opening after a crash takes a fraction of a
/// second.
const CHECKPOINT_PAGES: u32 = 6_000;

/// What the log file shrinks to after it had to grow (64 MiB).
const LOG_BYTES: i64 = 67_108_864;

/// Memory for pages, for each connection, in KiB: the inner pages of every index of some million rows.
const CACHE_KIB: i64 = 16_384;

/// How long a reader waits for SQLite's own locks: only while another connection opens or closes the file.
const BUSY: Duration = Duration::from_secs(5);

/// How long the writer waits for a person's shell or a backup that holds the file for writing. A commit is late then;
/// past this the other program is taken to hang, and the operator is told.
const WRITER_BUSY: Duration = Duration::from_secs(30);

/// A store in one SQLite file: a handle of a location's part of it.
///
/// A commit is acknowledged when its transaction is on the disk (`synchronous=FULL`). After a transaction failed, every
/// later commit fails with the same reason until the store is opened anew: what the caller holds in memory is ahead of
/// the disk by then, and writing on would leave a hole in the history.
#[derive(Debug)]
pub struct Sqlite {
    file: Arc<File>,
    place: Place,
}

/// What the handles of one file share.
#[derive(Debug)]
struct File {
    readers: reader::Pool,
    writer: writer::Writer,
}

/// What a store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transactions made durable, each with one fsync of the log.
    pub transactions: u64,
    /// Commits made durable.
    pub commits: u64,
    /// Bytes of JSON and definitions in the rows made durable, without SQLite's own overhead.
    pub bytes: u64,
}

/// How a store is opened; the defaults are for everybody but the tests.
#[derive(Debug)]
struct Settings {
    wait: Duration,
    /// Upper bound of the file in pages; SQLite reports a full disk beyond it.
    max_pages: Option<i64>,
    /// Pages in the log before they are moved.
    log_pages: u32,
}

impl Settings {
    fn usual(wait: Duration) -> Settings {
        Settings { wait, max_pages: None, log_pages: CHECKPOINT_PAGES }
    }
}

impl Sqlite {
    /// Opens the store at `path`, or makes it. Waits up to `wait` for another process to let go of it.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process (or another store in this one) still holds it after `wait`;
    /// [`Error::Newer`] when a newer Pavane wrote it; [`Error::Failed`] when it cannot be opened, read or written, is no
    /// SQLite database, or belongs to another program.
    pub fn open(path: impl AsRef<Path>, wait: Duration) -> Result<Sqlite, Error> {
        Sqlite::open_with(path.as_ref(), &Settings::usual(wait))
    }

    /// The store of another location in the same file: what it holds is told from everybody else's, and what it writes
    /// shares transactions with them. A name leads to the same location whenever the file is opened.
    ///
    /// # Errors
    /// [`Error::Failed`] when the file cannot be written, or holds as many locations as it can (32,767).
    pub fn location(&self, name: &str) -> Result<Sqlite, Error> {
        let known = || self.file.readers.read(|c| reader::place(c, name));
        let place = match known()? {
            Some(place) => place,
            None => {
                self.file.writer.add_location(name)?;
                known()?.ok_or_else(|| self.file.writer.gone())?
            }
        };
        if place.0 > place::MAX {
            let reason = format!("it holds {} locations, as many as it can: name another store", place::MAX);
            return Err(Error::Failed { path: self.file.writer.path().to_owned(), reason });
        }
        Ok(Sqlite { file: self.file.clone(), place })
    }

    /// What was written to the file since it was opened, by all its locations.
    pub fn stats(&self) -> Stats {
        self.file.writer.stats()
    }

    /// How many commits shared a transaction, and how many seconds the end of a transaction took, fsync included.
    pub fn distributions(&self) -> (pavane_watch::Reading, pavane_watch::Reading) {
        self.file.writer.distributions()
    }

    fn open_with(path: &Path, settings: &Settings) -> Result<Sqlite, Error> {
        let file = resolve(path)?;
        let path = path.display().to_string();
        let lock = lock::Lock::take(&file, &path, settings.wait)?;
        let mut connection = Connection::open_with_flags(
            &file,
            flags(OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE),
        )
        .map_err(|e| failed(&path, &e))?;
        prepare(&connection, settings).map_err(|e| failed(&path, &e))?;
        schema::migrate(&mut connection, &path, schema::MIGRATIONS)?;
        let own = Connection::open_with_flags(&file, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))
            .map_err(|e| failed(&path, &e))?;
        let mover = mover::Mover::start(&mut connection, own, &path, settings.log_pages)
            .map_err(|reason| Error::Failed { path: path.clone(), reason })?;
        let readers = reader::Pool::new(file, path.clone());
        let writer = writer::Writer::start(connection, mover, lock, path)?;
        Ok(Sqlite { file: Arc::new(File { readers, writer }), place: Place::OWN })
    }
}

impl Store for Sqlite {
    fn commit(&self, batch: Vec<Commit>, done: Done) {
        self.file.writer.commit(self.place, batch, done);
    }

    /// The locations of one file have one writer, which takes batches as they come.
    fn order(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.file).addr())
    }

    fn deploy(&self, definition: &Deployed) -> Result<(), Error> {
        self.file.writer.deploy(self.place, definition)
    }

    fn definitions(&self) -> Result<Vec<Deployed>, Error> {
        self.file.readers.read(|c| reader::definitions(c, self.place))
    }

    fn instance(&self, id: &str) -> Result<Option<WorkflowInstance>, Error> {
        self.file.readers.read(|c| reader::instance(c, self.place, id))
    }

    fn instances(&self, query: &Query) -> Result<Page, Error> {
        let before = crate::batch::cursor(query)?;
        self.file.readers.read(|c| reader::instances(c, self.place, query, before))
    }

    fn tasks(&self, instance: &str) -> Result<Vec<ServiceTask>, Error> {
        self.file.readers.read(|c| reader::tasks(c, self.place, instance))
    }

    fn journal(&self, instance: &str, after: u64, limit: usize) -> Result<Vec<JournalEntry>, Error> {
        self.file.readers.read(|c| reader::journal(c, self.place, instance, after, limit))
    }

    fn due(&self, owed: bool, until: Timestamp, limit: usize) -> Result<Vec<(String, Due)>, Error> {
        self.file.readers.read(|c| reader::due(c, self.place, owed, until, limit))
    }

    fn subscribers(&self, event_type: &str) -> Result<Vec<String>, Error> {
        self.file.readers.read(|c| reader::subscribers(c, self.place, event_type))
    }

    fn published(&self, reader: &str, limit: usize) -> Result<Vec<(u64, CloudEvent)>, Error> {
        self.file.readers.read(|c| reader::published(c, self.place, reader, limit))
    }

    fn outgoing(&self, after: u64, limit: usize) -> Result<Vec<(u64, Outgoing)>, Error> {
        self.file.readers.read(|c| reader::outgoing(c, self.place, after, limit))
    }

    fn open_instances(&self) -> Result<Vec<(Status, u64)>, Error> {
        self.file.readers.read(|c| reader::open_instances(c, self.place))
    }

    fn last_position(&self) -> Result<u64, Error> {
        self.file.readers.read(|c| reader::last_position(c, self.place))
    }

    fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        self.file.readers.read(|c| reader::dead_letters(c, self.place, limit))
    }

    fn cursor(&self, reader: &str) -> Result<u64, Error> {
        self.file.readers.read(|c| reader::cursor(c, self.place, reader))
    }

    fn history(&self, steps_after: u64, tasks_after: u64, limit: usize) -> Result<History, Error> {
        self.file.readers.read(|c| reader::history(c, self.place, steps_after, tasks_after, limit))
    }
}

impl Drop for File {
    /// Writes what is queued, then closes the file. The readers go first: the last connection to close moves the log
    /// into the file, and that is the writer.
    fn drop(&mut self) {
        self.readers.close();
        self.writer.close();
    }
}

/// The file that `path` means, so that two names of one file share one lock.
fn resolve(path: &Path) -> Result<PathBuf, Error> {
    if let Ok(file) = path.canonicalize() {
        return Ok(file);
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fail = |reason: String| Error::Failed { path: path.display().to_string(), reason };
    let directory = parent.canonicalize().map_err(|e| {
        fail(format!("the directory {} cannot be used ({e}): create it, or name another store", parent.display()))
    })?;
    let name = path.file_name().ok_or_else(|| fail("this names no file: give the path of a database file".into()))?;
    Ok(directory.join(name))
}

/// Each connection stays with one thread at a time, so SQLite needs no mutex of its own; the path is never a URI.
fn flags(access: OpenFlags) -> OpenFlags {
    access | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// Sets the writer's connection up. The page size counts only before the first table is made.
fn prepare(connection: &Connection, settings: &Settings) -> rusqlite::Result<()> {
    connection.busy_timeout(WRITER_BUSY)?;
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0))?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // The writer knows its rows, and a migration makes a table anew while others refer to it.
    connection.pragma_update(None, "foreign_keys", false)?;
    if let Some(pages) = settings.max_pages {
        connection.pragma_update(None, "max_page_count", pages)?;
    }
    Ok(())
}

/// SQLite's error in an operator's words: what happened, and what to do.
fn failed(path: &str, error: &rusqlite::Error) -> Error {
    let remedy = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full: make room, then start again",
        Some(ErrorCode::NotADatabase) => "the file is no SQLite database: name another store with `store.sqlite.path`",
        Some(ErrorCode::DatabaseCorrupt) => {
            "the database is damaged: stop, keep a copy, and restore the last backup (`sqlite3 FILE .recover` may save rows)"
        }
        Some(ErrorCode::SystemIoFailure) => "the disk failed to read or write: check the medium, then start again",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "the file cannot be written: give this user write access to the file and its directory"
        }
        Some(ErrorCode::CannotOpen) => {
            "the file cannot be opened: check that the path names a file and that this user may write it and its directory"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program holds the database: close it (an open sqlite3 shell with a transaction, a backup)"
        }
        Some(ErrorCode::OutOfMemory) => "there is not enough memory: free some, then start again",
        Some(ErrorCode::TooBig) => "a row is larger than SQLite can hold (1 GB): bound what the workflow keeps",
        _ => "the database does not hold what it should: keep a copy, and restore the last backup",
    };
    Error::Failed { path: path.to_owned(), reason: format!("{remedy} ({error})") }
}

#[cfg(test)]
mod tests;
