//! Placement: which location performs which node.
//!
//! A call belongs to the service that the host of its endpoint names, unless its `owner` says another. What has no effect
//! is not placed: it runs where the token is. Events and sub-workflows stay at the engine, the home of every instance,
//! because it is there from the start on; so does everything in a region with `placement: engine`. Placement is a total
//! function of document and services: equal input, equal placement, equal digest.

use std::collections::{BTreeMap, BTreeSet};

use super::ways::Ways;
use super::*;
use crate::definition::{Position, Severity, Task, codes};
use crate::id;

/// Participants of one workflow, at most: numbers of tokens and runs have room for as many.
pub(crate) const MAX_LOCATIONS: usize = 256;

pub(super) fn place(
    mut program: Program,
    definition: &Definition,
    services: Option<&BTreeSet<String>>,
) -> Result<Program, Vec<Diagnostic>> {
    let mut settings = BTreeMap::new();
    let functions: Vec<&[Task]> = definition.functions.values().map(std::slice::from_ref).collect();
    functions.into_iter().chain([&*definition.tasks]).for_each(|list| read(list, false, &mut settings));
    let mut placing = Placing { program: &program, definition, services, settings, problems: Vec::new() };
    let locations: Vec<Option<Location>> = program.nodes.iter().map(|node| placing.location(node)).collect();
    let used: BTreeSet<Location> = locations.iter().flatten().filter(|at| !at.is_engine()).cloned().collect();
    if used.len() >= MAX_LOCATIONS {
        let what = format!("the workflow has more than {} participants", MAX_LOCATIONS - 1);
        placing.problem(
            codes::NO_PARTICIPANT,
            "",
            what,
            "the numbers of their tokens have room for no more",
            "split it into sub-workflows",
        );
    }
    if let Some(id) = Ways::of(&program).spinning() {
        let node = program.node(id);
        placing.problem(
            codes::SPINS,
            &node.reference,
            format!("once work has come to `{}`, it goes in a circle for ever", node.name),
            "no way from here leads to the end, to a call, an event or a wait: the participant that has the work would spin",
            "give the circle a way out (a `switch` whose case goes on elsewhere), or something to wait for",
        );
    }
    if !placing.problems.is_empty() {
        return Err(placing.problems);
    }
    for (node, location) in program.nodes.iter_mut().zip(locations) {
        node.location = location;
    }
    program.locations.extend(used);
    let placed: BTreeMap<&str, &str> =
        program.nodes.iter().filter_map(|node| Some((&*node.reference, node.location.as_ref()?.name()))).collect();
    let text = placed.iter().fold(program.digest.clone(), |text, (task, at)| format!("{text}\n{task} {at}"));
    program.identify(id::digest(text.as_bytes()));
    Ok(program)
}

/// What a task says of its place.
struct Setting<'a> {
    at: Position,
    owner: Option<&'a str>,
    /// It is in a region that is placed at the engine.
    engine: bool,
}

fn read<'a>(tasks: &'a [Task], engine: bool, settings: &mut BTreeMap<&'a str, Setting<'a>>) {
    for task in tasks {
        let engine = engine || task.pavane.engine;
        let owner = task.pavane.owner.as_deref();
        settings.insert(&task.reference, Setting { at: task.at, owner, engine });
        task.lists().into_iter().for_each(|list| read(list, engine, settings));
    }
}

struct Placing<'a> {
    program: &'a Program,
    definition: &'a Definition,
    /// Those that have participants; absent: whoever is named has one.
    services: Option<&'a BTreeSet<String>>,
    settings: BTreeMap<&'a str, Setting<'a>>,
    problems: Vec<Diagnostic>,
}

