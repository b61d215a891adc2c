//! Stuck instances: a receiver that is away, one whose store refuses, a dead letter; and what is merely slow or waits.

use std::time::Duration;

use pavane_bus::Bus;
use pavane_core::definition::Mode;
use pavane_runtime::{Operation, Standing, StartRequest};
use pavane_store::{Commit, Store};

use crate::participants::{House, TWO, house};
use crate::support::*;

const NOW: Duration = Duration::ZERO;
const LATER: Duration = Duration::from_secs(3_600);

async fn choreographed(house: &House, name: &str) -> String {
    house.home.start(StartRequest { mode: Some(Mode::Choreography), ..request(name) }).await.unwrap().id
}

#[tokio::test]
async fn work_for_a_participant_that_is_not_there_is_told_with_sender_receiver_and_task() {
    let mut house = house().await;
    deploy(&house.home, "two", TWO).await;
    house.bus.unsubscribe("u");
    let id = choreographed(&house, "two").await;
    house.made.recv().await.unwrap().succeed();
    left(&house).await;

    let (found, all) = house.home.stuck(NOW, 10).await.unwrap();
    let [(record, missing)] = found.as_slice() else { panic!("{found:?}") };
    assert!(all);
    assert_eq!(record.id, id);
    assert_eq!((missing.from.as_str(), missing.to.as_str()), ("s", "u"));
    assert_eq!((missing.event_type.as_str(), missing.task.as_deref()), ("t.two.b.due.v2", Some("/do/1/b")));
    assert!(missing.remedy.contains("the participant of u") && missing.dead_letter.is_none(), "{missing:?}");

    let progress = house.home.standing(&id, NOW).await.unwrap();
    assert_eq!(progress.standing, Standing::Stuck);
    assert_eq!(progress.missing.as_slice(), std::slice::from_ref(missing));
    assert_eq!(progress.last.map(|(task, _)| task).as_deref(), Some("/do/0/a"));
    assert!(progress.waits.is_empty());

    // Not yet late.
    assert!(house.home.stuck(LATER, 10).await.unwrap().0.is_empty());
    assert_eq!(house.home.standing(&id, LATER).await.unwrap().standing, Standing::Moving);
    // An operator has it: that is known.
    house.home.operate(&id, Operation::Suspend).await.unwrap();
    until_standing(&house, &id, Standing::Suspended).await;
    assert!(house.home.stuck(NOW, 10).await.unwrap().0.is_empty());
}

/// Waits until the message to `u` is the only one: what was taken is forgotten a little later.
async fn left(house: &House) {
    let count = |store: usize| house.stores[store].outgoing(0, 9).unwrap().len();
    until("one message is left", || count(0) == 0 && count(1) == 1).await;
}

async fn until_standing(house: &House, id: &str, wanted: Standing) {
    let reached = tokio::time::timeout(PATIENCE, async {
        while house.home.standing(id, NOW).await.unwrap().standing != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(reached.await.is_ok(), "it never came to {wanted:?}");
}

#[tokio::test]
async fn work_for_a_store_that_takes_nothing_is_stuck_until_it_does() {
    let mut house = house().await;
    deploy(&house.home, "two", TWO).await;
    house.stores[2].set(Fate::Held);
    let id = choreographed(&house, "two").await;
    house.made.recv().await.unwrap().succeed();
    until("the store has it before it", || house.stores[2].held() > 0).await;
    let (found, _) = house.home.stuck(NOW, 10).await.unwrap();
    assert_eq!(found.iter().map(|(record, _)| record.id.as_str()).collect::<Vec<_>>(), [id.as_str()]);
    house.stores[2].set(Fate::Written);
    house.made.recv().await.unwrap().succeed();
    assert_eq!(end(&house.home, &id).await, "completed");
    // What was taken may not be forgotten yet; what has ended is not stuck.
    assert!(house.home.stuck(NOW, 10).await.unwrap().0.is_empty());
    assert_eq!(house.home.standing(&id, NOW).await.unwrap().standing, Standing::Ended);
}

#[tokio::test]
async fn a_dead_letter_is_told_with_its_reason_and_name() {
    let mut house = house().await;
    deploy(&house.home, "two", TWO).await;
    house.bus.unsubscribe("u");
    let id = choreographed(&house, "two").await;
    house.made.recv().await.unwrap().succeed();
    left(&house).await;
    let position = house.stores[1].outgoing(0, 9).unwrap()[0].0;
    let (told, durable) = tokio::sync::oneshot::channel();
    house.stores[1].commit(
        vec![Commit { dead: vec![(position, "its program is not here".into())], ..Commit::default() }],
        Box::new(move |result| told.send(result.is_ok()).unwrap()),
    );
    assert!(durable.await.unwrap());
    let missing = house.home.standing(&id, NOW).await.unwrap().missing;
    let [missing] = missing.as_slice() else { panic!("{missing:?}") };
    let letter = format!("s:{position}");
    assert_eq!(missing.dead_letter.as_deref(), Some(letter.as_str()));
    assert_eq!(missing.reason.as_deref(), Some("its program is not here"));
    assert!(missing.remedy.ends_with(&format!("pavane redrive {letter}")));
    assert_eq!(house.home.stuck(NOW, 10).await.unwrap().0.len(), 1);
}

#[tokio::test]
async fn a_limit_is_told_and_the_longest_come_first() {
    let house = house().await;
    deploy(&house.home, "two", TWO).await;
    house.bus.unsubscribe("s");
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(choreographed(&house, "two").await);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let (found, all) = house.home.stuck(NOW, 2).await.unwrap();
    assert_eq!(found.iter().map(|(record, _)| record.id.clone()).collect::<Vec<_>>(), ids[..2]);
    assert!(!all);
    let (found, all) = house.home.stuck(NOW, 3).await.unwrap();
    assert!(all && found.len() == 3);
}

#[tokio::test]
async fn a_call_without_an_answer_is_slow_in_both_modes_and_a_timer_is_neither() {
    let mut house = house().await;
    deploy(&house.home, "one", CALL).await;
    deploy(&house.home, "long", LONG).await;
    for mode in Mode::ALL {
        let id = house.home.start(StartRequest { mode: Some(mode), ..request("one") }).await.unwrap().id;
        let call = house.made.recv().await.unwrap();
        until("its message is forgotten", || house.stores[0].outgoing(0, 9).unwrap().is_empty()).await;
        let progress = house.home.standing(&id, NOW).await.unwrap();
        assert_eq!(progress.standing, Standing::Slow, "{mode:?}");
        let waits: Vec<_> = progress
            .waits
            .iter()
            .map(|wait| (wait.what.as_str(), wait.service.as_deref(), wait.task.as_str()))
            .collect();
        assert_eq!(waits, [("call", Some("s"), "/do/0/a")]);
        assert_eq!(house.home.standing(&id, LATER).await.unwrap().standing, Standing::Moving);
        call.succeed();
        assert_eq!(end(&house.home, &id).await, "completed");
    }
    let id = start(&house.home, "long").await;
    let progress = house.home.standing(&id, NOW).await.unwrap();
    assert_eq!((progress.standing, progress.waits[0].what.as_str()), (Standing::Waiting, "time"));
    assert!(house.home.stuck(NOW, 10).await.unwrap().0.is_empty());
}
