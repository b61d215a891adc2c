//! Participants: what is placed at a service is done there, what is done is seen at home, and messages that come twice,
//! late or broken change nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pavane_bus::{Bus, Consumer, Embedded, Handing, Refusal};
use pavane_core::definition::Mode;
use pavane_core::engine::{Certainty, Outcome};
use pavane_core::problem::Kind;
use pavane_core::record::ServiceTask;
use pavane_runtime::{Copied, Late, Reading, Source, Unread};
use pavane_runtime::{Engine, Operation, Options, StartRequest};
use pavane_store::{Memory, Outgoing, Query, Sqlite, Store};
use tokio::sync::mpsc;

use crate::support::*;

pub const TWO: &str = "- a: { call: http, with: { method: post, endpoint: 'http://s/a' } }
- b: { call: http, with: { method: post, endpoint: 'http://u/b' } }";

/// A bus that keeps a copy of every message.
#[derive(Clone, Debug, Default)]
pub struct Tapped {
    inner: Embedded,
    seen: Arc<Mutex<Vec<Outgoing>>>,
}

impl Bus for Tapped {
    fn publish(&self, message: Outgoing) -> Handing {
        // As after a restart: nobody has what the envelope was made of.
        let message = Outgoing { content: None, ..message };
        self.seen.lock().unwrap().push(message.clone());
        self.inner.publish(message)
    }
    fn subscribe(&self, participant: &str, consumer: Arc<dyn Consumer>) {
        self.inner.subscribe(participant, consumer);
    }
    fn unsubscribe(&self, participant: &str) {
        self.inner.unsubscribe(participant);
    }
}

pub struct House {
    pub home: Engine,
    pub bus: Tapped,
    pub stores: [Arc<Gate>; 3],
    pub made: mpsc::UnboundedReceiver<Made>,
}

pub async fn house() -> House {
    let stores = [(); 3].map(|()| Gate::new(Arc::new(Memory::new())));
    let (script, made) = script();
    let services = ["s", "u"].map(str::to_owned).into();
    let home = open_with(Options { services, ..Options::default() }, &stores[0], script).await;
    let bus = Tapped::default();
    for (name, store) in ["s", "u"].into_iter().zip(&stores[1..]) {
        let participant = home.participant(name, store.clone()).await.unwrap();
        participant.subscribe(&bus);
        participant.publish_to(Arc::new(bus.clone()));
        home.observe(name, Arc::new(participant.clone()));
    }
    home.subscribe(&bus);
    home.publish_to(Arc::new(bus.clone()));
    House { home, bus, stores, made }
}

#[tokio::test]
async fn each_participant_does_its_own_work_and_knows_nothing_else() {
    let House { home, bus, stores, mut made } = house().await;
    deploy(&home, "two", TWO).await;
    let id = home.start(StartRequest { mode: Some(Mode::Choreography), ..request("two") }).await.unwrap().id;
    for path in ["/a", "/b"] {
        let call = made.recv().await.unwrap();
        assert!(format!("{:?}", call.call.request).contains(path), "{:?}", call.call.request);
        call.succeed();
    }
    assert_eq!(end(&home, &id).await, "completed");
    assert_eq!(home.instance(&id).await.unwrap().mode, Mode::Choreography);
    let names = |tasks: Vec<ServiceTask>| tasks.into_iter().map(|task| task.name).collect::<Vec<_>>();
    assert_eq!(names(stores[1].tasks(&id).unwrap()), ["a"]);
    assert_eq!(names(stores[2].tasks(&id).unwrap()), ["b"]);
    assert_eq!(names(home.tasks(&id).await.unwrap()), ["a", "b"]);
    // Everything comes once more, and is passed over.
    let seen: Vec<Outgoing> = bus.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 3, "{seen:?}");
    for message in seen {
        bus.inner.publish(message).await.unwrap();
    }
    assert!(made.try_recv().is_err(), "no call is made twice");
    assert_eq!(names(home.tasks(&id).await.unwrap()), ["a", "b"]);
    // Each of them wrote once: the message that came, its call, and the message that left.
    assert_eq!([stores[1].journal(&id, 0, 9).unwrap().len(), stores[2].journal(&id, 0, 9).unwrap().len()], [1, 1]);
}

