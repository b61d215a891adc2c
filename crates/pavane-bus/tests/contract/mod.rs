//! What every bus does, checked from a sender's store to its receivers.
//!
//! A bus joins with a [`Transport`] and `suite!`: see `embedded.rs` beside this folder.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pavane_bus::{Bus, Consumer, Handing, Progress, Refusal, Relay};
use pavane_store::{Commit, Memory, Outgoing, Store};
use tokio::sync::{oneshot, watch};

/// Long enough that only a defect lets it pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// A bus with nobody on it.
pub trait Transport: Sync {
    /// The bus, as a sender has it: ready to publish.
    fn sending(&self) -> impl Future<Output = Arc<dyn Bus>> + Send;

    /// A participant listens when this is done; one that listened before under its name does no more.
    fn join(&self, name: &str, consumer: Arc<dyn Consumer>) -> impl Future<Output = ()> + Send;

    /// Messages to a participant wait when this is done.
    fn leave(&self, name: &str) -> impl Future<Output = ()> + Send;
}

/// Makes a test of each check, on the bus that an expression gives anew for each. Its receivers are called `a` and `b`.
macro_rules! suite {
    ($transport:expr) => {
        $crate::contract::suite! { $transport;
            messages_reach_the_receiver_they_name_and_are_forgotten
            messages_wait_for_a_receiver_that_is_away_and_hold_up_nobody_else
            more_messages_than_memory_holds_wait_for_one_receiver_and_all_come
            what_cannot_be_taken_now_is_tried_again_and_what_never_can_is_a_dead_letter
            what_a_sender_left_behind_is_sent_by_the_next_process
        }
    };
    ($transport:expr; $($check:ident)*) => {
        $(
            #[tokio::test]
            async fn $check() {
                $crate::contract::$check(&$transport.await).await;
            }
        )*
    };
}
pub(crate) use suite;

/// A participant that notes what it takes, and answers as it is told.
#[derive(Debug, Default)]
struct Participant {
    taken: Mutex<BTreeMap<String, u32>>,
    /// The next answers by message; when there are none, the message is taken.
    answers: Mutex<BTreeMap<String, Vec<Refusal>>>,
}

impl Participant {
    async fn on(bus: &impl Transport, name: &str) -> Arc<Participant> {
        Participant::default().joins(bus, name).await
    }

    async fn joins(self, bus: &impl Transport, name: &str) -> Arc<Participant> {
        let participant = Arc::new(self);
        bus.join(name, participant.clone()).await;
        participant
    }

    fn refusing(self, id: &str, answers: &[Refusal]) -> Participant {
        self.answers.lock().unwrap().insert(id.into(), answers.to_vec());
        self
    }

    fn taken(&self) -> BTreeSet<String> {
        self.taken.lock().unwrap().keys().cloned().collect()
    }

    fn times(&self, id: &str) -> u32 {
        self.taken.lock().unwrap().get(id).copied().unwrap_or_default()
    }
}

impl Consumer for Participant {
    fn take(&self, message: Outgoing) -> Handing {
        let refusal = self.answers.lock().unwrap().get_mut(&*message.envelope.text()).and_then(Vec::pop);
        let answer = match refusal {
            Some(refusal) => Err(refusal),
            None => {
                *self.taken.lock().unwrap().entry(message.envelope.to_string()).or_default() += 1;
                Ok(())
            }
        };
        Box::pin(std::future::ready(answer))
    }
}

/// A sender: its store and its relay.
struct Sender {
    last: AtomicU64,
    store: Arc<Memory>,
    relay: Relay,
    stop: watch::Sender<bool>,
}

impl Sender {
    async fn on(bus: &impl Transport) -> Sender {
        Sender::over(Arc::new(Memory::new()), bus).await
    }

    async fn over(store: Arc<Memory>, bus: &impl Transport) -> Sender {
        let (relay, stop) = (Relay::default(), watch::Sender::new(false));
        let (running, kept, bus, stopping) = (relay.clone(), store.clone(), bus.sending().await, stop.subscribe());
        let last = store.last_position().unwrap();
        tokio::spawn(async move { running.run(kept, last, bus, stopping).await.unwrap() });
        Sender { last: AtomicU64::new(last), store, relay, stop }
    }

    async fn commit(&self, commit: Commit) {
        let (done, is_done) = oneshot::channel();
        self.store.commit(vec![commit], Box::new(move |result| done.send(result).unwrap()));
        is_done.await.unwrap().unwrap();
    }

