//! Stand-ins for the hosts that the features call, over TLS with a certificate authority of the test's own.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// Hosts that are stood in for.
pub const HOSTS: [&str; 2] = ["petstore.swagger.io", "httpbin.org"];

/// Where the stand-ins listen, and whose certificate they have.
pub struct Hosts {
    /// Port on 127.0.0.1.
    pub port: u16,
    /// The certificate authority, in PEM.
    pub ca: PathBuf,
    _folder: tempfile::TempDir,
}

/// The stand-ins, started once.
pub async fn running() -> &'static Hosts {
    static RUNNING: OnceCell<Hosts> = OnceCell::const_new();
    RUNNING.get_or_init(start).await
}

async fn start() -> Hosts {
    let certified = rcgen::generate_simple_self_signed(HOSTS.map(str::to_owned)).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, certified.cert.pem()).expect("the certificate is written");
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocols")
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .expect("a server");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    // Of the first family's runtime: it lives as long as the process.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let service = hyper_util::service::TowerToHyperService::new(router());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, service) = (acceptor.clone(), service.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let io = hyper_util::rt::TokioIo::new(stream);
                // A client that hangs up is no failure of the stand-in.
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            });
        }
    });
    Hosts { port, ca, _folder: folder }
}

fn router() -> Router {
    Router::new()
        .route("/v2/swagger.json", get(|| async { axum::Json(swagger()) }))
        .route("/v2/pet/findByStatus", get(find_by_status))
        .route("/v2/pet/{id}", get(pet))
        .route("/v2/pet/getPetByName/{name}", get(no_such_pet))
        .route("/basic-auth/{user}/{password}", get(basic_auth))
}

async fn find_by_status(Query(query): Query<Vec<(String, String)>>) -> Response {
    let wanted: Vec<&str> =
        query.iter().filter(|(name, _)| name == "status").map(|(_, value)| value.as_str()).collect();
    let pets: Vec<Value> = if wanted.contains(&"available") { vec![a_pet(1), a_pet(2)] } else { Vec::new() };
    axum::Json(pets).into_response()
}

async fn pet(Path(id): Path<u64>) -> Response {
    if (1..=2).contains(&id) { axum::Json(a_pet(id)).into_response() } else { missing() }
}

async fn no_such_pet(Path(_): Path<String>) -> Response {
    missing()
}

fn missing() -> Response {
    (StatusCode::NOT_FOUND, axum::Json(json!({ "code": 1, "type": "error", "message": "Pet not found" })))
        .into_response()
}

fn a_pet(id: u64) -> Value {
    json!({ "id": id, "name": format!("Pet {id}"), "status": "available" })
}

async fn basic_auth(Path((user, password)): Path<(String, String)>, headers: HeaderMap) -> Response {
    use base64::Engine as _;
    let expected = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Basic "));
    if given == Some(expected.as_str()) {
        return axum::Json(json!({ "authenticated": true, "user": user })).into_response();
    }
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"test\"")]).into_response()
}

fn swagger() -> Value {
    json!({
        "swagger": "2.0",
        "host": "petstore.swagger.io",
        "basePath": "/v2",
        "schemes": ["https", "http"],
        "paths": {
            "/pet/findByStatus": { "get": { "operationId": "findPetsByStatus", "parameters": [
                { "name": "status", "in": "query", "required": true, "type": "array", "items": { "type": "string" }, "collectionFormat": "multi" }
            ] } },
            "/pet/{petId}": { "get": { "operationId": "getPetById", "parameters": [
                { "name": "petId", "in": "path", "required": true, "type": "integer" }
            ] } }
        }
    })
}
