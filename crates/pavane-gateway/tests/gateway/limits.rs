//! Rates, and load that is shed: who is refused, and what they are told.

use std::time::Duration;

use crate::support::{Service, serve};

#[tokio::test]
async fn a_client_beyond_its_rate_is_told_when_to_come_back() {
    let service = Service::start("a").await;
    let served = serve(&format!(
        "gateway: {{ trusted_proxies: [127.0.0.1] }}\nservices: {{ a: ['{}'] }}\nroutes:\n  - {{ match: {{ path: /x }}, service: a, rate: 60/m per client burst 2 }}\n  - {{ match: {{ path: /y }}, service: a, rate: [1000/s, 10/h] }}\n",
        service.url
    ))
    .await;
    let from = |address: &'static str| [("x-forwarded-for", address)];
    for remaining in ["1", "0"] {
        let got = served.ask("GET", "/x", &from("1.1.1.1"), "").await;
        assert_eq!(
            (got.status, got.header("ratelimit-limit"), got.header("ratelimit-remaining")),
            (200, "2", remaining)
        );
    }
    let refused = served.ask("GET", "/x", &from("1.1.1.1"), "").await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    assert_eq!((refused.header("retry-after"), refused.header("ratelimit-reset")), ("1", "2"), "{refused:?}");
    assert_eq!(served.ask("GET", "/x", &from("2.2.2.2"), "").await.status, 200, "another client has its own");
    // One network of IPv6 is one client.
    for (address, status) in [("2001:db8::1", 200), ("2001:db8::2", 200), ("2001:db8::3", 429), ("2001:db8:1::1", 200)]
    {
        assert_eq!(served.ask("GET", "/x", &[("x-forwarded-for", address)], "").await.status, status, "{address}");
    }
    let mut answers = Vec::new();
    for _ in 0..11 {
        answers.push(served.get("/y").await);
    }
    assert!(
        answers[..10].iter().all(|a| a.status == 200) && answers[10].status == 429,
        "of two, the tighter one counts"
    );
    assert_eq!(answers[0].header("ratelimit-limit"), "10");
    assert_eq!(service.hits(), 2 + 1 + 3 + 10);
}

#[tokio::test]
async fn load_that_a_service_cannot_bear_is_refused_at_once() {
    let service = Service::start("a").await;
    let served = serve(&format!(
        "gateway: {{ upstreams: {{ a: {{ shed: true }} }} }}\nservices: {{ a: ['{}'] }}\nroutes: [ {{ match: {{ path: '/*' }}, service: a }} ]\n",
        service.url
    ))
    .await;
    let delay = [("x-delay", "1500")];
    let asked = futures_util::future::join_all((0..60).map(|_| served.ask("GET", "/", &delay, ""))).await;
    let refused: Vec<_> = asked.iter().filter(|got| got.status == 503).collect();
    assert_eq!((refused.len(), service.hits()), (40, 20), "it begins with twenty at once");
    assert!(refused.iter().all(|got| got.code() == "overloaded" && got.header("retry-after") == "1"));
    // A client that goes away gives its place back.
    let gone =
        tokio::time::timeout(Duration::from_millis(100), served.ask("GET", "/", &[("x-delay", "20000")], "")).await;
    assert!(gone.is_err());
    let free = async {
        while served.gateway.numbers().upstreams[0].in_flight > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, free).await.expect("its place is free");
    assert!(served.gateway.numbers().upstreams[0].limit.is_some_and(|limit| limit >= 4.0));
}
