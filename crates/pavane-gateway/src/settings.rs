//! The gateway's part of `pavane.yaml`, as it is written. [`crate::table`] checks it and makes routes of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pavane_core::units::Block;
use serde::Deserialize;

use crate::rate::Rate;
use crate::units::{Located, duration, one_or_many};

/// `gateway:`, what holds for all routes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewaySettings {
    /// Limits.
    pub limits: LimitSettings,
    /// Timeouts.
    pub timeouts: TimeoutSettings,
    /// Proxies before the gateway that are believed what they say about the client: addresses, or `10.0.0.0/8`.
    pub trusted_proxies: Vec<Block>,
    /// Who may ask.
    pub auth: AuthSettings,
    /// TLS of the listener; without it, it speaks plain HTTP.
    pub tls: Option<Located<TlsSettings>>,
    /// How services are reached, by name.
    pub upstreams: BTreeMap<String, Located<UpstreamSettings>>,
    /// A file that gets a line of JSON for each answer; without it, none is written.
    pub access_log: Option<PathBuf>,
}

impl GatewaySettings {
    /// Takes paths as relative to a folder.
    pub fn relative_to(&mut self, folder: &Path) {
        let settle = |path: &mut PathBuf| *path = folder.join(&*path);
        self.access_log.iter_mut().for_each(settle);
        if let Some(tls) = &mut self.tls {
            tls.value.certificates.iter_mut().for_each(|pair| {
                settle(&mut pair.certificate);
                settle(&mut pair.key);
            });
            tls.value.client_ca.iter_mut().for_each(settle);
        }
        for issuer in self.auth.jwt.values_mut().map(|located| &mut located.value) {
            if !issuer.jwks.contains("://") {
                issuer.jwks = folder.join(&issuer.jwks).display().to_string();
            }
        }
    }
}

/// Limits of the listener.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Connections at the same time; further ones wait to be accepted.
    pub connections: usize,
    /// Bytes of all names and values of a request's headers together.
    pub header_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// Bytes of a request's body, where a route sets nothing else.
    pub body: u64,
    /// Requests at the same time on one HTTP/2 connection.
    pub streams: u32,
}

impl Default for LimitSettings {
    fn default() -> LimitSettings {
        LimitSettings {
            // Each holds a socket and some ten KiB of buffers.
            connections: 10_000,
            // What other servers take, too.
            header_bytes: 16 << 10,
            headers: 100,
            // As the HTTP API: an input is kept, journalled and cloned.
            body: 4 << 20,
            streams: 100,
        }
    }
}

/// Timeouts of the listener and of requests.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutSettings {
    /// How long a client may take for the head of a request, and how long a connection may do nothing between two.
    #[serde(deserialize_with = "duration")]
    pub header: Option<Duration>,
    /// How long a body, or a WebSocket, may stand still.
    #[serde(deserialize_with = "duration")]
    pub idle: Option<Duration>,
    /// How long a body that the gateway reads whole may take, and a TLS handshake.
    #[serde(deserialize_with = "duration")]
    pub body: Option<Duration>,
    /// How long a service may take until its answer begins, where a route sets nothing else.
    #[serde(deserialize_with = "duration")]
    pub response: Option<Duration>,
    /// How long a connection to a service may take to be made.
    #[serde(deserialize_with = "duration")]
    pub connect: Option<Duration>,
}

impl Default for TimeoutSettings {
    fn default() -> TimeoutSettings {
        TimeoutSettings {
            header: Some(Duration::from_secs(15)),
            idle: Some(Duration::from_secs(60)),
            body: Some(Duration::from_secs(30)),
            response: Some(Duration::from_secs(30)),
            connect: Some(Duration::from_secs(5)),
        }
    }
}

/// How a service is reached.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamSettings {
    /// Which HTTP it speaks.
    pub protocol: Protocol,
    /// Which of its URLs a request goes to.
    pub balance: Balance,
    /// What a request must have in common with another to go to the same URL; for `balance: hash`.
    pub hash: HashKey,
    /// Asking each URL whether it is well.
    pub health: Option<HealthSettings>,
    /// Leaving out URLs that fail.
    pub eject: EjectSettings,
    /// Repeating requests that failed.
    pub retries: RetrySettings,
    /// Whether requests beyond what the service can bear, as learned from its answers, are refused at once.
    pub shed: bool,
}

