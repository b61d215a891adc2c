//! Public keys of an issuer (RFC 7517): read, kept, and fetched again when they turn.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Request;
use http_body_util::{BodyExt, Limited};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::Value;

use crate::body;
use crate::settings::Protocol;
use crate::upstream::client::Clients;

/// Largest set of keys: some hundred.
const MAX_BYTES: usize = 256 << 10;
/// How long fetching them may take.
const FETCH: Duration = Duration::from_secs(5);
/// How often keys are fetched at most, whatever tokens name: unknown keys are cheap to name.
const NOT_SOONER: Duration = Duration::from_secs(10);

/// A public key, and what it may verify.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub id: Option<String>,
    algorithm: Option<String>,
    material: Material,
}

#[derive(Clone, Debug)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Key {
    /// Reads a key; none if it is of a kind that is not used here, or not for signatures.
    fn parse(key: &Value) -> Option<Key> {
        if key.get("use").is_some_and(|u| u != "sig") {
            return None;
        }
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let point = |size: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == size && y.len() == size).then(|| [vec![4], x, y].concat())
        };
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => Material::Rsa { n: bytes("n")?, e: bytes("e")? },
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x")?),
            _ => return None,
        };
        Some(Key { id: text("kid").map(str::to_owned), algorithm: text("alg").map(str::to_owned), material })
    }

    /// Whether a signature is of this key, by the algorithm that the token names. The kind of the key decides which
    /// algorithms there are: a token cannot have its key taken for a shared secret, or for none.
    pub fn verifies(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        if self.algorithm.as_deref().is_some_and(|own| own != algorithm) {
            return false;
        }
        let plain = |kind: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(kind, key).verify(message, signature).is_ok()
        };
        match (&self.material, algorithm) {
            (Material::P256(key), "ES256") => plain(&signature::ECDSA_P256_SHA256_FIXED, key),
            (Material::P384(key), "ES384") => plain(&signature::ECDSA_P384_SHA384_FIXED, key),
            (Material::Ed25519(key), "EdDSA") => plain(&signature::ED25519, key),
            (Material::Rsa { n, e }, algorithm) => {
                let parameters = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
            }
            _ => false,
        }
    }
}

/// Reads a set of keys.
///
/// # Errors
/// It is none, or has no key that could be used.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Key>, String> {
    let set: Value = serde_json::from_slice(bytes).map_err(|e| format!("the keys are no JSON: {e}"))?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("a set of keys has `keys`")?;
    let keys: Vec<Key> = keys.iter().filter_map(Key::parse).collect();
    if keys.is_empty() { Err("the set has no key for RS*, PS*, ES256, ES384 or EdDSA".into()) } else { Ok(keys) }
}

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Url(http::Uri),
    File(PathBuf),
}

/// Keys that are fetched when they are needed, and again from time to time.
#[derive(Debug)]
pub(super) struct KeySet {
    source: Source,
    refresh: Duration,
    kept: Mutex<Kept>,
    /// One fetches, others wait for what it brings.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Kept {
    keys: Option<Arc<Vec<Key>>>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
}

impl KeySet {
    pub fn new(source: Source, refresh: Duration) -> KeySet {
        KeySet { source, refresh, kept: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// The keys. They are fetched if there are none, if they are old, or if `enough` says that one is missing; when that
    /// fails, those that are there stay. None: there are none.
    pub async fn get(&self, enough: impl Fn(&[Key]) -> bool, clients: &Clients) -> Option<Arc<Vec<Key>>> {
        if let (Some(keys), false) = self.look(&enough) {
            return Some(keys);
        }
        let _turn = self.turn.lock().await;
        let (keys, fetch) = self.look(&enough);
        if !fetch {
            return keys;
        }
        self.kept().tried = Some(Instant::now());
        match self.fetch(clients).await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                let mut kept = self.kept();
                (kept.keys, kept.fetched) = (Some(keys.clone()), Some(Instant::now()));
                Some(keys)
            }
            Err(why) => {
                tracing::warn!(source = ?self.source, why, "the keys of an issuer cannot be fetched");
                keys
            }
        }
    }

    /// What is kept, and whether to fetch.
    fn look(&self, enough: &impl Fn(&[Key]) -> bool) -> (Option<Arc<Vec<Key>>>, bool) {
        let kept = self.kept();
        let old = kept.fetched.is_none_or(|at| at.elapsed() >= self.refresh);
        let missing = kept.keys.as_ref().is_none_or(|keys| !enough(keys));
        let lately = kept.tried.is_some_and(|at| at.elapsed() < NOT_SOONER);
        (kept.keys.clone(), (old || missing) && !lately)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self, clients: &Clients) -> Result<Vec<Key>, String> {
        match &self.source {
            Source::File(path) => {
                let bytes = tokio::fs::read(path).await.map_err(|e| format!("{}: {e}", path.display()))?;
                parse(&bytes)
            }
            Source::Url(uri) => {
                let request = Request::get(uri).body(body::empty()).map_err(|e| e.to_string())?;
                let fetch = async {
                    let response = clients.of(Protocol::Auto).request(request).await.map_err(|e| e.to_string())?;
                    if !response.status().is_success() {
                        return Err(format!("{uri} answered {}", response.status()));
                    }
                    let body =
                        Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(|e| e.to_string())?;
                    parse(&body.to_bytes())
                };
                tokio::time::timeout(FETCH, fetch).await.map_err(|_| format!("{uri} did not answer in time"))?
            }
        }
    }
}
