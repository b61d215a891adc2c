//! What every store must do, run on each backend, and both backends held against each other.
//!
//! Add a backend by adding a line to [`backends`]. `kill` is for the stores that outlive their process.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails in a test fails the test")]

#[cfg(unix)]
mod kill;
mod support;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use pavane_core::Timestamp;
use pavane_core::definition::Mode;
use pavane_core::engine::Subscription;
use pavane_core::record::{JournalEntry, Status};
use pavane_core::value::{Texts, Value};
use pavane_store::{
    Commit, DeadLetter, Due, Error, History, Memory, OBSERVED, Observed, Outgoing, Query, Sqlite, Store,
};
use proptest::prelude::*;
use support::*;

/// Runs `check` on an empty store of each kind.
fn backends(check: impl Fn(Arc<dyn Store>)) {
    check(Arc::new(Memory::new()));
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    check(Arc::new(Sqlite::open(path("contract.db"), Duration::ZERO).unwrap()));
    check(Arc::new(between_others(&path("shared.db"))));
}

/// The store of a location in a file in which the one before it and the one after it have the same instances.
fn between_others(path: &std::path::Path) -> Sqlite {
    let file = Sqlite::open(path, Duration::ZERO).unwrap();
    let [before, between, after] = ["before", "between", "after"].map(|name| file.location(name).unwrap());
    for other in [file, before, after] {
        for id in ["i", "i0", "i1", "i2", "i3"] {
            let subscriptions = Some(vec![Subscription::All]);
            let (tasks, publish) = (vec![task(id, 1)], vec![event("other's")]);
            let commit = Commit { due: Due::Now, tasks, subscriptions, publish, ..start(id) };
            put(&other, vec![commit, Commit { send: vec![message(1), message(2)], ..Commit::default() }]).unwrap();
            let dead = vec![(2, "other's".to_owned())];
            let consumed = vec![("r".to_owned(), 99), ("reader".to_owned(), 99)];
            put(&other, vec![Commit { dead, consumed, ..Commit::default() }]).unwrap();
        }
        other.deploy(&deployed("other", "1.0.0", "other's")).unwrap();
    }
    between
}

fn all() -> Query {
    Query { limit: 100, ..Query::default() }
}

