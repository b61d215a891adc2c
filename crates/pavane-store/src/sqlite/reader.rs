//! Reading: a small pool of read-only connections and the queries of the port.
//!
//! A reader sees every transaction that was acknowledged before it asked (WAL), and never waits for the writer. Start at
//! [`Pool::read`]; each query is a function below it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use pavane_core::Timestamp;
use pavane_core::definition::Mode;
use pavane_core::event::CloudEvent;
use pavane_core::record::{JournalEntry, ServiceTask, Status, WorkflowInstance};
use rusqlite::types::{FromSqlError, Type, Value as Cell};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params, params_from_iter};
use serde::de::DeserializeOwned;

use super::place::{self, Place};
use super::{BUSY, failed, flags};
use crate::{DeadLetter, Deployed, Due, Error, History, OBSERVED, Outgoing, Page, Query, batch};

/// Pages a connection that reads keeps: what is not among them is in the system's memory.
const CACHE_KIB: i64 = 4_096;

/// Connections that read at one time. Queries are short and served from memory: more would only compete for the cores.
const CONNECTIONS: usize = 4;

/// Prepared statements a connection keeps: the port's own, and the usual forms of a listing.
const STATEMENTS: usize = 32;

const INSTANCE: &str = "select uid, namespace, name, version, digest, mode, status, correlation_id, input, output, error, \
     compensation, start_time, end_time, parent_id, parent_task, key from";

/// Where instances are looked for: at other locations than the file's own not all have a row.
fn instances_of(place: Place) -> &'static str {
    match place {
        Place::OWN => "instance_row",
        _ => "located_instance",
    }
}

/// Read-only connections, opened when first needed.
#[derive(Debug)]
pub(super) struct Pool {
    file: PathBuf,
    path: String,
    idle: Mutex<Idle>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct Idle {
    connections: Vec<Connection>,
    lent: usize,
}

/// Gives the place of a connection back, and the connection itself while it is in order.
struct Lent<'a> {
    pool: &'a Pool,
    connection: Option<Connection>,
}

impl Pool {
    pub(super) fn new(file: PathBuf, path: String) -> Pool {
        Pool { file, path, idle: Mutex::default(), returned: Condvar::new() }
    }

    /// Runs `query` on a connection of the pool; waits for one when all are in use.
    pub(super) fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        let mut idle = self.lock();
        while idle.lent >= CONNECTIONS {
            idle = self.returned.wait(idle).unwrap_or_else(PoisonError::into_inner);
        }
        idle.lent += 1;
        let mut lent = Lent { pool: self, connection: idle.connections.pop() };
        drop(idle);
        let connection = match lent.connection.take() {
            Some(connection) => connection,
            None => self.connect().map_err(|e| failed(&self.path, &e))?,
        };
        query(lent.connection.insert(connection)).map_err(|e| failed(&self.path, &e))
    }

    /// Closes the idle connections. Nobody reads any more when the store is dropped.
    pub(super) fn close(&self) {
        self.lock().connections.clear();
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(&self.file, flags(OpenFlags::SQLITE_OPEN_READ_ONLY))?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(connection)
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut idle = self.pool.lock();
        idle.lent -= 1;
        idle.connections.extend(self.connection.take());
        self.pool.returned.notify_one();
    }
}

pub(super) fn definitions(connection: &Connection, place: Place) -> rusqlite::Result<Vec<Deployed>> {
    let sql = "select namespace, name, version, digest, text, resources, deployed_at from definition_row \
               where location = ?1 order by key";
    let read = |row: &Row<'_>| {
        Ok(Deployed {
            namespace: row.get(0)?,
            name: row.get(1)?,
            version: row.get(2)?,
            digest: row.get(3)?,
            text: row.get(4)?,
            resources: row.get(5)?,
            deployed_at: Timestamp(row.get(6)?),
        })
    };
    connection.prepare_cached(sql)?.query_map([place.0], read)?.collect()
}

