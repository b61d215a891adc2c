//! The bus over HTTP under the contract of every bus: each participant has a link of its own to one hub.

#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

#[path = "../../pavane-bus/tests/contract/mod.rs"]
mod contract;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use contract::Transport;
use pavane::api::bus::router;
use pavane::participant::{Caller, Link, Standing};
use pavane_bus::{Bus, Consumer, Embedded, Hub};
use pavane_runtime::effects::{Network, NetworkOptions};
use pavane_runtime::{Engine, Options};
use pavane_store::Memory;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const TOKEN: &str = "a token for this test alone";

struct OverHttp {
    hub: Hub,
    url: String,
    /// An engine that does nothing: what it did is what the links tell.
    idle: Engine,
    joined: Mutex<BTreeMap<String, JoinHandle<()>>>,
    senders: Mutex<u64>,
}

impl OverHttp {
    async fn new() -> OverHttp {
        let names = ["a", "b", "sender-1", "sender-2"].map(str::to_owned);
        let hub = Hub::new(Arc::new(Embedded::default()), names.into(), BTreeSet::new());
        let network = Network::new(NetworkOptions::default()).unwrap();
        let idle = Engine::open(Options::default(), Arc::new(Memory::new()), Arc::new(network)).await.unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = router(hub.clone(), idle.clone(), Some(TOKEN.into()));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        OverHttp { hub, url, idle, joined: Mutex::default(), senders: Mutex::default() }
    }

    /// A link that is attached.
    async fn link(&self, name: &str, consumer: Option<Arc<dyn Consumer>>) -> Arc<Link> {
        let caller = Arc::new(Caller::new(&self.url, Some(TOKEN)));
        let link = Arc::new(Link::new(caller, name, 1, self.idle.clone()));
        if let Some(consumer) = consumer {
            link.subscribe(name, consumer);
        }
        let running = link.clone();
        let run = tokio::spawn(async move { running.run(async |_| {}).await.unwrap() });
        while !matches!(link.standing(), Standing::Attached(_)) {
            assert!(!run.is_finished());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.joined.lock().unwrap().insert(name.to_owned(), run);
        link
    }
}

impl Transport for OverHttp {
    async fn sending(&self) -> Arc<dyn Bus> {
        let number = {
            let mut senders = self.senders.lock().unwrap();
            *senders += 1;
            *senders
        };
        self.link(&format!("sender-{number}"), None).await
    }

    async fn join(&self, name: &str, consumer: Arc<dyn Consumer>) {
        self.leave(name).await;
        self.link(name, Some(consumer)).await;
    }

    async fn leave(&self, name: &str) {
        let joined = self.joined.lock().unwrap().remove(name);
        let Some(joined) = joined else { return };
        joined.abort();
        while !self.hub.missing().iter().any(|missing| missing == name) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

contract::suite!(OverHttp::new());
