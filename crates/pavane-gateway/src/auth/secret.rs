//! API keys and passwords. The file holds hashes: SHA-256 of keys, which are long and random, and PBKDF2 of passwords,
//! which are neither.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::pbkdf2;
use ring::rand::SystemRandom;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tokio::sync::Semaphore;

use super::{Caller, Unknown};
use crate::settings::{KeySettings, PasswordSettings};
use crate::units::{Fault, Located};

/// Iterations of a new password's hash: about a fifth of a second of one core.
const NEW_ITERATIONS: NonZeroU32 = match NonZeroU32::new(600_000) {
    Some(iterations) => iterations,
    None => NonZeroU32::MIN,
};

/// A new API key of 32 random bytes, and its hash for the configuration. None: the system has no random numbers.
pub fn new_key() -> Option<(String, String)> {
    let bytes: [u8; 32] = ring::rand::generate(&SystemRandom::new()).ok()?.expose();
    let key = format!("pvn_{}", URL_SAFE_NO_PAD.encode(bytes));
    let hash = Sha256::digest(&key).iter().map(|b| format!("{b:02x}")).collect();
    Some((key, hash))
}

/// The hash of a password for the configuration. None: the system has no random numbers.
pub fn hash_password(password: &str) -> Option<String> {
    let salt: [u8; 16] = ring::rand::generate(&SystemRandom::new()).ok()?.expose();
    let mut hash = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, NEW_ITERATIONS, &salt, password.as_bytes(), &mut hash);
    Some(format!("pbkdf2-sha256${NEW_ITERATIONS}${}${}", STANDARD.encode(salt), STANDARD.encode(hash)))
}

/// Passwords that are computed at once: each keeps a core busy for as long as the hash is meant to take.
const AT_ONCE: usize = 2;

/// How long a password waits for its turn to be computed.
const TURN: Duration = Duration::from_secs(5);

/// How long a password that was right is not computed again.
const REMEMBERED: Duration = Duration::from_secs(300);

/// Right passwords that are remembered.
const MAX_REMEMBERED: usize = 1_000;

/// Iterations of PBKDF2: fewer are broken too fast, more keep a core busy for too long.
const ITERATIONS: std::ops::RangeInclusive<u32> = 100_000..=10_000_000;

/// Longest password that is computed.
const MAX_PASSWORD: usize = 1_024;

/// API keys by their hash.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<([u8; 32], Caller)>);

