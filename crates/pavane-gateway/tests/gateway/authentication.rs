//! Who may ask, in each of the ways, and over TLS.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::{Got, Raw, Served, Service, build, got, serve};

/// `sha256("shop-key")` and `sha256("admin-key")`, and a password `secret` of `ada`.
fn auth() -> String {
    let hash = |key: &str| {
        ring::digest::digest(&ring::digest::SHA256, key.as_bytes())
            .as_ref()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
    };
    let mut derived = [0; 32];
    let iterations = std::num::NonZeroU32::new(100_000).unwrap();
    ring::pbkdf2::derive(ring::pbkdf2::PBKDF2_HMAC_SHA256, iterations, b"saltsalt", b"secret", &mut derived);
    format!(
        "    keys:\n      - {{ name: shop, sha256: '{}', scopes: [orders] }}\n      - {{ name: admin, sha256: '{}', scopes: [orders, admin] }}\n    basic:\n      - {{ name: ada, pbkdf2: 'pbkdf2-sha256$100000${}${}', scopes: [orders] }}\n",
        hash("shop-key"),
        hash("admin-key"),
        STANDARD.encode("saltsalt"),
        STANDARD.encode(derived)
    )
}

#[tokio::test]
async fn a_key_or_a_password_opens_a_route() {
    let service = Service::start("a").await;
    let served = serve(&format!(
        "gateway:\n  auth:\n{}services: {{ a: ['{}'] }}\nroutes:\n  - {{ match: {{ path: /orders }}, service: a, auth: [key, basic], scopes: [orders] }}\n  - {{ match: {{ path: /admin }}, service: a, auth: [key], scopes: [admin] }}\n  - {{ match: {{ path: /limited }}, service: a, auth: [key], rate: 10/h per key burst 1 }}\n  - {{ match: {{ path: /start }}, workflow: t/echo, auth: [key] }}\n",
        auth(),
        service.url
    ))
    .await;
    let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
    let ask = async |path: &str, name: &'static str, value: String| {
        served.ask("GET", path, &[(name, value.as_str())], "").await
    };
    let seen = ask("/orders", "x-api-key", "shop-key".into()).await.json();
    assert_eq!(
        (&seen["headers"]["pavane-caller"], &seen["headers"]["pavane-scopes"]),
        (&json!("key shop"), &json!("orders"))
    );
    assert_eq!(seen["headers"]["x-api-key"], Value::Null, "the key goes no further");
    let seen = ask("/orders", "authorization", basic("ada:secret")).await.json();
    assert_eq!(
        (&seen["headers"]["pavane-caller"], &seen["headers"]["authorization"]),
        (&json!("basic ada"), &Value::Null)
    );
    for (name, value) in [
        ("x-api-key", "Shop-key".to_owned()),
        ("x-api-key", String::new()),
        ("authorization", basic("ada:Secret")),
        ("authorization", basic("bob:secret")),
        ("authorization", basic("ada")),
        ("authorization", "Basic !!!".into()),
        ("authorization", "Bearer x".into()),
        ("pavane-caller", "key admin".into()),
    ] {
        let got = ask("/orders", name, value.clone()).await;
        assert_eq!((got.status, got.code().as_str()), (401, "unauthenticated"), "{name}: {value}");
        let challenges: Vec<_> = got.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(challenges.len(), 2, "{got:?}");
    }
    let two = served.ask("GET", "/orders", &[("x-api-key", "wrong"), ("x-api-key", "shop-key")], "").await;
    assert_eq!(two.status, 401, "one guess at a time");
    assert_eq!(ask("/admin", "x-api-key", "admin-key".into()).await.status, 200);
    let got = ask("/admin", "x-api-key", "shop-key".into()).await;
    assert_eq!((got.status, got.code().as_str()), (403, "insufficient_scope"));
    for (key, status) in [("shop-key", 200), ("shop-key", 429), ("admin-key", 200), ("admin-key", 429)] {
        assert_eq!(ask("/limited", "x-api-key", key.into()).await.status, status, "each key has its own rate");
    }
    for key in ["shop-key", "admin-key"] {
        served.ask("POST", "/start", &[("x-api-key", key), ("idempotency-key", "k")], "{}").await;
    }
    let keys: Vec<_> = served.workflows.starts.lock().unwrap().iter().map(|s| s.key.clone()).collect();
    assert_ne!(keys[0], keys[1], "two callers cannot meet in an idempotency key");
}

