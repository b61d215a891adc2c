//! Who asks: API keys, passwords, signed tokens, client certificates. What is compared is compared in constant time.
//!
//! Start reading at [`Auth::caller`]. A route says which ways it takes (`auth`) and what the caller must be allowed
//! (`scopes`).

pub(crate) mod door;
mod jwks;
mod jwt;
pub(crate) mod secret;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap};
use http::{HeaderValue, StatusCode};

use crate::problem::Problem;
use crate::settings::{AuthSettings, CertificateSettings, Way};
use crate::tls::ClientCertificate;
use crate::units::{Fault, Located};
use crate::upstream::client::Clients;
use jwt::Issuer;
use secret::{Keys, Passwords};

/// The header with an API key.
pub(crate) const API_KEY: &str = "x-api-key";

/// Where the settings of routes' callers stand.
const PLACE: &str = "gateway.auth";

/// Who asks, once that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// How it was known, and its name there: `key shop`, `basic ada`, `jwt main 17`, `certificate partner`.
    pub name: String,
    pub scopes: Vec<String>,
}

/// All that callers are known by.
pub(crate) struct Auth {
    keys: Keys,
    passwords: Passwords,
    issuers: BTreeMap<String, Arc<Issuer>>,
    certificates: Vec<Located<CertificateSettings>>,
}

/// Why a caller is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unknown {
    /// This way was not tried.
    NotTried,
    /// It was, and failed.
    Wrong,
    /// It cannot be decided now.
    Unavailable,
}

impl Auth {
    /// Reads the settings; issuers that are the same as before keep their keys.
    pub fn new(settings: &AuthSettings, before: Option<&Auth>, faults: &mut Vec<Fault>) -> Auth {
        let issuers = settings.jwt.iter().filter_map(|(name, located)| {
            let known = before.and_then(|b| b.issuers.get(name)).filter(|issuer| issuer.settings == located.value);
            let issuer = match known {
                Some(known) => Ok(known.clone()),
                None => Issuer::new(name, located.value.clone()).map(Arc::new),
            };
            let wrong = |why| {
                let message = format!("gateway.auth.jwt.{name}: {why}");
                faults.push(Fault { line: located.line, column: located.column, message });
            };
            issuer.map_err(wrong).ok().map(|issuer| (name.clone(), issuer))
        });
        let issuers = issuers.collect();
        for located in &settings.certificates {
            if located.value.dns.is_none() == located.value.fingerprint.is_none() {
                let message = "gateway.auth.certificates: give exactly one of `dns` and `fingerprint`".to_owned();
                faults.push(Fault { line: located.line, column: located.column, message });
            }
        }
        Auth {
            keys: Keys::new(PLACE, &settings.keys, faults),
            passwords: Passwords::new(PLACE, &settings.basic, before.map(|b| &b.passwords), faults),
            issuers,
            certificates: settings.certificates.clone(),
        }
    }

    /// Whether callers can be known in a way at all.
    pub fn has(&self, way: Way) -> bool {
        match way {
            Way::Key => !self.keys.is_empty(),
            Way::Basic => !self.passwords.is_empty(),
            Way::Jwt => !self.issuers.is_empty(),
            Way::Certificate => !self.certificates.is_empty(),
        }
    }

