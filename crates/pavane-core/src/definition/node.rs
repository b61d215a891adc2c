//! YAML and JSON text to a tree in which every key and value knows its place. Knows nothing of the DSL.
//!
//! JSON goes through the same reader, because it gives positions too. The limits stand in [`parse`].

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::Position;
use crate::value::Value;

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node {
    pub kind: Kind,
    pub at: Position,
}

/// What a node holds.
#[derive(Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f64),
    Str(String),
    Seq(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key and its place.
#[derive(Debug)]
pub(super) struct Key {
    pub name: String,
    pub at: Position,
}

/// Reads one document.
///
/// # Errors
/// A sentence and the place, for malformed text, a duplicate key, or a text over a limit.
pub(super) fn parse(text: &str) -> Result<Node, (Position, String)> {
    // Depth: the tree is walked recursively. Nodes, events and aliases: an alias bomb must stop early; the largest
    // hand-written definitions have a few thousand nodes. Look-ahead: JSON keys may be longer than YAML's 1024.
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
            max_total_scalar_bytes: super::MAX_TEXT,
            simple_key_max_lookahead: 65_536,
            max_documents: 1,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error: serde_saphyr::Error| {
        let at = error.location().map(position).unwrap_or_default();
        (at, first_line(&error.without_snippet().to_string()))
    })
}

impl Node {
    /// The same data without places.
    pub fn to_value(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::NULL,
            Kind::Bool(b) => Value::from(*b),
            Kind::Int(n) => Value::integer(*n),
            Kind::UInt(n) => Value::parse(n.to_string().as_bytes()).unwrap_or_default(),
            Kind::Float(f) => Value::float(*f),
            Kind::Str(s) => Value::text(s),
            Kind::Seq(items) => Value::array(items.iter().map(Node::to_value)),
            Kind::Map(entries) => Value::object(entries.iter().map(|(k, v)| (&k.name, v.to_value()))),
        }
    }

    /// What it is, in words of a message.
    pub fn describe(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "a boolean",
            Kind::Int(_) | Kind::UInt(_) | Kind::Float(_) => "a number",
            Kind::Str(_) => "a text",
            Kind::Seq(_) => "a list",
            Kind::Map(_) => "an object",
        }
    }

    /// The value at `key`, when this is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|(k, _)| k.name == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The entries of an object; none of anything else.
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }
}

fn position(location: serde_saphyr::Location) -> Position {
    Position { line: location.line(), column: location.column() }
}

/// Messages may carry an excerpt or hints for programmers below their first line.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or("the text is malformed").to_owned()
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

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Kind, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = items.next_element::<Node>()? {
            nodes.push(node);
        }
        Ok(Kind::Seq(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Kind, A::Error> {
        let mut nodes = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            nodes.push((Key { name: key.value, at: position(key.referenced) }, entries.next_value::<Node>()?));
        }
        Ok(Kind::Map(nodes))
    }
}
