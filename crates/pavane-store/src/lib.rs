//! The store port: what must be durable, and how it is read back.
//!
//! A store keeps opaque journal entries and record rows. It knows no workflow rule: which rows belong to a step is
//! decided by the runtime and handed over as one [`Commit`]. Start reading at [`Store`]; [`Memory`] says in the fewest
//! words what every store does, [`Sqlite`] does it durably, and `tests/contract/main.rs` holds both to it.

mod batch;
mod envelope;
mod memory;
mod sqlite;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

pub use envelope::Envelope;
pub use memory::Memory;
pub use sqlite::{Sqlite, Stats};

use pavane_core::Timestamp;
use pavane_core::definition::Mode;
use pavane_core::engine::Subscription;
use pavane_core::event::CloudEvent;
use pavane_core::record::{JournalEntry, ServiceTask, Status, WorkflowInstance};
use pavane_core::value::Texts;

/// Everything one step of one instance makes durable, atomically.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// The step in the instance's history. Its `seq` must follow the last one: anything else is [`Error::Conflict`].
    pub entry: Option<JournalEntry>,
    /// The instance row; absent when nothing in it changed. What its start fixes stays as it came first: later only `status`,
    /// `end_time`, `compensation`, `error` and `output` are taken over.
    pub instance: Option<WorkflowInstance>,
    /// When the runtime must look at the instance again without being asked; written only with `instance`.
    pub due: Due,
    /// Task rows, inserted or replaced by id.
    pub tasks: Vec<ServiceTask>,
    /// The instance's subscriptions, replaced as a set; absent when unchanged.
    pub subscriptions: Option<Vec<Subscription>>,
    /// Events published by this step, appended to the outbox in order.
    pub publish: Vec<CloudEvent>,
    /// How far readers of logs have come: each one's name and the position it has dealt with.
    pub consumed: Vec<(String, u64)>,
    /// Messages to other locations, each with its position: above [`Store::last_position`], and each once.
    pub send: Vec<(u64, Outgoing)>,
    /// Positions of messages that their receivers have: they are forgotten. One that is gone already is passed over.
    pub delivered: Vec<u64>,
    /// Positions of messages that no receiver will ever take, each with the reason: they become dead letters.
    pub dead: Vec<(u64, String)>,
    /// Positions of dead letters that are on their way again.
    pub redrive: Vec<u64>,
    /// The message that the step of `entry` came from, when its sender may keep it in the same place.
    pub taken: Option<Taken>,
    /// What was done at other locations, copied for those who ask here. It may belong to any instances; what belongs to
    /// none that is here is passed over.
    pub observed: Vec<Observed>,
    /// Texts of values in it that are known: they need not be written again.
    pub texts: Texts,
}

/// A message from another location, as the payload of the step that it led to holds it. A store in which both are may write
/// its text once: then it is no longer on its way once the step is durable, and need not be [delivered](Commit::delivered).
#[derive(Clone, Debug)]
pub struct Taken {
    /// The location that sent it.
    pub from: String,
    /// Its position there.
    pub position: u64,
    /// The value of `data` in its envelope, to the letter.
    pub data: Arc<str>,
}

/// Something done at another location.
#[derive(Clone, Debug, PartialEq)]
pub enum Observed {
    /// A step, at a position of [`OBSERVED`] or more. One that is here already is passed over.
    Step(JournalEntry),
    /// A row of a task, inserted or replaced.
    Task(ServiceTask),
}

/// Positions from here on are those of entries observed at other locations ([`Commit::observed`]); journals of this
/// store lie below, with room for a step each microsecond of a human's life.
pub const OBSERVED: u64 = 1 << 40;

/// A message for another location.
#[derive(Clone)]
pub struct Outgoing {
    /// The location it is for.
    pub to: String,
    /// The message as a CloudEvent.
    pub envelope: Envelope,
    /// What the envelope was made of, for a receiver in the same process. No store keeps it.
    pub content: Option<Arc<dyn Any + Send + Sync>>,
    /// Whether its receiver may have been given it before. No store keeps it: who reads a message from one must say so.
    pub redelivered: bool,
}

impl PartialEq for Outgoing {
    fn eq(&self, other: &Outgoing) -> bool {
        (&self.to, &self.envelope) == (&other.to, &other.envelope)
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to {}: {}", self.to, self.envelope)
    }
}

/// A message that could not be delivered.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Its position: what [`Commit::redrive`] names.
    pub position: u64,
    /// The message.
    pub message: Outgoing,
    /// Why.
    pub reason: String,
}

/// A piece of what a store's instances did, as [`Store::history`] reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Steps with the digests of their instances' programs, and the largest position among them.
    pub steps: (Vec<(JournalEntry, String)>, u64),
    /// Rows of tasks, likewise.
    pub tasks: (Vec<ServiceTask>, u64),
}

/// When an instance needs attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Due {
    /// Only when an input comes for it.
    #[default]
    OnInput,
    /// At once after a restart: the world owes it something.
    Now,
    /// At this time.
    At(Timestamp),
}

/// A definition as it was deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// Program digest.
    pub digest: String,
    /// The document's text.
    pub text: String,
    /// Resources fetched at deploy time (schemas), a JSON object by URI.
    pub resources: String,
    /// When it was deployed.
    pub deployed_at: Timestamp,
}

/// Which instances to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// `namespace/name` or `name`.
    pub workflow: Option<String>,
    /// Any of these; empty: all.
    pub statuses: Vec<Status>,
    /// Mode.
    pub mode: Option<Mode>,
    /// Correlation id.
    pub correlation_id: Option<String>,
    /// Started at or after.
    pub started_after: Option<Timestamp>,
    /// At most this many (1 to 1,000).
    pub limit: usize,
    /// `cursor` of the page before.
    pub cursor: Option<String>,
}

