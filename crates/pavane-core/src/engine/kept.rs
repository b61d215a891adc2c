//! The texts of what is the same in one message and the next: what begins an instance, and each task done that may have to
//! be undone. They are most of a message that is no value, and travel with it in a process.

use std::sync::{Arc, OnceLock};

use crate::value::aside::Aside;

/// The JSON text of something that does not change, as it was written first, with what it depends on beside that.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept<K>(Aside<OnceLock<(K, Arc<str>)>>);

impl<K: PartialEq> Kept<K> {
    /// The text under `key`: what `write` gives, unless it gave it before.
    pub fn text<E>(&self, key: K, write: impl FnOnce() -> Result<String, E>) -> Result<Arc<str>, E> {
        if let Some((_, text)) = self.0.get().filter(|(kept, _)| *kept == key) {
            return Ok(text.clone());
        }
        let text: Arc<str> = write()?.into();
        // One that is kept under another key stays: most are written under one key alone.
        let _ = self.0.set((key, text.clone()));
        Ok(text)
    }
}

impl<K> Default for Kept<K> {
    fn default() -> Kept<K> {
        Kept(Aside(OnceLock::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_written_once_for_what_it_depends_on() {
        let kept = Kept::default();
        let text = |key: u32, text: &str| kept.text(key, || Ok::<_, ()>(text.to_owned())).unwrap();
        assert_eq!((&*text(1, "a"), &*text(1, "b"), &*text(2, "c"), &*text(1, "d")), ("a", "a", "c", "a"));
        assert_eq!(kept.clone().text(1, || Err(())).as_deref(), Ok("a"));
        assert_eq!(Kept::<u32>::default().text(1, || Err(())), Err(()));
    }
}
