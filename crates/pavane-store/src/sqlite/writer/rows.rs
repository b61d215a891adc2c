//! The statements of the writer and how a commit becomes rows.
//!
//! Everything here runs inside the transaction that [`super::Session`] holds, on rows that were checked. It keeps a
//! bounded memory of where live instances are, so that a step of one costs no search. Start at [`Rows::write`].

use std::borrow::Cow;
use std::collections::BTreeSet;

use ahash::HashMap;
use pavane_core::Value;
use pavane_core::definition::Mode;
use pavane_core::engine::Subscription;
use pavane_core::program::ENGINE;
use pavane_core::record::{Compensation, JournalEntry, ServiceTask, Status, WorkflowInstance};
use pavane_core::value::Texts;
use rusqlite::{Connection, OptionalExtension, Statement, params};

use super::Place;
use super::bound::Bound;
use super::messages::Messages;
use super::{json, weight};
use crate::batch::{self, run_number};
use crate::{Commit, Deployed, OBSERVED, Observed, Taken};

/// Live instances of a location remembered, at about 150 bytes each, and choreographed ones, at about 700. Past it the memory starts anew: one search each
/// fills it.
const REMEMBERED: usize = 65_536;

const BEGIN: &str = "begin immediate";

const COMMIT: &str = "commit";

const LAST_KEY: &str = "select ifnull(max(key), 0) from instance_row";

const FIND: &str = "select i.key, (select ifnull(max(e.seq), 0) from event_row e where e.instance = i.key and e.seq < ?2), \
     0 from instance_row i where i.uid = ?1 and i.location = 0";

/// Whether there is such an instance: for most of those that are asked for there is none, and this costs half of [`FIND`].
const IS_THERE: &str = "select 1 from instance_row where uid = ?1 and location = 0";

/// The same for another location than the file's own, with whether the part has a row.
const FIND_PART: &str = "select i.key, (select ifnull(max(e.seq), 0) from event_row e where e.instance = i.key and e.seq < ?2), \
     i.implied from located_instance i where i.uid = ?1 and i.location = ?3";

/// Whether any location has a row of this instance.
const IS_ANYWHERE: &str = "select 1 from instance_row where uid = ?1";

const INSERT_INSTANCE: &str = "insert into instance_row (uid, due, status, namespace, name, version, start_time, end_time, \
     correlation_id, mode, digest, parent_id, parent_task, compensation, error, output, input, location, key) \
     values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)";

/// What a start fixes stays as it was inserted.
const UPDATE_INSTANCE: &str = "update instance_row set due = ?2, status = ?3, end_time = ?4, compensation = ?5, error = ?6, \
     output = ?7 where key = ?1";

const EVENT: &str = "insert into event_row (instance, seq, timestamp, event_type, subject, run, correlation_id, \
     causation_id, payload, message, tail, head, sent) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";

const TASK: &str = "insert into task_row (instance, run, reference, name, service_name, kind, status, attempt, start_time, \
     end_time, compensates, error, input_data, output_data) \
     values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) \
     on conflict (instance, run) do update set reference = excluded.reference, name = excluded.name, \
     service_name = excluded.service_name, kind = excluded.kind, status = excluded.status, attempt = excluded.attempt, \
     start_time = excluded.start_time, end_time = excluded.end_time, compensates = excluded.compensates, \
     error = excluded.error, input_data = excluded.input_data, output_data = excluded.output_data";

const UNSUBSCRIBE: &str = "delete from subscription_row where instance = ?1";

const SUBSCRIBE: &str = "insert into subscription_row (instance, type) values (?1, ?2)";

/// No row of the outbox is ever deleted, so a numbering by the largest + 1 has no gaps.
const PUBLISH: &str = "insert into outbox_row (position, envelope) \
     values (ifnull((select max(position) from outbox_row where position between ?1 and ?2), ?1) + 1, ?3)";

const WITHDRAW: &str = "delete from definition_row where location = ?1 and digest = ?2";

const DEPLOY: &str = "insert into definition_row (location, digest, namespace, name, version, text, resources, deployed_at) \
     values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

const LOCATION: &str = "insert into location_row (name) values (?1) on conflict (name) do nothing";

const FIND_LOCATION: &str = "select key from location_row where name = ?1";

const IS_SHARED: &str = "select 1 from location_row";

const CONSUME: &str = "insert into cursor_row (location, reader, position) values (?1, ?2, ?3) \
     on conflict (location, reader) do update set position = excluded.position";

