//! Definition to located flow graph: every name resolved, every expression compiled, every node placed.
//!
//! A [`Program`] is what the machine runs and what an instance is pinned to by digest. It holds no state and performs
//! nothing. Each task of the definition is one [`Node`]; lists are chains of `next`. Start reading at [`Program::compile`].

mod advice;
mod compile;
mod explain;
mod exposure;
mod facts;
mod node;
mod paths;
mod place;
mod slice;
mod ways;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

pub use explain::{Explanation, HandOver, Participant, Rollback, TaskPlace};
pub use exposure::{Exposure, Reason};
pub use node::*;
pub use paths::{Cost, PathCost};
pub use slice::{Coupling, Next, Slice, Trigger, coupling};

use crate::definition::{self, Definition, Diagnostic, Document, Mode};
use crate::engine::Subscription;
use crate::expression::Template;
use crate::value::Value;

/// The version of everything that gives a document its meaning. It is part of every digest: raise it when the same
/// document would behave differently, so that running instances keep the meaning they started with.
const MEANING: &str = "pavane-1/jaq-3.1.2";

/// A compiled workflow.
#[derive(Debug)]
pub struct Program {
    document: Document,
    digest: String,
    source: Value,
    nodes: Vec<Node>,
    by_reference: HashMap<Arc<str>, NodeId>,
    entry: Option<NodeId>,
    input: FilterCode,
    output: FilterCode,
    timeout: Option<DurationCode>,
    secrets: Vec<String>,
    subscriptions: Vec<Subscription>,
    /// Digests of the documents it refers to by URI.
    resources: BTreeMap<String, String>,
    /// The engine, then the services that take part, by name.
    locations: Vec<Location>,
    /// Whether any expression reads what another evaluation of the same step would find changed.
    fleeting: bool,
    /// What the envelope of every message says of it.
    attributes: String,
}

/// Documents that a definition refers to by URI (schemas), fetched when it is deployed.
pub type Resources = BTreeMap<String, Value>;

impl Program {
    /// Compiles a definition.
    ///
    /// # Errors
    /// Every problem found: expressions that do not compile, schemas that are none, resources that are missing.
    pub fn compile(definition: &Definition, resources: &Resources) -> Result<Program, Vec<Diagnostic>> {
        compile::compile(definition, resources)
    }

    /// URIs of the resources a definition needs for [`Program::compile`], each once.
    pub fn resources_of(definition: &Definition) -> Vec<String> {
        let mut uris = Vec::new();
        visit_schemas(definition, &mut |schema| {
            if let definition::Schema::Resource { uri, .. } = schema
                && !uris.contains(uri)
            {
                uris.push(uri.clone());
            }
        });
        uris
    }

    /// Compiles a definition for choreography: each effect is placed at the service that owns it.
    ///
    /// # Errors
    /// As [`Program::compile`], and everything that cannot be placed (codes `P1xx`).
    pub fn choreograph(
        definition: &Definition,
        resources: &Resources,
        services: &BTreeSet<String>,
    ) -> Result<Program, Vec<Diagnostic>> {
        let program = compile::compile(definition, resources)?;
        place::place(program, definition, Some(services))
    }

    /// As [`Program::choreograph`], where whoever is named has a participant: for one that takes part and does not know
    /// the others. Where both give a program, it is the same one.
    ///
    /// # Errors
    /// As [`Program::choreograph`].
    pub fn choreograph_anywhere(definition: &Definition, resources: &Resources) -> Result<Program, Vec<Diagnostic>> {
        let program = compile::compile(definition, resources)?;
        place::place(program, definition, None)
    }

    /// Where its instances live: the engine first, then the services that take part, by name.
    pub fn locations(&self) -> &[Location] {
        &self.locations
    }

    /// The mode its placement amounts to.
    pub fn placed(&self) -> Mode {
        if self.locations.len() > 1 { Mode::Choreography } else { Mode::Orchestration }
    }

    /// Name, version and mode.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Mode the document asks for.
    pub fn mode(&self) -> Mode {
        self.document.mode
    }

    /// Hex SHA-256 over the document as data, its resources and the version of its meaning: equal digest, equal
    /// behaviour.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The document as data, for `$workflow.definition`.
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The node of a task reference; absent when the reference is of another program.
    pub fn find(&self, reference: &str) -> Option<NodeId> {
        self.by_reference.get(reference).copied()
    }

    /// The first node; absent for `do: []`.
    pub fn entry(&self) -> Option<NodeId> {
        self.entry
    }

    /// All nodes, in the order of the document.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    /// Makes this its digest.
    fn identify(&mut self, digest: String) {
        let Document { namespace, name, version, .. } = &self.document;
        let workflow = format!("{namespace}.{name}");
        let short = digest.get(..16).unwrap_or(&digest);
        let members = [("pvnworkflow", workflow.as_str()), ("pvnversion", version), ("pvndigest", short)];
        self.attributes = members.map(|(name, value)| format!(",\"{name}\":{}", Value::text(value).to_json())).concat();
        self.digest = digest;
    }

    /// The attributes of a message's envelope that tell its program: members of a JSON object, each after a comma.
    pub(crate) fn attributes(&self) -> &str {
        &self.attributes
    }

    /// Whether a step decided again, on the same state but later, may come to other requests.
    pub(crate) fn is_fleeting(&self) -> bool {
        self.fleeting
    }

    /// Whether branches may come home after the instance has ended: losers of races do.
    pub fn has_races(&self) -> bool {
        self.nodes.iter().any(|node| matches!(node.act, Act::Fork { compete: true, .. }))
    }

    /// Whether any of its calls awaits a callback.
    pub fn awaits_callbacks(&self) -> bool {
        self.nodes.iter().any(|node| node.callback.is_some())
    }

    /// Everything in a raw input that does not fit the schema: where, as a JSON pointer, and why. A start refuses such
    /// an input, too; this tells all of it beforehand.
    pub fn input_violations(&self, input: &Value) -> Vec<(String, String)> {
        self.input.schema.as_ref().map(|schema| schema.violations(input)).unwrap_or_default()
    }

    pub(crate) fn input(&self) -> &FilterCode {
        &self.input
    }

    pub(crate) fn output(&self) -> &FilterCode {
        &self.output
    }

    pub(crate) fn timeout(&self) -> Option<&DurationCode> {
        self.timeout.as_ref()
    }

    pub(crate) fn secrets(&self) -> &[String] {
        &self.secrets
    }

    /// What an instance of this program listens to, from its start on.
    pub fn subscriptions(&self) -> &[Subscription] {
        &self.subscriptions
    }
}

/// Shows every schema of a definition to `see`, in the order of the document.
fn visit_schemas<'a>(definition: &'a Definition, see: &mut dyn FnMut(&'a definition::Schema)) {
    fn filters<'a>(list: &[&'a definition::Filter], see: &mut dyn FnMut(&'a definition::Schema)) {
        for schema in list.iter().filter_map(|f| f.schema.as_ref()) {
            see(schema);
        }
    }
    fn tasks<'a>(list: &'a [definition::Task], see: &mut dyn FnMut(&'a definition::Schema)) {
        for task in list {
            filters(&[&task.input, &task.output, &task.export], see);
            task.lists().into_iter().for_each(|list| tasks(list, see));
            if let definition::TaskKind::Listen(listen) = &task.kind
                && let Some(foreach) = &listen.foreach
            {
                filters(&[&foreach.output, &foreach.export], see);
            }
        }
    }
    filters(&[&definition.input, &definition.output], see);
    for function in definition.functions.values() {
        tasks(std::slice::from_ref(function), see);
    }
    tasks(&definition.tasks, see);
}
