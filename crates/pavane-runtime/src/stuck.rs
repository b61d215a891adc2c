//! Stuck instances: which message should have been taken, by whom, from whom, since when, and what to do about it.
//!
//! Work that leaves a location is in its sender's store until its receiver has it, or among its dead letters. Both are
//! read from their oldest on, so that a query costs the same whatever else the stores hold. A part of an instance that
//! waits for a call is slow and not stuck; one that waits for a time, an event or an operator is neither. Reads only.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use pavane_core::Timestamp;
use pavane_core::engine::{Wait, WaitsFor};
use pavane_core::record::{Status, WorkflowInstance};
use pavane_store::{DeadLetter, Outgoing, Store};
use serde::{Deserialize, Serialize};

use crate::records::replay_at;
use crate::{Engine, Error};

/// After how long without a receiver a message counts as stuck when nobody says otherwise: longer than a restart takes.
pub const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Messages looked at of each sender, oldest first: those on their way, and likewise its dead letters. Behind a receiver
/// that is away there may be as many as there are instances, and one of them tells as much as all.
const MAX_LOOK: usize = 1_000;

/// Messages read in one go: each may be as large as its instance's data.
const PAGE: usize = 100;

/// Messages that should have been taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Late {
    /// What is known of each.
    pub messages: Vec<Missing>,
    /// Whether these are all.
    pub all: bool,
}

/// How long a message may be on its way when all is well: a sender forgets it a little after it was taken.
const TAKES: Duration = Duration::from_secs(1);

/// What has not been taken, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Instances with a message that is stuck.
    pub stuck_instances: usize,
    /// Messages that are stuck, dead letters included, as far as was looked.
    pub stuck_messages: usize,
    /// For how long the oldest message to a receiver has been on its way, where that is longer than usual.
    pub behind: BTreeMap<String, Duration>,
}

/// A message that should have been taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The instance it belongs to.
    pub instance: String,
    /// Its sender.
    pub from: String,
    /// Its receiver.
    pub to: String,
    /// Its type, which names the task that is due: `shop.order.charge.due.v1`.
    #[serde(rename = "expected")]
    pub event_type: String,
    /// JSON pointer of that task; absent for a token that goes home or is undone.
    pub task: Option<String>,
    /// When it was sent.
    pub since: Timestamp,
    /// What `redrive` calls it, when it is a dead letter.
    pub dead_letter: Option<String>,
    /// Why nobody could take it, then.
    pub reason: Option<String>,
    /// What to do.
    pub remedy: String,
}

/// How an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It has ended.
    Ended,
    /// An operator has suspended it.
    Suspended,
    /// A message of it has not been taken for longer than it should.
    Stuck,
    /// A call of it has not been answered for as long: its service is slow, or away.
    Slow,
    /// It waits for a time, an event, a retry or a callback.
    Waiting,
    /// It moves.
    Moving,
}

/// Where an instance is and what it waits for.
#[derive(Clone, Debug, Serialize)]
pub struct Progress {
    /// How it stands.
    pub standing: Standing,
    /// The last task seen to begin or end, and when.
    pub last: Option<(String, Timestamp)>,
    /// What its parts wait for where they are.
    pub waits: Vec<Wait>,
    /// Messages of it that should have been taken.
    pub missing: Vec<Missing>,
}

/// Attributes of a message; its data is passed over.
#[derive(Deserialize)]
struct Attributes {
    #[serde(rename = "type")]
    type_: String,
    time: String,
    #[serde(default)]
    subject: String,
    pvninstance: String,
    pvnkind: String,
}

