//! Delivering published events to the instances that listen: the embedded bus is the store's log, read by a cursor.
//!
//! An event is handed to each subscriber and the cursor moves on when all have it durably, so a crash delivers it
//! again; instances know an event they have seen by its source and id.

use std::collections::BTreeMap;

use pavane_core::engine::Command;
use pavane_core::event::CloudEvent;
use pavane_core::record::Status;
use pavane_store::Commit;
use tokio::task::JoinSet;

use crate::{Engine, Error};

/// The cursor's name in the store.
const READER: &str = "listen";

/// Events delivered before the cursor is written.
const BATCH: usize = 200;

/// Subscribers that are handed events at once: enough that their commits share transactions.
const AT_ONCE: usize = 64;

/// Delivers until the engine stops.
pub(crate) async fn dispatch(engine: Engine) {
    let mut stopping = engine.shared.stopping.subscribe();
    loop {
        let more = match deliver(&engine).await {
            Ok(count) => count > 0,
            Err(Error::Stopping) => return,
            // Without it events would wait for ever and nobody would know.
            Err(error) => return engine.fail(&error),
        };
        if *stopping.borrow_and_update() {
            return;
        }
        if !more {
            tokio::select! {
                () = engine.shared.published.notified() => {}
                _ = stopping.changed() => return,
            }
        }
    }
}

impl Engine {
    /// Published events that have not been delivered to everybody who listens, counted up to `limit`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn undelivered(&self, limit: usize) -> Result<usize, Error> {
        Ok(self.blocking(move |store| store.published(READER, limit)).await?.len())
    }

    /// How many instances have not ended, by status.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn open_instances(&self) -> Result<Vec<(Status, u64)>, Error> {
        self.blocking(|store| store.open_instances()).await
    }
}

async fn deliver(engine: &Engine) -> Result<usize, Error> {
    let events = engine.blocking(|store| store.published(READER, BATCH)).await?;
    let Some((last, _)) = events.last() else { return Ok(0) };
    let (last, count) = (*last, events.len());
    // Each subscriber gets its events in their order; subscribers do not wait for one another.
    let mut queues: BTreeMap<String, Vec<CloudEvent>> = BTreeMap::new();
    for (_, event) in events {
        let kind = event.type_();
        for id in engine.blocking(move |store| store.subscribers(&kind)).await? {
            queues.entry(id).or_default().push(event.clone());
        }
    }
    let mut delivering = JoinSet::new();
    for (id, events) in queues {
        if delivering.len() >= AT_ONCE
            && let Some(done) = delivering.join_next().await
        {
            done.unwrap_or(Err(Error::Stopping))?;
        }
        delivering.spawn(hand_over(engine.clone(), id, events));
    }
    while let Some(done) = delivering.join_next().await {
        done.unwrap_or(Err(Error::Stopping))?;
    }
    engine.commit(Commit { consumed: vec![(READER.to_owned(), last)], ..Commit::default() }).await?;
    Ok(count)
}

/// Hands one subscriber its events.
async fn hand_over(engine: Engine, id: String, events: Vec<CloudEvent>) -> Result<(), Error> {
    for event in events {
        match engine.command_patiently(&id, Command::Event(event)).await {
            // What has ended meanwhile, or wants it no more, needs it no more. One that cannot go on (its program is
            // missing, its journal is damaged) does not hold up the others; the driver has logged it.
            Ok(()) | Err(Error::UnknownInstance(_) | Error::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
