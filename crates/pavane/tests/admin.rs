//! The HTTP API behind its door: who may pass, who may not, and how the command line shows who it is.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "what fails in a test fails the test")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use http::header::WWW_AUTHENTICATE;
use support::{Process, Served, errors, pavane};

const PASSWORD: &str = "correct horse battery staple";

/// A configuration with a listener and credentials.
fn config(folder: &Path, listen: &str, admin: &str) -> PathBuf {
    let file = folder.join("pavane.yaml");
    let text = format!("listen: {{ admin: '{listen}' }}\nstore: {{ sqlite: {{ path: ./pavane.db }} }}\n{admin}");
    std::fs::write(&file, text).unwrap();
    file
}

/// A new key, and the configuration that knows it and a password.
async fn credentials(more: &str) -> (String, String) {
    let made = pavane(&["secret", "key", "ops"]).await;
    let key = String::from_utf8(made.stdout.clone()).unwrap().trim().to_owned();
    let told = errors(&made);
    let keys = told.lines().last().unwrap().trim().trim_start_matches("- ").to_owned();
    let hash = pavane_gateway::hash_password(PASSWORD).unwrap();
    (key, format!("admin: {{ keys: [{keys}], basic: [{{ name: ada, pbkdf2: '{hash}' }}]{more} }}\n"))
}

/// Runs `pavane` with a token in its environment.
async fn pavane_as(token: Option<&str>, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pavane"));
    command.args(arguments).stdin(Stdio::null()).env_remove("PAVANE_TOKEN");
    if let Some(token) = token {
        command.env("PAVANE_TOKEN", token);
    }
    tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

#[tokio::test]
async fn with_credentials_every_path_needs_them_but_the_probes() {
    let folder = tempfile::tempdir().unwrap();
    let (key, admin) = credentials("").await;
    let served = Served::start(&config(folder.path(), "127.0.0.1:0", &admin)).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(served.ask("GET", path, &[], "").await.status, 200, "{path}");
    }
    // Services that answer later have a token in the address instead, and this is none.
    for path in ["/api/v1/callbacks/forged", "/api/v1/callbacks/forged/heartbeat"] {
        assert_eq!(served.ask("POST", path, &[], "{}").await.status, 403, "{path}");
    }
    let closed = [
        ("GET", "/api/v1/instances"),
        ("GET", "/api/v1/callbacks"),
        ("POST", "/api/v1/workflows"),
        ("POST", "/api/v1/events"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/nothing"),
        ("GET", "/healthz/../api/v1/instances"),
        ("GET", "//healthz"),
    ];
    for (method, path) in closed {
        let answer = served.ask(method, path, &[], "").await;
        assert_eq!((answer.status.as_u16(), &answer.body["code"]), (401, &"unauthenticated".into()), "{path}");
        let asked: Vec<&str> =
            answer.headers.get_all(WWW_AUTHENTICATE).iter().map(|value| value.to_str().unwrap()).collect();
        assert!(asked.len() == 2 && asked[0].starts_with("Bearer") && asked[1].starts_with("Basic"), "{asked:?}");
    }
    let basic = |name: &str, password: &str| {
        use base64::Engine as _;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}")))
    };
    let instances =
        async |headers: &[(&str, &str)]| served.ask("GET", "/api/v1/instances", headers, "").await.status.as_u16();
    let (bearer, shortened) = (format!("Bearer {key}"), format!("Bearer {}", &key[..key.len() - 1]));
    for (name, value, status) in [
        ("x-api-key", key.as_str(), 200),
        ("authorization", &bearer, 200),
        ("authorization", &basic("ada", PASSWORD), 200),
        ("x-api-key", &key[1..], 401),
        ("authorization", &shortened, 401),
        ("authorization", "Bearer", 401),
        ("authorization", &basic("ada", "wrong"), 401),
        ("authorization", &basic("bob", PASSWORD), 401),
        ("authorization", &basic("ops", &key), 401),
        ("cookie", &key, 401),
    ] {
        assert_eq!(instances(&[(name, value)]).await, status, "{name}: {value}");
    }
    assert_eq!(instances(&[("x-api-key", &key), ("x-api-key", "other")]).await, 401, "a guess at two doors");
}

#[tokio::test]
async fn the_command_line_shows_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (key, admin) = credentials(", open_metrics: true").await;
    let served = Served::start(&config(folder.path(), "127.0.0.1:0", &admin)).await;
    let ps = ["ps", "--server", &served.url];
    let refused = pavane_as(None, &ps).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(errors(&refused).contains("unauthenticated") && errors(&refused).contains("PAVANE_TOKEN"));
    for token in [key.clone(), format!("ada:{PASSWORD}")] {
        let listed = pavane_as(Some(&token), &ps).await;
        assert_eq!(listed.status.code(), Some(0), "{}", errors(&listed));
    }
    let given = pavane_as(None, &["ps", "--server", &served.url, "--token", &key]).await;
    assert_eq!(given.status.code(), Some(0), "{}", errors(&given));
    let wrong = pavane_as(Some("two\nlines"), &ps).await;
    assert_eq!(wrong.status.code(), Some(2), "{}", errors(&wrong));
    assert_eq!(served.ask("GET", "/metrics", &[], "").await.status, 200, "as configured");
}

#[tokio::test]
async fn nobody_listens_to_strangers_without_credentials() {
    let folder = tempfile::tempdir().unwrap();
    for address in ["0.0.0.0:0", "[::]:0"] {
        let file = config(folder.path(), address, "");
        let refused = pavane(&["serve", "--config", file.to_str().unwrap()]).await;
        let told = errors(&refused);
        assert_eq!(refused.status.code(), Some(1), "{told}");
        for part in ["listen.admin: ", address, "admin.keys", "pavane secret key", "127.0.0.1"] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
    let file = config(folder.path(), "127.0.0.1:0", "");
    let refused = pavane(&["serve", "--listen", "0.0.0.0:0", "--config", file.to_str().unwrap()]).await;
    assert!(errors(&refused).contains("nobody need show who they are"), "{}", errors(&refused));
    let (key, admin) = credentials("").await;
    let file = config(folder.path(), "0.0.0.0:0", &admin);
    let mut process = Process::start(&["serve", "--config", file.to_str().unwrap()]);
    let line = process.line("http://").await;
    let port = line.split("0.0.0.0:").nth(1).unwrap().split(' ').next().unwrap();
    let listed = pavane_as(Some(&key), &["ps", "--server", &format!("http://127.0.0.1:{port}")]).await;
    assert_eq!(listed.status.code(), Some(0), "{}", errors(&listed));
}
