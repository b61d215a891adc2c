//! A participant that has no home in its process: it learns what it takes part in, and its store is told from others.

use std::sync::Arc;

use pavane_bus::Embedded;
use pavane_core::definition::Mode;
use pavane_runtime::{Engine, Options, Recognized, StartRequest};
use pavane_store::Memory;

use crate::support::*;

const ONE: &str = "- a: { call: http, with: { method: post, endpoint: 'http://s/a' } }";

#[tokio::test]
async fn it_learns_what_it_takes_part_in_and_nothing_else_than_what_was_deployed() {
    let (script, mut made) = script();
    let services = ["s"].map(str::to_owned).into();
    let store = Gate::new(Arc::new(Memory::new()));
    let home = open_with(Options { services, ..Options::default() }, &store, script.clone()).await;
    let own = Arc::new(Memory::new());
    let alone = Engine::alone("s", Options::default(), own.clone(), script.clone()).await.unwrap();
    let bus = Arc::new(Embedded::default());
    for engine in [&home, &alone] {
        engine.subscribe(&*bus);
        engine.publish_to(bus.clone());
    }
    let digest = deploy(&home, "one", ONE).await;
    let [taken] = &home.taking_part("s")[..] else { panic!("{:?}", home.taking_part("s")) };
    assert!(home.taking_part("u").is_empty() && !alone.knows(taken));
    let definition = (*home.definition(&digest).unwrap()).clone();
    let other = ONE.replace("/a", "/b");
    let forged = pavane_store::Deployed { text: workflow("one", &other), ..definition.clone() };
    let refused = alone.learn(forged).await.unwrap_err();
    assert!(refused.contains("run the same version of Pavane in both"), "{refused}");
    alone.learn(definition).await.unwrap();
    assert!(alone.knows(taken));
    let id = home.start(StartRequest { mode: Some(Mode::Choreography), ..request("one") }).await.unwrap().id;
    made.recv().await.unwrap().succeed();
    assert_eq!(end(&home, &id).await, "completed");
    // Started again on its store, it knows what it learned.
    let again = Engine::alone("s", Options::default(), own, script).await.unwrap();
    assert!(again.knows(taken));
}

#[tokio::test]
async fn a_service_has_one_store() {
    let (script, _made) = script();
    let home = open_with(Options::default(), &Gate::new(Arc::new(Memory::new())), script.clone()).await;
    let mut identities = Vec::new();
    for store in [Arc::new(Memory::new()), Arc::new(Memory::new())] {
        let alone = Engine::alone("s", Options::default(), store, script.clone()).await.unwrap();
        let identity = alone.identity().await.unwrap();
        assert_eq!(alone.identity().await.unwrap(), identity);
        identities.push(identity);
    }
    assert_eq!(home.recognize("s", identities[0]).await.unwrap(), Recognized::New);
    assert_eq!(home.recognize("s", identities[0]).await.unwrap(), Recognized::Known);
    assert_eq!(home.recognize("s", identities[1]).await.unwrap(), Recognized::Other);
    assert_eq!(home.recognize("u", identities[1]).await.unwrap(), Recognized::New);
}
