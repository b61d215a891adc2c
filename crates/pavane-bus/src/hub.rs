//! The hub: where participants in processes of their own attach to the bus of this one.
//!
//! An attached participant is a consumer like any other: a message that is handed to it waits in its session until the
//! participant has answered. The hub keeps nothing: what is not answered when a session ends is refused as
//! unavailable, and comes again from its sender's store. A session ends when its participant is silent for longer than
//! [`LEASE`], or when the connection on which it waits breaks, which is how the end of a process is seen at once.
//!
//! Transport and authentication are somebody else's. Start reading at [`Hub`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use pavane_core::Timestamp;
use pavane_store::Outgoing;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::wire::{Addressed, Answer, Callback, CalledBack, Errand, Hello, Late, PROTOCOL, Page, Tale, What};
use crate::{Bus, Consumer, Handing, Refusal};

/// How long a participant may be silent: three times as long as a wait for errands.
pub const LEASE: Duration = Duration::from_secs(15);

/// How long a wait for errands lasts when there are none: below what proxies allow an answer.
const WAIT: Duration = Duration::from_secs(5);

/// A process that was heard of this recently is taken to live, even if it does not wait for errands right now.
const BETWEEN_WAITS: Duration = Duration::from_secs(1);

/// How long a participant may take over one errand: far longer than a commit takes on a busy disk. After it the sender
/// tries again.
const ANSWER: Duration = Duration::from_secs(30);

/// Errands in one answer, at most, and characters of messages after which no more are added.
const MAX_ERRANDS: usize = 256;
const MAX_CHARACTERS: usize = 4 << 20;

/// Errands of one session that may be unanswered: each sender's relay has 256 under way, and few services have more than
/// thirty others that send to them.
const MAX_UNANSWERED: usize = 8_192;

/// How far clocks may be apart: times of tasks and deadlines are compared across processes.
pub const MAX_SKEW: Duration = Duration::from_secs(5);

/// Why a participant is not attached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The two programs speak different versions of the protocol.
    #[error(
        "the participant (Pavane {version}) speaks version {theirs} of the protocol between Pavane processes, the hub {PROTOCOL}: run the same version of Pavane in both"
    )]
    Protocol {
        /// Version of the participant's program.
        version: String,
        /// Its protocol.
        theirs: u32,
    },
    /// The hub does not know the service, or has its participant itself.
    #[error("{0}")]
    Service(String),
    /// The clocks are too far apart.
    #[error(
        "the participant's clock is {apart_ms} ms {direction} the hub's, and {} ms is the most that may be: set the clocks of both machines by the same source, such as NTP", MAX_SKEW.as_millis()
    )]
    Clock {
        /// Milliseconds.
        apart_ms: u64,
        /// `ahead of` or `behind`.
        direction: &'static str,
    },
    /// Another process is attached for the service.
    #[error(
        "another process is attached as the participant of `{service}`: a service has one, because each has a store of its own; stop that one first (if it was killed, its place is free after {} s)", LEASE.as_secs()
    )]
    Taken {
        /// The service.
        service: String,
    },
}

/// The session is over: it has to be attached again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this session is over ({0}): attach again")]
pub struct Over(pub String);

/// The hub of a process; clones are handles of the same one.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    bus: Arc<dyn Bus>,
    places: RwLock<Places>,
    /// By their services.
    sessions: Mutex<HashMap<String, Arc<Session>>>,
}

/// Where participants are to be.
#[derive(Default)]
struct Places {
    /// Services whose participants are elsewhere, each with what rings when one of them did something.
    remote: BTreeMap<String, Arc<Notify>>,
    /// Services whose participants are in this process.
    here: BTreeSet<String>,
}

/// A participant that is attached.
struct Session {
    id: String,
    service: String,
    process: String,
    state: Mutex<State>,
    news: Notify,
}

struct State {
    /// The number of the last errand.
    last: u64,
    unanswered: BTreeMap<u64, Unanswered>,
    heard: Instant,
    /// Requests that wait for errands now.
    waits: usize,
    /// Why it is over.
    over: Option<String>,
}

struct Unanswered {
    what: What,
    reply: Reply,
}

/// Where the answer to an errand goes.
enum Reply {
    Message(oneshot::Sender<Result<(), Refusal>>),
    Tale(oneshot::Sender<Tale>),
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("remote", &self.remote()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {} of {}", self.id, self.service)
    }
}

