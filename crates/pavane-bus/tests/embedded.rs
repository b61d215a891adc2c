//! The embedded bus under the contract of every bus.

#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod contract;

use std::sync::Arc;

use contract::Transport;
use pavane_bus::{Bus, Consumer, Embedded};

struct InMemory(Arc<Embedded>);

impl InMemory {
    async fn new() -> InMemory {
        InMemory(Arc::default())
    }
}

impl Transport for InMemory {
    async fn sending(&self) -> Arc<dyn Bus> {
        self.0.clone()
    }

    async fn join(&self, name: &str, consumer: Arc<dyn Consumer>) {
        self.0.subscribe(name, consumer);
    }

    async fn leave(&self, name: &str) {
        self.0.unsubscribe(name);
    }
}

contract::suite!(InMemory::new());
