//! What a participant in a process of its own and the hub say to each other.
//!
//! Plain data in JSON, one type for each request and answer. A message travels as the text that its sender stored, byte by
//! byte: what is damaged arrives damaged, and its receiver says so. Raise [`PROTOCOL`] when one side could misread the
//! other.

use pavane_core::Timestamp;
use pavane_core::record::{JournalEntry, ServiceTask};
use pavane_store::{Deployed, History, Outgoing};
use serde::{Deserialize, Serialize};

use crate::Refusal;

/// The version of this protocol: both sides must have the same.
pub const PROTOCOL: u32 = 2;

/// A participant asks to be attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the participant.
    pub protocol: u32,
    /// The service it is the participant of.
    pub service: String,
    /// The version of its program, for people.
    pub version: String,
    /// Names its process: another one each time it is started.
    pub process: String,
    /// The identity of its store, above 0.
    pub store: u64,
    /// Its clock, in milliseconds since 1970.
    pub clock: i64,
}

/// It is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Names the attachment in all that follows.
    pub session: String,
    /// The version of the hub's program, for people.
    pub version: String,
    /// Digests of the definitions that it takes part in.
    pub definitions: Vec<String>,
}

/// A participant waits for what there is for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receive {
    /// The attachment.
    pub session: String,
    /// The number of the last errand that arrived; 0 at first. Those after it are sent again: an answer may get lost.
    pub after: u64,
}

/// What there is; empty when nothing came for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errands {
    /// In the order of their numbers.
    pub errands: Vec<Errand>,
}

/// Something for a participant to do, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errand {
    /// Its number in this attachment, from 1 upwards.
    pub number: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What a participant is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Take this message.
    Message {
        /// The envelope, as its sender stored it.
        envelope: String,
        /// Whether it may have been delivered before.
        redelivered: bool,
    },
    /// Tell what it did after these positions ([`pavane_store::Store::history`]).
    History {
        /// Of steps.
        steps_after: u64,
        /// Of rows of tasks.
        tasks_after: u64,
        /// At most as many of each.
        limit: usize,
    },
    /// Tell which of its messages nobody has taken for so many milliseconds.
    Late {
        /// Milliseconds.
        after: u64,
    },
    /// A service calls back.
    Callback(Callback),
}

/// A callback that came to the hub's process, as it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callback {
    /// What its URL holds. Whoever waits for it can tell whether it is genuine.
    pub token: String,
    /// Whether the service only says that it is at work.
    #[serde(default)]
    pub beat: bool,
    /// The answer, as JSON.
    #[serde(default)]
    pub body: String,
}

/// What came of a callback: the answer of an HTTP API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalledBack {
    /// 200 when it was taken.
    pub status: u16,
    /// The code of the problem otherwise.
    #[serde(default)]
    pub code: String,
    /// And what it says.
    #[serde(default)]
    pub detail: String,
}

/// What became of messages that a participant was to take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// The attachment.
    pub session: String,
    /// Numbers of errands, with what became of them.
    pub answers: Vec<(u64, Answer)>,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Its receiver has it durably.
    Taken,
    /// [`Refusal::Unavailable`].
    Unavailable(String),
    /// [`Refusal::Later`].
    Later(String),
    /// [`Refusal::Never`].
    Never(String),
}

/// A participant tells what it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// The attachment.
    pub session: String,
    /// The errand it answers.
    pub number: u64,
    /// What it tells.
    #[serde(flatten)]
    pub tale: Tale,
}

/// What a participant tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tale {
    /// To [`What::History`].
    History(Page),
    /// To [`What::Late`].
    Late(Late),
    /// To [`What::Callback`].
    CalledBack(CalledBack),
}

/// Messages that nobody has taken for too long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Late {
    /// What is known of each, as one engine describes it to another.
    pub messages: Vec<serde_json::Value>,
    /// Whether these are all.
    pub all: bool,
}

/// A page of a history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// Steps, with the digests of their programs.
    pub steps: Vec<(JournalEntry, String)>,
    /// The largest position of a step among them.
    pub last_step: u64,
    /// Rows of tasks.
    pub tasks: Vec<ServiceTask>,
    /// The largest position of a row among them.
    pub last_task: u64,
    /// Whether there is more.
    pub more: bool,
}

/// A participant did something: what it did may be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The attachment.
    pub session: String,
}

/// Messages for others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The attachment.
    pub session: String,
    /// Messages, each with its receiver.
    pub messages: Vec<Addressed>,
}

/// A message and its receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addressed {
    /// The receiver.
    pub to: String,
    /// The envelope.
    pub envelope: String,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
}

/// What became of the messages of a [`Publish`], in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// One for each message.
    pub answers: Vec<Answer>,
}

/// A definition, as it is deployed at the hub ([`pavane_store::Deployed`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Digest of its orchestrated program.
    pub digest: String,
    /// The document's text.
    pub text: String,
    /// Resources it was compiled with, a JSON object by URI.
    pub resources: String,
    /// When it was deployed, in milliseconds since 1970.
    pub deployed_at: i64,
}

