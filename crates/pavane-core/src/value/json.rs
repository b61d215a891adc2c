//! Writing data as JSON text, for the journal and for messages: they are most of what is written that is no value.
//!
//! What `serde_json` writes, byte for byte (a test holds it to that), with strings copied as they stand where nothing in
//! them is to be escaped. Numbers are left to `serde_json`. Start reading at [`to_writer`].

use serde::ser::{
    Error as _, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};
use serde_json::Error;

use super::buffer::Buffer;
use super::text::{self, RAW};

/// Writes `data` behind what is there. After an error a part of it may be.
///
/// # Errors
/// What is no JSON: a map whose keys are no strings, numbers or booleans. What a type says cannot be written.
pub(crate) fn to_writer(out: &mut Vec<u8>, data: &impl Serialize) -> Result<(), Error> {
    data.serialize(Json::new(out))
}

/// `data` as JSON text.
///
/// # Errors
/// As for [`to_writer`].
pub(crate) fn to_string(data: &impl Serialize) -> Result<String, Error> {
    let mut out = Buffer::default();
    to_writer(&mut out, data)?;
    out.text().map(str::to_owned).map_err(Error::custom)
}

struct Json<'a> {
    out: &'a mut Vec<u8>,
    /// Texts are JSON already.
    raw: bool,
}

impl<'a> Json<'a> {
    fn new(out: &'a mut Vec<u8>) -> Json<'a> {
        Json { out, raw: false }
    }
}

/// An array or an object that is being written, or the struct that stands for text which is written as it stands.
struct Open<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
    close: &'static [u8],
}

impl<'a> Open<'a> {
    fn new(out: &'a mut Vec<u8>, open: u8, close: &'static [u8]) -> Open<'a> {
        out.push(open);
        Open { out, first: true, close }
    }

    fn next(&mut self) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        self.out
    }

    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(Json::new(self.next()))
    }

    fn member<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Error> {
        if self.close.is_empty() {
            return value.serialize(Json { out: self.out, raw: true });
        }
        let out = self.next();
        write_name(name, out);
        value.serialize(Json::new(out))
    }

    fn close(self) {
        self.out.extend_from_slice(self.close);
    }
}

/// Writes `{"name":`.
fn variant(out: &mut Vec<u8>, name: &'static str) {
    out.push(b'{');
    write_name(name, out);
}

/// Writes `"name":`. Names are those of fields and variants in our own source: nothing in them is to be escaped.
fn write_name(name: &'static str, out: &mut Vec<u8>) {
    text::write_plain(name.as_bytes(), out);
    out.push(b':');
}

macro_rules! numbers {
    ($($method:ident: $type:ty),*) => {$(
        fn $method(self, number: $type) -> Result<(), Error> {
            text::plain(&number, self.out);
            Ok(())
        }
    )*};
}

impl<'a> Serializer for Json<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Open<'a>;
    type SerializeTuple = Open<'a>;
    type SerializeTupleStruct = Open<'a>;
    type SerializeTupleVariant = Open<'a>;
    type SerializeMap = Open<'a>;
    type SerializeStruct = Open<'a>;
    type SerializeStructVariant = Open<'a>;

    numbers! {
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128,
        serialize_f32: f32, serialize_f64: f64, serialize_char: char
    }

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), Error> {
        if self.raw {
            self.out.extend_from_slice(value.as_bytes());
        } else {
            text::write_string(value.as_bytes(), self.out);
        }
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.out.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        variant(self.out, name);
        value.serialize(Json::new(self.out))?;
        self.out.push(b'}');
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Open<'a>, Error> {
        Ok(Open::new(self.out, b'[', b"]"))
    }

    fn serialize_tuple(self, _: usize) -> Result<Open<'a>, Error> {
        Ok(Open::new(self.out, b'[', b"]"))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Open<'a>, Error> {
        Ok(Open::new(self.out, b'[', b"]"))
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, name: &'static str, _: usize) -> Result<Open<'a>, Error> {
        variant(self.out, name);
        Ok(Open::new(self.out, b'[', b"]}"))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Open<'a>, Error> {
        Ok(Open::new(self.out, b'{', b"}"))
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Open<'a>, Error> {
        match name {
            // Nothing is around its only field.
            RAW => Ok(Open { out: self.out, first: true, close: b"" }),
            _ => Ok(Open::new(self.out, b'{', b"}")),
        }
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Open<'a>, Error> {
        variant(self.out, name);
        Ok(Open::new(self.out, b'{', b"}}"))
    }
}

