//! The protocol of fork, join, fence, rollback and end, explored exhaustively over the real core.
//!
//! `a; fork { b1; b2 | c1; c2 }; d`, each task at a participant of its own choice, all compensable. The bus is a growing
//! set: a message may come at any time, in any order, as often as it likes. Each call succeeds or fails, its effect and
//! the commit of its answer are steps of their own, and the operator may cancel at any time. Every state that can be
//! reached this way is visited once.
//!
//! The small model (one task a branch) is explored to the end in every test run; of the full one as many states as
//! `PAVANE_MODEL_STATES` says (0: all of them), in an order that a seed decides.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at what it did not expect")]

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

use pavane_core::engine::{
    Call, Certainty, Command, Effect, Host, Input, Message, Outcome, Rejected, Start, State, decide,
};
use pavane_core::program::Program;
use pavane_core::record::Status;
use pavane_core::{Timestamp, Value};
use pavane_testkit::chance::Chance;
use pavane_testkit::compiled;
use pavane_testkit::services::failure;
use serde_json::json;

/// Time does not pass: nothing here depends on it.
const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// One state of everything.
#[derive(Clone)]
struct World {
    parts: Vec<Rc<Part>>,
    /// Everything ever sent, as text and as read from it, with its receiver.
    bus: BTreeMap<Rc<str>, (usize, Rc<Message>)>,
    /// What services did: key, then whose work and whether it had an effect.
    done: BTreeMap<String, (String, bool)>,
    /// Keys whose effect was undone.
    undone: BTreeSet<String>,
    cancelled: bool,
}

/// One location.
struct Part {
    state: State,
    /// Of all that decides what the state does.
    digest: u64,
}

impl Part {
    fn new(state: State) -> Rc<Part> {
        // The number of steps taken is no part of what a location knows of the instance.
        let text = format!("{state:?}");
        let (before, after) = text.split_once(" seq: ").unwrap_or((&text, ""));
        let after = after.split_once(',').map_or("", |(_, after)| after);
        let mut hasher = DefaultHasher::new();
        (before, after).hash(&mut hasher);
        Rc::new(Part { state, digest: hasher.finish() })
    }
}

struct Model {
    program: Program,
    hosts: Vec<Host>,
    compete: bool,
    /// Names of the tasks of each branch.
    branches: [Vec<&'static str>; 2],
}

#[derive(Debug, Default)]
struct Explored {
    states: usize,
    transitions: usize,
    ends: BTreeMap<&'static str, usize>,
    whole: bool,
}

impl Model {
    fn new(compete: bool, long: bool) -> Model {
        let call = |name: &str, service: &str| {
            json!({ name: {
                "call": "http",
                "with": { "method": "post", "endpoint": format!("http://{service}/{name}") },
                "metadata": { "pavane": { "compensate": "undo" } },
            } })
        };
        let list = |name: &str, tasks: &[(&str, &str)]| json!({ name: { "do": tasks.iter().map(|(task, service)| call(task, service)).collect::<Vec<_>>() } });
        let branches = if long {
            vec![list("b", &[("b1", "s1"), ("b2", "s2")]), list("c", &[("c1", "s3"), ("c2", "s1")])]
        } else {
            vec![call("b1", "s1"), call("c1", "s2")]
        };
        let document = json!({
            "document": { "dsl": "1.0.3", "namespace": "sim", "name": "model", "version": "1.0.0" },
            "use": { "functions": { "undo": { "call": "http", "with": { "method": "post", "endpoint": "http://s0/undo" } } } },
            "do": [call("a", "s0"), { "split": { "fork": { "compete": compete, "branches": branches } } }, call("d", "s0")],
        });
        let (_, (_, program)) = compiled(&document).unwrap();
        let hosts = program.locations().iter().map(|here| Host { here: here.clone(), ..Host::default() }).collect();
        let branches = if long { [vec!["b1", "b2"], vec!["c1", "c2"]] } else { [vec!["b1"], vec!["c1"]] };
        Model { program, hosts, compete, branches }
    }

