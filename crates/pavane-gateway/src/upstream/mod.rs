//! A service as the gateway reaches it: its URLs, which of them are well, and how much each has to do.
//!
//! Start reading at [`Upstream::pick`].

pub(crate) mod balance;
mod budget;
pub(crate) mod client;
mod direct;
mod health;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Uri};

use crate::body;
use crate::settings::{Balance, HashKey, HealthSettings, Protocol, UpstreamSettings};
use crate::shed::Concurrency;
use balance::Ring;
use budget::Budget;
use client::{Clients, Way};
use direct::Direct;
use health::{Health, Rules};

/// How often a URL is asked whether it is well, if nothing else is set.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long it may take to answer that.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// A service.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub name: String,
    pub settings: UpstreamSettings,
    urls: Vec<String>,
    endpoints: Vec<Arc<Endpoint>>,
    ring: Option<Ring>,
    pub budget: Budget,
    pub concurrency: Arc<Concurrency>,
    turns: AtomicU64,
}

/// One URL of a service.
#[derive(Debug)]
pub(crate) struct Endpoint {
    scheme: Scheme,
    pub authority: Authority,
    /// Without a slash at its end.
    path: String,
    /// As the header `Host` has it.
    host: HeaderValue,
    /// Where connections are made to.
    at: Uri,
    direct: Arc<Direct>,
    in_flight: AtomicUsize,
    health: Mutex<Health>,
}

/// A request in flight at a URL.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Endpoint>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request has in common with others, for `balance: hash`.
pub(crate) struct Common<'a> {
    pub client: &'a str,
    pub path: &'a str,
    pub headers: &'a HeaderMap,
}

impl Upstream {
    /// A service with its base URLs.
    ///
    /// # Errors
    /// What is wrong with its settings.
    pub fn new(name: &str, urls: &[String], settings: UpstreamSettings) -> Result<Upstream, String> {
        if urls.is_empty() {
            return Err("the service has no URL".into());
        }
        if !(0.0..=10.0).contains(&settings.retries.budget) {
            return Err("retries.budget: repeats for each request, from 0 to 10".into());
        }
        if let HashKey::Header(header) = &settings.hash {
            http::HeaderName::try_from(header).map_err(|_| format!("hash: `{header}` cannot be a header"))?;
        }
        if settings.health.as_ref().is_some_and(|h| !h.path.starts_with('/')) {
            return Err("health.path must begin with a slash".into());
        }
        let health = settings.health.as_ref();
        let rules = Rules {
            eject_after: settings.eject.failures,
            eject_for: settings.eject.for_.unwrap_or(Duration::from_secs(10)),
            fall: health.and_then(|h| h.fall).unwrap_or(3).max(1),
            rise: health.and_then(|h| h.rise).unwrap_or(2).max(1),
        };
        let endpoint = |url: &String| {
            let uri: Uri = url.parse().map_err(|_| format!("`{url}` is no base URL"))?;
            match (uri.scheme(), uri.authority()) {
                (Some(scheme), Some(authority)) => Ok(Arc::new(Endpoint {
                    scheme: scheme.clone(),
                    authority: authority.clone(),
                    path: uri.path().trim_end_matches('/').to_owned(),
                    host: host_header(scheme, authority).map_err(|_| format!("`{url}` names no host"))?,
                    at: uri.clone(),
                    direct: Arc::default(),
                    in_flight: AtomicUsize::new(0),
                    health: Mutex::new(Health::new(rules)),
                })),
                _ => Err(format!("`{url}` is no base URL such as http://127.0.0.1:9002")),
            }
        };
        let endpoints = urls.iter().map(endpoint).collect::<Result<Vec<_>, String>>()?;
        Ok(Upstream {
            name: name.to_owned(),
            ring: (settings.balance == Balance::Hash).then(|| Ring::new(urls.iter().map(String::as_str))),
            budget: Budget::new(settings.retries.budget),
            concurrency: Arc::default(),
            settings,
            urls: urls.to_vec(),
            endpoints,
            turns: AtomicU64::new(0),
        })
    }

    /// Whether it is the same service, so that what is known about it stays true.
    pub fn same(&self, urls: &[String], settings: &UpstreamSettings) -> bool {
        self.urls == urls && self.settings == *settings
    }

    /// Chooses a URL, not one of those that were tried if there is another. None: no URL is well.
    pub fn pick(
        &self,
        common: &Common<'_>,
        tried: &[Arc<Endpoint>],
        now: Instant,
    ) -> Option<(Arc<Endpoint>, InFlight)> {
        let well: Vec<usize> =
            self.endpoints.iter().enumerate().filter(|(_, e)| e.health().takes(now)).map(|(i, _)| i).collect();
        let was_tried = |i: &usize| self.endpoints.get(*i).is_some_and(|e| tried.iter().any(|t| Arc::ptr_eq(t, e)));
        let mut candidates = well;
        if !candidates.iter().all(was_tried) {
            candidates.retain(|i| !was_tried(i));
        }
        let chosen = match &self.ring {
            Some(ring) => ring.find(&self.key(common), |i| candidates.contains(&i)),
            None => {
                let chance = balance::mix(self.turns.fetch_add(1, Ordering::Relaxed));
                let load = |i: usize| self.endpoints.get(i).map_or(usize::MAX, |e| e.in_flight.load(Ordering::Relaxed));
                balance::least(&candidates, chance, load)
            }
        };
        let endpoint = self.endpoints.get(chosen?)?.clone();
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Some((endpoint.clone(), InFlight(endpoint)))
    }

