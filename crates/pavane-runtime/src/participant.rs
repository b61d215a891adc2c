//! An engine on the bus: it takes messages for its location, and its relay publishes what it sends.
//!
//! A participant is an engine at the location of a service: beside the home, with which it then shares what is deployed
//! ([`Engine::participant`]), or in a process of its own ([`Engine::alone`]), where it learns definitions from the home.

use std::sync::Arc;

use pavane_bus::{Bus, Consumer, Handing, Progress, Refusal};
use pavane_core::engine::Message;
use pavane_store::{Commit, DeadLetter, Outgoing};

use crate::driver::Content;
use crate::{Engine, Error};

/// Dead letters listed: more of them are one trouble, not many.
const MAX_LETTERS: usize = 1_000;

impl Engine {
    /// From now on messages to its location are for it.
    pub fn subscribe(&self, bus: &dyn Bus) {
        bus.subscribe(self.location(), Arc::new(self.clone()));
    }

    /// Publishes what its steps send, until it stops; then it takes no more messages either.
    pub fn publish_to(&self, bus: Arc<dyn Bus>) {
        let engine = self.clone();
        tokio::spawn(async move {
            let shared = &engine.shared;
            let (store, stopping) = (shared.store.clone(), shared.stopping.subscribe());
            let done = shared.relay.run(store, shared.left, bus.clone(), stopping).await;
            bus.unsubscribe(engine.location());
            if let Err(error) = done {
                engine.fail(&Error::Store(error));
            }
        });
    }

    /// Whether instances begin and end here.
    pub(crate) fn is_home(&self) -> bool {
        self.shared.options.host.here.is_engine()
    }

    /// The name of its location: `engine`, or that of its service.
    pub fn location(&self) -> &str {
        self.shared.options.host.here.name()
    }

    /// Messages of its that could not be delivered, oldest first.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>, Error> {
        self.blocking(|store| store.dead_letters(MAX_LETTERS)).await
    }

    /// Sends a dead letter again; tells whether there is one at this position.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn redrive(&self, position: u64) -> Result<bool, Error> {
        let letter = self.dead_letters().await?.into_iter().find(|letter| letter.position == position);
        let Some(letter) = letter else { return Ok(false) };
        self.commit(Commit { redrive: vec![position], ..Commit::default() }).await?;
        self.shared.relay.offer(vec![(position, Outgoing { redelivered: true, ..letter.message })]);
        Ok(true)
    }

    /// How its messages fared since the start.
    pub fn progress(&self) -> Progress {
        self.shared.relay.progress()
    }
}

impl Consumer for Engine {
    fn take(&self, message: Outgoing) -> Handing {
        let redelivered = message.redelivered;
        let made_here = message.content.and_then(|content| content.downcast::<Content>().ok());
        let read = match made_here.map(Arc::unwrap_or_clone) {
            Some(Content { message, origin }) => Ok((message, Some(origin))),
            None => Message::from_envelope(&message.envelope.text()).map(|message| (Box::new(message), None)),
        };
        let (mut message, origin) = match read {
            Ok(read) => read,
            Err(why) => return Box::pin(std::future::ready(Err(Refusal::Never(why)))),
        };
        message.redelivered = redelivered;
        let engine = self.clone();
        // Most are of a program that is known, and then there is nothing to wait for but that it is durable.
        match self.shared.registry.by_digest(&message.digest) {
            Some(program) => {
                let handed = self.deliver(program, message, origin);
                Box::pin(async move { engine.answer(handed.map_err(refusal)?).await.map_err(refusal) })
            }
            None => Box::pin(async move {
                let program = engine.program_of(&message.digest).await.map_err(refusal)?;
                let handed = engine.deliver(program, message, origin);
                engine.answer(handed.map_err(refusal)?).await.map_err(refusal)
            }),
        }
    }
}

/// Why a message was not taken.
fn refusal(error: Error) -> Refusal {
    match error {
        Error::Busy { .. } | Error::Stopping | Error::Store(_) | Error::Away(_) => {
            Refusal::Unavailable(error.to_string())
        }
        // Its program may be deployed yet, or its instance may come to be able to go on.
        error => Refusal::Later(error.to_string()),
    }
}