#[tokio::test]
async fn what_is_under_way_elsewhere_is_shown_and_can_be_cancelled() {
    let House { home, mut made, .. } = house().await;
    deploy(&home, "two", TWO).await;
    let id = home.start(StartRequest { mode: Some(Mode::Choreography), ..request("two") }).await.unwrap().id;
    let call = made.recv().await.unwrap();
    // A call that takes its time is written down, and then seen.
    let tasks = loop {
        let tasks = home.tasks(&id).await.unwrap();
        if !tasks.is_empty() {
            break tasks;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let shown: Vec<_> = tasks.iter().map(|task| (task.name.as_str(), task.status.as_str())).collect();
    assert_eq!(shown, [("a", "running")]);
    home.operate(&id, Operation::Cancel).await.unwrap();
    // What is in flight may end; nothing new begins.
    call.succeed();
    assert_eq!(end(&home, &id).await, "cancelled");
    assert!(made.try_recv().is_err());
}

#[tokio::test]
async fn broken_messages_are_refused_with_a_reason() {
    let House { home, bus, mut made, .. } = house().await;
    deploy(&home, "two", TWO).await;
    home.start(StartRequest { mode: Some(Mode::Choreography), ..request("two") }).await.unwrap();
    made.recv().await.unwrap().succeed();
    made.recv().await.unwrap();
    let message = bus.seen.lock().unwrap()[0].clone();
    let with = |envelope: &str, to: &str| Outgoing {
        to: to.into(),
        envelope: envelope.into(),
        content: None,
        redelivered: false,
    };
    let never = |result: Result<(), Refusal>, part: &str| match result {
        Err(Refusal::Never(why)) => assert!(why.contains(part), "{why}"),
        other => panic!("{other:?}"),
    };
    never(bus.inner.publish(with("no JSON", "s")).await, "it is no CloudEvent");
    never(bus.inner.publish(with("{}", "s")).await, "no message of the form v2");
    never(
        bus.inner.publish(with(&message.envelope.text().replace(".v2\"", ".v9\""), "s")).await,
        "no message of the form v2",
    );
    never(
        bus.inner.publish(with(&message.envelope.text().replace("\"body\"", "\"other\""), "s")).await,
        "its data is no message",
    );
    // A program that may be deployed yet, and a message for somebody else.
    let later = |result: Result<(), Refusal>, part: &str| match result {
        Err(Refusal::Later(why)) => assert!(why.contains(part), "{why}"),
        other => panic!("{other:?}"),
    };
    let text = message.envelope.text();
    let digest = text.split("\"digest\":\"").nth(1).unwrap().split('"').next().unwrap();
    later(
        bus.inner.publish(with(&message.envelope.text().replace(digest, "unknown"), "s")).await,
        "no program with digest",
    );
    later(bus.inner.publish(with(&message.envelope.text(), "u")).await, "the message is for s");
    assert_eq!(bus.inner.participants(), ["engine", "s", "u"]);
}

#[tokio::test]
async fn a_workflow_that_cannot_be_placed_is_orchestrated_and_says_why_it_is_not_choreographed() {
    let House { home, .. } = house().await;
    deploy(&home, "far", "- a: { call: http, with: { method: get, endpoint: 'http://elsewhere/a' } }").await;
    let choreographed = StartRequest { mode: Some(Mode::Choreography), ..request("far") };
    let error = home.start(choreographed).await.unwrap_err().to_string();
    assert!(error.contains("P102") && error.contains("elsewhere"), "{error}");
    home.start(request("far")).await.unwrap();
}

/// A participant that made a call and was lost before it wrote anything is given the message again: it makes the call
/// with the same key, and that the request does not leave this time does not mean that it never did.
#[tokio::test]
async fn a_call_that_may_have_been_made_before_is_never_taken_for_one_that_was_not() {
    let mut lost = house().await;
    deploy(&lost.home, "two", TWO).await;
    lost.home.start(StartRequest { mode: Some(Mode::Choreography), ..request("two") }).await.unwrap();
    let first = lost.made.recv().await.unwrap();
    let message = lost.bus.seen.lock().unwrap()[0].clone();
    for (redelivered, trace) in [(false, "\"trace\":\"notSent\""), (true, "\"trace\":\"indeterminate\"")] {
        let House { home, bus, stores, mut made } = house().await;
        deploy(&home, "two", TWO).await;
        let again = Outgoing { redelivered, ..message.clone() };
        let (taken, ()) = tokio::join!(bus.inner.publish(again), async {
            let call = made.recv().await.unwrap();
            assert_eq!((&call.call.key, &call.call.request), (&first.call.key, &first.call.request));
            let problem = Kind::Communication.problem("nobody is there");
            call.answer(Outcome::Failure { problem, certainty: Certainty::NotSent });
        });
        taken.unwrap();
        let id = stores[1].instances(&Query::default()).unwrap().instances[0].id.clone();
        let journal = stores[1].journal(&id, 0, 9).unwrap();
        assert!(journal[0].payload.contains(trace), "{journal:?}");
    }
}

/// A bus that hands every message over twice, as its sender made it.
#[derive(Clone, Debug, Default)]
struct Twice(Embedded);

impl Bus for Twice {
    fn publish(&self, message: Outgoing) -> Handing {
        let bus = self.0.clone();
        Box::pin(async move {
            bus.publish(message.clone()).await?;
            bus.publish(message).await
        })
    }
    fn subscribe(&self, participant: &str, consumer: Arc<dyn Consumer>) {
        self.0.subscribe(participant, consumer);
    }
    fn unsubscribe(&self, participant: &str) {
        self.0.unsubscribe(participant);
    }
}

/// The home and the participants of a process, in one file.
async fn under_one_roof(
    file: &Arc<Sqlite>,
    bus: &(impl Bus + Clone + 'static),
) -> (Engine, mpsc::UnboundedReceiver<Made>) {
    let location = |name| -> Arc<dyn Store> { Arc::new(file.location(name).unwrap()) };
    behind_gates([file.clone(), location("s"), location("u")].map(Gate::new).each_ref(), bus).await
}

/// The home and the participants of a process, with these stores.
async fn behind_gates(
    [own, s, u]: [&Arc<Gate>; 3],
    bus: &(impl Bus + Clone + 'static),
) -> (Engine, mpsc::UnboundedReceiver<Made>) {
    let (script, made) = script();
    let services = ["s", "u"].map(str::to_owned).into();
    let home = open_with(Options { services, ..Options::default() }, own, script).await;
    for (name, store) in [("s", s), ("u", u)] {
        let participant = home.participant(name, store.clone()).await.unwrap();
        participant.subscribe(bus);
        participant.publish_to(Arc::new(bus.clone()));
        home.observe(name, Arc::new(participant));
    }
    home.subscribe(bus);
    home.publish_to(Arc::new(bus.clone()));
    (home, made)
}

#[tokio::test]
async fn what_is_in_one_file_is_done_once_and_read_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engine.db");
    let file = Arc::new(Sqlite::open(&path, Duration::ZERO).unwrap());
    let (home, mut made) = under_one_roof(&file, &Twice::default()).await;
    deploy(&home, "two", TWO).await;
    let choreographed = StartRequest { mode: Some(Mode::Choreography), ..request("two") };
    let ids = [home.start(choreographed.clone()).await.unwrap().id, home.start(choreographed).await.unwrap().id];
    for _ in 0..4 {
        made.recv().await.unwrap().succeed();
    }
    for id in &ids {
        assert_eq!(end(&home, id).await, "completed");
        let tasks: Vec<_> = home.tasks(id).await.unwrap().into_iter().map(|task| task.name).collect();
        assert_eq!(tasks, ["a", "b"]);
        // A start, a hop each, the end. Every step can be read.
        let journal = home.journal(id, &Default::default(), Duration::ZERO).await.unwrap();
        let kinds: Vec<_> = journal.iter().map(|(entry, _)| entry.event_type.as_str()).collect();
        assert_eq!(kinds, ["started", "message.received", "message.received", "message.received"]);
        for (entry, _) in &journal {
            assert!(pavane_core::Value::parse(entry.payload.as_bytes()).is_ok(), "{}", entry.payload);
        }
    }
    assert!(made.try_recv().is_err(), "no call is made twice");
    // Nothing is on its way any more.
    for store in [&*file, &file.location("s").unwrap(), &file.location("u").unwrap()] {
        assert_eq!(store.outgoing(0, 9).unwrap(), []);
    }
    // The record of participants is not copied.
    assert_eq!((file.history(0, 0, 99).unwrap().steps.0.len(), file.tasks(&ids[0]).unwrap().len()), (4, 0));
}

#[tokio::test]
async fn what_an_earlier_process_did_is_gone_on_with() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engine.db");
    let file = Arc::new(Sqlite::open(&path, Duration::ZERO).unwrap());
    let (home, mut made) = under_one_roof(&file, &Embedded::default()).await;
    deploy(&home, "two", TWO).await;
    let id = home.start(StartRequest { mode: Some(Mode::Choreography), ..request("two") }).await.unwrap().id;
    made.recv().await.unwrap().succeed();
    // The second call is on the disk and has no answer.
    let second = made.recv().await.unwrap().call.key;
    until("it is written", || !file.location("u").unwrap().journal(&id, 0, 9).unwrap().is_empty()).await;
    let (home, mut made) = under_one_roof(&file, &Embedded::default()).await;
    let again = made.recv().await.unwrap();
    assert_eq!(again.call.key, second);
    again.succeed();
    assert_eq!(end(&home, &id).await, "completed");
}

#[tokio::test]
async fn what_ends_an_instance_is_not_waited_for_twice_and_is_never_durable_alone() {
    for lost in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("engine.db");
        let file = Arc::new(Sqlite::open(&path, Duration::ZERO).unwrap());
        let location = |name| -> Arc<dyn Store> { Arc::new(file.location(name).unwrap()) };
        let gates = [file.clone(), location("s"), location("u")].map(Gate::new);
        let (home, mut made) = behind_gates(gates.each_ref(), &Embedded::default()).await;
        deploy(&home, "two", TWO).await;
        let id = home.start(StartRequest { mode: Some(Mode::Choreography), ..request("two") }).await.unwrap().id;
        made.recv().await.unwrap().succeed();
        let last = made.recv().await.unwrap();
        let key = last.call.key.clone();
        let [own, _, u] = &gates;
        for gate in [own, u] {
            gate.set(Fate::Held);
        }
        last.succeed();
        // The last step is on its way to the disk, and the end behind it: nobody is told before they are there.
        until("both are on their way", || u.held() == 1 && own.held() == 1).await;
        assert_eq!(home.instance(&id).await.unwrap().status.as_str(), "running");
        if !lost {
            for gate in [u, own] {
                gate.set(Fate::Written);
            }
            assert_eq!(end(&home, &id).await, "completed");
            assert!(made.try_recv().is_err());
            continue;
        }
        // A process that dies then leaves a call without an answer, and the next one goes on from there.
        for gate in [u, own] {
            gate.set(Fate::Lost);
        }
        let (home, mut made) = under_one_roof(&file, &Embedded::default()).await;
        let again = made.recv().await.unwrap();
        assert_eq!(again.call.key, key);
        again.succeed();
        assert_eq!(end(&home, &id).await, "completed");
    }
}

/// A participant of another process: nobody here has its store.
#[derive(Debug)]
struct Elsewhere(Engine);

impl Source for Elsewhere {
    fn history(&self, steps_after: u64, tasks_after: u64, limit: usize) -> Reading<Result<Copied, Unread>> {
        Source::history(&self.0, steps_after, tasks_after, limit)
    }
    fn moved(&self) -> Reading<()> {
        Source::moved(&self.0)
    }
    fn late(&self, after: Duration) -> Reading<Result<Late, Unread>> {
        Source::late(&self.0, after)
    }
}

#[tokio::test]
async fn what_is_done_in_another_process_is_copied_for_those_who_ask() {
    let (script, mut made) = script();
    let stores = [(); 2].map(|()| Gate::new(Arc::new(Memory::new())));
    let options = Options { services: ["s".to_owned()].into(), ..Options::default() };
    let home = open_with(options, &stores[0], script).await;
    let bus = Embedded::default();
    let participant = home.participant("s", stores[1].clone()).await.unwrap();
    for engine in [&home, &participant] {
        engine.subscribe(&bus);
        engine.publish_to(Arc::new(bus.clone()));
    }
    home.observe("s", Arc::new(Elsewhere(participant)));
    deploy(&home, "one", CALL).await;
    let id = home.start(StartRequest { mode: Some(Mode::Choreography), ..request("one") }).await.unwrap().id;
    made.recv().await.unwrap().succeed();
    assert_eq!(end(&home, &id).await, "completed");
    let tasks: Vec<_> = home.tasks(&id).await.unwrap().into_iter().map(|task| task.name).collect();
    assert_eq!(tasks, ["a"]);
    assert_eq!(home.journal(&id, &Default::default(), Duration::ZERO).await.unwrap().len(), 3);
    // It is in the home's own store now.
    assert_eq!(stores[0].tasks(&id).unwrap().len(), 1);
}