impl Engine {
    /// Instances with work that left a location longer than `after` ago and was not taken, the longest first, at most
    /// `limit`; and whether that is all there are. Suspended and ended ones are left out.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn stuck(
        &self,
        after: Duration,
        limit: usize,
    ) -> Result<(Vec<(WorkflowInstance, Missing)>, bool), Error> {
        let Late { messages, all } = self.late(after).await?;
        let (found, none_left) = self.under_way(messages, limit).await?;
        Ok((found, all && none_left))
    }

    /// What has not been taken, in numbers: a message counts as stuck after `after`, instances are counted up to `limit`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn lag(&self, after: Duration, limit: usize) -> Result<Lag, Error> {
        let now = crate::now();
        let Late { mut messages, .. } = self.late(after.min(TAKES)).await?;
        let mut behind: BTreeMap<String, Duration> = BTreeMap::new();
        for message in messages.iter().filter(|message| message.dead_letter.is_none()) {
            let age = Duration::from_millis(u64::try_from(now.since(message.since)).unwrap_or_default());
            let longest = behind.entry(message.to.clone()).or_default();
            *longest = age.max(*longest);
        }
        messages.retain(|message| is_late(now, message.since, after));
        let stuck_messages = messages.len();
        let (stuck, _) = self.under_way(messages, limit).await?;
        Ok(Lag { stuck_instances: stuck.len(), stuck_messages, behind })
    }

    /// Instances under way among those that messages belong to, the longest first, at most `limit`, and whether there are
    /// no more.
    async fn under_way(
        &self,
        missing: Vec<Missing>,
        limit: usize,
    ) -> Result<(Vec<(WorkflowInstance, Missing)>, bool), Error> {
        self.blocking(move |store| {
            let mut first: BTreeMap<String, Missing> = BTreeMap::new();
            for message in missing {
                let known = first.entry(message.instance.clone()).or_insert_with(|| message.clone());
                if message.since < known.since {
                    *known = message;
                }
            }
            let mut ordered: Vec<Missing> = first.into_values().collect();
            ordered.sort_by(|a, b| (a.since, &a.instance).cmp(&(b.since, &b.instance)));
            let mut found = Vec::new();
            for message in ordered {
                let Some(record) = store.instance(&message.instance)?.filter(is_under_way) else { continue };
                if found.len() == limit {
                    return Ok((found, false));
                }
                found.push((record, message));
            }
            Ok((found, true))
        })
        .await
    }

    /// How an instance stands; a message or a call counts as late after `after`.
    ///
    /// # Errors
    /// [`Error::UnknownInstance`], [`Error::Store`].
    pub async fn standing(&self, id: &str, after: Duration) -> Result<Progress, Error> {
        let (record, program) = self.observed(id).await?;
        let tasks = self.tasks(id).await?;
        let moved = tasks.iter().map(|task| (task.reference.clone(), task.end_time.unwrap_or(task.start_time)));
        let last = moved.max_by_key(|(_, at)| *at);
        let mut progress = Progress { standing: Standing::Ended, last, waits: Vec::new(), missing: Vec::new() };
        if record.status.is_terminal() {
            return Ok(progress);
        }
        let (wanted, parts) = (id.to_owned(), self.parts(program.as_deref()));
        progress.waits = self
            .blocking(move |store| {
                let mut waits = Vec::new();
                let Some(program) = program else { return Ok(waits) };
                for place in 0..program.locations().len() as u64 {
                    let state = replay_at(store, &parts, &program, &wanted, place)?;
                    waits.extend(state.into_iter().flat_map(|state| state.waits(&program)));
                }
                Ok(waits)
            })
            .await?;
        let late = self.late(after).await?;
        progress.missing = late.messages.into_iter().filter(|message| message.instance == record.id).collect();
        let now = crate::now();
        let late = |wait: &Wait| wait.what == WaitsFor::Call && is_late(now, wait.since, after);
        let idle =
            |wait: &Wait| matches!(wait.what, WaitsFor::Time | WaitsFor::Event | WaitsFor::Retry | WaitsFor::Callback);
        progress.standing = match () {
            () if record.status == Status::Suspended => Standing::Suspended,
            () if !progress.missing.is_empty() => Standing::Stuck,
            () if progress.waits.iter().any(late) => Standing::Slow,
            () if !progress.waits.is_empty() && progress.waits.iter().all(idle) => Standing::Waiting,
            () => Standing::Moving,
        };
        Ok(progress)
    }

    /// Messages that were sent longer than `after` ago and not taken, from here and from every participant.
    async fn late(&self, after: Duration) -> Result<Late, Error> {
        let observers = self.shared.observers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let elsewhere = futures_util::future::try_join_all(observers.iter().map(|observer| observer.late(after)));
        let (mut late, elsewhere) = tokio::try_join!(self.late_here(after), elsewhere)?;
        for Late { messages, all } in elsewhere {
            late.messages.extend(messages);
            late.all &= all;
        }
        Ok(late)
    }

    /// Those of them that were sent from here, and by participants beside it.
    pub(crate) async fn late_here(&self, after: Duration) -> Result<Late, Error> {
        let mut senders: Vec<(String, Arc<dyn Store>)> = vec![(self.location().to_owned(), self.shared.store.clone())];
        let beside = self.shared.beside.lock().unwrap_or_else(PoisonError::into_inner).clone();
        senders.extend(beside.into_iter().map(|(location, store)| (location.name().to_owned(), store)));
        let now = crate::now();
        self.blocking(move |_| {
            let mut found = Late { messages: Vec::new(), all: true };
            for (from, store) in senders {
                let late = |message: &Missing| is_late(now, message.since, after);
                let letters = store.dead_letters(MAX_LOOK)?;
                found.all &= letters.len() < MAX_LOOK;
                found.messages.extend(letters.iter().filter_map(|letter| dead(&from, letter)).filter(late));
                let (mut position, mut looked) = (0, 0);
                loop {
                    let page = store.outgoing(position, PAGE)?;
                    position = page.last().map_or(position, |(position, _)| *position);
                    looked += page.len();
                    let read: Vec<Missing> =
                        page.iter().filter_map(|(_, message)| on_its_way(&from, message)).collect();
                    // Positions follow times: behind a page of young messages there are only younger ones.
                    let young = !read.is_empty() && !read.iter().any(late);
                    found.messages.extend(read.into_iter().filter(late));
                    if page.len() < PAGE || young {
                        break;
                    }
                    if looked >= MAX_LOOK {
                        found.all = false;
                        break;
                    }
                }
            }
            Ok(found)
        })
        .await
    }
}

