//! The statements of the writer and how a commit becomes rows.
//!
//! Everything here runs inside the transaction that [`super::Session`] holds, on rows that were checked. It keeps a
//! bounded memory of where live instances are, so that a step of one costs no search. Start at [`Rows::write`].

use std::collections::{BTreeSet, HashMap};

use pavane_core::engine::Subscription;
use pavane_core::record::{JournalEntry, ServiceTask, WorkflowInstance};
use rusqlite::{Connection, OptionalExtension, Statement, params};

use crate::batch::{self, run_number};
use crate::{Commit, Deployed, OBSERVED, Observed};

/// Live instances remembered, at about 120 bytes each. Past it the memory starts anew: one search each fills it.
const REMEMBERED: usize = 65_536;

const BEGIN: &str = "begin immediate";

const COMMIT: &str = "commit";

const FIND: &str = "select i.key, (select ifnull(max(e.seq), 0) from event_row e where e.instance = i.key and e.seq < ?2) \
     from instance_row i where i.uid = ?1";

const INSERT_INSTANCE: &str = "insert into instance_row (uid, due, status, namespace, name, version, start_time, end_time, \
     correlation_id, mode, digest, parent_id, parent_task, compensation, error, output, input) \
     values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";

const UPDATE_INSTANCE: &str = "update instance_row set due = ?2, status = ?3, namespace = ?4, name = ?5, version = ?6, \
     start_time = ?7, end_time = ?8, correlation_id = ?9, mode = ?10, digest = ?11, parent_id = ?12, parent_task = ?13, \
     compensation = ?14, error = ?15, output = ?16, input = ?17 where uid = ?1";

const EVENT: &str = "insert into event_row (instance, seq, timestamp, event_type, subject, run, correlation_id, \
     causation_id, payload) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

const TASK: &str = "insert into task_row (instance, run, reference, name, service_name, kind, status, attempt, start_time, \
     end_time, compensates, error, input_data, output_data) \
     values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) \
     on conflict (instance, run) do update set reference = excluded.reference, name = excluded.name, \
     service_name = excluded.service_name, kind = excluded.kind, status = excluded.status, attempt = excluded.attempt, \
     start_time = excluded.start_time, end_time = excluded.end_time, compensates = excluded.compensates, \
     error = excluded.error, input_data = excluded.input_data, output_data = excluded.output_data";

const UNSUBSCRIBE: &str = "delete from subscription_row where instance = ?1";

const SUBSCRIBE: &str = "insert into subscription_row (instance, type) values (?1, ?2)";

/// No row of the outbox is ever deleted, so SQLite's own numbering (the largest + 1) has no gaps.
const PUBLISH: &str = "insert into outbox_row (envelope) values (?1)";

const DEPLOY: &str = "insert into definition_row (namespace, name, version, digest, text, resources, deployed_at) \
     values (?1, ?2, ?3, ?4, ?5, ?6, ?7) on conflict (digest) do update set \
     key = (select max(key) + 1 from definition_row), text = excluded.text, resources = excluded.resources, \
     deployed_at = excluded.deployed_at";

const CONSUME: &str = "insert into cursor_row (reader, position) values (?1, ?2) \
     on conflict (reader) do update set position = excluded.position";

const SEND: &str = "insert or replace into outgoing_row (position, receiver, envelope) values (?1, ?2, ?3)";

const DELIVERED: &str = "delete from outgoing_row where position = ?1";

const DEAD: &str = "insert or replace into dead_row (position, receiver, reason, envelope) \
     select position, receiver, ?2, envelope from outgoing_row where position = ?1";

const REDRIVE: &str = "insert or replace into outgoing_row (position, receiver, envelope) \
     select position, receiver, envelope from dead_row where position = ?1";

const REDRIVEN: &str = "delete from dead_row where position = ?1";

const OBSERVE: &str = "insert into event_row (instance, seq, timestamp, event_type, subject, run, correlation_id, \
     causation_id, payload) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) on conflict (instance, seq) do nothing";

