//! Callbacks: the URLs under which services complete or fail the calls that they took with 202.
//!
//! A URL holds a token: which location waits, for which call of which instance, and a signature over that. Whoever has it
//! may answer the call, once; nobody can make one. What a call is called under is its idempotency key, so that the URL of
//! one that was repeated answers the repeat, too. Nothing is kept for a token: the instance knows what it waits for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use pavane_core::engine::{Command, Outcome};
use pavane_store::{Commit, Store};
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;

use crate::lost::write;
use crate::{Engine, Error};

/// Where callbacks are taken, below the base URL.
pub const PATH: &str = "/api/v1/callbacks/";

/// The longest token that is looked at: a few times what any is that was made here.
const MAX_TOKEN: usize = 2_048;

/// Names under which a store keeps a secret of its own among its cursors, and the bits of each: a store keeps positions as
/// signed numbers.
const SECRET: [&str; 4] = ["callback-secret-1", "callback-secret-2", "callback-secret-3", "callback-secret-4"];
const SECRET_BITS: u32 = 62;

/// What a token says: who waits for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The location: `engine`, or the name of a service.
    pub location: String,
    /// The instance.
    pub instance: String,
    /// The idempotency key of the call.
    pub key: String,
}

/// How the callbacks of a process are signed and where they are taken.
#[derive(Clone)]
pub struct Callbacks {
    key: hmac::Key,
    base: String,
}

impl std::fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Callbacks").field("base", &self.base).finish_non_exhaustive()
    }
}

/// A token that was not made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forged;

impl Callbacks {
    /// Callbacks that services reach at a base URL, signed with a secret.
    pub fn new(base: &str, secret: &[u8]) -> Callbacks {
        Callbacks { key: hmac::Key::new(HMAC_SHA256, secret), base: base.trim_end_matches('/').to_owned() }
    }

    /// The URL for a claim.
    pub fn url(&self, claim: &Claim) -> String {
        format!("{}{PATH}{}", self.base, self.token(claim))
    }

    fn token(&self, Claim { location, instance, key }: &Claim) -> String {
        let said = [location.as_str(), instance, key].join("\n");
        let signature = hmac::sign(&self.key, said.as_bytes());
        format!("{}.{}", BASE64.encode(said), BASE64.encode(signature))
    }

    /// What a token claims, if it was made here.
    ///
    /// # Errors
    /// [`Forged`].
    pub fn read(&self, token: &str) -> Result<Claim, Forged> {
        let (claim, said, signature) = parts(token).ok_or(Forged)?;
        // In a time that does not depend on how much of it is right.
        hmac::verify(&self.key, &said, &signature).map_err(|_| Forged)?;
        Ok(claim)
    }
}

/// What a token claims, whoever made it: to find out who can tell whether it is genuine.
pub fn claimed(token: &str) -> Option<Claim> {
    parts(token).map(|(claim, ..)| claim)
}

fn parts(token: &str) -> Option<(Claim, Vec<u8>, Vec<u8>)> {
    let (said, signature) = token.split_once('.').filter(|_| token.len() <= MAX_TOKEN)?;
    let (said, signature) = (BASE64.decode(said).ok()?, BASE64.decode(signature).ok()?);
    let text = std::str::from_utf8(&said).ok()?;
    let [location, instance, key] = text.split('\n').collect::<Vec<_>>().try_into().ok()?;
    let claim = Claim { location: location.to_owned(), instance: instance.to_owned(), key: key.to_owned() };
    Some((claim, said, signature))
}

/// What an engine and its participants share: how callbacks are signed, once it is known where they are taken.
#[derive(Clone, Debug)]
pub(crate) struct Door(Arc<watch::Sender<Option<Callbacks>>>);

impl Default for Door {
    fn default() -> Door {
        Door(Arc::new(watch::Sender::new(None)))
    }
}

