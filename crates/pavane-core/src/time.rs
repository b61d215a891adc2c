//! Points in time and the DSL's durations. The core never reads a clock: every `Timestamp` came in with an input.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// A duration of the DSL. Years and months have no fixed length: they are added on the calendar, in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duration {
    /// Calendar months (a year is twelve).
    pub months: i64,
    /// Everything else, in milliseconds.
    pub millis: i64,
}

impl Timestamp {
    /// The instant `duration` later, saturating at the ends of the calendar.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Timestamp {
        let moved = if duration.months == 0 {
            self
        } else {
            jiff::Timestamp::from_millisecond(self.0)
                .ok()
                .map(|t| t.to_zoned(jiff::tz::TimeZone::UTC))
                .and_then(|t| jiff::Span::new().try_months(duration.months).ok().and_then(|s| t.checked_add(s).ok()))
                .map_or(Timestamp(i64::MAX), |t| Timestamp(t.timestamp().as_millisecond()))
        };
        Timestamp(moved.0.saturating_add(duration.millis))
    }

    /// The instant `millis` later, saturating.
    #[must_use]
    pub fn plus_millis(self, millis: i64) -> Timestamp {
        Timestamp(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this instant; negative when it is later.
    pub fn since(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds, as the HTTP API and the records write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{t:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

impl std::str::FromStr for Timestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Timestamp, String> {
        text.parse::<jiff::Timestamp>().map(|t| Timestamp(t.as_millisecond())).map_err(|e| e.to_string())
    }
}

impl Duration {
    /// A duration of `millis` milliseconds.
    pub const fn from_millis(millis: i64) -> Duration {
        Duration { months: 0, millis }
    }

    /// Reads an ISO 8601 duration as the standard's schema allows it: `P1Y2M3DT4H5M6.5S`, `P2W`, `PT0.25S`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Duration, String> {
        let wrong =
            |what: &str| format!("`{text}` is no ISO 8601 duration: {what} (write for example PT15M or P1DT12H)");
        let rest = text.strip_prefix('P').ok_or_else(|| wrong("it must begin with P"))?;
        let (date, time) = rest.split_once('T').map_or((rest, None), |(d, t)| (d, Some(t)));
        if rest.is_empty() || time == Some("") {
            return Err(wrong("a number and a unit are missing"));
        }
        let mut total = Duration::default();
        for (part, units) in [(date, "YMWD"), (time.unwrap_or(""), "HMS")] {
            let mut part = part;
            let mut allowed = units;
            while !part.is_empty() {
                let end =
                    part.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(|| wrong("a unit is missing"))?;
                let unit = part[end..].chars().next().unwrap_or(' ');
                let at =
                    allowed.find(unit).ok_or_else(|| wrong(&format!("unit `{unit}` is unknown or out of order")))?;
                allowed = &allowed[at + 1..];
                let number: f64 = part[..end].parse().map_err(|_| wrong("a number is malformed"))?;
                total
                    .add(number, unit, units == "HMS")
                    .ok_or_else(|| wrong("it is too long, or a year or month has a fraction"))?;
                part = &part[end + unit.len_utf8()..];
            }
        }
        Ok(total)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the range is tested first")]
    fn add(&mut self, number: f64, unit: char, time: bool) -> Option<()> {
        let millis = match (unit, time) {
            ('Y' | 'M', false) => {
                let months = number * if unit == 'Y' { 12.0 } else { 1.0 };
                (months.fract() == 0.0 && months < 120_000.0).then(|| self.months += months as i64)?;
                return Some(());
            }
            ('W', _) => 604_800_000.0,
            ('D', _) => 86_400_000.0,
            ('H', _) => 3_600_000.0,
            ('M', true) => 60_000.0,
            _ => 1_000.0,
        } * number;
        (millis < 3.2e14).then(|| self.millis += millis.round() as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iso_8601_durations_are_read() {
        for (text, months, millis) in [
            ("PT15M", 0, 900_000),
            ("P1Y2M", 14, 0),
            ("P2W", 0, 1_209_600_000),
            ("P1DT12H", 0, 129_600_000),
            ("PT0.25S", 0, 250),
        ] {
            assert_eq!(Duration::parse(text), Ok(Duration { months, millis }), "{text}");
        }
        for text in ["", "P", "PT", "15M", "PT15", "P1H", "PT1D", "PT5S3M", "P0.5M", "P1T1H"] {
            assert!(Duration::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn months_follow_the_calendar() {
        let start: Timestamp = "2024-01-31T10:00:00Z".parse().unwrap();
        assert_eq!(start.plus(Duration { months: 1, millis: 0 }).to_string(), "2024-02-29T10:00:00.000Z");
    }
}
