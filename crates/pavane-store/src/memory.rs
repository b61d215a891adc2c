//! The store that forgets: for `pavane run`, tests and the simulator. It keeps everything until it is dropped.
//!
//! [`Memory`] behaves as [`crate::Sqlite`] does in everything a caller can see, except that nothing outlives it. It
//! has no thread: a batch is applied, and its `done` called, by the thread that commits. Batches are queued and one
//! thread at a time works the queue off without holding any lock, so that a `done` may call back into the store,
//! commits from within a `done` do not pile up on the stack, and acknowledgements come in the order of the commits.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pavane_core::Timestamp;
use pavane_core::engine::Subscription;
use pavane_core::event::CloudEvent;
use pavane_core::record::{JournalEntry, ServiceTask, Status, WorkflowInstance};

use crate::batch::{self, run_number};
use crate::{Commit, DeadLetter, Deployed, Done, Due, Error, History, Observed, Outgoing, Page, Query, Store};

/// How errors name this store.
const PATH: &str = "the store in memory";

/// A store in memory.
#[derive(Debug, Default)]
pub struct Memory {
    queue: Mutex<Queue>,
    state: Mutex<State>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Vec<Commit>, Done)>,
    /// Whether a thread works the queue off.
    worked: bool,
}

#[derive(Debug, Default)]
struct State {
    /// In the order of creation: an instance's number is its index + 1.
    instances: Vec<Kept>,
    numbers: HashMap<String, usize>,
    due: BTreeSet<(i64, usize)>,
    outbox: Vec<CloudEvent>,
    definitions: Vec<Deployed>,
    consumed: HashMap<String, u64>,
    outgoing: BTreeMap<u64, Outgoing>,
    dead: BTreeMap<u64, (Outgoing, String)>,
    /// Steps and rows of tasks in the order in which they were written: instance, and position or run.
    steps: Vec<(usize, usize)>,
    runs: Vec<(usize, u32)>,
}

#[derive(Debug)]
struct Kept {
    row: WorkflowInstance,
    due: Option<i64>,
    journal: Vec<JournalEntry>,
    observed: BTreeMap<u64, JournalEntry>,
    tasks: BTreeMap<u32, ServiceTask>,
    subscriptions: Vec<Subscription>,
}

/// Ends the working of the queue even when a `done` panics: the next commit goes on.
struct Working<'a>(&'a Mutex<Queue>);

