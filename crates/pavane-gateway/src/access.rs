//! The access log: a line of JSON for each answer, in the fields of the Elastic Common Schema. Lines gather in memory and
//! are written by a thread of their own, so that no request waits for a disk.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// So many bytes are written as soon as they are there: a write of this size costs hardly more than one of a line.
const BATCH: usize = 64 << 10;

/// Lines wait no longer than this for others: whoever looks at the file sees what has just happened.
const WAIT: Duration = Duration::from_secs(1);

/// Bytes that may wait for the disk; what comes beyond is left out and counted. Some seconds of a busy gateway.
const MOST: usize = 8 << 20;

/// What a line tells.
pub(crate) struct Entry<'a> {
    pub client: &'a str,
    pub method: &'a str,
    /// Without its query, which may hold what no log should.
    pub path: &'a str,
    pub status: u16,
    pub took: Duration,
    /// Bytes of the answer's body, if that is known when it begins.
    pub bytes: Option<u64>,
    /// Its id, in characters that need no escape.
    pub id: &'a str,
    /// The name of its route; empty if there is none.
    pub route: &'a str,
}

/// How long a stopping gateway waits for its last lines.
const LAST: Duration = Duration::from_secs(2);

/// An access log; it ends, with all of it written, when the last handle does.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog(Arc<Door>);

/// What all handles share. The writer does not: it ends when this does.
#[derive(Debug)]
struct Door(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    waiting: Mutex<Waiting>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: String,
    /// Lines that were left out since the last write.
    left_out: u64,
    /// What the lines of the present second begin with.
    second: u64,
    stamp: String,
    /// The file is opened again before the next write.
    reopen: bool,
    /// Lines are written at once, however few.
    hurry: bool,
    writing: bool,
    ended: bool,
}

