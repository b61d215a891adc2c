//! What is compared: a workflow that both modes can run, its input, and who answers its calls.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use pavane_core::definition::{self, Definition, Diagnostic};
use pavane_core::program::{Explanation, Program, Resources};
use serde::Serialize;
use serde_json::Value;

use crate::config::Config;
use crate::demo;
use crate::demo::services::NAMES;

/// Who answers the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answering {
    /// The demo's services, whose books are audited.
    Demo,
    /// Stand-ins that answer every call with 200 and what they were sent.
    StandIns,
    /// The services of the configuration: theirs, not ours.
    Configured,
}

/// A workflow to compare.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// Its file, then those deployed beside it.
    pub texts: Vec<(String, String)>,
    /// The configuration as it stands, with its folder, when the services are configured.
    pub config: Option<(Value, PathBuf)>,
    /// Every service that has a participant: more than it calls, when they are configured.
    pub participants: BTreeSet<String>,
    /// Who answers.
    pub answering: Answering,
    /// Given by the user.
    pub input: Option<Value>,
    /// Namespace, name, version.
    pub identity: [String; 3],
    /// Digest of the orchestrated program.
    pub digest: String,
    /// What choreography makes of it.
    pub explanation: Explanation,
}

impl Subject {
    /// Reads the workflow, the files beside it, and the configuration, when there is one.
    ///
    /// # Errors
    /// What is wrong with them, or why the workflow cannot run in both modes.
    pub fn read(files: &[PathBuf], config: Option<&Path>, input: Option<Value>) -> Result<Subject, String> {
        let mut texts = Vec::new();
        let mut called = BTreeSet::new();
        let mut definitions = Vec::new();
        for file in files {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(file).map_err(|e| format!("{name}: {e}"))?;
            let definition = read(&name, &text)?;
            called.extend(Program::compile(&definition, &stand_ins(&definition)).map_err(told)?.hosts());
            definitions.push(definition);
            texts.push((name, text));
        }
        let definition = definitions.first().ok_or("name a definition to compare")?;
        let config = config.map(configured).transpose()?;
        let participants = match &config {
            Some((config, _, _)) => config.services.keys().cloned().collect(),
            None => called.clone(),
        };
        let resources = stand_ins(definition);
        let orchestrated = Program::compile(definition, &resources).map_err(told)?;
        let choreographed = Program::choreograph(definition, &resources, &participants)
            .map_err(|problems| format!("it runs in one mode only: it cannot be choreographed\n{}", told(problems)))?;
        let document = orchestrated.document();
        let demo = read("order-fulfilment.yaml", demo::WORKFLOW)?;
        let demo = Program::compile(&demo, &stand_ins(&demo)).map_err(told)?;
        let answering = match &config {
            Some(_) => Answering::Configured,
            None if demo.digest() == orchestrated.digest() && called.iter().eq(&demo_services()) => Answering::Demo,
            None => Answering::StandIns,
        };
        Ok(Subject {
            identity: [&document.namespace, &document.name, &document.version].map(ToString::to_string),
            digest: orchestrated.digest().to_owned(),
            explanation: choreographed.explain(),
            config: config.map(|(_, value, folder)| (value, folder)),
            texts,
            participants,
            answering,
            input,
        })
    }

    /// The definition compiled for both modes can be had again from its text.
    pub fn text(&self) -> (&str, &str) {
        self.texts.first().map_or(("", ""), |(name, text)| (name, text))
    }

    /// The input of an instance: the demo's order of that number, or what the user gave.
    pub fn input(&self, id: &str, number: u64) -> Value {
        match (self.answering, &self.input) {
            (Answering::Demo, given) => {
                let mut order = demo::order_of(id, usize::try_from(number).unwrap_or(0));
                if let (Some(Value::Object(given)), Some(order)) = (given, order.as_object_mut()) {
                    // Whose order it is must stay, for the audit.
                    order
                        .extend(given.iter().filter(|(key, _)| *key != "orderId").map(|(k, v)| (k.clone(), v.clone())));
                }
                order
            }
            (_, Some(given)) => given.clone(),
            (_, None) => serde_json::json!({}),
        }
    }

    /// Who answers, in words.
    pub fn answered_by(&self) -> &'static str {
        match self.answering {
            Answering::Demo => "the demo's five services, a process each, with books on disk",
            Answering::StandIns => {
                "stand-ins, a process for each service: every call is answered 200 with what it sent and an id"
            }
            Answering::Configured => {
                "the services of the configuration: they are not ours, so that their CPU, memory and bytes are not known, and nothing of theirs is killed"
            }
        }
    }
}

fn demo_services() -> BTreeSet<String> {
    NAMES.iter().map(|name| (*name).to_owned()).collect()
}

/// Reads a definition that must be without errors.
pub(super) fn read(name: &str, text: &str) -> Result<Definition, String> {
    let reading = definition::read(name, text);
    match (reading.has_errors(), reading.definition) {
        (false, Some(definition)) => Ok(definition),
        _ => Err(told(reading.diagnostics)),
    }
}

/// Diagnostics as a text.
pub(super) fn told(problems: Vec<Diagnostic>) -> String {
    problems.iter().map(ToString::to_string).collect()
}

/// Stand-ins for the schemas that a definition refers to.
pub(super) fn stand_ins(definition: &Definition) -> Resources {
    Program::resources_of(definition).into_iter().map(|uri| (uri, pavane_core::Value::empty_object())).collect()
}

/// A configuration, checked, and as it stands.
fn configured(path: &Path) -> Result<(Config, Value, PathBuf), String> {
    let config = Config::read(path).map_err(|problems| problems.join("\n"))?;
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| format!("{name}: {e}"))?;
    let value: BTreeMap<String, Value> = serde_saphyr::from_str(&text).map_err(|e| format!("{name}: {e}"))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let folder = std::path::absolute(folder).map_err(|e| format!("{name}: {e}"))?;
    Ok((config, Value::Object(value.into_iter().collect()), folder))
}
