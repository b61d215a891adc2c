//! Secrets never enter the state or the journal: what an expression reads of them is sealed as a marker, and the
//! runtime puts the value back when it sends the request.
//!
//! A marker is `U+FDD0 NAME/json/pointer U+FDD1` (characters that Unicode keeps for a program's own use): it names the
//! secret and where in it the value stands. Sealing finds the text of a secret as it is; a secret that an expression
//! encodes or cuts is not recognised, which is why credentials belong into `authentication`.
//!
//! Nobody outside can make a marker: data that comes in is freed of these characters ([`foreign`]), and an expression
//! can only pass on the markers it was given, not build one ([`confine`]).

use std::borrow::Cow;
use std::collections::HashSet;

use jaq_json::Val;

use super::types::Host;
use crate::program::Program;
use crate::value::Value;

/// Begins a marker.
pub const OPEN: char = '\u{FDD0}';
/// Ends a marker.
pub const CLOSE: char = '\u{FDD1}';

/// In a marker, before the name: the value is percent-encoded where it is put back.
pub const ENCODED: char = '%';

/// Shorter secret texts are not looked for: they would seal every other word.
const MIN_LENGTH: usize = 4;

/// Whether a value holds a marker, or a part of one.
pub fn is_sealed(value: &Value) -> bool {
    holds(&value.0)
}

/// Data from outside: what could be taken for a marker becomes U+FFFD, as Unicode advises for such characters.
#[must_use]
pub(super) fn foreign(value: Value) -> Value {
    if !is_sealed(&value) {
        return value;
    }
    let clean = |text: &str| text.replace([OPEN, CLOSE], "\u{FFFD}");
    Value(map_texts(&value.0, &clean))
}

/// The result of an expression: markers that stand in none of its `sources` are made harmless.
pub(super) fn confine<'a>(value: Value, sources: impl Iterator<Item = &'a Value>) -> Value {
    let mut known = HashSet::new();
    sources.for_each(|source| markers(&source.0, &mut known));
    let confined = |text: &str| {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find([OPEN, CLOSE]) {
            let (before, from) = rest.split_at(at);
            out.push_str(before);
            let marker = from.find(CLOSE).and_then(|end| from.get(..end + CLOSE.len_utf8()));
            match marker.filter(|marker| known.contains(*marker)) {
                Some(marker) => {
                    out.push_str(marker);
                    rest = &from[marker.len()..];
                }
                None => {
                    out.push(char::REPLACEMENT_CHARACTER);
                    rest = &from[OPEN.len_utf8()..];
                }
            }
        }
        out.push_str(rest);
        out
    };
    Value(map_texts(&value.0, &confined))
}

fn holds(value: &Val) -> bool {
    match value {
        // Both characters begin with these two bytes.
        Val::TStr(bytes) => !bytes.is_ascii() && bytes.contains(&0xEF) && text(bytes).contains([OPEN, CLOSE]),
        Val::Arr(items) => items.iter().any(holds),
        Val::Obj(map) => map.iter().any(|(key, item)| holds(key) || holds(item)),
        _ => false,
    }
}

fn markers(value: &Val, found: &mut HashSet<String>) {
    match value {
        Val::TStr(bytes) if holds(value) => {
            for part in text(bytes).split_inclusive(CLOSE).filter(|part| part.ends_with(CLOSE)) {
                found.extend(part.rfind(OPEN).map(|at| part[at..].to_owned()));
            }
        }
        Val::Arr(items) => items.iter().for_each(|item| markers(item, found)),
        Val::Obj(map) => map.iter().for_each(|(_, item)| markers(item, found)),
        _ => {}
    }
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// The value with every text, keys included, put through `change`.
fn map_texts(value: &Val, change: &dyn Fn(&str) -> String) -> Val {
    match value {
        Val::TStr(bytes) => Value::text(change(&text(bytes))).0,
        Val::Arr(items) => items.iter().map(|item| map_texts(item, change)).collect(),
        Val::Obj(map) => {
            Val::obj(map.iter().map(|(key, item)| (map_texts(key, change), map_texts(item, change))).collect())
        }
        other => other.clone(),
    }
}

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
    let sealed = |text: &str| texts.iter().fold(text.to_owned(), |text, (secret, marker)| text.replace(secret, marker));
    if texts.is_empty() { value } else { Value(map_texts(&value.0, &sealed)) }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(inner: &str) -> String {
        format!("{OPEN}{inner}{CLOSE}")
    }

    #[test]
    fn data_from_outside_holds_no_marker() {
        let data = Value::object([("a", Value::text(format!("x{}y", marked("api/key")))), ("b", Value::text("ü"))]);
        assert_eq!(foreign(data).to_json(), "{\"a\":\"x\u{FFFD}api/key\u{FFFD}y\",\"b\":\"ü\"}");
    }

    #[test]
    fn an_expression_passes_markers_on_and_makes_none() {
        let source = Value::array([Value::text(format!("Bearer {}", marked("api/key")))]);
        for (result, kept) in [
            (marked("api/key"), true),
            (format!("{0}{0} and more", marked("api/key")), true),
            (marked("api/other"), false),
            (format!("{OPEN}api/key"), false),
            (format!("{OPEN}{}", marked("api/key")), false),
        ] {
            let confined = confine(Value::text(&result), [&source].into_iter());
            assert_eq!(confined == Value::text(&result), kept, "{result:?} became {confined:?}");
        }
    }
}