/// How a URL is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Balance {
    /// Of two taken by chance, the one with fewer requests in flight.
    #[default]
    Least,
    /// The same for the same key, as long as it is well.
    Hash,
}

/// What requests have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HashKey {
    /// The client's address.
    #[default]
    Client,
    /// The path.
    Path,
    /// The value of a header.
    Header(String),
}

/// Asking a URL whether it is well.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthSettings {
    /// Path below the URL; an answer of 200 to 399 means well.
    pub path: String,
    /// How often.
    #[serde(default, deserialize_with = "duration")]
    pub interval: Option<Duration>,
    /// How long an answer may take.
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Failures in a row after which it is unwell.
    #[serde(default)]
    pub fall: Option<u32>,
    /// Good answers in a row after which it is well again.
    #[serde(default)]
    pub rise: Option<u32>,
}

/// Leaving out URLs that fail the requests of clients.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EjectSettings {
    /// Failures in a row (no connection, no answer in time, 502, 503, 504) after which a URL is left out; 0: never.
    pub failures: u32,
    /// For how long, the first time; twice as long each time it happens again.
    #[serde(rename = "for", deserialize_with = "duration")]
    pub for_: Option<Duration>,
}

impl Default for EjectSettings {
    fn default() -> EjectSettings {
        EjectSettings { failures: 5, for_: Some(Duration::from_secs(10)) }
    }
}

/// Repeating requests.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetrySettings {
    /// Repeats of one request, at most.
    pub attempts: u32,
    /// Repeats for each request, over all: 0.2 is one in five.
    pub budget: f64,
}

impl Default for RetrySettings {
    fn default() -> RetrySettings {
        RetrySettings { attempts: 2, budget: 0.2 }
    }
}

/// Which HTTP a service speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1, or over TLS what both can.
    #[default]
    Auto,
    /// HTTP/2 without asking, as gRPC needs it.
    Http2,
}

/// Who may ask: what callers are known by.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthSettings {
    /// API keys.
    pub keys: Vec<Located<KeySettings>>,
    /// Names and passwords.
    pub basic: Vec<Located<PasswordSettings>>,
    /// Issuers of signed tokens, by a name of their own.
    pub jwt: BTreeMap<String, Located<JwtSettings>>,
    /// Clients' certificates.
    pub certificates: Vec<Located<CertificateSettings>>,
}

/// An API key.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySettings {
    /// Whose.
    pub name: String,
    /// Its SHA-256 in hexadecimal digits; the key itself is nowhere.
    pub sha256: String,
    /// What its holder may.
    #[serde(default)]
    pub scopes: Vec<String>,
}

/// A name and its password.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordSettings {
    /// The name.
    pub name: String,
    /// `pbkdf2-sha256$ITERATIONS$SALT$HASH`, salt and hash in base64.
    pub pbkdf2: String,
    /// What they may.
    #[serde(default)]
    pub scopes: Vec<String>,
}

/// An issuer of signed tokens.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtSettings {
    /// What `iss` says.
    pub issuer: String,
    /// What `aud` may say.
    #[serde(deserialize_with = "one_or_many")]
    pub audience: Vec<String>,
    /// Where its public keys are: a URL, or a file.
    pub jwks: String,
    /// How often they are fetched.
    #[serde(default, deserialize_with = "duration")]
    pub refresh: Option<Duration>,
    /// How far clocks may differ.
    #[serde(default, deserialize_with = "duration")]
    pub leeway: Option<Duration>,
}

/// A client that is known by its certificate.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateSettings {
    /// Whose.
    pub name: String,
    /// A host name in the certificate.
    #[serde(default)]
    pub dns: Option<String>,
    /// SHA-256 of the certificate in lower-case hexadecimal digits.
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// What they may.
    #[serde(default)]
    pub scopes: Vec<String>,
}

/// TLS of the listener.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// Certificates; which one a client gets is decided by the names in them, else the first.
    pub certificates: Vec<PairSettings>,
    /// Authorities that vouch for clients, in PEM.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is not even talked to.
    #[serde(default)]
    pub client_required: bool,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairSettings {
    /// The certificate and those that vouch for it, in PEM.
    pub certificate: PathBuf,
    /// The private key, in PEM.
    pub key: PathBuf,
}

