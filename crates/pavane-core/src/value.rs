//! The engine's data: JSON values that are cheap to clone and that jq runs on without conversion.

pub(crate) mod aside;
pub(crate) mod buffer;
pub(crate) mod json;
pub(crate) mod noted;
pub(crate) mod once;
pub(crate) mod text;

use std::fmt;

pub use noted::Texts;

use buffer::Buffer;

use jaq_json::{Map, Num, Rc, Val};
use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

/// A JSON value. Cloning costs a reference count; equality is jq's (`1 == 1.0`).
///
/// It wraps the value type of the jq engine, so that no step between an HTTP response, an expression and the store
/// converts anything. Integers of up to 64 bits are exact; every other number is an IEEE 754 double, as RFC 8259
/// advises: longer ones lose their last digits when they are read.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Value(pub Val);

/// How deep arrays and objects may nest. Deeper input is refused when it is read, because values are walked and
/// dropped recursively.
pub const MAX_DEPTH: usize = 128;

impl Value {
    /// JSON `null`.
    pub const NULL: Value = Value(Val::Null);

    /// Reads one JSON text.
    ///
    /// # Errors
    /// `serde_json`'s error (with line and column) for malformed text or nesting over [`MAX_DEPTH`].
    pub fn parse(json: &[u8]) -> Result<Value, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// A text value.
    pub fn text(text: impl AsRef<str>) -> Value {
        Value(Val::utf8_str(text.as_ref().as_bytes().to_vec()))
    }

    /// An integer value.
    pub fn integer(number: i64) -> Value {
        isize::try_from(number).map_or_else(
            |_| <Val as jaq_core::ValT>::from_num(&number.to_string()).map_or(Value::NULL, Value),
            |n| Value(Val::from(n)),
        )
    }

    /// A floating point value.
    pub fn float(number: f64) -> Value {
        Value(Val::from(number))
    }

    /// An array of values.
    pub fn array(items: impl IntoIterator<Item = Value>) -> Value {
        Value(items.into_iter().map(|v| v.0).collect())
    }

    /// An object of values, in the order given.
    pub fn object<K: AsRef<str>>(entries: impl IntoIterator<Item = (K, Value)>) -> Value {
        let map: Map = entries.into_iter().map(|(k, v)| (Value::text(k).0, v.0)).collect();
        Value(Val::obj(map))
    }

    /// An empty object.
    pub fn empty_object() -> Value {
        Value(Val::obj(Map::default()))
    }

    /// The property `name` of an object; `None` for a missing property or a value that is no object.
    pub fn get(&self, name: &str) -> Option<Value> {
        match &self.0 {
            Val::Obj(map) => map.get(&Value::text(name).0).cloned().map(Value),
            _ => None,
        }
    }

