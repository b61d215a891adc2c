//! Writing values as JSON text, in one pass over their bytes.
//!
//! Values are most of what Pavane writes, so they do not go through a generic serializer piece by piece: a string without
//! anything to escape is copied as it stands. Whatever is rare (escapes, other characters than ASCII, numbers that are no
//! 64-bit integers) is left to `serde_json`, so that there is one form of it. Start reading at [`write`].

use std::borrow::Cow;

use jaq_json::{Num, Val};
use serde::ser::{Error, Serialize, SerializeStruct, Serializer};

use super::buffer::Buffer;
use super::noted;

/// The name by which `serde_json` knows a struct whose only field is JSON text that is to be written as it stands: that of
/// its own `RawValue`, which cannot borrow a text without reading all of it once more. A test holds it to that.
pub(super) const RAW: &str = "$serde_json::private::RawValue";

/// JSON text that is written as it stands. The serializer must be [`super::json`]'s, or one of `serde_json`'s.
pub(crate) struct Raw<'a>(pub &'a str);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut raw = to.serialize_struct(RAW, 1)?;
        raw.serialize_field(RAW, self.0)?;
        raw.end()
    }
}

/// Gives a value to a serializer, which must be [`super::json`]'s, or one of `serde_json`'s.
pub(super) fn serialize<S: Serializer>(value: &Val, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Val::Null => return to.serialize_unit(),
        Val::Bool(b) => return to.serialize_bool(*b),
        _ => {}
    }
    let mut buffer = Buffer::default();
    write(value, &mut buffer);
    match buffer.text() {
        Ok(text) => {
            noted::note(value, text);
            Raw(text).serialize(to)
        }
        // All that is written is UTF-8.
        Err(error) => Err(S::Error::custom(error)),
    }
}

/// Writes a value behind what is there.
pub(super) fn write(value: &Val, out: &mut Vec<u8>) {
    match value {
        Val::Null => out.extend_from_slice(b"null"),
        Val::Bool(true) => out.extend_from_slice(b"true"),
        Val::Bool(false) => out.extend_from_slice(b"false"),
        Val::Num(Num::Int(n)) => plain(&(*n as i64), out),
        Val::Num(Num::Float(f)) => write_float(*f, out),
        Val::Num(n) => write_number(&n.to_string(), jaq_std::ValT::as_f64(value).unwrap_or(0.0), out),
        Val::BStr(bytes) | Val::TStr(bytes) => write_string(bytes, out),
        Val::Arr(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Val::Obj(map) => {
            out.push(b'{');
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_member(key, value, out);
            }
            out.push(b'}');
        }
    }
}

/// Writes a member of an object. JSON's keys are strings: any other is written as the text that jq shows for it.
pub(super) fn write_member(key: &Val, value: &Val, out: &mut Vec<u8>) {
    match key {
        Val::TStr(bytes) | Val::BStr(bytes) => write_string(bytes, out),
        other => write_string(other.to_string().as_bytes(), out),
    }
    out.push(b':');
    write(value, out);
}

pub(super) fn write_string(bytes: &[u8], out: &mut Vec<u8>) {
    if is_plain(bytes) {
        write_plain(bytes, out);
    } else {
        let text = std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed);
        plain(&*text, out);
    }
}

/// Writes a string in which nothing is to be escaped. Most are short, and those are copied without a call: in two pieces
/// that overlap.
#[inline]
pub(super) fn write_plain(bytes: &[u8], out: &mut Vec<u8>) {
    const Q: u8 = b'"';
    let end = out.len() + 1 + bytes.len();
    match (bytes, bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        ([], ..) => out.extend_from_slice(&[Q, Q]),
        ([a], ..) => out.extend_from_slice(&[Q, *a, Q]),
        ([a, b], ..) => out.extend_from_slice(&[Q, *a, *b, Q]),
        ([a, b, c], ..) => out.extend_from_slice(&[Q, *a, *b, *c, Q]),
        ([a, b, c, d, .., w, x, y, z] | [a @ w, b @ x, c @ y, d @ z], None, _) => {
            out.extend_from_slice(&[Q, *a, *b, *c, *d]);
            out.truncate(end - 4);
            out.extend_from_slice(&[*w, *x, *y, *z, Q]);
        }
        (_, Some([a, b, c, d, e, f, g, h]), Some([s, t, u, v, w, x, y, z])) if bytes.len() <= 16 => {
            out.extend_from_slice(&[Q, *a, *b, *c, *d, *e, *f, *g, *h]);
            out.truncate(end - 8);
            out.extend_from_slice(&[*s, *t, *u, *v, *w, *x, *y, *z, Q]);
        }
        _ => {
            out.reserve(bytes.len() + 2);
            out.push(Q);
            out.extend_from_slice(bytes);
            out.push(Q);
        }
    }
}

/// What stands for a text between the quotes of a JSON string.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if is_plain(text.as_bytes()) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::new();
    plain(text, &mut out);
    let quoted = String::from_utf8(out).unwrap_or_default();
    Cow::Owned(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned())
}