/// A way to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// An API key.
    Key,
    /// A name and a password.
    Basic,
    /// A signed token.
    Jwt,
    /// A client certificate.
    Certificate,
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSettings {
    /// Which requests it takes.
    #[serde(rename = "match")]
    pub match_: MatchSettings,
    /// The service that answers.
    #[serde(default)]
    pub service: Option<String>,
    /// The workflow that answers: `namespace/name`.
    #[serde(default)]
    pub workflow: Option<String>,
    /// Version of the workflow; the highest if absent.
    #[serde(default)]
    pub version: Option<String>,
    /// Mode of the workflow; that of its document if absent.
    #[serde(default)]
    pub mode: Option<String>,
    /// How long a caller waits for the workflow's end.
    #[serde(default, deserialize_with = "duration")]
    pub wait: Option<Duration>,
    /// What the workflow's input is.
    #[serde(default)]
    pub input: InputKind,
    /// What to take from the front of the path before it is sent to the service.
    #[serde(default)]
    pub strip: Option<String>,
    /// How long the service may take until its answer begins.
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// How long a request may wait for its turn at the service's gate.
    #[serde(default, deserialize_with = "pavane_core::units::duration")]
    pub queue: Option<Duration>,
    /// Bytes of a request's body.
    #[serde(default)]
    pub max_body: Option<u64>,
    /// How many requests in how long, for whom: `100/s per client`.
    #[serde(default, deserialize_with = "one_or_many")]
    pub rate: Vec<Rate>,
    /// The ways in which a caller may be known; without them, everybody may ask.
    #[serde(default)]
    pub auth: Vec<Way>,
    /// What a caller must be allowed, all of it.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Answers are kept: for so long, where they do not say themselves how long.
    #[serde(default, deserialize_with = "duration")]
    pub cache: Option<Duration>,
    /// Whether answers are compressed.
    #[serde(default)]
    pub compress: bool,
    /// Which pages of other origins may ask.
    #[serde(default)]
    pub cors: Option<CorsSettings>,
}

impl RouteSettings {
    /// A route that starts a workflow (`namespace/name`) for each POST to a path, all else as it is when nothing is said.
    pub fn to_workflow(path: impl Into<String>, workflow: impl Into<String>) -> RouteSettings {
        let match_ = MatchSettings { path: path.into(), ..MatchSettings::default() };
        RouteSettings { match_, workflow: Some(workflow.into()), ..RouteSettings::default() }
    }
}

/// Cross-origin requests of browsers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorsSettings {
    /// Origins, such as `https://shop.example`; `*` for all.
    #[serde(deserialize_with = "one_or_many")]
    pub origins: Vec<String>,
    /// Headers that requests may have beside the harmless ones; `*` for all.
    #[serde(default, deserialize_with = "one_or_many")]
    pub headers: Vec<String>,
    /// Headers of answers that pages may read.
    #[serde(default, deserialize_with = "one_or_many")]
    pub expose: Vec<String>,
    /// Whether requests may carry cookies and secrets.
    #[serde(default)]
    pub credentials: bool,
    /// How long a browser need not ask again.
    #[serde(default, deserialize_with = "duration")]
    pub max_age: Option<Duration>,
}

/// Which requests a route takes: those that fit everything given.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatchSettings {
    /// Host names, `*.example.com` for all below one.
    #[serde(default, deserialize_with = "one_or_many")]
    pub host: Vec<String>,
    /// Path: `/x`, `/x/*`, `/x/{id}`.
    pub path: String,
    /// Methods; without them, all of a service and POST of a workflow.
    #[serde(default, deserialize_with = "one_or_many")]
    pub method: Vec<String>,
    /// Headers and their values; `*` for any value.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// What a workflow gets as its input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    /// The body.
    #[default]
    Body,
    /// `{method, path, parameters, query, body}`.
    Request,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_as_the_documents_show_it() {
        let routes: Vec<Located<RouteSettings>> = serde_saphyr::from_str(
            "- { match: { path: /orders, method: POST }, workflow: shop/order-fulfilment, wait: 10s }\n\
             - { match: { path: '/inventory/*', host: [a.example, '*.b.example'] }, service: inventory }\n",
        )
        .unwrap();
        assert_eq!(routes[0].value.wait, Some(Duration::from_secs(10)));
        assert_eq!((routes[1].line, routes[1].value.match_.host.len()), (2, 2));
        let wrong = serde_saphyr::from_str::<Vec<RouteSettings>>("- { match: { path: /x }, servce: a }\n").unwrap_err();
        assert!(wrong.to_string().contains("servce"), "{wrong}");
    }
}
