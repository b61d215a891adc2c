//! What stands beside a thing and says nothing that the thing itself does not: things are equal, and look equal, with it and
//! without. Texts that were written already are kept so.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Equal to whatever else stands there, and never shown.
#[derive(Clone, Default)]
pub(crate) struct Aside<T>(pub T);

impl<T> PartialEq for Aside<T> {
    fn eq(&self, _: &Aside<T>) -> bool {
        true
    }
}

impl<T> fmt::Debug for Aside<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}

impl<T> Deref for Aside<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Aside<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