    /// Who asks, in the first of several ways that says so.
    ///
    /// # Errors
    /// 401: in none of them. 503: it cannot be decided now.
    pub async fn caller(
        &self,
        ways: &[Way],
        headers: &HeaderMap,
        certificate: Option<&ClientCertificate>,
        clients: &Clients,
    ) -> Result<Caller, Problem> {
        let mut tried = false;
        for way in ways {
            let found = match way {
                Way::Key => self.by_key(headers),
                Way::Basic => self.by_password(headers).await,
                Way::Jwt => self.by_token(headers, clients).await,
                Way::Certificate => self.by_certificate(certificate),
            };
            match found {
                Ok(caller) => return Ok(caller),
                Err(Unknown::Unavailable) => {
                    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "authentication_unavailable");
                    return Err(problem.retry_after(5));
                }
                Err(Unknown::Wrong) => tried = true,
                Err(Unknown::NotTried) => {}
            }
        }
        let mut problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated");
        for way in ways {
            let challenge = match way {
                Way::Basic => "Basic realm=\"pavane\", charset=\"UTF-8\"",
                Way::Jwt if tried => "Bearer error=\"invalid_token\"",
                Way::Jwt => "Bearer",
                Way::Key => "ApiKey header=\"X-Api-Key\"",
                Way::Certificate => continue,
            };
            problem = problem.header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        Err(problem)
    }

    fn by_key(&self, headers: &HeaderMap) -> Result<Caller, Unknown> {
        let key = single(headers, API_KEY)?;
        self.keys.find(key.as_bytes()).ok_or(Unknown::Wrong)
    }

    async fn by_password(&self, headers: &HeaderMap) -> Result<Caller, Unknown> {
        let (name, password) = basic(headers)?;
        self.passwords.find(&name, &password).await
    }

    async fn by_token(&self, headers: &HeaderMap, clients: &Clients) -> Result<Caller, Unknown> {
        let token = jwt::Token::parse(credentials(headers, "bearer")?).ok_or(Unknown::Wrong)?;
        let issuer = self.issuers.values().find(|issuer| token.is_of(issuer)).ok_or(Unknown::Wrong)?;
        let Some(keys) = issuer.keys(&token, clients).await else { return Err(Unknown::Unavailable) };
        token.verify(issuer, &keys, SystemTime::now()).map_err(|why| {
            tracing::debug!(issuer = issuer.name, why, "a token was refused");
            Unknown::Wrong
        })
    }

    fn by_certificate(&self, certificate: Option<&ClientCertificate>) -> Result<Caller, Unknown> {
        let certificate = certificate.ok_or(Unknown::NotTried)?;
        let known = self.certificates.iter().map(|located| &located.value).find(|known| match known {
            CertificateSettings { fingerprint: Some(fingerprint), .. } => certificate.fingerprint == *fingerprint,
            CertificateSettings { dns: Some(dns), .. } => certificate.names.iter().any(|n| n.eq_ignore_ascii_case(dns)),
            _ => false,
        });
        let caller =
            |c: &CertificateSettings| Caller { name: format!("certificate {}", c.name), scopes: c.scopes.clone() };
        known.map(caller).ok_or(Unknown::Wrong)
    }
}

/// The one value of a header. Several are a guess at several doors.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Unknown> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Err(Unknown::NotTried),
        (Some(value), None) => value.to_str().map_err(|_| Unknown::Wrong),
        _ => Err(Unknown::Wrong),
    }
}

/// What follows a scheme in `Authorization`.
fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Result<&'a str, Unknown> {
    let value = single(headers, header::AUTHORIZATION.as_str())?;
    match value.split_once(' ') {
        Some((given, rest)) if given.eq_ignore_ascii_case(scheme) => Ok(rest.trim()),
        _ => Err(Unknown::NotTried),
    }
}

/// The name and password of Basic credentials (RFC 7617).
fn basic(headers: &HeaderMap) -> Result<(String, String), Unknown> {
    let encoded = credentials(headers, "basic")?;
    let decoded = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let decoded = decoded.ok_or(Unknown::Wrong)?;
    let (name, password) = decoded.split_once(':').ok_or(Unknown::Wrong)?;
    Ok((name.to_owned(), password.to_owned()))
}

/// Reads what a client may send as credentials; whether it is a token, and whether it is a name and password.
#[cfg(feature = "fuzzing")]
pub(crate) fn read(headers: &HeaderMap) -> (bool, bool) {
    let token = credentials(headers, "bearer").is_ok_and(|text| jwt::Token::parse(text).is_some());
    (token, basic(headers).is_ok())
}