/// Whether these are ASCII characters of which JSON escapes none: eight at a time, as far as there are eight. Texts are
/// short: the last eight bytes overlap the ones before, and so do four and four of less than eight.
#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last)) if bytes.len() <= 16 => odd(*first) | odd(*last) == 0,
        (_, Some(last)) => bytes.as_chunks::<8>().0.iter().fold(odd(*last), |all, word| all | odd(*word)) == 0,
        _ => match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            (Some([a, b, c, d]), Some([e, f, g, h])) => odd([*a, *b, *c, *d, *e, *f, *g, *h]) == 0,
            _ => bytes.iter().all(|byte| odd([*byte, b' ', b' ', b' ', b' ', b' ', b' ', b' ']) == 0),
        },
    }
}

/// Not zero when one of these is not ASCII, or is escaped in JSON.
#[inline]
fn odd(word: [u8; 8]) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // Of an ASCII byte the high bit is set by taking away what is more than it: the lowest such byte is marked rightly, and
    // bytes above it may be marked wrongly, and then one is odd all the same.
    let word = u64::from_ne_bytes(word);
    let control = word.wrapping_sub(ONES * 0x20);
    let quote = (word ^ (ONES * u64::from(b'"'))).wrapping_sub(ONES);
    let backslash = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
    (control | quote | backslash) & !word & HIGH | word & HIGH
}

/// JSON has no infinities and no NaN: they become the largest finite numbers and `null`, as jq prints them.
fn write_float(number: f64, out: &mut Vec<u8>) {
    if number.is_nan() {
        out.extend_from_slice(b"null");
    } else {
        plain(&number.clamp(f64::MIN, f64::MAX), out);
    }
}

/// Big integers and decimals keep their digits where the text is a JSON number.
fn write_number(text: &str, float: f64, out: &mut Vec<u8>) {
    match serde_json::from_str::<&serde_json::value::RawValue>(text) {
        Ok(raw) if text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => {
            out.extend_from_slice(raw.get().as_bytes());
        }
        _ => write_float(float, out),
    }
}

/// Writes as `serde_json` does what it does not fail to write: a number, a text.
pub(super) fn plain<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    let before = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        // Writing a number or a text to memory does not fail.
        out.truncate(before);
        out.extend_from_slice(b"null");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;

    #[test]
    fn strings_are_as_serde_json_writes_them() {
        let long = "0123456789abcdef ~\u{7f}";
        for odd in ["", "\"", "\\", "\n", "\0", "\u{1f}", " ", "/", "\u{7f}", "é", "\u{2028}", "😀", "`", "@", "\u{80}"]
        {
            let lengths = (0..=long.len()).flat_map(|length| (0..=length).map(move |at| (at, length)));
            for (at, length) in lengths {
                let text = format!("{}{odd}{}", &long[..at], &long[at..length]);
                assert_eq!(Value::text(&text).to_json(), serde_json::to_string(&text).unwrap(), "{text:?}");
                assert_eq!(format!("\"{}\"", escaped(&text)), serde_json::to_string(&text).unwrap(), "{text:?}");
                assert_eq!(is_plain(text.as_bytes()), escapes_nothing(&text), "{text:?}");
            }
        }
        assert_eq!(Value(Val::utf8_str(b"a\xffb".to_vec())).to_json(), "\"a\u{fffd}b\"");
    }

    fn escapes_nothing(text: &str) -> bool {
        text.is_ascii() && serde_json::to_string(text).unwrap() == format!("\"{text}\"")
    }

    #[test]
    fn numbers_are_as_serde_json_writes_them() {
        for number in [0.0, -0.0, 1.5, 1e300, f64::MIN_POSITIVE, f64::MAX] {
            assert_eq!(Value::float(number).to_json(), serde_json::to_string(&number).unwrap());
        }
        for (number, text) in [(f64::NAN, "null"), (f64::INFINITY, "1.7976931348623157e308")] {
            assert_eq!(Value::float(number).to_json().replace("e+", "e"), text);
        }
        assert_eq!(Value::integer(i64::MIN).to_json(), i64::MIN.to_string());
    }

    #[test]
    fn a_number_is_read_as_the_one_that_was_written() {
        // The first is read as its neighbour by a reader that is fast and not exact.
        for number in [3.714009107541281e-15, 0.1 + 0.2, 1e23, 5e-324, f64::MAX, 8.41e21, 2.2250738585072014e-308] {
            let written = Value::float(number).to_json();
            let read = Value::parse(written.as_bytes()).unwrap();
            assert_eq!((&read, read.to_json()), (&Value::float(number), written));
        }
    }

    #[test]
    fn a_value_within_other_data_is_written_as_it_stands() {
        let value = Value::parse(br#"{"a":[1,"x",{}],"b":null}"#).unwrap();
        let outer = serde_json::to_string(&vec![(Some(&value), 1)]).unwrap();
        assert_eq!(outer, r#"[[{"a":[1,"x",{}],"b":null},1]]"#);
        let tree = serde_json::to_value(&value).unwrap();
        assert_eq!(tree, serde_json::json!({ "a": [1, "x", {}], "b": null }));
        assert_eq!(
            serde_json::from_str::<Value>(&serde_json::to_string(&Raw("[1, 2]")).unwrap()).unwrap().to_json(),
            "[1,2]"
        );
    }
}
