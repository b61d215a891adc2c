//! What only the SQLite store does: locks, failures of the medium, migration of a stored file, its own figures.
//! The contract it shares with the other stores is tested in `tests/contract/main.rs`.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::sync::mpsc;
use std::time::Instant;

use pavane_core::definition::Mode;
use pavane_core::record::{Compensation, Status};
use pavane_core::value::Value;
use tempfile::TempDir;

use super::*;
use crate::Taken;

/// A directory of its own and the path of a database in it.
fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pavane.db");
    (directory, path)
}

fn open(path: &Path) -> Sqlite {
    Sqlite::open(path, Duration::ZERO).unwrap()
}

fn refused(path: &Path) -> Error {
    Sqlite::open(path, Duration::ZERO).unwrap_err()
}

fn put(store: &Sqlite, batch: Vec<Commit>) -> Result<(), Error> {
    let (send, result) = mpsc::channel();
    store.commit(batch, Box::new(move |r| send.send(r).unwrap()));
    result.recv_timeout(Duration::from_secs(60)).unwrap()
}

fn start(id: &str, payload: &str) -> Commit {
    let instance = WorkflowInstance {
        id: id.into(),
        namespace: "shop".into(),
        name: "order".into(),
        version: "1.0.0".into(),
        digest: "d".into(),
        mode: Mode::Orchestration,
        status: Status::Running,
        correlation_id: id.into(),
        input: Value::NULL,
        output: None,
        error: None,
        compensation: Compensation::default(),
        start_time: Timestamp(1_763_850_000_123),
        end_time: None,
        parent_id: None,
        parent_task: None,
    };
    Commit { instance: Some(instance), ..step(id, 1, payload) }
}

fn step(id: &str, seq: u64, payload: &str) -> Commit {
    let entry = JournalEntry {
        workflow_instance_id: id.into(),
        seq,
        timestamp: Timestamp(1_763_850_000_123),
        event_type: "started".into(),
        subject: String::new(),
        service_task_id: Some(format!("{id}:1")),
        correlation_id: id.into(),
        causation_id: None,
        payload: payload.into(),
    };
    Commit { entry: Some(entry), ..Commit::default() }
}

#[test]
fn a_store_is_held_by_one_at_a_time() {
    let (directory, path) = place();
    let first = open(&path);
    // Another name of the same file is the same store.
    let other = directory.path().join(".").join("pavane.db");
    let Error::Locked { holder, .. } = refused(&other) else { panic!("the store is not locked") };
    assert!(holder.starts_with(&format!("process {} since 20", std::process::id())), "{holder}");

    let began = Instant::now();
    let waiting = std::thread::spawn({
        let path = path.clone();
        move || Sqlite::open(&path, Duration::from_secs(30)).map(drop)
    });
    std::thread::sleep(Duration::from_millis(100));
    drop(first);
    waiting.join().unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "the wait ends when the lock is free");
    open(&path);
}

#[test]
fn closing_writes_what_is_queued_and_leaves_one_file() {
    let (directory, path) = place();
    let store = open(&path);
    let (send, results) = mpsc::channel();
    for n in 0..500 {
        let send = send.clone();
        store.commit(vec![start(&format!("i{n}"), "[]")], Box::new(move |r| send.send(r.is_ok()).unwrap()));
    }
    drop(store);
    assert_eq!(results.try_iter().filter(|ok| *ok).count(), 500);
    let mut files: Vec<_> =
        directory.path().read_dir().unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["pavane.db", "pavane.db.lock"], "the log is moved into the file");
    assert!(open(&path).instance("i499").unwrap().is_some());
}

