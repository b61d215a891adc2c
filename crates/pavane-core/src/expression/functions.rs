//! Which of jq's functions exist here, and the few that had to be written anew to be metered.
//!
//! Gone is what reaches out of the expression (`env`, `input`, `debug`), ends the process (`halt`), or differs from
//! machine to machine (local time). `now` is the recorded time of the step.

use std::cmp::Ordering;
use std::panic::resume_unwind;

use jaq_core::Cv;
use jaq_core::native::{Fun, bome, run, v};
use jaq_json::{Num, Val};

use super::budget::{Jq, MAX_LEVELS, MEMORY, Meter, NODES_PER_TERM, Stop};

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

/// Longest text that is taken apart letter by letter.
const MAX_LETTERS: usize = 1 << 20;
/// Longest text a regular expression is run on: each match is an object.
const MAX_SEARCHED: usize = 256 << 10;
/// What a byte of JSON text may become in memory.
const BYTES_PER_BYTE: i64 = 24;
/// Longest number `fromjson` reads.
const MAX_DIGITS: usize = 1_200;
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
    computing().into_iter().chain(paying()).chain(comparing()).collect()
}

/// What the guard puts before or after other terms: each gives its input on.
fn paying() -> Vec<Fun<Jq>> {
    vec![
        // A value that was just made, or that is walked as a whole by what follows.
        run(("__whole", v(0), |cv: Cv<'_, Jq>| {
            cv.0.data().0.walk(&cv.1);
            bome(Ok(cv.1))
        })),
        // A value that is put into another.
        run(("__grow", v(0), |cv: Cv<'_, Jq>| {
            let meter = cv.0.data().0;
            meter.grow(meter.walk(&cv.1));
            bome(Ok(cv.1))
        })),
        run(("__settle", v(0), |cv: Cv<'_, Jq>| {
            cv.0.data().0.settle(&cv.1);
            bome(Ok(cv.1))
        })),
        // A container or text that is gone through without looking deeper.
        run(("__touch", v(0), |cv: Cv<'_, Jq>| {
            touch(cv.0.data().0, &cv.1);
            bome(Ok(cv.1))
        })),
        run(("__touched", v(0), |cv: Cv<'_, Jq>| {
            touch(cv.0.data().0, &cv.1);
            bome(Ok(Val::Bool(true)))
        })),
        run(("__letters", v(0), |cv: Cv<'_, Jq>| {
            bounded(&cv.1, MAX_LETTERS);
            bome(Ok(cv.1))
        })),
        run(("__searched", v(0), |cv: Cv<'_, Jq>| {
            bounded(&cv.1, MAX_SEARCHED);
            touch(cv.0.data().0, &cv.1);
            bome(Ok(cv.1))
        })),
        run(("__json", v(0), |cv: Cv<'_, Jq>| {
            readable(&cv.1);
            bome(Ok(cv.1))
        })),
        // Everything is compared with everything.
        run(("__product", v(1), |mut cv: Cv<'_, Jq>| {
            let (other, meter) = (cv.0.pop_var(), cv.0.data().0);
            product(meter, &cv.1, &other);
            bome(Ok(cv.1))
        })),
    ]
}