impl Memory {
    /// An empty store.
    pub fn new() -> Memory {
        Memory::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Store for Memory {
    fn commit(&self, batch: Vec<Commit>, done: Done) {
        let mut queue = lock(&self.queue);
        queue.waiting.push_back((batch, done));
        if std::mem::replace(&mut queue.worked, true) {
            return;
        }
        drop(queue);
        let working = Working(&self.queue);
        while let Some((batch, done)) = working.next() {
            let result = self.state().apply(batch);
            done(result);
        }
    }

    fn deploy(&self, definition: &Deployed) -> Result<(), Error> {
        let mut state = self.state();
        state.definitions.retain(|d| d.digest != definition.digest);
        state.definitions.push(definition.clone());
        Ok(())
    }

    fn definitions(&self) -> Result<Vec<Deployed>, Error> {
        Ok(self.state().definitions.clone())
    }

    fn instance(&self, id: &str) -> Result<Option<WorkflowInstance>, Error> {
        Ok(self.state().kept(id).map(|kept| kept.row.clone()))
    }

    fn instances(&self, query: &Query) -> Result<Page, Error> {
        let before = batch::cursor(query)?;
        let state = self.state();
        let older = |number: &usize| before.is_none_or(|before| i64::try_from(*number).is_ok_and(|n| n < before));
        let numbered = state.instances.iter().enumerate().map(|(index, kept)| (index + 1, kept)).rev();
        let mut found = numbered.filter(|(number, kept)| older(number) && matches(query, &kept.row));
        let rows: Vec<_> = found.by_ref().take(batch::page_size(query)).collect();
        let next = found.next().and(rows.last()).map(|(number, _)| number.to_string());
        Ok(Page { instances: rows.into_iter().map(|(_, kept)| kept.row.clone()).collect(), next })
    }

    fn tasks(&self, instance: &str) -> Result<Vec<ServiceTask>, Error> {
        let state = self.state();
        let mut tasks: Vec<_> = state.kept(instance).into_iter().flat_map(|k| k.tasks.values().cloned()).collect();
        // The sort is stable: runs that started in the same millisecond stay in the order of their numbers.
        tasks.sort_by_key(|task| task.start_time);
        Ok(tasks)
    }

    fn journal(&self, instance: &str, after: u64, limit: usize) -> Result<Vec<JournalEntry>, Error> {
        let skip = usize::try_from(after).unwrap_or(usize::MAX);
        let state = self.state();
        let entries = |kept: &Kept| -> Vec<JournalEntry> {
            let observed = kept.observed.range((Bound::Excluded(after), Bound::Unbounded)).map(|(_, entry)| entry);
            kept.journal.iter().skip(skip).chain(observed).take(limit).cloned().collect()
        };
        Ok(state.kept(instance).map(entries).unwrap_or_default())
    }

    fn due(&self, owed: bool, until: Timestamp, limit: usize) -> Result<Vec<(String, Due)>, Error> {
        let state = self.state();
        Ok(state
            .due
            .iter()
            .skip_while(|(at, _)| !owed && batch::due_from_number(*at) == Due::Now)
            .take_while(|(at, _)| *at <= until.0)
            .filter_map(|(at, index)| Some((state.instances.get(*index)?.row.id.clone(), batch::due_from_number(*at))))
            .take(limit)
            .collect())
    }

    fn subscribers(&self, event_type: &str) -> Result<Vec<String>, Error> {
        let wanted = |subscription: &Subscription| match subscription {
            Subscription::All => true,
            Subscription::Type(name) => name == event_type,
        };
        let state = self.state();
        Ok(state
            .instances
            .iter()
            .filter(|kept| kept.subscriptions.iter().any(wanted))
            .map(|kept| kept.row.id.clone())
            .collect())
    }

    fn published(&self, reader: &str, limit: usize) -> Result<Vec<(u64, CloudEvent)>, Error> {
        let state = self.state();
        let skip = state.consumed.get(reader).map_or(0, |at| usize::try_from(*at).unwrap_or(usize::MAX));
        Ok((1..).zip(&state.outbox).skip(skip).take(limit).map(|(at, event)| (at, event.clone())).collect())
    }

    fn outgoing(&self, after: u64, limit: usize) -> Result<Vec<(u64, Outgoing)>, Error> {
        let state = self.state();
        let behind = state.outgoing.range((Bound::Excluded(after), Bound::Unbounded));
        Ok(behind.take(limit).map(|(at, event)| (*at, event.clone())).collect())
    }

    fn open_instances(&self) -> Result<Vec<(Status, u64)>, Error> {
        let state = self.state();
        let open = Status::ALL.into_iter().filter(|status| !status.is_terminal());
        let count = |status| state.instances.iter().filter(|kept| kept.row.status == status).count() as u64;
        Ok(open.map(|status| (status, count(status))).collect())
    }

    fn last_position(&self) -> Result<u64, Error> {
        let state = self.state();
        let last = |position: Option<&u64>| position.copied().unwrap_or_default();
        Ok(last(state.outgoing.keys().next_back()).max(last(state.dead.keys().next_back())))
    }

    fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        let letter = |(position, (message, reason)): (&u64, &(Outgoing, String))| DeadLetter {
            position: *position,
            message: message.clone(),
            reason: reason.clone(),
        };
        Ok(self.state().dead.iter().take(limit).map(letter).collect())
    }

    fn cursor(&self, reader: &str) -> Result<u64, Error> {
        Ok(self.state().consumed.get(reader).copied().unwrap_or_default())
    }

    fn history(&self, steps_after: u64, tasks_after: u64, limit: usize) -> Result<History, Error> {
        let state = self.state();
        let step = |(index, at): &(usize, usize)| {
            let kept = state.instances.get(*index)?;
            Some((kept.journal.get(*at)?.clone(), kept.row.digest.clone()))
        };
        let task = |(index, run): &(usize, u32)| state.instances.get(*index)?.tasks.get(run).cloned();
        let steps = state.steps.iter().skip(index(steps_after)).take(limit).filter_map(step).collect::<Vec<_>>();
        let tasks = state.runs.iter().skip(index(tasks_after)).take(limit).filter_map(task).collect::<Vec<_>>();
        let last = |after: u64, count: usize| after.saturating_add(count as u64);
        let (last_step, last_task) = (last(steps_after, steps.len()), last(tasks_after, tasks.len()));
        Ok(History { steps: (steps, last_step), tasks: (tasks, last_task) })
    }
}

impl State {
    fn kept(&self, id: &str) -> Option<&Kept> {
        self.instances.get(*self.numbers.get(id)?)
    }

    fn apply(&mut self, batch: Vec<Commit>) -> Result<(), Error> {
        let last = |id: &str, _first| Ok(self.kept(id).map(|kept| kept.journal.last().map_or(0, |entry| entry.seq)));
        batch::check(PATH, &batch, last)?;
        for commit in batch {
            self.write(commit)?;
        }
        Ok(())
    }