#[test]
fn what_is_there_is_not_begun_again_though_nobody_remembers_it() {
    let (_directory, path) = place();
    put(&open(&path), vec![start("i", "[]")]).unwrap();
    let store = open(&path);
    let message = |n: u64, envelope: &str| Outgoing {
        to: "s".into(),
        envelope: format!("{envelope} {n}").into(),
        content: None,
        redelivered: false,
    };
    let (send, results) = mpsc::channel();
    // They share transactions as it comes: what is beside the refused one stands in any case.
    for n in 1..=60 {
        let batch = match n % 3 {
            0 => vec![Commit { send: vec![(n, message(n, "refused"))], ..start("i", "[]") }],
            1 => vec![Commit { send: vec![(n, message(n, "kept"))], ..start(&format!("new{n}"), "[]") }],
            _ => vec![step(&format!("new{}", n - 1), 2, "[]")],
        };
        let send = send.clone();
        store.commit(batch, Box::new(move |r| send.send((n, r)).unwrap()));
    }
    for (n, result) in results.iter().take(60) {
        match n % 3 {
            0 => assert!(matches!(result, Err(Error::Conflict { seq: 1, .. })), "{n}: {result:?}"),
            _ => assert!(result.is_ok(), "{n}: {result:?}"),
        }
    }
    let sent: Vec<_> = store.outgoing(0, 100).unwrap().into_iter().map(|(n, m)| (n, m.envelope.to_string())).collect();
    let kept: Vec<_> = (1..=60).filter(|n| n % 3 == 1).map(|n| (n, format!("kept {n}"))).collect();
    assert_eq!(sent, kept);
    assert_eq!(store.journal("i", 0, 9).unwrap().len(), 1);
    assert_eq!(store.journal("new58", 0, 9).unwrap().len(), 2);
    assert!(put(&store, vec![step("i", 2, "[]")]).is_ok());
}

#[test]
fn the_last_owner_may_be_an_acknowledgement() {
    let (_directory, path) = place();
    let store = std::sync::Arc::new(open(&path));
    let (go, gone) = mpsc::channel::<()>();
    let last = std::sync::Arc::clone(&store);
    store.commit(
        vec![start("i", "[]")],
        Box::new(move |result| {
            gone.recv().unwrap();
            result.unwrap();
            drop(last);
        }),
    );
    drop(store);
    go.send(()).unwrap();
    assert!(Sqlite::open(&path, Duration::from_secs(30)).unwrap().instance("i").unwrap().is_some());
}

#[test]
fn a_panicking_acknowledgement_does_not_stop_the_writer() {
    let (_directory, path) = place();
    let store = open(&path);
    store.commit(vec![start("i", "[]")], Box::new(|_| panic!("on purpose")));
    put(&store, vec![step("i", 2, "[]")]).unwrap();
}

#[test]
fn a_full_disk_stops_the_writing_and_loses_nothing() {
    let (_directory, path) = place();
    let store = Sqlite::open_with(&path, &Settings { max_pages: Some(60), ..Settings::usual(Duration::ZERO) }).unwrap();
    put(&store, vec![start("i", "[]")]).unwrap();
    let payload = "x".repeat(40_000);
    let (acknowledged, error) =
        (2..).find_map(|seq| put(&store, vec![step("i", seq, &payload)]).err().map(|error| (seq - 1, error))).unwrap();
    assert!(error.to_string().contains("the disk is full: make room"), "{error}");
    let path_named = path.file_name().unwrap().to_str().unwrap();
    assert!(error.to_string().contains(path_named), "{error}");
    // A small commit would fit: it is refused all the same, with the same reason. So is a deployment.
    let later = put(&store, vec![start("j", "[]")]).unwrap_err();
    assert_eq!(later.to_string(), error.to_string());
    let definition = Deployed {
        namespace: "n".into(),
        name: "n".into(),
        version: "1".into(),
        digest: String::new(),
        text: String::new(),
        resources: String::new(),
        deployed_at: Timestamp(0),
    };
    assert_eq!(store.deploy(&definition).unwrap_err().to_string(), error.to_string());
    assert_eq!(store.journal("i", 0, 999).unwrap().last().map(|e| e.seq), Some(acknowledged), "reads go on");
    drop(store);
    let store = open(&path);
    assert_eq!(store.journal("i", 0, 999).unwrap().last().map(|e| e.seq), Some(acknowledged));
    put(&store, vec![step("i", acknowledged + 1, &payload)]).unwrap();
}

#[test]
fn a_damaged_file_is_told_and_not_written_on() {
    let (_directory, path) = place();
    let store = open(&path);
    for n in 0..300 {
        put(&store, vec![start(&format!("i{n}"), &"x".repeat(500))]).unwrap();
    }
    drop(store);
    // Every page but those that hold the version and the names of the tables.
    let connection = Connection::open(&path).unwrap();
    let mut statement = connection.prepare("select pageno from dbstat where name <> 'sqlite_schema'").unwrap();
    let pages: Vec<u32> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    drop(statement);
    connection.close().unwrap();
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    let size = u64::try_from(PAGE_BYTES).unwrap();
    for page in pages {
        file.seek(SeekFrom::Start(u64::from(page - 1) * size)).unwrap();
        file.write_all(&vec![0xA5; usize::try_from(size).unwrap()]).unwrap();
    }
    drop(file);
    let store = open(&path);
    for error in [store.instance("i7").unwrap_err(), put(&store, vec![start("new", "[]")]).unwrap_err()] {
        assert!(error.to_string().contains("damaged") && error.to_string().contains("backup"), "{error}");
    }
    assert!(put(&store, vec![start("again", "[]")]).is_err());
}

