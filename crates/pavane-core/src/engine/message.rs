//! Messages between the locations of one instance: what moves when a token does.
//!
//! A token is at one location or in one message, never at both. Messages may be repeated and may overtake each other:
//! each is numbered by its sender for its receiver, and a receiver takes each number once.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};

use super::event::TokenId;
use super::kept::Kept;
use super::state::{Arrival, Entry, Token};
use super::types::Start;
use crate::definition::Document;
use crate::problem::Problem;
use crate::program::{Location, NodeId, Program};
use crate::record::Status;
use crate::time::Timestamp;
use crate::value::aside::Aside;
use crate::value::buffer::Buffer;
use crate::value::text::Raw;
use crate::value::text::escaped;
use crate::value::{Texts, json, once};

/// The form of the data in a message. A participant refuses a form that it does not know.
const FORM: &str = "v2";

/// The form before, which had every value where it belongs. Messages of it may be in a store and on their way.
const FORM_BEFORE: &str = "v1";

/// The member that comes first: the list of the values that are told by their positions in the others.
const VALUES: &str = "values";

/// What the attributes of an envelope count as: most have about half of that.
pub const ATTRIBUTES: usize = 1_024;

/// A message from one location of an instance to another. Its JSON holds each value once ([`once`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", remote = "Self")]
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
    /// It as JSON, see [`Message::write`].
    #[serde(skip)]
    pub(super) written: Aside<Option<Arc<str>>>,
    /// Texts of values that it may hold whole: before it is written, those of the message that led to it; then its own.
    #[serde(skip)]
    pub(super) texts: Texts,
    /// What its list of values begins with; before it is written, what that of the message began with that led to it.
    #[serde(skip)]
    pub(super) beginning: once::Beginning,
}

/// Writes a message: as it was written before, if it was.
pub(super) fn write_message<S: Serializer>(message: &Message, to: S) -> Result<S::Ok, S::Error> {
    match message.text() {
        // That it came again is not in what its sender wrote.
        Some(text) if !message.redelivered => Raw(text).serialize(to),
        _ => Serialize::serialize(message, to),
    }
}

/// The members of a message, without the list of its values.
struct Members<'a>(&'a Message);

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Message::serialize(self.0, to)
    }
}

impl Message {
    fn to_json(&self) -> Result<(Arc<str>, Texts, once::Beginning), serde_json::Error> {
        let once::Written { list, done, texts, beginning } = once::writing(
            &self.texts,
            &self.beginning,
            || self.list_values(),
            || {
                let mut members = Buffer::default();
                json::to_writer(&mut members, &Members(self)).map(|()| members)
            },
        );
        let members = done?;
        let mut text = Buffer::default();
        // The members are an object and there is one at least.
        for part in [b"{\"", VALUES.as_bytes(), b"\":", &list, b",", members.strip_prefix(b"{").unwrap_or(&members)] {
            text.extend_from_slice(part);
        }
        Ok((text.text().map_err(serde_json::Error::custom)?.into(), texts, beginning))
    }

    /// Puts first into the list what messages after this one begin with, too.
    fn list_values(&self) {
        let log = match &self.body {
            Body::Token { token, .. } => &*token.log,
            Body::Report { arrival, .. } => &*arrival.log,
            _ => &[],
        };
        // Only that it is in the list matters here.
        let _ = once::position(&self.header.start.input);
        log.iter().for_each(Entry::list_values);
    }
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (text, ..) = self.to_json().map_err(S::Error::custom)?;
        Raw(&text).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Reader)
    }
}

/// Reads a message in either form.
struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Message;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message, A::Error> {
        match map.next_key::<String>()? {
            Some(first) if first == VALUES => {
                let values: once::List = map.next_value()?;
                once::reading(values, || Message::deserialize(MapAccessDeserializer::new(map)))
            }
            first => Message::deserialize(MapAccessDeserializer::new(PutBack { first, map })),
        }
    }
}

