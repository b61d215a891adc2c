//! Services by name: which URLs a host name of an endpoint stands for, and what is known about each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde::de::Error as _;
use tokio::sync::Semaphore;

/// Services by the host of a call's endpoint: `http://payment/charges` goes to the service `payment`.
#[derive(Clone, Debug, Default)]
pub struct Services(BTreeMap<String, Arc<Service>>);

/// One service.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: ServiceSettings,
    next: AtomicUsize,
    /// Calls that may be in flight to it.
    pub(crate) in_flight: Option<Semaphore>,
}

/// Settings of a service in the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSettings {
    /// Base URL; its path stands before that of each endpoint.
    #[serde(default)]
    pub url: Option<String>,
    /// Several base URLs, used in turn.
    #[serde(default)]
    pub urls: Vec<String>,
    /// Whether the service honours `Idempotency-Key`.
    #[serde(default)]
    pub idempotency: Idempotency,
    /// The longest a call may take when the task sets no shorter one.
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// Which process its participant is in.
    #[serde(default)]
    pub participant: Place,
}

impl ServiceSettings {
    /// A service at one URL, all else as it is when nothing is said.
    pub fn at(url: impl Into<String>) -> ServiceSettings {
        ServiceSettings {
            url: Some(url.into()),
            urls: Vec::new(),
            idempotency: Idempotency::default(),
            timeout: None,
            limits: Limits::default(),
            participant: Place::default(),
        }
    }
}

/// Which process the participant of a service is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The engine's.
    #[default]
    Here,
    /// One of its own: `pavane serve --role participant`.
    Remote,
}

/// What makes a repeated call harmless.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Idempotency {
    /// The service does nothing twice for one `Idempotency-Key`.
    #[default]
    Key,
    /// Doing it twice is like doing it once.
    Natural,
    /// Nothing does: a crash between call and commit may repeat an effect.
    None,
}

/// Limits of a service.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Calls in flight; further ones wait in order.
    #[serde(default)]
    pub in_flight: Option<usize>,
}

impl Services {
    /// Checks and names the services of a configuration.
    ///
    /// # Errors
    /// What is wrong with which service.
    pub fn new(settings: BTreeMap<String, ServiceSettings>) -> Result<Services, Vec<String>> {
        let mut problems = Vec::new();
        let mut services = BTreeMap::new();
        for (name, settings) in settings {
            let urls: Vec<&String> = settings.url.iter().chain(&settings.urls).collect();
            if name == pavane_core::program::ENGINE {
                problems
                    .push(format!("services.{name}: this name is the engine's own: call the service something else"));
            }
            if urls.is_empty() {
                problems.push(format!("services.{name}: `url` (or `urls`) is missing"));
            }
            for url in urls {
                let valid = url.parse::<http::Uri>().is_ok_and(|u| {
                    matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some() && u.query().is_none()
                });
                if !valid {
                    problems.push(format!("services.{name}: `{url}` is no base URL such as http://127.0.0.1:9002"));
                }
            }
            let in_flight = settings.limits.in_flight.map(|n| Semaphore::new(n.clamp(1, Semaphore::MAX_PERMITS)));
            let service = Service { name: name.clone(), settings, next: AtomicUsize::new(0), in_flight };
            services.insert(name, Arc::new(service));
        }
        if problems.is_empty() { Ok(Services(services)) } else { Err(problems) }
    }

    /// The service of a host name.
    pub fn get(&self, host: &str) -> Option<&Arc<Service>> {
        self.0.get(host)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Service> {
        self.0.values().map(|service| &**service)
    }
}

impl Service {
    /// The base URL whose turn it is, without a slash at its end.
    pub fn base(&self) -> &str {
        let urls: Vec<&String> = self.settings.url.iter().chain(&self.settings.urls).collect();
        let turn = if urls.len() > 1 { self.next.fetch_add(1, Ordering::Relaxed) % urls.len() } else { 0 };
        urls.get(turn).map_or("", |url| url.trim_end_matches('/'))
    }
}

/// `250ms`, `5s`, `2m`, `1h`.
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
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// Reads a duration of the configuration.
///
/// # Errors
/// As [`parse_duration`].
pub fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("1e99h", None),
        ] {
            assert_eq!(parse_duration(text).ok().map(|d| d.as_millis()), millis, "{text}");
        }
    }
}
