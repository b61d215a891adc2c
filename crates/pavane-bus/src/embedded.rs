//! The embedded bus: a message goes from its sender's store straight to its receiver.

use std::sync::{Arc, PoisonError, RwLock};

use ahash::HashMap;
use pavane_store::Outgoing;

use crate::{Bus, Consumer, Handing, Refusal};

/// The bus of one process. Clones are handles of the same one.
#[derive(Clone, Debug, Default)]
pub struct Embedded {
    consumers: Arc<RwLock<HashMap<String, Arc<dyn Consumer>>>>,
}

impl Embedded {
    /// The participants that take messages now.
    pub fn participants(&self) -> Vec<String> {
        let consumers = self.consumers.read().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<String> = consumers.keys().cloned().collect();
        names.sort();
        names
    }
}

impl Bus for Embedded {
    fn publish(&self, message: Outgoing) -> Handing {
        let consumer = self.consumers.read().unwrap_or_else(PoisonError::into_inner).get(&message.to).cloned();
        match consumer {
            Some(consumer) => consumer.take(message),
            None => {
                let why = format!("the participant of `{}` is not there", message.to);
                Box::pin(std::future::ready(Err(Refusal::Unavailable(why))))
            }
        }
    }

    fn subscribe(&self, participant: &str, consumer: Arc<dyn Consumer>) {
        let mut consumers = self.consumers.write().unwrap_or_else(PoisonError::into_inner);
        consumers.insert(participant.to_owned(), consumer);
    }

    fn unsubscribe(&self, participant: &str) {
        self.consumers.write().unwrap_or_else(PoisonError::into_inner).remove(participant);
    }
}