    /// Sends messages: what each says, and whom it is for.
    async fn send(&self, messages: &[(&str, &str)]) {
        let outgoing = |(text, to): &(&str, &str)| {
            let message = Outgoing { to: (*to).into(), envelope: (*text).into(), content: None, redelivered: false };
            (self.last.fetch_add(1, Ordering::SeqCst) + 1, message)
        };
        let send: Vec<_> = messages.iter().map(outgoing).collect();
        self.commit(Commit { send: send.clone(), ..Commit::default() }).await;
        self.relay.offer(send);
    }

    fn waiting(&self) -> usize {
        self.store.outgoing(0, usize::MAX).unwrap().len()
    }
}

async fn until(what: &str, so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "it never came to this: {what}");
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

pub async fn messages_reach_the_receiver_they_name_and_are_forgotten(bus: &impl Transport) {
    let (a, b) = (Participant::on(bus, "a").await, Participant::on(bus, "b").await);
    let sender = Sender::on(bus).await;
    sender.send(&[("1", "a"), ("2", "b"), ("3", "a")]).await;
    until("all delivered and forgotten", || sender.waiting() == 0).await;
    assert_eq!((a.taken(), b.taken()), (set(&["1", "3"]), set(&["2"])));
    assert_eq!(sender.relay.progress(), Progress { taken: 3, refused: 0, dead: 0, waiting: 0 });
}

pub async fn messages_wait_for_a_receiver_that_is_away_and_hold_up_nobody_else(bus: &impl Transport) {
    let b = Participant::on(bus, "b").await;
    let sender = Sender::on(bus).await;
    sender.send(&[("1", "a"), ("2", "b")]).await;
    until("the other has its own", || b.taken() == set(&["2"])).await;
    until("the first was tried", || sender.relay.progress().refused > 1).await;
    let a = Participant::on(bus, "a").await;
    until("delivered", || sender.waiting() == 0).await;
    assert_eq!(a.taken(), set(&["1"]));
    // It goes, and its messages wait again.
    bus.leave("a").await;
    sender.send(&[("3", "a")]).await;
    let back = Participant::on(bus, "a").await;
    until("delivered to the one that came", || back.taken() == set(&["3"])).await;
    assert_eq!(a.taken(), set(&["1"]));
}

pub async fn more_messages_than_memory_holds_wait_for_one_receiver_and_all_come(bus: &impl Transport) {
    let sender = Sender::on(bus).await;
    let ids: Vec<String> = (0..12_000).map(|n| n.to_string()).collect();
    for part in ids.chunks(100) {
        let pairs: Vec<(&str, &str)> =
            part.iter().map(|id| (id.as_str(), if id.ends_with('7') { "b" } else { "a" })).collect();
        sender.send(&pairs).await;
    }
    let b = Participant::on(bus, "b").await;
    until("those of b", || b.taken().len() == 1_200).await;
    let a = Participant::on(bus, "a").await;
    until("all", || sender.waiting() == 0).await;
    assert_eq!((a.taken().len(), b.taken().len()), (10_800, 1_200));
    assert!(a.taken.lock().unwrap().values().all(|times| *times == 1), "nothing was lost, so nothing is repeated");
}

pub async fn what_cannot_be_taken_now_is_tried_again_and_what_never_can_is_a_dead_letter(bus: &impl Transport) {
    let later = || Refusal::Later("not yet".into());
    let a = Participant::default()
        .refusing("1", &[later(), later(), Refusal::Unavailable("busy".into())])
        .refusing("2", &[Refusal::Never("it is no message".into())])
        .joins(bus, "a")
        .await;
    let sender = Sender::on(bus).await;
    sender.send(&[("1", "a"), ("2", "a"), ("3", "a")]).await;
    until("what can be taken is", || a.taken() == set(&["1", "3"])).await;
    until("nothing is on its way", || sender.waiting() == 0).await;
    let letters = sender.store.dead_letters(9).unwrap();
    let told: Vec<_> = letters.iter().map(|l| (l.message.envelope.text(), l.reason.as_str())).collect();
    assert_eq!(told, [("2".into(), "it is no message")]);
    // It is sent again when somebody has helped.
    let letter = &letters[0];
    sender.commit(Commit { redrive: vec![letter.position], ..Commit::default() }).await;
    sender.relay.offer(vec![(letter.position, letter.message.clone())]);
    until("redriven", || a.times("2") == 1).await;
}

pub async fn what_a_sender_left_behind_is_sent_by_the_next_process(bus: &impl Transport) {
    let sender = Sender::on(bus).await;
    sender.send(&[("1", "a")]).await;
    until("tried", || sender.relay.progress().refused > 0).await;
    sender.stop.send_replace(true);
    let a = Participant::on(bus, "a").await;
    let next = Sender::over(sender.store.clone(), bus).await;
    until("delivered", || next.waiting() == 0).await;
    assert_eq!(a.taken(), set(&["1"]));
}
