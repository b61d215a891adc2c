//! Which of jq's functions exist here, and the few that had to be written anew to be metered.
//!
//! Gone is what reaches out of the expression (`env`, `input`, `debug`), ends the process (`halt`), or differs from
//! machine to machine (local time). `now` is the recorded time of the step.

use std::cmp::Ordering;
use std::panic::resume_unwind;

use jaq_core::Cv;
use jaq_core::native::{Fun, bome, run, v};
use jaq_json::{Num, Val};

use super::budget::{Jq, MEMORY, Stop};

/// Native functions that do not exist here.
pub(super) const DENIED: &[&str] = &[
    "halt",
    "env",
    "now",
    "localtime",
    "strflocaltime",
    "mktime_local",
    "debug_empty",
    "stderr_empty",
    "input",
    "inputs",
    "range",
    "tojson",
    "input_line_number",
];
/// Functions defined in jq that do not exist here.
pub(super) const DENIED_DEFINITIONS: &[&str] = &["halt", "halt_error", "debug", "stderr"];

/// Values with more nodes than this are not printed: shared parts count each time.
const MAX_PRINTED: usize = 1_000_000;
/// Deeper values are not printed either.
const MAX_PRINTED_DEPTH: usize = 1_000;
/// Bits of an integer that may still be multiplied.
const MAX_BITS: u64 = 4_096;

/// jq that the standard library of jaq lacks, from jq 1.7's manual.
pub(super) const PRELUDE: &str = r#"
def IN(s): any(s == .; .);
def IN(src; s): any(src == s; .);
def INDEX(stream; f): reduce stream as $row ({}; .[$row | f | tostring] |= $row);
def INDEX(f): INDEX(.[]; f);
def ascii: [.] | implode;
def toarray: if type == "array" then . else [.] end;
def leaf_paths: paths(scalars);
def have_literal_numbers: true;
"#;

pub(super) fn own() -> Vec<Fun<Jq>> {
    vec![
        run(("range", v(3), |mut cv: Cv<'_, Jq>| {
            let (by, to, from) = (cv.0.pop_var(), cv.0.pop_var(), cv.0.pop_var());
            let meter = cv.0.data().0;
            let mut next = Some(from);
            let direction = by.cmp(&Val::from(0_isize));
            Box::new(std::iter::from_fn(move || {
                meter.tick();
                let current = next.take()?;
                let goes_on = match direction {
                    Ordering::Greater => current < to,
                    Ordering::Less => current > to,
                    Ordering::Equal => current != to,
                };
                goes_on.then(|| {
                    next = (current.clone() + by.clone()).ok();
                    Ok(current)
                })
            }))
        })),
        run(("__mul", v(2), |mut cv: Cv<'_, Jq>| {
            let (right, left) = (cv.0.pop_var(), cv.0.pop_var());
            let big = |value: &Val| matches!(value, Val::Num(Num::BigInt(n)) if n.bits() > MAX_BITS);
            let repeated = length(&left) * times(&right) + length(&right) * times(&left);
            if big(&left) || big(&right) || repeated > MEMORY as f64 {
                resume_unwind(Box::new(Stop::Memory));
            }
            bome(left * right)
        })),
        run(("__fit", v(0), |cv: Cv<'_, Jq>| {
            printable(&cv.1);
            bome(Ok(cv.1))
        })),
        run(("tojson", v(0), |cv: Cv<'_, Jq>| {
            printable(&cv.1);
            bome(Ok(Val::utf8_str(cv.1.to_string())))
        })),
        run(("now", v(0), |cv: Cv<'_, Jq>| bome(Ok(Val::from(cv.0.data().0.now))))),
    ]
}

fn printable(value: &Val) {
    let plain = matches!(value, Val::TStr(_) | Val::Num(_) | Val::Bool(_) | Val::Null);
    if !plain && !fits(value, &mut MAX_PRINTED.clone(), MAX_PRINTED_DEPTH) {
        resume_unwind(Box::new(Stop::Memory));
    }
}

fn length(value: &Val) -> f64 {
    match value {
        Val::BStr(bytes) | Val::TStr(bytes) => bytes.len() as f64,
        _ => 0.0,
    }
}

fn times(value: &Val) -> f64 {
    match value {
        Val::Num(_) => jaq_std::ValT::as_f64(value).unwrap_or(0.0).max(0.0),
        _ => 0.0,
    }
}

/// Whether a value has at most so many nodes and levels, shared parts counted each time.
pub(super) fn fits(value: &Val, nodes: &mut usize, depth: usize) -> bool {
    if *nodes == 0 || depth == 0 {
        return false;
    }
    *nodes -= 1;
    match value {
        Val::Arr(items) => items.iter().all(|item| fits(item, nodes, depth - 1)),
        Val::Obj(entries) => {
            entries.iter().all(|(key, item)| fits(key, nodes, depth - 1) && fits(item, nodes, depth - 1))
        }
        _ => true,
    }
}