    /// The text of a string value that is valid UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match &self.0 {
            Val::TStr(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The integer of a number value that is one (`2` and `2.0` alike).
    pub fn as_i64(&self) -> Option<i64> {
        match &self.0 {
            Val::Num(Num::Int(n)) => i64::try_from(*n).ok(),
            #[expect(clippy::cast_possible_truncation, reason = "the range is tested first")]
            number => jaq_std::ValT::as_f64(number).filter(|f| f.fract() == 0.0 && f.abs() < 9e15).map(|f| f as i64),
        }
    }

    /// The number of a number value.
    pub fn as_f64(&self) -> Option<f64> {
        jaq_std::ValT::as_f64(&self.0)
    }

    /// The items of an array value.
    pub fn as_array(&self) -> Option<Vec<Value>> {
        match &self.0 {
            Val::Arr(items) => Some(items.iter().cloned().map(Value).collect()),
            _ => None,
        }
    }

    /// The entries of an object value, in their order; keys that are no strings are left out.
    pub fn entries(&self) -> Option<Vec<(String, Value)>> {
        match &self.0 {
            Val::Obj(map) => Some(
                map.iter()
                    .filter_map(|(k, v)| Value(k.clone()).as_str().map(|k| (k.to_owned(), Value(v.clone()))))
                    .collect(),
            ),
            _ => None,
        }
    }

    /// Whether the value is JSON `null`.
    pub fn is_null(&self) -> bool {
        matches!(self.0, Val::Null)
    }

    /// Whether the value is an object.
    pub fn is_object(&self) -> bool {
        matches!(self.0, Val::Obj(_))
    }

    /// jq's truth: everything but `false` and `null`.
    pub fn is_true(&self) -> bool {
        !matches!(self.0, Val::Null | Val::Bool(false))
    }

    /// This object with `name` set to `value`; a value that is no object becomes one with that single property.
    #[must_use]
    pub fn with(self, name: &str, value: Value) -> Value {
        let mut map = match self.0 {
            Val::Obj(map) => Rc::unwrap_or_clone(map),
            _ => Map::default(),
        };
        map.insert(Value::text(name).0, value.0);
        Value(Val::obj(map))
    }

    /// The JSON text of this value, compact, object keys in their order.
    pub fn to_json(&self) -> String {
        let mut buffer = Buffer::default();
        text::write(&self.0, &mut buffer);
        // All that is written is UTF-8.
        buffer.text().unwrap_or_default().to_owned()
    }

    /// The text of this value with object keys sorted at every depth: equal data, equal text. For digests.
    pub fn to_canonical_json(&self) -> String {
        self.sorted().to_json()
    }

    fn sorted(&self) -> Value {
        match &self.0 {
            Val::Arr(items) => Value::array(items.iter().map(|v| Value(v.clone()).sorted())),
            Val::Obj(map) => {
                let mut entries: Vec<_> = map.iter().map(|(k, v)| (k.clone(), Value(v.clone()).sorted().0)).collect();
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                Value(Val::obj(entries.into_iter().collect()))
            }
            _ => self.clone(),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_json())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value(Val::Bool(value))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Value {
        Value::text(value)
    }
}

impl From<String> for Value {
    fn from(value: String) -> Value {
        Value(Val::utf8_str(value.into_bytes()))
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::integer(value)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::NULL, Into::into)
    }
}

impl From<&serde_json::Value> for Value {
    fn from(json: &serde_json::Value) -> Value {
        // Every JSON value is one of ours.
        serde_json::from_value(json.clone()).unwrap_or_default()
    }
}

impl From<&Value> for serde_json::Value {
    fn from(value: &Value) -> serde_json::Value {
        serde_json::to_value(value).unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if once::is_reading() {
            let position = u32::deserialize(deserializer)?;
            return once::at(position).ok_or_else(|| D::Error::custom(format!("there is no value {position}")));
        }
        Val::deserialize(deserializer).map(Value)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match once::position(self) {
            Some(position) => serializer.serialize_u32(position),
            None => text::serialize(&self.0, serializer),
        }
    }
}

/// Reads an optional field that may be there with the value `null`: that is not the same as being absent.
///
/// # Errors
/// As for [`Value`].
pub fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// The beginning of a value's JSON text, for messages.
pub fn excerpt(value: &Value) -> String {
    const LENGTH: usize = 80;
    let json = value.to_json();
    match json.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &json[..end]),
        None => json,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_survives_a_round_trip() {
        for text in [
            "null",
            "true",
            "-12",
            "9007199254740993",
            "18446744073709551615",
            "1.5",
            r#"{"b":1,"a":[{},[],"é\n\"x"]}"#,
        ] {
            assert_eq!(Value::parse(text.as_bytes()).unwrap().to_json(), text);
        }
    }

    #[test]
    fn numbers_beyond_64_bits_are_doubles() {
        let long = Value::parse(b"123456789012345678901234567890").unwrap();
        assert_eq!(long.as_f64(), Some(123_456_789_012_345_678_901_234_567_890.0));
    }

    #[test]
    fn canonical_text_sorts_keys_at_every_depth() {
        let value = Value::parse(br#"{"b":{"d":1,"c":2},"a":[{"z":1,"y":2}]}"#).unwrap();
        assert_eq!(value.to_canonical_json(), r#"{"a":[{"y":2,"z":1}],"b":{"c":2,"d":1}}"#);
    }

    #[test]
    fn nesting_over_the_limit_is_refused() {
        let deep = format!("{}{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
        assert!(Value::parse(deep.as_bytes()).is_err());
    }
}
