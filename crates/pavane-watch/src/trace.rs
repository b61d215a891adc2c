//! W3C Trace Context (level 1): which trace something belongs to, and which span caused it.

use std::fmt;

/// Longest `tracestate` that is passed on, in bytes: what the recommendation asks everybody to bear.
pub const MAX_STATE: usize = 512;

/// A trace; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId(u128);

/// A span within a trace; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(u64);

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace: TraceId,
    /// The span that caused what follows.
    pub span: SpanId,
    /// Whether whoever began the trace records it.
    pub sampled: bool,
}

impl TraceId {
    /// The trace of this number; none for 0.
    pub fn of(number: u128) -> Option<TraceId> {
        Some(TraceId(number)).filter(|trace| trace.0 != 0)
    }

    /// Its number.
    pub fn number(self) -> u128 {
        self.0
    }
}

impl SpanId {
    /// The span of a number; 1 for 0, which none may have.
    pub fn of(number: u64) -> SpanId {
        SpanId(number.max(1))
    }

    /// Its number.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Parent {
    /// Reads a `traceparent`. What is none, or of a later version in another form, is nothing: a trace begins anew then.
    pub fn parse(text: &str) -> Option<Parent> {
        let text = text.trim();
        let version = hex(text.get(..2)?)?;
        let rest = text.get(2..)?;
        // A later version may say more, behind another hyphen.
        let fits = match version {
            0xff => false,
            0 => text.len() == 55,
            _ => text.len() == 55 || text.as_bytes().get(55) == Some(&b'-'),
        };
        if !fits {
            return None;
        }
        let mut parts = rest.get(..53)?.strip_prefix('-')?.split('-');
        let mut next = |length: usize| parts.next().filter(|part| part.len() == length);
        let (trace, span, flags) = (hex(next(32)?)?, hex(next(16)?)?, hex(next(2)?)?);
        let span = u64::try_from(span).ok().filter(|span| *span != 0)?;
        Some(Parent { trace: TraceId::of(trace)?, span: SpanId(span), sampled: flags & 1 == 1 })
    }
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Each call has one: written here and now, a third of what formatting four numbers takes.
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(self.trace.0, &mut text[3..35]);
        write_hex(u128::from(self.span.0), &mut text[36..52]);
        write_hex(u128::from(self.sampled), &mut text[53..]);
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

/// The last digits of a number, lower-case hexadecimal ones, as many as there is room for.
fn write_hex(number: u128, to: &mut [u8]) {
    let mut rest = number;
    for digit in to.iter_mut().rev() {
        *digit = b"0123456789abcdef"[usize::from(rest as u8 & 0xf)];
        rest >>= 4;
    }
}

/// A number of lower-case hexadecimal digits.
fn hex(digits: &str) -> Option<u128> {
    let lower = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    u128::from_str_radix(digits, 16).ok().filter(|_| lower)
}

/// A number that looks like chance and follows from two others, the same on every machine (the finalizer of SplitMix64).
pub fn mixed(seed: u64, step: u64) -> u64 {
    let mut z = seed.wrapping_add(step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_written_as_it_was_read() {
        let parent = Parent::parse(GOOD).unwrap();
        assert!(parent.sampled);
        assert_eq!(parent.to_string(), GOOD);
        let quiet = Parent::parse(&GOOD.replace("-01", "-00")).unwrap();
        assert!(!quiet.sampled);
        // Flags that are not known here say nothing here.
        assert!(Parent::parse(&GOOD.replace("-01", "-03")).unwrap().sampled);
        assert_eq!(Parent::parse(&format!("cc{}-what-else", &GOOD[2..])), Some(parent), "a later version");
    }

    #[test]
    fn what_is_no_traceparent_is_nothing() {
        for text in [
            "",
            "00",
            "nonsense",
            &GOOD.to_uppercase(),
            &GOOD.replace("00-4", "ff-4"),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            &GOOD.replace("00f067aa0ba902b7", "0000000000000000"),
            &format!("{GOOD}-more"),
            &GOOD[..54],
            &GOOD.replace("-00f0", "_00f0"),
            &GOOD.replace("4bf9", "+bf9"),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ä",
            &"ü".repeat(30),
        ] {
            assert_eq!(Parent::parse(text), None, "{text}");
        }
    }

    #[test]
    fn derived_numbers_differ() {
        let all: std::collections::BTreeSet<u64> =
            (0..100).flat_map(|seed| (0..100).map(move |step| mixed(seed, step))).collect();
        assert_eq!(all.len(), 10_000);
    }
}
