//! The machine: `decide` what follows an input, `apply` it to the state, ask what is `outstanding`.
//!
//! [`decide`] validates the input and answers with events, having applied them to the state through [`State::apply`],
//! the only writer. A refused input leaves the state untouched. Recovery is a fold of `apply` over the journal.

mod types;

pub use types::*;

use crate::event::CloudEvent;
use crate::program::Program;
use crate::record::{JournalEntry, ServiceTask, Status, WorkflowInstance};
use crate::time::Timestamp;

/// Everything one input led to: to be made durable together, before any effect is performed.
#[derive(Debug)]
pub struct Step {
    /// The step for the journal, with its events as payload.
    pub entry: JournalEntry,
    /// The instance's row, when something in it changed.
    pub instance: Option<WorkflowInstance>,
    /// Rows of tasks that ended in this step.
    pub tasks: Vec<ServiceTask>,
    /// The subscriptions as a whole, when they changed.
    pub subscriptions: Option<Vec<Subscription>>,
    /// Events to publish, with ids that a repeat would give again.
    pub publish: Vec<CloudEvent>,
}

/// When an instance must be looked at without an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Never: only an input moves it.
    OnInput,
    /// It has outstanding effects: at once after a restart.
    Now,
    /// At this time, with [`Command::Tick`].
    At(Timestamp),
}

/// The whole state of one instance.
#[derive(Clone, Debug, Default)]
pub struct State {}

/// Decides what follows `input`, applies it to `state` and answers with what must be made durable.
///
/// # Errors
/// [`Rejected`], with the state unchanged.
pub fn decide(program: &Program, host: &Host, state: &mut State, input: Input) -> Result<Step, Rejected> {
    let _ = (program, host, state, input);
    Err(Rejected::Stale)
}

impl State {
    /// Folds journal entries, in order, onto a new state.
    ///
    /// # Errors
    /// A sentence that says which entry cannot be read.
    pub fn replay<'a>(program: &Program, entries: impl IntoIterator<Item = &'a JournalEntry>) -> Result<State, String> {
        let _ = (program, entries.into_iter().count());
        Ok(State::default())
    }

    /// What the world still owes this instance.
    pub fn outstanding(&self) -> Vec<Effect> {
        Vec::new()
    }

    /// When to look at the instance next. [`Wake::Now`] wins over a time; see [`State::next_timer`] for that.
    pub fn wake(&self) -> Wake {
        Wake::OnInput
    }

    /// The soonest time at which [`Command::Tick`] does something; absent while suspended or ended.
    pub fn next_timer(&self) -> Option<Timestamp> {
        None
    }

    /// Status of the instance.
    pub fn status(&self) -> Status {
        Status::Pending
    }

    /// Whether nothing can follow any more: ended, and every loser of a compete has come home. It may be forgotten.
    pub fn is_closed(&self) -> bool {
        true
    }

    /// The instance's row as of now.
    pub fn record(&self, program: &Program) -> WorkflowInstance {
        let _ = program;
        WorkflowInstance {
            id: String::new(),
            namespace: String::new(),
            name: String::new(),
            version: String::new(),
            digest: String::new(),
            mode: crate::definition::Mode::Orchestration,
            status: Status::Pending,
            correlation_id: String::new(),
            input: crate::Value::NULL,
            output: None,
            error: None,
            compensation: crate::record::Compensation::default(),
            start_time: Timestamp(0),
            end_time: None,
            parent_id: None,
            parent_task: None,
        }
    }

    /// Rows of the tasks that have begun and not ended.
    pub fn open_tasks(&self, program: &Program) -> Vec<ServiceTask> {
        let _ = program;
        Vec::new()
    }

    /// Where the result of this instance goes, when it is a sub-workflow somebody waits for.
    pub fn parent(&self) -> Option<&Parent> {
        None
    }
}

/// The lifecycle CloudEvents (`io.serverlessworkflow.*`) of one journal entry, in order. Pure presentation: nothing is
/// stored twice.
pub fn lifecycle(entry: &JournalEntry) -> Vec<CloudEvent> {
    let _ = entry;
    Vec::new()
}
