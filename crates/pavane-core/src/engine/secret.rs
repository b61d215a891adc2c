//! Secrets never enter the state or the journal: what an expression reads of them is sealed as a marker, and the
//! runtime puts the value back when it sends the request.
//!
//! A marker is `U+E000 NAME/json/pointer U+E001` (private-use characters): it names the secret and where in it the
//! value stands. Sealing finds the text of a secret as it is; a secret that an expression encodes or cuts is not
//! recognised, which is why credentials belong into `authentication`.
//!
//! A marker is made here only. What comes from outside is scrubbed of them, or a service could name a secret in its
//! answer and have it sent wherever the answer goes.

use jaq_json::Val;

use super::types::Host;
use crate::program::Program;
use crate::value::Value;

/// Begins a marker.
pub const OPEN: char = '\u{E000}';
/// Ends a marker.
pub const CLOSE: char = '\u{E001}';

/// In a marker, before the name: the value is percent-encoded where it is put back.
pub const ENCODED: char = '%';

/// Shorter secret texts are not looked for: they would seal every other word.
const MIN_LENGTH: usize = 4;

/// `$secrets`: those the document names, if all are granted.
pub(super) fn granted(program: &Program, host: &Host) -> Result<Value, String> {
    let mut granted = Vec::new();
    for name in program.secrets() {
        let value = host.secrets.get(name).ok_or_else(|| {
            format!(
                "the secret `{name}` is not granted here: configure it under `secrets`, or give --secret {name}=JSON"
            )
        })?;
        granted.push((name.as_str(), value.clone()));
    }
    Ok(Value::object(granted))
}

/// The marker of a secret's value at a JSON pointer.
pub(super) fn marker(name: &str, pointer: &str) -> String {
    format!("{OPEN}{name}{pointer}{CLOSE}")
}

/// Replaces every occurrence of a granted secret's text in the strings of a value by its marker.
pub(super) fn seal(value: Value, program: &Program, host: &Host) -> Value {
    let mut texts = Vec::new();
    for name in program.secrets() {
        if let Some(secret) = host.secrets.get(name) {
            collect(&secret.0, name.clone(), &mut texts);
        }
    }
    // The longest first, so that a secret that contains another is sealed whole.
    texts.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    if texts.is_empty() { value } else { Value(replace(&value.0, &texts)) }
}

/// Data from outside, with what could begin or end a marker replaced by U+FFFD.
pub(super) fn scrub(value: Value, host: &Host) -> Value {
    if host.secrets.is_empty() || !marked(&value.0) {
        return value;
    }
    let harmless = char::REPLACEMENT_CHARACTER.to_string();
    Value(replace(&value.0, &[(OPEN.to_string(), harmless.clone()), (CLOSE.to_string(), harmless)]))
}

fn marked(value: &Val) -> bool {
    match value {
        Val::TStr(_) | Val::BStr(_) => Value(value.clone()).as_str().is_some_and(|text| text.contains([OPEN, CLOSE])),
        Val::Arr(items) => items.iter().any(marked),
        Val::Obj(map) => map.iter().any(|(key, item)| marked(key) || marked(item)),
        _ => false,
    }
}

fn collect(secret: &Val, path: String, texts: &mut Vec<(String, String)>) {
    match secret {
        Val::TStr(_) => {
            if let Some(text) = Value(secret.clone()).as_str()
                && text.len() >= MIN_LENGTH
            {
                texts.push((text.to_owned(), format!("{OPEN}{path}{CLOSE}")));
            }
        }
        Val::Arr(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, format!("{path}/{index}"), texts);
            }
        }
        Val::Obj(_) => {
            for (key, item) in Value(secret.clone()).entries().unwrap_or_default() {
                collect(&item.0, format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), texts);
            }
        }
        _ => {}
    }
}

fn replace(value: &Val, texts: &[(String, String)]) -> Val {
    match value {
        Val::TStr(_) => match Value(value.clone()).as_str() {
            Some(text) => {
                let sealed = texts.iter().fold(text.to_owned(), |text, (secret, marker)| text.replace(secret, marker));
                Value::text(sealed).0
            }
            None => value.clone(),
        },
        Val::Arr(items) => items.iter().map(|item| replace(item, texts)).collect(),
        Val::Obj(map) => Val::obj(map.iter().map(|(key, item)| (replace(key, texts), replace(item, texts))).collect()),
        other => other.clone(),
    }
}