const OBSERVE: &str = "insert into event_row (instance, seq, timestamp, event_type, subject, run, correlation_id, \
     causation_id, payload, message, tail, head, sent) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) \
     on conflict (instance, seq) do nothing";

/// What most instances have to tell of their compensation.
const NOTHING_UNDONE: &str = r#"{"status":"none","compensated":[],"unresolved":[]}"#;

/// The prepared statements and the memory of live instances.
pub(super) struct Rows<'c> {
    connection: &'c Connection,
    begin: Statement<'c>,
    commit: Statement<'c>,
    is_there: Statement<'c>,
    find: Statement<'c>,
    find_part: Statement<'c>,
    is_anywhere: Statement<'c>,
    insert_instance: Bound<'c>,
    update_instance: Statement<'c>,
    event: Bound<'c>,
    task: Bound<'c>,
    unsubscribe: Statement<'c>,
    subscribe: Statement<'c>,
    publish: Statement<'c>,
    withdraw: Statement<'c>,
    deploy: Statement<'c>,
    location: Statement<'c>,
    consume: Statement<'c>,
    find_location: Statement<'c>,
    is_shared: Statement<'c>,
    observe: Bound<'c>,
    live: HashMap<Place, HashMap<String, Known>>,
    /// Instances of the file's own location that other locations may have parts of.
    homes: HashMap<String, Home>,
    /// The largest key that an instance was given.
    last_key: i64,
    messages: Messages<'c>,
    /// Instances that the check of the batch under way did not find.
    absent: Vec<String>,
    /// Whether those are not looked for that are new as far as one can tell from their commits.
    trusting: bool,
    /// Locations by their names, as far as they were asked for.
    names: HashMap<String, Place>,
    /// Whether there are any.
    shared: bool,
}

/// Where an instance is.
#[derive(Clone, Copy)]
struct Known {
    key: i64,
    last: u64,
    /// What its row says, when that is plain and was said here.
    row: Option<Plain>,
    /// Whether it is a part without a row of its own.
    implied: bool,
}

/// A choreographed instance that was begun here.
struct Home {
    key: i64,
    /// What a part of it at another location says that has nothing to say of its own.
    part: WorkflowInstance,
    /// The locations that have a part of it: no other has.
    parts: Vec<Place>,
}

impl Home {
    /// The view `located_instance` says the same.
    fn part_of(row: &WorkflowInstance) -> WorkflowInstance {
        WorkflowInstance {
            status: Status::Completed,
            input: Value::NULL,
            output: None,
            error: None,
            compensation: Compensation::default(),
            end_time: None,
            ..row.clone()
        }
    }
}

/// What can be different in the rows of an instance that has not ended and has undone nothing. Most steps change none of it,
/// and then the row is not written again.
#[derive(Clone, Copy, PartialEq)]
struct Plain {
    due: Option<i64>,
    status: Status,
}

impl Plain {
    fn of(row: &WorkflowInstance, due: Option<i64>) -> Option<Plain> {
        let plain = row.end_time.is_none()
            && row.output.is_none()
            && row.error.is_none()
            && row.compensation == Compensation::default();
        plain.then_some(Plain { due, status: row.status })
    }
}

