//! Messages on their way from this file, and those that have ended.
//!
//! The text of one is in `message_row`, or, when its receiver is in this file, in the row of the step that sent it, where it
//! stays as a part of the step that it leads to. Which ones are on their way is known here and is written at the end of each
//! transaction: most are on it for one or two transactions only, so that one row has them all ([`Messages::end`]), and those
//! that stay longer get a row each. Start at [`Messages::write`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ahash::{HashMap, HashSet};
use rusqlite::{Connection, OptionalExtension, Statement, params};

use super::super::place::Place;
use crate::{Commit, Envelope};

/// Messages in the one row at most, at about 30 bytes each.
const LATELY: usize = 2_000;

/// Transactions after which a message that is still on its way gets a row of its own, and is not written again.
const SOON: u64 = 16;

/// Messages on their way remembered, whose texts are in memory until they are taken in any case. Past it the memory starts
/// anew: one search each.
const SENT: usize = 16_384;

const WRITE_MESSAGE: &str = "insert into message_row (head, data) values (?1, ?2)";

const SEND: &str = "insert or replace into outgoing_row (position, receiver, message) values (?1, ?2, ?3)";

const LATEST: &str = "insert or replace into outgoing_lately_row (key, messages) values (1, ?1)";

const READ_LATEST: &str = "select position, receiver, message from outgoing_lately";

const LAST: &str = "select max(position) from outgoing_row where position between ?1 and ?2";

/// Whether a text is this one.
const IS_TEXT: &str = "select 1 where ?2 = \
     ifnull((select data from message_row where key = ?1), (select sent from event_row where key = -?1))";

const GONE: &str = "delete from outgoing_row where position between ?1 and ?2";

const FIND: &str = "select message from outgoing_row where position = ?1";

const FORGET: &str = "delete from message_row where key = ?1";

const DEAD: &str = "insert or replace into dead_row (position, receiver, reason, message) \
     select position, receiver, ?2, message from outgoing_row where position = ?1";

const REDRIVE: &str = "insert or replace into outgoing_row (position, receiver, message) \
     select position, receiver, message from dead_row where position = ?1";

const REDRIVEN: &str = "delete from dead_row where position = ?1";

pub(super) struct Messages<'c> {
    connection: &'c Connection,
    write_message: Statement<'c>,
    send: Statement<'c>,
    latest: Statement<'c>,
    last: Statement<'c>,
    is_text: Statement<'c>,
    gone: Statement<'c>,
    find: Statement<'c>,
    forget: Statement<'c>,
    dead: Statement<'c>,
    redrive: Statement<'c>,
    redriven: Statement<'c>,
    /// Those on their way without a row of their own, by position: receiver, and where the text is (a key of `message_row`, or
    /// less than nothing: one of `event_row`).
    lately: BTreeMap<i64, (String, i64)>,
    /// Whether those are others than what is written.
    changed: bool,
    /// Positions in the order in which their messages set out, and in which transaction that was.
    departures: VecDeque<(u64, i64)>,
    /// Transactions so far.
    now: u64,
    /// Positions whose rows are to go at the end of the transaction: most of what goes stands side by side.
    arrived: BTreeSet<i64>,
    /// The largest position of each location that may have a row.
    largest: HashMap<Place, i64>,
    /// Messages on their way that were sent lately, by position: where their text is, and it.
    sent: HashMap<i64, (i64, Envelope)>,
    /// Messages that their receivers have taken away, of which their senders are to tell yet.
    taken: HashSet<i64>,
}