fn is_under_way(record: &WorkflowInstance) -> bool {
    !record.status.is_terminal() && record.status != Status::Suspended
}

fn is_late(now: Timestamp, since: Timestamp, after: Duration) -> bool {
    now.since(since) >= i64::try_from(after.as_millis()).unwrap_or(i64::MAX)
}

/// A message that brings work; none for news that no work waits for.
fn read(from: &str, message: &Outgoing) -> Option<Missing> {
    // What cannot be read belongs to no instance that could be named; it is told among the dead letters.
    let attributes: Attributes = serde_json::from_str(&message.envelope.text()).ok()?;
    let since = attributes.time.parse().ok()?;
    (attributes.pvnkind == "token").then(|| Missing {
        instance: attributes.pvninstance,
        from: from.to_owned(),
        to: message.to.clone(),
        event_type: attributes.type_,
        task: Some(attributes.subject).filter(|subject| subject.starts_with('/')),
        since,
        dead_letter: None,
        reason: None,
        remedy: String::new(),
    })
}

fn on_its_way(from: &str, message: &Outgoing) -> Option<Missing> {
    let missing = read(from, message)?;
    let remedy = format!(
        "the participant of {} has not taken it: see whether it runs, what its log says and whether its disk has room; the \
         message is sent again until then, and nothing else need be done",
        missing.to
    );
    Some(Missing { remedy, ..missing })
}

fn dead(from: &str, letter: &DeadLetter) -> Option<Missing> {
    let missing = read(from, &letter.message)?;
    let id = format!("{from}:{}", letter.position);
    let remedy = format!("remove the reason, then send it again: pavane redrive {id}");
    Some(Missing { dead_letter: Some(id), reason: Some(letter.reason.clone()), remedy, ..missing })
}
