//! How settings are read, beside the units that all crates share: one value or several, and values that know their line.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{Error as _, IntoDeserializer, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer};

/// A value with the place in the file where it stands. Two are equal when their values are.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Its line, from 1; 0 when it was in no file.
    pub line: u64,
    /// Its column, from 1; 0 when it was in no file.
    pub column: u64,
}

impl<T> Located<T> {
    /// A value that was in no file.
    pub fn nowhere(value: T) -> Located<T> {
        Located { value, line: 0, column: 0 }
    }
}

impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Located<T>) -> bool {
        self.value == other.value
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Located<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Located<T>, D::Error> {
        let spanned = serde_saphyr::Spanned::<T>::deserialize(deserializer)?;
        let at = spanned.referenced;
        Ok(Located { value: spanned.value, line: at.line(), column: at.column() })
    }
}

/// Something that is wrong with the settings: `line` and `column` count from 1, 0 means the file as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub line: u64,
    /// Where in that line.
    pub column: u64,
    /// What, and what to do about it.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        f.write_str(&self.message)
    }
}

/// Reads a duration, which must not be nothing.
///
/// # Errors
/// A sentence that says how to write it.
pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let duration = pavane_core::units::span(deserializer)?;
    if duration.is_zero() {
        Err(D::Error::custom("a duration of nothing: leave the key out"))
    } else {
        Ok(Some(duration))
    }
}

/// Reads a list, or one value as a list of one.
///
/// # Errors
/// What is wrong with the value.
pub(crate) fn one_or_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Many<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Many<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a list of texts")
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(text.into_deserializer())?])
        }
        fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(items))
        }
    }
    deserializer.deserialize_any(Many(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_their_line_and_one_is_a_list_of_one() {
        #[derive(Deserialize)]
        struct File {
            items: Vec<Located<Item>>,
        }
        #[derive(Deserialize)]
        struct Item {
            #[serde(deserialize_with = "one_or_many")]
            names: Vec<String>,
        }
        let file: File = serde_saphyr::from_str("items:\n  - { names: a }\n  - { names: [b, c] }\n").unwrap();
        assert_eq!(file.items.iter().map(|i| i.line).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(file.items[0].value.names, ["a"]);
        assert_eq!(file.items[1].value.names, ["b", "c"]);
    }
}
