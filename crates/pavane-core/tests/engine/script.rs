//! What a fixture says: a definition, and for each run its input and what the world around it does.
//!
//! A fixture is one YAML file. Its first document is the definition (the `document` header may be left out), each
//! further one a [`Run`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pavane_core::Value;
use pavane_core::engine::{Certainty, Held, Outcome};
use pavane_core::problem::{Kind, Problem};
use serde::Deserialize;

/// One fixture.
pub struct Fixture {
    /// Path below the folder of fixtures, without extension, with `/`.
    pub name: String,
    /// The definition's text.
    pub definition: String,
    /// At least one.
    pub runs: Vec<Run>,
}

/// One run of the definition.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// What it shows.
    #[serde(default)]
    pub run: String,
    /// Raw input; `{}` when left out.
    #[serde(default = "no_input")]
    pub input: serde_json::Value,
    /// Who is told of the end.
    #[serde(default)]
    pub notify: Option<String>,
    /// Secrets granted.
    #[serde(default)]
    pub secrets: BTreeMap<String, serde_json::Value>,
    /// Schemas by URI.
    #[serde(default)]
    pub resources: BTreeMap<String, serde_json::Value>,
    /// Answers given at once, by task reference or URI. One answer is given each time, those of a list one by one.
    #[serde(default)]
    pub calls: BTreeMap<String, Answers>,
    /// What else happens, in this order, each when nothing is left that answers at once. Timers fire after it.
    #[serde(default)]
    pub script: Vec<Happening>,
    /// Whether to show the standard's lifecycle events.
    #[serde(default)]
    pub lifecycle: bool,
}

fn no_input() -> serde_json::Value {
    serde_json::json!({})
}

/// Answers of one service or task.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Answers {
    /// In this order; then none.
    Each(Vec<Answer>),
    /// Every time.
    Always(Answer),
}

/// One answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// An HTTP status.
    Status(i64),
    /// `lost`: no answer. `refused`: the request never left. `accepted`: a callback is to come.
    Word(String),
    /// In full.
    Full(Full),
}

/// An answer with a body, or the end of a sub-workflow.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Full {
    status: Option<i64>,
    body: Option<serde_json::Value>,
    certainty: Option<Certainty>,
    /// What the error says.
    detail: Option<String>,
    /// The sub-workflow's error.
    error: Option<Problem>,
    /// What the call waited for before it was sent.
    held: Option<Box<Held>>,
}

/// Something that happens.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Happening {
    /// A call that waits is answered.
    Answer {
        /// Its task reference, or the number of the call as the transcript shows it.
        to: To,
        /// How.
        with: Answer,
    },
    /// The service of a call calls back.
    Callback {
        /// The reference of the task.
        to: String,
        /// How.
        with: Answer,
    },
    /// The service of the call of this task is still at work.
    Heartbeat(String),
    /// An event comes; what is left out of the envelope is filled in.
    Event(serde_json::Value),
    /// Time passes, timers fire: an ISO 8601 duration.
    Pass(String),
    /// The driver looks, whether anything is due or not.
    Tick,
    /// An operator cancels.
    Cancel(String),
    /// An operator suspends.
    Suspend,
    /// An operator resumes.
    Resume,
    /// An operator retries.
    Retry,
    /// The client starts it once more.
    StartAgain,
    /// The run is left here.
    Stop,
}

/// Which call.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum To {
    /// By number.
    Number(u32),
    /// By task reference.
    Reference(String),
}

impl Answer {
    /// What the driver reports of a call.
    pub fn outcome(&self) -> Outcome {
        let failure = |status: i64, certainty, why: String| Outcome::Failure {
            problem: Problem { status, ..Kind::Communication.problem(why) },
            certainty,
        };
        match self {
            Answer::Word(word) if word == "lost" => failure(500, Certainty::Indeterminate, "no answer".into()),
            Answer::Word(word) if word == "refused" => failure(500, Certainty::NotSent, "no connection".into()),
            Answer::Word(word) if word == "accepted" => Outcome::Accepted,
            Answer::Word(word) => panic!("no such answer: {word}"),
            Answer::Status(status) => Answer::Full(Full { status: Some(*status), ..Full::default() }).outcome(),
            Answer::Full(full) => match full.status.unwrap_or(200) {
                200..300 => Outcome::Success(full.body.as_ref().map(Value::from).unwrap_or_default()),
                status => {
                    let unknown = matches!(status, 502 | 504);
                    let known = if unknown { Certainty::Indeterminate } else { Certainty::Definite };
                    let said = full.detail.clone().unwrap_or_else(|| format!("the service answered {status}"));
                    failure(status, full.certainty.unwrap_or(known), said)
                }
            },
        }
    }

    /// What the call waited for.
    pub fn held(&self) -> Option<Held> {
        if let Answer::Full(full) = self { full.held.as_deref().cloned() } else { None }
    }

    /// What the driver reports of a sub-workflow.
    pub fn result(&self) -> Result<Value, Problem> {
        match self {
            Answer::Full(Full { error: Some(problem), .. }) => Err(problem.clone()),
            Answer::Full(Full { body, .. }) => Ok(body.as_ref().map(Value::from).unwrap_or_default()),
            other => panic!("no end of a sub-workflow: {other:?}"),
        }
    }
}

/// The folder of fixtures.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engine")
}

/// Every fixture, by name.
pub fn fixtures() -> Vec<Fixture> {
    let mut paths = Vec::new();
    collect(&folder(), &mut paths);
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|e| e == "yaml") {
            paths.push(path);
        }
    }
}

fn read(path: &Path) -> Fixture {
    let below = path.strip_prefix(folder()).unwrap().with_extension("");
    let name = below.iter().map(|part| part.to_str().unwrap()).collect::<Vec<_>>().join("/");
    let text = std::fs::read_to_string(path).unwrap();
    let mut parts = text.split("\n---\n");
    let mut definition = format!("{}\n", parts.next().unwrap_or_default());
    if !definition.lines().any(|line| line.starts_with("document:")) {
        let short = name.rsplit('/').next().unwrap();
        definition
            .push_str(&format!("document: {{ dsl: '1.0.3', namespace: test, name: {short}, version: '1.0.0' }}\n"));
    }
    let runs = parts.map(|part| {
        let data: serde_json::Value =
            serde_saphyr::from_str_with_options(part, serde_saphyr::options! { strict_booleans: true })
                .unwrap_or_else(|e| panic!("{name}: a run cannot be read: {e}\n{part}"));
        serde_json::from_value(data).unwrap_or_else(|e| panic!("{name}: a run is wrong: {e}\n{part}"))
    });
    let mut runs: Vec<Run> = runs.collect();
    if runs.is_empty() {
        runs.push(Run::default());
    }
    Fixture { name, definition, runs }
}
