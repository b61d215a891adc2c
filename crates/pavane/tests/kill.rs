//! The real binary under load, killed at random moments, and an audit of what the services then have in their books.
//!
//! The services are a process of their own with ledgers on disk. Clients place orders and, when the connection is cut,
//! place them again under the same key. Every order that was accepted must be there and have ended exactly once, with
//! every effect done once or undone. In one test every other order is choreographed, so that the kills hit the engine, the bus
//! and every participant at once; in the other all are, and each participant is a process that is killed alone. The seed is
//! printed; `PAVANE_SEED` repeats its moments. Start reading at [`orders_survive_kills`].

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http::Method;
use pavane::client::{Answer, Server};
use pavane::demo::services::{Books, Fate, NAMES, audit};
use pavane_core::definition::Mode;
use serde_json::{Value, json};
use support::{PATIENCE, Process, Served};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Kills of the engine's process.
const KILLS: usize = 22;
/// After these kills of the engine, the services are killed, too.
const SERVICES_KILLED_AFTER: [usize; 2] = [7, 15];
/// Clients that place one order after another.
const CLIENTS: usize = 16;
/// Every so many orders one is placed without waiting: its acceptance alone must hold.
const ASYNC_EVERY: usize = 5;
/// Every so many orders one is given up when its connection is cut: nothing may have been done for it then unless the
/// server knows it, and what it knows it ends.
const GIVES_UP_EVERY: usize = 3;

/// Where participants are processes, the process that hosts the bus is killed as often.
const HUB_KILLED_EVERY: usize = 3;

/// What the clients know.
struct Load {
    /// The modes of the orders, in turn.
    modes: &'static [Mode],
    /// Where the server is; nobody there while it is dead.
    server: watch::Receiver<Option<Server>>,
    stop: AtomicBool,
    next: AtomicUsize,
    in_flight: AtomicUsize,
    /// Instance of each accepted order, and the status its client was told if it waited.
    accepted: Mutex<BTreeMap<String, (String, Option<String>)>>,
    /// Orders whose clients gave up.
    given_up: Mutex<BTreeSet<String>>,
    cut: AtomicUsize,
}

/// A test under way: services, clients, and chance.
struct Stage {
    seed: u64,
    chance: Chance,
    folder: tempfile::TempDir,
    /// The first of the services' ports; the two after theirs are the bus's and the server's.
    port: u16,
    services: Process,
    place: watch::Sender<Option<Server>>,
    load: Arc<Load>,
    clients: Vec<JoinHandle<()>>,
}

