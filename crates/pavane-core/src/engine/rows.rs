//! State to records: the rows of the read model, wherever a step ran.

use super::event::{Event, Trace};
use super::state::{Frame, Home, Pending, Role, State, Token};
use crate::program::Program;
use crate::record::{ServiceTask, Status, WorkflowInstance};
use crate::time::Timestamp;
use crate::value::Value;

impl State {
    /// The instance's row as of now. A participant's has no input: nobody reads it there, and its journal has it.
    pub fn record(&self, program: &Program) -> WorkflowInstance {
        let document = program.document();
        let start = self.start.as_ref();
        let ended = self.ended.as_ref();
        WorkflowInstance {
            id: self.id().to_owned(),
            namespace: document.namespace.clone(),
            name: document.name.clone(),
            version: document.version.clone(),
            digest: program.digest().to_owned(),
            mode: program.placed(),
            status: self.status(),
            correlation_id: start.map(|s| s.correlation_id.clone()).unwrap_or_default(),
            input: start.filter(|_| self.here.is_engine()).map(|s| s.input.clone()).unwrap_or_default(),
            output: ended.and_then(|e| e.output.clone()),
            error: ended.and_then(|e| e.problem.clone()),
            compensation: self.compensation(program),
            start_time: self.started_at,
            end_time: ended.map(|e| e.at),
            parent_id: self.parent().map(|p| p.instance.clone()),
            parent_task: self.parent().map(|p| p.reference.clone()),
        }
    }

    /// Rows of the tasks that have begun and not ended, in the order of their start.
    pub fn open_tasks(&self, program: &Program) -> Vec<ServiceTask> {
        let mut rows: Vec<(u32, ServiceTask)> = Vec::new();
        for token in self.tokens.values() {
            for (depth, frame) in token.frames.iter().enumerate() {
                if matches!(frame.role, Role::Undo(_)) {
                    continue;
                }
                let top = depth + 1 == token.frames.len();
                let waits = match &token.pending {
                    Pending::Call(call) => call.accepted().is_some(),
                    pending => matches!(pending, Pending::Time(_) | Pending::Backoff(_) | Pending::Events),
                };
                let status = match self.suspended {
                    Some(_) => Status::Suspended,
                    None if top && waits => Status::Waiting,
                    None => Status::Running,
                };
                rows.push((frame.run, row(program, self, token, depth, frame, status)));
            }
        }
        rows.sort_by_key(|(run, _)| *run);
        rows.into_iter().map(|(_, row)| row).collect()
    }
}

/// The row of the task that an event closes; to be asked before the event is applied.
pub(super) fn closed(program: &Program, state: &State, now: Timestamp, event: &Event) -> Option<ServiceTask> {
    let (t, status) = match event {
        Event::Completed { t, .. } => (t, Status::Completed),
        Event::Faulted { t, .. } => (t, Status::Faulted),
        Event::Cancelled { t, .. } => (t, Status::Cancelled),
        _ => return None,
    };
    let token = state.token(*t)?;
    let (frame, depth) = (token.top()?, token.frames.len() - 1);
    if matches!(frame.role, Role::Undo(_)) {
        return None;
    }
    let mut row = row(program, state, token, depth, frame, status);
    row.end_time = Some(now);
    match event {
        Event::Completed { output, .. } => row.output_data = Some(output.clone().unwrap_or_else(|| token.data.clone())),
        Event::Faulted { problem, trace, .. } => {
            row.error = Some(problem.clone());
            if let Trace::Done(raw) = trace {
                row.output_data = Some(raw.clone());
            }
        }
        _ => {}
    }
    Some(row)
}

fn row(program: &Program, state: &State, token: &Token, depth: usize, frame: &Frame, status: Status) -> ServiceTask {
    let node = program.node(frame.node);
    let task_id = |run: u32| format!("{}:{run}", state.id());
    let service = match &token.pending {
        Pending::Call(call) if depth + 1 == token.frames.len() => call.request.host().map(str::to_owned),
        _ => None,
    };
    let compensates = depth.checked_sub(1).and_then(|below| match &token.frames[below].role {
        Role::Undo(undoing) => Some(task_id(undoing.task.run)),
        _ => None,
    });
    // What undoes something is no task: it has no row.
    let around = token.frames.iter().take(depth).rfind(|around| !matches!(around.role, Role::Undo(_)));
    ServiceTask {
        id: task_id(frame.run),
        workflow_instance_id: state.id().to_owned(),
        reference: node.reference.to_string(),
        name: node.name.to_string(),
        service_name: service,
        kind: node.kind.to_owned(),
        status,
        attempt: token.attempts_before_at(depth) + 1,
        input_data: frame.input.clone(),
        output_data: None::<Value>,
        error: None,
        start_time: frame.started,
        end_time: None,
        compensates,
        within: around.map(|around| around.run).or_else(|| forked(state, token)),
    }
}

/// The run of the fork that a branch belongs to, while the token that waits for it is here.
fn forked(state: &State, token: &Token) -> Option<u32> {
    let Home::Branch { parent, .. } = &token.home else { return None };
    state.token(*parent)?.top().map(|fork| fork.run)
}
