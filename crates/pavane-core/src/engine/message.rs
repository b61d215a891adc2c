//! Messages between the locations of one instance: what moves when a token does.
//!
//! A token is at one location or in one message, never at both. Messages may be repeated and may overtake each other:
//! each is numbered by its sender for its receiver, and a receiver takes each number once.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::event::TokenId;
use super::state::{Arrival, Entry, Token};
use super::types::Start;
use crate::definition::Document;
use crate::id;
use crate::problem::Problem;
use crate::program::{Location, NodeId, Program};
use crate::record::Status;
use crate::time::Timestamp;

/// The form of the data in a message. A participant refuses a form that it does not know.
const FORM: &str = "v1";

/// About how long the attributes of an envelope are.
const ATTRIBUTES: usize = 1_024;

/// A message from one location of an instance to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// The instance.
    pub instance: String,
    /// Digest of the program that both locations follow.
    pub digest: String,
    /// Who sends.
    pub from: Location,
    /// Who receives.
    pub to: Location,
    /// Position among the messages from this sender to this receiver about this instance, from 1.
    pub number: u64,
    /// Whether it may have been delivered before: it may then have led to a call that is in no journal
    /// ([`super::Step::may_wait`]). The bus says so, not the sender.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redelivered: bool,
    /// What a location that never saw the instance must know.
    pub(super) header: Header,
    /// What to do.
    pub(super) body: Body,
    /// References of tasks undone since the sender last said so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) compensated: Vec<Arc<str>>,
    /// What could not be undone, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) unresolved: Vec<(Entry, String)>,
    #[serde(skip)]
    pub(super) written: Written,
}

/// A message as JSON, see [`Message::write`].
#[derive(Clone, Default)]
pub(super) struct Written(Option<Arc<RawValue>>);

/// It says nothing that the message does not: messages are equal, and look equal, with it and without.
impl PartialEq for Written {
    fn eq(&self, _: &Written) -> bool {
        true
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("_")
    }
}

/// Writes a message: as it was written before, if it was.
pub(super) fn write_message<S: Serializer>(message: &Message, to: S) -> Result<S::Ok, S::Error> {
    match &message.written.0 {
        // That it came again is not in what its sender wrote.
        Some(text) if !message.redelivered => text.serialize(to),
        _ => message.serialize(to),
    }
}

/// A message as a CloudEvent, attribute by attribute.
#[derive(Serialize)]
struct Envelope<'a> {
    specversion: &'a str,
    id: String,
    source: String,
    #[serde(rename = "type")]
    type_: String,
    time: String,
    datacontenttype: &'a str,
    subject: String,
    correlationid: &'a str,
    partitionkey: &'a str,
    pvninstance: &'a str,
    pvnworkflow: String,
    pvnversion: &'a str,
    pvndigest: &'a str,
    pvnto: &'a str,
    pvnkind: &'a str,
    #[serde(serialize_with = "write_message")]
    data: &'a Message,
}

/// A writer that keeps nothing but the number of bytes.
struct Count(usize);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What every location knows of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Header {
    pub start: Start,
    pub started_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
}

/// What a message does at its receiver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Body {
    /// A token goes on here.
    Token { t: TokenId, token: Box<Token>, errand: Errand },
    /// A branch came home to its join.
    Report { parent: TokenId, t: TokenId, index: u32, arrival: Box<Arrival> },
    /// A side of a rollback is undone.
    Side { parent: TokenId, t: TokenId, halted: bool },
    /// A loser of a race is gone; `stuck` when it left something that could not be undone.
    Dropped { t: TokenId, stuck: bool },
    /// A token, wherever it is or will come, begins nothing new.
    Fence { t: TokenId, cut: bool },
    /// An operator suspends or resumes; the highest order counts.
    Suspend { on: bool, order: u64 },
    /// An operator cuts waits for retries short.
    Hasten,
    /// Nothing but what was undone.
    Undone,
    /// A part of the instance was lost with a store: tokens begin nothing new and come home, and these never come.
    Bereaved { lost: BTreeSet<TokenId> },
}

