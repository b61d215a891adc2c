//! Which instances were heard of here: of one that was not, the store need not be asked.
//!
//! A participant hears of most instances once, so that a search for each would cost as much as the work it is for. That
//! one is new is known for sure when it began in this process after the participant did and no message of it has come.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::*;

/// Instances remembered to have been heard of, at about 16 bytes each. Past it the memory starts anew, and those that
/// began before are looked for in the store.
const REMEMBERED: usize = 65_536;

/// What was heard of instances that began in this process.
pub(super) struct Heard {
    /// Of those with a number from here on no message has come, but of these.
    since: u64,
    /// Hashes of ids. Two ids with one hash cost a search.
    ids: HashSet<u64>,
}

impl Heard {
    pub fn since(since: u64) -> Heard {
        Heard { since, ids: HashSet::new() }
    }

    /// Notes that a message of an instance has come; tells whether it is the first for sure. `births` is how many have
    /// begun in this process by now, `born` the instance's number among them.
    fn hear(&mut self, id: &str, born: Option<u64>, births: u64) -> bool {
        if self.ids.len() >= REMEMBERED {
            self.ids.clear();
            self.since = births;
        }
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let first = self.ids.insert(hasher.finish());
        first && born.is_some_and(|born| born >= self.since)
    }
}

impl Driver {
    /// Whether nothing of an instance can be in the store. Called for each message that comes.
    pub(super) fn is_new(&mut self, id: &str, born: Option<u64>) -> bool {
        let births = self.engine.shared.births.load(Ordering::Acquire);
        // An instance begins at home, and not with a message.
        self.heard.hear(id, born, births) && !self.engine.is_home() && !self.loading.contains_key(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_message_of_an_instance_is_known_when_it_began_since() {
        let mut heard = Heard::since(5);
        assert!(heard.hear("a", Some(5), 6));
        assert!(!heard.hear("a", Some(5), 6));
        assert!(!heard.hear("b", Some(4), 6), "it may have come to the one before");
        // Told by a message that does not say when it began.
        assert!(!heard.hear("c", None, 8));
        assert!(!heard.hear("c", Some(7), 8));
    }

    #[test]
    fn what_is_forgotten_is_not_taken_for_new() {
        let mut heard = Heard::since(0);
        let many = REMEMBERED as u64 + 10;
        let new = (0..many).filter(|number| heard.hear(&number.to_string(), Some(*number), number + 1)).count() as u64;
        assert_eq!(new, many - 1, "the one that came when the memory began anew is looked for");
        assert!(!heard.hear("0", Some(0), many));
        assert!(heard.hear("next", Some(many), many + 1));
        assert!(heard.ids.len() <= REMEMBERED);
    }
}
