//! Placement: which location performs which node.
//!
//! A call belongs to the service that the host of its endpoint names. What has no effect is not placed: it runs where
//! the token is. Events and sub-workflows stay at the engine, the home of every instance, because it is there from the
//! start on. Placement is a total function of document and services: equal input, equal placement, equal digest.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::definition::{Position, Severity};
use crate::id;

/// Participants of one workflow, at most: numbers of tokens and runs have room for as many.
pub(crate) const MAX_LOCATIONS: usize = 256;

pub(super) fn place(
    mut program: Program,
    definition: &Definition,
    services: &BTreeSet<String>,
) -> Result<Program, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    for index in 0..program.nodes.len() {
        match owner(&program, &program.nodes[index], services) {
            Ok(location) => program.nodes[index].location = location,
            Err((code, message)) => problems.push(Diagnostic {
                code,
                severity: Severity::Error,
                file: definition.file.clone(),
                at: Position::default(),
                reference: program.nodes[index].reference.to_string(),
                message,
                why: None,
                help: None,
            }),
        }
    }
    let used: BTreeSet<Location> = program.nodes.iter().filter_map(|node| node.location.clone()).collect();
    program.locations.extend(used.into_iter().filter(|location| *location != Location::Engine));
    if program.locations.len() > MAX_LOCATIONS {
        problems.push(Diagnostic {
            code: "P102",
            severity: Severity::Error,
            file: definition.file.clone(),
            at: Position::default(),
            reference: String::new(),
            message: format!("the workflow calls more than {} services", MAX_LOCATIONS - 1),
            why: None,
            help: None,
        });
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let placed: BTreeMap<&str, &str> =
        program.nodes.iter().filter_map(|node| Some((&*node.reference, node.location.as_ref()?.name()))).collect();
    let text = placed.iter().fold(program.digest.clone(), |text, (task, at)| format!("{text}\n{task} {at}"));
    program.digest = id::digest(text.as_bytes());
    Ok(program)
}

/// Where a node's effect belongs; none when it has none.
fn owner(
    program: &Program,
    node: &Node,
    services: &BTreeSet<String>,
) -> Result<Option<Location>, (&'static str, String)> {
    let uri = match &node.act {
        Act::Http(code) => &code.uri,
        Act::OpenApi(code) => &code.document,
        Act::Function { body, .. } => {
            let body = program.node(*body);
            return if matches!(body.act, Act::Http(_) | Act::OpenApi(_)) {
                owner(program, body, services)
            } else {
                Ok(None)
            };
        }
        Act::Emit(_) | Act::Listen(_) | Act::Run(_) => return Ok(Some(Location::Engine)),
        _ => return Ok(None),
    };
    let UriCode::Text(text) = uri else {
        return Err(("P101", "the host of this endpoint is decided at run time".into()));
    };
    let authority = text.split_once("://").map_or("", |(_, rest)| rest).split(['/', '?', '#']).next().unwrap_or("");
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    if services.contains(host) {
        Ok(Some(Location::Service(host.into())))
    } else {
        Err(("P102", format!("the host `{host}` is no service of the configuration")))
    }
}