impl Stage {
    async fn set(modes: &'static [Mode]) -> Stage {
        let seed = std::env::var("PAVANE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_nanos() as u64
        });
        println!("PAVANE_SEED={seed}");
        let mut chance = Chance(seed);
        let folder = tempfile::tempdir().unwrap();
        let port = seven_ports(&mut chance);
        let services = start_services(port, folder.path()).await;
        let (place, server) = watch::channel(None);
        let load = Arc::new(Load {
            modes,
            server,
            stop: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            accepted: Mutex::default(),
            given_up: Mutex::default(),
            cut: AtomicUsize::new(0),
        });
        let clients = (0..CLIENTS).map(|_| tokio::spawn(client(load.clone()))).collect();
        Stage { seed, chance, folder, port, services, place, load, clients }
    }

    /// Lets the clients go on to a moment that chance chooses: from in the middle of recovery to well under way.
    async fn play(&mut self, served: &Served) {
        self.place.send_replace(Some(served.http.clone()));
        tokio::time::sleep(Duration::from_millis(20 + self.chance.below(1_500))).await;
        while self.load.in_flight.load(Ordering::SeqCst) == 0 {
            assert!(!self.clients.iter().any(|client| client.is_finished()), "a client failed: see above");
            tokio::task::yield_now().await;
        }
    }

    /// Kills the server.
    fn kill(&self, served: &mut Served) {
        self.place.send_replace(None);
        served.process.kill();
    }

    /// Lets every order end, and compares what is known of them with the services' books. `kills` are those that cut
    /// requests.
    async fn end(self, served: &Served, kills: usize) {
        let Stage { seed, port, place, load, clients, .. } = self;
        place.send_replace(Some(served.http.clone()));
        load.stop.store(true, Ordering::SeqCst);
        for client in clients {
            tokio::time::timeout(PATIENCE * 2, client)
                .await
                .expect("every order is answered")
                .expect("no client fails");
        }
        let cut = load.cut.load(Ordering::SeqCst);
        assert!(cut >= kills, "only {cut} requests were cut by {kills} kills");

        let mut accepted = std::mem::take(&mut *load.accepted.lock().unwrap());
        let mut problems = Vec::new();
        let given_up = std::mem::take(&mut *load.given_up.lock().unwrap());
        let known = all_instances(served).await;
        accepted.extend(given_up.iter().filter_map(|order| Some((order.clone(), (known.get(order)?.clone(), None)))));
        let strangers = known.keys().filter(|order| !accepted.contains_key(*order));
        problems.extend(strangers.map(|order| format!("order {order} has an instance and was never placed")));
        let fates = fates(served, &accepted, &mut problems).await;
        let books = books(port).await;
        let audit = audit(&books, &fates);
        problems.extend(audit.problems);
        let count = |wanted: fn(&Fate) -> bool| fates.values().filter(|fate| wanted(fate)).count();
        let (completed, undone) = (count(|f| *f == Fate::Completed), count(|f| *f == Fate::Undone));
        println!(
            "{cut} requests cut; {} orders, {} given up: {completed} completed, {undone} undone, {} unresolved; {} effects",
            fates.len(),
            given_up.len(),
            fates.len() - completed - undone,
            audit.effects
        );
        assert!(problems.is_empty(), "PAVANE_SEED={seed}: {} problems:\n{}", problems.len(), problems.join("\n"));
        assert!(completed > 0 && undone > 0, "the load is too kind: {completed} completed, {undone} undone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_survive_kills() {
    let mut stage = Stage::set(&Mode::ALL).await;
    let config = engine_config(&stage, "");
    let mut served = Served::start(&config).await;
    for kill in 0..KILLS {
        stage.play(&served).await;
        stage.kill(&mut served);
        served = Served::start(&config).await;
        if SERVICES_KILLED_AFTER.contains(&kill) {
            stage.place.send_replace(Some(served.http.clone()));
            tokio::time::sleep(Duration::from_millis(200 + stage.chance.below(500))).await;
            stage.services.kill();
            tokio::time::sleep(Duration::from_millis(stage.chance.below(500))).await;
            stage.services = start_services(stage.port, stage.folder.path()).await;
        }
    }
    stage.end(&served, KILLS).await;
}

/// Every participant is a process of its own: now one of them is killed, now the process that hosts the bus.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn choreographed_orders_survive_kills_of_participants_and_of_the_bus() {
    let mut stage = Stage::set(&[Mode::Choreography]).await;
    let config = engine_config(&stage, ", participant: remote");
    let mut served = Served::start(&config).await;
    let mut participants: Vec<Process> = NAMES.iter().map(|service| start_participant(&config, service)).collect();
    for kill in 0..KILLS {
        stage.play(&served).await;
        if kill % HUB_KILLED_EVERY == 0 {
            stage.kill(&mut served);
            tokio::time::sleep(Duration::from_millis(stage.chance.below(300))).await;
            served = Served::start(&config).await;
        } else {
            let at = stage.chance.below(NAMES.len() as u64) as usize;
            participants[at].kill();
            tokio::time::sleep(Duration::from_millis(stage.chance.below(300))).await;
            participants[at] = start_participant(&config, NAMES[at]);
        }
    }
    stage.end(&served, KILLS.div_ceil(HUB_KILLED_EVERY)).await;
    for participant in &mut participants {
        participant.signal("TERM");
        let status = participant.ended().await;
        assert!(status.success(), "{status}: {}", participant.stderr());
    }
}

