//! Shrinking: takes tasks out of a failing document as long as some schedule still breaks it.

use serde_json::Value;

use crate::Failure;
use crate::equivalence::{Explored, examine};

/// Seeds tried for each smaller document: taking a task out shifts what the seed decides.
const TRIES: u64 = 40;
/// Schedules of each.
const SCHEDULES: u64 = 4;
/// Smaller documents tried, at most: a failure is to be told within seconds.
const MAX_CANDIDATES: usize = 400;

/// The smallest failing document found, with its seeds and trace.
pub fn shrink(document: &Value, failure: Failure) -> Failure {
    let (from, schedules) = (failure.from, failure.schedules);
    let mut best = (document.clone(), failure);
    let mut left = MAX_CANDIDATES;
    while let Some(smaller) = candidates(&best.0).into_iter().find_map(|candidate| {
        left = left.checked_sub(1)?;
        let failure = failing(&candidate, best.1.from)?;
        Some((candidate, failure))
    }) {
        best = smaller;
    }
    // The seed that replays it belongs to the document as it was generated.
    Failure { from, schedules, ..best.1 }
}

fn failing(document: &Value, first: u64) -> Option<Failure> {
    let seeds = (0..TRIES).map(|n| first.wrapping_add(n));
    seeds.filter_map(|seed| examine(document, seed, SCHEDULES, None, &mut Explored::default()).err()).map(|f| *f).next()
}

/// Every document with one thing less: a task of a list, an option of a task, or a task replaced by its body.
fn candidates(document: &Value) -> Vec<Value> {
    let mut paths = Vec::new();
    visit(&document["do"], "/do", &mut paths);
    let mut out: Vec<Value> = paths
        .into_iter()
        .filter_map(|path| {
            let mut smaller = document.clone();
            let (parent, last) = path.rsplit_once('/')?;
            match smaller.pointer_mut(parent)? {
                Value::Array(items) => {
                    let index = last.parse::<usize>().ok()?;
                    (items.len() > 1 && index < items.len()).then(|| items.remove(index))?;
                }
                Value::Object(entries) => {
                    entries.remove(last)?;
                }
                _ => return None,
            }
            Some(smaller)
        })
        .collect();
    if document.get("timeout").is_some() {
        let mut smaller = document.clone();
        smaller.as_object_mut().map(|d| d.remove("timeout"));
        out.push(smaller);
    }
    out
}

const OPTIONS: [&str; 7] = ["timeout", "then", "if", "retry", "errors", "metadata", "export"];

fn visit(value: &Value, path: &str, paths: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}/{index}");
                if item.is_object() {
                    paths.push(path.clone());
                }
                visit(item, &path, paths);
            }
        }
        Value::Object(entries) => {
            for (key, item) in entries {
                let path = format!("{path}/{key}");
                if OPTIONS.contains(&key.as_str()) {
                    paths.push(path.clone());
                }
                visit(item, &path, paths);
            }
        }
        _ => {}
    }
}