    fn key(&self, common: &Common<'_>) -> Vec<u8> {
        match &self.settings.hash {
            HashKey::Client => common.client.as_bytes().to_vec(),
            HashKey::Path => common.path.as_bytes().to_vec(),
            HashKey::Header(name) => common.headers.get(name).map(|v| v.as_bytes().to_vec()).unwrap_or_default(),
        }
    }

    /// Numbers of URLs, and of those that get requests.
    pub fn standing(&self) -> (usize, usize) {
        let now = Instant::now();
        (self.endpoints.len(), self.endpoints.iter().filter(|e| e.health().takes(now)).count())
    }

    /// Requests in flight over all URLs.
    pub fn in_flight(&self) -> usize {
        self.endpoints.iter().map(|e| e.in_flight.load(Ordering::Relaxed)).sum()
    }

    /// Asks every URL from time to time whether it is well, for as long as the service is in use.
    pub fn watch(self: &Arc<Upstream>, clients: Clients) {
        let Some(settings) = self.settings.health.clone() else { return };
        for endpoint in &self.endpoints {
            let (upstream, endpoint) = (Arc::downgrade(self), endpoint.clone());
            tokio::spawn(watch(upstream, endpoint, settings.clone(), clients.clone()));
        }
    }
}

/// The authority without the credentials that it may hold, and without the port that goes without saying.
fn host_header(scheme: &Scheme, authority: &Authority) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let usual = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    match authority.port_u16() {
        Some(port) if port != usual => HeaderValue::try_from(format!("{}:{port}", authority.host())),
        _ => HeaderValue::from_str(authority.host()),
    }
}

async fn watch(upstream: Weak<Upstream>, endpoint: Arc<Endpoint>, settings: HealthSettings, clients: Clients) {
    let interval = settings.interval.unwrap_or(INTERVAL);
    loop {
        let Some((name, protocol)) = upstream.upgrade().map(|u| (u.name.clone(), u.settings.protocol)) else { return };
        let fine = endpoint.check(&settings, &clients, protocol).await;
        if endpoint.health().check(fine) {
            tracing::warn!(service = name, url = %endpoint.authority, well = fine, "a URL changed its health");
        }
        tokio::time::sleep(interval).await;
    }
}

impl Endpoint {
    /// The URI of a path and query at this URL.
    ///
    /// # Errors
    /// It cannot be written as one.
    pub fn uri(&self, path_and_query: &str) -> Result<Uri, http::Error> {
        let whole: PathAndQuery = format!("{}{path_and_query}", self.path).try_into()?;
        Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone()).path_and_query(whole).build()
    }

    /// Gives a request that began at `now` the target that this URL makes of path and query, and its host, and tells the
    /// way it goes.
    ///
    /// # Errors
    /// It cannot be written as one.
    pub fn address<B>(
        &self,
        request: &mut Request<B>,
        path_and_query: &PathAndQuery,
        protocol: Protocol,
        websocket: bool,
        now: Instant,
    ) -> Result<Way<'_>, http::Error> {
        if websocket || protocol != Protocol::Auto || self.scheme != Scheme::HTTP {
            // The pooled client writes the host of the URI.
            request.headers_mut().remove(http::header::HOST);
            *request.uri_mut() = self.uri(path_and_query.as_str())?;
            return Ok(if websocket { Way::WebSocket } else { Way::Pooled(protocol) });
        }
        let target = match self.path.as_str() {
            "" => path_and_query.clone(),
            path => PathAndQuery::try_from(format!("{path}{path_and_query}"))?,
        };
        *request.uri_mut() = Uri::from(target);
        request.headers_mut().insert(http::header::HOST, self.host.clone());
        Ok(Way::Direct(&self.direct, &self.at, now))
    }

    /// A client's request ended.
    pub fn record(&self, fine: bool) {
        self.health().request(fine, Instant::now());
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn check(&self, settings: &HealthSettings, clients: &Clients, protocol: Protocol) -> bool {
        let Ok(uri) = self.uri(&settings.path) else { return false };
        let Ok(request) = Request::get(uri).body(body::empty()) else { return false };
        let answer =
            tokio::time::timeout(settings.timeout.unwrap_or(CHECK_TIMEOUT), clients.of(protocol).request(request));
        matches!(answer.await, Ok(Ok(response)) if response.status().is_success() || response.status().is_redirection())
    }
}
