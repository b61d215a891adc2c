//! Addresses that are not called: by whatever way a workflow comes to them, nothing is sent.

use pavane_core::engine::{Certainty, HttpRequest, OpenApiRequest, Request};
use pavane_core::units::Block;
use pavane_runtime::effects::{Effects, EgressSettings, Network, NetworkOptions};
use pavane_runtime::services::ServiceSettings;

use crate::server::*;

fn guarded(services: &[(&str, ServiceSettings)], allow: &[&str]) -> Network {
    let allow = allow.iter().map(|block| Block::parse(block).unwrap()).collect();
    let egress = EgressSettings { deny_private: true, allow };
    network_with(services, NetworkOptions { egress, ..NetworkOptions::default() })
}

fn of_document(document: String, operation: &str) -> OpenApiRequest {
    OpenApiRequest {
        document,
        document_authentication: None,
        operation: operation.into(),
        parameters: value("{}"),
        output: Default::default(),
        redirect: false,
        authentication: None,
    }
}

#[tokio::test]
async fn an_inner_address_is_not_called_however_it_is_written() {
    let server = Server::start(|_| json("1")).await;
    let network = guarded(&[], &[]);
    let port = server.address.port();
    for host in [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "localhost",
        "LocalHost",
        "localhost.",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[0:0:0:0:0:ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "169.254.169.254",
        "user@127.0.0.1",
    ] {
        for scheme in ["http", "https"] {
            let (status, _, detail, certainty) =
                failure(send(&network, post(format!("{scheme}://{host}:{port}/x"), "{}")).await);
            assert_eq!((status, certainty), (500, Certainty::NotSent), "{host}: {detail}");
            // A name that the machine does not look up at all is not called either.
            let named =
                ["egress.deny_private", "dns error", "invalid dns name"].iter().any(|part| detail.contains(part));
            assert!(named, "{host}: {detail}");
            if ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"].contains(&host) {
                assert!(detail.contains("is a loopback address") && detail.contains("egress.allow"), "{detail}");
            }
        }
    }
    assert!(server.received().is_empty());
}

#[tokio::test]
async fn what_the_operator_has_named_is_called() {
    let server = Server::start(|_| json("1")).await;
    let port = server.address.port();
    let network = guarded(&[("payment", service(format!("http://localhost:{port}")))], &[]);
    assert_eq!(output(send(&network, post("http://payment/x", "{}")).await), "1");
    // By its own address it is the same service.
    assert_eq!(output(send(&network, get(format!("http://localhost:{port}/x"))).await), "1");
    // The same machine by another name is not what was named.
    assert!(failure(send(&network, get(format!("http://127.0.0.1:{port}/x"))).await).2.contains("deny_private"));
    network.replace(&Default::default());
    assert!(failure(send(&network, get(format!("http://LOCALHOST:{port}/x"))).await).2.contains("deny_private"));
    let allowing = guarded(&[], &["127.0.0.0/8"]);
    assert_eq!(output(send(&allowing, get(server.url("/x"))).await), "1");
    let resolve = vec![("shop.example".to_owned(), None, server.address)];
    let egress = EgressSettings { deny_private: true, ..EgressSettings::default() };
    let told = network_with(&[], NetworkOptions { resolve, egress, ..NetworkOptions::default() });
    assert_eq!(output(send(&told, get("http://shop.example/x")).await), "1");
    assert_eq!(server.received().len(), 4);
}

#[tokio::test]
async fn a_service_cannot_lead_a_call_astray() {
    let inner = Server::start(|_| json("1")).await;
    let (target, document) = (
        inner.url("/"),
        format!(
            "{{\"openapi\":\"3.1.0\",\"servers\":[{{\"url\":\"{}\"}}],\"paths\":{{\"/x\":{{\"get\":{{\"operationId\":\"x\"}}}}}}}}",
            inner.url("")
        ),
    );
    let server = Server::start(move |request| match request.target.as_str() {
        "/see" => Reply::Bytes(answer("303 See Other", &[("location", &target)], "")),
        "/again" => Reply::Bytes(answer("307 Temporary Redirect", &[("location", &target)], "")),
        _ => json(&document),
    })
    .await;
    let network = guarded(&[("shop", service(server.url("")))], &[]);
    for (path, method, certainty) in [
        ("again", "POST", Certainty::NotSent),
        ("see", "GET", Certainty::NotSent),
        // What the service did before it sent the caller on, nobody knows.
        ("see", "POST", Certainty::Indeterminate),
    ] {
        let request =
            HttpRequest { method: method.into(), redirect: true, ..post(format!("http://shop/{path}"), "{}") };
        let (_, _, detail, got) = failure(send(&network, request).await);
        assert!(detail.contains("egress.deny_private"), "{detail}");
        assert_eq!(got, certainty, "{method} {path}");
    }
    // A document may name any server.
    let operation = Request::OpenApi(of_document("http://shop/openapi.json".into(), "x"));
    assert!(failure(perform(&network, call(operation)).await).2.contains("egress.deny_private"));
    assert!(inner.received().is_empty());
}

#[tokio::test]
async fn documents_are_not_fetched_from_inner_addresses() {
    let inner = Server::start(|_| json("{}")).await;
    let network = guarded(&[], &[]);
    let operation = Request::OpenApi(of_document(inner.url("/openapi.json"), "x"));
    let (_, _, detail, certainty) = failure(perform(&network, call(operation)).await);
    assert!(detail.contains("egress.deny_private") && certainty == Certainty::NotSent, "{detail}");
    let schema = network.fetch(inner.url("/schema.json")).await;
    assert!(schema.unwrap_err().contains("egress.deny_private"));
    assert!(inner.received().is_empty());
}
