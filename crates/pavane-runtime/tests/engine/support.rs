//! A store that can be held, broken or left behind, services that answer when the test says so, and short documents.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pavane_core::engine::{Call, Outcome};
use pavane_core::event::CloudEvent;
use pavane_core::record::{JournalEntry, ServiceTask, Status, WorkflowInstance};
use pavane_core::{Timestamp, Value};
use pavane_runtime::effects::{Context, Effects, Performed, Performing};
use pavane_runtime::{Engine, Options, StartRequest};
use pavane_store::{
    Commit, DeadLetter, Deployed, Done, Due, Error, History, Memory, Outgoing, Page, Query, Sqlite, Store,
};
use tokio::sync::{mpsc, oneshot};

/// What becomes of commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Written,
    /// They wait until the gate opens.
    Held,
    Failed,
    /// The process is dead: nothing is written and nobody is answered.
    Lost,
    /// As `Lost`, for the outbox's cursor alone.
    CursorLost,
}

/// A store with a gate before its commits.
#[derive(Debug)]
pub struct Gate {
    pub inner: Arc<dyn Store>,
    state: Mutex<State>,
    /// Deployed definitions cannot be seen.
    pub bare: AtomicBool,
    /// The journal of this instance is damaged.
    pub damaged: Mutex<String>,
    /// Instances whose journal was read: those that came back into memory.
    pub replayed: Mutex<Vec<String>>,
}

struct State {
    fate: Fate,
    held: VecDeque<(Vec<Commit>, Done)>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, {} held", self.fate, self.held.len())
    }
}

fn broken() -> Error {
    Error::Failed { path: "the gate".into(), reason: "broken by the test".into() }
}

