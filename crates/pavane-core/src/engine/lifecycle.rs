//! The standard's lifecycle events and some of Pavane's own, read off a journal entry: presentation, nothing is stored
//! twice.

use super::event::{Event, TokenId};
use crate::event::CloudEvent;
use crate::id;
use crate::record::{JournalEntry, Status};
use crate::value::Value;

/// News that the standard has no event for: what waited at a service's gate, what a service took to answer later, and an
/// answer that came too late, and whether somebody who asked was told of the end.
const HELD: &str = "task.held";
const ACCEPTED: &str = "task.accepted";
const LATE: &str = "task.callback-late";
const NOTIFIED: &str = "workflow.notified";

/// The lifecycle CloudEvents (`io.serverlessworkflow.*`, and `io.pavane.*` where it has none) of one journal entry, in order. `workflow` is
/// `{name}.{namespace}` of its instance. Events that the author emitted stand among them as they were published.
///
/// # Errors
/// A sentence, when the entry cannot be read.
pub fn lifecycle(entry: &JournalEntry, namespace: &str, name: &str) -> Result<Vec<CloudEvent>, String> {
    let events: Vec<Event> = serde_json::from_str(&entry.payload)
        .map_err(|e| format!("step {} of {}: {e}", entry.seq, entry.workflow_instance_id))?;
    let instance = format!("{name}-{}.{namespace}", entry.workflow_instance_id);
    let mut out = Vec::new();
    let mut now = entry.timestamp;
    for (index, event) in events.iter().enumerate() {
        now = event.moves_clock().unwrap_or(now);
        for (type_, data) in describe(event, &now.to_string()) {
            let whose =
                if [HELD, ACCEPTED, LATE, NOTIFIED].contains(&type_) { "io.pavane" } else { "io.serverlessworkflow" };
            let envelope = Value::object([
                ("specversion", Value::text("1.0")),
                (
                    "id",
                    Value::text(id::derived(&[
                        &entry.workflow_instance_id,
                        &entry.seq.to_string(),
                        &index.to_string(),
                        type_,
                    ])),
                ),
                ("source", Value::text(format!("/pavane/{namespace}/{name}"))),
                ("type", Value::text(format!("{whose}.{type_}.v1"))),
                ("subject", Value::text(&entry.workflow_instance_id)),
                ("time", Value::text(now.to_string())),
                ("correlationid", Value::text(&entry.correlation_id)),
                (
                    "data",
                    if type_.starts_with("workflow") {
                        data.with("name", Value::text(&instance))
                    } else {
                        data.with("workflow", Value::text(&instance))
                    },
                ),
            ]);
            out.push(CloudEvent::new(envelope)?);
        }
        if let Event::Emitted { event, .. } = event {
            out.push(event.clone());
        }
    }
    Ok(out)
}

fn describe(event: &Event, at: &str) -> Vec<(&'static str, Value)> {
    let when = |name: &str| Value::object([(name, Value::text(at))]);
    let task = |reference: &str, name: &str| when(name).with("task", Value::text(reference));
    match event {
        Event::Started { .. } => vec![("workflow.started", when("startedAt"))],
        Event::Suspended {} => vec![("workflow.suspended", when("suspendedAt"))],
        Event::Resumed {} => vec![("workflow.resumed", when("resumedAt"))],
        Event::Ended { status, output, problem } => vec![match status {
            Status::Completed => {
                let data = when("completedAt");
                ("workflow.completed", output.clone().map_or(data.clone(), |output| data.with("output", output)))
            }
            Status::Cancelled => ("workflow.cancelled", when("cancelledAt")),
            _ => {
                let error = problem.as_ref().map(crate::Problem::to_value).unwrap_or_default();
                ("workflow.faulted", when("faultedAt").with("error", error))
            }
        }],
        Event::Entered { task: reference, .. } => {
            vec![("task.created", task(reference, "createdAt")), ("task.started", task(reference, "startedAt"))]
        }
        Event::Listening { task: reference, .. } => {
            vec![("workflow.correlation-started", task(reference, "startedAt"))]
        }
        Event::Consumed { t: TokenId(_), done: true, .. } => {
            vec![("workflow.correlation-completed", when("completedAt"))]
        }
        Event::Held { task: reference, held, .. } => {
            let times = [
                ("breaker", held.breaker),
                ("rate", held.rate),
                ("inFlight", held.in_flight),
                ("retries", held.retries),
            ];
            let times = times.into_iter().filter(|(_, millis)| *millis > 0);
            let times =
                times.map(|(reason, millis)| (reason, Value::integer(i64::try_from(millis).unwrap_or(i64::MAX))));
            let data = Value::object([("task", Value::text(reference)), ("service", Value::text(&held.service))]);
            vec![(HELD, data.with("waitedMs", Value::object(times)))]
        }
        Event::NoticeEnded { delivered } => {
            vec![(NOTIFIED, when("notifiedAt").with("delivered", Value::from(&serde_json::json!(delivered))))]
        }
        Event::Accepted { task: reference, .. } => vec![(ACCEPTED, task(reference, "acceptedAt"))],
        Event::LateCallback { task: reference, .. } => vec![(LATE, task(reference, "cameAt"))],
        Event::Retried { task: reference, .. } => vec![("task.retried", task(reference, "retriedAt"))],
        Event::Completed { task: reference, output, .. } => {
            let data = task(reference, "completedAt");
            vec![("task.completed", output.clone().map_or(data.clone(), |output| data.with("output", output)))]
        }
        Event::Faulted { task: reference, problem, .. } => {
            vec![("task.faulted", task(reference, "faultedAt").with("error", problem.to_value()))]
        }
        Event::Cancelled { task: reference, .. } => vec![("task.cancelled", task(reference, "cancelledAt"))],
        _ => Vec::new(),
    }
}