pub(super) fn instance(connection: &Connection, place: Place, id: &str) -> rusqlite::Result<Option<WorkflowInstance>> {
    let sql = format!("{INSTANCE} {} where uid = ?1 and location = ?2", instances_of(place));
    connection.prepare_cached(&sql)?.query_row(params![id, place.0], read_instance).optional()
}

pub(super) fn instances(
    connection: &Connection,
    place: Place,
    query: &Query,
    before: Option<i64>,
) -> rusqlite::Result<Page> {
    let size = batch::page_size(query);
    let (sql, values) = listing(place, query, before, size, recent(connection, place, query)?);
    let mut statement = connection.prepare_cached(&sql)?;
    let read = |row: &Row<'_>| Ok((row.get::<_, i64>(16)?, read_instance(row)?));
    let mut rows: Vec<_> =
        statement.query_map(params_from_iter(values), read)?.collect::<rusqlite::Result<Vec<_>>>()?;
    let more = rows.len() > size;
    rows.truncate(size);
    let next = rows.last().filter(|_| more).map(|(key, _)| key.to_string());
    Ok(Page { instances: rows.into_iter().map(|(_, row)| row).collect(), next })
}

pub(super) fn tasks(connection: &Connection, place: Place, instance: &str) -> rusqlite::Result<Vec<ServiceTask>> {
    let sql = format!(
        "select {TASK} from {} i join task_row t on t.instance = i.key \
         where i.uid = ?1 and i.location = ?2 order by t.start_time, t.run",
        instances_of(place)
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let read = |row: &Row<'_>| read_task(row, instance.to_owned());
    statement.query_map(params![instance, place.0], read)?.collect()
}

/// Columns of a task.
const TASK: &str = "t.run, t.reference, t.name, t.service_name, t.kind, t.status, t.attempt, t.input_data, t.output_data, \
     t.error, t.start_time, t.end_time, t.compensates";

/// Columns of a step, after which come its instance's.
const ENTRY: &str = "e.seq, e.timestamp, e.event_type, e.subject, e.run, e.correlation_id, e.causation_id, e.payload, \
     ifnull((select data from message_row where key = e.message), (select sent from event_row where key = -e.message)), e.tail";

pub(super) fn journal(
    connection: &Connection,
    place: Place,
    instance: &str,
    after: u64,
    limit: usize,
) -> rusqlite::Result<Vec<JournalEntry>> {
    let sql = format!(
        "select {ENTRY} from {} i join event_row e on e.instance = i.key \
         where i.uid = ?1 and i.location = ?4 and e.seq > ?2 order by e.seq limit ?3",
        instances_of(place)
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let read = |row: &Row<'_>| read_entry(row, instance.to_owned());
    statement.query_map(params![instance, saturated(after), rows(limit), place.0], read)?.collect()
}

pub(super) fn history(
    connection: &Connection,
    place: Place,
    steps_after: u64,
    tasks_after: u64,
    limit: usize,
) -> rusqlite::Result<History> {
    let sql = format!(
        "select {ENTRY}, e.key, i.uid, i.digest from event_row e {} \
         where e.key > ?1 and e.seq < ?3 and {} = ?4 order by e.key limit ?2",
        owned("e"),
        location_of("e"),
    );
    let read = |row: &Row<'_>| Ok(((read_entry(row, row.get(11)?)?, row.get(12)?), position(row, 10)?));
    let mut statement = connection.prepare_cached(&sql)?;
    let wanted = params![saturated(steps_after), rows(limit), saturated(OBSERVED), place.0];
    let steps = with_last(statement.query_map(wanted, read)?, steps_after)?;
    let sql = format!(
        "select {TASK}, t.key, i.uid from task_row t {} where t.key > ?1 and {} = ?3 order by t.key limit ?2",
        owned("t"),
        location_of("t"),
    );
    let read = |row: &Row<'_>| Ok((read_task(row, row.get(14)?)?, position(row, 13)?));
    let mut statement = connection.prepare_cached(&sql)?;
    let wanted = params![saturated(tasks_after), rows(limit), place.0];
    let tasks = with_last(statement.query_map(wanted, read)?, tasks_after)?;
    Ok(History { steps, tasks })
}

/// The instance that a step or a task belongs to: it has a row of its own at the location, or it is a part that its instance's
/// row implies.
fn owned(by: &str) -> String {
    let part = place::MAX;
    format!(
        "join instance_row i on i.key = ifnull((select key from instance_row where key = {by}.instance), \
         {by}.instance & ~{part})"
    )
}

fn location_of(by: &str) -> String {
    let part = place::MAX;
    format!("iif(i.key = {by}.instance, i.location, {by}.instance & {part})")
}

/// Rows, and the position of the last.
fn with_last<T>(
    found: impl Iterator<Item = rusqlite::Result<(T, u64)>>,
    after: u64,
) -> rusqlite::Result<(Vec<T>, u64)> {
    let mut last = after;
    let rows = found.map(|row| {
        row.map(|(row, at)| {
            last = at;
            row
        })
    });
    let rows = rows.collect::<rusqlite::Result<Vec<T>>>()?;
    Ok((rows, last))
}

pub(super) fn due(
    connection: &Connection,
    place: Place,
    owed: bool,
    until: Timestamp,
    limit: usize,
) -> rusqlite::Result<Vec<(String, Due)>> {
    let sql = "select uid, due from instance_row where due is not null and due >= ?3 and due <= ?1 \
               and location = ?4 order by due, key limit ?2";
    let from = if owed { batch::NOW } else { batch::NOW + 1 };
    let read = |row: &Row<'_>| Ok((row.get(0)?, batch::due_from_number(row.get(1)?)));
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map(params![until.0, rows(limit), from, place.0], read)?.collect()
}

pub(super) fn subscribers(connection: &Connection, place: Place, event_type: &str) -> rusqlite::Result<Vec<String>> {
    let sql = format!(
        "select uid from {} where location = ?2 and key in \
         (select instance from subscription_row where type = ?1 or type is null) order by key",
        instances_of(place)
    );
    let mut statement = connection.prepare_cached(&sql)?;
    statement.query_map(params![event_type, place.0], |row| row.get(0))?.collect()
}

pub(super) fn published(
    connection: &Connection,
    place: Place,
    reader: &str,
    limit: usize,
) -> rusqlite::Result<Vec<(u64, CloudEvent)>> {
    let sql = "select position, envelope from outbox_row \
               where position > ?1 and position <= ?2 order by position limit ?3";
    let after = place.key(cursor(connection, place, reader)?);
    let read = |row: &Row<'_>| Ok((number(row, 0)?, json(row, 1)?));
    connection.prepare_cached(sql)?.query_map(params![after, place.last(), rows(limit)], read)?.collect()
}

/// The envelope of a message, which has a row of its own or stands in that of the step that sent it.
const ENVELOPE: &str = "ifnull((select head || ifnull(data || '}', '') from message_row where key = o.message), \
     (select head || sent || '}' from event_row where key = -o.message))";

/// A page of the messages on their way. Many may have rows, and no page reads more of them than it has; those without are few.
fn page_of_outgoing() -> String {
    format!(
        "select o.position, o.receiver, {ENVELOPE} from ( \
           select position, receiver, message from ( \
             select position, receiver, message from outgoing_row \
             where position > ?1 and position <= ?2 order by position limit ?3 \
           ) union all \
           select position, receiver, message from outgoing_lately where position > ?1 and position <= ?2 \
           order by position limit ?3 \
         ) o order by o.position"
    )
}

pub(super) fn outgoing(
    connection: &Connection,
    place: Place,
    after: u64,
    limit: usize,
) -> rusqlite::Result<Vec<(u64, Outgoing)>> {
    let read = |row: &Row<'_>| Ok((number(row, 0)?, message(row, 1)?));
    connection
        .prepare_cached(&page_of_outgoing())?
        .query_map(params![place.key(after), place.last(), rows(limit)], read)?
        .collect()
}

pub(super) fn open_instances(connection: &Connection, place: Place) -> rusqlite::Result<Vec<(Status, u64)>> {
    // As the index of states has it, so that it is counted in the index alone.
    let sql = format!(
        "select status, count(*) from instance_row where status <> 'completed' and location = {} group by status",
        place.0
    );
    let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, number(row, 1)?));
    let found = connection.prepare_cached(&sql)?.query_map([], read)?.collect::<rusqlite::Result<HashMap<_, _>>>()?;
    let open = Status::ALL.into_iter().filter(|status| !status.is_terminal());
    Ok(open.map(|status| (status, found.get(status.as_str()).copied().unwrap_or_default())).collect())
}