impl<'c> Messages<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Messages<'c>> {
        let lately = read_lately(connection)?;
        Ok(Messages {
            connection,
            write_message: connection.prepare(WRITE_MESSAGE)?,
            send: connection.prepare(SEND)?,
            latest: connection.prepare(LATEST)?,
            last: connection.prepare(LAST)?,
            is_text: connection.prepare(IS_TEXT)?,
            gone: connection.prepare(GONE)?,
            find: connection.prepare(FIND)?,
            forget: connection.prepare(FORGET)?,
            dead: connection.prepare(DEAD)?,
            redrive: connection.prepare(REDRIVE)?,
            redriven: connection.prepare(REDRIVEN)?,
            departures: lately.keys().map(|position| (0, *position)).collect(),
            lately,
            changed: false,
            now: 0,
            arrived: BTreeSet::new(),
            largest: HashMap::default(),
            sent: HashMap::default(),
            taken: HashSet::default(),
        })
    }

    /// Puts messages on their way, and ends those that the commit says have ended; returns the weight in bytes. When the text
    /// of the message was written with the commit's step, `step` is the key of that.
    pub(super) fn write(&mut self, place: Place, commit: &Commit, step: Option<i64>) -> rusqlite::Result<u64> {
        let mut bytes = 0;
        for (position, message) in &commit.send {
            let text = match step {
                Some(key) => -key,
                None => {
                    self.write_message.execute(message.envelope.parts())?;
                    self.connection.last_insert_rowid()
                }
            };
            self.set_out(place, place.key(*position), &message.to, text)?;
            if self.sent.len() >= SENT {
                self.sent.clear();
            }
            self.sent.insert(place.key(*position), (text, message.envelope.clone()));
            bytes += u64::try_from(message.envelope.size()).unwrap_or(u64::MAX);
        }
        for position in &commit.delivered {
            let position = place.key(*position);
            if !self.taken.remove(&position) {
                self.delivered(position)?;
            }
        }
        if !commit.dead.is_empty() || !commit.redrive.is_empty() {
            self.settle()?;
        }
        for (position, reason) in &commit.dead {
            let position = place.key(*position);
            self.sent.remove(&position);
            self.dead.execute(params![position, reason])?;
            self.gone.execute([position, position])?;
        }
        for position in &commit.redrive {
            let position = place.key(*position);
            self.redrive.execute([position])?;
            self.redriven.execute([position])?;
            let largest = self.largest(place)?.max(position);
            self.largest.insert(place, largest);
        }
        Ok(bytes)
    }

    /// Takes a message away from its sender for the step that it leads to: where its text is, if it is on its way from here.
    pub(super) fn take(&mut self, position: i64, data: &Arc<str>) -> rusqlite::Result<Option<i64>> {
        let found = match self.sent.remove(&position).filter(|(_, envelope)| envelope.holds(data)) {
            Some((text, _)) => Some(text),
            None => match self.text_of(position)? {
                Some(text) => self.is_text.exists(params![text, &**data])?.then_some(text),
                None => None,
            },
        };
        if found.is_some() {
            self.arrive(position);
            if self.taken.len() >= SENT {
                self.taken.clear();
            }
            self.taken.insert(position);
        }
        Ok(found)
    }

    /// Writes which messages are on their way.
    pub(super) fn end(&mut self) -> rusqlite::Result<()> {
        self.now += 1;
        while let Some((since, position)) = self.departures.front().copied()
            && (self.lately.len() > LATELY || since + SOON < self.now)
        {
            self.departures.pop_front();
            self.send(position)?;
        }
        while let Some(first) = self.arrived.pop_first() {
            let mut last = first;
            while self.arrived.remove(&last.saturating_add(1)) {
                last = last.saturating_add(1);
            }
            self.gone.execute([first, last])?;
        }
        if std::mem::take(&mut self.changed) {
            let all: Vec<_> = self.lately.iter().map(|(position, (to, text))| (position, to, text)).collect();
            self.latest.execute([super::json(&all)?])?;
        }
        Ok(())
    }

    /// Forgets what the transaction did that was rolled back.
    pub(super) fn take_back(&mut self) -> rusqlite::Result<()> {
        self.sent.clear();
        self.taken.clear();
        self.arrived.clear();
        self.largest.clear();
        self.changed = false;
        self.lately = read_lately(self.connection)?;
        self.departures = self.lately.keys().map(|position| (self.now, *position)).collect();
        Ok(())
    }

    fn set_out(&mut self, place: Place, position: i64, to: &str, text: i64) -> rusqlite::Result<()> {
        let largest = self.largest(place)?;
        // One at a position that another had before.
        if position <= largest {
            self.arrived.remove(&position);
            self.gone.execute([position, position])?;
        }
        self.largest.insert(place, largest.max(position));
        self.lately.insert(position, (to.to_owned(), text));
        self.departures.push_back((self.now, position));
        self.changed = true;
        Ok(())
    }

    fn delivered(&mut self, position: i64) -> rusqlite::Result<()> {
        self.sent.remove(&position);
        if let Some(text) = self.text_of(position)? {
            self.forget.execute([text])?;
            self.arrive(position);
        }
        Ok(())
    }

    /// Where the text of a message is that is on its way.
    fn text_of(&mut self, position: i64) -> rusqlite::Result<Option<i64>> {
        match self.lately.get(&position) {
            Some((_, text)) => Ok(Some(*text)),
            None if self.arrived.contains(&position) => Ok(None),
            None => self.find.query_row([position], |row| row.get(0)).optional(),
        }
    }

    fn arrive(&mut self, position: i64) {
        match self.lately.remove(&position) {
            Some(_) => self.changed = true,
            None => drop(self.arrived.insert(position)),
        }
    }

    /// Makes the rows tell all, for those who look there.
    fn settle(&mut self) -> rusqlite::Result<()> {
        while let Some((position, _)) = self.lately.first_key_value() {
            self.send(*position)?;
        }
        self.end()
    }

    /// Gives a message that has no row one.
    fn send(&mut self, position: i64) -> rusqlite::Result<()> {
        let Some((to, text)) = self.lately.remove(&position) else { return Ok(()) };
        self.changed = true;
        self.send.execute(params![position, to, text]).map(drop)
    }

    /// The largest position of a location that may have a row, or less.
    fn largest(&mut self, place: Place) -> rusqlite::Result<i64> {
        if let Some(largest) = self.largest.get(&place) {
            return Ok(*largest);
        }
        let row: Option<i64> = self.last.query_row([place.first(), place.last()], |row| row.get(0))?;
        let lately = self.lately.range(place.first()..=place.last()).next_back().map(|(position, _)| *position);
        let largest = row.max(lately).unwrap_or(place.first());
        self.largest.insert(place, largest);
        Ok(largest)
    }
}

fn read_lately(connection: &Connection) -> rusqlite::Result<BTreeMap<i64, (String, i64)>> {
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)));
    connection.prepare(READ_LATEST)?.query_map([], read)?.collect()
}