#[tokio::test]
async fn a_route_that_nobody_could_pass_is_a_fault() {
    let text = "gateway:\n  auth:\n    keys: [ { name: a, sha256: short } ]\n    jwt: { main: { issuer: i, audience: [], jwks: keys.json } }\n    certificates: [ { name: c } ]\nroutes:\n  - { match: { path: /x }, workflow: t/x, auth: [basic] }\n  - { match: { path: /y }, workflow: t/y, scopes: [a] }\n";
    let faults: Vec<String> = build(text).map(|_| ()).unwrap_err().iter().map(ToString::to_string).collect();
    for part in [
        "3:13: gateway.auth.keys: a: `sha256` has 64",
        "`audience` is missing",
        "exactly one of `dns` and `fingerprint`",
        "8:5: routes: 2. `/y`: `scopes` needs `auth`",
    ] {
        assert!(faults.iter().any(|f| f.contains(part)), "{part}: {faults:#?}");
    }
    let faults = build("routes:\n  - { match: { path: /x }, workflow: t/x, auth: [basic] }\n").map(|_| ()).unwrap_err();
    assert_eq!(faults[0].to_string(), "2:5: routes: 1 /x: auth: Basic: nobody can be known so: see `gateway.auth`");
}

fn token(pair: &Ed25519KeyPair, key: &str, subject: &str) -> String {
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({ "iss": "https://login.example", "aud": "shop", "sub": subject, "exp": 4_000_000_000_u64, "scope": "orders" });
    let signed = format!("{}.{}", encode(json!({ "alg": "EdDSA", "kid": key })), encode(claims));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes())))
}

fn pair() -> Ed25519KeyPair {
    Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref()).unwrap()
}

fn public(pair: &Ed25519KeyPair, key: &str) -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "kid": key, "x": URL_SAFE_NO_PAD.encode(pair.public_key()) })
}

#[tokio::test]
async fn a_signed_token_opens_a_route_and_keys_turn() {
    let service = Service::start("a").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    let (old, new) = (pair(), pair());
    std::fs::write(&file, json!({ "keys": [public(&old, "old")] }).to_string()).unwrap();
    let configuration = |jwks: &str| {
        format!(
            "gateway:\n  auth:\n    jwt: {{ main: {{ issuer: 'https://login.example', audience: shop, jwks: '{jwks}', refresh: 300ms }} }}\nservices: {{ a: ['{}'] }}\nroutes: [ {{ match: {{ path: '/*' }}, service: a, auth: [jwt], scopes: [orders] }} ]\n",
            service.url
        )
    };
    let served = serve(&configuration(&file.display().to_string())).await;
    let ask = async |served: &Served, token: &str| {
        served.ask("GET", "/", &[("authorization", &format!("Bearer {token}"))], "").await
    };
    let got = ask(&served, &token(&old, "old", "ada")).await;
    assert_eq!((got.status, &got.json()["headers"]["pavane-caller"]), (200, &json!("jwt main ada")), "{got:?}");
    assert!(got.json()["headers"]["authorization"].as_str().unwrap().starts_with("Bearer "), "services may need it");
    let got = ask(&served, &token(&new, "old", "ada")).await;
    assert_eq!((got.status, got.header("www-authenticate")), (401, "Bearer error=\"invalid_token\""));
    assert_eq!(served.get("/").await.header("www-authenticate"), "Bearer");

    // Over HTTP: an issuer that is away is no reason to refuse a token, or to take it.
    let away = serve(&configuration("http://127.0.0.1:1/keys")).await;
    let got = ask(&away, &token(&old, "old", "ada")).await;
    assert_eq!((got.status, got.code().as_str()), (503, "authentication_unavailable"));
    let set = json!({ "keys": [public(&new, "new")] }).to_string();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{set}", set.len());
    let issuer = Raw::start(Box::leak(answer.into_boxed_str()).as_bytes()).await;
    let served = serve(&configuration(&issuer.url)).await;
    assert_eq!(ask(&served, &token(&new, "new", "ada")).await.status, 200);
    for _ in 0..20 {
        assert_eq!(ask(&served, &token(&old, "unknown", "ada")).await.status, 401);
    }
    assert_eq!(issuer.got().matches("GET / HTTP/1.1").count(), 1, "unknown keys do not make the gateway ask each time");
}