pub(super) fn last_position(connection: &Connection, place: Place) -> rusqlite::Result<u64> {
    let sql = "select max(ifnull((select max(position) from outgoing_row where position between ?1 and ?2), ?1), \
               ifnull((select max(position) from outgoing_lately where position between ?1 and ?2), ?1), \
               ifnull((select max(position) from dead_row where position between ?1 and ?2), ?1))";
    connection.prepare_cached(sql)?.query_row([place.first(), place.last()], |row| number(row, 0))
}

pub(super) fn dead_letters(connection: &Connection, place: Place, limit: usize) -> rusqlite::Result<Vec<DeadLetter>> {
    let sql = format!(
        "select o.position, o.receiver, {ENVELOPE}, o.reason from dead_row o \
         where o.position between ?1 and ?2 order by o.position limit ?3"
    );
    let read =
        |row: &Row<'_>| Ok(DeadLetter { position: number(row, 0)?, message: message(row, 1)?, reason: row.get(3)? });
    let wanted = params![place.first(), place.last(), rows(limit)];
    connection.prepare_cached(&sql)?.query_map(wanted, read)?.collect()
}

/// Two columns: receiver and envelope.
fn message(row: &Row<'_>, column: usize) -> rusqlite::Result<Outgoing> {
    let envelope = row.get_ref(column + 1)?.as_str()?.into();
    Ok(Outgoing { to: row.get(column)?, envelope, content: None, redelivered: false })
}