/// A page of instances.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The rows.
    pub instances: Vec<WorkflowInstance>,
    /// For the next page; absent on the last.
    pub next: Option<String>,
}

/// What a store can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal position is taken: another writer owns the instance, or the instance exists already.
    #[error("instance {instance}: step {seq} is already written; another process writes to this store")]
    Conflict {
        /// The instance.
        instance: String,
        /// The position.
        seq: u64,
    },
    /// Another process holds the store.
    #[error("{path} is in use by {holder}; stop that process, or name another store with `store.sqlite.path`")]
    Locked {
        /// The store.
        path: String,
        /// Who, as far as it is known (pid, since when).
        holder: String,
    },
    /// The disk is full, the database is corrupt, or the medium failed. Nothing of the batch is durable.
    #[error("{path}: {reason}")]
    Failed {
        /// The store.
        path: String,
        /// What happened and what to do.
        reason: String,
    },
    /// The caller of a listing gave a cursor that no listing gave out. Only that listing fails.
    #[error("`{text}` is no cursor of a listing: leave it out to start from the newest instance")]
    Cursor {
        /// What was given.
        text: String,
    },
    /// The store was written by a newer version of Pavane.
    #[error(
        "{path} has schema version {found}, this program knows up to {known}: start the newer program, or name another store"
    )]
    Newer {
        /// The store.
        path: String,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
}

/// Called once, on the store's writer thread, when a batch is durable or has failed.
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// The port. Reads block: call them from a blocking thread. Writes never block the caller.
pub trait Store: Send + Sync + fmt::Debug {
    /// Queues a batch: all of it is durable together, in order, or nothing is. Batches that gather while the last
    /// transaction is written go into one (group commit).
    fn commit(&self, batch: Vec<Commit>, done: Done);

    /// What tells the stores that write in one order: of two batches that were queued one after the other at stores with the same
    /// one, the second is never durable without the first. Nothing when no other store has an order in common with this one.
    fn order(&self) -> Option<usize> {
        None
    }

    /// Keeps a definition. Of one name and version the one deployed last counts; older ones stay for the instances that
    /// are pinned to their digest.
    ///
    /// # Errors
    /// See [`Error`].
    fn deploy(&self, definition: &Deployed) -> Result<(), Error>;

    /// All definitions, in the order of their deployment.
    ///
    /// # Errors
    /// See [`Error`].
    fn definitions(&self) -> Result<Vec<Deployed>, Error>;

    /// One instance.
    ///
    /// # Errors
    /// See [`Error`].
    fn instance(&self, id: &str) -> Result<Option<WorkflowInstance>, Error>;

    /// A page of instances.
    ///
    /// # Errors
    /// See [`Error`].
    fn instances(&self, query: &Query) -> Result<Page, Error>;

    /// The task rows of an instance, in the order of their start.
    ///
    /// # Errors
    /// See [`Error`].
    fn tasks(&self, instance: &str) -> Result<Vec<ServiceTask>, Error>;

    /// The journal of an instance after position `after`, in order, at most `limit` entries.
    ///
    /// # Errors
    /// See [`Error`].
    fn journal(&self, instance: &str, after: u64, limit: usize) -> Result<Vec<JournalEntry>, Error>;

    /// Instances that are due by `until`, soonest first, at most `limit`: id and when. Those with [`Due::Now`] come
    /// first when `owed` asks for them, and are left out otherwise.
    ///
    /// # Errors
    /// See [`Error`].
    fn due(&self, owed: bool, until: Timestamp, limit: usize) -> Result<Vec<(String, Due)>, Error>;

    /// Ids of instances subscribed to events of this type (exactly, or to all).
    ///
    /// # Errors
    /// See [`Error`].
    fn subscribers(&self, event_type: &str) -> Result<Vec<String>, Error>;

    /// Published events that `reader` has not dealt with ([`Commit::consumed`]), in order, with their positions, at most
    /// `limit`.
    ///
    /// # Errors
    /// See [`Error`].
    fn published(&self, reader: &str, limit: usize) -> Result<Vec<(u64, CloudEvent)>, Error>;

    /// Messages on their way after position `after`, in order, at most `limit`.
    ///
    /// # Errors
    /// See [`Error`].
    fn outgoing(&self, after: u64, limit: usize) -> Result<Vec<(u64, Outgoing)>, Error>;

    /// How many instances have not ended, by status: each that is not terminal, in the order of [`Status::ALL`].
    ///
    /// # Errors
    /// See [`Error`].
    fn open_instances(&self) -> Result<Vec<(Status, u64)>, Error>;

    /// The highest position of a message, on its way or dead; 0 when there is none.
    ///
    /// # Errors
    /// See [`Error`].
    fn last_position(&self) -> Result<u64, Error>;

    /// Messages that could not be delivered, in the order of their positions, at most `limit`.
    ///
    /// # Errors
    /// See [`Error`].
    fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, Error>;

    /// The position that a reader has dealt with ([`Commit::consumed`]); 0 when there is none.
    ///
    /// # Errors
    /// See [`Error`].
    fn cursor(&self, reader: &str) -> Result<u64, Error>;

    /// Steps of all instances after one position, and rows of tasks after another, each in the order in which they were
    /// first written and at most `limit`. Steps that were observed elsewhere are left out.
    ///
    /// # Errors
    /// See [`Error`].
    fn history(&self, steps_after: u64, tasks_after: u64, limit: usize) -> Result<History, Error>;
}
