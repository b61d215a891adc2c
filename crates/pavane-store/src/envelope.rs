//! The text of a message, in the two parts in which it is made and kept: who hands it on shares the larger one. Start at [`Envelope`].

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, LazyLock};

use memchr::memmem::Finder;

/// What stands between the head of an envelope and its data.
const DATA: &str = ",\"data\":";

/// A CloudEvent in the JSON format. Two are equal when their texts are.
#[derive(Clone, Debug)]
pub struct Envelope {
    head: Arc<str>,
    data: Option<Arc<str>>,
}

impl Envelope {
    /// Of the text up to the value of `data`, which is the last member of the object, and that value.
    pub fn new(head: impl Into<Arc<str>>, data: impl Into<Arc<str>>) -> Envelope {
        Envelope { head: head.into(), data: Some(data.into()) }
    }

    /// What stands before the value of `data`, and that value. Where `data` is not last, or is missing, the first is the whole
    /// text.
    pub fn parts(&self) -> (&str, Option<&str>) {
        (&self.head, self.data.as_deref())
    }

    /// The whole text.
    pub fn text(&self) -> Cow<'_, str> {
        match self.parts() {
            (head, Some(data)) => Cow::Owned([head, data, "}"].concat()),
            (whole, None) => Cow::Borrowed(whole),
        }
    }

    /// Bytes of the whole text.
    pub fn size(&self) -> usize {
        self.head.len() + self.data.as_ref().map_or(0, |data| data.len() + 1)
    }

    /// Whether this is the value of `data`, to the letter.
    pub(crate) fn holds(&self, data: &Arc<str>) -> bool {
        self.data.as_ref().is_some_and(|own| Arc::ptr_eq(own, data) || own == data)
    }
}

impl From<&str> for Envelope {
    /// In an envelope of another form the words that part it may stand elsewhere: put together again, the parts give the same
    /// text.
    fn from(text: &str) -> Envelope {
        /// Made once: to make it takes longer than to find the words.
        static FIND: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(DATA));
        let parts = text.strip_suffix('}').and_then(|open| {
            let at = FIND.find(open.as_bytes())? + DATA.len();
            Some((open.get(..at)?, open.get(at..)?))
        });
        match parts {
            Some((head, data)) => Envelope::new(head, data),
            None => Envelope { head: text.into(), data: None },
        }
    }
}

impl From<String> for Envelope {
    fn from(text: String) -> Envelope {
        text.as_str().into()
    }
}

impl PartialEq for Envelope {
    fn eq(&self, other: &Envelope) -> bool {
        self.text() == other.text()
    }
}

impl fmt::Display for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_give_the_text_again() {
        for (text, data) in [
            (r#"{"id":"1","data":{"a":1}}"#, Some(r#"{"a":1}"#)),
            (r#"{"id":"1","data":{"a":1},"x":2}"#, Some(r#"{"a":1},"x":2"#)),
            (r#"{"id":",\"data\":"}"#, None),
            (r#"{"id":"1"}"#, None),
            ("{", None),
            ("", None),
            (r#"{"é":1,"data":"é"}"#, Some(r#""é""#)),
        ] {
            let envelope = Envelope::from(text);
            assert_eq!((envelope.parts().1, &*envelope.text(), envelope.size()), (data, text, text.len()));
            if let (head, Some(data)) = envelope.parts() {
                assert_eq!(Envelope::new(head, data), envelope);
                assert!(envelope.holds(&data.into()) && !envelope.holds(&"{}".into()));
            }
        }
    }
}