#[test]
fn rows_are_read_back_as_they_were_written() {
    backends(|store| {
        let mut row = instance("i1", Status::Faulted);
        row.correlation_id = "outer".into();
        row.input =
            Value::parse(r#"{"größe":"雪\u0000\"","n":[1,2.5,123456789012345678901234567890,null]}"#.as_bytes())
                .unwrap();
        row.output = Some(Value::NULL);
        row.error = Some(problem());
        row.end_time = Some(Timestamp(-5));
        row.parent_id = Some("p".into());
        row.parent_task = Some("/do/0/x".into());
        let mut step = entry("i1", 1);
        step.service_task_id = Some("i1:10".into());
        step.causation_id = Some("key".into());
        step.correlation_id = "outer".into();
        let mut task = task("i1", 10);
        task.error = Some(problem());
        task.output_data = None;
        task.compensates = Some("i1:3".into());
        let commit = Commit {
            entry: Some(step.clone()),
            instance: Some(row.clone()),
            tasks: vec![task.clone()],
            ..Commit::default()
        };
        put(&*store, vec![commit]).unwrap();
        let read = store.instance("i1").unwrap().unwrap();
        assert_eq!(read, row);
        assert_eq!(read.input.to_json(), row.input.to_json(), "numbers keep their digits, keys their order");
        assert_eq!(read.output, Some(Value::NULL), "an output of null is an output");
        assert_eq!(store.tasks("i1").unwrap(), [task]);
        assert_eq!(store.journal("i1", 0, 10).unwrap(), [step]);
        assert_eq!(store.instance("other").unwrap(), None);
        assert_eq!(store.tasks("other").unwrap(), []);
        assert_eq!(store.journal("other", 0, 10).unwrap(), []);
    });
}

#[test]
fn large_rows_are_kept_whole() {
    backends(|store| {
        let text = "größe ".repeat(300_000);
        let mut commit = start("big");
        commit.entry.as_mut().unwrap().payload = format!("[\"{text}\"]");
        commit.instance.as_mut().unwrap().input = Value::text(&text);
        put(&*store, vec![commit.clone()]).unwrap();
        assert_eq!(store.journal("big", 0, 1).unwrap()[0], commit.entry.unwrap());
        assert_eq!(store.instance("big").unwrap(), commit.instance);
    });
}

#[test]
fn the_journal_is_read_in_pages() {
    backends(|store| {
        put(&*store, vec![start("i"), step("i", 2), step("i", 3)]).unwrap();
        put(&*store, vec![step("i", 4)]).unwrap();
        for (after, limit, expected) in [
            (0, 2, vec![1, 2]),
            (2, 2, vec![3, 4]),
            (3, 9, vec![4]),
            (4, 9, vec![]),
            (u64::MAX, 9, vec![]),
            (0, 0, vec![]),
        ] {
            let seqs: Vec<_> = store.journal("i", after, limit).unwrap().iter().map(|e| e.seq).collect();
            assert_eq!(seqs, expected, "after {after}, limit {limit}");
        }
    });
}

#[test]
fn a_position_is_written_once_and_without_gaps() {
    backends(|store| {
        put(&*store, vec![start("i"), step("i", 2)]).unwrap();
        for (batch, seq) in [
            (vec![start("i")], 1),
            (vec![step("i", 2)], 2),
            (vec![step("i", 4)], 4),
            (vec![step("i", 0)], 0),
            (vec![step("new", 2)], 2),
            (vec![step("i", 3), step("i", 3)], 3),
            (vec![start("j"), start("j")], 1),
        ] {
            let error = put(&*store, batch).unwrap_err();
            assert!(matches!(&error, Error::Conflict { seq: s, .. } if *s == seq), "{seq}: {error}");
        }
        assert_eq!(store.journal("i", 0, 10).unwrap().len(), 2, "a refused batch leaves nothing");
        assert_eq!(store.instance("j").unwrap(), None);
        put(&*store, vec![step("i", 3)]).unwrap();
    });
}

#[test]
fn a_batch_is_all_or_nothing_and_its_neighbours_stand() {
    backends(|store| {
        let (send, results) = mpsc::channel();
        let batches = [
            vec![start("a"), start("b")],
            vec![start("c"), publish("lost"), step("b", 9)],
            vec![step("a", 2), publish("kept")],
        ];
        for (number, batch) in batches.into_iter().enumerate() {
            let send = send.clone();
            store.commit(batch, Box::new(move |result| send.send((number, result.is_ok())).unwrap()));
        }
        let results: Vec<_> = results.iter().take(3).collect();
        assert_eq!(results, [(0, true), (1, false), (2, true)], "acknowledged in order");
        assert_eq!(store.instance("c").unwrap(), None);
        assert_eq!(store.journal("a", 0, 9).unwrap().len(), 2);
        let published: Vec<_> = store.published("r", 9).unwrap().iter().map(|(at, e)| (*at, e.id())).collect();
        assert_eq!(published, [(1, "kept".to_owned())]);
    });
}

#[test]
fn rows_that_belong_nowhere_are_refused_alone() {
    backends(|store| {
        put(&*store, vec![start("i")]).unwrap();
        let mut strange = step("i", 2);
        strange.tasks = vec![task("i", 1)];
        strange.tasks[0].id = "i:01".into();
        let mut mixed = step("i", 2);
        mixed.tasks = vec![task("j", 1)];
        let unowned = Commit { subscriptions: Some(vec![Subscription::All]), ..Commit::default() };
        let orphan = Commit { entry: Some(entry("nobody", 1)), ..Commit::default() };
        for (commit, reason) in [
            (strange, "is not of the form"),
            (mixed, "two instances"),
            (unowned, "subscriptions"),
            (orphan, "does not exist"),
        ] {
            let error = put(&*store, vec![commit]).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        put(&*store, vec![step("i", 2)]).unwrap();
    });
}

#[test]
fn tasks_are_replaced_by_id_and_come_in_the_order_of_their_start() {
    backends(|store| {
        let mut commit = start("i");
        commit.tasks = vec![task("i", 10), task("i", 9), task("i", 2)];
        commit.tasks[2].start_time = Timestamp(99_000);
        put(&*store, vec![commit]).unwrap();
        let mut ended = task("i", 9);
        ended.status = Status::Completed;
        ended.attempt = 3;
        // Before the instance ended, and without a step of its own.
        put(&*store, vec![Commit { tasks: vec![ended.clone()], ..Commit::default() }]).unwrap();
        let tasks = store.tasks("i").unwrap();
        assert_eq!(tasks.iter().map(|t| t.id.as_str()).collect::<Vec<_>>(), ["i:9", "i:10", "i:2"]);
        assert_eq!(tasks[0], ended);
    });
}

#[test]
fn what_is_due_comes_soonest_first() {
    backends(|store| {
        let at = |t| Due::At(Timestamp(t));
        for (id, due) in
            [("later", at(50)), ("input", Due::OnInput), ("now", Due::Now), ("soon", at(-7)), ("also", at(50))]
        {
            put(&*store, vec![Commit { due, ..start(id) }]).unwrap();
        }
        let due = |until, limit| store.due(true, Timestamp(until), limit).unwrap();
        let named = |list: &[(&str, Due)]| list.iter().map(|(id, d)| ((*id).to_owned(), *d)).collect::<Vec<_>>();
        assert_eq!(due(50, 9), named(&[("now", Due::Now), ("soon", at(-7)), ("later", at(50)), ("also", at(50))]));
        assert_eq!(due(49, 9), named(&[("now", Due::Now), ("soon", at(-7))]));
        assert_eq!(due(i64::MIN, 9), named(&[("now", Due::Now)]));
        assert_eq!(due(50, 1), named(&[("now", Due::Now)]));
        assert_eq!(store.due(false, Timestamp(49), 1).unwrap(), named(&[("soon", at(-7))]));
        // A step without a row changes nothing, a row does, also when the instance has ended: a loser may still be owed.
        put(&*store, vec![Commit { due: at(1), ..step("soon", 2) }]).unwrap();
        put(&*store, vec![Commit { due: at(60), instance: Some(instance("now", Status::Waiting)), ..step("now", 2) }])
            .unwrap();
        put(
            &*store,
            vec![Commit {
                due: Due::OnInput,
                instance: Some(instance("later", Status::Completed)),
                ..step("later", 2)
            }],
        )
        .unwrap();
        assert_eq!(due(99, 9), named(&[("soon", at(-7)), ("also", at(50)), ("now", at(60))]));
    });
}

#[test]
fn subscriptions_are_replaced_as_a_set() {
    backends(|store| {
        let of = |name: &str| Subscription::Type(name.into());
        let subscribed = |seq, id: &str, to: Vec<Subscription>| Commit { subscriptions: Some(to), ..step(id, seq) };
        put(&*store, vec![start("a"), start("b"), start("c")]).unwrap();
        put(&*store, vec![subscribed(2, "b", vec![of("x"), of("x"), of("y"), Subscription::All])]).unwrap();
        put(&*store, vec![subscribed(2, "a", vec![of("x")]), subscribed(2, "c", vec![of("X"), of("")])]).unwrap();
        assert_eq!(store.subscribers("x").unwrap(), ["a", "b"]);
        assert_eq!(store.subscribers("").unwrap(), ["b", "c"]);
        assert_eq!(store.subscribers("z").unwrap(), ["b"]);
        put(&*store, vec![subscribed(3, "b", vec![of("y")]), step("a", 3)]).unwrap();
        assert_eq!(store.subscribers("x").unwrap(), ["a"], "absent: unchanged");
        assert_eq!(store.subscribers("y").unwrap(), ["b"]);
        put(&*store, vec![subscribed(4, "b", vec![]), subscribed(4, "a", vec![])]).unwrap();
        assert_eq!(store.subscribers("y").unwrap(), [""; 0]);
    });
}

#[test]
fn the_outbox_numbers_events_without_gaps() {
    backends(|store| {
        put(&*store, vec![publish("1"), publish("2")]).unwrap();
        put(&*store, vec![publish("x"), start("i"), start("i")]).unwrap_err();
        let mut both = start("i");
        both.publish = [publish("3").publish, publish("4").publish].concat();
        put(&*store, vec![both]).unwrap();
        let read = |after: u64, limit| -> Vec<_> {
            let reader = format!("from {after}");
            put(&*store, vec![Commit { consumed: vec![(reader.clone(), after)], ..Commit::default() }]).unwrap();
            store.published(&reader, limit).unwrap().into_iter().map(|(at, e)| (at, e.id())).collect()
        };
        let expected: Vec<_> = (1..=4).map(|n: u64| (n, n.to_string())).collect();
        assert_eq!(read(0, 9), expected);
        assert_eq!(read(1, 2), expected[1..3]);
        assert_eq!(read(4, 9), []);
        assert_eq!(read(u64::MAX, 9), []);
    });
}

fn waiting(store: &dyn Store) -> Vec<(u64, Outgoing)> {
    store.outgoing(0, 99).unwrap()
}

fn messages(commit: Commit) -> Vec<Commit> {
    vec![commit]
}

#[test]
fn messages_go_out_with_their_step_and_leave_when_they_are_delivered() {
    backends(|store| {
        assert_eq!(store.last_position().unwrap(), 0);
        let mut refused = step("nobody", 1);
        refused.send = vec![message(1)];
        put(&*store, vec![refused]).unwrap_err();
        let mut step = start("i");
        step.send = vec![message(1), message(2)];
        put(&*store, vec![step]).unwrap();
        put(&*store, messages(Commit { send: vec![message(5)], ..Commit::default() })).unwrap();
        assert_eq!(waiting(&*store), [message(1), message(2), message(5)]);
        assert_eq!(store.outgoing(1, 1).unwrap(), [message(2)]);
        assert_eq!(store.outgoing(u64::MAX, 9).unwrap(), []);
        put(&*store, messages(Commit { delivered: vec![1, 5, 5, 77], ..Commit::default() })).unwrap();
        assert_eq!(waiting(&*store), [message(2)]);
        assert_eq!(store.last_position().unwrap(), 2);
        // Whatever of it comes in one batch.
        let (gone, sent) = (
            Commit { delivered: vec![2], ..Commit::default() },
            Commit { send: vec![message(2)], ..Commit::default() },
        );
        put(&*store, vec![gone.clone(), sent.clone()]).unwrap();
        assert_eq!(waiting(&*store), [message(2)]);
        put(&*store, vec![gone.clone(), sent.clone(), gone.clone()]).unwrap();
        assert_eq!(waiting(&*store), []);
        put(&*store, vec![sent.clone(), gone, sent]).unwrap();
        assert_eq!(waiting(&*store), [message(2)]);
    });
}

#[test]
fn a_dead_letter_is_kept_with_its_reason_and_can_be_sent_again() {
    backends(|store| {
        put(&*store, messages(Commit { send: vec![message(1), message(2)], ..Commit::default() })).unwrap();
        let dead = vec![(2, "nobody knows it".to_owned()), (2, "again".to_owned()), (9, "not there".to_owned())];
        put(&*store, messages(Commit { dead, ..Commit::default() })).unwrap();
        assert_eq!(waiting(&*store), [message(1)]);
        // Its position stays taken.
        assert_eq!(store.last_position().unwrap(), 2);
        let letter = DeadLetter { position: 2, message: message(2).1, reason: "nobody knows it".into() };
        assert_eq!(store.dead_letters(9).unwrap(), [letter]);
        assert_eq!(store.dead_letters(0).unwrap(), []);
        put(&*store, messages(Commit { redrive: vec![2, 2, 1, 9], ..Commit::default() })).unwrap();
        assert_eq!(waiting(&*store), [message(1), message(2)]);
        assert_eq!(store.dead_letters(9).unwrap(), []);
    });
}

#[test]
fn what_was_observed_elsewhere_is_shown_and_moves_no_journal() {
    backends(|store| {
        put(&*store, vec![start("i"), start("j"), step("i", 2)]).unwrap();
        let seen = |id, seq| Observed::Step(entry(id, OBSERVED + seq));
        let nobody = [seen("nobody", 1), Observed::Task(task("nobody", 1))];
        let observed = [seen("i", 2), seen("j", 7), seen("i", 1), Observed::Task(task("i", 16_777_217))];
        let observed = observed.into_iter().chain(nobody).collect();
        let copy = Commit { observed, consumed: vec![("at".into(), 7), ("by".into(), 9)], ..Commit::default() };
        put(&*store, vec![copy.clone(), copy]).unwrap();
        put(&*store, vec![step("i", 3)]).unwrap();
        let later = |seq| entry("i", OBSERVED + seq);
        let expected = [entry("i", 1), entry("i", 2), entry("i", 3), later(1), later(2)];
        assert_eq!(store.journal("i", 0, 9).unwrap(), expected);
        assert_eq!(store.journal("i", 2, 2).unwrap(), expected[2..4]);
        assert_eq!(store.journal("i", OBSERVED + 1, 9).unwrap(), expected[4..]);
        assert_eq!(store.journal("j", 1, 9).unwrap(), [entry("j", OBSERVED + 7)]);
        assert_eq!(store.tasks("i").unwrap(), [task("i", 16_777_217)]);
        assert!(store.instance("nobody").unwrap().is_none());
        let cursors = ["at", "by", "other"].map(|reader| store.cursor(reader).unwrap());
        assert_eq!(cursors, [7, 9, 0]);
        let own = Commit { observed: vec![Observed::Step(entry("i", 4))], ..Commit::default() };
        assert!(put(&*store, vec![own]).unwrap_err().to_string().contains("its own"));
        put(&*store, vec![Commit { entry: Some(later(1)), ..Commit::default() }]).unwrap_err();
    });
}

#[test]
fn a_history_is_read_on_from_where_it_was_left() {
    backends(|store| {
        let mut first = start("a");
        first.tasks = vec![task("a", 2), task("a", 1)];
        put(&*store, vec![first, start("b"), step("a", 2)]).unwrap();
        let seen = Observed::Step(entry("a", OBSERVED));
        put(&*store, vec![Commit { observed: vec![seen], ..Commit::default() }]).unwrap();
        let mut last = step("b", 2);
        last.tasks = vec![task("b", 1)];
        put(&*store, vec![last]).unwrap();
        let digest = start("a").instance.unwrap().digest;
        let with = |entries: &[JournalEntry]| entries.iter().map(|e| (e.clone(), digest.clone())).collect::<Vec<_>>();
        let History { steps: (steps, step_at), tasks: (tasks, task_at) } = store.history(0, 0, 2).unwrap();
        assert_eq!(steps, with(&[entry("a", 1), entry("b", 1)]));
        assert_eq!(tasks, [task("a", 2), task("a", 1)]);
        let History { steps: (steps, step_at), tasks: (tasks, task_at) } = store.history(step_at, task_at, 9).unwrap();
        assert_eq!(steps, with(&[entry("a", 2), entry("b", 2)]));
        assert_eq!(tasks, [task("b", 1)]);
        let end = store.history(step_at, task_at, 9).unwrap();
        assert_eq!(end, History { steps: (vec![], step_at), tasks: (vec![], task_at) });
    });
}

#[test]
fn instances_are_listed_newest_first_in_pages() {
    backends(|store| {
        for n in 0..7_u32 {
            let mut commit = start(&format!("i{n}"));
            let row = commit.instance.as_mut().unwrap();
            row.start_time = Timestamp(i64::from(n));
            row.status = if n % 2 == 0 { Status::Running } else { Status::Completed };
            row.name = if n < 5 { "order" } else { "refund" }.into();
            row.namespace = if n < 2 { "old" } else { "shop" }.into();
            row.mode = if n < 4 { Mode::Orchestration } else { Mode::Choreography };
            if n == 3 || n == 5 {
                row.correlation_id = "i2".into();
            }
            put(&*store, vec![commit]).unwrap();
        }
        let open = [(Status::Pending, 0), (Status::Running, 4), (Status::Waiting, 0), (Status::Suspended, 0)];
        assert_eq!(store.open_instances().unwrap(), open);
        let ids = |query: Query| -> Vec<String> {
            store.instances(&query).unwrap().instances.into_iter().map(|i| i.id).collect()
        };
        for (query, expected) in [
            (all(), vec!["i6", "i5", "i4", "i3", "i2", "i1", "i0"]),
            (Query { workflow: Some("order".into()), ..all() }, vec!["i4", "i3", "i2", "i1", "i0"]),
            (Query { workflow: Some("shop/order".into()), ..all() }, vec!["i4", "i3", "i2"]),
            (Query { workflow: Some("none".into()), ..all() }, vec![]),
            (Query { statuses: vec![Status::Completed], ..all() }, vec!["i5", "i3", "i1"]),
            (
                Query { statuses: vec![Status::Completed, Status::Running, Status::Running], limit: 2, ..all() },
                vec!["i6", "i5"],
            ),
            (Query { correlation_id: Some("i2".into()), ..all() }, vec!["i5", "i3", "i2"]),
            (Query { correlation_id: Some("i3".into()), ..all() }, vec![]),
            (Query { mode: Some(Mode::Choreography), ..all() }, vec!["i6", "i5", "i4"]),
            (Query { mode: Some(Mode::Orchestration), statuses: vec![Status::Completed], ..all() }, vec!["i3", "i1"]),
            (Query { started_after: Some(Timestamp(5)), ..all() }, vec!["i6", "i5"]),
            (
                Query { workflow: Some("order".into()), statuses: vec![Status::Running], ..all() },
                vec!["i4", "i2", "i0"],
            ),
            (
                Query {
                    workflow: Some("order".into()),
                    statuses: vec![Status::Running, Status::Completed],
                    started_after: Some(Timestamp(2)),
                    ..all()
                },
                vec!["i4", "i3", "i2"],
            ),
            (Query { correlation_id: Some("i2".into()), statuses: vec![Status::Completed], ..all() }, vec!["i5", "i3"]),
            (Query { limit: 0, ..all() }, vec!["i6"]),
        ] {
            assert_eq!(ids(query.clone()), expected, "{query:?}");
        }
        let mut query = Query { statuses: vec![Status::Running], limit: 2, ..Query::default() };
        let first = store.instances(&query).unwrap();
        put(&*store, vec![start("newer")]).unwrap();
        query.cursor = first.next;
        let second = store.instances(&query).unwrap();
        let names =
            |page: &[pavane_core::record::WorkflowInstance]| page.iter().map(|i| i.id.clone()).collect::<Vec<_>>();
        assert_eq!(names(&first.instances), ["i6", "i4"]);
        assert_eq!(names(&second.instances), ["i2", "i0"], "a page does not move when instances are added");
        assert_eq!(second.next, None);
        let error = store.instances(&Query { cursor: Some("page two".into()), ..all() }).unwrap_err().to_string();
        assert!(error.contains("`page two` is no cursor"), "{error}");
    });
}

#[test]
fn every_digest_stays_and_the_last_deployed_comes_last() {
    backends(|store| {
        store.deploy(&deployed("b", "1.0.0", "first")).unwrap();
        store.deploy(&deployed("a", "1.0.0", "é")).unwrap();
        store.deploy(&deployed("b", "1.1.0", "other")).unwrap();
        store.deploy(&deployed("b", "1.0.0", "second")).unwrap();
        store.deploy(&deployed("a", "1.0.0", "é")).unwrap();
        let expected = [
            deployed("b", "1.0.0", "first"),
            deployed("b", "1.1.0", "other"),
            deployed("b", "1.0.0", "second"),
            deployed("a", "1.0.0", "é"),
        ];
        assert_eq!(store.definitions().unwrap(), expected);
    });
}

#[test]
fn an_acknowledgement_may_use_the_store() {
    backends(|store| {
        let (send, results) = mpsc::channel();
        // Each acknowledgement reads and commits the next: a chain long enough to overflow a stack that grew with it.
        fn chain(store: Arc<dyn Store>, seq: u64, send: mpsc::Sender<usize>) {
            let batch = vec![if seq == 1 { start("i") } else { step("i", seq) }];
            let next = Arc::clone(&store);
            let done = Box::new(move |result: Result<(), Error>| {
                result.unwrap();
                if seq < 2_000 {
                    chain(next, seq + 1, send);
                } else {
                    send.send(next.journal("i", 0, 9_999).unwrap().len()).unwrap();
                }
            });
            store.commit(batch, done);
        }
        chain(store, 1, send);
        assert_eq!(results.recv_timeout(Duration::from_secs(60)).unwrap(), 2_000);
    });
}

/// One operation of the differential test.
#[derive(Clone, Debug)]
enum Op {
    Batch(Vec<Commit>),
    Deploy(u8, u8),
}

fn commits() -> impl Strategy<Value = Commit> {
    let due = prop_oneof![Just(Due::OnInput), Just(Due::Now), (-2_i64..6).prop_map(|t| Due::At(Timestamp(t)))];
    let subscriptions = prop::option::of(prop::collection::vec(
        prop_oneof![Just(Subscription::All), "[xy]".prop_map(Subscription::Type)],
        0..3,
    ));
    let row = prop::option::weighted(0.7, (0..7_usize, 0_i64..4, any::<bool>(), ".{0,6}"));
    let tasks = prop::collection::vec((0_u32..4, 0_i64..3), 0..3);
    (0..4_u8, 0_u64..5, any::<bool>(), row, due, tasks, subscriptions, 0..2_usize).prop_map(
        |(id, seq, stepped, row, due, tasks, subscriptions, published)| {
            let id = format!("i{id}");
            let instance = row.map(|(status, started, outer, text)| {
                let mut row = instance(&id, Status::ALL[status]);
                row.start_time = Timestamp(started);
                row.correlation_id = if outer { "i0".into() } else { id.clone() };
                row.input = Value::array([Value::text(text)]);
                row
            });
            let tasks: Vec<_> = tasks
                .into_iter()
                .map(|(run, started)| {
                    let mut task = task(&id, run);
                    task.start_time = Timestamp(started);
                    task
                })
                .collect();
            let observed =
                if seq == 4 && !stepped { vec![Observed::Step(entry(&id, OBSERVED + seq))] } else { Vec::new() };
            // Clones are the same values.
            let mut values: Vec<Option<Value>> =
                instance.iter().flat_map(|row| [Some(row.input.clone()), row.output.clone()]).collect();
            values.extend(tasks.iter().flat_map(|row| [Some(row.input_data.clone()), row.output_data.clone()]));
            let texts = if published == 0 { Texts::written(values.iter().flatten()) } else { Texts::default() };
            let send = if seq == 0 { vec![message(3), message(4)] } else { Vec::new() };
            let (delivered, redrive) = (vec![seq], vec![seq + 1]);
            let dead = vec![(seq + 1, "lost".to_owned())];
            Commit {
                entry: stepped.then(|| entry(&id, seq)),
                instance,
                due,
                tasks,
                subscriptions,
                publish: vec![event(&id); published],
                consumed: (seq == 2).then(|| ("r".to_owned(), published as u64)).into_iter().collect(),
                send,
                delivered: if stepped { delivered } else { Vec::new() },
                dead: if published == 1 { dead } else { Vec::new() },
                redrive: if published == 0 { redrive } else { Vec::new() },
                observed,
                taken: None,
                texts,
            }
        },
    )
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let batch = prop::collection::vec(commits(), 1..4).prop_map(Op::Batch);
    let deploy = (0..2_u8, 0..3_u8).prop_map(|(name, text)| Op::Deploy(name, text));
    prop::collection::vec(prop_oneof![9 => batch, 1 => deploy], 1..30)
}

/// Everything a store shows, as text.
fn view(store: &dyn Store) -> String {
    let mut out = seen(store);
    // Page by page; each store gives out cursors as it likes.
    for statuses in [vec![], vec![Status::Running, Status::Faulted]] {
        let mut query = Query { limit: 1, statuses, ..Query::default() };
        loop {
            let page = store.instances(&query).unwrap();
            out.push(format!("{:?}", page.instances));
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }
    }
    out.join("\n")
}

/// What it shows without being asked for page after page.
fn seen(store: &dyn Store) -> Vec<String> {
    let mut out = Vec::new();
    for id in ["i0", "i1", "i2", "i3"] {
        out.push(format!("{:?}", store.instance(id).unwrap()));
        out.push(format!("{:?}", store.tasks(id).unwrap()));
        out.push(format!("{:?}", store.journal(id, 1, 3).unwrap()));
    }
    for kind in ["x", "y", "z"] {
        out.push(format!("{:?}", store.subscribers(kind).unwrap()));
    }
    out.push(format!("{:?}", store.due(true, Timestamp(4), 3).unwrap()));
    out.push(format!("{:?}", store.published("r", 5).unwrap()));
    out.push(format!("{:?}", store.outgoing(1, 5).unwrap()));
    out.push(format!("{:?}", store.open_instances().unwrap()));
    out.push(format!("{:?}", store.last_position().unwrap()));
    out.push(format!("{:?}", store.dead_letters(5).unwrap()));
    out.push(format!("{:?}", store.cursor("r").unwrap()));
    let History { steps, tasks } = store.history(0, 0, 50).unwrap();
    out.push(format!("{:?} {:?}", steps.0, tasks.0));
    out.push(format!("{:?}", store.definitions().unwrap()));
    for query in [
        all(),
        Query { limit: 1, statuses: vec![Status::Running, Status::Faulted], ..Query::default() },
        Query { correlation_id: Some("i0".into()), started_after: Some(Timestamp(2)), ..all() },
    ] {
        out.push(format!("{:?}", store.instances(&query).unwrap().instances));
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_backends_show_the_same(ops in ops()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("differential.db");
        let memory = Memory::new();
        let sqlite = Sqlite::open(&path, Duration::ZERO).unwrap();
        let shared = between_others(&directory.path().join("shared.db"));
        for op in ops {
            let results = [&memory as &dyn Store, &sqlite, &shared].map(|store| match &op {
                Op::Batch(batch) => put(store, batch.clone()).map_err(kind),
                Op::Deploy(name, text) => store.deploy(&deployed(&name.to_string(), "1.0.0", &text.to_string())).map_err(kind),
            });
            prop_assert_eq!(&results[0], &results[1]);
            prop_assert_eq!(&results[0], &results[2]);
            prop_assert_eq!(view(&memory), view(&sqlite));
            prop_assert_eq!(seen(&memory), seen(&shared), "at one location of several");
        }
        drop(sqlite);
        prop_assert_eq!(view(&memory), view(&Sqlite::open(&path, Duration::ZERO).unwrap()), "after opening it anew");
    }
}

/// What a location does with its part of an instance.
#[derive(Clone, Debug)]
struct Turn {
    location: usize,
    id: u8,
    /// The position of its step, as far from the next as this.
    off: u64,
    row: Option<Row>,
    task: bool,
    subscribed: bool,
}

#[derive(Clone, Copy, Debug)]
enum Row {
    /// As an instance begins.
    Begun,
    /// As a part that has nothing to say but that it was there.
    Passed,
    Waiting,
    Undone,
}

fn turns() -> impl Strategy<Value = Vec<Option<Turn>>> {
    let row = prop_oneof![
        3 => Just(Row::Begun),
        6 => Just(Row::Passed),
        2 => Just(Row::Waiting),
        1 => Just(Row::Undone)
    ];
    let off = prop_oneof![8 => Just(0_u64), 1 => Just(1)];
    let turn = (0..3_usize, 0..3_u8, off, prop::option::weighted(0.9, row), any::<bool>(), prop::bool::weighted(0.2));
    let turn = turn.prop_map(|(location, id, off, row, task, subscribed)| {
        // At its home an instance is begun, most of the time.
        let row = if location == 0 && matches!(row, Some(Row::Passed)) { Some(Row::Begun) } else { row };
        Turn { location, id, off, row, task, subscribed }
    });
    // Nothing: the file is closed and opened again.
    prop::collection::vec(prop::option::weighted(0.95, turn), 1..60)
}

impl Turn {
    fn commit(&self, next: u64) -> Commit {
        let id = format!("i{}", self.id);
        let mut due = Due::OnInput;
        let instance = self.row.map(|kind| {
            let mut row = instance(&id, Status::Completed);
            row.input = if self.location == 0 { Value::array([Value::text("order")]) } else { Value::NULL };
            // What a start fixes is the same in all parts of an instance, but the store takes nobody's word for it.
            if self.location == 2 && self.id == 2 {
                row.correlation_id = "other".into();
                row.parent_id = Some("parent".into());
            }
            match kind {
                Row::Begun => row.status = Status::Running,
                Row::Passed => {}
                Row::Waiting => {
                    row.status = Status::Waiting;
                    due = Due::At(Timestamp(3));
                }
                Row::Undone => row.error = Some(problem()),
            }
            row
        });
        Commit {
            entry: Some(entry(&id, next + self.off)),
            instance,
            due,
            tasks: self.task.then(|| task(&id, 1)).into_iter().collect(),
            subscriptions: self.subscribed.then(|| vec![Subscription::All]),
            ..Commit::default()
        }
    }
}

/// What a location of a file shows of its instances, in an order that does not depend on when their parts began.
fn parts(store: &dyn Store) -> String {
    let mut out = Vec::new();
    for id in ["i0", "i1", "i2"] {
        out.push(format!("{:?}", store.instance(id).unwrap()));
        out.push(format!("{:?} {:?}", store.tasks(id).unwrap(), store.journal(id, 0, 99).unwrap()));
    }
    let mut subscribers = store.subscribers("x").unwrap();
    subscribers.sort();
    out.push(format!("{subscribers:?} {:?}", store.open_instances().unwrap()));
    let mut due = store.due(true, Timestamp(4), 9).unwrap();
    due.sort_by(|(a, _), (b, _)| a.cmp(b));
    out.push(format!("{due:?}"));
    let History { steps, tasks } = store.history(0, 0, 200).unwrap();
    let mut tasks = tasks.0;
    tasks.sort_by(|a, b| a.id.cmp(&b.id));
    out.push(format!("{:?} {tasks:?}", steps.0));
    for query in [all(), Query { statuses: vec![Status::Completed], ..all() }] {
        let mut listed = store.instances(&query).unwrap().instances;
        listed.sort_by(|a, b| a.id.cmp(&b.id));
        out.push(format!("{listed:?}"));
    }
    out.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_part_is_there_whether_or_not_it_has_a_row(turns in turns()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("parts.db");
        let open = || {
            let file = Sqlite::open(&path, Duration::ZERO).unwrap();
            let [a, b] = ["a", "b"].map(|name| file.location(name).unwrap());
            [file, a, b]
        };
        let alone = [Memory::new(), Memory::new(), Memory::new()];
        let mut together = open();
        for turn in turns {
            let Some(turn) = turn else {
                drop(together);
                together = open();
                continue;
            };
            let id = format!("i{}", turn.id);
            let next = alone[turn.location].journal(&id, 0, 99).unwrap().len() as u64 + 1;
            // A step that is not the next one, and one that is there already.
            let commits = [turn.commit(next), turn.commit(1)];
            for commit in commits {
                let expected = put(&alone[turn.location], vec![commit.clone()]).map_err(kind);
                prop_assert_eq!(expected, put(&together[turn.location], vec![commit]).map_err(kind));
            }
            for (alone, together) in alone.iter().zip(&together) {
                prop_assert_eq!(parts(alone), parts(together));
            }
        }
    }
}

/// What of an error is the same on every backend.
fn kind(error: Error) -> String {
    match error {
        Error::Failed { reason, .. } => reason,
        other => other.to_string(),
    }
}