fn start_participant(config: &Path, service: &str) -> Process {
    let config = config.to_str().unwrap();
    Process::start(&["serve", "--role", "participant", "--service", service, "-c", config])
}

/// Places orders until it is told to stop, each again and again under its key until it is answered.
async fn client(load: Arc<Load>) {
    while !load.stop.load(Ordering::SeqCst) {
        let number = load.next.fetch_add(1, Ordering::SeqCst);
        let order = format!("o-{number:06}");
        let waits = !number.is_multiple_of(ASYNC_EVERY);
        let Some(answer) = place(&load, &order, number, waits).await else {
            load.given_up.lock().unwrap().insert(order);
            continue;
        };
        let id = answer.body["id"].as_str().unwrap_or_else(|| panic!("order {order} has no id: {answer:?}")).to_owned();
        let status = match answer.status.as_u16() {
            202 => None,
            200 => Some("completed".to_owned()),
            _ if answer.body["code"] == "instance_faulted" => Some("faulted".to_owned()),
            _ => panic!("order {order} is refused: {answer:?}"),
        };
        load.accepted.lock().unwrap().insert(order, (id, status));
    }
}

async fn place(load: &Load, order: &str, number: usize, waits: bool) -> Option<Answer> {
    let pieces = 1 + number % 3;
    let body = json!({
        "orderId": order,
        "items": [{ "sku": "lute", "quantity": pieces }],
        "total": 1_900 * pieces,
        "address": { "street": "Rue de la Danse 4", "city": "Padova" },
        "email": format!("{order}@example.com"),
    });
    let mut headers = vec![("content-type", "application/json"), ("idempotency-key", order)];
    headers.extend(waits.then_some(("prefer", "wait=60")));
    let mode = load.modes[number % load.modes.len()];
    let path = format!("/api/v1/workflows/shop/order-fulfilment/instances?mode={}", mode.as_str());
    let mut place = load.server.clone();
    loop {
        let server = place.wait_for(Option::is_some).await.expect("the test goes on").clone().expect("it is some");
        load.in_flight.fetch_add(1, Ordering::SeqCst);
        let answer = server.ask(Method::POST, &path, &headers, body.to_string().into()).await;
        load.in_flight.fetch_sub(1, Ordering::SeqCst);
        match answer {
            Ok(answer) => return Some(answer),
            // The server was killed: this one is marked as seen, so the wait is for the next.
            Err(_) if place.has_changed().expect("the test goes on") => {
                load.cut.fetch_add(1, Ordering::SeqCst);
                if number.is_multiple_of(GIVES_UP_EVERY) {
                    return None;
                }
            }
            Err(error) => panic!("order {order}: the server was not killed, and yet: {error}"),
        }
    }
}

/// How each order ended, by the server's own record of it; what is lost or told otherwise is a problem.
async fn fates(
    served: &Served,
    accepted: &BTreeMap<String, (String, Option<String>)>,
    problems: &mut Vec<String>,
) -> BTreeMap<String, Fate> {
    let mut fates = BTreeMap::new();
    for (order, (id, told)) in accepted {
        let path = format!("/api/v1/instances/{id}");
        let answer = served.ask("GET", &path, &[("prefer", "wait=60")], "").await;
        if answer.status != 200 {
            problems.push(format!("order {order} was accepted as {id} and is lost: {answer:?}"));
            continue;
        }
        let status = answer.body["status"].as_str().unwrap_or_default();
        if told.as_deref().is_some_and(|told| told != status) {
            problems.push(format!("order {order} is {status}, but its client was told {told:?}"));
        }
        if answer.body["input"]["orderId"] != order.as_str() {
            problems.push(format!("order {order} has the instance of {}", answer.body["input"]["orderId"]));
        }
        let events = served.get(&format!("{path}/events")).await;
        let ends = ends(&events);
        if ends != [status] {
            problems.push(format!("order {order} is {status}, and ended by its events {ends:?}"));
        }
        match status {
            "completed" => drop(fates.insert(order.clone(), Fate::Completed)),
            "faulted" => {
                let fate = Fate::of_failed(&answer.body["compensation"]).expect("a compensation");
                fates.insert(order.clone(), fate);
            }
            other => problems.push(format!("order {order} does not end: it is {other}")),
        }
    }
    fates
}