    fn write(&mut self, mut commit: Commit) -> Result<(), Error> {
        let owner = batch::owner(PATH, &commit)?.map(str::to_owned);
        let due = batch::due_to_number(commit.due);
        self.outbox.append(&mut commit.publish);
        self.consumed.extend(commit.consumed.drain(..));
        self.messages(&mut commit);
        for row in commit.observed.drain(..) {
            self.observe(row);
        }
        let Some(owner) = owner else { return Ok(()) };
        if let Some(row) = commit.instance {
            self.put(row, due);
        }
        let index = self.numbers.get(&owner).copied().unwrap_or(usize::MAX);
        let Some(kept) = self.instances.get_mut(index) else {
            return Ok(()); // The check refused it: an instance without a row.
        };
        if let Some(entry) = commit.entry {
            self.steps.push((index, kept.journal.len()));
            kept.journal.push(entry);
        }
        if let Some(subscriptions) = commit.subscriptions {
            kept.subscriptions = subscriptions;
        }
        for task in commit.tasks {
            self.task(index, task);
        }
        Ok(())
    }

    fn task(&mut self, index: usize, task: ServiceTask) {
        if let Some(kept) = self.instances.get_mut(index)
            && let Some(run) = run_number(&task.workflow_instance_id, &task.id)
            && kept.tasks.insert(run, task).is_none()
        {
            self.runs.push((index, run));
        }
    }

    fn observe(&mut self, row: Observed) {
        match row {
            Observed::Step(entry) => {
                let index = self.numbers.get(&entry.workflow_instance_id);
                if let Some(kept) = index.and_then(|index| self.instances.get_mut(*index)) {
                    kept.observed.entry(entry.seq).or_insert(entry);
                }
            }
            Observed::Task(task) => {
                if let Some(index) = self.numbers.get(&task.workflow_instance_id) {
                    self.task(*index, task);
                }
            }
        }
    }

    fn messages(&mut self, commit: &mut Commit) {
        for (position, message) in commit.send.drain(..) {
            self.outgoing.insert(position, Outgoing { content: None, redelivered: false, ..message });
        }
        for position in &commit.delivered {
            self.outgoing.remove(position);
        }
        for (position, reason) in commit.dead.drain(..) {
            if let Some(event) = self.outgoing.remove(&position) {
                self.dead.insert(position, (event, reason));
            }
        }
        for position in &commit.redrive {
            if let Some((message, _)) = self.dead.remove(position) {
                self.outgoing.insert(*position, message);
            }
        }
    }

    fn put(&mut self, row: WorkflowInstance, due: Option<i64>) {
        let index = *self.numbers.entry(row.id.clone()).or_insert(self.instances.len());
        match self.instances.get_mut(index) {
            Some(kept) => {
                if let Some(at) = kept.due {
                    self.due.remove(&(at, index));
                }
                let WorkflowInstance { status, end_time, compensation, error, output, .. } = row;
                let start = kept.row.clone();
                kept.row = WorkflowInstance { status, end_time, compensation, error, output, ..start };
                kept.due = due;
            }
            None => self.instances.push(Kept {
                row,
                due,
                journal: Vec::new(),
                observed: BTreeMap::new(),
                tasks: BTreeMap::new(),
                subscriptions: Vec::new(),
            }),
        }
        self.due.extend(due.map(|at| (at, index)));
    }
}

impl Working<'_> {
    /// The next batch. The mark falls under the same lock that finds the queue empty: no batch is left behind.
    fn next(&self) -> Option<(Vec<Commit>, Done)> {
        let mut queue = lock(self.0);
        let next = queue.waiting.pop_front();
        queue.worked = next.is_some();
        next
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(self.0).worked = false;
        }
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting.len()).field("worked", &self.worked).finish()
    }
}

fn matches(query: &Query, row: &WorkflowInstance) -> bool {
    batch::workflow(query).is_none_or(|(namespace, name)| {
        row.name == name && namespace.is_none_or(|namespace| row.namespace == namespace)
    }) && (query.statuses.is_empty() || query.statuses.contains(&row.status))
        && query.correlation_id.as_ref().is_none_or(|id| *id == row.correlation_id)
        && query.mode.is_none_or(|mode| row.mode == mode)
        && query.started_after.is_none_or(|time| row.start_time >= time)
}

/// How many of a list to pass over.
fn index(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// A `done` that panicked left no lock held; a panic under a lock is a defect that must not spread.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
