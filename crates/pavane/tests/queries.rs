//! Parameters that are wrong are answered as problems like everything else, never as plain text or as a failed store.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use http::Method;
use pavane::client::Server;
use pavane::config::Config;
use pavane::server::Running;
use pavane::stores::Storage;

#[tokio::test]
async fn a_wrong_parameter_is_the_callers_error_and_named() {
    let folder = tempfile::tempdir().unwrap();
    for storage in [Storage::Memory, Storage::Configured] {
        let mut config = Config::default();
        config.listen.admin = SocketAddr::from(([127, 0, 0, 1], 0));
        config.store.sqlite.path = folder.path().join("queries.db");
        let running = Running::open(config, storage, Vec::new(), BTreeMap::new()).await.unwrap();
        let server = Server::new(&format!("http://{}", running.serve().await.unwrap().admin));
        let instances = "/api/v1/instances";
        let start = "/api/v1/workflows/a/b/instances";
        for (method, path, part) in [
            (Method::GET, format!("{instances}?limit=many"), "limit"),
            (Method::GET, format!("{instances}?limit=1&limit=2"), "limit"),
            (Method::GET, format!("{instances}?cursor=page-two"), "`page-two` is no cursor"),
            (Method::GET, format!("{instances}?status=tired"), "`tired` is no status"),
            (Method::GET, format!("{instances}?started_after=noon"), "started_after"),
            (Method::GET, format!("{instances}?state=running"), "state"),
            (Method::POST, format!("{start}?version=1.0.0&version=2.0.0"), "version"),
            (Method::POST, format!("{start}?wait=10"), "wait"),
        ] {
            let answer = server.ask(method, &path, &[], Bytes::new()).await.unwrap();
            assert_eq!(answer.status, 400, "{path}: {answer:?}");
            assert_eq!(answer.headers["content-type"], "application/problem+json", "{path}");
            assert_eq!(answer.body["code"], "invalid_query", "{path}: {answer:?}");
            assert!(answer.body["detail"].as_str().unwrap().contains(part), "{path}: {answer:?}");
        }
        for (method, path) in [
            (Method::GET, format!("{instances}/%ff")),
            (Method::GET, "/api/v1/workflows/a/%ff".to_owned()),
            (Method::POST, format!("{instances}/%ff/cancel")),
            (Method::POST, "/api/v1/workflows/%ff/b/instances".to_owned()),
        ] {
            let answer = server.ask(method, &path, &[], Bytes::new()).await.unwrap();
            assert_eq!(
                (answer.status.as_u16(), &answer.body["code"]),
                (404, &"not_found".into()),
                "{path}: {answer:?}"
            );
            assert_eq!(answer.headers["content-type"], "application/problem+json", "{path}");
        }
        running.stop().await;
    }
}