#[test]
fn places_that_cannot_hold_a_store_are_told_with_a_remedy() {
    let (directory, path) = place();
    std::fs::write(&path, "order 7: two books\n".repeat(1_000)).unwrap();
    let mut cases = vec![
        (path, "is no SQLite database"),
        (directory.path().join("absent/pavane.db"), "create it, or name another store"),
        (directory.path().to_owned(), "the file cannot be opened"),
        (PathBuf::from("/"), "cannot be"),
    ];
    if cfg!(target_os = "linux") {
        // Nobody may write here, not even root.
        cases.push((PathBuf::from("/proc/pavane.db"), "give this user write access"));
    }
    for (path, remedy) in cases {
        let error = refused(&path).to_string();
        assert!(error.contains(remedy), "{}: {error}", path.display());
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    }
}

#[test]
fn a_file_of_version_1_is_read() {
    let (_directory, path) = place();
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(schema::MIGRATIONS[0]).unwrap();
    connection.execute_batch(include_str!("../../tests/fixtures/rows-1.sql")).unwrap();
    connection.execute_batch("pragma user_version = 1; pragma application_id = 0x5041564e").unwrap();
    connection.close().unwrap();
    let store = open(&path);
    let id = "0193f0a0-0000-7000-8000-000000000001";
    let row = store.instance(id).unwrap().unwrap();
    assert_eq!(
        (row.status, row.correlation_id.as_str(), row.input.to_json().as_str()),
        (Status::Waiting, "outer", r#"{"order":7}"#)
    );
    let task = &store.tasks(id).unwrap()[0];
    assert_eq!((task.id.clone(), task.output_data.clone()), (format!("{id}:1"), Some(Value::NULL)));
    let journal = store.journal(id, 0, 9).unwrap();
    assert_eq!((journal.len(), journal[0].correlation_id.as_str()), (2, id));
    assert_eq!(journal[1].service_task_id.as_ref(), Some(&task.id));
    assert_eq!(store.subscribers("other").unwrap(), [id]);
    assert_eq!(
        store.due(true, Timestamp(i64::MAX), 9).unwrap(),
        [(id.to_owned(), Due::At(Timestamp(1_763_850_060_000)))]
    );
    assert_eq!(store.published("r", 9).unwrap()[0].1.type_(), "shop.paid");
    assert_eq!(store.definitions().unwrap().len(), 1);
    put(&store, vec![step(id, 3, "[]")]).unwrap();
}

#[test]
fn a_file_of_a_newer_program_is_refused() {
    let (_directory, path) = place();
    drop(open(&path));
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let error = refused(&path);
    assert!(matches!(error, Error::Newer { found: 7, known: 5, .. }), "{error}");
}

/// The log is moved while others write: it begins anew again and again, and what was acknowledged is all there.
#[test]
fn the_log_stays_short_while_instances_step() {
    const PAGES: u32 = 40;
    let (_directory, path) = place();
    let store = Sqlite::open_with(&path, &Settings { log_pages: PAGES, ..Settings::usual(Duration::ZERO) }).unwrap();
    let payload = format!("[\"{}\"]", "x".repeat(5_000));
    put(&store, vec![start("i", &payload)]).unwrap();
    // Each transaction writes some three pages, of which one is new.
    let steps = 3_000;
    for seq in 2..=steps {
        put(&store, vec![step("i", seq, &payload)]).unwrap();
    }
    let bytes = |name: &str| path.with_file_name(name).metadata().unwrap().len();
    let log = bytes("pavane.db-wal") / u64::try_from(PAGE_BYTES).unwrap();
    assert!(log < 1_000, "the log came to {log} pages");
    drop(store);
    assert_eq!(open(&path).journal("i", 0, usize::MAX).unwrap().len() as u64, steps);
}

/// A commit is acknowledged when it is on the disk, not when the operating system has it.
#[test]
fn the_writer_waits_for_the_disk() {
    let (_directory, path) = place();
    let connection = Connection::open(&path).unwrap();
    prepare(&connection, &Settings::usual(Duration::ZERO)).unwrap();
    let journal: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
    assert_eq!((journal.as_str(), synchronous), ("wal", 2), "2 is FULL");
}

#[test]
fn people_read_the_tables_by_name() {
    let (_directory, path) = place();
    let store = open(&path);
    put(&store, vec![start("i", "[]")]).unwrap();
    let shell = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let line = |sql: &str| -> String { shell.query_row(sql, [], |row| row.get(0)).unwrap() };
    for (sql, expected) in [
        (
            "select id || ' ' || status || ' ' || start_time || ' ' || compensation from workflow_instance",
            "i running 2025-11-22T22:20:00.123Z none",
        ),
        (
            "select workflow_instance_id || ' ' || event_type || ' ' || source || ' ' || timestamp || ' ' || service_task_id \
          || ' ' || correlation_id from event",
            "i started shop/order 2025-11-22T22:20:00.123Z i:1 i",
        ),
    ] {
        assert_eq!(line(sql), expected);
    }
    for view in ["workflow_instance", "service_task", "event", "subscription", "published_event", "definition"] {
        shell.prepare(&format!("select * from {view}")).unwrap().query([]).unwrap().next().unwrap();
    }
}

#[test]
fn queries_use_their_indexes() {
    let (_directory, path) = place();
    drop(open(&path));
    let connection = Connection::open(&path).unwrap();
    for (sql, index) in [
        ("select uid from instance_row where due is not null and due <= 1 order by due, key limit 1", "instance_due"),
        ("select * from event where workflow_instance_id = 'x' order by seq", "event_by_instance"),
        ("select * from service_task where workflow_instance_id = 'x'", "task_by_instance"),
        ("select instance from subscription_row where type = 'x' or type is null", "subscription_by_type"),
    ] {
        let mut statement = connection.prepare(&format!("explain query plan {sql}")).unwrap();
        let plan: Vec<String> = statement.query_map([], |row| row.get(3)).unwrap().map(Result::unwrap).collect();
        assert!(plan.iter().any(|step| step.contains(index)), "{sql}: {plan:?}");
        assert!(!plan.iter().any(|step| step.starts_with("SCAN") && !step.contains("INDEX")), "{sql}: {plan:?}");
    }
}

#[test]
fn batches_that_gather_share_a_transaction() {
    let (_directory, path) = place();
    let store = open(&path);
    let (go, gate) = mpsc::channel::<()>();
    let (reached, stands) = mpsc::channel();
    // The writer stands in the first acknowledgement while the others queue up.
    store.commit(
        vec![start("first", "[]")],
        Box::new(move |_| {
            reached.send(()).unwrap();
            gate.recv().unwrap();
        }),
    );
    stands.recv().unwrap();
    let (send, results) = mpsc::channel();
    for n in 0..100 {
        let send = send.clone();
        let id = if n == 50 { "first".to_owned() } else { format!("i{n}") };
        store.commit(vec![start(&id, "[1]")], Box::new(move |r| send.send(r.is_ok()).unwrap()));
    }
    go.send(()).unwrap();
    assert_eq!(results.iter().take(100).filter(|ok| *ok).count(), 99, "the one that conflicts fails alone");
    let stats = store.stats();
    assert_eq!((stats.transactions, stats.commits), (2, 100));
    assert!(stats.bytes >= 99 * 3, "{stats:?}");
}

#[test]
fn locations_of_a_file_know_nothing_of_each_other_and_find_their_own_again() {
    let (_directory, path) = place();
    let file = open(&path);
    let [a, b] = ["a", "b"].map(|name| file.location(name).unwrap());
    put(&file, vec![start("i", "[0]")]).unwrap();
    put(&a, vec![start("i", "[1]"), step("i", 2, "[2]")]).unwrap();
    // What one of them has is not there for another, not even to be gone on with.
    assert!(b.instance("i").unwrap().is_none() && b.journal("i", 0, 9).unwrap().is_empty());
    assert!(put(&b, vec![step("i", 3, "[]")]).is_err());
    put(&b, vec![start("i", "[3]")]).unwrap();
    let payloads = |store: &Sqlite| -> Vec<String> {
        store.journal("i", 0, 9).unwrap().into_iter().map(|entry| entry.payload).collect()
    };
    let seen = [payloads(&file), payloads(&a), payloads(&b)];
    assert_eq!(seen, [vec!["[0]"], vec!["[1]", "[2]"], vec!["[3]"]]);
    // The file is open until the last of them is gone.
    drop((file, b));
    assert!(matches!(refused(&path), Error::Locked { .. }));
    drop(a);
    let file = open(&path);
    let [b, a] = ["b", "a"].map(|name| file.location(name).unwrap());
    assert_eq!([payloads(&file), payloads(&a), payloads(&b)], seen);
    // People see an instance once, and what was done to it everywhere.
    let shell = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let line = |sql: &str| -> String { shell.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(line("select group_concat(id) from workflow_instance"), "i");
    let steps =
        line("select group_concat(ifnull(location, 'here') || ' ' || seq) from (select * from event order by id)");
    assert_eq!(steps, "here 1,a 1,a 2,b 1");
}

#[test]
fn a_part_that_has_nothing_to_say_has_no_row() {
    let (_directory, path) = place();
    let file = open(&path);
    let [a, b] = ["a", "b"].map(|name| file.location(name).unwrap());
    let part = |status: Status| {
        let mut commit = start("i", "[]");
        commit.instance = commit.instance.map(|row| WorkflowInstance { mode: Mode::Choreography, status, ..row });
        commit
    };
    put(&file, vec![part(Status::Running)]).unwrap();
    put(&a, vec![part(Status::Completed)]).unwrap();
    put(&b, vec![part(Status::Waiting)]).unwrap();
    let shell = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let line = |sql: &str| -> String { shell.query_row(sql, [], |row| row.get(0)).unwrap() };
    let rows = || line("select group_concat(location) from (select location from instance_row order by location)");
    assert_eq!(rows(), "0,2");
    let steps = "select group_concat(ifnull(location, 'here') || ' ' || seq) from (select * from event order by id)";
    assert_eq!(line(steps), "here 1,a 1,b 1");
    // It gets one when it has.
    let more = Commit { entry: step("i", 2, "[]").entry, due: Due::Now, ..part(Status::Completed) };
    put(&a, vec![more]).unwrap();
    assert_eq!(rows(), "0,1,2");
    assert_eq!(a.due(true, Timestamp(0), 9).unwrap(), [("i".to_owned(), Due::Now)]);
    assert_eq!(line(steps), "here 1,a 1,b 1,a 2");
    // Nobody takes a part for new that is there, whoever remembers it.
    assert!(matches!(put(&a, vec![part(Status::Completed)]), Err(Error::Conflict { seq: 1, .. })));
    drop((file, a, b));
    let a = open(&path).location("a").unwrap();
    assert!(matches!(put(&a, vec![part(Status::Completed)]), Err(Error::Conflict { seq: 1, .. })));
}

#[test]
fn parts_of_a_file_of_version_4_are_found() {
    let (_directory, path) = place();
    let mut connection = Connection::open(&path).unwrap();
    schema::migrate(&mut connection, "t", &schema::MIGRATIONS[..4]).unwrap();
    // More instances than a key has room for parts: each new key is some old one's.
    connection
        .execute_batch(
            "insert into location_row (name) values ('a');
             with recursive n(key) as (select 1 union all select key + 1 from n where key < 33000)
             insert into instance_row (key, uid, location, status, namespace, name, version, start_time, mode, digest, \
               compensation, input)
             select key, 'i' || (key / 2), key % 2, 'running', 'shop', 'order', '1.0.0', 0, 'choreography', 'd', \
               '{\"status\":\"none\",\"compensated\":[],\"unresolved\":[]}', 'null' from n;
             insert into event_row (instance, seq, timestamp, event_type, subject, payload)
             select key, 1, 0, 'started', '', '[' || uid || ',' || location || ']' from instance_row",
        )
        .unwrap();
    connection.close().unwrap();
    let file = open(&path);
    let a = file.location("a").unwrap();
    for id in ["i1", "i16384"] {
        for (store, location) in [(&file, 0), (&a, 1)] {
            assert_eq!(store.journal(id, 0, 9).unwrap()[0].payload, format!("[{id},{location}]"));
            put(store, vec![step(id, 2, "[]")]).unwrap();
            assert_eq!(store.journal(id, 0, 9).unwrap().len(), 2);
        }
    }
    assert_eq!(a.history(0, 0, 100_000).unwrap().steps.0.len(), 16_500 + 2);
}

fn sent(position: u64, envelope: &str) -> Commit {
    let message = Outgoing { to: "a".into(), envelope: envelope.into(), content: None, redelivered: false };
    Commit { send: vec![(position, message)], ..Commit::default() }
}

#[test]
fn a_message_within_a_file_is_handed_over_with_the_step_it_leads_to() {
    let (_directory, path) = place();
    let file = open(&path);
    let [a, b] = ["a", "b"].map(|name| file.location(name).unwrap());
    let data = r#"{"token":"\u00e9\",\"data\":"}"#;
    let envelope = format!(r#"{{"id":"1","data":{data}}}"#);
    let payload = format!(r#"[{{"arrived":{data}}},{{"entered":1}}]"#);
    let taken = |from: &str| Some(Taken { from: from.into(), position: 7, data: data.into() });
    for (sender, from) in [(&file, "engine"), (&b, "b")] {
        put(sender, vec![sent(7, &envelope), sent(8, "{}")]).unwrap();
        assert_eq!(sender.outgoing(0, 9).unwrap()[0].1.envelope.text(), envelope);
        let id = format!("from {from}");
        put(&a, vec![Commit { taken: taken(from), ..start(&id, &payload) }]).unwrap();
        // It is its receiver's now, and nothing that its sender does takes it away.
        let left: Vec<u64> = sender.outgoing(0, 9).unwrap().into_iter().map(|(position, _)| position).collect();
        assert_eq!(left, [8], "{from}");
        put(sender, vec![Commit { delivered: vec![7, 8], ..Commit::default() }]).unwrap();
        assert_eq!(a.journal(&id, 0, 9).unwrap()[0].payload, payload);
        assert_eq!(a.history(0, 0, 9).unwrap().steps.0.pop().unwrap().0.payload, payload);
    }
    drop((file, a, b));
    let shell = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let count = |sql: &str| -> i64 { shell.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(count("select count(*) from message_row"), 2, "written once, and kept with the steps");
    let shown: String = shell.query_row("select payload from event limit 1", [], |row| row.get(0)).unwrap();
    assert_eq!(shown, payload);
}

#[test]
fn messages_that_stay_on_their_way_get_rows() {
    let (_directory, path) = place();
    let count = |sql: &str| -> i64 {
        let shell = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        shell.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let mut file = open(&path);
    let mut a = file.location("a").unwrap();
    let data = |n: u64| format!(r#"{{"number":{n}}}"#);
    let going = |n: u64| sent(n, &format!(r#"{{"id":"{n}","data":{}}}"#, data(n))).send;
    // The first with its step, the others alone.
    put(&file, vec![Commit { send: going(1), ..start("i", "[]") }]).unwrap();
    for n in 2..=40 {
        put(&file, vec![Commit { send: going(n), ..Commit::default() }]).unwrap();
    }
    let on_their_way =
        |store: &Sqlite| -> Vec<u64> { store.outgoing(0, 99).unwrap().iter().map(|(n, _)| *n).collect() };
    let rows = "select count(*) from outgoing_row";
    assert!((1..40).contains(&count(rows)), "{}", count(rows));
    assert_eq!((count("select count(*) from outgoing_message"), on_their_way(&file)), (40, (1..=40).collect()));
    // Whoever opens the file finds both kinds, and either can be taken, delivered or lost.
    let mut left: Vec<u64> = (1..=40).collect();
    for (taken, delivered, dead) in [(1, 2, 3), (40, 39, 38)] {
        drop((file, a));
        file = open(&path);
        a = file.location("a").unwrap();
        assert_eq!((file.last_position().unwrap(), on_their_way(&file)), (*left.last().unwrap(), left.clone()));
        let commit = Commit {
            taken: Some(Taken { from: "engine".into(), position: taken, data: data(taken).into() }),
            ..start(&taken.to_string(), &format!("[{}]", data(taken)))
        };
        put(&a, vec![commit]).unwrap();
        let dead = vec![(dead, "lost".to_owned())];
        put(&file, vec![Commit { delivered: vec![taken, delivered], dead, ..Commit::default() }]).unwrap();
        assert_eq!(a.journal(&taken.to_string(), 0, 9).unwrap()[0].payload, format!("[{}]", data(taken)));
        left.retain(|n| *n != taken && *n != delivered && dead_of(&file).iter().all(|dead| dead != n));
        assert_eq!(on_their_way(&file), left);
    }
    assert_eq!(dead_of(&file), [3, 38]);
    put(&file, vec![Commit { redrive: vec![3, 38], ..Commit::default() }]).unwrap();
    assert_eq!(on_their_way(&file), (3..=38).collect::<Vec<u64>>());
}

fn dead_of(store: &Sqlite) -> Vec<u64> {
    store.dead_letters(99).unwrap().into_iter().map(|letter| letter.position).collect()
}

#[test]
fn a_message_that_is_not_in_the_file_is_written_with_its_step() {
    let (_directory, path) = place();
    let file = open(&path);
    let a = file.location("a").unwrap();
    let data = r#"{"token":1}"#;
    put(&file, vec![sent(7, r#"{"id":"2","data":{"token":2}}"#)]).unwrap();
    let payload = format!("[{data}]");
    for (number, from) in ["engine", "a", "elsewhere"].into_iter().enumerate() {
        let taken = Some(Taken { from: from.into(), position: 7, data: data.into() });
        let id = format!("i{number}");
        put(&a, vec![Commit { taken, ..start(&id, &payload) }]).unwrap();
        assert_eq!(a.journal(&id, 0, 9).unwrap()[0].payload, payload);
    }
    // Another one, which has that position here, is still on its way.
    assert_eq!(file.outgoing(0, 9).unwrap().len(), 1);
    // One that was written in other words than the payload holds stays what it is.
    let taken = Some(Taken { from: "engine".into(), position: 7, data: r#"{"token":2}"#.into() });
    put(&a, vec![Commit { taken, ..start("i", "[{}]") }]).unwrap();
    assert_eq!((a.journal("i", 0, 9).unwrap()[0].payload.as_str(), file.outgoing(0, 9).unwrap().len()), ("[{}]", 1));
}

#[test]
fn locations_share_transactions() {
    let (_directory, path) = place();
    let file = open(&path);
    let [a, b] = ["a", "b"].map(|name| file.location(name).unwrap());
    let before = file.stats().transactions;
    let (go, gate) = mpsc::channel::<()>();
    let (reached, stands) = mpsc::channel();
    file.commit(
        vec![start("i", "[]")],
        Box::new(move |_| {
            reached.send(()).unwrap();
            gate.recv().unwrap();
        }),
    );
    stands.recv().unwrap();
    let (send, results) = mpsc::channel();
    for store in [&a, &b] {
        let send = send.clone();
        store.commit(vec![start("i", "[]")], Box::new(move |r| send.send(r.is_ok()).unwrap()));
    }
    go.send(()).unwrap();
    assert_eq!(results.iter().take(2).filter(|ok| *ok).count(), 2);
    let stats = b.stats();
    assert_eq!((stats.transactions - before, stats.commits), (2, 3));
}

#[test]
fn the_lock_file_alone_locks_nothing() {
    let (directory, path) = place();
    File::create(directory.path().join("pavane.db.lock")).unwrap().write_all(b"process 1 since long ago").unwrap();
    open(&path);
}

#[test]
fn the_page_on_records_names_every_column() {
    let (_directory, path) = place();
    drop(open(&path));
    let connection = Connection::open(&path).unwrap();
    let page = include_str!("../../../../docs/records.md");
    for view in ["workflow_instance", "service_task", "event"] {
        let (_, rest) = page.split_once(&format!("\n## `{view}`\n")).unwrap();
        let rows = rest.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| `"));
        let named: BTreeSet<&str> =
            rows.flat_map(|row| row.split(" | ").next().unwrap().split('`').skip(1).step_by(2)).collect();
        let mut statement = connection.prepare(&format!("select * from {view}")).unwrap();
        let columns: BTreeSet<&str> = statement.column_names().collect();
        assert_eq!(named, columns, "{view}");
        // Reading a row's form runs the view.
        assert!(!statement.exists([]).unwrap());
    }
}

#[test]
fn what_is_written_to_one_file_has_one_order() {
    let ((_one, path), (_other, elsewhere)) = (place(), place());
    let (one, other) = (open(&path), open(&elsewhere));
    assert!(one.order().is_some());
    assert_eq!(one.order(), one.location("s").unwrap().order());
    assert_ne!(one.order(), other.order());
    assert_eq!(crate::Memory::new().order(), None);
}
