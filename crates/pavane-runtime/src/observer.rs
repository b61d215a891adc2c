//! Observing: what participants did is copied to where people ask, beside the home's own record.
//!
//! No token waits for it. An observer reads a participant's history from where it left off and copies steps and rows of
//! tasks into the home's store, together with the positions it has come to: after any outage it goes on where it was,
//! and what comes twice changes nothing. Whoever asks for an instance makes it catch up first.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use pavane_core::program::Location;
use pavane_core::record::JournalEntry;
use pavane_store::{Commit, History, OBSERVED, Observed, Store};
use tokio::sync::Mutex;

use crate::{Engine, Error};

/// How long what a participant did may take to be seen, so that it is copied in large pieces.
const LAG: Duration = Duration::from_millis(500);

/// Steps, and rows of tasks, copied in one go: with five times as many the process held some 200 MiB more.
const PAGE: usize = 100;

/// How long somebody who asks waits for the observers to catch up: after that the answer is what is known.
const PATIENCE: Duration = Duration::from_secs(2);

/// The observer of one participant.
#[derive(Debug)]
pub(crate) struct Observer {
    location: Location,
    source: Arc<dyn Store>,
    /// Positions of the last step and the last row of a task copied; unknown until the home's store was asked.
    at: Mutex<Option<(u64, u64)>>,
}

impl Engine {
    /// Copies what a participant does into this engine's record, until either stops.
    pub fn observe(&self, participant: &Engine) {
        let observer = Arc::new(Observer {
            location: participant.shared.options.host.here.clone(),
            source: participant.shared.store.clone(),
            at: Mutex::default(),
        });
        self.shared.observers.lock().unwrap_or_else(PoisonError::into_inner).push(observer.clone());
        let (home, participant) = (self.clone(), participant.clone());
        tokio::spawn(async move {
            let mut stopping = home.shared.stopping.subscribe();
            while !*stopping.borrow_and_update() {
                match observer.catch_up(&home).await {
                    Ok(()) => {}
                    Err(Error::Stopping) => return,
                    Err(error) => return home.fail(&error),
                }
                tokio::select! {
                    () = participant.shared.moved.notified() => tokio::time::sleep(LAG).await,
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
                Ok(done) => done?,
                Err(_) => tracing::warn!(participant = observer.location.name(), "its record lags behind"),
            }
        }
        Ok(())
    }
}

impl Observer {
    /// Whom it observes, and where that one keeps what it sends.
    pub fn sender(&self) -> (String, Arc<dyn Store>) {
        (self.location.name().to_owned(), self.source.clone())
    }

    async fn catch_up(&self, home: &Engine) -> Result<(), Error> {
        let mut at = self.at.lock().await;
        let readers = ["steps", "tasks"].map(|what| format!("observe:{}:{what}", self.location.name()));
        if at.is_none() {
            let [steps, tasks] = readers.clone();
            *at = Some(home.blocking(move |store| Ok((store.cursor(&steps)?, store.cursor(&tasks)?))).await?);
        }
        while let Some((steps_after, tasks_after)) = *at {
            let source = self.source.clone();
            let history = tokio::task::spawn_blocking(move || source.history(steps_after, tasks_after, PAGE)).await;
            let History { steps: (steps, last_step), tasks: (tasks, last_task) } =
                history.map_err(|_| Error::Stopping)??;
            let full = steps.len() == PAGE || tasks.len() == PAGE;
            if steps.is_empty() && tasks.is_empty() {
                return Ok(());
            }
            let steps = self.placed(home, steps);
            let observed = steps.into_iter().map(Observed::Step).chain(tasks.into_iter().map(Observed::Task)).collect();
            let [steps_reader, tasks_reader] = readers.clone();
            let consumed = vec![(steps_reader, last_step), (tasks_reader, last_task)];
            home.commit(Commit { observed, consumed, ..Commit::default() }).await?;
            *at = Some((last_step, last_task));
            if !full {
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
