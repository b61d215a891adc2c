//! Answers that are kept (RFC 9111): how many, how large, which of several fits, and one fetch for many who ask.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_cache_semantics::CachePolicy;
use moka::sync::Cache;

/// Bytes of all answers together.
const MAX_BYTES: u64 = 64 << 20;
/// Bytes of one answer: larger ones pass through.
pub(crate) const MAX_ANSWER: u64 = 1 << 20;
/// Answers for one URL that differ by what `Vary` names.
const MAX_VARIANTS: usize = 8;
/// What an answer costs beside its body, about.
const OVERHEAD: usize = 1_024;
/// How long an answer may be kept at all.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);
/// Turns among which are some that nobody waits for any more, surely.
const MANY_TURNS: usize = 10_000;
/// Longest key: with longer ones the memory of what is not kept would be more than what is kept.
pub(crate) const MAX_KEY: usize = 1_024;
/// How long a URL whose answer could not be kept is asked without waiting for each other.
const NOT_KEPT: Duration = Duration::from_secs(10);
/// URLs of which that is remembered.
const MAX_NOT_KEPT: u64 = 10_000;

/// An answer that is kept.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub policy: CachePolicy,
    pub body: Bytes,
}

/// All answers that are kept, by key.
#[derive(Debug)]
pub(crate) struct Store {
    answers: Cache<String, Arc<Vec<Arc<Kept>>>>,
    not_kept: Cache<String, ()>,
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Default for Store {
    fn default() -> Store {
        let weigh = |key: &String, variants: &Arc<Vec<Arc<Kept>>>| {
            let bytes: usize = variants.iter().map(|kept| kept.body.len() + OVERHEAD).sum();
            u32::try_from(key.len() + bytes).unwrap_or(u32::MAX)
        };
        Store {
            answers: Cache::builder().weigher(weigh).max_capacity(MAX_BYTES).time_to_live(LONGEST).build(),
            not_kept: Cache::builder().max_capacity(MAX_NOT_KEPT).time_to_live(NOT_KEPT).build(),
            turns: Mutex::default(),
        }
    }
}

impl Store {
    /// What is kept under a key.
    pub fn get(&self, key: &str) -> Arc<Vec<Arc<Kept>>> {
        self.answers.get(key).unwrap_or_default()
    }

    /// Keeps an answer; it takes the place of `before` if that is given.
    pub fn put(&self, key: &str, kept: Kept, before: Option<&Arc<Kept>>) {
        let others = self.get(key);
        let others = others.iter().filter(|other| before.is_none_or(|before| !Arc::ptr_eq(before, other)));
        // The newest first: it is the likeliest.
        let variants = std::iter::once(Arc::new(kept)).chain(others.cloned()).take(MAX_VARIANTS).collect();
        self.answers.insert(key.to_owned(), Arc::new(variants));
    }

    /// Forgets what is kept under a key.
    pub fn forget(&self, key: &str) {
        self.answers.invalidate(key);
    }

    /// Remembers for a while that the answer under a key cannot be kept.
    pub fn passes(&self, key: &str) {
        self.not_kept.insert(key.to_owned(), ());
    }

    /// Whether it could not be kept lately.
    pub fn passed(&self, key: &str) -> bool {
        self.not_kept.contains_key(key)
    }

    /// Waits for the turn to fetch under a key: whoever has it fetches for all.
    pub async fn turn(self: &Arc<Store>, key: &str) -> Turn {
        let turn = self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(key.to_owned()).or_default().clone();
        let held = turn.lock_owned().await;
        Turn { store: self.clone(), key: key.to_owned(), held: Some(held) }
    }
}

/// A turn to fetch.
pub(crate) struct Turn {
    store: Arc<Store>,
    key: String,
    held: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.held = None;
        let mut turns = self.store.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody else waits: one is in the map.
        if turns.get(&self.key).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(&self.key);
        }
        // Left behind by those who waited and went away.
        if turns.len() > MANY_TURNS {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
    }
}
