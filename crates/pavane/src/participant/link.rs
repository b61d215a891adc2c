//! The bus of a participant whose home is in another process.
//!
//! Messages to others go in batches, a lane for each receiver, so that a slow one holds up nobody else. Messages from
//! others come by waiting for them; what became of them goes back in batches, too. A session that is over is attached
//! again; what it left unanswered comes again, as after any crash.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pavane_bus::wire::{
    Addressed, Answer, Answers, Errand, Errands, Hello, Late, Moved, PROTOCOL, Page, Publish, Published, Receive, Tale,
    Told, Welcome, What,
};
use pavane_bus::{Bus, Consumer, Handing, LEASE, Refusal};
use pavane_runtime::{Engine, Home, Source, Unread};
use pavane_store::Outgoing;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::caller::{AtHub, Caller, Fault, Standing};
use crate::api::{TAKEN, callbacks, clock};

/// Messages in one request, at most, and characters of them after which no more are added.
const BATCH: usize = 256;
const BATCH_CHARACTERS: usize = 4 << 20;

/// Requests of one lane that may be under way: the next batch need not wait for the commit of the last.
const AT_ONCE: usize = 4;

/// The first wait before it is tried again to attach; it doubles up to the last.
const BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// How often the home is told at most that there is something to see.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// A message that waits for its batch.
type Waiting = (Outgoing, oneshot::Sender<Result<(), Refusal>>);

/// What links a participant to the hub.
#[derive(Debug)]
pub struct Link {
    caller: Arc<Caller>,
    service: String,
    store: u64,
    /// What the participant did, for the home's observer.
    source: Arc<dyn Source>,
    /// Who is told of callbacks that came to the hub's process.
    engine: Engine,
    lanes: Mutex<HashMap<String, mpsc::UnboundedSender<Waiting>>>,
    consumer: Mutex<Option<Arc<dyn Consumer>>>,
}

impl Link {
    /// Links the participant of a service, whose store has this identity.
    pub fn new(caller: Arc<Caller>, service: &str, store: u64, engine: Engine) -> Link {
        let (service, source) = (service.to_owned(), Arc::new(engine.clone()));
        Link { caller, service, store, source, engine, lanes: Mutex::default(), consumer: Mutex::default() }
    }

    /// How it stands with the hub.
    pub fn standing(&self) -> Standing {
        self.caller.standing()
    }

    /// Where definitions are asked for.
    pub fn home(&self) -> Arc<dyn Home> {
        Arc::new(AtHub(self.caller.clone()))
    }

    /// Attaches, and again whenever a session is over. A hub that is away is waited for. `welcomed` is told the digests
    /// of the definitions that the participant takes part in, each time.
    ///
    /// # Errors
    /// The hub refuses it and has never taken it: there is something for an operator to do.
    pub async fn run(&self, welcomed: impl AsyncFn(Vec<String>)) -> Result<(), String> {
        let process = uuid::Uuid::now_v7().to_string();
        let (mut tries, mut was_attached, began) = (0_u32, false, Instant::now());
        loop {
            let fault = match self.attach(&process).await {
                Ok(welcome) => {
                    tracing::info!(hub = self.caller.url(), version = welcome.version, "attached to the hub");
                    (tries, was_attached) = (0, true);
                    self.caller.set(Standing::Attached(welcome.session.clone()));
                    let serve = self.serve(&welcome.session);
                    let (fault, ()) = tokio::join!(serve, welcomed(welcome.definitions));
                    fault
                }
                Err(fault) => fault,
            };
            let why = fault.why();
            if let Fault::Refused(code, _) = &fault
                && !was_attached
                && (code != TAKEN || began.elapsed() > LEASE)
            {
                return Err(why.to_owned());
            }
            if tries == 0 {
                tracing::warn!(why, "not attached to the hub; work under way goes on, and its messages wait");
            }
            self.caller.set(Standing::Away(why.to_owned()));
            tokio::time::sleep(BACKOFF.saturating_mul(1 << tries.min(8)).min(MAX_BACKOFF)).await;
            tries = tries.saturating_add(1);
        }
    }

    async fn attach(&self, process: &str) -> Result<Welcome, Fault> {
        let hello = Hello {
            protocol: PROTOCOL,
            service: self.service.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            process: process.to_owned(),
            store: self.store,
            clock: clock().0,
        };
        self.caller.post("/bus/v1/attach", &hello).await
    }

    /// Serves a session until it is over; says why it is.
    async fn serve(&self, session: &str) -> Fault {
        let (answered, answers) = mpsc::unbounded_channel();
        tokio::select! {
            fault = self.receive(session, answered) => fault,
            fault = self.answer(session, answers) => fault,
            fault = self.tell_of_moves(session) => fault,
        }
    }

