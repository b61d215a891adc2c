//! Numbers by a name that users choose: as many names as there may be, and one place for all others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// What stands in the place of a name for which there was no room.
pub const OTHER: &str = "other";

/// Numbers of many things of a kind, by name. A series database pays for each name for as long as it keeps data: past a
/// limit, further names are counted together under [`OTHER`].
#[derive(Debug)]
pub struct Family<T> {
    most: usize,
    members: RwLock<BTreeMap<String, Arc<T>>>,
    other: Arc<T>,
    dropped: AtomicU64,
}

impl<T: Default> Family<T> {
    /// An empty family of at most so many names.
    pub fn new(most: usize) -> Family<T> {
        Family { most, members: RwLock::default(), other: Arc::default(), dropped: AtomicU64::new(0) }
    }

    /// The numbers of a name: its own, or those of all others when there is no room. Who records often keeps them.
    pub fn of(&self, name: &str) -> Arc<T> {
        if let Some(known) = self.members.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return known.clone();
        }
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = members.get(name) {
            return known.clone();
        }
        // Who is called that shares the place of those without one.
        if members.len() >= self.most || name == OTHER {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return self.other.clone();
        }
        let new = Arc::<T>::default();
        members.insert(name.to_owned(), new.clone());
        new
    }

    /// Every name with its numbers, [`OTHER`] at the end if it was ever needed.
    pub fn all(&self) -> Vec<(String, Arc<T>)> {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        let other = (self.dropped() > 0).then(|| (OTHER.to_owned(), self.other.clone()));
        members.iter().map(|(name, numbers)| (name.clone(), numbers.clone())).chain(other).collect()
    }

    /// How many times a name was asked for that has no numbers of its own.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_past_the_limit_share_one_place_and_are_counted() {
        let family = Family::<AtomicU64>::new(2);
        for name in ["b", "a", "c", "d", "b"] {
            family.of(name).fetch_add(1, Ordering::Relaxed);
        }
        let all: Vec<(String, u64)> =
            family.all().into_iter().map(|(name, n)| (name, n.load(Ordering::Relaxed))).collect();
        assert_eq!(all, [("a".into(), 1), ("b".into(), 2), (OTHER.into(), 2)]);
        assert_eq!(family.dropped(), 2);
    }

    #[test]
    fn one_that_is_called_like_the_others_is_told_once() {
        let family = Family::<AtomicU64>::new(9);
        family.of(OTHER).fetch_add(1, Ordering::Relaxed);
        assert_eq!(family.all().len(), 1);
    }
}