impl From<&Deployed> for Definition {
    fn from(deployed: &Deployed) -> Definition {
        let Deployed { namespace, name, version, digest, text, resources, deployed_at } = deployed.clone();
        Definition { namespace, name, version, digest, text, resources, deployed_at: deployed_at.0 }
    }
}

impl From<Definition> for Deployed {
    fn from(definition: Definition) -> Deployed {
        let Definition { namespace, name, version, digest, text, resources, deployed_at } = definition;
        Deployed { namespace, name, version, digest, text, resources, deployed_at: Timestamp(deployed_at) }
    }
}

impl From<Result<(), Refusal>> for Answer {
    fn from(result: Result<(), Refusal>) -> Answer {
        match result {
            Ok(()) => Answer::Taken,
            Err(Refusal::Unavailable(why)) => Answer::Unavailable(why),
            Err(Refusal::Later(why)) => Answer::Later(why),
            Err(Refusal::Never(why)) => Answer::Never(why),
        }
    }
}

impl From<Answer> for Result<(), Refusal> {
    fn from(answer: Answer) -> Result<(), Refusal> {
        match answer {
            Answer::Taken => Ok(()),
            Answer::Unavailable(why) => Err(Refusal::Unavailable(why)),
            Answer::Later(why) => Err(Refusal::Later(why)),
            Answer::Never(why) => Err(Refusal::Never(why)),
        }
    }
}

impl From<Page> for History {
    fn from(page: Page) -> History {
        History { steps: (page.steps, page.last_step), tasks: (page.tasks, page.last_task) }
    }
}

impl Page {
    /// A page of what was read from a store.
    pub fn new(history: History, more: bool) -> Page {
        let History { steps: (steps, last_step), tasks: (tasks, last_task) } = history;
        Page { steps, last_step, tasks, last_task, more }
    }
}

impl From<Addressed> for Outgoing {
    /// As it came over the wire: nobody in this process made it.
    fn from(Addressed { to, envelope, redelivered }: Addressed) -> Outgoing {
        Outgoing { to, envelope: envelope.into(), content: None, redelivered }
    }
}

impl From<Outgoing> for Addressed {
    fn from(message: Outgoing) -> Addressed {
        Addressed { to: message.to, envelope: message.envelope.text().into_owned(), redelivered: message.redelivered }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    /// What is written is this text, and is read as what it was.
    fn is_written<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, text: Value) {
        let written = serde_json::to_string(value).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), text);
        assert_eq!(&serde_json::from_str::<T>(&written).unwrap(), value);
    }

    #[test]
    fn errands_and_answers_have_one_form() {
        let damaged = "no \u{0} JSON \"at all\"\n\u{fdd0}";
        is_written(
            &Errands {
                errands: vec![
                    Errand { number: 1, what: What::Message { envelope: damaged.into(), redelivered: true } },
                    Errand { number: 2, what: What::History { steps_after: 3, tasks_after: 4, limit: 5 } },
                    Errand { number: 3, what: What::Late { after: 60_000 } },
                ],
            },
            json!({ "errands": [
                { "number": 1, "message": { "envelope": damaged, "redelivered": true } },
                { "number": 2, "history": { "steps_after": 3, "tasks_after": 4, "limit": 5 } },
                { "number": 3, "late": { "after": 60_000 } },
            ] }),
        );
        let answers = vec![
            (1, Answer::Taken),
            (2, Answer::Later("not yet".into())),
            (3, Answer::Never("no".into())),
            (4, Answer::Unavailable("busy".into())),
        ];
        is_written(
            &Answers { session: "s".into(), answers },
            json!({ "session": "s", "answers": [
                [1, "taken"], [2, { "later": "not yet" }], [3, { "never": "no" }], [4, { "unavailable": "busy" }],
            ] }),
        );
    }

    #[test]
    fn answers_say_what_refusals_say() {
        let all = [
            Ok(()),
            Err(Refusal::Unavailable("u".into())),
            Err(Refusal::Later("l".into())),
            Err(Refusal::Never("n".into())),
        ];
        for result in all {
            let back: Result<(), Refusal> = Answer::from(result.clone()).into();
            assert_eq!(back, result);
        }
    }

    #[test]
    fn a_page_brings_what_was_read() {
        let entry = JournalEntry {
            workflow_instance_id: "i".into(),
            seq: 7,
            timestamp: Timestamp(5),
            event_type: "started".into(),
            subject: String::new(),
            service_task_id: Some("i:3".into()),
            correlation_id: "i".into(),
            causation_id: None,
            payload: "[{\"n\":9007199254740993}]".into(),
        };
        let history = History { steps: (vec![(entry, "d".into())], 12), tasks: (Vec::new(), 9) };
        let page = Page::new(history.clone(), true);
        let written = serde_json::to_string(&page).unwrap();
        assert_eq!(History::from(serde_json::from_str::<Page>(&written).unwrap()), history);
    }

    #[test]
    fn what_is_missing_or_unknown_is_no_request() {
        for text in ["{}", r#"{"session":"s"}"#, r#"{"session":"s","answers":[[1,"eaten"]]}"#, "[]", ""] {
            assert!(serde_json::from_str::<Answers>(text).is_err(), "{text}");
        }
    }
}