pub(super) fn cursor(connection: &Connection, place: Place, reader: &str) -> rusqlite::Result<u64> {
    let sql = "select position from cursor_row where location = ?1 and reader = ?2";
    let found =
        connection.prepare_cached(sql)?.query_row(params![place.0, reader], |row| position(row, 0)).optional()?;
    Ok(found.unwrap_or_default())
}

/// The number of the location of this name, when the file has it.
pub(super) fn place(connection: &Connection, name: &str) -> rusqlite::Result<Option<Place>> {
    let sql = "select key from location_row where name = ?1";
    connection.prepare_cached(sql)?.query_row([name], |row| row.get(0).map(Place)).optional()
}

/// Rows that are sorted without anybody noticing: up to here a listing from a time on reads the index of times.
const RECENT: i64 = 10_000;

/// Whether few instances started at or after the time that is asked for. If many did, the newest are soon found in the
/// order of the listing itself.
fn recent(connection: &Connection, place: Place, query: &Query) -> rusqlite::Result<bool> {
    let Some(Timestamp(time)) = query.started_after.filter(|_| place == Place::OWN) else { return Ok(false) };
    let sql = "select count(*) from (select 1 from instance_row where start_time >= ?1 and location = 0 limit ?2)";
    let count: i64 = connection.prepare_cached(sql)?.query_row([time, RECENT + 1], |row| row.get(0))?;
    Ok(count <= RECENT)
}

/// Conditions of a listing, joined by `and`, with their values.
#[derive(Clone, Default)]
struct Conditions {
    texts: Vec<&'static str>,
    values: Vec<Cell>,
}

impl Conditions {
    fn with(&self, text: &'static str, values: impl IntoIterator<Item = Cell>) -> Conditions {
        let mut more = self.clone();
        more.texts.push(text);
        more.values.extend(values);
        more
    }
}

