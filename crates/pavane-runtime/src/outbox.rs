//! Delivering published events to the instances that listen: the embedded bus is the store's log, read by a cursor.
//!
//! An event is handed to each subscriber and the cursor moves on when all have it durably, so a crash delivers it
//! again; instances know an event they have seen by its source and id.

use std::time::Duration;

use pavane_core::engine::Command;
use pavane_store::Commit;

use crate::{Engine, Error};

/// The cursor's name in the store.
const READER: &str = "listen";

/// Events delivered before the cursor is written.
const BATCH: usize = 200;

/// How long to wait after a delivery that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// Delivers until the engine stops.
pub(crate) async fn dispatch(engine: Engine) {
    let mut stopping = engine.shared.stopping.subscribe();
    loop {
        let more = match deliver(&engine).await {
            Ok(count) => count > 0,
            Err(Error::Stopping | Error::Store(_)) => return,
            Err(error) => {
                tracing::warn!(%error, "events wait to be delivered");
                tokio::time::sleep(PAUSE).await;
                true
            }
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

async fn deliver(engine: &Engine) -> Result<usize, Error> {
    let events = engine.blocking(|store| store.published(READER, BATCH)).await?;
    let Some((last, _)) = events.last() else { return Ok(0) };
    let (last, count) = (*last, events.len());
    for (_, event) in events {
        let kind = event.type_();
        for id in engine.blocking(move |store| store.subscribers(&kind)).await? {
            match engine.command(&id, Command::Event(event.clone())).await {
                // What has ended meanwhile, or wants it no more, needs it no more.
                Ok(()) | Err(Error::UnknownInstance(_) | Error::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    engine.commit(Commit { consumed: Some((READER.to_owned(), last)), ..Commit::default() }).await?;
    Ok(count)
}
