//! Whose rows are whose: several locations share a file, and each has a number in it.
//!
//! A handle of the store is bound to one [`Place`], and every statement takes it: nobody reads or writes what is
//! another's. Rows of instances name their place; positions, which their owner gives out, are kept in a range for each
//! place. The bits are those of `0004_locations.sql`.

/// Positions of one location lie below this: one each microsecond for nine years.
const BITS: u32 = 48;

/// Locations a file can hold beside its own: what is left of a signed key above [`BITS`].
pub(super) const MAX: i64 = (1 << (63 - BITS)) - 1;

/// A location's number in its file: 0 is the one that the file belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Place(pub i64);

impl Place {
    /// The file's own.
    pub const OWN: Place = Place(0);

    /// No position of it lies below this, and none is this.
    pub fn first(self) -> i64 {
        self.0 << BITS
    }

    /// The largest position it can have.
    pub fn last(self) -> i64 {
        self.first() | ((1 << BITS) - 1)
    }

    /// A position within it as it is kept. One that is too large is the largest: no row has it.
    pub fn key(self, number: u64) -> i64 {
        i64::try_from(number).map_or(self.last(), |number| self.last().min(self.first().saturating_add(number)))
    }

    /// The position within its location that was kept so.
    pub fn number(key: i64) -> u64 {
        u64::try_from(key & ((1 << BITS) - 1)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_in_its_place() {
        for place in [Place::OWN, Place(1), Place(MAX)] {
            for number in [0, 1, 1 << 40, u64::MAX] {
                let key = place.key(number);
                assert!((place.first()..=place.last()).contains(&key), "{place:?} {number}");
            }
            assert_eq!(Place::number(place.key(7)), 7);
        }
        assert_eq!(Place::OWN.key(7), 7);
        assert_eq!(Place(MAX).last(), i64::MAX);
        assert!(Place(1).first() > Place::OWN.last());
    }
}