impl Hub {
    /// A hub on the bus of this process. Participants of `remote` services attach; those of others are `here`.
    pub fn new(bus: Arc<dyn Bus>, remote: BTreeSet<String>, here: BTreeSet<String>) -> Hub {
        let hub = Hub { inner: Arc::new(Inner { bus, places: RwLock::default(), sessions: Mutex::default() }) };
        remote.into_iter().for_each(|service| hub.add_remote(service));
        here.into_iter().for_each(|service| hub.add_here(service));
        hub
    }

    /// From now on the participant of a service attaches.
    pub fn add_remote(&self, service: String) {
        self.inner.places_mut().remote.entry(service).or_default();
    }

    /// From now on the participant of a service is in this process.
    pub fn add_here(&self, service: String) {
        self.inner.places_mut().here.insert(service);
    }

    /// The services whose participants are elsewhere.
    pub fn remote(&self) -> BTreeSet<String> {
        self.inner.places().remote.keys().cloned().collect()
    }

    /// The services whose participants are in this process.
    pub fn here(&self) -> BTreeSet<String> {
        self.inner.places().here.clone()
    }

    /// Those of them whose participants are not attached now.
    pub fn missing(&self) -> Vec<String> {
        let sessions = self.inner.lock();
        self.remote().into_iter().filter(|service| !sessions.contains_key(service)).collect()
    }