impl Door {
    /// How they are signed: waits until that is known, because a call without its URL could never be answered.
    pub async fn known(&self) -> Option<Callbacks> {
        let mut known = self.0.subscribe();
        known.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl Engine {
    /// From now on calls that await a callback are made, with URLs signed so. Participants beside it have the same.
    pub fn take_callbacks(&self, callbacks: Callbacks) {
        self.shared.callbacks.0.send_replace(Some(callbacks));
    }

    /// How callbacks are signed, once that is known.
    pub fn callbacks(&self) -> Option<Callbacks> {
        self.shared.callbacks.0.borrow().clone()
    }

    /// Whether a call of anything that is deployed awaits a callback.
    pub fn awaits_callbacks(&self) -> bool {
        let program = |digest: &str| self.shared.registry.by_digest(digest);
        self.definitions().iter().filter_map(|deployed| program(&deployed.digest)).any(|p| p.awaits_callbacks())
    }

    /// Where the service of a call of an instance here may answer it later, once that is known.
    pub(crate) async fn callback_url(&self, instance: &str, key: &str) -> Option<String> {
        let claim = Claim { location: self.location().to_owned(), instance: instance.to_owned(), key: key.to_owned() };
        self.shared.callbacks.known().await.map(|callbacks| callbacks.url(&claim))
    }

    /// A secret for the signatures that its store keeps, made when it was first asked for. One caller asks.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::Away`] when the system gives no random numbers.
    pub async fn callback_secret(&self) -> Result<Vec<u8>, Error> {
        let store = self.shared.store.clone();
        tokio::task::spawn_blocking(move || kept_secret(&*store)).await.map_err(|_| Error::Stopping)?
    }

    /// Takes the answer of a service that called back; it is durable when this returns.
    ///
    /// # Errors
    /// [`Error::Answered`]; [`Error::Late`], and that one came late is on record; as for [`Engine::operate`] otherwise.
    pub async fn call_back(&self, claim: &Claim, outcome: Outcome) -> Result<(), Error> {
        let Claim { instance, key, .. } = claim;
        match self.command(instance, Command::Callback { key: key.clone(), outcome }).await {
            Err(Error::Late) => {
                self.shared.tally.late_callbacks.fetch_add(1, Ordering::Relaxed);
                tracing::info!(instance, key, "a callback came that nobody waits for any more");
                self.command(instance, Command::LateCallback { key: key.clone() }).await?;
                Err(Error::Late)
            }
            answer => answer,
        }
    }

    /// Takes the word of a service that it is still at work.
    ///
    /// # Errors
    /// As for [`Engine::call_back`].
    pub async fn heartbeat(&self, claim: &Claim) -> Result<(), Error> {
        self.command(&claim.instance, Command::Heartbeat { key: claim.key.clone() }).await
    }
}

/// The secret of a store. Blocks.
fn kept_secret(store: &dyn Store) -> Result<Vec<u8>, Error> {
    let bytes = |parts: &[u64]| parts.iter().flat_map(|part| part.to_be_bytes()).collect();
    let kept = SECRET.iter().map(|name| store.cursor(name)).collect::<Result<Vec<u64>, _>>()?;
    if kept.iter().all(|part| *part > 0) {
        return Ok(bytes(&kept));
    }
    let mut random = [0; 8 * SECRET.len()];
    let drawn = SystemRandom::new().fill(&mut random);
    drawn.map_err(|_| Error::Away("the system gives no random numbers for the secret of callbacks".into()))?;
    let number = |part: &[u8]| part.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let parts = random.chunks_exact(8).map(|part| (number(part) & ((1 << SECRET_BITS) - 1)).max(1));
    let parts: Vec<u64> = parts.collect();
    let consumed = SECRET.iter().map(|name| (*name).to_owned()).zip(parts.iter().copied()).collect();
    write(store, vec![Commit { consumed, ..Commit::default() }])?;
    Ok(bytes(&parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_made_and_no_other_is() {
        let callbacks = Callbacks::new("http://h:1/", b"one secret");
        let claim = Claim { location: "shipping".into(), instance: "i".into(), key: "k".into() };
        let url = callbacks.url(&claim);
        let token = url.strip_prefix("http://h:1/api/v1/callbacks/").unwrap();
        assert_eq!(callbacks.read(token), Ok(claim.clone()));
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{token}");
        let other = Callbacks::new("http://h:1", b"another");
        assert_eq!(other.read(token), Err(Forged));
        // Claims of another call with this one's signature.
        let (said, signature) = token.split_once('.').unwrap();
        let stolen = BASE64.encode(["shipping", "i", "another"].join("\n"));
        for wrong in ["", ".", said, signature, &format!("{stolen}.{signature}"), &format!("{said}."), "a.b", "ä.ö"] {
            assert_eq!(callbacks.read(wrong), Err(Forged), "{wrong}");
        }
        for end in 0..token.len() {
            assert_eq!(callbacks.read(&token[..end]), Err(Forged), "{end}");
        }
    }
}