/// A listing's statement and its values: newest first, one row over the page.
///
/// Each part of the union reads one index in the order of the listing and stops after a page, so that no listing reads
/// the table but for what most of it is: one part for each status asked for, two for a correlation id, whose instances
/// are few. When few have started since the time asked for (`recent`), all the others are not looked at. The indexes
/// are those of the file's own location: at another, where nobody but a test lists, the table is read.
fn listing(place: Place, query: &Query, before: Option<i64>, size: usize, recent: bool) -> (String, Vec<Cell>) {
    let text = |text: &str| Cell::from(text.to_owned());
    // In these words: an index is taken when a query repeats its condition.
    let mut common = match place {
        Place::OWN => Conditions::default().with("location = 0", []),
        place => Conditions::default().with("location = ?", [place.0.into()]),
    };
    if let Some(key) = before {
        common = common.with("key < ?", [key.into()]);
    }
    let workflow = batch::workflow(query);
    if let Some((Some(namespace), _)) = workflow {
        // No index: names are seldom the same in two namespaces.
        common = common.with("+namespace = ?", [text(namespace)]);
    }
    if let Some(mode) = query.mode {
        // No index: there are two.
        common = common.with("mode = ?", [text(mode.as_str())]);
    }
    // By its index, or merely looked at.
    let name = |part: Conditions, condition: &'static str| match workflow {
        Some((_, name)) => part.with(condition, [text(name)]),
        None => part,
    };
    if let Some(Timestamp(time)) = query.started_after {
        common = common.with(if recent { "start_time >= ?" } else { "+start_time >= ?" }, [time.into()]);
    }
    // Each status once, so that the number of parts is bounded.
    let statuses = || Status::ALL.into_iter().filter(|status| query.statuses.contains(status));
    let any_status = |parts: Vec<Conditions>| match query.statuses.is_empty() {
        true => parts,
        false => parts
            .iter()
            .flat_map(|part| statuses().map(|status| part.with("+status = ?", [text(status.as_str())])))
            .collect(),
    };
    let mut from = instances_of(place);
    let parts = if let Some(id) = &query.correlation_id {
        let common = name(common, "+name = ?");
        any_status(vec![
            common.with("uid = ?", [text(id)]).with("correlation_id is null", []),
            common.with("correlation_id = ?", [text(id)]),
        ])
    } else if recent {
        from = "instance_row indexed by instance_by_start";
        any_status(vec![name(common, "+name = ?")])
    } else if query.statuses.is_empty() {
        vec![name(common, "name = ?")]
    } else {
        // Most instances are completed, so that those are found soon by name, or in the order of the listing; others are
        // few, and theirs is the index (which SQLite takes only when the query repeats its condition).
        let part = |status: Status| match status {
            Status::Completed => name(common.clone(), "name = ?").with("+status = ?", [text(status.as_str())]),
            _ => {
                let few = common.with("status = ?", [text(status.as_str())]).with("status <> 'completed'", []);
                name(few, "+name = ?")
            }
        };
        statuses().map(part).collect()
    };
    let mut values = Vec::new();
    let parts: Vec<String> = parts
        .into_iter()
        .map(|part| {
            values.extend(part.values);
            values.push(rows(size + 1).into());
            let filter =
                if part.texts.is_empty() { String::new() } else { format!(" where {}", part.texts.join(" and ")) };
            format!("select key from (select key from {from}{filter} order by key desc limit ?)")
        })
        .collect();
    values.push(rows(size + 1).into());
    (
        format!(
            "{INSTANCE} {} where key in ({}) order by key desc limit ?",
            instances_of(place),
            parts.join(" union all ")
        ),
        values,
    )
}

fn read_entry(row: &Row<'_>, instance: String) -> rusqlite::Result<JournalEntry> {
    Ok(JournalEntry {
        seq: position(row, 0)?,
        timestamp: Timestamp(row.get(1)?),
        event_type: row.get(2)?,
        subject: row.get(3)?,
        service_task_id: row.get::<_, Option<u32>>(4)?.map(|run| format!("{instance}:{run}")),
        correlation_id: row.get::<_, Option<String>>(5)?.unwrap_or_else(|| instance.clone()),
        causation_id: row.get(6)?,
        payload: payload(row, 7)?,
        workflow_instance_id: instance,
    })
}

