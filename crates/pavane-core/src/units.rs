//! What settings are written in, in every crate: durations, rates, blocks of addresses. Pure; a text in, a value or a
//! sentence that says how to write it out.

use std::net::IpAddr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::policy::Rate;

/// Longer than this is a slip of the pen, and more than clocks can count with.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// `250ms`, `5s`, `1.5m`, `1h`.
///
/// # Errors
/// A sentence that says how to write it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: write for example 250ms, 5s, 2m or 1h");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => number / 1_000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3_600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| *duration <= LONGEST).ok_or_else(wrong)
}

/// `500/s`, `30/m`, `100/h`: at least one.
///
/// # Errors
/// A sentence that says how to write it.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    let wrong = || format!("`{text}` is no rate: write for example 500/s, 30/m or 100/h");
    let (calls, unit) = text.split_once('/').ok_or_else(wrong)?;
    let calls: u32 = calls.trim().parse().map_err(|_| wrong())?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(wrong()),
    };
    if calls == 0 { Err(wrong()) } else { Ok(Rate { calls, per: Duration::from_secs(seconds) }) }
}

/// Reads a duration that may be absent.
///
/// # Errors
/// As [`parse_duration`].
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    span(deserializer).map(Some)
}

/// Reads a duration that has a default.
///
/// # Errors
/// As [`parse_duration`].
pub fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Reads a rate that may be absent.
///
/// # Errors
/// As [`parse_rate`].
pub fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Rate>, D::Error> {
    some_rate(deserializer).map(Some)
}

/// Reads a rate that has a default.
///
/// # Errors
/// As [`parse_rate`].
pub fn some_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Rate, D::Error> {
    parse_rate(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// A block of addresses: `10.0.0.0/8`, or one address. An IPv4 address and the IPv6 address it is mapped to are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    address: u128,
    bits: u32,
}

impl Block {
    /// Reads a block.
    ///
    /// # Errors
    /// A sentence that says how to write it.
    pub fn parse(text: &str) -> Result<Block, String> {
        let wrong = || format!("`{text}` is no address and no block such as 10.0.0.0/8");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most { Err(wrong()) } else { Ok(Block::new(address, bits)) }
    }

    /// The addresses that have their first `bits` in common with one: 32 at most for IPv4, 128 for IPv6.
    pub const fn new(address: IpAddr, bits: u32) -> Block {
        let before = if address.is_ipv4() { 96 } else { 0 };
        Block { address: number(address), bits: before + bits }
    }

    /// Whether an address is in it.
    pub const fn contains(&self, address: IpAddr) -> bool {
        let differ = self.address ^ number(address);
        match differ.checked_shr(128_u32.saturating_sub(self.bits)) {
            // None of the bits count.
            None => true,
            Some(differ) => differ == 0,
        }
    }
}

/// An address as a number, IPv4 as the IPv6 address it is mapped to.
const fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl<'de> Deserialize<'de> for Block {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Block, D::Error> {
        Block::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        for (text, calls, seconds) in [("500/s", 500, 1), ("30/m", 30, 60), ("1 / h", 1, 3_600)] {
            assert_eq!(parse_rate(text), Ok(Rate { calls, per: Duration::from_secs(seconds) }));
        }
        for text in ["500", "0/s", "1.5/s", "-1/s", "5/d", "/s", "99999999999/s"] {
            assert!(parse_rate(text).unwrap_err().contains("no rate"), "{text}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, millis) in [
            ("250ms", Some(250)),
            ("5s", Some(5_000)),
            ("1.5m", Some(90_000)),
            ("1h", Some(3_600_000)),
            ("5", None),
            ("s", None),
            ("5 s", None),
            ("-1s", None),
            ("1e99h", None),
            ("1000000h", None),
        ] {
            assert_eq!(parse_duration(text).ok().map(|d| d.as_millis()), millis, "{text}");
        }
    }

    #[test]
    fn blocks_hold_addresses_of_both_kinds() {
        for (block, address, inside) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0/0", "9.9.9.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8::1", true),
            ("::/0", "2001:db8::1", true),
        ] {
            assert_eq!(Block::parse(block).unwrap().contains(address.parse().unwrap()), inside, "{block} {address}");
        }
        for wrong in ["10.0.0.0/33", "ten", "10.0.0.0/x", ""] {
            assert!(Block::parse(wrong).is_err(), "{wrong}");
        }
    }
}
