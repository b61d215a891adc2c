//! Tasks as data that stands on its own: every name of `use` replaced by what it names, what is not evaluated left out.

use serde_json::{Map, Value as Json, json};

use super::*;

/// What each part of a task is made of, beside what its kind says.
const ENTER: [&str; 3] = ["if", "input", "timeout"];
const LEAVE: [&str; 3] = ["output", "export", "then"];

/// A part of a task that somebody evaluates at some point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// `if`, `input`, `timeout`, and what it does.
    Enter,
    /// `output`, `export`, `then`, and how it is undone.
    Leave,
    /// Another iteration.
    Again,
    /// What to do about an error.
    Catch,
    /// Branches coming home.
    Join,
}

impl Part {
    pub fn name(self) -> &'static str {
        match self {
            Part::Enter => "enter",
            Part::Leave => "leave",
            Part::Again => "again",
            Part::Catch => "catch",
            Part::Join => "join",
        }
    }
}

impl Program {
    /// A part of a task as data; null when there is nothing to evaluate.
    pub(super) fn part(&self, node: &Node, part: Part) -> Json {
        let source = json!(node.source);
        let pick = |keys: &[&str]| {
            let found = keys.iter().filter_map(|key| Some(((*key).to_owned(), source.get(*key)?.clone())));
            found.collect::<Map<_, _>>()
        };
        let mut facts = match part {
            Part::Enter => {
                let mut facts = pick(&ENTER);
                facts.extend(self.act(node, &source));
                facts
            }
            Part::Leave => {
                let mut facts = pick(&LEAVE);
                if let Some(undo) = &node.undo {
                    let mut settings = source.pointer("/metadata/pavane/compensate").cloned().unwrap_or_default();
                    self.named(&mut settings, "retry", "retries");
                    let function = self.node(undo.function);
                    let at = function.location.as_ref().or(node.location.as_ref()).map(Location::name);
                    facts.insert("compensate".into(), json!({ "by": settings, "at": at }));
                }
                facts
            }
            Part::Again => match &node.act {
                Act::For(_) => pick(&["while"]),
                _ => without(source.get("foreach"), &["do"]),
            },
            Part::Catch => {
                let mut facts = without(source.get("catch"), &["do"]);
                if let Some(retry) = facts.get_mut("retry") {
                    self.resolved(retry, "retries");
                }
                if source.pointer("/metadata/pavane/rollback").is_some() {
                    facts.insert("rollback".into(), json!("none"));
                }
                facts
            }
            Part::Join => pick(&[]),
        };
        if let Act::Fork { compete, branches } = &node.act
            && matches!(part, Part::Enter | Part::Join)
        {
            let names: Vec<&str> = branches.iter().map(|branch| &*self.node(*branch).name).collect();
            facts.insert("branches".into(), json!(names));
            facts.insert("compete".into(), json!(compete));
        }
        if let Some(timeout) = facts.get_mut("timeout") {
            self.resolved(timeout, "timeouts");
        }
        for key in ["input", "output", "export"] {
            if let Some(filter) = facts.get_mut(key) {
                self.schema(filter);
            }
        }
        if facts.is_empty() { Json::Null } else { Json::Object(facts) }
    }

    /// What a task does, but for the lists in it.
    fn act(&self, node: &Node, source: &Json) -> Map<String, Json> {
        let keys: &[&str] = match &node.act {
            Act::Do { .. } | Act::Fork { .. } | Act::Try(_) => &[],
            Act::Set(_) => &["set"],
            Act::Switch(_) => &["switch"],
            Act::For(_) => &["for"],
            Act::Raise(_) => &["raise"],
            Act::Wait(_) => &["wait"],
            Act::Http(_) | Act::OpenApi(_) | Act::Function { .. } => &["call", "with"],
            Act::Emit(_) => &["emit"],
            Act::Listen(_) => &["listen"],
            Act::Run(_) => &["run"],
        };
        let mut facts: Map<_, _> =
            keys.iter().filter_map(|key| Some(((*key).to_owned(), source.get(*key)?.clone()))).collect();
        if let Some(raise) = facts.get_mut("raise") {
            self.named(raise, "error", "errors");
        }
        if let (Some(with), Act::Http(_) | Act::OpenApi(_)) = (facts.get_mut("with"), &node.act) {
            for place in ["", "/endpoint", "/document/endpoint"] {
                if let Some(authentication) = with.pointer_mut(place).and_then(|at| at.get_mut("authentication")) {
                    if let Some(name) = authentication.get("use").cloned() {
                        *authentication = name;
                    }
                    self.resolved(authentication, "authentications");
                }
            }
        }
        if let Act::Function { body, .. } = &node.act {
            facts.insert("function".into(), self.function(*body));
        }
        facts
    }

    /// A function, whole, with what it calls.
    pub(super) fn function(&self, id: NodeId) -> Json {
        let mut order = Vec::new();
        self.in_order(Some(id), &mut order);
        let parts = [Part::Enter, Part::Leave, Part::Again, Part::Catch];
        // What is in it is told by its own positions: it moves with the function as a whole.
        let tasks = order.iter().map(|id| {
            let node = self.node(*id);
            let facts = parts.iter().map(|part| (part.name().to_owned(), self.part(node, *part)));
            let facts: Map<_, _> = facts.filter(|(_, fact)| !fact.is_null()).collect();
            (node.reference.to_string(), Json::Object(facts))
        });
        Json::Object(tasks.collect())
    }

    /// What the engine alone evaluates: the workflow's own input, output and timeout.
    pub(super) fn frame(&self) -> Json {
        let mut facts = Map::new();
        for key in ["input", "output", "timeout"] {
            if let Some(value) = self.source().get(key) {
                facts.insert(key.into(), json!(value));
            }
        }
        if let Some(timeout) = facts.get_mut("timeout") {
            self.resolved(timeout, "timeouts");
        }
        for key in ["input", "output"] {
            if let Some(filter) = facts.get_mut(key) {
                self.schema(filter);
            }
        }
        Json::Object(facts)
    }

    /// A property that may name something in `use`.
    fn named(&self, of: &mut Json, key: &str, kind: &str) {
        if let Some(value) = of.get_mut(key) {
            self.resolved(value, kind);
        }
    }

    fn resolved(&self, value: &mut Json, kind: &str) {
        let meant = value.as_str().and_then(|name| self.source().get("use")?.get(kind)?.get(name));
        if let Some(meant) = meant {
            *value = json!(meant);
        }
    }

    /// A schema that was fetched counts with its content.
    fn schema(&self, filter: &mut Json) {
        let Some(schema) = filter.get_mut("schema").and_then(Json::as_object_mut) else { return };
        let endpoint = schema.get("resource").and_then(|resource| resource.get("endpoint"));
        let uri = endpoint.and_then(|at| at.as_str().or_else(|| at.get("uri")?.as_str()));
        if let Some(digest) = uri.and_then(|uri| self.resources.get(uri)) {
            schema.insert("digest".into(), json!(digest));
        }
    }
}

fn without(value: Option<&Json>, keys: &[&str]) -> Map<String, Json> {
    let mut facts = value.and_then(Json::as_object).cloned().unwrap_or_default();
    facts.retain(|key, _| !keys.contains(&key.as_str()));
    facts
}
