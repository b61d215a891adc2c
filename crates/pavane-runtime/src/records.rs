//! What people ask for: instances, their tasks and their journals, wherever they were worked on.
//!
//! Reads only. Start reading at [`Engine::tasks`] and [`Engine::journal`].

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use pavane_core::engine::State;
use pavane_core::program::Program;
use pavane_core::record::{JournalEntry, ServiceTask, WorkflowInstance};
use pavane_store::{OBSERVED, Page, Query, Store};

use crate::{Engine, Error};

/// Journal entries read in one go: a history is replayed in pages, not as one value.
const PAGE: usize = 1_000;

/// How often a reader that waits for a journal entry looks again.
const FOLLOW_POLL: Duration = Duration::from_millis(100);

/// How far somebody has read an instance's journal: a position for each of its locations. As text, these with dots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor(Vec<u64>);

impl Cursor {
    fn at(&self, place: u64) -> u64 {
        usize::try_from(place).ok().and_then(|place| self.0.get(place)).copied().unwrap_or_default()
    }

    fn set(&mut self, place: u64, position: u64) {
        let place = usize::try_from(place).unwrap_or_default();
        self.0.resize(self.0.len().max(place + 1), 0);
        self.0[place] = position;
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let positions: Vec<String> = self.0.iter().map(u64::to_string).collect();
        f.write_str(&positions.join("."))
    }
}

impl std::str::FromStr for Cursor {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Cursor, Self::Err> {
        text.split('.').map(|position| position.parse::<u32>().map(u64::from)).collect::<Result<_, _>>().map(Cursor)
    }
}

/// Where the record of each location of a program is: in its store when that is in this process, else among what was
/// observed, in the home's. By place in the program's list of locations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts(Vec<Option<Arc<dyn Store>>>);

impl Parts {
    fn store(&self, place: u64) -> Option<&Arc<dyn Store>> {
        usize::try_from(place).ok().and_then(|place| self.0.get(place))?.as_ref()
    }

    /// The journal of an instance at a place, after a position of that place.
    fn journal(
        &self,
        home: &dyn Store,
        id: &str,
        place: u64,
        after: u64,
    ) -> Result<Vec<JournalEntry>, pavane_store::Error> {
        let (store, first) = match self.store(place) {
            Some(store) => (&**store, 0),
            None => (home, place * OBSERVED),
        };
        let mut entries = store.journal(id, first + after, PAGE)?;
        entries.retain(|entry| entry.seq < first + OBSERVED);
        entries.iter_mut().for_each(|entry| entry.seq -= first);
        Ok(entries)
    }
}

impl Engine {
    /// One instance.
    ///
    /// # Errors
    /// [`Error::UnknownInstance`], [`Error::Store`].
    pub async fn instance(&self, id: &str) -> Result<WorkflowInstance, Error> {
        let wanted = id.to_owned();
        let found = self.blocking(move |store| store.instance(&wanted)).await?;
        found.ok_or_else(|| Error::UnknownInstance(id.to_owned()))
    }