impl Body {
    /// What there is to do, without the token that the state has by then.
    pub fn unladen(&self) -> Body {
        match self {
            Body::Token { t, errand, .. } => Body::Token { t: *t, token: Box::default(), errand: errand.clone() },
            body => body.clone(),
        }
    }
}

/// Why a token comes to a location.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(super) enum Errand {
    /// To begin a task.
    Enter(NodeId),
    /// To undo the next entry of its rollback.
    Undo,
    /// Home: every task is done.
    Finish,
    /// Home: to end the instance so.
    End { status: Status, problem: Option<Problem> },
}

/// What one location has had to do with another, for one instance.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    pub sent: u64,
    /// Every number up to this was taken.
    taken: u64,
    /// Numbers above it that were.
    ahead: BTreeSet<u64>,
}

impl Peer {
    pub fn has_taken(&self, number: u64) -> bool {
        number <= self.taken || self.ahead.contains(&number)
    }

    /// The last number taken; 0 when none was.
    pub fn last_taken(&self) -> u64 {
        self.ahead.last().copied().unwrap_or_default().max(self.taken)
    }

    /// Takes every number up to this.
    pub fn take_all(&mut self, number: u64) {
        self.taken = self.taken.max(number);
        self.ahead.retain(|ahead| *ahead > self.taken);
        while self.ahead.remove(&(self.taken + 1)) {
            self.taken += 1;
        }
    }

    pub fn take(&mut self, number: u64) {
        self.ahead.insert(number);
        while self.ahead.remove(&(self.taken + 1)) {
            self.taken += 1;
        }
    }
}

impl Message {
    /// Writes it as JSON once: its envelope, and the journal of a receiver that is given the message itself, hold that.
    /// Nothing in it may change any more.
    pub fn write(&mut self) {
        if self.written.0.is_none() {
            // Plain data: writing it to memory cannot fail; were it to, it is tried again where it is needed.
            self.written = Written(to_raw_value(self).ok().map(Arc::from));
        }
    }

    /// What [`Message::write`] wrote.
    pub fn text(&self) -> Option<&str> {
        self.written.0.as_deref().map(RawValue::get)
    }

    /// The message as a CloudEvent in the JSON format: its data is the message, its attributes are for the bus and for
    /// people.
    pub fn to_envelope(&self, program: &Program, at: Timestamp) -> String {
        let mut text = Vec::with_capacity(self.text().map_or(0, str::len) + ATTRIBUTES);
        // Plain data: writing it to memory cannot fail.
        let written = serde_json::to_writer(&mut text, &self.envelope(program, at));
        written.ok().and_then(|()| String::from_utf8(text).ok()).unwrap_or_default()
    }

    /// Bytes of its envelope.
    pub(super) fn size(&self, program: &Program, at: Timestamp) -> usize {
        let mut count = Count(0);
        // Counting cannot fail.
        serde_json::to_writer(&mut count, &self.envelope(program, at)).unwrap_or_default();
        count.0
    }

    fn envelope<'a>(&'a self, program: &'a Program, at: Timestamp) -> Envelope<'a> {
        let Document { namespace, name, version, .. } = program.document();
        let (from, to) = (self.from.name(), self.to.name());
        Envelope {
            specversion: "1.0",
            id: id::derived(&[&self.instance, from, to, &self.number.to_string()]),
            source: format!("/pavane/{namespace}/{from}"),
            type_: format!("{namespace}.{name}.{}.{FORM}", self.what(program)),
            time: at.to_string(),
            datacontenttype: "application/json",
            subject: self.subject(program),
            correlationid: &self.header.start.correlation_id,
            partitionkey: &self.instance,
            pvninstance: &self.instance,
            pvnworkflow: format!("{namespace}.{name}"),
            pvnversion: version,
            pvndigest: self.digest.get(..16).unwrap_or(&self.digest),
            pvnto: to,
            pvnkind: self.kind(),
            data: self,
        }
    }