    fn first(&self) -> World {
        let parts = self.hosts.iter().map(|_| Part::new(State::default())).collect();
        let world =
            World { parts, bus: BTreeMap::new(), done: BTreeMap::new(), undone: BTreeSet::new(), cancelled: false };
        let id = "00000000-0000-7000-8000-000000000001";
        let start = Start {
            id: id.into(),
            input: Value::empty_object(),
            correlation_id: id.into(),
            parent: None,
            trace: None,
            notify: None,
        };
        self.take(&world, 0, Command::Start(start)).unwrap()
    }

    /// What follows when a location takes an input; none when it refuses.
    fn take(&self, world: &World, part: usize, command: Command) -> Option<World> {
        let mut state = world.parts[part].state.clone();
        match decide(&self.program, &self.hosts[part], &mut state, Input { at: NOW, command }) {
            Ok(step) => {
                let mut next = world.clone();
                next.parts[part] = Part::new(state);
                for message in &step.send {
                    let envelope: Rc<str> = message.to_envelope(&self.program, NOW).into();
                    let read = Message::from_envelope(&envelope).unwrap();
                    let to = self.program.locations().iter().position(|at| *at == read.to).unwrap();
                    next.bus.insert(envelope, (to, Rc::new(read)));
                }
                Some(next)
            }
            Err(Rejected::Invalid(problem)) => panic!("refused: {problem:?}"),
            Err(_) => None,
        }
    }

    /// Everything that can happen next.
    fn next(&self, world: &World) -> Result<Vec<World>, String> {
        let mut out = Vec::new();
        for (to, message) in world.bus.values() {
            out.extend(self.take(world, *to, Command::Message(Box::new((**message).clone()))));
        }
        for part in 0..world.parts.len() {
            for effect in world.parts[part].state.outstanding() {
                let Effect::Call(call) = effect else { return Err("only calls are made".into()) };
                match world.done.get(&call.key) {
                    None => {
                        out.push(self.execute(world, &call, true)?);
                        if call.compensates.is_none() {
                            out.push(self.execute(world, &call, false)?);
                        }
                    }
                    Some((_, effect)) => {
                        let answer =
                            if *effect { Outcome::Success(Value::NULL) } else { failure(402, Certainty::Definite) };
                        out.extend(self.take(
                            world,
                            part,
                            Command::Outcome { call: call.id, outcome: answer, held: None },
                        ));
                    }
                }
            }
        }
        if !world.cancelled
            && let Some(next) = self.take(world, 0, Command::Cancel { reason: String::new() })
        {
            out.push(World { cancelled: true, ..next });
        }
        Ok(out)
    }

    /// A service does its work: the effect, without the commit of its answer.
    fn execute(&self, world: &World, call: &Call, effect: bool) -> Result<World, String> {
        let mut next = world.clone();
        let task = call.reference.rsplit('/').next().unwrap().to_owned();
        next.done.insert(call.key.clone(), (task, effect));
        if let Some(forward) = &call.compensates {
            if !world.done.get(forward).is_some_and(|(_, effect)| *effect) {
                return Err("undone without effect".into());
            }
            if !next.undone.insert(forward.clone()) {
                return Err("undone twice".into());
            }
            self.in_order(&next)?;
        }
        Ok(next)
    }

    /// Names of tasks whose effect stands, and of those whose effect was undone.
    fn tasks(world: &World) -> (BTreeSet<&str>, BTreeSet<&str>) {
        let (mut kept, mut undone) = (BTreeSet::new(), BTreeSet::new());
        for (key, (task, effect)) in &world.done {
            match world.undone.contains(key) {
                _ if !effect || task == "undo" => {}
                true => drop(undone.insert(task.as_str())),
                false => drop(kept.insert(task.as_str())),
            }
        }
        (kept, undone)
    }