impl<'c> Rows<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Rows<'c>> {
        Ok(Rows {
            connection,
            begin: connection.prepare(BEGIN)?,
            commit: connection.prepare(COMMIT)?,
            is_there: connection.prepare(IS_THERE)?,
            find: connection.prepare(FIND)?,
            find_part: connection.prepare(FIND_PART)?,
            is_anywhere: connection.prepare(IS_ANYWHERE)?,
            insert_instance: Bound::prepare(connection, INSERT_INSTANCE)?,
            update_instance: connection.prepare(UPDATE_INSTANCE)?,
            event: Bound::prepare(connection, EVENT)?,
            task: Bound::prepare(connection, TASK)?,
            unsubscribe: connection.prepare(UNSUBSCRIBE)?,
            subscribe: connection.prepare(SUBSCRIBE)?,
            publish: connection.prepare(PUBLISH)?,
            withdraw: connection.prepare(WITHDRAW)?,
            deploy: connection.prepare(DEPLOY)?,
            location: connection.prepare(LOCATION)?,
            consume: connection.prepare(CONSUME)?,
            find_location: connection.prepare(FIND_LOCATION)?,
            is_shared: connection.prepare(IS_SHARED)?,
            observe: Bound::prepare(connection, OBSERVE)?,
            live: HashMap::default(),
            homes: HashMap::default(),
            last_key: connection.query_row(LAST_KEY, [], |row| row.get(0))?,
            messages: Messages::prepare(connection)?,
            absent: Vec::new(),
            trusting: true,
            names: HashMap::default(),
            shared: false,
        })
    }

    pub(super) fn begin(&mut self) -> rusqlite::Result<()> {
        self.begin.execute([]).map(drop)
    }

    pub(super) fn commit(&mut self) -> rusqlite::Result<()> {
        self.messages.end()?;
        self.commit.execute([]).map(drop)
    }

    /// Takes back what was written since [`Rows::begin`].
    pub(super) fn take_back(&mut self) -> rusqlite::Result<()> {
        // What was remembered may never have been.
        self.live.clear();
        self.homes.clear();
        self.connection.execute_batch("rollback")?;
        self.messages.take_back()
    }

    /// Whether an instance that is new as far as one can tell from its commit is taken for new.
    pub(super) fn trusts(&self) -> bool {
        self.trusting
    }

    pub(super) fn trust(&mut self, trusting: bool) {
        self.trusting = trusting;
    }

    /// Before the check of a batch.
    pub(super) fn begin_batch(&mut self) {
        self.absent.clear();
    }

    /// The position of an instance's last journal entry (0: none); nothing when there is no such instance.
    ///
    /// Of what can only be an instance's first commit it is taken that there is none: for almost all that is right, and the
    /// others are told from the row that is there already. Of parts at other locations, which may have no row, it is known.
    pub(super) fn last(&mut self, place: Place, id: &str, first: bool) -> rusqlite::Result<Option<u64>> {
        let begins = || match place {
            Place::OWN => true,
            _ => self.homes.get(id).is_some_and(|home| !home.parts.contains(&place)),
        };
        let known = match first && self.trusting && begins() {
            true => self.live(place).get(id).copied(),
            false => self.known(place, id)?,
        };
        if known.is_none() {
            self.absent.push(id.to_owned());
        }
        Ok(known.map(|known| known.last))
    }

    /// Writes a checked commit; returns its weight in bytes.
    pub(super) fn write(&mut self, place: Place, owner: Option<&str>, commit: &Commit) -> rusqlite::Result<u64> {
        let mut bytes = 0;
        for event in &commit.publish {
            let envelope = event.envelope().to_json();
            self.publish.execute(params![place.first(), place.last(), envelope])?;
            bytes += weight(&envelope);
        }
        for (reader, position) in &commit.consumed {
            self.consume.execute(params![place.0, reader, number(*position)])?;
        }
        for row in &commit.observed {
            bytes += self.observed(place, row)?;
        }
        let Some(owner) = owner else { return Ok(bytes + self.messages.write(place, commit, None)?) };
        let absent = self.absent.iter().position(|id| id == owner);
        let mut known = match absent.map(|at| self.absent.swap_remove(at)) {
            Some(_) => None,
            None => self.known(place, owner)?,
        };
        if let Some(row) = &commit.instance {
            let due = batch::due_to_number(commit.due);
            let plain = Plain::of(row, due);
            let last = known.map_or(0, |known| known.last);
            known = match known {
                Some(Known { row: Some(before), .. }) if plain == Some(before) => known,
                Some(Known { key, implied: false, .. }) => {
                    bytes += self.update_instance(key, row, due, &commit.texts)?;
                    Some(Known { key, last, row: plain, implied: false })
                }
                Some(Known { key, implied: true, .. }) => {
                    bytes += self.insert_instance(key, place, row, due, &commit.texts)?;
                    Some(Known { key, last, row: plain, implied: false })
                }
                None => {
                    let implied = commit.entry.as_ref().and_then(|_| self.implied(place, row, due));
                    let key = implied.unwrap_or_else(|| Place::next_instance(self.last_key));
                    self.begun(place, key, row)?;
                    if implied.is_none() {
                        self.last_key = key;
                        bytes += self.insert_instance(key, place, row, due, &commit.texts)?;
                    }
                    Some(Known { key, last, row: plain, implied: implied.is_some() })
                }
            };
        }
        // The check refuses an instance without a row.
        let Some(mut known) = known else { return Err(rusqlite::Error::QueryReturnedNoRows) };
        let mut written = None;
        if let Some(entry) = &commit.entry {
            let taken = self.take(entry, commit.taken.as_ref())?;
            let sent = self.sent(commit)?;
            bytes += write_entry(&mut self.event, known.key, entry, taken, sent)?;
            written = sent.map(|_| self.connection.last_insert_rowid());
            known.last = entry.seq;
        }
        bytes += self.messages.write(place, commit, written)?;
        for task in &commit.tasks {
            bytes += self.task(known.key, task, &commit.texts)?;
        }
        if let Some(subscriptions) = &commit.subscriptions {
            self.subscriptions(known.key, subscriptions)?;
        }
        if commit.instance.as_ref().is_some_and(|row| row.status.is_terminal()) {
            self.live(place).remove(owner);
            if place == Place::OWN {
                self.homes.remove(owner);
            }
        } else {
            self.remember(place, owner, known);
        }
        Ok(bytes)
    }

    /// The key of a part whose row would say what its instance's row says.
    fn implied(&self, place: Place, row: &WorkflowInstance, due: Option<i64>) -> Option<i64> {
        let home = self.homes.get(&row.id).filter(|home| place != Place::OWN && due.is_none() && home.part == *row)?;
        Some(place.part_of(home.key))
    }

    /// Before the first row of an instance, or of a part of it.
    fn begun(&mut self, place: Place, key: i64, row: &WorkflowInstance) -> rusqlite::Result<()> {
        if place != Place::OWN {
            if let Some(home) = self.homes.get_mut(&row.id) {
                home.parts.push(place);
            }
            return Ok(());
        }
        // Of one that had parts before it was here nobody knows where they are.
        if row.mode == Mode::Choreography && !self.is_anywhere.exists([&row.id])? {
            if self.homes.len() >= REMEMBERED {
                self.homes.clear();
            }
            self.homes.insert(row.id.clone(), Home { key, part: Home::part_of(row), parts: Vec::new() });
        }
        Ok(())
    }

    /// What was done elsewhere, if its instance is here.
    fn observed(&mut self, place: Place, row: &Observed) -> rusqlite::Result<u64> {
        let owner = match row {
            Observed::Step(entry) => &entry.workflow_instance_id,
            Observed::Task(task) => &task.workflow_instance_id,
        };
        let Some(known) = self.known(place, owner)? else { return Ok(0) };
        match row {
            Observed::Step(entry) => write_entry(&mut self.observe, known.key, entry, None, None),
            Observed::Task(task) => self.task(known.key, task, &Texts::default()),
        }
    }

    /// The same content again comes last again.
    pub(super) fn definition(&mut self, place: Place, d: &Deployed) -> rusqlite::Result<u64> {
        self.withdraw.execute(params![place.0, d.digest])?;
        self.deploy
            .execute(params![place.0, d.digest, d.namespace, d.name, d.version, d.text, d.resources, d.deployed_at.0])
            .map(|_| weight(&d.text) + weight(&d.resources))
    }

    pub(super) fn location(&mut self, name: &str) -> rusqlite::Result<()> {
        self.location.execute([name]).map(drop)
    }

    fn live(&mut self, place: Place) -> &mut HashMap<String, Known> {
        self.live.entry(place).or_default()
    }

    fn known(&mut self, place: Place, id: &str) -> rusqlite::Result<Option<Known>> {
        if let Some(known) = self.live(place).get(id) {
            return Ok(Some(*known));
        }
        if place == Place::OWN && !self.is_there.exists([id])? {
            return Ok(None);
        }
        let read = |row: &rusqlite::Row<'_>| {
            let last = u64::try_from(row.get::<_, i64>(1)?).unwrap_or_default();
            Ok(Known { key: row.get(0)?, last, row: None, implied: row.get(2)? })
        };
        let known = match place {
            Place::OWN => self.find.query_row(params![id, number(OBSERVED)], read),
            _ => self.find_part.query_row(params![id, number(OBSERVED), place.0], read),
        };
        let known = known.optional()?;
        if let Some(known) = known {
            self.remember(place, id, known);
        }
        Ok(known)
    }

    fn remember(&mut self, place: Place, id: &str, known: Known) {
        let live = self.live(place);
        if let Some(slot) = live.get_mut(id) {
            *slot = known;
            return;
        }
        if live.len() >= REMEMBERED {
            live.clear();
        }
        live.insert(id.to_owned(), known);
    }

    fn insert_instance(
        &mut self,
        key: i64,
        place: Place,
        row: &WorkflowInstance,
        due: Option<i64>,
        texts: &Texts,
    ) -> rusqlite::Result<u64> {
        let input = text_of(&row.input, texts);
        let Changing { compensation, error, output } = Changing::of(row, texts)?;
        let bytes = weight(&input) + weight(&compensation) + optional_weight(&error) + optional_weight(&output);
        let into = &mut self.insert_instance;
        into.bind(1, &row.id)?;
        into.bind(2, due)?;
        into.bind_usual(3, row.status.as_str())?;
        into.bind_usual(4, &row.namespace)?;
        into.bind_usual(5, &row.name)?;
        into.bind_usual(6, &row.version)?;
        into.bind(7, row.start_time.0)?;
        into.bind(8, row.end_time.map(|t| t.0))?;
        into.bind(9, other_than(&row.correlation_id, &row.id))?;
        into.bind_usual(10, row.mode.as_str())?;
        into.bind_usual(11, &row.digest)?;
        into.bind(12, &row.parent_id)?;
        into.bind(13, &row.parent_task)?;
        into.bind_usual(14, &compensation)?;
        into.bind(15, error)?;
        into.bind(16, output)?;
        into.bind(17, input)?;
        into.bind(18, place.0)?;
        into.bind(19, key)?;
        into.execute()?;
        Ok(bytes)
    }

    fn update_instance(
        &mut self,
        key: i64,
        row: &WorkflowInstance,
        due: Option<i64>,
        texts: &Texts,
    ) -> rusqlite::Result<u64> {
        let Changing { compensation, error, output } = Changing::of(row, texts)?;
        let bytes = weight(&compensation) + optional_weight(&error) + optional_weight(&output);
        let (status, end) = (row.status.as_str(), row.end_time.map(|t| t.0));
        self.update_instance.execute(params![key, due, status, end, compensation, error, output])?;
        Ok(bytes)
    }

    /// Takes a message that this step came from away from its sender, if that is in this file: its text stays, and the
    /// payload is kept without it.
    fn take<'e>(&mut self, entry: &'e JournalEntry, taken: Option<&Taken>) -> rusqlite::Result<Option<Apart<'e>>> {
        let Some(Taken { from, position, data }) = taken else { return Ok(None) };
        let Some((payload, rest)) = around(&entry.payload, data) else { return Ok(None) };
        // The file's own location has no name in it. That it is meant, and that it is not another process's of the same
        // name, the text tells: no two messages are alike.
        let sender = if from == ENGINE { Place::OWN } else { self.named(from)?.unwrap_or(Place::OWN) };
        let message = self.messages.take(sender.key(*position), data)?;
        Ok(message.map(|message| Apart { payload, message, tail: rest }))
    }

    /// The parts of the message that a step sends, if it is one alone and its receiver is in this file: that has its text as a
    /// part of a step of its own soon, and so the text is kept with a step from the beginning.
    fn sent<'m>(&mut self, commit: &'m Commit) -> rusqlite::Result<Option<(&'m str, &'m str)>> {
        let [(_, message)] = commit.send.as_slice() else { return Ok(None) };
        Ok(match message.envelope.parts() {
            (head, Some(data)) if self.is_here(&message.to)? => Some((head, data)),
            _ => None,
        })
    }

    /// Whether a location is in this file. Its own has no name in it, and is the engine where there are others.
    fn is_here(&mut self, location: &str) -> rusqlite::Result<bool> {
        if location == ENGINE {
            // Once it has others, it keeps them.
            self.shared = self.shared || self.is_shared.exists([])?;
            return Ok(self.shared);
        }
        Ok(self.named(location)?.is_some())
    }

    fn named(&mut self, name: &str) -> rusqlite::Result<Option<Place>> {
        if let Some(place) = self.names.get(name) {
            return Ok(Some(*place));
        }
        let found = self.find_location.query_row([name], |row| row.get(0).map(Place)).optional()?;
        if let Some(place) = found {
            self.names.insert(name.to_owned(), place);
        }
        Ok(found)
    }

    fn task(&mut self, instance: i64, task: &ServiceTask, texts: &Texts) -> rusqlite::Result<u64> {
        let input = text_of(&task.input_data, texts);
        let output = task.output_data.as_ref().map(|value| text_of(value, texts));
        let error = task.error.as_ref().map(json).transpose()?;
        let into = &mut self.task;
        into.bind(1, instance)?;
        into.bind(2, run_number(&task.workflow_instance_id, &task.id))?;
        into.bind(3, &task.reference)?;
        into.bind(4, &task.name)?;
        into.bind(5, &task.service_name)?;
        into.bind_usual(6, &task.kind)?;
        into.bind_usual(7, task.status.as_str())?;
        into.bind(8, task.attempt)?;
        into.bind(9, task.start_time.0)?;
        into.bind(10, task.end_time.map(|t| t.0))?;
        into.bind(11, &task.compensates)?;
        into.bind(12, &error)?;
        into.bind(13, &input)?;
        into.bind(14, &output)?;
        into.execute()?;
        Ok(weight(&input) + optional_weight(&output) + optional_weight(&error))
    }

    fn subscriptions(&mut self, instance: i64, subscriptions: &[Subscription]) -> rusqlite::Result<()> {
        self.unsubscribe.execute([instance])?;
        for subscription in subscriptions.iter().collect::<BTreeSet<_>>() {
            let of_type = match subscription {
                Subscription::Type(name) => Some(name),
                Subscription::All => None,
            };
            self.subscribe.execute(params![instance, of_type])?;
        }
        Ok(())
    }
}