    /// Reads a message from a CloudEvent in the JSON format.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn from_envelope(text: &str) -> Result<Message, String> {
        #[derive(Deserialize)]
        struct Kind {
            #[serde(rename = "type", default)]
            type_: String,
        }
        #[derive(Deserialize)]
        struct Data {
            data: Message,
        }
        // The form first: the data of another one may look like this one's.
        let Kind { type_ } = serde_json::from_str(text).map_err(|e| format!("it is no CloudEvent: {e}"))?;
        if type_.rsplit('.').next() != Some(FORM) {
            return Err(format!("an event of type `{type_}` is no message of the form {FORM}"));
        }
        let data: Data = serde_json::from_str(text).map_err(|e| format!("its data is no message: {e}"))?;
        Ok(data.data)
    }

    /// The token it fences, when it is a fence.
    pub fn fences(&self) -> Option<TokenId> {
        match self.body {
            Body::Fence { t, .. } => Some(t),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self.body {
            Body::Token { .. } | Body::Report { .. } | Body::Side { .. } | Body::Dropped { .. } | Body::Undone => {
                "token"
            }
            Body::Fence { .. } | Body::Suspend { .. } | Body::Hasten | Body::Bereaved { .. } => "fence",
        }
    }

    /// The task the message leads to, or what it is about.
    fn what(&self, program: &Program) -> String {
        match &self.body {
            Body::Token { errand: Errand::Enter(node), .. } => format!("{}.due", program.node(*node).name),
            Body::Token { errand: Errand::Undo, .. } => "rollback".into(),
            Body::Token { .. } => "finished".into(),
            Body::Report { .. } => "branch.reported".into(),
            Body::Side { .. } => "rollback.reported".into(),
            Body::Dropped { .. } => "branch.dropped".into(),
            Body::Fence { .. } => "fence".into(),
            Body::Suspend { on: true, .. } => "suspend".into(),
            Body::Suspend { .. } => "resume".into(),
            Body::Hasten => "hasten".into(),
            Body::Undone => "undone".into(),
            Body::Bereaved { .. } => "abandoned".into(),
        }
    }

    fn subject(&self, program: &Program) -> String {
        match &self.body {
            Body::Token { errand: Errand::Enter(node), .. } => program.node(*node).reference.to_string(),
            _ => self.instance.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::Event;
    use super::*;
    use crate::value::Value;

    #[test]
    fn what_was_written_once_is_what_would_be_written_again() {
        let start = Start {
            id: "i".into(),
            input: Value::text("\u{e9}\n"),
            correlation_id: "i".into(),
            parent: None,
            trace: None,
        };
        let unresolved = vec![(Entry::Stuck, "\"why\"".to_owned())];
        let mut message = Message {
            instance: "i".into(),
            digest: "d".into(),
            from: Location::Engine,
            to: Location::Service("s".into()),
            number: 1,
            redelivered: false,
            header: Header { start, started_at: Timestamp(5), deadline: None },
            body: Body::Token { t: TokenId(0), token: Box::default(), errand: Errand::Finish },
            compensated: vec!["/do/0/a".into()],
            unresolved,
            written: Written::default(),
        };
        let journal = |message: &Message| {
            serde_json::to_string(&Event::Arrived { message: Box::new(message.clone()), parked: false }).unwrap()
        };
        let before = journal(&message);
        message.write();
        assert!(message.written.0.is_some());
        assert_eq!(journal(&message), before);
        // It came again, which is not what its sender wrote.
        message.redelivered = true;
        assert!(journal(&message).contains("\"redelivered\":true"));
    }

    #[test]
    fn each_number_is_taken_once_in_any_order() {
        let mut peer = Peer::default();
        for number in [2, 1, 5, 4, 3, 7] {
            assert!(!peer.has_taken(number), "{number}");
            peer.take(number);
            assert!(peer.has_taken(number), "{number}");
        }
        assert!(!peer.has_taken(6) && !peer.has_taken(8));
        // What came in order needs no memory.
        assert_eq!((peer.taken, peer.ahead.len()), (5, 1));
    }
}
