//! Rows to write, and a commit that waits for its acknowledgement.

use std::sync::mpsc;
use std::time::Duration;

use pavane_core::definition::Mode;
use pavane_core::event::CloudEvent;
use pavane_core::problem::Problem;
use pavane_core::record::{Compensation, JournalEntry, ServiceTask, Status, WorkflowInstance};
use pavane_core::{Timestamp, value::Value};
use pavane_store::{Commit, Deployed, Error, Outgoing, Store};

/// Commits and waits.
pub fn put(store: &dyn Store, batch: Vec<Commit>) -> Result<(), Error> {
    let (send, result) = mpsc::channel();
    store.commit(batch, Box::new(move |r| send.send(r).unwrap()));
    result.recv_timeout(Duration::from_secs(60)).expect("the batch is answered")
}

pub fn instance(id: &str, status: Status) -> WorkflowInstance {
    WorkflowInstance {
        id: id.into(),
        namespace: "shop".into(),
        name: "order".into(),
        version: "1.0.0".into(),
        digest: "d".into(),
        mode: Mode::Choreography,
        status,
        correlation_id: id.into(),
        input: Value::parse(br#"{"order":7}"#).unwrap(),
        output: None,
        error: None,
        compensation: Compensation::default(),
        start_time: Timestamp(1_763_850_000_123),
        end_time: None,
        parent_id: None,
        parent_task: None,
    }
}

pub fn task(instance: &str, run: u32) -> ServiceTask {
    ServiceTask {
        id: format!("{instance}:{run}"),
        workflow_instance_id: instance.into(),
        reference: "/do/0/pay".into(),
        name: "pay".into(),
        service_name: Some("payments".into()),
        kind: "call".into(),
        status: Status::Running,
        attempt: 1,
        input_data: Value::parse(br#"{"amount":1.5}"#).unwrap(),
        output_data: Some(Value::NULL),
        error: None,
        start_time: Timestamp(1_000),
        end_time: Some(Timestamp(2_000)),
        compensates: None,
        within: None,
    }
}

pub fn entry(instance: &str, seq: u64) -> JournalEntry {
    JournalEntry {
        workflow_instance_id: instance.into(),
        seq,
        timestamp: Timestamp(1_763_850_000_123),
        event_type: "call.completed".into(),
        subject: "/do/0/pay".into(),
        service_task_id: None,
        correlation_id: instance.into(),
        causation_id: None,
        payload: "[]".into(),
    }
}

pub fn problem() -> Problem {
    Problem {
        type_: "https://example.com/errors/paper".into(),
        status: 500,
        title: "no paper".into(),
        detail: None,
        instance: "/do/0/pay".into(),
    }
}

pub fn event(id: &str) -> CloudEvent {
    let envelope = ["id", "source", "specversion", "type"].into_iter().zip([id, "/shop", "1.0", "shop.paid"]);
    CloudEvent::new(Value::object(envelope.map(|(k, v)| (k, Value::text(v))))).unwrap()
}

pub fn deployed(name: &str, version: &str, text: &str) -> Deployed {
    Deployed {
        namespace: "shop".into(),
        name: name.into(),
        version: version.into(),
        digest: format!("digest of {name} {version} {text}"),
        text: text.into(),
        resources: "{}".into(),
        deployed_at: Timestamp(7),
    }
}

/// The first step of an instance.
pub fn start(id: &str) -> Commit {
    Commit { instance: Some(instance(id, Status::Running)), ..step(id, 1) }
}

/// A later step that changes no row.
pub fn step(id: &str, seq: u64) -> Commit {
    Commit { entry: Some(entry(id, seq)), ..Commit::default() }
}

/// A commit that only publishes.
pub fn publish(id: &str) -> Commit {
    Commit { publish: vec![event(id)], ..Commit::default() }
}

/// A message at a position.
pub fn message(position: u64) -> (u64, Outgoing) {
    let envelope = format!("{{\"id\":\"{position}\"}}").into();
    (position, Outgoing { to: "payment".into(), envelope, content: None, redelivered: false })
}
