//! One process to a store: a lock file beside the database that says who holds it.
//!
//! The operating system drops the lock when its holder ends, however it ends; the file stays, because removing it would
//! let two processes lock two files of one name. It must never be judged by its content: only the lock counts.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use pavane_core::Timestamp;

use crate::Error;

/// How often a waiting process asks again: quick for a person, nothing for the machine.
const POLL: Duration = Duration::from_millis(20);

/// What is read of the holder's line; anything longer was not written by us.
const LINE: u64 = 200;

/// The lock of one store, held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of the database at `file`, waiting up to `wait`. Errors call the store `path`.
    pub(super) fn take(file: &Path, path: &str, wait: Duration) -> Result<Lock, Error> {
        let name = name(file);
        let fail = |what: &str, error: &std::io::Error| Error::Failed {
            path: path.to_owned(),
            reason: format!(
                "the lock file {} cannot be {what} ({error}): give this user write access to the directory, or name \
                 another store with `store.sqlite.path`",
                name.display()
            ),
        };
        let mut held = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&name)
            .map_err(|e| fail("opened", &e))?;
        let start = Instant::now();
        loop {
            match held.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if start.elapsed() < wait => {
                    std::thread::sleep(POLL.min(wait.saturating_sub(start.elapsed())));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Locked { path: path.to_owned(), holder: holder(&mut held) });
                }
                Err(TryLockError::Error(e)) => return Err(fail("locked", &e)),
            }
        }
        sign(&mut held).map_err(|e| fail("written", &e))?;
        Ok(Lock { file: held })
    }
}

impl Drop for Lock {
    /// Closing the file is not enough: a process that is just being started by this one has a copy of it until it runs
    /// its own program, and the lock belongs to all copies.
    fn drop(&mut self) {
        // Were it to fail, the operating system lets go when the last copy is closed.
        let _ = self.file.unlock();
    }
}

/// `FILE.lock`
fn name(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// Writes who holds the lock from now on.
fn sign(file: &mut File) -> std::io::Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = Timestamp(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "process {} since {now}", std::process::id())
}

/// Who holds the lock, as far as the file tells.
fn holder(file: &mut File) -> String {
    let mut line = String::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(LINE).read_to_string(&mut line));
    match line.trim() {
        text if read.is_ok() && !text.is_empty() => text.to_owned(),
        _ => "another process".to_owned(),
    }
}