impl AccessLog {
    /// Opens a file to append to.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<AccessLog> {
        let file = append(path)?;
        let shared = Shared { path: path.to_owned(), waiting: Mutex::default(), bell: Condvar::new() };
        let shared = Arc::new(shared);
        let writer = Writer(shared.clone());
        std::thread::Builder::new().name("access log".into()).spawn(move || writer.run(file))?;
        Ok(AccessLog(Arc::new(Door(shared))))
    }

    /// Whether it writes to this file.
    pub fn is_at(&self, path: &Path) -> bool {
        self.0.0.path == path
    }

    /// Opens its file again: it may have been moved away, to make room for a new one.
    pub fn reopen(&self) {
        self.0.0.waiting().reopen = true;
    }

    /// Waits until everything is written, for two seconds at most.
    pub async fn flush(&self) {
        let written = async {
            loop {
                {
                    let mut waiting = self.0.0.waiting();
                    if waiting.lines.is_empty() && !waiting.writing {
                        return;
                    }
                    waiting.hurry = true;
                    self.0.0.bell.notify_one();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(LAST, written).await.is_err() {
            tracing::warn!(path = %self.0.0.path.display(), "the last lines of the access log could not be written in time");
        }
    }

    /// Enters an answer.
    pub fn enter(&self, entry: &Entry<'_>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let shared = &self.0.0;
        let mut waiting = shared.waiting();
        if waiting.lines.len() >= MOST {
            waiting.left_out += 1;
            return;
        }
        let before = waiting.lines.len();
        waiting.line(now, entry);
        // Rung once for each batch, not for each line.
        if before < BATCH && waiting.lines.len() >= BATCH {
            shared.bell.notify_one();
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.0.waiting().ended = true;
        self.0.bell.notify_one();
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn line(&mut self, now: Duration, entry: &Entry<'_>) {
        if now.as_secs() != self.second || self.stamp.is_empty() {
            self.second = now.as_secs();
            self.stamp = format!("{{\"@timestamp\":\"{}", second(self.second));
        }
        let lines = &mut self.lines;
        lines.push_str(&self.stamp);
        // Writing to a text cannot fail.
        let _ = write!(
            lines,
            ".{:03}Z\",\"log.level\":\"info\",\"message\":\"answered\",\"ecs.version\":\"8.11.0\",\"client.ip\":\"",
            now.subsec_millis()
        );
        lines.push_str(entry.client);
        lines.push_str("\",\"http.request.method\":\"");
        lines.push_str(entry.method);
        lines.push_str("\",\"url.path\":\"");
        escape(lines, entry.path);
        lines.push_str("\",\"labels.route\":\"");
        escape(lines, entry.route);
        let _ = write!(
            lines,
            "\",\"http.response.status_code\":{},\"event.duration\":{},",
            entry.status,
            entry.took.as_nanos()
        );
        if let Some(bytes) = entry.bytes {
            let _ = write!(lines, "\"http.response.body.bytes\":{bytes},");
        }
        lines.push_str("\"http.request.id\":\"");
        lines.push_str(entry.id);
        lines.push_str("\"}\n");
    }
}

/// What writes.
struct Writer(Arc<Shared>);

impl Writer {
    fn run(self, file: File) {
        let (mut file, mut lines) = (Some(file), String::new());
        loop {
            let mut waiting = self.0.waiting();
            waiting.writing = false;
            if waiting.lines.len() < BATCH && !waiting.ended && !waiting.hurry {
                let woken = self.0.bell.wait_timeout(waiting, WAIT);
                waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
            std::mem::swap(&mut waiting.lines, &mut lines);
            (waiting.writing, waiting.hurry) = (true, false);
            let (reopen, ended) = (std::mem::take(&mut waiting.reopen), waiting.ended);
            let left_out = std::mem::take(&mut waiting.left_out);
            drop(waiting);
            if left_out > 0 {
                tracing::warn!(lines = left_out, path = %self.0.path.display(), "the access log is slower than requests come: lines were left out");
            }
            if reopen || file.is_none() {
                file = append(&self.0.path).map_err(|error| self.failed(&error)).ok();
            }
            if let Some(Err(error)) = file.as_mut().map(|file| file.write_all(lines.as_bytes())) {
                self.failed(&error);
                file = None;
            }
            lines.clear();
            if ended {
                return;
            }
        }
    }

    fn failed(&self, error: &io::Error) {
        tracing::warn!(%error, path = %self.0.path.display(), "the access log cannot be written; it is tried again");
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Text within quotes of JSON.
fn escape(into: &mut String, text: &str) {
    if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        return into.push_str(text);
    }
    for c in text.chars() {
        match c {
            '"' | '\\' => into.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(into, "\\u{:04x}", u32::from(c));
            }
            c => into.push(c),
        }
    }
}

/// A second since 1970 as RFC 3339 writes it, in UTC, without a zone.
fn second(since_epoch: u64) -> String {
    let (days, rest) = (since_epoch / 86_400, since_epoch % 86_400);
    // After Howard Hinnant's `civil_from_days`: years that begin in March, in eras of 400.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * march + 2) / 5 + 1, if march < 10 { march + 3 } else { march - 9 });
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_written_as_dates() {
        for (since_epoch, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_709_251_200, "2024-03-01T00:00:00"),
            (4_102_444_799, "2099-12-31T23:59:59"),
        ] {
            assert_eq!(second(since_epoch), text);
        }
    }

    fn entry(path: &str) -> Entry<'_> {
        let client = "127.0.0.1";
        let took = Duration::from_micros(1_500);
        Entry { client, method: "GET", path, status: 200, took, bytes: Some(3), id: "a-1", route: "1 /x" }
    }

    /// The lines of a file, once there are so many.
    fn lines(path: &Path, count: usize) -> Vec<serde_json::Value> {
        for _ in 0..500 {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if text.lines().count() >= count {
                return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{} has no {count} lines", path.display());
    }

    #[test]
    fn every_line_is_json_whatever_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&path).unwrap();
        for asked in ["/x", "/a\"b\\c", "/\u{1}"] {
            log.enter(&entry(asked));
        }
        drop(log);
        let lines = lines(&path, 3);
        let paths: Vec<_> = lines.iter().map(|line| line["url.path"].as_str().unwrap()).collect();
        assert_eq!(paths, ["/x", "/a\"b\\c", "/\u{1}"]);
        assert_eq!(
            (&lines[0]["http.response.status_code"], &lines[0]["event.duration"]),
            (&200.into(), &1_500_000.into())
        );
        assert!(lines[0]["@timestamp"].as_str().unwrap().ends_with('Z'), "{}", lines[0]);
    }

    #[test]
    fn a_file_that_was_moved_away_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let log = AccessLog::open(&path).unwrap();
        log.enter(&entry("/before"));
        lines(&path, 1);
        std::fs::rename(&path, &moved).unwrap();
        log.reopen();
        log.enter(&entry("/after"));
        assert_eq!(lines(&path, 1)[0]["url.path"], "/after");
        assert_eq!(lines(&moved, 1).len(), 1);
    }

    #[test]
    fn what_waits_for_the_disk_is_limited() {
        let shared = Shared { path: PathBuf::new(), waiting: Mutex::default(), bell: Condvar::new() };
        // Nobody writes.
        let log = AccessLog(Arc::new(Door(Arc::new(shared))));
        let long = "/".repeat(8 << 10);
        (0..3 * MOST / long.len()).for_each(|_| log.enter(&entry(&long)));
        let waiting = log.0.0.waiting();
        assert!(waiting.lines.len() < MOST + 2 * long.len() && waiting.left_out > 0, "{}", waiting.lines.len());
    }
}