impl Placing<'_> {
    /// Where a node belongs; none when it has no effect, or when there is a problem with it.
    fn location(&mut self, node: &Node) -> Option<Location> {
        let (owner, engine) = self.settings.get(&*node.reference).map_or((None, false), |s| (s.owner, s.engine));
        if engine {
            return effectful(node).then_some(Location::Engine);
        }
        if let Some(owner) = owner {
            return self.participant(node, owner, "its `owner`");
        }
        match &node.act {
            // A function has one place, whoever calls it.
            Act::Function { body, .. } => {
                let body = self.program.node(*body);
                // Its problems are told where it is defined.
                let told = self.problems.len();
                let location = self.location(body);
                self.problems.truncate(told);
                location
            }
            Act::Emit(_) | Act::Listen(_) | Act::Run(_) => Some(Location::Engine),
            _ => match host(endpoint(node)?) {
                Some(host) => self.participant(node, host, "the host of its endpoint"),
                None => {
                    self.problem(
                        codes::DYNAMIC_HOST,
                        &node.reference,
                        "the host of this endpoint is decided at run time".into(),
                        "a call belongs to the service that its host names, so that nobody can be chosen to make it",
                        "begin the endpoint with a fixed scheme and host; or name the service whose participant makes the call: `metadata: { pavane: { owner: NAME } }`; or let the engine make it: `metadata: { pavane: { placement: engine } }`",
                    );
                    None
                }
            },
        }
    }

    fn participant(&mut self, node: &Node, service: &str, named_by: &str) -> Option<Location> {
        if service != ENGINE && self.services.is_none_or(|services| services.contains(service)) {
            return Some(Location::Service(service.into()));
        }
        let mut known: Vec<&str> = self.services.into_iter().flatten().map(String::as_str).collect();
        known.truncate(10);
        let known = if known.is_empty() { "no service has one".to_owned() } else { known.join(", ") };
        self.problem(
            codes::NO_PARTICIPANT,
            &node.reference,
            format!("`{service}`, {named_by}, is no service with a participant (there are: {known})"),
            "in choreography every call is made by the participant of a service",
            "configure it under `services`; or let the participant of another service make the call: `metadata: { pavane: { owner: NAME } }`; or the engine: `metadata: { pavane: { placement: engine } }`",
        );
        None
    }

    fn problem(&mut self, code: &'static str, reference: &str, message: String, why: &str, help: &str) {
        self.problems.push(Diagnostic {
            code,
            severity: Severity::Error,
            file: self.definition.file.clone(),
            at: self.settings.get(reference).map_or_else(Position::default, |setting| setting.at),
            reference: reference.to_owned(),
            message,
            why: Some(why.to_owned()),
            help: Some(help.to_owned()),
        });
    }
}

/// Whether a node does something that must be done at one place.
fn effectful(node: &Node) -> bool {
    endpoint(node).is_some() || matches!(node.act, Act::Function { .. } | Act::Emit(_) | Act::Listen(_) | Act::Run(_))
}

/// Where a node's call goes; none when it makes none.
fn endpoint(node: &Node) -> Option<&UriCode> {
    called(&node.act)
}

/// Whether it is known whom a call goes to.
pub(super) fn names_host(act: &Act) -> bool {
    called(act).and_then(host).is_some()
}

fn called(act: &Act) -> Option<&UriCode> {
    match act {
        Act::Http(code) => Some(&code.uri),
        Act::OpenApi(code) => Some(&code.document),
        _ => None,
    }
}

/// The host that a URI names, when every value of it names the same.
fn host(uri: &UriCode) -> Option<&str> {
    let (text, whole) = match uri {
        UriCode::Text(text) => (text.as_str(), true),
        UriCode::Expression(expression) => (expression.prefix().text.as_str(), expression.prefix().whole),
    };
    let (_, rest) = text.split_once("://")?;
    let end = rest.find(['/', '?', '#']);
    // A beginning that ends within the authority does not tell it.
    let authority = end.map(|end| &rest[..end]).or(whole.then_some(rest))?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    Some(host).filter(|host| !host.is_empty() && !host.contains(['{', '}']))
}

impl Program {
    /// The hosts its calls name, as far as they are fixed and can be those of services.
    pub fn hosts(&self) -> BTreeSet<String> {
        let hosts = self.nodes.iter().filter_map(|node| host(endpoint(node)?));
        hosts.filter(|host| *host != ENGINE).map(str::to_owned).collect()
    }
}
