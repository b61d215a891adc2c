//! Services by name: which URLs a host name of an endpoint stands for, and what is known about each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pavane_core::policy::{BreakerSettings, GateSettings, Rate, RetrySettings};
use pavane_core::units::{duration, rate, some_rate, span};
use serde::Deserialize;

/// How long a call without a deadline of its own waits for its turn at most: longer than most outages and most bursts,
/// and shorter than it takes until nobody remembers why.
const WAIT: Duration = Duration::from_secs(3_600);

/// Calls that may wait for one service. Each belongs to an instance in memory; more than this are a flood whose end
/// would wait for hours.
const MAX_WAITING: usize = 500_000;

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
    /// Host and port of each of its URLs.
    authorities: Vec<String>,
}

/// Settings of a service in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
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
    /// The longest a call may take once it is sent, when the task sets no shorter one.
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// Breaker; none when absent.
    #[serde(default)]
    pub breaker: Option<BreakerConfig>,
    /// How many of the calls may be retries; any when absent.
    #[serde(default)]
    pub retries: Option<RetriesConfig>,
    /// Which process its participant is in.
    #[serde(default)]
    pub participant: Place,
}

impl ServiceSettings {
    /// A service at one URL, all else as it is when nothing is said.
    pub fn at(url: impl Into<String>) -> ServiceSettings {
        ServiceSettings { url: Some(url.into()), ..ServiceSettings::default() }
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Calls in flight; further ones wait in order. `http.max_connections` for each of its URLs when absent.
    #[serde(default)]
    pub in_flight: Option<usize>,
    /// Calls in time: `500/s`, `30/m`, `100/h`.
    #[serde(default, deserialize_with = "rate")]
    pub rate: Option<Rate>,
    /// The longest a call without a deadline of its own waits for its turn.
    #[serde(default, deserialize_with = "duration")]
    pub wait: Option<Duration>,
}

/// The breaker of a service; [`BreakerSettings`] says what each means.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    failure_rate: f64,
    #[serde(deserialize_with = "span")]
    window: Duration,
    min_calls: u32,
    #[serde(deserialize_with = "span")]
    open_for: Duration,
    half_open_calls: u32,
    #[serde(deserialize_with = "duration")]
    slow: Option<Duration>,
    slow_rate: f64,
}

impl Default for BreakerConfig {
    fn default() -> BreakerConfig {
        BreakerSettings::default().into()
    }
}

impl From<BreakerSettings> for BreakerConfig {
    fn from(settings: BreakerSettings) -> BreakerConfig {
        let BreakerSettings { failure_rate, window, min_calls, open_for, half_open_calls, slow, slow_rate } = settings;
        BreakerConfig { failure_rate, window, min_calls, open_for, half_open_calls, slow, slow_rate }
    }
}

impl From<BreakerConfig> for BreakerSettings {
    fn from(config: BreakerConfig) -> BreakerSettings {
        let BreakerConfig { failure_rate, window, min_calls, open_for, half_open_calls, slow, slow_rate } = config;
        BreakerSettings { failure_rate, window, min_calls, open_for, half_open_calls, slow, slow_rate }
    }
}

/// The retry budget of a service; [`RetrySettings`] says what each means.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetriesConfig {
    ratio: f64,
    #[serde(deserialize_with = "some_rate")]
    at_least: Rate,
}

impl Default for RetriesConfig {
    fn default() -> RetriesConfig {
        let RetrySettings { ratio, at_least } = RetrySettings::default();
        RetriesConfig { ratio, at_least }
    }
}

impl From<RetriesConfig> for RetrySettings {
    fn from(config: RetriesConfig) -> RetrySettings {
        RetrySettings { ratio: config.ratio, at_least: config.at_least }
    }
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
            let mut authorities = Vec::new();
            for url in urls {
                authorities
                    .extend(url.parse::<http::Uri>().ok().and_then(|u| Some(u.authority()?.as_str().to_owned())));
                let valid = url.parse::<http::Uri>().is_ok_and(|u| {
                    matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some() && u.query().is_none()
                });
                if !valid {
                    problems.push(format!("services.{name}: `{url}` is no base URL such as http://127.0.0.1:9002"));
                }
            }
            let breaker = settings.breaker.map(BreakerSettings::from).map(|b| b.problems()).unwrap_or_default();
            let retries = settings.retries.map(RetrySettings::from).map(|r| r.problems()).unwrap_or_default();
            for (section, (key, why)) in
                breaker.into_iter().map(|p| ("breaker", p)).chain(retries.into_iter().map(|p| ("retries", p)))
            {
                problems.push(format!("services.{name}.{section}.{key}: {why}"));
            }
            let service = Service { name: name.clone(), settings, next: AtomicUsize::new(0), authorities };
            services.insert(name, Arc::new(service));
        }
        if problems.is_empty() { Ok(Services(services)) } else { Err(problems) }
    }

    /// The service of a host name.
    pub fn get(&self, host: &str) -> Option<&Arc<Service>> {
        self.0.get(host)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.0.values()
    }
}

impl Service {
    /// What its gate lets through; `per_url` calls in flight for each of its URLs when it has no limit of its own.
    pub(crate) fn gate(&self, per_url: usize) -> GateSettings {
        let ServiceSettings { url, urls, limits, breaker, retries, .. } = &self.settings;
        let default = per_url.saturating_mul(url.iter().chain(urls).count().max(1));
        GateSettings {
            in_flight: u32::try_from(limits.in_flight.unwrap_or(default)).unwrap_or(u32::MAX).max(1),
            rate: limits.rate,
            breaker: breaker.map(Into::into),
            retries: retries.map(Into::into),
            waiting: MAX_WAITING,
        }
    }

    /// Whether its configuration says what it takes.
    pub(crate) fn is_limited(&self) -> bool {
        let ServiceSettings { limits, breaker, retries, .. } = &self.settings;
        limits.in_flight.is_some() || limits.rate.is_some() || breaker.is_some() || retries.is_some()
    }

    /// Whether a host and port are one of its URLs': its gate counts what is in flight there.
    pub(crate) fn is_at(&self, authority: &str) -> bool {
        self.authorities.iter().any(|own| own == authority)
    }

    /// Host, in lower case, and port of each of its URLs.
    pub(crate) fn places(&self) -> impl Iterator<Item = (String, u16)> {
        let urls = self.settings.url.iter().chain(&self.settings.urls);
        urls.filter_map(|url| {
            let url: http::Uri = url.parse().ok()?;
            Some((url.host()?.to_ascii_lowercase(), port(&url)))
        })
    }

    /// How long a call without a deadline of its own waits for its turn.
    pub(crate) fn longest_wait(&self) -> Duration {
        self.settings.limits.wait.unwrap_or(WAIT)
    }

    /// The base URL whose turn it is, without a slash at its end.
    pub fn base(&self) -> &str {
        let urls: Vec<&String> = self.settings.url.iter().chain(&self.settings.urls).collect();
        let turn = if urls.len() > 1 { self.next.fetch_add(1, Ordering::Relaxed) % urls.len() } else { 0 };
        urls.get(turn).map_or("", |url| url.trim_end_matches('/'))
    }
}

/// The port of a URI, or that of its scheme.
pub(crate) fn port(uri: &http::Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 })
}