/// A map whose first key was read already.
struct PutBack<A> {
    first: Option<String>,
    map: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for PutBack<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        match self.first.take() {
            Some(first) => seed.deserialize(first.into_deserializer()).map(Some),
            None => self.map.next_key_seed(seed),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// What every location knows of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub(super) struct Header {
    pub start: Arc<Start>,
    pub started_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    #[serde(skip)]
    pub kept: Kept<Times>,
}

/// What may be different in the header of another message of the instance: where the list has its input, when it began, and
/// until when it may last.
pub(super) type Times = (u32, Timestamp, Option<Timestamp>);

impl Serialize for Header {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        /// Its members, one by one.
        struct Members<'a>(&'a Header);
        impl Serialize for Members<'_> {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                Header::serialize(self.0, to)
            }
        }
        let Some(input) = once::position(&self.start.input) else { return Header::serialize(self, to) };
        let times = (input, self.started_at, self.deadline);
        let text = self.kept.text(times, || json::to_string(&Members(self))).map_err(S::Error::custom)?;
        Raw(&text).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Header::deserialize(from)
    }
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
        // Plain data: writing it to memory cannot fail; were it to, it is tried again where it is needed.
        if self.written.is_none()
            && let Ok((text, texts, beginning)) = self.to_json()
        {
            (self.written, self.texts, self.beginning) = (Aside(Some(text)), texts, beginning);
        }
    }

    /// What [`Message::write`] wrote.
    pub fn text(&self) -> Option<&Arc<str>> {
        self.written.as_ref()
    }

    /// Bytes of its envelope, about: those of what [`Message::write`] wrote, and [`ATTRIBUTES`].
    pub(super) fn size(&self) -> usize {
        self.text().map_or(0, |text| text.len()) + ATTRIBUTES
    }

    /// The message as a CloudEvent in the JSON format: its data, which comes last, is the message; its attributes are for
    /// the bus and for people.
    pub fn to_envelope(&self, program: &Program, at: Timestamp) -> String {
        let data: Cow<'_, str> = match self.text() {
            // That it came again is not in what its sender wrote.
            Some(text) if !self.redelivered => Cow::Borrowed(text),
            _ => json::to_string(self).unwrap_or_default().into(),
        };
        [&self.to_head(program, at), &*data, "}"].concat()
    }

    /// What stands in its envelope before the value of `data`.
    pub fn to_head(&self, program: &Program, at: Timestamp) -> Arc<str> {
        let Document { namespace, name, .. } = program.document();
        let (task, what) = self.what(program);
        let start = &self.header.start;
        // Each is escaped once: the instance is named five times.
        let (instance, from, to) = (&*escaped(&self.instance), &*escaped(self.from.name()), &*escaped(self.to.name()));
        let (namespace, name, task) = (&*escaped(namespace), &*escaped(name), &*escaped(task));
        let correlation = escaped(&start.correlation_id);
        let subject = self.subject(program).map_or(instance.into(), escaped);
        let mut head = Buffer::default();
        let mut write = |text: &str| head.extend_from_slice(text.as_bytes());
        write("{\"specversion\":\"1.0\",\"datacontenttype\":\"application/json\"");
        write(program.attributes());
        for (attribute, parts) in [
            ("id", &[instance, ":", from, ":", to, ":", &self.number.to_string()][..]),
            ("source", &["/pavane/", namespace, "/", from]),
            ("type", &[namespace, ".", name, ".", task, what, ".", FORM]),
            ("time", &[&at.to_string()]),
            ("subject", &[&subject]),
            ("correlationid", &[&correlation]),
            ("partitionkey", &[instance]),
            ("pvninstance", &[instance]),
            ("pvnto", &[to]),
            ("pvnkind", &[self.kind()]),
        ] {
            write(",\"");
            write(attribute);
            write("\":\"");
            parts.iter().for_each(|part| write(part));
            write("\"");
        }
        write(",\"data\":");
        // It is made of texts.
        head.text().unwrap_or_default().into()
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
        if !matches!(type_.rsplit('.').next(), Some(FORM | FORM_BEFORE)) {
            return Err(format!("an event of type `{type_}` is no message of the form {FORM}"));
        }
        let data: Data = serde_json::from_str(text).map_err(|e| format!("its data is no message: {e}"))?;
        Ok(data.data)
    }

    /// Whether it leads to no step that [may wait](super::Step::may_wait), and so to no call before what it leads to is durable:
    /// where a receiver's steps become durable after those of its sender, it can be taken before it is durable itself.
    pub fn goes_ahead(&self) -> bool {
        match &self.body {
            Body::Token { errand, .. } => matches!(errand, Errand::Finish | Errand::End { .. }),
            Body::Report { .. } => true,
            _ => false,
        }
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

    /// What the message is about: the task that it leads to, if it leads to one, and a word.
    fn what<'a>(&self, program: &'a Program) -> (&'a str, &'static str) {
        let word = match &self.body {
            Body::Token { errand: Errand::Enter(node), .. } => return (&program.node(*node).name, ".due"),
            Body::Token { errand: Errand::Undo, .. } => "rollback",
            Body::Token { .. } => "finished",
            Body::Report { .. } => "branch.reported",
            Body::Side { .. } => "rollback.reported",
            Body::Dropped { .. } => "branch.dropped",
            Body::Fence { .. } => "fence",
            Body::Suspend { on: true, .. } => "suspend",
            Body::Suspend { .. } => "resume",
            Body::Hasten => "hasten",
            Body::Undone => "undone",
            Body::Bereaved { .. } => "abandoned",
        };
        ("", word)
    }

    /// What it leads to, unless that is the whole instance.
    fn subject<'a>(&self, program: &'a Program) -> Option<&'a str> {
        match &self.body {
            Body::Token { errand: Errand::Enter(node), .. } => Some(&program.node(*node).reference),
            _ => None,
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
            notify: None,
        };
        let unresolved = vec![(Entry::Stuck, "\"why\"".to_owned())];
        let mut message = Message {
            instance: "i".into(),
            digest: "d".into(),
            from: Location::Engine,
            to: Location::Service("s".into()),
            number: 1,
            redelivered: false,
            header: Header { start: start.into(), started_at: Timestamp(5), deadline: None, kept: Kept::default() },
            body: Body::Token { t: TokenId(0), token: Box::default(), errand: Errand::Finish },
            compensated: vec!["/do/0/a".into()],
            unresolved,
            written: Aside::default(),
            texts: Texts::default(),
            beginning: Default::default(),
        };
        let journal = |message: &Message| {
            serde_json::to_string(&Event::Arrived { message: Box::new(message.clone()), parked: false }).unwrap()
        };
        let before = journal(&message);
        message.write();
        assert!(message.written.is_some());
        assert_eq!(journal(&message), before);
        // It came again, which is not what its sender wrote.
        message.redelivered = true;
        assert!(journal(&message).contains("\"redelivered\":true"));
    }

    #[test]
    fn a_message_of_the_form_before_is_read() {
        let data = r#"{"instance":"i","digest":"d","from":"engine","to":"s","number":1,"header":{"start":{"id":"i","input":{"a":1},
            "correlation_id":"i","parent":null},"startedAt":5},"body":{"token":{"t":0,"token":{"frames":[],"data":{"a":1},
            "context":{"a":1},"log":[],"home":"root","variables":[],"base":"","deadline":null,"retries":0,"fence":"open",
            "timedOut":null,"rollbacks":[],"halted":false},"errand":{"enter":5}}}}"#;
        let envelope = |form: &str| format!(r#"{{"type":"n.w.task.due.{form}","data":{data}}}"#);
        let message = Message::from_envelope(&envelope("v1")).unwrap();
        let Body::Token { token, .. } = &message.body else { panic!("{message:?}") };
        assert_eq!(
            (token.data.to_json(), message.header.start.input.to_json()),
            (r#"{"a":1}"#.into(), r#"{"a":1}"#.into())
        );
        let again = serde_json::to_string(&message).unwrap();
        assert!(again.starts_with(r#"{"values":[[{"a":1}]],"instance":"i","#), "{again}");
        assert_eq!(serde_json::from_str::<Message>(&again).unwrap(), message);
        assert!(Message::from_envelope(&envelope("v3")).unwrap_err().contains("no message of the form v2"));
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