/// Three columns: the payload, or what stands in it before a message, its data, and after it.
fn payload(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    let mut payload: String = row.get(column)?;
    for more in [column + 1, column + 2] {
        payload.push_str(row.get_ref(more)?.as_str_or_null()?.unwrap_or_default());
    }
    Ok(payload)
}

fn read_task(row: &Row<'_>, instance: String) -> rusqlite::Result<ServiceTask> {
    Ok(ServiceTask {
        id: format!("{instance}:{}", row.get::<_, u32>(0)?),
        workflow_instance_id: instance,
        reference: row.get(1)?,
        name: row.get(2)?,
        service_name: row.get(3)?,
        kind: row.get(4)?,
        status: status(row, 5)?,
        attempt: row.get(6)?,
        input_data: json(row, 7)?,
        output_data: optional_json(row, 8)?,
        error: optional_json(row, 9)?,
        start_time: Timestamp(row.get(10)?),
        end_time: row.get::<_, Option<i64>>(11)?.map(Timestamp),
        compensates: row.get(12)?,
        within: None,
    })
}

fn read_instance(row: &Row<'_>) -> rusqlite::Result<WorkflowInstance> {
    let id: String = row.get(0)?;
    Ok(WorkflowInstance {
        namespace: row.get(1)?,
        name: row.get(2)?,
        version: row.get(3)?,
        digest: row.get(4)?,
        mode: mode(row, 5)?,
        status: status(row, 6)?,
        correlation_id: row.get::<_, Option<String>>(7)?.unwrap_or_else(|| id.clone()),
        input: json(row, 8)?,
        output: optional_json(row, 9)?,
        error: optional_json(row, 10)?,
        compensation: json(row, 11)?,
        start_time: Timestamp(row.get(12)?),
        end_time: row.get::<_, Option<i64>>(13)?.map(Timestamp),
        parent_id: row.get(14)?,
        parent_task: row.get(15)?,
        id,
    })
}

fn status(row: &Row<'_>, column: usize) -> rusqlite::Result<Status> {
    let word = row.get_ref(column)?.as_str()?;
    Status::parse(word).ok_or_else(|| damaged(column, format!("`{word}` is no status").into()))
}

fn mode(row: &Row<'_>, column: usize) -> rusqlite::Result<Mode> {
    let word: String = row.get(column)?;
    Mode::parse(&word).ok_or_else(|| damaged(column, format!("`{word}` is no mode").into()))
}

fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|e| damaged(column, Box::new(e)))
}

fn optional_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    match row.get_ref(column)?.as_str_or_null() {
        Ok(None) => Ok(None),
        Ok(Some(text)) => serde_json::from_str(text).map(Some).map_err(|e| damaged(column, Box::new(e))),
        Err(error) => Err(wrong_type(column, error)),
    }
}

fn damaged(column: usize, error: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error)
}

fn wrong_type(column: usize, error: FromSqlError) -> rusqlite::Error {
    damaged(column, Box::new(error))
}

fn position(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or_default())
}

/// What a key stands for within its location.
fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get(column).map(Place::number)
}

