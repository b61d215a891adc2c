//! Observing: what participants in other processes did is copied to where people ask, beside the home's own record. What
//! a participant in this process did is read in its store, when somebody asks, and is copied nowhere.
//!
//! No token waits for it. An observer reads a participant's history from where it left off and copies steps and rows of
//! tasks into the home's store, together with the positions it has come to: after any outage it goes on where it was,
//! and what comes twice changes nothing. Whoever asks for an instance makes it catch up first.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use pavane_core::program::Location;
use pavane_core::record::JournalEntry;
use pavane_store::{Commit, History, OBSERVED, Observed, Store};
use tokio::sync::Mutex;

use crate::stuck::Late;
use crate::{Engine, Error};

/// How long what a participant did may take to be seen, so that it is copied in large pieces.
const LAG: Duration = Duration::from_millis(500);

/// Steps, and rows of tasks, copied in one go: with five times as many the process held some 200 MiB more.
const PAGE: usize = 100;

/// How long somebody who asks waits for the observers to catch up: after that the answer is what is known.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was read of a participant's history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Copied {
    /// Steps and rows of tasks.
    pub history: History,
    /// Whether there is more after them.
    pub more: bool,
}

/// Why nothing was read.
#[derive(Debug)]
pub enum Unread {
    /// The participant is away: it is read when it is back.
    Away(String),
    /// The store of this process failed, or the process is ending.
    Failed(Error),
}

/// What is awaited of a source.
pub type Reading<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where the history of a participant is read.
pub trait Source: Send + Sync + fmt::Debug {
    /// What it did after two positions, as [`pavane_store::Store::history`] says, at most `limit` of each.
    fn history(&self, steps_after: u64, tasks_after: u64, limit: usize) -> Reading<Result<Copied, Unread>>;

    /// Resolves when there may be something new.
    fn moved(&self) -> Reading<()>;

    /// Its store, when it is in this process: its record is read there.
    fn store(&self) -> Option<Arc<dyn Store>> {
        None
    }

    /// Its messages that nobody has taken for longer than `after`.
    fn late(&self, after: Duration) -> Reading<Result<Late, Unread>>;
}

/// A participant in this process.
impl Source for Engine {
    fn history(&self, steps_after: u64, tasks_after: u64, limit: usize) -> Reading<Result<Copied, Unread>> {
        let engine = self.clone();
        Box::pin(async move {
            let history = Engine::history(&engine, steps_after, tasks_after, limit).await.map_err(Unread::Failed)?;
            let more = history.steps.0.len() == limit || history.tasks.0.len() == limit;
            Ok(Copied { history, more })
        })
    }

    fn moved(&self) -> Reading<()> {
        let engine = self.clone();
        Box::pin(async move { Engine::moved(&engine).await })
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        Some(self.shared.store.clone())
    }

    fn late(&self, after: Duration) -> Reading<Result<Late, Unread>> {
        let engine = self.clone();
        Box::pin(async move { engine.late_here(after).await.map_err(Unread::Failed) })
    }
}

/// The observer of one participant.
#[derive(Debug)]
pub(crate) struct Observer {
    location: Location,
    source: Arc<dyn Source>,
    /// Positions of the last step and the last row of a task copied; unknown until the home's store was asked.
    at: Mutex<Option<(u64, u64)>>,
}

impl Engine {
    /// Makes what the participant of a service does a part of this engine's record: read where it is kept, or copied
    /// from now on until the engine stops.
    pub fn observe(&self, service: &str, source: Arc<dyn Source>) {
        let location = Location::Service(service.into());
        if let Some(store) = source.store() {
            self.shared.beside.lock().unwrap_or_else(PoisonError::into_inner).insert(location, store);
            return;
        }
        let observer = Arc::new(Observer { location, source: source.clone(), at: Mutex::default() });
        self.shared.observers.lock().unwrap_or_else(PoisonError::into_inner).push(observer.clone());
        let home = self.clone();
        tokio::spawn(async move {
            let mut stopping = home.shared.stopping.subscribe();
            while !*stopping.borrow_and_update() {
                match observer.catch_up(&home).await {
                    Ok(()) => {}
                    Err(Unread::Away(why)) => {
                        tracing::debug!(participant = observer.location.name(), why, "not observed")
                    }
                    Err(Unread::Failed(Error::Stopping)) => return,
                    Err(Unread::Failed(error)) => return home.fail(&error),
                }
                tokio::select! {
                    () = source.moved() => tokio::time::sleep(LAG).await,
                    _ = stopping.changed() => {}
                }
            }
        });
    }