/// Files of a server's certificates, and of an authority for clients.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn write(&self, folder: &Path, file: &str, name: &str) {
        let (certificate, key) = self.issue(name);
        std::fs::write(folder.join(format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }
}

async fn secure(
    served: &Served,
    authority: &Authority,
    name: &str,
    client: Option<(rcgen::Certificate, KeyPair)>,
    http2: bool,
) -> Result<(String, Got), String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(authority.issuer.der().to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
        }
    };
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let stream = TcpStream::connect(served.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream =
        connector.connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await.map_err(|e| e.to_string())?;
    let given = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let shown = String::from_utf8_lossy(&given).into_owned();
    let request = Request::get(format!("https://{name}/")).header("host", name).body(Full::new(Bytes::new())).unwrap();
    let response = if http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    Ok((shown, got(response.map_err(|e| e.to_string())?).await))
}

#[tokio::test]
async fn tls_has_a_certificate_for_each_name_and_knows_clients_by_theirs() {
    let service = Service::start("a").await;
    let folder = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.write(folder.path(), "one", "one.example");
    authority.write(folder.path(), "two", "*.two.example");
    std::fs::write(folder.path().join("clients.pem"), authority.issuer.pem()).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let served = serve(&format!(
        "gateway:\n  tls:\n    certificates:\n      - {{ certificate: '{}', key: '{}' }}\n      - {{ certificate: '{}', key: '{}' }}\n    client_ca: '{}'\n  auth:\n    certificates: [ {{ name: partner, dns: partner.example, scopes: [orders] }} ]\nservices: {{ a: ['{}'] }}\nroutes:\n  - {{ match: {{ path: '/*', host: one.example }}, service: a }}\n  - {{ match: {{ path: '/*', host: api.two.example }}, service: a, auth: [certificate], scopes: [orders] }}\n",
        path("one.pem"), path("one.key"), path("two.pem"), path("two.key"), path("clients.pem"), service.url
    ))
    .await;
    for http2 in [false, true] {
        let (shown, answer) = secure(&served, &authority, "one.example", None, http2).await.unwrap();
        assert!(shown.contains("one.example") && answer.status == 200, "{answer:?}");
        assert_eq!(answer.json()["headers"]["x-forwarded-proto"], "https");
        let (shown, answer) = secure(&served, &authority, "api.two.example", None, http2).await.unwrap();
        assert!(shown.contains("*.two.example"), "{shown}");
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"));
        let client = authority.issue("partner.example");
        let (_, answer) = secure(&served, &authority, "api.two.example", Some(client), http2).await.unwrap();
        assert_eq!(
            (answer.status, &answer.json()["headers"]["pavane-caller"]),
            (200, &json!("certificate partner")),
            "{answer:?}"
        );
        let other = authority.issue("other.example");
        assert_eq!(secure(&served, &authority, "api.two.example", Some(other), http2).await.unwrap().1.status, 401);
        let forged = stranger.issue("partner.example");
        assert!(
            secure(&served, &authority, "api.two.example", Some(forged), http2).await.is_err(),
            "nobody vouches for it"
        );
    }
    assert!(
        secure(&served, &authority, "three.example", None, false).await.is_err(),
        "the client refuses the first certificate"
    );
    assert_eq!(
        served.raw(b"GET / HTTP/1.1\r\nhost: one.example\r\n\r\n").await.matches("HTTP/1.1").count(),
        0,
        "no plain text"
    );
}

#[tokio::test]
async fn certificates_that_cannot_be_read_are_a_fault() {
    let faults = build("gateway:\n  tls: { certificates: [ { certificate: nowhere.pem, key: nowhere.key } ] }\n")
        .map(|_| ())
        .unwrap_err();
    assert!(faults[0].to_string().starts_with("2:8: gateway.tls: nowhere.pem: "), "{faults:?}");
    let faults = build("gateway:\n  tls: { certificates: [] }\n").map(|_| ()).unwrap_err();
    assert!(faults[0].message.contains("`certificates` is empty"), "{faults:?}");
}