impl Keys {
    /// Keys whose settings stand at `place`.
    pub fn new(place: &str, settings: &[Located<KeySettings>], faults: &mut Vec<Fault>) -> Keys {
        let mut keys = Vec::new();
        for Located { value, line, column } in settings {
            match unhex(&value.sha256) {
                Some(hash) => {
                    let name = format!("key {}", value.name);
                    keys.push((hash, Caller { name, scopes: value.scopes.clone() }));
                }
                None => {
                    let message = format!("{place}.keys: {}: `sha256` has 64 hexadecimal digits", value.name);
                    faults.push(Fault { line: *line, column: *column, message });
                }
            }
        }
        Keys(keys)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The caller of a key. All are compared, and each whole: time tells nothing about them.
    pub fn find(&self, key: &[u8]) -> Option<Caller> {
        let hash: [u8; 32] = Sha256::digest(key).into();
        let mut found = u32::MAX;
        for (index, (known, _)) in self.0.iter().enumerate() {
            let same: Choice = known.as_slice().ct_eq(&hash);
            found.conditional_assign(&u32::try_from(index).unwrap_or(u32::MAX), same);
        }
        self.0.get(usize::try_from(found).ok()?).map(|(_, caller)| caller.clone())
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Passwords by name.
#[derive(Debug)]
pub(super) struct Passwords {
    known: HashMap<String, (Arc<Derived>, Caller)>,
    /// Computed for a name that nobody has, so that it takes as long.
    nobody: Arc<Derived>,
    remembered: Arc<Mutex<HashMap<[u8; 32], Instant>>>,
    turns: Arc<Semaphore>,
}

/// `pbkdf2-sha256$ITERATIONS$SALT$HASH`, the last two in base64.
#[derive(Debug)]
struct Derived {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    hash: Vec<u8>,
    text: String,
}

impl Derived {
    fn parse(text: &str) -> Result<Derived, String> {
        let wrong = || "`pbkdf2` is written pbkdf2-sha256$ITERATIONS$SALT$HASH, salt and hash in base64".to_owned();
        let parts: Vec<&str> = text.split('$').collect();
        let ["pbkdf2-sha256", iterations, salt, hash] = parts.as_slice() else { return Err(wrong()) };
        let iterations: u32 = iterations.parse().map_err(|_| wrong())?;
        if !ITERATIONS.contains(&iterations) {
            return Err(format!("{iterations} iterations are not from {} to {}", ITERATIONS.start(), ITERATIONS.end()));
        }
        let iterations = NonZeroU32::new(iterations).ok_or_else(wrong)?;
        let (salt, hash) = (STANDARD.decode(salt).map_err(|_| wrong())?, STANDARD.decode(hash).map_err(|_| wrong())?);
        if salt.len() < 8 || hash.len() != 32 {
            return Err("`pbkdf2` needs a salt of 8 bytes or more and a hash of 32".into());
        }
        Ok(Derived { iterations, salt, hash, text: text.to_owned() })
    }

    fn is_of(&self, password: &str) -> bool {
        // Compares in constant time.
        pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, self.iterations, &self.salt, password.as_bytes(), &self.hash).is_ok()
    }
}

impl Passwords {
    /// Passwords whose settings stand at `place`.
    pub fn new(
        place: &str,
        settings: &[Located<PasswordSettings>],
        before: Option<&Passwords>,
        faults: &mut Vec<Fault>,
    ) -> Passwords {
        let mut known = HashMap::new();
        for Located { value, line, column } in settings {
            match Derived::parse(&value.pbkdf2) {
                Ok(derived) => {
                    let caller = Caller { name: format!("basic {}", value.name), scopes: value.scopes.clone() };
                    known.insert(value.name.clone(), (Arc::new(derived), caller));
                }
                Err(why) => {
                    let message = format!("{place}.basic: {}: {why}", value.name);
                    faults.push(Fault { line: *line, column: *column, message });
                }
            }
        }
        let iterations = known.values().map(|(derived, _)| derived.iterations).max().unwrap_or(NonZeroU32::MIN);
        let nobody = Derived { iterations, salt: vec![0; 16], hash: vec![0; 32], text: String::new() };
        // What is remembered names the hash it was held against: a changed password is not remembered.
        let (remembered, turns) = match before {
            Some(before) => (before.remembered.clone(), before.turns.clone()),
            None => (Arc::default(), Arc::new(Semaphore::new(AT_ONCE))),
        };
        Passwords { known, nobody: Arc::new(nobody), remembered, turns }
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The caller of a name and password.
    ///
    /// # Errors
    /// There is none, or too many passwords are being computed to say.
    pub async fn find(&self, name: &str, password: &str) -> Result<Caller, Unknown> {
        if password.len() > MAX_PASSWORD {
            return Err(Unknown::Wrong);
        }
        let (derived, caller) = match self.known.get(name) {
            Some((derived, caller)) => (derived.clone(), Some(caller)),
            None => (self.nobody.clone(), None),
        };
        let proof: [u8; 32] =
            Sha256::new().chain_update(&derived.text).chain_update([0]).chain_update(password).finalize().into();
        if let Some(caller) = caller.filter(|_| self.remembers(&proof)) {
            return Ok(caller.clone());
        }
        // Held until it is computed, even if whoever asked has gone: what runs, runs.
        let turn = tokio::time::timeout(TURN, self.turns.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(Unknown::Unavailable) };
        let password = password.to_owned();
        let compute = move || {
            let right = derived.is_of(&password);
            drop(turn);
            right
        };
        let right = tokio::task::spawn_blocking(compute).await.unwrap_or(false);
        let caller = caller.filter(|_| right).ok_or(Unknown::Wrong)?;
        self.remember(proof);
        Ok(caller.clone())
    }

    fn remembers(&self, proof: &[u8; 32]) -> bool {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(proof).is_some_and(|since| since.elapsed() < REMEMBERED)
    }

    fn remember(&self, proof: [u8; 32]) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, since| since.elapsed() < REMEMBERED);
        }
        if remembered.len() < MAX_REMEMBERED {
            remembered.insert(proof, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn a_key_is_known_by_its_hash() {
        let key = |name: &str, key: &str| {
            let sha256 = hex(&Sha256::digest(key));
            Located::nowhere(KeySettings { name: name.into(), sha256, scopes: vec![format!("{name}:all")] })
        };
        let mut faults = Vec::new();
        let keys = Keys::new("auth", &[key("a", "first"), key("b", "second")], &mut faults);
        assert_eq!((faults.len(), keys.find(b"second").unwrap().name.as_str()), (0, "key b"));
        assert_eq!(keys.find(b"first").unwrap().scopes, ["a:all"]);
        for wrong in ["", "secon", "second ", &hex(&Sha256::digest("second"))] {
            assert_eq!(keys.find(wrong.as_bytes()), None, "{wrong}");
        }
        let (made, hash) = new_key().unwrap();
        let settings = KeySettings { name: "d".into(), sha256: hash, scopes: Vec::new() };
        let known = Keys::new("auth", &[Located::nowhere(settings)], &mut faults).find(made.as_bytes());
        assert_eq!(known.unwrap().name, "key d");
        let mut short = key("c", "x");
        short.value.sha256.pop();
        Keys::new("auth", &[short], &mut faults);
        assert!(faults[0].message.contains("64 hexadecimal digits"));
    }

    #[tokio::test]
    async fn a_password_is_known_by_what_is_derived_from_it() {
        let derived = |password: &str| {
            let (salt, mut hash) = (b"saltsalt", [0; 32]);
            pbkdf2::derive(
                pbkdf2::PBKDF2_HMAC_SHA256,
                NonZeroU32::new(100_000).unwrap(),
                salt,
                password.as_bytes(),
                &mut hash,
            );
            format!("pbkdf2-sha256$100000${}${}", STANDARD.encode(salt), STANDARD.encode(hash))
        };
        let user = |password: &str| {
            Located::nowhere(PasswordSettings { name: "ada".into(), pbkdf2: derived(password), scopes: Vec::new() })
        };
        let mut faults = Vec::new();
        let passwords = Passwords::new("auth", &[user("secret")], None, &mut faults);
        for _ in 0..2 {
            assert_eq!(passwords.find("ada", "secret").await.unwrap().name, "basic ada");
            assert_eq!(passwords.find("ada", "Secret").await, Err(Unknown::Wrong));
            assert_eq!(passwords.find("bob", "secret").await, Err(Unknown::Wrong));
        }
        let made = hash_password("secret").unwrap();
        assert!(Derived::parse(&made).unwrap().is_of("secret") && !Derived::parse(&made).unwrap().is_of("other"));
        let changed = Passwords::new("auth", &[user("other")], Some(&passwords), &mut faults);
        assert_eq!(
            changed.find("ada", "secret").await,
            Err(Unknown::Wrong),
            "what was right is not remembered against a new hash"
        );
        for wrong in ["", "plain", "pbkdf2-sha256$1$c2FsdHNhbHQ=$AAAA", "pbkdf2-sha256$100000$c2FsdHNhbHQ=$AAAA"] {
            assert!(Derived::parse(wrong).is_err(), "{wrong}");
        }
    }
}