/// A position as SQLite counts; no row lies beyond its largest number.
fn saturated(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How SQLite reads a listing: one line for each table or sort.
    fn plan(query: &Query, recent: bool) -> Vec<String> {
        let mut connection = Connection::open_in_memory().unwrap();
        super::super::schema::migrate(&mut connection, "t", super::super::schema::MIGRATIONS).unwrap();
        let before = query.cursor.as_ref().map(|c| c.parse().unwrap());
        let (sql, values) = listing(Place::OWN, query, before, 100, recent);
        let mut statement = connection.prepare(&format!("explain query plan {sql}")).unwrap();
        statement.query_map(params_from_iter(values), |row| row.get(3)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn no_listing_reads_the_table() {
        let workflow = Some("shop/order".to_owned());
        let statuses = vec![Status::Faulted, Status::Running];
        let cursor = Some("7".to_owned());
        for (query, recent, index) in [
            (Query { statuses: statuses.clone(), ..Query::default() }, false, "instance_by_status"),
            (
                Query { statuses: statuses.clone(), cursor: cursor.clone(), ..Query::default() },
                false,
                "instance_by_status",
            ),
            (Query { workflow: workflow.clone(), ..Query::default() }, false, "instance_by_workflow"),
            (Query { workflow: workflow.clone(), cursor, ..Query::default() }, false, "instance_by_workflow"),
            (
                Query { workflow: workflow.clone(), statuses: statuses.clone(), ..Query::default() },
                false,
                "instance_by_status",
            ),
            (
                Query { workflow: workflow.clone(), statuses: vec![Status::Completed], ..Query::default() },
                false,
                "instance_by_workflow",
            ),
            (
                Query { correlation_id: Some("c".into()), statuses, ..Query::default() },
                false,
                "instance_by_correlation",
            ),
            (Query { started_after: Some(Timestamp(5)), ..Query::default() }, true, "instance_by_start"),
            (Query { started_after: Some(Timestamp(5)), workflow, ..Query::default() }, true, "instance_by_start"),
        ] {
            let plan = plan(&query, recent);
            assert!(plan.iter().any(|step| step.contains(index)), "{query:?}: {plan:#?}");
            assert!(!plan.iter().any(|step| step.starts_with("SCAN instance_row")), "{query:?}: {plan:#?}");
            // Parts come in the order of the listing; only what is few is sorted.
            let sorts = plan.iter().any(|step| step.contains("TEMP B-TREE FOR ORDER BY"));
            assert!(!sorts || recent || query.correlation_id.is_some(), "{query:?}: {plan:#?}");
        }
    }

    #[test]
    fn a_page_of_messages_reads_no_more_rows_than_it_has() {
        let mut connection = Connection::open_in_memory().unwrap();
        super::super::schema::migrate(&mut connection, "t", super::super::schema::MIGRATIONS).unwrap();
        connection.pragma_update(None, "foreign_keys", false).unwrap();
        let row = |n: i64| connection.execute("insert into outgoing_row values (?1, 'a', ?1)", [n]).unwrap();
        for n in 1..=3_000 {
            row(n);
        }
        connection.execute("insert into outgoing_lately_row values (1, '[[2,\"b\",9],[5000,\"b\",9]]')", []).unwrap();
        let sql = page_of_outgoing();
        let page = |after: i64| -> Vec<(i64, String)> {
            let mut statement = connection.prepare(&sql).unwrap();
            let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
            let found = statement.query_map([after, i64::MAX, 3], read).unwrap().map(Result::unwrap).collect();
            let steps = statement.get_status(rusqlite::StatementStatus::VmStep);
            assert!(steps < 500, "{steps} steps from {after}");
            found
        };
        let told = |found: &[(i64, &str)]| found.iter().map(|(n, to)| (*n, (*to).to_owned())).collect::<Vec<_>>();
        assert_eq!(page(0), told(&[(1, "a"), (2, "a"), (2, "b")]));
        assert_eq!(page(1_000), told(&[(1_001, "a"), (1_002, "a"), (1_003, "a")]));
        assert_eq!(page(2_999), told(&[(3_000, "a"), (5_000, "b")]));
    }

    #[test]
    fn a_listing_without_conditions_ends_with_its_page() {
        for query in [Query::default(), Query { started_after: Some(Timestamp(5)), ..Query::default() }] {
            let plan = plan(&query, false);
            assert!(
                plan.iter().any(|step| step.starts_with("SCAN instance_row")),
                "in the order of its keys: {plan:#?}"
            );
            assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE FOR ORDER BY")), "{plan:#?}");
        }
    }
}