    /// Whether a participant that says hello could be attached, but for others that are.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, hello: &Hello, now: Timestamp) -> Result<(), Unfit> {
        if hello.protocol != PROTOCOL {
            return Err(Unfit::Protocol { version: hello.version.clone(), theirs: hello.protocol });
        }
        let service = &hello.service;
        let remote = self.remote();
        if !remote.contains(service) {
            let known: Vec<&str> = remote.iter().take(10).map(String::as_str).collect();
            let known =
                if known.is_empty() { "there are none".into() } else { format!("they are {}", known.join(", ")) };
            return Err(Unfit::Service(match self.inner.places().here.contains(service) {
                true => format!(
                    "the participant of `{service}` is in the hub's own process: to run it in another, write `services: \
                     {{ {service}: {{ participant: remote }} }}` in the hub's configuration and start the hub again"
                ),
                false => format!(
                    "the hub has no service `{service}` whose participant is remote ({known}): add it to `services` of \
                     the hub's configuration with `participant: remote`; the hub follows that file"
                ),
            }));
        }
        let ahead = hello.clock.saturating_sub(now.0);
        if u128::from(ahead.unsigned_abs()) > MAX_SKEW.as_millis() {
            let direction = if ahead > 0 { "ahead of" } else { "behind" };
            return Err(Unfit::Clock { apart_ms: ahead.unsigned_abs(), direction });
        }
        Ok(())
    }

    /// Attaches a participant; gives the name of its session. One that comes again takes the place of its former session.
    ///
    /// # Errors
    /// As [`Hub::check`], and [`Unfit::Taken`].
    pub fn attach(&self, hello: &Hello, now: Timestamp) -> Result<String, Unfit> {
        self.check(hello, now)?;
        let service = &hello.service;
        let mut sessions = self.inner.lock();
        if let Some(former) = sessions.get(service) {
            if former.process != hello.process && former.lives() {
                return Err(Unfit::Taken { service: service.clone() });
            }
            former.end("its participant has attached again");
        }
        let session = Arc::new(Session {
            id: uuid::Uuid::now_v7().to_string(),
            service: service.clone(),
            process: hello.process.clone(),
            state: Mutex::new(State {
                last: 0,
                unanswered: BTreeMap::new(),
                heard: Instant::now(),
                waits: 0,
                over: None,
            }),
            news: Notify::new(),
        });
        sessions.insert(service.clone(), session.clone());
        self.inner.bus.subscribe(service, Arc::new(Attached(session.clone())));
        drop(sessions);
        tokio::spawn(expire(Arc::downgrade(&self.inner), session.clone()));
        self.ring(service);
        tracing::info!(service, version = hello.version, "its participant is attached");
        Ok(session.id.clone())
    }

    /// What there is for a participant after the errand of this number; waits a while for the first. When its caller
    /// goes away while it waits, the session is over.
    ///
    /// # Errors
    /// [`Over`].
    pub async fn receive(&self, session: &str, after: u64) -> Result<Vec<Errand>, Over> {
        let session = self.session(session)?;
        let until = Instant::now() + WAIT;
        let mut wait = Wait::begin(&self.inner, &session);
        let errands = loop {
            let errands = session.errands(after);
            match errands {
                Ok(errands) if errands.is_empty() && Instant::now() < until => {}
                done => break done,
            }
            tokio::select! {
                () = session.news.notified() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        };
        wait.answered = true;
        errands
    }

    /// What became of messages. An errand that is not there was answered, or was given up.
    ///
    /// # Errors
    /// [`Over`].
    pub fn answer(&self, session: &str, answers: Vec<(u64, Answer)>) -> Result<(), Over> {
        let session = self.session(session)?;
        for (number, answer) in answers {
            if let Some(Reply::Message(reply)) = session.answered(number) {
                // The sender may have given it up.
                let _ = reply.send(answer.into());
            }
        }
        Ok(())
    }

    /// What a participant was asked for.
    ///
    /// # Errors
    /// [`Over`].
    pub fn told(&self, session: &str, number: u64, tale: Tale) -> Result<(), Over> {
        if let Some(Reply::Tale(reply)) = self.session(session)?.answered(number) {
            // Whoever asked may have given it up.
            let _ = reply.send(tale);
        }
        Ok(())
    }

    /// A participant did something.
    ///
    /// # Errors
    /// [`Over`].
    pub fn moved(&self, session: &str) -> Result<(), Over> {
        let session = self.session(session)?;
        self.ring(&session.service);
        Ok(())
    }

    /// Hands messages of an attached participant to their receivers; what became of them, in their order.
    ///
    /// # Errors
    /// [`Over`].
    pub async fn publish(&self, session: &str, messages: Vec<Addressed>) -> Result<Vec<Answer>, Over> {
        self.session(session)?;
        // All at once: their receivers make them durable together.
        let handed: Vec<Handing> = messages.into_iter().map(|message| self.inner.bus.publish(message.into())).collect();
        let tasks: Vec<_> = handed.into_iter().map(tokio::spawn).collect();
        let mut answers = Vec::with_capacity(tasks.len());
        for task in tasks {
            let result = task.await.unwrap_or_else(|_| Err(Refusal::Unavailable("the hub is ending".into())));
            answers.push(result.into());
        }
        Ok(answers)
    }

    /// Asks the participant of a service what it did.
    ///
    /// # Errors
    /// Why it cannot be asked now.
    pub async fn history(
        &self,
        service: &str,
        steps_after: u64,
        tasks_after: u64,
        limit: usize,
    ) -> Result<Page, String> {
        match self.ask(service, What::History { steps_after, tasks_after, limit }).await? {
            Tale::History(page) => Ok(page),
            other => Err(format!("the participant of `{service}` told something else: {other:?}")),
        }
    }

    /// Asks the participant of a service which of its messages nobody has taken for so long.
    ///
    /// # Errors
    /// Why it cannot be asked now.
    pub async fn late(&self, service: &str, after: Duration) -> Result<Late, String> {
        let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        match self.ask(service, What::Late { after }).await? {
            Tale::Late(late) => Ok(late),
            other => Err(format!("the participant of `{service}` told something else: {other:?}")),
        }
    }

    /// Passes a callback on to the participant of a service.
    ///
    /// # Errors
    /// Why it cannot be passed on now.
    pub async fn call_back(&self, service: &str, callback: Callback) -> Result<CalledBack, String> {
        match self.ask(service, What::Callback(callback)).await? {
            Tale::CalledBack(told) => Ok(told),
            other => Err(format!("the participant of `{service}` told something else: {other:?}")),
        }
    }

    async fn ask(&self, service: &str, what: What) -> Result<Tale, String> {
        let session = self.inner.lock().get(service).cloned();
        let session = session.ok_or_else(|| away(service))?;
        let (reply, tale) = oneshot::channel();
        session.hand(what, Reply::Tale(reply))?;
        match tokio::time::timeout(ANSWER, tale).await {
            Ok(Ok(tale)) => Ok(tale),
            _ => Err(format!("the participant of `{service}` did not tell what it was asked for")),
        }
    }

    /// What rings when a participant of this service did something; absent for a service that is not remote.
    pub fn bell(&self, service: &str) -> Option<Arc<Notify>> {
        self.inner.places().remote.get(service).cloned()
    }

    fn ring(&self, service: &str) {
        if let Some(bell) = self.bell(service) {
            bell.notify_one();
        }
    }

    /// A session that goes on.
    fn session(&self, id: &str) -> Result<Arc<Session>, Over> {
        let session = self.inner.lock().values().find(|session| session.id == id).cloned();
        let session = session.ok_or_else(|| Over("it is not known here".into()))?;
        let mut state = session.state();
        if let Some(over) = &state.over {
            return Err(Over(over.clone()));
        }
        state.heard = Instant::now();
        drop(state);
        Ok(session)
    }
}