fn computing() -> Vec<Fun<Jq>> {
    vec![
        run(("range", v(3), |mut cv: Cv<'_, Jq>| {
            let (by, to, from) = (cv.0.pop_var(), cv.0.pop_var(), cv.0.pop_var());
            let meter = cv.0.data().0;
            let mut next = Some(from);
            let direction = by.cmp(&Val::from(0_isize));
            Box::new(std::iter::from_fn(move || {
                meter.tick();
                let current = next.take()?;
                compare(meter, &current, &to);
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
        run(("__add", v(2), |mut cv: Cv<'_, Jq>| {
            let (right, left, meter) = (cv.0.pop_var(), cv.0.pop_var(), cv.0.data().0);
            if matches!(right, Val::Arr(_) | Val::Obj(_)) {
                meter.grow(meter.walk(&right));
            }
            let sum = left + right;
            if let Ok(sum) = &sum {
                meter.settle(sum);
            }
            bome(sum)
        })),
        run(("__sub", v(2), |mut cv: Cv<'_, Jq>| {
            let (right, left) = (cv.0.pop_var(), cv.0.pop_var());
            if matches!((&left, &right), (Val::Arr(_), Val::Arr(_))) {
                product(cv.0.data().0, &left, &right);
            }
            bome(left - right)
        })),
        run(("__div", v(2), |mut cv: Cv<'_, Jq>| {
            let (right, left) = (cv.0.pop_var(), cv.0.pop_var());
            if let (Val::TStr(text) | Val::BStr(text), Val::TStr(by) | Val::BStr(by)) = (&left, &right) {
                let pieces = if by.is_empty() { text.len() } else { count(text, by) };
                if pieces > MAX_LETTERS {
                    resume_unwind(Box::new(Stop::Memory));
                }
            }
            bome(left / right)
        })),
        run(("__mul", v(2), |mut cv: Cv<'_, Jq>| {
            let (right, left, meter) = (cv.0.pop_var(), cv.0.pop_var(), cv.0.data().0);
            if matches!((&left, &right), (Val::Obj(_), Val::Obj(_))) {
                meter.grow(meter.walk(&left) + meter.walk(&right));
            }
            let big = |value: &Val| matches!(value, Val::Num(Num::BigInt(n)) if n.bits() > MAX_BITS);
            let repeated = length(&left) * times(&right) + length(&right) * times(&left);
            if big(&left) || big(&right) || repeated > MEMORY as f64 {
                resume_unwind(Box::new(Stop::Memory));
            }
            bome(left * right)
        })),
        run(("tojson", v(0), |cv: Cv<'_, Jq>| {
            cv.0.data().0.walk(&cv.1);
            bome(Ok(Val::utf8_str(cv.1.to_string())))
        })),
        run(("now", v(0), |cv: Cv<'_, Jq>| bome(Ok(Val::from(cv.0.data().0.now))))),
    ]
}

/// The comparisons, each paid for by what is really compared.
fn comparing() -> Vec<Fun<Jq>> {
    macro_rules! comparison {
        ($name:literal, $left:ident, $right:ident, $holds:expr) => {
            run(($name, v(2), |mut cv: Cv<'_, Jq>| {
                let ($right, $left) = (cv.0.pop_var(), cv.0.pop_var());
                compare(cv.0.data().0, &$left, &$right);
                bome(Ok(Val::Bool($holds)))
            }))
        };
    }
    vec![
        comparison!("__eq", left, right, left == right),
        comparison!("__ne", left, right, left != right),
        comparison!("__lt", left, right, left < right),
        comparison!("__le", left, right, left <= right),
        comparison!("__gt", left, right, left > right),
        comparison!("__ge", left, right, left >= right),
    ]
}

/// Pays for a comparison: both values are gone through as far as they are equal.
fn compare(meter: &Meter<'_>, left: &Val, right: &Val) {
    let mut nodes = 0;
    equal(left, right, &mut nodes);
    meter.pay(nodes / NODES_PER_TERM);
}

fn equal(left: &Val, right: &Val, nodes: &mut u64) -> bool {
    *nodes += 1;
    match (left, right) {
        (Val::Arr(left), Val::Arr(right)) => left.iter().zip(right.iter()).all(|(l, r)| equal(l, r, nodes)),
        (Val::Obj(left), Val::Obj(right)) => {
            // To order them, all keys are sorted first.
            *nodes += (left.len() + right.len()) as u64;
            left.iter().all(|(key, l)| right.get(key).is_some_and(|r| equal(l, r, nodes)))
        }
        (Val::TStr(left) | Val::BStr(left), Val::TStr(right) | Val::BStr(right)) => {
            *nodes += (left.len().min(right.len()) / 64) as u64;
            left == right
        }
        (left, right) => left == right,
    }
}

fn product(meter: &Meter<'_>, left: &Val, right: &Val) {
    let (left, right) = (size(meter, left), size(meter, right));
    meter.pay(left.saturating_mul(right) / NODES_PER_TERM);
}

fn size(meter: &Meter<'_>, value: &Val) -> u64 {
    match value {
        Val::TStr(text) | Val::BStr(text) => 1 + text.len() as u64 / 64,
        value => meter.walk(value) as u64,
    }
}

fn touch(meter: &Meter<'_>, value: &Val) {
    meter.pay(match value {
        Val::Arr(items) => items.len() as u64 / NODES_PER_TERM,
        Val::Obj(entries) => entries.len() as u64 / NODES_PER_TERM,
        Val::TStr(text) | Val::BStr(text) => text.len() as u64 / 256,
        _ => 0,
    });
}

fn bounded(value: &Val, bytes: usize) {
    if length(value) > bytes as f64 {
        resume_unwind(Box::new(Stop::Memory));
    }
}

fn count(text: &[u8], by: &[u8]) -> usize {
    text.windows(by.len()).filter(|window| *window == by).count()
}

/// Stops before a JSON text is read that nests too deep for the stack, or would become too large.
fn readable(value: &Val) {
    let (Val::TStr(text) | Val::BStr(text)) = value else { return };
    let (mut depth, mut deepest, mut digits, mut longest) = (0_usize, 0, 0_usize, 0);
    for byte in text.iter() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        (deepest, longest) = (deepest.max(depth), longest.max(digits));
    }
    let memory = (text.len() as i64).saturating_mul(BYTES_PER_BYTE);
    if deepest > MAX_LEVELS || (longest > MAX_DIGITS && !text.starts_with(b"\"")) || memory > MEMORY {
        resume_unwind(Box::new(Stop::Size));
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
