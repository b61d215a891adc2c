//! Counting what a step did, and the spans of what ended with it. Read off what was decided: nothing depends on it.

use pavane_watch::{Attribute, Kind, Parent as TraceParent};

use super::*;
use crate::watch::{Trace, WorkflowNumbers, nanos};

/// Programs whose numbers are at hand: more than a process is likely to run at once.
const MAX_KNOWN: usize = 1_024;

/// The numbers of programs by their digests, so that nobody need be asked for each step.
pub(super) type Known = HashMap<String, Arc<WorkflowNumbers>>;

/// The context of a sub-workflow: the task that runs it causes it.
pub(super) fn of_child(instance: &str, trace: &TraceContext, call: CallId) -> TraceContext {
    let Trace { id, sampled, .. } = Trace::of(instance, Some(trace));
    let span = Trace::of(instance, Some(trace)).task(call.0);
    TraceContext { parent: TraceParent { trace: id, span, sampled }.to_string(), state: trace.state.clone() }
}

impl Driver {
    /// Counts what a step of an instance in memory did, whose row is this if it changed. Gives the spans of what ended with it,
    /// to be offered once it is durable.
    pub(super) fn watch(
        &mut self,
        id: &str,
        step: &Step,
        row: Option<&WorkflowInstance>,
        ended: Option<Status>,
    ) -> Vec<Span> {
        let Some(active) = self.active.get(id) else { return Vec::new() };
        let shared = &self.engine.shared;
        let (watch, host) = (&shared.options.watch, &shared.options.host);
        let (program, mode) = (&active.program, active.program.placed());
        if !self.numbers.contains_key(program.digest()) {
            if self.numbers.len() >= MAX_KNOWN {
                self.numbers.clear();
            }
            let document = program.document();
            let numbers = watch.workflows.of(&format!("{}/{}", document.namespace, document.name));
            self.numbers.insert(program.digest().to_owned(), numbers);
        }
        let Some(numbers) = self.numbers.get(program.digest()) else { return Vec::new() };
        for event in &step.events {
            match event {
                Event::Started { .. } => numbers.started(mode),
                Event::RetryScheduled { .. } | Event::UndoDelayed { .. } => count(&numbers.retries),
                Event::Undone { .. } => count(&numbers.undone),
                Event::Unresolved { .. } => count(&numbers.unresolved),
                _ => {}
            }
        }
        // An instance ends at home; its parts elsewhere only end with it.
        let ended = ended.filter(|_| host.here.is_engine()).zip(row);
        if step.tasks.is_empty() && ended.is_none() {
            return Vec::new();
        }
        let trace = Trace::of(id, active.state.trace());
        let exemplar = trace.exemplar();
        let millis = |from: Timestamp, to: Option<Timestamp>| to.map_or(0, |to| to.since(from));
        for task in &step.tasks {
            numbers.task(&task.kind, task.status, millis(task.start_time, task.end_time), exemplar);
        }
        if let Some((status, row)) = ended {
            numbers.ended(mode, status, millis(row.start_time, row.end_time), exemplar);
        }
        if !trace.is_recorded(&watch.spans) {
            return Vec::new();
        }
        let here = host.here.name();
        let tasks = step.tasks.iter().map(|task| of_task(&trace, here, task));
        tasks.chain(ended.map(|(_, row)| of_instance(&trace, row))).collect()
    }
}

impl Driver {
    /// Logs the end of an instance, for those who follow them in a log.
    pub(super) fn tell_end(&self, id: &str, status: Status) {
        let home = self.engine.shared.options.host.here.is_engine();
        if !home || !tracing::enabled!(target: "pavane::instance", tracing::Level::INFO) {
            return;
        }
        let Some(active) = self.active.get(id) else { return };
        let row = active.state.record(&active.program);
        let trace = Trace::of(id, active.state.trace());
        let took = row.end_time.map_or(0, |end| end.since(row.start_time)).max(0).saturating_mul(1_000_000);
        let outcome = if status == Status::Completed { "success" } else { "failure" };
        let error = row.error.as_ref();
        tracing::info!(
            target: "pavane::instance",
            instance = id,
            event.action = "instance-ended",
            event.outcome = outcome,
            event.duration = took,
            trace.id = %trace.id,
            error.type = error.map(|error| error.type_.as_str()),
            // A detail may hold data.
            error.message = error.map(|error| error.title.as_str()),
            workflow = %format_args!("{}/{}", row.namespace, row.name),
            version = row.version,
            mode = row.mode.as_str(),
            instance_status = status.as_str(),
            unresolved = row.compensation.unresolved.len(),
            "an instance ended"
        );
    }
}

fn count(counter: &std::sync::atomic::AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The span of a task that ended.
fn of_task(trace: &Trace, here: &str, task: &ServiceTask) -> Span {
    let run = task.id.rsplit_once(':').and_then(|(_, run)| run.parse().ok()).unwrap_or_default();
    let mut attributes: Vec<(&'static str, Attribute)> = vec![
        ("pavane.instance.id", task.workflow_instance_id.as_str().into()),
        ("pavane.task.reference", task.reference.as_str().into()),
        ("pavane.task.kind", task.kind.as_str().into()),
        ("pavane.task.status", task.status.as_str().into()),
        ("pavane.task.attempt", i64::from(task.attempt).into()),
        ("pavane.location", here.into()),
    ];
    attributes.extend(task.service_name.as_deref().map(|service| ("pavane.service", service.into())));
    attributes.extend(task.compensates.as_deref().map(|undone| ("pavane.compensates", undone.into())));
    attributes.extend(task.error.as_ref().map(|error| ("error.type", error.type_.as_str().into())));
    Span {
        trace: trace.id,
        id: trace.task(run),
        parent: Some(task.within.map_or(trace.own, |around| trace.task(around))),
        state: trace.state(),
        name: format!("{} {}", task.kind, task.name),
        kind: Kind::Internal,
        start: nanos(task.start_time),
        end: nanos(task.end_time.unwrap_or(task.start_time)),
        attributes,
        // A detail may hold data.
        error: task.error.as_ref().map(|error| error.title.clone()),
    }
}

/// The span of an instance that ended.
fn of_instance(trace: &Trace, row: &WorkflowInstance) -> Span {
    let mut attributes: Vec<(&'static str, Attribute)> = vec![
        ("pavane.instance.id", row.id.as_str().into()),
        ("pavane.workflow.namespace", row.namespace.as_str().into()),
        ("pavane.workflow.name", row.name.as_str().into()),
        ("pavane.workflow.version", row.version.as_str().into()),
        ("pavane.mode", row.mode.as_str().into()),
        ("pavane.status", row.status.as_str().into()),
        ("pavane.correlation.id", row.correlation_id.as_str().into()),
    ];
    attributes.extend(row.error.as_ref().map(|error| ("error.type", error.type_.as_str().into())));
    Span {
        trace: trace.id,
        id: trace.own,
        parent: trace.parent,
        state: trace.state(),
        name: format!("workflow {}/{}", row.namespace, row.name),
        kind: Kind::Internal,
        start: nanos(row.start_time),
        end: nanos(row.end_time.unwrap_or(row.start_time)),
        attributes,
        error: row.error.as_ref().map(|error| error.title.clone()),
    }
}
