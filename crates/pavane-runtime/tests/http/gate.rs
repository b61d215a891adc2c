//! The gate before a service: calls wait there within their deadline, are told what they waited for, and what is given
//! up there was not sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pavane_core::engine::{Certainty, Held, OpenApiRequest};
use pavane_core::policy::{BreakerState, Reason, Standing};
use pavane_runtime::effects::{Context, Effects, Network, Performed};
use pavane_runtime::services::{Limits, Services};
use tokio::task::JoinSet;

use super::*;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The settings of a service as they are written.
fn settings(url: String, yaml: &str) -> ServiceSettings {
    let read: ServiceSettings = serde_json::from_str(yaml).unwrap();
    ServiceSettings { url: Some(url), ..read }
}

fn standing(network: &Network) -> Standing {
    network.traffic_of("shop").unwrap().standing
}

/// A service that can be made to fail.
async fn moody() -> (Server, Arc<AtomicBool>) {
    let ill = Arc::new(AtomicBool::new(true));
    let told = ill.clone();
    let server = Server::start(move |_| match told.load(Ordering::SeqCst) {
        true => Reply::Bytes(answer("503 Service Unavailable", &[], "")),
        false => json("1"),
    });
    (server.await, ill)
}

async fn until(what: &str, so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "it never came to this: {what}");
}

async fn shop(network: &Network, instance: &str) -> Performed {
    performed(network, instance, call(Request::Http(post("http://shop/x", "{}")))).await
}

#[tokio::test]
async fn a_breaker_opens_is_waited_for_tries_and_closes() {
    let (server, ill) = moody().await;
    let breaker = r#"{"breaker": {"min_calls": 4, "open_for": "300ms", "half_open_calls": 1}}"#;
    let network = network(&[("shop", settings(server.url(""), breaker))]);
    for n in 0..4 {
        let (status, _, _, certainty) = failure(shop(&network, &n.to_string()).await.outcome);
        assert_eq!((status, certainty), (503, Certainty::Definite));
    }
    assert_eq!(standing(&network).breaker, Some(BreakerState::Open));
    let mut waiting = JoinSet::new();
    for n in 0..3 {
        let network = network.clone();
        waiting.spawn(async move { shop(&network, &n.to_string()).await });
    }
    until("all wait", || standing(&network).waiting == 3).await;
    assert_eq!((standing(&network).reason, network.waiting_of("shop", "1")), (Some(Reason::Breaker), 1));
    assert_eq!(server.received().len(), 4, "nothing is sent meanwhile");
    // The first trial fails and costs one call; the breaker opens again. Then the service is well.
    let trial = waiting.join_next().await.unwrap().unwrap();
    assert_eq!(failure(trial.outcome).0, 503);
    assert_eq!((standing(&network).breaker, standing(&network).counts.opened), (Some(BreakerState::Open), 2));
    ill.store(false, Ordering::SeqCst);
    while let Some(done) = waiting.join_next().await {
        let Performed { outcome, held } = done.unwrap();
        assert_eq!(output(outcome), "1");
        let held = held.unwrap();
        assert!(held.breaker >= 500, "it waited for the breaker twice: {held:?}");
        assert_eq!(held, Held { service: "shop".into(), breaker: held.breaker, ..Held::default() });
    }
    let end = standing(&network);
    assert_eq!((end.breaker, end.waiting, end.in_flight), (Some(BreakerState::Closed), 0, 0));
    assert_eq!((end.counts.passed, end.counts.waited, server.received().len()), (7, 3, 7));
    assert_eq!(shop(&network, "9").await.held, None, "there is nothing to tell");
}