/// The prepared statements and the memory of live instances.
pub(super) struct Rows<'c> {
    connection: &'c Connection,
    begin: Statement<'c>,
    commit: Statement<'c>,
    find: Statement<'c>,
    insert_instance: Statement<'c>,
    update_instance: Statement<'c>,
    event: Statement<'c>,
    task: Statement<'c>,
    unsubscribe: Statement<'c>,
    subscribe: Statement<'c>,
    publish: Statement<'c>,
    deploy: Statement<'c>,
    consume: Statement<'c>,
    send: Statement<'c>,
    delivered: Statement<'c>,
    dead: Statement<'c>,
    redrive: Statement<'c>,
    redriven: Statement<'c>,
    observe: Statement<'c>,
    live: HashMap<String, Known>,
}

/// Where an instance is.
#[derive(Clone, Copy)]
struct Known {
    key: i64,
    last: u64,
}

impl<'c> Rows<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Rows<'c>> {
        Ok(Rows {
            connection,
            begin: connection.prepare(BEGIN)?,
            commit: connection.prepare(COMMIT)?,
            find: connection.prepare(FIND)?,
            insert_instance: connection.prepare(INSERT_INSTANCE)?,
            update_instance: connection.prepare(UPDATE_INSTANCE)?,
            event: connection.prepare(EVENT)?,
            task: connection.prepare(TASK)?,
            unsubscribe: connection.prepare(UNSUBSCRIBE)?,
            subscribe: connection.prepare(SUBSCRIBE)?,
            publish: connection.prepare(PUBLISH)?,
            deploy: connection.prepare(DEPLOY)?,
            consume: connection.prepare(CONSUME)?,
            send: connection.prepare(SEND)?,
            delivered: connection.prepare(DELIVERED)?,
            dead: connection.prepare(DEAD)?,
            redrive: connection.prepare(REDRIVE)?,
            redriven: connection.prepare(REDRIVEN)?,
            observe: connection.prepare(OBSERVE)?,
            live: HashMap::new(),
        })
    }

    pub(super) fn begin(&mut self) -> rusqlite::Result<()> {
        self.begin.execute([]).map(drop)
    }

    pub(super) fn commit(&mut self) -> rusqlite::Result<()> {
        self.commit.execute([]).map(drop)
    }

    /// The position of an instance's last journal entry (0: none); nothing when there is no such instance.
    pub(super) fn last(&mut self, id: &str) -> rusqlite::Result<Option<u64>> {
        Ok(self.known(id)?.map(|known| known.last))
    }

    /// Writes a checked commit; returns its weight in bytes.
    pub(super) fn write(&mut self, owner: Option<&str>, commit: &Commit) -> rusqlite::Result<u64> {
        let mut bytes = 0;
        for event in &commit.publish {
            let envelope = event.envelope().to_json();
            self.publish.execute([&envelope])?;
            bytes += weight(&envelope);
        }
        for (reader, position) in &commit.consumed {
            self.consume.execute(params![reader, number(*position)])?;
        }
        bytes += self.messages(commit)?;
        for row in &commit.observed {
            bytes += self.observed(row)?;
        }
        let Some(owner) = owner else { return Ok(bytes) };
        let mut known = self.known(owner)?;
        if let Some(row) = &commit.instance {
            bytes += self.instance(row, batch::due_to_number(commit.due), known.is_some())?;
            known = known.or_else(|| Some(Known { key: self.connection.last_insert_rowid(), last: 0 }));
        }
        // The check refuses an instance without a row.
        let Some(mut known) = known else { return Err(rusqlite::Error::QueryReturnedNoRows) };
        if let Some(entry) = &commit.entry {
            bytes += write_entry(&mut self.event, known.key, entry)?;
            known.last = entry.seq;
        }
        for task in &commit.tasks {
            bytes += self.task(known.key, task)?;
        }
        if let Some(subscriptions) = &commit.subscriptions {
            self.subscriptions(known.key, subscriptions)?;
        }
        if commit.instance.as_ref().is_some_and(|row| row.status.is_terminal()) {
            self.live.remove(owner);
        } else {
            self.remember(owner, known);
        }
        Ok(bytes)
    }

    /// What was done elsewhere, if its instance is here.
    fn observed(&mut self, row: &Observed) -> rusqlite::Result<u64> {
        let owner = match row {
            Observed::Step(entry) => &entry.workflow_instance_id,
            Observed::Task(task) => &task.workflow_instance_id,
        };
        let Some(known) = self.known(owner)? else { return Ok(0) };
        match row {
            Observed::Step(entry) => write_entry(&mut self.observe, known.key, entry),
            Observed::Task(task) => self.task(known.key, task),
        }
    }

    pub(super) fn definition(&mut self, d: &Deployed) -> rusqlite::Result<u64> {
        let deployed_at = d.deployed_at.0;
        self.deploy
            .execute(params![d.namespace, d.name, d.version, d.digest, d.text, d.resources, deployed_at])
            .map(|_| weight(&d.text) + weight(&d.resources))
    }

    fn known(&mut self, id: &str) -> rusqlite::Result<Option<Known>> {
        if let Some(known) = self.live.get(id) {
            return Ok(Some(*known));
        }
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Known { key: row.get(0)?, last: u64::try_from(row.get::<_, i64>(1)?).unwrap_or_default() })
        };
        let known = self.find.query_row(params![id, number(OBSERVED)], read).optional()?;
        if let Some(known) = known {
            self.remember(id, known);
        }
        Ok(known)
    }

    fn remember(&mut self, id: &str, known: Known) {
        if let Some(place) = self.live.get_mut(id) {
            *place = known;
            return;
        }
        if self.live.len() >= REMEMBERED {
            self.live.clear();
        }
        self.live.insert(id.to_owned(), known);
    }

    fn instance(&mut self, row: &WorkflowInstance, due: Option<i64>, exists: bool) -> rusqlite::Result<u64> {
        let input = row.input.to_json();
        let output = row.output.as_ref().map(|v| v.to_json());
        let error = row.error.as_ref().map(json).transpose()?;
        let compensation = json(&row.compensation)?;
        let statement = if exists { &mut self.update_instance } else { &mut self.insert_instance };
        statement.execute(params![
            row.id,
            due,
            row.status.as_str(),
            row.namespace,
            row.name,
            row.version,
            row.start_time.0,
            row.end_time.map(|t| t.0),
            other_than(&row.correlation_id, &row.id),
            row.mode.as_str(),
            row.digest,
            row.parent_id,
            row.parent_task,
            compensation,
            error,
            output,
            input,
        ])?;
        Ok(weight(&input) + optional_weight(&output) + optional_weight(&error) + weight(&compensation))
    }

    /// Puts messages on their way, and takes away those that have come to an end.
    fn messages(&mut self, commit: &Commit) -> rusqlite::Result<u64> {
        let mut bytes = 0;
        for (position, message) in &commit.send {
            self.send.execute(params![number(*position), message.to, &*message.envelope])?;
            bytes += weight(&message.envelope);
        }
        for position in &commit.delivered {
            self.delivered.execute([number(*position)])?;
        }
        for (position, reason) in &commit.dead {
            self.dead.execute(params![number(*position), reason])?;
            self.delivered.execute([number(*position)])?;
        }
        for position in &commit.redrive {
            self.redrive.execute([number(*position)])?;
            self.redriven.execute([number(*position)])?;
        }
        Ok(bytes)
    }

    fn task(&mut self, instance: i64, task: &ServiceTask) -> rusqlite::Result<u64> {
        let input = task.input_data.to_json();
        let output = task.output_data.as_ref().map(|v| v.to_json());
        let error = task.error.as_ref().map(json).transpose()?;
        self.task.execute(params![
            instance,
            run_number(&task.workflow_instance_id, &task.id),
            task.reference,
            task.name,
            task.service_name,
            task.kind,
            task.status.as_str(),
            task.attempt,
            task.start_time.0,
            task.end_time.map(|t| t.0),
            task.compensates,
            error,
            input,
            output,
        ])?;
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

fn write_entry(statement: &mut Statement<'_>, instance: i64, entry: &JournalEntry) -> rusqlite::Result<u64> {
    let id = &entry.workflow_instance_id;
    statement.execute(params![
        instance,
        number(entry.seq),
        entry.timestamp.0,
        entry.event_type,
        entry.subject,
        entry.service_task_id.as_ref().and_then(|task| run_number(id, task)),
        other_than(&entry.correlation_id, id),
        entry.causation_id,
        entry.payload,
    ])?;
    Ok(weight(&entry.payload))
}

/// A position as SQLite counts: none outgrows its integers.
fn number(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}

/// `text`, unless it is what is meant when nothing is stored.
fn other_than<'a>(text: &'a str, usual: &str) -> Option<&'a str> {
    (text != usual).then_some(text)
}

fn weight(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

fn optional_weight(text: &Option<String>) -> u64 {
    text.as_deref().map_or(0, weight)
}
