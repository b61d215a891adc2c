//! Who may attach, and that no message depends on a session.

use super::*;
use crate::Embedded;

const NOW: Timestamp = Timestamp(1_000_000);

fn hub() -> (Hub, Embedded) {
    let bus = Embedded::default();
    (Hub::new(Arc::new(bus.clone()), ["payment".to_owned()].into(), ["stock".to_owned()].into()), bus)
}

fn hello(process: &str) -> Hello {
    Hello {
        protocol: PROTOCOL,
        service: "payment".into(),
        version: "0.1.0".into(),
        process: process.into(),
        store: 1,
        clock: NOW.0,
    }
}

fn outgoing(to: &str, text: &str) -> Outgoing {
    Outgoing { to: to.into(), envelope: text.into(), content: None, redelivered: false }
}

fn texts(errands: &[Errand]) -> Vec<(u64, &str)> {
    errands
        .iter()
        .map(|errand| match &errand.what {
            What::Message { envelope: text, .. } => (errand.number, text.as_str()),
            What::History { .. } => (errand.number, "history"),
            What::Late { .. } => (errand.number, "late"),
            What::Callback(_) => (errand.number, "callback"),
        })
        .collect()
}

#[test]
fn who_does_not_fit_is_told_why_and_what_to_do() {
    let (hub, _) = hub();
    for (hello, parts) in [
        (Hello { protocol: PROTOCOL + 1, ..hello("a") }, ["protocol", "same version"]),
        (Hello { service: "stock".into(), ..hello("a") }, ["own process", "participant: remote"]),
        (Hello { service: "paiment".into(), ..hello("a") }, ["they are payment", "participant: remote"]),
        (Hello { clock: NOW.0 + 5_001, ..hello("a") }, ["5001 ms ahead of", "clocks"]),
        (Hello { clock: NOW.0 - 5_001, ..hello("a") }, ["5001 ms behind", "clocks"]),
        (Hello { clock: i64::MIN, ..hello("a") }, ["behind", "clocks"]),
    ] {
        let told = hub.check(&hello, NOW).unwrap_err().to_string();
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
    }
    for clock in [NOW.0 - 5_000, NOW.0 + 5_000] {
        hub.check(&Hello { clock, ..hello("a") }, NOW).unwrap();
    }
}

#[tokio::test]
async fn a_service_has_one_participant_and_a_process_that_went_makes_room() {
    let (hub, bus) = hub();
    assert_eq!(hub.missing(), ["payment"]);
    let first = hub.attach(&hello("a"), NOW).unwrap();
    assert_eq!(bus.participants(), ["payment"]);
    assert_eq!(hub.attach(&hello("b"), NOW), Err(Unfit::Taken { service: "payment".into() }));
    // The same process comes again: its former session is over.
    let second = hub.attach(&hello("a"), NOW).unwrap();
    assert!(hub.moved(&first).is_err());
    hub.moved(&second).unwrap();
    // Its connection breaks while it waits: it is away, and another may come.
    let waiting = tokio::spawn({
        let (hub, second) = (hub.clone(), second.clone());
        async move { hub.receive(&second, 0).await }
    });
    tokio::task::yield_now().await;
    waiting.abort();
    assert!(waiting.await.is_err());
    assert_eq!((hub.missing(), bus.participants()), (vec!["payment".to_owned()], Vec::new()));
    assert!(hub.answer(&second, Vec::new()).is_err());
    let third = hub.attach(&hello("b"), NOW).unwrap();
    hub.moved(&third).unwrap();
}

#[tokio::test]
async fn what_was_sent_and_did_not_arrive_is_sent_again_until_it_is_answered() {
    let (hub, bus) = hub();
    let session = hub.attach(&hello("a"), NOW).unwrap();
    let publish = |text: &str| tokio::spawn(bus.publish(outgoing("payment", text)));
    let (one, two) = (publish("1"), publish("2"));
    tokio::task::yield_now().await;
    for _ in 0..2 {
        assert_eq!(texts(&hub.receive(&session, 0).await.unwrap()), [(1, "1"), (2, "2")]);
    }
    hub.answer(&session, vec![(1, Answer::Taken), (1, Answer::Never("late".into())), (77, Answer::Taken)]).unwrap();
    assert_eq!(one.await.unwrap(), Ok(()));
    // What has arrived is not sent again, answered or not.
    let three = publish("3");
    tokio::task::yield_now().await;
    assert_eq!(texts(&hub.receive(&session, 2).await.unwrap()), [(3, "3")]);
    hub.answer(&session, vec![(3, Answer::Later("not yet".into()))]).unwrap();
    assert_eq!(three.await.unwrap(), Err(Refusal::Later("not yet".into())));
    // What is not answered when the session ends is its sender's again.
    hub.attach(&hello("a"), NOW).unwrap();
    assert!(matches!(two.await.unwrap(), Err(Refusal::Unavailable(_))));
}

#[tokio::test]
async fn an_attached_participant_publishes_and_tells_what_it_did() {
    let (hub, bus) = hub();
    let session = hub.attach(&hello("a"), NOW).unwrap();
    let to = |to: &str| Addressed { to: to.into(), envelope: "x".into(), redelivered: false };
    let answers = hub.publish(&session, vec![to("nobody")]).await.unwrap();
    assert!(matches!(&answers[..], [Answer::Unavailable(_)]), "{answers:?}");
    assert!(hub.publish("none", vec![to("nobody")]).await.is_err());
    let asked = tokio::spawn({
        let hub = hub.clone();
        async move { hub.history("payment", 3, 4, 5).await }
    });
    tokio::task::yield_now().await;
    let errands = hub.receive(&session, 0).await.unwrap();
    assert_eq!(errands[0].what, What::History { steps_after: 3, tasks_after: 4, limit: 5 });
    let page = Page { last_step: 9, ..Page::default() };
    hub.told(&session, errands[0].number, Tale::History(page.clone())).unwrap();
    assert_eq!(asked.await.unwrap(), Ok(page));
    drop(bus);
    assert!(hub.history("stock", 0, 0, 1).await.unwrap_err().contains("not attached"));
}