    /// Lets the observers of the locations that an instance may have been at catch up.
    pub(crate) async fn observe_now(&self, locations: &[Location]) -> Result<(), Error> {
        let observers = self.shared.observers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for observer in observers.iter().filter(|observer| locations.contains(&observer.location)) {
            match tokio::time::timeout(PATIENCE, observer.catch_up(self)).await {
                Ok(Ok(())) => {}
                // The answer is what is known.
                Ok(Err(Unread::Away(why))) => {
                    tracing::debug!(participant = observer.location.name(), why, "its record lags behind");
                }
                Ok(Err(Unread::Failed(error))) => return Err(error),
                Err(_) => tracing::warn!(participant = observer.location.name(), "its record lags behind"),
            }
        }
        Ok(())
    }
}

impl Observer {
    /// Messages of the one it observes that nobody has taken for longer than `after`. Of one that is away, or does not
    /// answer in time, they are not known.
    pub async fn late(&self, after: Duration) -> Result<Late, Error> {
        match tokio::time::timeout(PATIENCE, self.source.late(after)).await {
            Ok(Ok(late)) => Ok(late),
            Ok(Err(Unread::Failed(error))) => Err(error),
            Ok(Err(Unread::Away(_))) | Err(_) => Ok(Late::default()),
        }
    }

    async fn catch_up(&self, home: &Engine) -> Result<(), Unread> {
        let mut at = self.at.lock().await;
        let readers = ["steps", "tasks"].map(|what| format!("observe:{}:{what}", self.location.name()));
        if at.is_none() {
            let [steps, tasks] = readers.clone();
            let known = home.blocking(move |store| Ok((store.cursor(&steps)?, store.cursor(&tasks)?))).await;
            *at = Some(known.map_err(Unread::Failed)?);
        }
        while let Some((steps_after, tasks_after)) = *at {
            let Copied { history, more } = self.source.history(steps_after, tasks_after, PAGE).await?;
            let History { steps: (steps, last_step), tasks: (tasks, last_task) } = history;
            if steps.is_empty() && tasks.is_empty() {
                return Ok(());
            }
            let steps = self.placed(home, steps);
            let observed = steps.into_iter().map(Observed::Step).chain(tasks.into_iter().map(Observed::Task)).collect();
            let [steps_reader, tasks_reader] = readers.clone();
            let (last_step, last_task) = (last_step.max(steps_after), last_task.max(tasks_after));
            let consumed = vec![(steps_reader, last_step), (tasks_reader, last_task)];
            home.commit(Commit { observed, consumed, ..Commit::default() }).await.map_err(Unread::Failed)?;
            *at = Some((last_step, last_task));
            if !more {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Steps at the positions they have at the home: those of each location follow those of the one before.
    fn placed(&self, home: &Engine, steps: Vec<(JournalEntry, String)>) -> Vec<JournalEntry> {
        let mut places: HashMap<String, Option<u64>> = HashMap::new();
        let mut placed = Vec::with_capacity(steps.len());
        for (mut entry, digest) in steps {
            let place = places.entry(digest).or_insert_with_key(|digest| {
                let program = home.shared.registry.by_digest(digest)?;
                program.locations().iter().position(|at| *at == self.location).map(|index| index as u64)
            });
            // A program that is not deployed here has no instance here.
            if let Some(index @ 1..) = *place {
                entry.seq += index * OBSERVED;
                placed.push(entry);
            }
        }
        placed
    }
}
