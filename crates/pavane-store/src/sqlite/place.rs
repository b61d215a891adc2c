//! Whose rows are whose: several locations share a file, and each has a number in it.
//!
//! A handle of the store is bound to one [`Place`], and every statement takes it: nobody reads or writes what is
//! another's. Rows of instances name their place; positions, which their owner gives out, are kept in a range for each
//! place. The bits are those of `0004_locations.sql`. Below the key of an instance is room for a place, so that its parts at
//! others can have keys without rows (`0005_parts.sql`).

/// Positions of one location lie below this: one each microsecond for nine years.
const BITS: u32 = 48;

/// Bits of a place's number: what is left of a signed key above [`BITS`]. As many are kept free below an instance's key.
const PLACE_BITS: u32 = 63 - BITS;

/// Locations a file can hold beside its own.
pub(super) const MAX: i64 = (1 << PLACE_BITS) - 1;

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

    /// The first key of an instance after this one's, or its part's.
    pub fn next_instance(key: i64) -> i64 {
        ((key >> PLACE_BITS) + 1) << PLACE_BITS
    }

    /// The key of an instance's part here that has no row of its own.
    pub fn part_of(self, instance: i64) -> i64 {
        instance | self.0
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

    #[test]
    fn parts_are_between_their_instance_and_the_next() {
        let one = Place::next_instance(0);
        let next = Place::next_instance(one);
        assert_eq!(one, 32_768, "as the migration counts");
        assert_eq!(Place::OWN.part_of(one), one);
        for place in [Place(1), Place(MAX)] {
            assert!((one + 1..next).contains(&place.part_of(one)));
            assert_eq!(Place::next_instance(place.part_of(one)), next);
        }
    }
}