    /// A page of instances.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn instances(&self, query: Query) -> Result<Page, Error> {
        self.blocking(move |store| store.instances(&query)).await
    }

    /// The tasks of an instance, those that still run included, wherever they run, in the order of their start.
    ///
    /// # Errors
    /// [`Error::UnknownInstance`], [`Error::Store`].
    pub async fn tasks(&self, id: &str) -> Result<Vec<ServiceTask>, Error> {
        let (record, program) = self.observed(id).await?;
        let (id, parts) = (id.to_owned(), self.parts(program.as_deref()));
        self.blocking(move |store| {
            let mut tasks = store.tasks(&id)?;
            for part in parts.0.iter().flatten() {
                tasks.extend(part.tasks(&id)?);
            }
            if let (Some(program), false) = (program, record.status.is_terminal()) {
                for place in 0..program.locations().len() as u64 {
                    // Of a damaged history there is no more to show than its rows.
                    let state = replay_at(store, &parts, &program, &id, place)?;
                    tasks.extend(state.into_iter().flat_map(|state| state.open_tasks(&program)));
                }
            }
            let run = |task: &ServiceTask| task.id.rsplit_once(':').and_then(|(_, run)| run.parse::<u32>().ok());
            // Numbers tell the order within a location, times that between them.
            tasks.sort_by_key(|task| (task.start_time, run(task)));
            let mut seen = BTreeSet::new();
            tasks.retain(|task| seen.insert(run(task)));
            Ok(tasks)
        })
        .await
    }

    /// The journal of an instance after a cursor: steps of all its locations, in the order of their times, each with the
    /// cursor to go on after it. With `wait`, waits that long for a first entry.
    ///
    /// # Errors
    /// [`Error::UnknownInstance`], [`Error::Store`].
    pub async fn journal(
        &self,
        id: &str,
        after: &Cursor,
        wait: Duration,
    ) -> Result<Vec<(JournalEntry, Cursor)>, Error> {
        let until = tokio::time::Instant::now() + wait;
        loop {
            let (_, program) = self.observed(id).await?;
            let places = program.as_ref().map_or(1, |program| program.locations().len()) as u64;
            let (wanted, mut cursor, parts) = (id.to_owned(), after.clone(), self.parts(program.as_deref()));
            let read = move |store: &dyn Store| {
                let mut entries = Vec::new();
                for place in 0..places {
                    let page = parts.journal(store, &wanted, place, cursor.at(place))?;
                    entries.extend(page.into_iter().map(|entry| (place, entry)));
                }
                entries.sort_by_key(|(_, entry)| entry.timestamp);
                let with_cursor = |(place, entry): (u64, JournalEntry)| {
                    cursor.set(place, entry.seq);
                    (JournalEntry { seq: place * OBSERVED + entry.seq, ..entry }, cursor.clone())
                };
                Ok(entries.into_iter().map(with_cursor).collect::<Vec<_>>())
            };
            let entries = self.blocking(read).await?;
            if !entries.is_empty() || tokio::time::Instant::now() >= until || *self.shared.stopping.borrow() {
                return Ok(entries);
            }
            tokio::time::sleep(FOLLOW_POLL).await;
        }
    }

    /// Where the record of each location of a program is.
    pub(crate) fn parts(&self, program: Option<&Program>) -> Parts {
        let beside = self.shared.beside.lock().unwrap_or_else(PoisonError::into_inner);
        let locations = program.map(Program::locations).unwrap_or_default();
        Parts(locations.iter().map(|location| beside.get(location).cloned()).collect())
    }

    /// An instance and its program, once what was done in other processes is here.
    pub(crate) async fn observed(&self, id: &str) -> Result<(WorkflowInstance, Option<Arc<Program>>), Error> {
        let record = self.instance(id).await?;
        let program = self.shared.registry.by_digest(&record.digest);
        if let Some(program) = program.as_ref().filter(|program| program.locations().len() > 1) {
            self.observe_now(program.locations()).await?;
        }
        Ok((record, program))
    }
}

/// Brings an instance back from its journal; the inner error says why this journal cannot be followed.
pub(crate) fn replay(
    store: &dyn Store,
    program: &Program,
    id: &str,
) -> Result<Result<State, String>, pavane_store::Error> {
    replay_at(store, &Parts::default(), program, id, 0)
}

/// As [`replay`], for the location at this place in the program's list.
pub(crate) fn replay_at(
    store: &dyn Store,
    parts: &Parts,
    program: &Program,
    id: &str,
    place: u64,
) -> Result<Result<State, String>, pavane_store::Error> {
    let mut state = State::default();
    loop {
        let entries = parts.journal(store, id, place, state.seq())?;
        if let Err(reason) = state.extend(program, &entries) {
            return Ok(Err(format!("{reason}; its journal is damaged, or a newer program wrote it")));
        }
        if entries.len() < PAGE {
            return Ok(Ok(state));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        let mut cursor = Cursor::default();
        cursor.set(2, 7);
        cursor.set(0, 3);
        assert_eq!((cursor.at(0), cursor.at(1), cursor.at(2), cursor.at(9)), (3, 0, 7, 0));
        assert_eq!(cursor.to_string(), "3.0.7");
        assert_eq!("3.0.7".parse(), Ok(cursor));
        for text in ["", ".", "1.", "-1", "99999999999999999999"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