impl Inner {
    fn places(&self) -> RwLockReadGuard<'_, Places> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn places_mut(&self) -> RwLockWriteGuard<'_, Places> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a session, unless another has its place already.
    fn end(&self, session: &Arc<Session>, why: &str) {
        let mut sessions = self.lock();
        if sessions.get(&session.service).is_some_and(|current| Arc::ptr_eq(current, session)) {
            sessions.remove(&session.service);
            self.bus.unsubscribe(&session.service);
            tracing::warn!(service = session.service, why, "its participant is away: messages to it wait");
        }
        drop(sessions);
        session.end(why);
    }
}

/// Ends a session whose participant has fallen silent.
async fn expire(hub: Weak<Inner>, session: Arc<Session>) {
    loop {
        let silent_at = {
            let state = session.state();
            if state.over.is_some() {
                return;
            }
            state.heard + LEASE
        };
        tokio::time::sleep_until(silent_at).await;
        let Some(hub) = hub.upgrade() else { return };
        if session.state().heard + LEASE <= Instant::now() {
            return hub.end(&session, "it has not been heard of for longer than its lease");
        }
    }
}

/// A request that waits for errands.
struct Wait {
    hub: Arc<Inner>,
    session: Arc<Session>,
    answered: bool,
}

impl Wait {
    fn begin(hub: &Arc<Inner>, session: &Arc<Session>) -> Wait {
        session.state().waits += 1;
        Wait { hub: hub.clone(), session: session.clone(), answered: false }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut state = self.session.state();
        state.waits -= 1;
        state.heard = Instant::now();
        drop(state);
        if !self.answered {
            self.hub.end(&self.session, "its connection broke");
        }
    }
}

impl Session {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its process is there, as far as can be told.
    fn lives(&self) -> bool {
        let state = self.state();
        state.over.is_none() && (state.waits > 0 || state.heard.elapsed() < BETWEEN_WAITS)
    }

    /// Whoever waits for an answer learns that there will be none.
    fn end(&self, why: &str) {
        let unanswered = {
            let mut state = self.state();
            state.over.get_or_insert_with(|| why.to_owned());
            std::mem::take(&mut state.unanswered)
        };
        drop(unanswered);
        self.news.notify_one();
    }

    fn hand(&self, what: What, reply: Reply) -> Result<u64, String> {
        let mut state = self.state();
        if state.over.is_some() {
            return Err(away(&self.service));
        }
        if state.unanswered.len() >= MAX_UNANSWERED {
            return Err(format!("the participant of `{}` has {MAX_UNANSWERED} messages to answer", self.service));
        }
        state.last += 1;
        let number = state.last;
        state.unanswered.insert(number, Unanswered { what, reply });
        drop(state);
        self.news.notify_one();
        Ok(number)
    }

    fn answered(&self, number: u64) -> Option<Reply> {
        self.state().unanswered.remove(&number).map(|unanswered| unanswered.reply)
    }

    fn errands(&self, after: u64) -> Result<Vec<Errand>, Over> {
        let state = self.state();
        if let Some(over) = &state.over {
            return Err(Over(over.clone()));
        }
        let mut errands = Vec::new();
        let mut characters = 0;
        for (number, Unanswered { what, .. }) in state.unanswered.range(after.saturating_add(1)..).take(MAX_ERRANDS) {
            if characters >= MAX_CHARACTERS {
                break;
            }
            if let What::Message { envelope, .. } = what {
                characters += envelope.len();
            }
            errands.push(Errand { number: *number, what: what.clone() });
        }
        Ok(errands)
    }
}

/// An attached participant as the bus sees it.
#[derive(Debug)]
struct Attached(Arc<Session>);

impl Consumer for Attached {
    fn take(&self, message: Outgoing) -> Handing {
        let session = self.0.clone();
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let envelope = message.envelope.text().into_owned();
            let what = What::Message { envelope, redelivered: message.redelivered };
            let number = session.hand(what, Reply::Message(reply)).map_err(Refusal::Unavailable)?;
            match tokio::time::timeout(ANSWER, answer).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(Refusal::Unavailable(away(&session.service))),
                Err(_) => {
                    session.answered(number);
                    let why =
                        format!("the participant of `{}` has not answered in {} s", session.service, ANSWER.as_secs());
                    Err(Refusal::Unavailable(why))
                }
            }
        })
    }
}

fn away(service: &str) -> String {
    format!(
        "the participant of `{service}` is not attached: start `pavane serve --role participant --service {service}`"
    )
}

#[cfg(test)]
mod tests;