#[tokio::test]
async fn a_refusal_is_an_answer_and_no_failure() {
    let server = Server::start(|_| Reply::Bytes(answer("409 Conflict", &[], ""))).await;
    let network = network(&[("shop", settings(server.url(""), r#"{"breaker": {"min_calls": 1}}"#))]);
    for _ in 0..5 {
        assert_eq!(failure(shop(&network, "1").await.outcome).0, 409);
    }
    assert_eq!(standing(&network).breaker, Some(BreakerState::Closed));
}

#[tokio::test]
async fn a_service_that_is_away_or_slow_opens_the_breaker_too() {
    let (_kept, closed) = refusing();
    let away = network(&[("shop", settings(format!("http://{closed}"), r#"{"breaker": {"min_calls": 1}}"#))]);
    assert_eq!(failure(shop(&away, "1").await.outcome).3, Certainty::NotSent);
    assert_eq!(standing(&away).breaker, Some(BreakerState::Open));

    let server = Server::start(|_| Reply::Gated(answer("200 OK", &[], "1"))).await;
    let slow = network(&[("shop", settings(server.url(""), r#"{"breaker": {"min_calls": 1, "slow": "100ms"}}"#))]);
    let made = tokio::spawn({
        let slow = slow.clone();
        async move { output(shop(&slow, "1").await.outcome) }
    });
    server.came.notified().await;
    tokio::time::sleep(Duration::from_millis(110)).await;
    server.gate.notify_one();
    assert_eq!(made.await.unwrap(), "1");
    assert_eq!(standing(&slow).breaker, Some(BreakerState::Open));
}

#[tokio::test]
async fn a_deadline_that_passes_at_the_gate_is_known_to_have_sent_nothing() {
    let (server, _) = moody().await;
    let open = r#"{"breaker": {"min_calls": 1, "open_for": "1h"}, "limits": {"wait": "200ms"}}"#;
    let network = network(&[("shop", settings(server.url(""), open))]);
    failure(shop(&network, "1").await.outcome);
    let (mut due, began) = (call(Request::Http(post("http://shop/x", "{}"))), Instant::now());
    due.deadline = Some(after(Duration::from_millis(400)));
    let Performed { outcome, held } = performed(&network, "2", due).await;
    let (status, _, detail, certainty) = failure(outcome);
    assert_eq!((status, certainty), (408, Certainty::NotSent), "{detail}");
    assert!(detail.contains("(service shop) was not sent: its deadline came before its turn (breaker"), "{detail}");
    assert!(held.unwrap().breaker >= 300 && began.elapsed() >= Duration::from_millis(300), "it did wait");
    let (status, _, detail, certainty) = failure(shop(&network, "3").await.outcome);
    assert_eq!((status, certainty), (408, Certainty::NotSent));
    assert!(detail.contains("`limits.wait` of the service"), "{detail}");
    assert_eq!((server.received().len(), standing(&network).counts.late), (1, 2));
}

#[tokio::test]
async fn waiting_is_not_taking_long() {
    // Each call takes its time at the service; the last of them waits longer than any may take.
    let server = Server::start(|_| Reply::Gated(answer("200 OK", &[], "1"))).await;
    let one_by_one = r#"{"limits": {"in_flight": 1}, "timeout": "400ms"}"#;
    let network = network(&[("shop", settings(server.url(""), one_by_one))]);
    let mut calls = JoinSet::new();
    for n in 0..4 {
        let network = network.clone();
        calls.spawn(async move { shop(&network, &n.to_string()).await });
    }
    let mut longest = 0;
    for _ in 0..4 {
        server.came.notified().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.gate.notify_one();
        let Performed { outcome, held } = calls.join_next().await.unwrap().unwrap();
        assert_eq!(output(outcome), "1");
        longest = longest.max(held.unwrap_or_default().in_flight);
    }
    assert!(longest >= 500, "{longest} ms");
}

#[tokio::test]
async fn calls_come_at_the_rate() {
    let server = Server::start(|_| json("1")).await;
    let network = network(&[("shop", settings(server.url(""), r#"{"limits": {"rate": "50/s"}}"#))]);
    let (mut calls, began) = (JoinSet::new(), Instant::now());
    for n in 0..20 {
        let network = network.clone();
        calls.spawn(async move { output(shop(&network, &n.to_string()).await.outcome) });
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.unwrap(), "1");
    }
    assert!(began.elapsed() >= Duration::from_millis(340), "20 calls at 50/s, two of them at once");
}

#[tokio::test]
async fn retries_beyond_the_budget_wait_and_first_attempts_do_not() {
    let server = Server::start(|_| json("1")).await;
    let budget = r#"{"retries": {"ratio": 0.0, "at_least": "30/m"}, "limits": {"wait": "200ms"}}"#;
    let network = network(&[("shop", settings(server.url(""), budget))]);
    for n in 0..5 {
        output(shop(&network, &n.to_string()).await.outcome);
    }
    let (_, _, detail, certainty) = failure(shop(&network, "6").await.outcome);
    assert!(certainty == Certainty::NotSent && detail.contains("(retries"), "{detail}");
    let first = pavane_core::engine::Call { attempt: 1, ..call(Request::Http(post("http://shop/x", "{}"))) };
    assert_eq!(output(performed(&network, "7", first).await.outcome), "1");
    assert_eq!(standing(&network).counts.retries, 5);
}

#[tokio::test]
async fn a_limit_of_its_own_may_be_above_that_of_connections_and_below_it_is_shared_by_all_urls() {
    let server = Server::start(|_| Reply::Gated(answer("200 OK", &[], "1"))).await;
    let options = NetworkOptions { max_per_authority: 2, ..NetworkOptions::default() };
    for (limits, most) in [(Limits { in_flight: Some(5), ..Limits::default() }, 5), (Limits::default(), 2)] {
        let service = ServiceSettings { limits, ..service(server.url("")) };
        let network = network_with(&[("shop", service)], options.clone());
        let before = server.received().len();
        let mut calls = JoinSet::new();
        for n in 0..8 {
            let network = network.clone();
            calls.spawn(async move { output(shop(&network, &n.to_string()).await.outcome) });
        }
        until("as many have come as may", || server.received().len() == before + most).await;
        assert_eq!((standing(&network).limit, standing(&network).waiting), (most as u32, 8 - most));
        while !calls.is_empty() {
            server.gate.notify_one();
            assert_eq!(calls.join_next().await.unwrap().unwrap(), "1");
            assert!(standing(&network).in_flight as usize <= most);
        }
        assert_eq!(server.at_once.1.swap(0, Ordering::SeqCst), most);
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_gives_its_place_back_wherever_it_is() {
    let server = Server::start(|_| Reply::Gated(answer("200 OK", &[], "1"))).await;
    let network = network(&[("shop", settings(server.url(""), r#"{"limits": {"in_flight": 1}}"#))]);
    let start = |n: &'static str| {
        let network = network.clone();
        tokio::spawn(async move { output(shop(&network, n).await.outcome) })
    };
    let sent = start("1");
    server.came.notified().await;
    let waits = start("2");
    until("one waits", || standing(&network).waiting == 1).await;
    let last = start("3");
    until("two wait", || standing(&network).waiting == 2).await;
    waits.abort();
    until("it has left the queue", || standing(&network).waiting == 1).await;
    sent.abort();
    server.came.notified().await;
    server.gate.notify_one();
    server.gate.notify_one();
    assert_eq!(last.await.unwrap(), "1");
    assert_eq!((standing(&network).in_flight, standing(&network).waiting), (0, 0));
}

#[tokio::test]
async fn what_is_withdrawn_or_left_to_the_next_process_is_not_sent() {
    let (server, _) = moody().await;
    let open = r#"{"breaker": {"min_calls": 1, "open_for": "1h"}}"#;
    let network = network(&[("shop", settings(server.url(""), open))]);
    failure(shop(&network, "1").await.outcome);
    let start = |context: Context| {
        let network = network.clone();
        let call = call(Request::Http(post("http://shop/x", "{}")));
        tokio::spawn(async move { network.call(context, call).await })
    };
    let context = Context { instance: "2".into(), ..Context::default() };
    let unwanted = start(context.clone());
    let next = start(Context { instance: "3".into(), ..Context::default() });
    until("both wait", || standing(&network).waiting == 2).await;
    assert!(context.release.withdraw() && !context.release.send());
    let (_, _, detail, certainty) = failure(unwanted.await.unwrap().unwrap().outcome);
    assert!(certainty == Certainty::NotSent && detail.contains("nobody waits"), "{detail}");
    network.drain();
    assert!(next.await.unwrap().is_none() && start(Context::default()).await.unwrap().is_none());
    // Nor does a call fail whose document is behind the gate.
    let operation = OpenApiRequest {
        document: "http://shop/openapi.json".into(),
        document_authentication: None,
        operation: "charge".into(),
        parameters: value("{}"),
        output: CallOutput::Content,
        redirect: false,
        authentication: None,
    };
    assert!(network.call(Context::default(), call(Request::OpenApi(operation))).await.is_none());
    assert_eq!((server.received().len(), standing(&network).waiting), (1, 0));
}

#[tokio::test]
async fn services_are_told_until_when_an_answer_is_waited_for() {
    let server = Server::start(|_| json("1")).await;
    let network = network(&[("shop", settings(server.url(""), r#"{"timeout": "10s"}"#))]);
    for (deadline, least, most) in [(None, 9_000, 10_000), (Some(5_000), 4_000, 5_000)] {
        let mut made = call(Request::Http(post("http://shop/x", "{}")));
        made.deadline = deadline.map(|millis| after(Duration::from_millis(millis)));
        let before = after(Duration::ZERO);
        output(performed(&network, "1", made).await.outcome);
        let told: pavane_core::Timestamp = server.last().header("pavane-deadline").unwrap().parse().unwrap();
        let left = told.since(before);
        assert!((least..=most + 1_000).contains(&left), "{left} ms left of {deadline:?}");
    }
}

#[tokio::test]
async fn a_document_is_fetched_through_the_gate_of_its_service() {
    let server = Server::start(|_| json("{}")).await;
    let network = network(&[("shop", settings(server.url(""), r#"{"limits": {"in_flight": 1}}"#))]);
    assert!(network.fetch("http://shop/openapi.json".into()).await.is_ok());
    assert_eq!(standing(&network).counts.passed, 1);
}

#[test]
fn what_is_wrong_with_a_service_is_named_with_its_place() {
    for (yaml, part) in [
        (r#"{"breaker": {"failure_rate": 0}}"#, "services.a.breaker.failure_rate: 0 is no part of the calls"),
        (r#"{"breaker": {"window": "1ms"}}"#, "services.a.breaker.window: it must be"),
        (r#"{"retries": {"ratio": -1}}"#, "services.a.retries.ratio: -1 is no ratio"),
    ] {
        let service = settings("http://h:1".into(), yaml);
        let problems = Services::new([("a".to_owned(), service)].into()).unwrap_err().join("\n");
        assert!(problems.contains(part), "{yaml}: {problems}");
    }
    for yaml in [r#"{"breaker": {"fail_rate": 1}}"#, r#"{"limits": {"rate": "5"}}"#, r#"{"retries": {"min": 1}}"#] {
        assert!(serde_json::from_str::<ServiceSettings>(yaml).is_err(), "{yaml}");
    }
}
