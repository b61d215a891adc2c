//! Tokens that are to be believed, and all that are not.

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::super::jwks;
use super::*;

const NOW: u64 = 1_800_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn issuer() -> Issuer {
    let settings = JwtSettings {
        issuer: "https://login.example".into(),
        audience: vec!["shop".into()],
        jwks: "keys.json".into(),
        refresh: None,
        leeway: None,
    };
    Issuer::new("main", settings).unwrap()
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn claims() -> Value {
    json!({ "iss": "https://login.example", "aud": ["other", "shop"], "sub": "ada", "exp": NOW + 60, "scope": "a b" })
}

/// A pair of keys: what signs, and the public key as its issuer shows it.
struct Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    public: Value,
}

impl Signer {
    fn new(id: &str) -> Signer {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        let public = json!({ "kty": "EC", "crv": "P-256", "use": "sig", "kid": id, "x": x, "y": y });
        Signer { pair, random, public }
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.pair.sign(&self.random, signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn keys(public: &[Value]) -> Vec<Key> {
    jwks::parse(json!({ "keys": public }).to_string().as_bytes()).unwrap()
}

fn verify(token: &str, keys: &[Key]) -> Result<Caller, &'static str> {
    Token::parse(token).ok_or("unreadable")?.verify(&issuer(), keys, now())
}

#[test]
fn a_token_is_believed_for_what_it_says() {
    let signer = Signer::new("one");
    let keys = keys(&[Signer::new("zero").public, signer.public.clone()]);
    let header = json!({ "alg": "ES256", "kid": "one", "typ": "JWT" });
    let caller = verify(&signer.token(&header, &claims()), &keys).unwrap();
    assert_eq!((caller.name.as_str(), caller.scopes.join(",").as_str()), ("jwt main ada", "a,b"));
    let anonymous = signer.token(&json!({ "alg": "ES256" }), &claims());
    assert!(verify(&anonymous, &keys).is_ok(), "without a key's id all are tried");
    let mut listed = claims();
    listed["scope"] = Value::Null;
    listed["scp"] = json!(["x", "y"]);
    assert_eq!(verify(&signer.token(&header, &listed), &keys).unwrap().scopes, ["x", "y"]);
}

#[test]
fn a_token_is_refused_for_what_it_does_not_say() {
    let signer = Signer::new("one");
    let keys = keys(std::slice::from_ref(&signer.public));
    let header = json!({ "alg": "ES256", "kid": "one" });
    for (change, value, why) in [
        ("exp", json!(NOW - 31), "it has expired"),
        ("exp", Value::Null, "a time in it is no number"),
        ("exp", json!("1900000000"), "a time in it is no number"),
        ("nbf", json!(NOW + 31), "it is not valid yet"),
        ("iss", json!("https://evil.example"), "it is of another issuer"),
        ("aud", json!("other"), "it is for another audience"),
        ("aud", Value::Null, "it is for another audience"),
        ("sub", json!("ada\r\nx: y"), "it has no plain subject"),
        ("sub", Value::Null, "it has no plain subject"),
    ] {
        let mut changed = claims();
        changed[change] = value;
        assert_eq!(verify(&signer.token(&header, &changed), &keys), Err(why), "{changed}");
    }
    let mut endless = claims();
    endless.as_object_mut().unwrap().remove("exp");
    assert_eq!(verify(&signer.token(&header, &endless), &keys), Err("it has no end"));
}

#[test]
fn a_token_is_refused_for_how_it_is_signed() {
    let signer = Signer::new("one");
    let keys = keys(std::slice::from_ref(&signer.public));
    let bad = Err("no key of the issuer verifies its signature");
    let fine = signer.token(&json!({ "alg": "ES256", "kid": "one" }), &claims());
    assert!(verify(&fine, &keys).is_ok());
    let (signed, signature) = fine.rsplit_once('.').unwrap();
    for algorithm in ["none", "None", "", "HS256", "RS256", "ES384", "EdDSA"] {
        let token = signer.token(&json!({ "alg": algorithm, "kid": "one" }), &claims());
        assert_eq!(verify(&token, &keys), bad, "{algorithm}");
        let unsigned = format!("{}.{}.", encode(&json!({ "alg": algorithm })), encode(&claims()));
        assert_eq!(verify(&unsigned, &keys), bad, "{algorithm} without a signature");
    }
    let other = Signer::new("one").token(&json!({ "alg": "ES256", "kid": "one" }), &claims());
    assert_eq!(verify(&other, &keys), bad, "of somebody else's key with the same name");
    let unknown = signer.token(&json!({ "alg": "ES256", "kid": "two" }), &claims());
    assert_eq!(verify(&unknown, &keys), bad);
    let mut more = claims();
    more["scope"] = json!("admin");
    let (header, _) = signed.split_once('.').unwrap();
    assert_eq!(
        verify(&format!("{header}.{}.{signature}", encode(&more)), &keys),
        bad,
        "other claims, the same signature"
    );
    let critical = signer.token(&json!({ "alg": "ES256", "crit": ["exp"] }), &claims());
    for text in
        [critical.as_str(), "", "a.b", "a.b.c", &format!("{signed}.!"), &format!("{fine}.x"), &"a".repeat(9_000)]
    {
        assert_eq!(verify(text, &keys), Err("unreadable"), "{text}");
    }
}

#[test]
fn keys_are_used_for_what_they_are_for() {
    let signer = Signer::new("one");
    let token = signer.token(&json!({ "alg": "ES256", "kid": "one" }), &claims());
    for (change, value) in [("use", json!("enc")), ("kty", json!("oct")), ("crv", json!("P-521")), ("x", json!("AAAA"))]
    {
        let mut public = signer.public.clone();
        public[change] = value;
        assert!(jwks::parse(json!({ "keys": [public] }).to_string().as_bytes()).is_err(), "{change}");
    }
    let mut public = signer.public.clone();
    public["alg"] = json!("ES384");
    assert!(verify(&token, &keys(&[public])).is_err(), "a key for another algorithm");
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
    let public = json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(pair.public_key()) });
    let signed = format!("{}.{}", encode(&json!({ "alg": "EdDSA" })), encode(&claims()));
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes())));
    assert!(verify(&token, &keys(&[public])).is_ok());
}

/// Signed by another library, so that the reading of RSA keys is held against somebody else's writing.
#[test]
fn a_token_of_an_rsa_key_is_believed() {
    let keys = keys(&[json!({ "kty": "RSA", "e": "AQAB", "n": include_str!("testdata/rsa.n").trim() })]);
    for token in [include_str!("testdata/rs256.jwt"), include_str!("testdata/ps256.jwt")] {
        assert_eq!(verify(token.trim(), &keys).map(|c| c.name), Ok("jwt main ada".to_owned()));
        let swapped = token.trim().replace("eyJhbGciOiJSUzI1NiJ9", "eyJhbGciOiJQUzI1NiJ9");
        assert_eq!(verify(&swapped, &keys).is_ok(), swapped == token.trim(), "the algorithm is signed, too");
    }
}