macro_rules! elements {
    ($($trait:ident::$method:ident),*) => {$(
        impl $trait for Open<'_> {
            type Ok = ();
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                self.element(value)
            }

            fn end(self) -> Result<(), Error> {
                self.close();
                Ok(())
            }
        }
    )*};
}

elements! {
    SerializeSeq::serialize_element, SerializeTuple::serialize_element, SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
}

macro_rules! fields {
    ($($trait:ident),*) => {$(
        impl $trait for Open<'_> {
            type Ok = ();
            type Error = Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Error> {
                self.member(name, value)
            }

            fn end(self) -> Result<(), Error> {
                self.close();
                Ok(())
            }
        }
    )*};
}

fields! { SerializeStruct, SerializeStructVariant }

impl SerializeMap for Open<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        let out = self.next();
        let start = out.len();
        key.serialize(Json::new(out))?;
        match out.get(start) {
            Some(b'"') => Ok(()),
            // JSON's keys are strings: a number or a boolean is written as one.
            Some(b'-' | b'0'..=b'9' | b't' | b'f') => {
                out.insert(start, b'"');
                out.push(b'"');
                Ok(())
            }
            _ => Err(Error::custom("the key of a map is no string")),
        }
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.out.push(b':');
        value.serialize(Json::new(self.out))
    }

    fn end(self) -> Result<(), Error> {
        self.close();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::value::Value;

    #[derive(serde::Serialize)]
    struct Everything<'a> {
        unit: (),
        nothing: Option<u8>,
        some: Option<&'a str>,
        truth: (bool, bool),
        signed: (i8, i16, i32, i64, i128),
        unsigned: (u8, u16, u32, u64, u128),
        floats: (f32, f64, f64),
        letter: char,
        texts: Vec<&'a str>,
        empty: [u8; 0],
        inner: Vec<Kind>,
        names: BTreeMap<String, Kind>,
        by_number: BTreeMap<i64, bool>,
        by_truth: BTreeMap<bool, char>,
        value: Value,
        raw: text::Raw<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        left_out: Option<u8>,
    }

    #[derive(Clone, serde::Serialize)]
    struct Unit;

    #[derive(Clone, serde::Serialize)]
    struct Wrapped(u8);

    #[derive(Clone, serde::Serialize)]
    struct Pair(u8, String);

    #[derive(Clone, serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    enum Kind {
        Nothing,
        New(Box<Kind>),
        Tuple(u8, Unit, Wrapped),
        Struct { a: Pair, b: Option<u8> },
        Empty {},
    }

    #[test]
    fn it_is_what_serde_json_writes() {
        let kinds = vec![
            Kind::Nothing,
            Kind::New(Box::new(Kind::Nothing)),
            Kind::Tuple(1, Unit, Wrapped(2)),
            Kind::Struct { a: Pair(3, "\u{7f}\u{0}\n\\\"\u{e9}\u{1f600}".into()), b: None },
            Kind::Empty {},
        ];
        let everything = Everything {
            unit: (),
            nothing: None,
            some: Some("with \"quotes\""),
            truth: (true, false),
            signed: (-1, -2, -3, i64::MIN, i128::MIN),
            unsigned: (1, 2, 3, u64::MAX, u128::MAX),
            floats: (1.5, 0.1, f64::NAN),
            letter: '"',
            texts: vec!["", "plain text of some length", "tab\t", "é"],
            empty: [],
            inner: kinds.clone(),
            names: kinds.into_iter().enumerate().map(|(n, kind)| (format!("{n}\""), kind)).collect(),
            by_number: [(-5, true), (7, false)].into(),
            by_truth: [(true, 'a'), (false, 'b')].into(),
            value: Value::parse(br#"{"a":[1,2.5,null,"x\u0000"],"":{}}"#).unwrap(),
            raw: text::Raw("{ \"as\": \"it stands\" }"),
            left_out: None,
        };
        let all = (&everything, vec![(1, "a")], Vec::<u8>::new());
        assert_eq!(to_string(&all).unwrap(), serde_json::to_string(&all).unwrap());
        assert!(to_string(&BTreeMap::from([(vec![1], 2)])).is_err());
        assert!(serde_json::to_string(&BTreeMap::from([(vec![1], 2)])).is_err());
    }
}