    /// What was done later is undone before.
    fn in_order(&self, world: &World) -> Result<(), String> {
        let (kept, undone) = Model::tasks(world);
        if undone.contains("a") && !kept.is_empty() {
            return Err(format!("a was undone before {kept:?}"));
        }
        for branch in &self.branches {
            if let [first, second] = branch[..]
                && undone.contains(first)
                && kept.contains(second)
            {
                return Err(format!("{first} was undone before {second}"));
            }
            // The loser of a race is undone at any time.
            if !self.compete && branch.iter().any(|task| undone.contains(task)) && kept.contains("d") {
                return Err("a branch was undone before d".into());
            }
        }
        Ok(())
    }

    /// Nothing follows: was this the right end?
    fn at_end(&self, world: &World) -> Result<&'static str, String> {
        let engine = &world.parts[0].state;
        if !engine.is_closed() || world.parts.iter().any(|part| !part.state.is_idle()) {
            return Err(format!("a deadlock: the engine is {}", engine.status().as_str()));
        }
        let (kept, _) = Model::tasks(world);
        let whole = |branch: &Vec<&str>| branch.iter().all(|task| kept.contains(task));
        let nothing = |branch: &Vec<&str>| !branch.iter().any(|task| kept.contains(task));
        let [b, c] = &self.branches;
        let right = match engine.status() {
            Status::Completed if self.compete => {
                kept.contains("a") && kept.contains("d") && ((whole(b) && nothing(c)) || (whole(c) && nothing(b)))
            }
            Status::Completed => kept.contains("a") && kept.contains("d") && whole(b) && whole(c),
            _ => kept.is_empty(),
        };
        if right { Ok(engine.status().as_str()) } else { Err(format!("{} kept {kept:?}", engine.status().as_str())) }
    }

    /// Visits every state, or `limit` of them.
    fn explore(&self, limit: usize) -> Result<Explored, String> {
        let mut explored = Explored::default();
        let (mut seen, mut todo, mut chance) = (HashSet::new(), vec![self.first()], Chance::new(1));
        while !todo.is_empty() {
            // Mostly deep, so that ends are reached soon; not always, so that not all of them are alike.
            let near = if chance.percent(5) { 0 } else { todo.len().saturating_sub(16) };
            let world = todo.swap_remove(near + chance.below(todo.len() - near));
            explored.states += 1;
            let mut stuck = true;
            for next in self.next(&world)? {
                explored.transitions += 1;
                stuck = false;
                if seen.insert(digest(&next)) {
                    todo.push(next);
                }
            }
            if stuck {
                *explored.ends.entry(self.at_end(&world)?).or_default() += 1;
            }
            if explored.states == limit {
                return Ok(explored);
            }
        }
        explored.whole = true;
        Ok(explored)
    }
}

/// Two hashes of 64 bits: among some millions of states none will be taken for another.
fn digest(world: &World) -> (u64, u64) {
    let hash = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        world.parts.iter().for_each(|part| part.digest.hash(&mut hasher));
        world.bus.keys().for_each(|envelope| envelope.hash(&mut hasher));
        (&world.done, &world.undone, world.cancelled).hash(&mut hasher);
        hasher.finish()
    };
    (hash(0), hash(1))
}

fn check(compete: bool, long: bool, limit: usize) -> Explored {
    let explored = Model::new(compete, long).explore(limit).unwrap_or_else(|broken| panic!("{broken}"));
    println!("compete {compete}, long {long}: {explored:?}");
    explored
}

fn limit() -> usize {
    std::env::var("PAVANE_MODEL_STATES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

#[test]
fn a_small_fork_is_right_in_every_state() {
    let explored = check(false, false, usize::MAX);
    assert!(explored.whole && explored.ends.len() == 3, "{explored:?}");
}

#[test]
fn a_small_race_is_right_in_every_state() {
    let explored = check(true, false, usize::MAX);
    assert!(explored.whole && explored.ends.len() == 3, "{explored:?}");
}

#[test]
fn a_fork_is_right_in_every_state_visited() {
    assert!(!check(false, true, limit()).ends.is_empty());
}

#[test]
fn a_race_is_right_in_every_state_visited() {
    assert!(!check(true, true, limit()).ends.is_empty());
}
