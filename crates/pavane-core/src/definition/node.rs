//! The document as a tree in which every key and value knows its place.
//!
//! YAML and JSON go the same way. YAML is 1.2 with core booleans: `on`, `yes` and `off` are text.

use jaq_json::Val;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::Position;
use crate::value::Value;

/// Longest document: far above any definition, low enough to read in a blink.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub kind: Kind,
    pub at: Position,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f64),
    Str(String),
    Seq(Vec<Node>),
    /// In the order of the text.
    Map(Vec<(Key, Node)>),
}

/// A key and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub name: String,
    pub at: Position,
}

/// What is no YAML, and where.
pub(super) struct Malformed {
    pub at: Position,
    pub message: String,
}

pub(super) fn parse(text: &str) -> Result<Node, Malformed> {
    if text.len() > MAX_BYTES {
        let message = format!("the document has {} bytes; {MAX_BYTES} are the limit", text.len());
        return Err(Malformed { at: Position { line: 1, column: 1 }, message });
    }
    let options = serde_saphyr::options! {
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::Error,
        merge_keys: serde_saphyr::options::MergeKeyPolicy::Error,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: 128,
            max_nodes: 200_000,
            max_events: 500_000,
            max_aliases: 1_000,
            max_total_scalar_bytes: MAX_BYTES,
            simple_key_max_lookahead: 65_536,
            max_documents: 1,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| Malformed {
        at: error.location().map(position).unwrap_or_default(),
        message: error.to_string(),
    })
}

impl Node {
    /// The value as data.
    pub fn value(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::NULL,
            Kind::Bool(b) => (*b).into(),
            Kind::Int(n) => Value::integer(*n),
            Kind::UInt(n) => <Val as jaq_core::ValT>::from_num(&n.to_string()).map_or(Value::NULL, Value),
            Kind::Float(f) => Value::float(*f),
            Kind::Str(text) => Value::text(text),
            Kind::Seq(items) => Value::array(items.iter().map(Node::value)),
            Kind::Map(entries) => Value::object(entries.iter().map(|(key, node)| (&key.name, node.value()))),
        }
    }

    /// What it is, for messages.
    pub fn what(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "a boolean",
            Kind::Int(_) | Kind::UInt(_) => "an integer",
            Kind::Float(_) => "a number",
            Kind::Str(_) => "a string",
            Kind::Seq(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Str(text) => Some(text),
            _ => None,
        }
    }

    pub fn get(&self, name: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::<Kind>::deserialize(deserializer).map(|s| Node { kind: s.value, at: position(s.referenced) })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML or JSON value")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        Kind::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(i64::try_from(value).map_or(Kind::UInt(value), Kind::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Str(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Kind, E> {
        Ok(Kind::Str(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element::<Node>()? {
            items.push(item);
        }
        Ok(Kind::Seq(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let key = Key { name: key.value, at: position(key.referenced) };
            entries.push((key, access.next_value::<Node>()?));
        }
        Ok(Kind::Map(entries))
    }
}

fn position(location: Location) -> Position {
    Position { line: location.line(), column: location.column() }
}
