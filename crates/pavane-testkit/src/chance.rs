//! Chance from a seed: SplitMix64, small and the same everywhere.

/// A stream of numbers that its seed alone decides.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// A stream.
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "a stream of chance is no iterator: it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit` (0 for a limit of 0).
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// True in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// A number that the parts alone decide: what an environment answers does not depend on who asks first.
pub fn of(seed: u64, parts: &str) -> u64 {
    let mixed = parts
        .bytes()
        .fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    Chance::new(mixed).next()
}