impl Gate {
    pub fn new(inner: Arc<dyn Store>) -> Arc<Gate> {
        let state = Mutex::new(State { fate: Fate::Written, held: VecDeque::new() });
        Arc::new(Gate {
            inner,
            state,
            bare: AtomicBool::new(false),
            damaged: Mutex::default(),
            replayed: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on; what was held shares the new fate.
    pub fn set(&self, fate: Fate) {
        let held = {
            let mut state = self.state();
            state.fate = fate;
            if fate == Fate::Held { VecDeque::new() } else { std::mem::take(&mut state.held) }
        };
        held.into_iter().for_each(|(batch, done)| self.commit(batch, done));
    }

    pub fn held(&self) -> usize {
        self.state().held.len()
    }
}

impl Store for Gate {
    fn commit(&self, batch: Vec<Commit>, done: Done) {
        let fate = {
            let mut state = self.state();
            if state.fate == Fate::Held {
                state.held.push_back((batch, done));
                return;
            }
            state.fate
        };
        match fate {
            Fate::Failed => done(Err(broken())),
            Fate::Lost => std::mem::forget(done),
            Fate::CursorLost if batch.iter().any(|commit| !commit.consumed.is_empty()) => std::mem::forget(done),
            _ => self.inner.commit(batch, done),
        }
    }
    fn order(&self) -> Option<usize> {
        self.inner.order()
    }
    fn deploy(&self, definition: &Deployed) -> Result<(), Error> {
        self.inner.deploy(definition)
    }
    fn definitions(&self) -> Result<Vec<Deployed>, Error> {
        if self.bare.load(Ordering::SeqCst) { Ok(Vec::new()) } else { self.inner.definitions() }
    }
    fn instance(&self, id: &str) -> Result<Option<WorkflowInstance>, Error> {
        self.inner.instance(id)
    }
    fn instances(&self, query: &Query) -> Result<Page, Error> {
        self.inner.instances(query)
    }
    fn tasks(&self, instance: &str) -> Result<Vec<ServiceTask>, Error> {
        self.inner.tasks(instance)
    }
    fn journal(&self, instance: &str, after: u64, limit: usize) -> Result<Vec<JournalEntry>, Error> {
        self.replayed.lock().unwrap().push(instance.to_owned());
        let mut entries = self.inner.journal(instance, after, limit)?;
        if *self.damaged.lock().unwrap() == instance {
            entries.iter_mut().for_each(|entry| entry.payload.truncate(entry.payload.len() / 2));
        }
        Ok(entries)
    }
    fn due(&self, owed: bool, until: Timestamp, limit: usize) -> Result<Vec<(String, Due)>, Error> {
        self.inner.due(owed, until, limit)
    }
    fn subscribers(&self, event_type: &str) -> Result<Vec<String>, Error> {
        self.inner.subscribers(event_type)
    }
    fn published(&self, reader: &str, limit: usize) -> Result<Vec<(u64, CloudEvent)>, Error> {
        self.inner.published(reader, limit)
    }
    fn outgoing(&self, after: u64, limit: usize) -> Result<Vec<(u64, Outgoing)>, Error> {
        self.inner.outgoing(after, limit)
    }
    fn open_instances(&self) -> Result<Vec<(Status, u64)>, Error> {
        self.inner.open_instances()
    }
    fn last_position(&self) -> Result<u64, Error> {
        self.inner.last_position()
    }
    fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        self.inner.dead_letters(limit)
    }
    fn cursor(&self, reader: &str) -> Result<u64, Error> {
        self.inner.cursor(reader)
    }
    fn history(&self, entries_after: u64, tasks_after: u64, limit: usize) -> Result<History, Error> {
        self.inner.history(entries_after, tasks_after, limit)
    }
}

/// Runs `check` over each kind of store.
pub async fn stores<F: Future<Output = ()>>(check: impl Fn(Arc<Gate>) -> F) {
    check(Gate::new(Arc::new(Memory::new()))).await;
    let directory = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(directory.path().join("engine.db"), Duration::ZERO).unwrap();
    check(Gate::new(Arc::new(sqlite))).await;
}

/// A call that waits for the test's answer.
pub struct Made {
    pub context: Context,
    pub call: Call,
    answer: oneshot::Sender<Outcome>,
}

impl Made {
    pub fn succeed(self) {
        self.answer(Outcome::Success(Value::object([("ok", Value::integer(1))])));
    }

    pub fn answer(self, outcome: Outcome) {
        self.answer.send(outcome).unwrap();
    }
}

/// Services: each call is handed to the test, which answers it. One that is dropped is never answered.
#[derive(Debug)]
pub struct Script(mpsc::UnboundedSender<Made>);

pub fn script() -> (Arc<Script>, mpsc::UnboundedReceiver<Made>) {
    let (send, calls) = mpsc::unbounded_channel();
    (Arc::new(Script(send)), calls)
}

impl Effects for Script {
    fn call(&self, context: Context, call: Call) -> Performing<Option<Performed>> {
        let (answer, outcome) = oneshot::channel();
        // Taken back before it was made.
        if !context.release.send() {
            return Box::pin(std::future::pending());
        }
        let _ = self.0.send(Made { context, call, answer });
        Box::pin(async move {
            match outcome.await {
                Ok(outcome) => Some(outcome.into()),
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn fetch(&self, uri: String) -> Performing<Result<Value, String>> {
        Box::pin(async move { Err(format!("{uri} is not there")) })
    }
}

/// An engine whose services answer nothing.
pub async fn open(store: &Arc<Gate>) -> Engine {
    open_with(Options::default(), store, script().0).await
}

pub async fn open_with(options: Options, store: &Arc<Gate>, effects: Arc<Script>) -> Engine {
    Engine::open(options, store.clone(), effects).await.unwrap()
}

/// The engine dies: what it does from here on reaches no store. What it was about to write is lost.
pub fn crash(store: &Arc<Gate>) -> Arc<Gate> {
    store.set(Fate::Lost);
    // What the store had already is written before anybody reads: a dead process has no writer beside the next one's.
    let (written, is_written) = std::sync::mpsc::channel();
    store.inner.commit(Vec::new(), Box::new(move |_| written.send(()).unwrap()));
    is_written.recv_timeout(PATIENCE).unwrap();
    Gate::new(store.inner.clone())
}

/// The text of a workflow `t/NAME`.
pub fn workflow(name: &str, tasks: &str) -> String {
    format!("document: {{ dsl: '1.0.3', namespace: t, name: {name}, version: '1.0.0' }}\ndo:\n{tasks}\n")
}

pub const CALL: &str = "- a: { call: http, with: { method: post, endpoint: 'http://s/a' } }";
pub const LISTEN: &str = "- l: { listen: { to: { one: { with: { type: ping } } } } }";
pub const LONG: &str = "- w: { wait: { hours: 1 } }";

pub fn child(wait: bool) -> String {
    format!(
        "- c: {{ run: {{ workflow: {{ namespace: t, name: child, version: '1.0.0', input: {{}} }}, await: {wait} }} }}"
    )
}

pub async fn deploy(engine: &Engine, name: &str, tasks: &str) -> String {
    engine.deploy(name, &workflow(name, tasks), false).await.unwrap().digest
}

pub fn request(name: &str) -> StartRequest {
    StartRequest {
        namespace: "t".into(),
        name: name.into(),
        version: None,
        mode: None,
        input: Value::object([("n", Value::integer(1))]),
        idempotency_key: None,
        id: None,
        trace: None,
        notify: None,
    }
}

pub fn keyed(name: &str, key: &str) -> StartRequest {
    StartRequest { idempotency_key: Some(key.into()), ..request(name) }
}

pub async fn start(engine: &Engine, name: &str) -> String {
    engine.start(request(name)).await.unwrap().id
}

/// Long enough that only a defect lets it pass.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the instance has ended; gives its status.
pub async fn end(engine: &Engine, id: &str) -> &'static str {
    engine.wait(id, PATIENCE).await.unwrap().status.as_str()
}

/// Waits until something that no event tells is so.
pub async fn until(what: &str, so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "it never came to this: {what}");
}

/// Waits until nothing is in memory.
pub async fn quiet(engine: &Engine) {
    until("nothing in memory", || engine.counters().active == 0).await;
}

pub fn event(id: &str, kind: &str) -> CloudEvent {
    let envelope = ["id", "source", "specversion", "type"].into_iter().zip([id, "/test", "1.0", kind]);
    CloudEvent::new(Value::object(envelope.map(|(k, v)| (k, Value::text(v))))).unwrap()
}

/// How often an instance's journal tells of something.
pub fn count(store: &Arc<Gate>, id: &str, event_type: &str) -> usize {
    store.journal(id, 0, 10_000).unwrap().iter().filter(|entry| entry.event_type == event_type).count()
}
