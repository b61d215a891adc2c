//! A run as the reference sees it: read off what was committed and what services did.

use std::collections::BTreeMap;

use pavane_core::Value;
use pavane_core::engine::{Event, Request};
use pavane_core::problem::Kind;
use pavane_core::record::Status;

use crate::reference::{Observed, end, timeless};
use crate::schedule::{Watched, events};
use crate::services::answer;

/// What was seen of a run.
pub fn observed(watched: &Watched) -> Observed {
    let record = &watched.record;
    let unresolved = record.compensation.unresolved.iter().map(|entry| entry.key.clone()).collect();
    let mut observed = Observed {
        end: end(record.status, record.output.as_ref(), record.error.as_ref(), unresolved),
        given: watched.given.clone(),
        order: watched.order.clone(),
        ..Observed::default()
    };
    let mut words: BTreeMap<String, String> = BTreeMap::new();
    for event in events(&watched.history) {
        match event {
            Event::Requested { key, request, .. } => {
                if let Some(Request::Http(http)) = request.as_deref() {
                    let body = http.body.as_ref().map(Value::to_canonical_json).unwrap_or_default();
                    words.insert(key, timeless(&format!("{} {} {body}", http.method, http.uri)));
                } else {
                    observed.repeated.insert(key);
                }
            }
            Event::Emitted { event, .. } => drop(observed.emitted.insert(event.id())),
            Event::ChildRequested { child, .. } => drop(observed.emitted.insert(child.id)),
            Event::TimedOut { .. } => observed.timeouts = true,
            Event::Faulted { problem, .. } if Kind::of(&problem.type_) == Some(Kind::Timeout) => {
                observed.timeouts = true;
            }
            Event::RollingBack { problem, .. } if Kind::of(&problem.type_) == Some(Kind::Timeout) => {
                observed.timeouts = true;
            }
            _ => {}
        }
    }
    observed.requested = words;
    observed
}

/// What an operator did that the reference does not know.
pub fn interfered(watched: &Watched) -> Option<&'static str> {
    if watched.record.status == Status::Cancelled {
        return Some("a cancelled instance");
    }
    events(&watched.history).find_map(|event| match event {
        Event::CancelRequested { .. } => Some("a cancelled instance"),
        Event::CompensationRetried { .. } => Some("an operator who retries a rollback"),
        _ => None,
    })
}

/// Whether the instance got every answer that the services gave, and no other.
pub fn is_undisturbed(seed: u64, observed: &Observed) -> bool {
    let undoes = |key: &str| observed.requested.get(key).is_some_and(|request| request.contains("/undo "));
    !observed.timeouts
        && observed
            .given
            .iter()
            .all(|(key, given)| given.iter().all(|outcome| *outcome == answer(seed, key, undoes(key))))
}
