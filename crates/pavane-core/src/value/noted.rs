//! The texts of values that were just written, for whoever writes the same values next.
//!
//! What a task gave is in the step of the journal, in the task's row, and in the row of the task behind it, whose input it is.
//! While [`noting`], the text of every array and object that is written is kept beside the value; [`Texts::of`] finds it again.

use std::cell::RefCell;
use std::sync::Arc;

use jaq_json::Val;

use super::Value;
use super::aside::Aside;
use super::once::identity;

/// The longest text that is kept, in bytes: longer ones are seldom, and memory is worth more than writing them again.
const LONGEST: usize = 16 * 1024;

/// Texts kept at once: a step writes one or two, a step of many tasks some more.
const MOST: usize = 8;

thread_local! {
    static NOTES: RefCell<Option<Texts>> = const { RefCell::new(None) };
}

/// Values and their JSON texts. A value that is equal and not the same one, cloned, has none here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Texts(Aside<Vec<(Value, Arc<str>)>>);

impl Texts {
    /// The text of a value, if it is here.
    pub fn of(&self, value: &Value) -> Option<&str> {
        self.find(value).map(|(_, text)| &**text)
    }

    /// The same, for whoever keeps it.
    pub fn shared(&self, value: &Value) -> Option<Arc<str>> {
        self.find(value).map(|(_, text)| text.clone())
    }

    fn find(&self, value: &Value) -> Option<&(Value, Arc<str>)> {
        let wanted = identity(&value.0)?;
        // The value is kept with its text, so no other one has its address.
        self.0.iter().rev().find(|(value, _)| identity(&value.0) == Some(wanted))
    }

    /// Those of some values, written for it.
    pub fn written<'v>(values: impl IntoIterator<Item = &'v Value>) -> Texts {
        let mut texts = Texts::default();
        values.into_iter().for_each(|value| texts.keep(&value.0, &value.to_json()));
        texts
    }

    pub(super) fn keep(&mut self, value: &Val, text: &str) {
        if self.0.len() < MOST && text.len() <= LONGEST && matches!(value, Val::Arr(_) | Val::Obj(_)) {
            self.0.push((Value(value.clone()), text.into()));
        }
    }

    /// Keeps the text that others have of a value.
    pub(super) fn take_from(&mut self, others: &Texts, value: &Value) {
        self.0.extend(others.find(value).cloned());
    }

    /// Takes others in; the oldest go.
    pub fn extend(&mut self, others: Texts) {
        if self.0.is_empty() {
            *self = others;
            return;
        }
        let kept = &mut *self.0;
        kept.extend(others.0.0);
        kept.drain(..kept.len().saturating_sub(MOST));
    }

    /// With the texts of one step in place of those of the step before it, unless it has none: those of both.
    #[must_use]
    pub fn follow(&mut self, step: Texts) -> Texts {
        if step.0.is_empty() {
            return self.clone();
        }
        let mut both = std::mem::replace(self, step.clone());
        both.extend(step);
        both
    }
}

/// Does something, and returns the texts of the values that it serialized on this thread.
pub(crate) fn noting<R>(work: impl FnOnce() -> R) -> (R, Texts) {
    let before = NOTES.replace(Some(Texts::default()));
    let done = work();
    (done, NOTES.replace(before).unwrap_or_default())
}

/// A value was written so.
pub(super) fn note(value: &Val, text: &str) {
    NOTES.with_borrow_mut(|notes| {
        if let Some(texts) = notes {
            texts.keep(value, text);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_what_was_written_is_found_by_the_value_itself() {
        let value = Value::parse(br#"{"a":[1,"x"],"b":{}}"#).unwrap();
        let inner = value.get("b").unwrap();
        let (written, mut texts) = noting(|| serde_json::to_string(&(&value, 1, "s")).unwrap());
        assert_eq!(written, r#"[{"a":[1,"x"],"b":{}},1,"s"]"#);
        assert_eq!(texts.of(&value.clone()), Some(r#"{"a":[1,"x"],"b":{}}"#));
        assert_eq!(texts.of(&Value::parse(written.as_bytes()).unwrap()), None, "another value, though equal");
        assert_eq!((texts.of(&inner), texts.of(&Value::text("s"))), (None, None), "not written as such");

        let again = noting(|| serde_json::to_string(&inner).unwrap()).1;
        let both = texts.follow(again);
        assert!(both.of(&inner).is_some() && both.of(&value).is_some());
        assert_eq!((texts.of(&inner), texts.of(&value)), (Some("{}"), None), "those of the last step stay");
        assert!(texts.follow(Texts::default()).of(&inner).is_some());
        assert_eq!(texts.of(&inner), Some("{}"), "a step that wrote no value leaves them");
        // Nothing is noted when nobody asks.
        assert_eq!(serde_json::to_string(&value).unwrap(), value.to_json());
        assert!(noting(|| ()).1.0.is_empty());
    }

    #[test]
    fn few_are_kept_and_none_that_is_long() {
        let values: Vec<Value> = (0..20).map(|n| Value::array([Value::integer(n)])).collect();
        let mut texts = noting(|| serde_json::to_string(&values).unwrap()).1;
        assert_eq!((texts.0.len(), texts.of(&values[0])), (MOST, Some("[0]")));
        texts.extend(Texts::written([&values[19]]));
        assert_eq!((texts.0.len(), texts.of(&values[0]), texts.of(&values[19])), (MOST, None, Some("[19]")));
        let long = Value::array([Value::text("x".repeat(LONGEST))]);
        assert!(Texts::written([&long]).0.is_empty());
    }
}