    /// Waits for errands and sees to each.
    async fn receive(&self, session: &str, answered: mpsc::UnboundedSender<(u64, Answer)>) -> Fault {
        let mut after = 0;
        loop {
            let asked = Receive { session: session.to_owned(), after };
            let errands: Errands = match self.caller.post("/bus/v1/receive", &asked).await {
                Ok(errands) => errands,
                Err(fault) => return fault,
            };
            for Errand { number, what } in errands.errands {
                after = after.max(number);
                match what {
                    What::Message { envelope, redelivered } => {
                        let to = self.service.clone();
                        let taken = self.take(Addressed { to, envelope, redelivered }.into());
                        let answered = answered.clone();
                        tokio::spawn(async move {
                            // A session that is over needs no answer.
                            let _ = answered.send((number, taken.await.into()));
                        });
                    }
                    What::History { steps_after, tasks_after, limit } => {
                        let read = self.source.history(steps_after, tasks_after, limit);
                        self.tell(session, number, async {
                            let copied = read.await?;
                            Ok(Tale::History(Page::new(copied.history, copied.more)))
                        });
                    }
                    What::Callback(callback) => {
                        let engine = self.engine.clone();
                        self.tell(session, number, async move {
                            Ok(Tale::CalledBack(callbacks::passed_on(&engine, &callback).await))
                        });
                    }
                    What::Late { after } => {
                        let read = self.source.late(Duration::from_millis(after));
                        self.tell(session, number, async {
                            let late = read.await?;
                            let messages = late.messages.iter().map(serde_json::to_value).collect::<Result<_, _>>();
                            let messages = messages.map_err(|error| Unread::Away(error.to_string()))?;
                            Ok(Tale::Late(Late { messages, all: late.all }))
                        });
                    }
                }
            }
        }
    }

    /// Tells what the hub has asked for, when it is known.
    fn tell(&self, session: &str, number: u64, read: impl Future<Output = Result<Tale, Unread>> + Send + 'static) {
        let (caller, session) = (self.caller.clone(), session.to_owned());
        tokio::spawn(async move {
            let tale = match read.await {
                Ok(tale) => tale,
                Err(Unread::Away(why)) => return tracing::debug!(why, "what was asked for was not told"),
                Err(Unread::Failed(error)) => return tracing::warn!(%error, "what was asked for was not told"),
            };
            if let Err(fault) = caller.tell("/bus/v1/tell", &Told { session, number, tale }).await {
                tracing::debug!(why = fault.why(), "what was asked for was not told");
            }
        });
    }

    fn take(&self, message: Outgoing) -> Handing {
        match &*self.consumer.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(consumer) => consumer.take(message),
            None => {
                let why = format!("the participant of `{}` is ending", self.service);
                Box::pin(std::future::ready(Err(Refusal::Unavailable(why))))
            }
        }
    }

    /// Tells what became of messages.
    async fn answer(&self, session: &str, mut answered: mpsc::UnboundedReceiver<(u64, Answer)>) -> Fault {
        loop {
            let mut answers = Vec::new();
            if answered.recv_many(&mut answers, BATCH).await == 0 {
                return std::future::pending().await;
            }
            let answers = Answers { session: session.to_owned(), answers };
            if let Err(fault) = self.caller.tell("/bus/v1/answer", &answers).await {
                return fault;
            }
        }
    }

    /// Tells the home when there is something to see.
    async fn tell_of_moves(&self, session: &str) -> Fault {
        let moved = Moved { session: session.to_owned() };
        loop {
            self.source.moved().await;
            if let Err(fault) = self.caller.tell("/bus/v1/moved", &moved).await {
                return fault;
            }
            tokio::time::sleep(TELL_EVERY).await;
        }
    }
}

impl Bus for Link {
    fn publish(&self, message: Outgoing) -> Handing {
        if let Err(why) = self.caller.session() {
            return Box::pin(std::future::ready(Err(Refusal::Unavailable(why))));
        }
        let (reply, answer) = oneshot::channel();
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let to = message.to.clone();
        let lane = lanes.entry(to).or_insert_with(|| {
            let (lane, waiting) = mpsc::unbounded_channel();
            tokio::spawn(carry(self.caller.clone(), waiting));
            lane
        });
        // Whoever waits is told when the lane is gone. How many wait is limited by the sender's relay.
        let _ = lane.send((message, reply));
        drop(lanes);
        Box::pin(async move {
            answer.await.unwrap_or_else(|_| Err(Refusal::Unavailable("the participant is ending".into())))
        })
    }

    fn subscribe(&self, _participant: &str, consumer: Arc<dyn Consumer>) {
        *self.consumer.lock().unwrap_or_else(PoisonError::into_inner) = Some(consumer);
    }

    fn unsubscribe(&self, _participant: &str) {
        *self.consumer.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Carries the messages of a lane to the hub, in batches.
async fn carry(caller: Arc<Caller>, mut lane: mpsc::UnboundedReceiver<Waiting>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(first) = lane.recv().await {
        // Nobody closes it.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let mut characters = first.0.envelope.size();
        let mut batch = vec![first];
        while batch.len() < BATCH
            && characters < BATCH_CHARACTERS
            && let Ok(next) = lane.try_recv()
        {
            characters += next.0.envelope.size();
            batch.push(next);
        }
        let caller = caller.clone();
        tokio::spawn(async move {
            hand_over(&caller, batch).await;
            drop(place);
        });
    }
}

/// Hands messages to the hub; whoever waits for each learns what became of it.
async fn hand_over(caller: &Caller, batch: Vec<Waiting>) {
    let (messages, replies): (Vec<Addressed>, Vec<_>) =
        batch.into_iter().map(|(message, reply)| (message.into(), reply)).unzip();
    let published = match caller.session() {
        Ok(session) => {
            let published = caller.post("/bus/v1/publish", &Publish { session, messages }).await;
            published.map_err(|fault| fault.why().to_owned())
        }
        Err(why) => Err(why),
    };
    match published {
        Ok(Published { answers }) => {
            // A hub that answers for fewer is one that did not take the others.
            for (reply, answer) in replies.into_iter().zip(answers) {
                let _ = reply.send(answer.into());
            }
        }
        Err(why) => {
            for reply in replies {
                let _ = reply.send(Err(Refusal::Unavailable(why.clone())));
            }
        }
    }
}