/// The ends that an instance's lifecycle events tell.
fn ends(events: &Value) -> Vec<&str> {
    let types = events["events"].as_array().into_iter().flatten().filter_map(|event| event["type"].as_str());
    types
        .filter_map(|name| name.strip_prefix("io.serverlessworkflow.workflow.")?.strip_suffix(".v1"))
        .filter(|name| ["completed", "faulted", "cancelled"].contains(name))
        .collect()
}

/// The instance of each order the server knows, page by page.
async fn all_instances(served: &Served) -> BTreeMap<String, String> {
    let mut known = BTreeMap::new();
    let mut path = "/api/v1/instances?limit=200".to_owned();
    loop {
        let page = served.get(&path).await;
        for instance in page["instances"].as_array().expect("instances") {
            let part = |value: &Value| value.as_str().expect("a text").to_owned();
            let twice = known.insert(part(&instance["input"]["orderId"]), part(&instance["id"]));
            assert_eq!(twice, None, "an order has two instances: {instance}");
        }
        match page["next"].as_str() {
            Some(next) => path = format!("/api/v1/instances?limit=200&cursor={next}"),
            None => return known,
        }
    }
}

async fn books(port: u16) -> Vec<Books> {
    let mut books = Vec::new();
    for at in 0..5 {
        let service = Server::new(&format!("http://127.0.0.1:{}", port + at));
        let body = service.get(Method::GET, "/books", &[], "".into()).await.expect("the books");
        books.push(serde_json::from_value(body).expect("books"));
    }
    books
}

async fn start_services(port: u16, folder: &Path) -> Process {
    let (port, ledger) = (port.to_string(), folder.join("ledger"));
    let arguments = "--declined 8 --unavailable 10 --unshippable 8 --lost 3 --latency 15";
    let mut process = Process::start(
        &["demo-services", "--port", &port, "--ledger", ledger.to_str().unwrap()]
            .into_iter()
            .chain(arguments.split(' '))
            .collect::<Vec<_>>(),
    );
    process.line("ready").await;
    process
}

/// The configuration of the engine, and of its participants; `settings` go to each service.
fn engine_config(stage: &Stage, settings: &str) -> PathBuf {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/order-fulfilment/order.yaml");
    let folder = stage.folder.path();
    std::fs::copy(example, folder.join("workflow.yaml")).unwrap();
    let service = |(name, port): (&&str, u16)| {
        format!("  {name}: {{ url: 'http://127.0.0.1:{port}', idempotency: key, timeout: 5s{settings} }}\n")
    };
    let services: String = NAMES.iter().zip(stage.port..).map(service).collect();
    let file = folder.join("pavane.yaml");
    let (bus, admin) = (stage.port + 5, stage.port + 6);
    let text = format!(
        "listen: {{ admin: '127.0.0.1:{admin}', bus: '127.0.0.1:{bus}' }}\nstore: {{ sqlite: {{ path: ./pavane.db }} }}\n\
         bus: {{ embedded: {{ token: {{ value: a token for this test alone }} }} }}\n\
         workflows: [ ./workflow.yaml ]\nservices:\n{services}"
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// The first of seven ports that are free, outside the range that the system gives away by itself: the services, the bus
/// and the server come back on the same ones. Services call back to the server.
fn seven_ports(chance: &mut Chance) -> u16 {
    loop {
        let first = 15_000 + chance.below(15_000) as u16;
        let free: Vec<_> = (first..first + 7).map_while(|port| TcpListener::bind(("127.0.0.1", port)).ok()).collect();
        if free.len() == 7 {
            return first;
        }
    }
}

/// Numbers that follow from a seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
