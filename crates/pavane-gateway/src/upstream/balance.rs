//! Which of several URLs a request goes to. Pure: chance and load are arguments.

use sha2::{Digest, Sha256};

/// Points of each URL on the ring: enough that shares differ by a tenth, few enough to be built at once.
const POINTS: u32 = 100;

/// Of two candidates taken by chance, the one with fewer requests in flight (power of two choices): close to the best
/// of all, without the herd that runs to one which has just become free. `candidates` are indices, `load` gives the
/// requests in flight of one.
pub(crate) fn least(candidates: &[usize], chance: u64, load: impl Fn(usize) -> usize) -> Option<usize> {
    let count = candidates.len() as u64;
    match candidates {
        [] => None,
        [one] => Some(*one),
        _ => {
            let first = chance % count;
            // Another one, for sure.
            let second = (first + 1 + (chance >> 32) % (count - 1)) % count;
            let [first, second] =
                [first, second].map(|i| candidates.get(usize::try_from(i).unwrap_or_default()).copied());
            match (first, second) {
                (Some(a), Some(b)) => Some(if load(b) < load(a) { b } else { a }),
                (a, b) => a.or(b),
            }
        }
    }
}

/// A ring for consistent hashing: when a URL is left out, only its keys move.
#[derive(Clone, Debug)]
pub(crate) struct Ring(Vec<(u64, usize)>);

impl Ring {
    /// A ring of URLs; the same URLs give the same ring, in every process.
    pub fn new<'a>(urls: impl Iterator<Item = &'a str>) -> Ring {
        let mut points: Vec<(u64, usize)> = urls
            .enumerate()
            .flat_map(|(index, url)| (0..POINTS).map(move |n| (place(format!("{url}#{n}").as_bytes()), index)))
            .collect();
        points.sort_unstable();
        Ring(points)
    }

    /// The URL of a key: the first at or after its place that takes requests.
    pub fn find(&self, key: &[u8], takes: impl Fn(usize) -> bool) -> Option<usize> {
        let key = place(key);
        let start = self.0.partition_point(|(point, _)| *point < key);
        let (before, after) = self.0.split_at(start);
        after.iter().chain(before).map(|(_, index)| *index).find(|index| takes(*index))
    }
}

fn place(bytes: &[u8]) -> u64 {
    let digest = Sha256::digest(bytes);
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A number that looks like chance, of a counter (SplitMix64).
pub(crate) fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_loaded_of_two_is_taken() {
        assert_eq!(least(&[], 7, |_| 0), None);
        assert_eq!(least(&[4], 7, |_| 9), Some(4));
        // Of two, whatever chance says, the one with less.
        for counter in 0..100 {
            assert_eq!(least(&[0, 1], mix(counter), |i| [5, 2][i]), Some(1));
        }
        // Of many, the most loaded one never, and all others.
        let mut taken = [0; 4];
        for counter in 0..1_000 {
            taken[least(&[0, 1, 2, 3], mix(counter), |i| [1, 1, 9, 1][i]).unwrap()] += 1;
        }
        assert_eq!(taken[2], 0);
        assert!(taken.iter().enumerate().all(|(i, n)| i == 2 || *n > 200), "{taken:?}");
    }

    #[test]
    fn load_evens_out() {
        let mut load = [0_usize; 5];
        for counter in 0..5_000 {
            let taken = least(&[0, 1, 2, 3, 4], mix(counter), |i| load[i]).unwrap();
            load[taken] += 1;
        }
        let (most, fewest) = (load.iter().max().unwrap(), load.iter().min().unwrap());
        assert!(most - fewest < 20, "{load:?}");
    }

    #[test]
    fn only_the_keys_of_a_url_that_is_left_out_move() {
        let urls = ["http://a:1", "http://b:1", "http://c:1"];
        let ring = Ring::new(urls.into_iter());
        let mut share = [0; 3];
        for key in 0..3_000 {
            let key = format!("key-{key}");
            let all = ring.find(key.as_bytes(), |_| true).unwrap();
            share[all] += 1;
            let without_b = ring.find(key.as_bytes(), |i| i != 1).unwrap();
            assert!(without_b != 1 && (all == 1 || without_b == all), "{key}");
        }
        assert!(share.iter().all(|n| (600..1_500).contains(n)), "{share:?}");
        assert_eq!(ring.find(b"key", |_| false), None);
    }
}