/// The texts of an instance's row that its steps change.
struct Changing<'r> {
    compensation: Cow<'static, str>,
    error: Option<String>,
    output: Option<Cow<'r, str>>,
}

impl<'r> Changing<'r> {
    fn of(row: &'r WorkflowInstance, texts: &'r Texts) -> rusqlite::Result<Changing<'r>> {
        let nothing = row.compensation == Compensation::default();
        Ok(Changing {
            compensation: if nothing { NOTHING_UNDONE.into() } else { json(&row.compensation)?.into() },
            error: row.error.as_ref().map(json).transpose()?,
            output: row.output.as_ref().map(|value| text_of(value, texts)),
        })
    }
}

/// A value as JSON: as it is written in the same step already, if it is.
fn text_of<'r>(value: &'r Value, texts: &'r Texts) -> Cow<'r, str> {
    texts.of(value).map_or_else(|| value.to_json().into(), Cow::Borrowed)
}

/// A payload without the data of the message that it holds, which is kept once.
struct Apart<'e> {
    payload: &'e str,
    message: i64,
    tail: &'e str,
}

fn write_entry(
    into: &mut Bound<'_>,
    instance: i64,
    entry: &JournalEntry,
    apart: Option<Apart<'_>>,
    sent: Option<(&str, &str)>,
) -> rusqlite::Result<u64> {
    let id = &entry.workflow_instance_id;
    let (payload, message, tail) = match apart {
        Some(Apart { payload, message, tail }) => (payload, Some(message), Some(tail)),
        None => (entry.payload.as_str(), None, None),
    };
    into.bind(1, instance)?;
    into.bind(2, number(entry.seq))?;
    into.bind(3, entry.timestamp.0)?;
    into.bind_usual(4, &entry.event_type)?;
    into.bind(5, &entry.subject)?;
    into.bind(6, entry.service_task_id.as_ref().and_then(|task| run_number(id, task)))?;
    into.bind(7, other_than(&entry.correlation_id, id))?;
    into.bind(8, &entry.causation_id)?;
    into.bind(9, payload)?;
    into.bind(10, message)?;
    into.bind(11, tail)?;
    into.bind(12, sent.map(|(head, _)| head))?;
    into.bind(13, sent.map(|(_, data)| data))?;
    into.execute()?;
    Ok(weight(payload) + tail.map_or(0, weight))
}

/// What stands before and after an object in a text, of which the text has other objects before it at most. To look for all of
/// a long object would take longer than to compare it with what begins like one.
fn around<'t>(text: &'t str, object: &str) -> Option<(&'t str, &'t str)> {
    text.match_indices('{').find_map(|(at, _)| Some((text.get(..at)?, text.get(at..)?.strip_prefix(object)?)))
}

/// A position as SQLite counts: none outgrows its integers.
fn number(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// `text`, unless it is what is meant when nothing is stored.
fn other_than<'a>(text: &'a str, usual: &str) -> Option<&'a str> {
    (text != usual).then_some(text)
}

fn optional_weight(text: &Option<impl AsRef<str>>) -> u64 {
    text.as_ref().map_or(0, |text| weight(text.as_ref()))
}
