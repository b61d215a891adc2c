//! Shrinking: takes tasks out of a failing document as long as some schedule still breaks it.

use serde_json::Value;

use crate::{Failure, Placement, generate, placements, schedule};

/// Schedules tried for each smaller document: taking a task out shifts the schedule of the seed.
const TRIES: u64 = 300;

/// The smallest failing document found, with its seed and trace.
pub fn shrink(document: Value, placement: Placement, seed: u64) -> Failure {
    let mut best = (document, seed);
    while let Some(smaller) = candidates(&best.0).into_iter().find_map(|candidate| {
        let seed = failing_seed(&candidate, placement, best.1)?;
        Some((candidate, seed))
    }) {
        best = smaller;
    }
    let (document, seed) = best;
    let (broken, trace) = match placements(&document) {
        Ok(programs) => schedule::run(placement.of(&programs), seed).err().unwrap_or_default(),
        Err(broken) => (broken, Vec::new()),
    };
    Failure { seed, document: generate::text(&document), broken, trace }
}

fn failing_seed(document: &Value, placement: Placement, first: u64) -> Option<u64> {
    let programs = placements(document).ok()?;
    (0..TRIES).map(|n| first.wrapping_add(n)).find(|seed| schedule::run(placement.of(&programs), *seed).is_err())
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

const OPTIONS: [&str; 6] = ["timeout", "then", "if", "retry", "errors", "metadata"];

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
