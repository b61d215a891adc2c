//! Several URLs of one service: who gets which request, and what happens when one fails.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{PATIENCE, Served, Service, serve};

async fn served(urls: &[&str], upstream: &str) -> Served {
    let urls: Vec<String> = urls.iter().map(|url| format!("'{url}'")).collect();
    serve(&format!(
        "gateway: {{ upstreams: {{ a: {upstream} }} }}\nservices: {{ a: [{}] }}\nroutes: [ {{ match: {{ path: '/*' }}, service: a, timeout: 5s }} ]\n",
        urls.join(", ")
    ))
    .await
}

#[tokio::test]
async fn requests_in_flight_even_out() {
    let services = [Service::start("one").await, Service::start("two").await, Service::start("three").await];
    let urls: Vec<&str> = services.iter().map(|s| s.url.as_str()).collect();
    let served = served(&urls, "{}").await;
    let all = (0..60).map(|_| served.ask("GET", "/", &[("x-delay", "200")], ""));
    futures_util::future::join_all(all).await;
    let hits: Vec<usize> = services.iter().map(Service::hits).collect();
    assert!(hits.iter().all(|hits| (12..=28).contains(hits)), "{hits:?}");
}

#[tokio::test]
async fn the_same_key_goes_to_the_same_url() {
    let services = [Service::start("one").await, Service::start("two").await];
    let urls: Vec<&str> = services.iter().map(|s| s.url.as_str()).collect();
    let served = served(&urls, "{ balance: hash, hash: { header: x-user } }").await;
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..20 {
        let user = format!("user-{user}");
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let got = served.ask("GET", "/", &[("x-user", &user)], "").await;
            names.insert(got.json()["service"].as_str().unwrap().to_owned());
        }
        assert_eq!(names.len(), 1, "{user}: {names:?}");
        seen.extend(names);
    }
    assert_eq!(seen.len(), 2, "both have some");
}

#[tokio::test]
async fn a_url_that_cannot_be_reached_costs_no_request() {
    let service = Service::start("one").await;
    let served = served(&[&service.url, "http://127.0.0.1:1"], "{ eject: { failures: 2, for: 60s } }").await;
    for n in 0..30 {
        // Nothing was sent to the other one, so that a POST is repeated, too.
        let got = served.ask("POST", "/", &[], "body").await;
        assert_eq!((got.status, &got.json()["body"]), (200, &serde_json::json!("body")), "{n}: {got:?}");
    }
    assert_eq!(service.hits(), 30);
    let numbers = &served.gateway.numbers().upstreams[0];
    assert_eq!((numbers.urls, numbers.well), (2, 1), "it is left out");
}

#[tokio::test]
async fn only_what_can_do_nothing_twice_is_repeated() {
    let service = Service::start("one").await;
    let served = served(&[&service.url], "{ eject: { failures: 0 }, retries: { attempts: 2, budget: 1.0 } }").await;
    for (method, answer, attempts) in
        [("GET", "503", 3), ("PUT", "502", 3), ("POST", "503", 1), ("GET", "500", 1), ("GET", "404", 1)]
    {
        let before = service.hits();
        let got = served.ask(method, "/", &[("x-answer", answer)], "body").await;
        assert_eq!(got.status.to_string(), answer);
        assert_eq!(service.hits() - before, attempts, "{method} {answer}");
    }
    let large = "x".repeat(100_000);
    let before = service.hits();
    assert_eq!(served.ask("PUT", "/", &[("x-answer", "503")], &large).await.status, 503);
    assert_eq!(service.hits() - before, 1, "a large body is not kept");
}

/// A client that sends slowly, or goes away, must not have a service left out for others.
#[tokio::test]
async fn the_faults_of_clients_are_not_those_of_a_service() {
    let service = Service::start("one").await;
    let served = serve(&format!(
        "gateway: {{ upstreams: {{ a: {{ eject: {{ failures: 1, for: 60s }}, shed: true }} }} }}\nservices: {{ a: ['{}'] }}\nroutes: [ {{ match: {{ path: '/*' }}, service: a, timeout: 300ms }} ]\n",
        service.url
    ))
    .await;
    let limit = served.gateway.numbers().upstreams[0].limit;
    for body in ["content-length: 100\r\n\r\nsome", "transfer-encoding: chunked\r\n\r\n4\r\nsome\r\n"] {
        let request = format!("POST / HTTP/1.1\r\nhost: h\r\n{body}");
        let late = served.raw(request.as_bytes()).await;
        assert!(late.starts_with("HTTP/1.1 408"), "{late}");
        for _ in 0..20 {
            let mut gone = TcpStream::connect(served.address).await.unwrap();
            gone.write_all(request.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(gone);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let numbers = &served.gateway.numbers().upstreams[0];
    assert_eq!((numbers.well, numbers.limit), (1, limit), "{numbers:?}");
    assert_eq!(served.get("/").await.status, 200);
    let late = served.ask("POST", "/", &[("x-delay", "20000")], "whole").await;
    assert_eq!((late.status, served.gateway.numbers().upstreams[0].well), (504, 0), "its own are");
}

#[tokio::test]
async fn repeats_end_with_their_budget() {
    let service = Service::start("one").await;
    let served = served(&[&service.url], "{ eject: { failures: 0 }, retries: { attempts: 5, budget: 0.1 } }").await;
    for _ in 0..50 {
        assert_eq!(served.ask("GET", "/", &[("x-answer", "503")], "").await.status, 503);
    }
    // Ten that are there from the beginning, and one for each ten requests.
    let repeats = service.hits() - 50;
    assert!((13..=15).contains(&repeats), "{repeats}");
}

#[tokio::test]
async fn a_url_is_asked_whether_it_is_well() {
    let (one, two) = (Service::start("one").await, Service::start("two").await);
    let (address, url) = (two.address(), two.url.clone());
    let health =
        "{ health: { path: /healthz, interval: 50ms, timeout: 1s, fall: 2, rise: 2 }, eject: { failures: 0 } }";
    let served = served(&[&one.url, &url], health).await;
    two.stop().await;
    well(&served, 1).await;
    for _ in 0..10 {
        assert_eq!(served.get("/").await.json()["service"], "one");
    }
    let two = Service::at("two", address).await;
    well(&served, 2).await;
    one.stop().await;
    well(&served, 1).await;
    assert_eq!(served.get("/").await.json()["service"], "two");
    two.stop().await;
    well(&served, 0).await;
    let got = served.get("/").await;
    assert_eq!((got.status, got.code().as_str(), got.header("retry-after")), (503, "no_healthy_url", "1"));
}

async fn well(served: &Served, count: usize) {
    let until = async {
        while served.gateway.numbers().upstreams[0].well != count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, until).await.unwrap_or_else(|_| panic!("never {count} well"));
}
