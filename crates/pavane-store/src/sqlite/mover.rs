//! Moving the log into the file, beside the writer.
//!
//! SQLite's own way is that the transaction which makes the log long enough also moves it: everybody who waits for that
//! transaction, or for one behind it, waits for thousands of pages and for their fsync, too. Here a thread with a
//! connection of its own moves the log while the writer goes on. Meanwhile the log grows; that small rest is moved by the
//! writer, between two transactions, because only a log that is moved whole begins anew. How a log is moved, and what a
//! crash in the middle of it means, is SQLite's affair alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use rusqlite::Connection;
use rusqlite::hooks::Wal;

/// The log is short, or nobody has looked at it.
const RESTS: u8 = 0;
/// The thread moves it.
const MOVES: u8 = 1;
/// The thread has moved what it could: the rest is the writer's.
const REST_IS_LEFT: u8 = 2;
/// The store is being closed.
const ENDS: u8 = 3;

/// How often the thread goes over the log: what was written during the last time is little.
const ROUNDS: usize = 2;

/// The thread that moves the log of one file.
#[derive(Debug)]
pub(super) struct Mover {
    stage: Arc<AtomicU8>,
    thread: Option<JoinHandle<()>>,
}

impl Mover {
    /// Starts to move the log of `writer` into the file whenever it has `pages`. `own` is another connection to that file.
    pub(super) fn start(writer: &mut Connection, own: Connection, path: &str, pages: u32) -> Result<Mover, String> {
        let stage = Arc::new(AtomicU8::new(RESTS));
        let thread = std::thread::Builder::new().name("pavane-log".into()).spawn({
            let (stage, path) = (stage.clone(), path.to_owned());
            move || wait_and_move(&own, &stage, &path)
        });
        let thread = thread.map_err(|e| {
            format!("the thread that moves its log cannot be started ({e}): allow this user more threads")
        })?;
        let (handle, seen) = (thread.thread().clone(), stage.clone());
        let mut due = pages;
        let committed = move |log: &mut Wal, length: std::ffi::c_int| {
            let length = u32::try_from(length).unwrap_or_default();
            if length < pages {
                due = pages;
                return Ok(());
            }
            match seen.load(Ordering::Acquire) {
                RESTS if length >= due => {
                    // What cannot be moved now (the disk is full, somebody reads what was there long ago) is not tried again
                    // with each transaction.
                    due = length.saturating_add(pages / 4);
                    seen.store(MOVES, Ordering::Release);
                    handle.unpark();
                }
                REST_IS_LEFT => {
                    seen.store(RESTS, Ordering::Release);
                    // What fails is tried again, too, and a transaction would tell of a disk that is full.
                    drop(log.checkpoint());
                }
                _ => {}
            }
            Ok(())
        };
        let mover = Mover { stage, thread: Some(thread) };
        // In place of SQLite's own hook, which moves the log there and then.
        writer.wal_hook(Some(committed)).map_err(|e| e.to_string())?;
        Ok(mover)
    }
}

impl Drop for Mover {
    /// Waits until its connection is closed.
    fn drop(&mut self) {
        self.stage.store(ENDS, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It panics on nothing.
            drop(thread.join());
        }
    }
}

fn wait_and_move(own: &Connection, stage: &AtomicU8, path: &str) {
    loop {
        match stage.load(Ordering::Acquire) {
            ENDS => return,
            MOVES => {
                if let Err(error) = (0..ROUNDS).try_for_each(|_| move_log(own)) {
                    tracing::warn!(path, %error, "the log of the store was not moved into its file; it is tried again");
                }
                // Not when the store is being closed.
                let _ = stage.compare_exchange(MOVES, REST_IS_LEFT, Ordering::AcqRel, Ordering::Acquire);
            }
            _ => std::thread::park(),
        }
    }
}

fn move_log(own: &Connection) -> rusqlite::Result<()> {
    own.query_row("pragma wal_checkpoint(passive)", [], |_| Ok(()))
}
