//! Signed tokens (RFC 7519, RFC 8725): what they must say to be believed.
//!
//! Verified with ring's primitives on the keys of the issuer alone. Neither unsigned tokens nor shared secrets exist here,
//! so that no token can ask for them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::Caller;
use super::jwks::{Key, KeySet, Source};
use crate::settings::JwtSettings;
use crate::upstream::client::Clients;

/// Longest token: larger ones do not fit into most servers' headers either.
const MAX_TOKEN: usize = 8 << 10;
/// How far clocks may differ.
const LEEWAY: Duration = Duration::from_secs(30);
/// How often keys are fetched.
const REFRESH: Duration = Duration::from_secs(600);

/// Somebody whose tokens are believed.
#[derive(Debug)]
pub(super) struct Issuer {
    pub name: String,
    pub settings: JwtSettings,
    keys: KeySet,
}

impl Issuer {
    pub fn new(name: &str, settings: JwtSettings) -> Result<Issuer, String> {
        if settings.audience.is_empty() {
            return Err("`audience` is missing: without it a token for anybody else is taken, too".into());
        }
        let source = match settings.jwks.parse::<http::Uri>() {
            Ok(uri) if matches!(uri.scheme_str(), Some("https" | "http")) => Source::Url(uri),
            _ => Source::File(settings.jwks.clone().into()),
        };
        let keys = KeySet::new(source, settings.refresh.unwrap_or(REFRESH));
        Ok(Issuer { name: name.to_owned(), settings, keys })
    }

    /// The keys, with the one that a token names if there is one.
    pub async fn keys(&self, token: &Token<'_>, clients: &Clients) -> Option<Arc<Vec<Key>>> {
        self.keys.get(|keys| keys.iter().any(|key| token.may_be_of(key)), clients).await
    }
}

/// A token that can be read. Nothing in it is believed yet.
pub(super) struct Token<'a> {
    algorithm: String,
    key: Option<String>,
    claims: Value,
    signed: &'a str,
    signature: Vec<u8>,
}

impl Token<'_> {
    /// Reads a token.
    pub fn parse(text: &str) -> Option<Token<'_>> {
        if text.len() > MAX_TOKEN {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let json = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let header = json(header)?;
        // What must be understood, and is not, is a reason to refuse (RFC 7515, section 4.1.11).
        if header.get("crit").is_some() {
            return None;
        }
        Some(Token {
            algorithm: header.get("alg")?.as_str()?.to_owned(),
            key: header.get("kid").and_then(Value::as_str).map(str::to_owned),
            claims: json(claims).filter(Value::is_object)?,
            signed,
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }

    /// Whether it says that it is of an issuer.
    pub fn is_of(&self, issuer: &Issuer) -> bool {
        self.claims.get("iss").and_then(Value::as_str) == Some(&issuer.settings.issuer)
    }

    fn may_be_of(&self, key: &Key) -> bool {
        match (&self.key, &key.id) {
            (Some(named), Some(id)) => named == id,
            // A token that names no key is tried with all; one that does is of a key with that name.
            (None, _) => true,
            (Some(_), None) => false,
        }
    }

    /// Who it is about, if it is to be believed.
    ///
    /// # Errors
    /// Why not; for the log, not for the caller.
    pub fn verify(&self, issuer: &Issuer, keys: &[Key], now: SystemTime) -> Result<Caller, &'static str> {
        let mut candidates = keys.iter().filter(|key| self.may_be_of(key));
        if !candidates.any(|key| key.verifies(&self.algorithm, self.signed.as_bytes(), &self.signature)) {
            return Err("no key of the issuer verifies its signature");
        }
        if !self.is_of(issuer) {
            return Err("it is of another issuer");
        }
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let leeway = issuer.settings.leeway.unwrap_or(LEEWAY).as_secs_f64();
        let time =
            |name: &str| self.claims.get(name).map(|t| t.as_f64().ok_or("a time in it is no number")).transpose();
        if time("exp")?.ok_or("it has no end")? + leeway <= now {
            return Err("it has expired");
        }
        if time("nbf")?.is_some_and(|from| from - leeway > now) {
            return Err("it is not valid yet");
        }
        if !texts(self.claims.get("aud")).any(|to| issuer.settings.audience.iter().any(|a| a == to)) {
            return Err("it is for another audience");
        }
        let subject =
            self.claims.get("sub").and_then(Value::as_str).filter(|sub| plain(sub)).ok_or("it has no plain subject")?;
        let scopes = ["scope", "scp", "scopes"].into_iter().flat_map(|claim| texts(self.claims.get(claim)));
        let scopes = scopes.flat_map(str::split_whitespace).map(str::to_owned).collect();
        Ok(Caller { name: format!("jwt {} {subject}", issuer.name), scopes })
    }
}

/// What can stand in a header and in a log.
fn plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && text.bytes().all(|b| (0x20..0x7f).contains(&b))
}

/// A text, or a list of texts.
fn texts(value: Option<&Value>) -> impl Iterator<Item = &str> {
    let (one, many) = match value {
        Some(Value::String(one)) => (Some(one.as_str()), None),
        Some(Value::Array(many)) => (None, Some(many)),
        _ => (None, None),
    };
    one.into_iter().chain(many.into_iter().flatten().filter_map(Value::as_str))
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
