//! A run as text a person can read: calls, waits, emitted events, ends of tasks, the end of the instance.
//!
//! Times are seconds since the start. Idempotency keys are letters in the order of their first use: the same letter is
//! the same key.

use std::collections::BTreeMap;

use pavane_core::engine::secret::{CLOSE, OPEN};
use pavane_core::engine::{Call, Child, Credentials, Event, Outcome, Request, Step};
use pavane_core::record::{ServiceTask, WorkflowInstance};
use pavane_core::{Problem, Timestamp, Value};

/// Lines of one step; what is more is left out in the middle.
const MAX_LINES: usize = 40;

/// Lines under construction.
#[derive(Default)]
pub struct Transcript {
    text: String,
    keys: BTreeMap<String, String>,
}

impl Transcript {
    /// The text so far.
    pub fn into_text(self) -> String {
        self.text
    }

    /// A line without a time.
    pub fn line(&mut self, line: &str) {
        self.text.push_str(&line.replace(OPEN, "‹").replace(CLOSE, "›"));
        self.text.push('\n');
    }

    /// A line of something that happened `at`.
    pub fn at(&mut self, at: i64, line: &str) {
        let seconds = at as f64 / 1_000.0;
        self.line(&format!("{:>6}  {line}", format!("{seconds}s")));
    }

    /// What a step decided.
    pub fn step(&mut self, at: i64, start: Timestamp, step: &Step) {
        let mut rows = step.tasks.iter();
        let lines = step.events.iter().filter_map(|event| {
            let row = match event {
                Event::Completed { .. } | Event::Faulted { .. } | Event::Cancelled { .. } => rows.next(),
                _ => None,
            };
            describe(event, row, start)
        });
        let mut lines: Vec<String> = lines.collect();
        if lines.len() > MAX_LINES {
            let left_out = lines.len() - MAX_LINES;
            lines.splice(MAX_LINES / 2..lines.len() - MAX_LINES / 2, [format!("… {left_out} lines left out")]);
        }
        lines.iter().for_each(|line| self.at(at, line));
    }

    /// A call that was made.
    pub fn call(&mut self, at: i64, call: &Call, start: Timestamp) {
        let mut line = format!("call #{} {} {}", call.id.0, call.reference, request(&call.request));
        line.push_str(&format!("  key {}", self.key(&call.key)));
        if let Some(forward) = &call.compensates {
            line.push_str(&format!(", undoes {}", self.key(forward)));
        }
        if call.callback {
            line.push_str(", awaits a callback");
        }
        if call.attempt > 1 {
            line.push_str(&format!(", attempt {}", call.attempt));
        }
        if let Some(deadline) = call.deadline {
            line.push_str(&format!(", until {}s", deadline.since(start) as f64 / 1_000.0));
        }
        self.at(at, &line);
    }

    /// A sub-workflow that was started.
    pub fn child(&mut self, at: i64, call: u32, child: &Child) {
        let Child { id, namespace, name, version, input, reference, wait } = child;
        let id = self.key(id);
        let how = if *wait { "" } else { ", not awaited" };
        self.at(
            at,
            &format!("start #{call} {reference} {namespace}/{name}@{version} {}  id {id}{how}", input.to_json()),
        );
    }

    /// The instance as it is.
    pub fn record(&mut self, record: &WorkflowInstance, open: &[ServiceTask]) {
        let status = record.status.as_str();
        match (&record.output, &record.error) {
            (Some(output), _) => self.line(&format!("{status} {}", output.to_json())),
            (None, Some(error)) => self.line(&format!("{status} {}", problem(error))),
            _ => self.line(status),
        }
        for task in open {
            self.line(&format!("  open {} {}", task.reference, task.status.as_str()));
        }
        let compensation = &record.compensation;
        if !compensation.compensated.is_empty() {
            self.line(&format!("  compensated {}", compensation.compensated.join(", ")));
        }
        for unresolved in &compensation.unresolved {
            let key = self.key(&unresolved.key);
            self.line(&format!("  unresolved {} key {key}: {}", unresolved.reference, unresolved.reason));
        }
    }

    fn key(&mut self, key: &str) -> String {
        let next = char::from(b'A' + (self.keys.len() % 26) as u8).to_string().repeat(1 + self.keys.len() / 26);
        self.keys.entry(key.to_owned()).or_insert(next).clone()
    }
}

/// An outcome in one line.
pub fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Success(output) => output.to_json(),
        Outcome::Failure { problem, certainty } => format!("{} {certainty:?}", problem.status),
        Outcome::Accepted => "accepted".into(),
    }
}

/// An error in one line; the standard's types by their last segment.
pub fn problem(problem: &Problem) -> String {
    let Problem { type_, status, title, detail, instance } = problem;
    let type_ = type_.strip_prefix(pavane_core::problem::PREFIX).unwrap_or(type_);
    let detail = detail.as_ref().map(|d| format!(": {d}")).unwrap_or_default();
    format!("{type_} {status} \"{title}\" at \"{instance}\"{detail}")
}

fn describe(event: &Event, row: Option<&ServiceTask>, start: Timestamp) -> Option<String> {
    let after = |at: &Timestamp| format!("{}s", at.since(start) as f64 / 1_000.0);
    Some(match event {
        Event::Started { start, input, .. } => {
            let input = input.as_ref().map(|i| format!(" as {}", i.to_json())).unwrap_or_default();
            format!("started {}{input}", start.input.to_json())
        }
        Event::Entered { task, input: Some(input), .. } => format!("{task} input {}", input.to_json()),
        Event::Skipped { task, .. } => format!("{task} skipped"),
        Event::Looped { index, .. } => format!("item {index}"),
        Event::Held { task, held, .. } => {
            format!("{task} was held {}", serde_json::to_string(held).unwrap_or_default())
        }
        Event::Accepted { task, until, silent, .. } => {
            let until = until.as_ref().map(|at| format!(", until {}", after(at))).unwrap_or_default();
            let silent = silent.as_ref().map(|at| format!(", silent until {}", after(at))).unwrap_or_default();
            format!("{task} accepted{until}{silent}")
        }
        Event::Beat { silent, .. } => format!("beat, silent until {}", after(silent)),
        Event::LateCallback { task, .. } => format!("{task} was called back too late"),
        Event::Waiting { until, .. } => format!("waits until {}", after(until)),
        Event::Listening { task, .. } => format!("{task} listens"),
        Event::Received { kept: true, .. } => "event kept".into(),
        Event::Consumed { item, taken, done, .. } => {
            let item = item.as_ref().map_or_else(|| "an event of until".into(), Value::to_json);
            let kept = if taken.is_some() { " kept before" } else { "" };
            format!("takes {item}{kept}{}", if *done { ", done" } else { "" })
        }
        Event::Foreach { item, index, .. } => format!("foreach {index} {}", item.to_json()),
        Event::ForeachDone { output, context, .. } => format!("foreach done {}{}", output.to_json(), export(context)),
        Event::Emitted { task, event, .. } => format!("{task} emits {}", event.envelope().to_json()),
        Event::Joined { winner, context, .. } => {
            let winner = winner.map(|w| format!(", branch {w} wins")).unwrap_or_default();
            format!("joined{winner}{}", export(context))
        }
        Event::Completed { context, .. } => {
            let row = row?;
            let output = row.output_data.as_ref().map(Value::to_json).unwrap_or_default();
            format!("{} completed {output}{}", row.reference, export(context))
        }
        Event::Faulted { problem: error, .. } => format!("{} faulted {}", row?.reference, problem(error)),
        Event::Cancelled { .. } => format!("{} cancelled", row?.reference),
        Event::RetryScheduled { task, at, problem: error, .. } => {
            format!("{task} caught {}, retries at {}", problem(error), after(at))
        }
        Event::Retried { task, .. } => format!("{task} retried"),
        Event::Caught { task, problem: error, .. } => format!("{task} caught {}", problem(error)),
        Event::Undoing { task, .. } => format!("undoing {task}"),
        Event::UndoDelayed { at, problem: error, .. } => {
            format!("undo failed {}, again at {}", problem(error), after(at))
        }
        Event::Undone { task, .. } => format!("undone {task}"),
        Event::Unresolved { task, reason, .. } => format!("unresolved {task}: {reason}"),
        Event::Halted { .. } => "an earlier rollback ended here".into(),
        Event::Draining { .. } => "waits for losers of a race".into(),
        Event::TimedOut { .. } => "time is over; branches are called home".into(),
        Event::Dropped { .. } => "home".into(),
        Event::Parked { .. } => "kept until resumed".into(),
        Event::CancelRequested { reason } => format!("cancel: {reason}"),
        Event::Suspended {} => "suspended".into(),
        Event::Resumed {} => "resumed".into(),
        Event::NoticeDelayed { at } => format!("told nobody of the end, again at {}", after(at)),
        Event::NoticeEnded { delivered: true } => "told of the end".into(),
        Event::NoticeEnded { .. } => "nobody was told of the end".into(),
        Event::Ended { status, .. } => format!("ended {}", status.as_str()),
        _ => return None,
    })
}

fn export(context: &Option<Value>) -> String {
    context.as_ref().map(|c| format!(", context {}", c.to_json())).unwrap_or_default()
}

fn request(request: &Request) -> String {
    match request {
        Request::Http(http) => {
            let mut line = format!("{} {}", http.method, http.uri);
            for (what, pairs) in [("query", &http.query), ("header", &http.headers)] {
                for (name, value) in pairs {
                    line.push_str(&format!(" {what} {name}={value}"));
                }
            }
            if let Some(body) = &http.body {
                line.push_str(&format!(" body {}", body.to_json()));
            }
            if http.redirect {
                line.push_str(" redirect");
            }
            line + &credentials(http.authentication.as_ref())
        }
        Request::OpenApi(api) => format!(
            "openapi {} {} {}{}",
            api.document,
            api.operation,
            api.parameters.to_json(),
            credentials(api.authentication.as_ref())
        ),
    }
}

fn credentials(credentials: Option<&Credentials>) -> String {
    match credentials {
        Some(Credentials::Basic { username, password }) => format!(" basic {username}:{password}"),
        Some(Credentials::Bearer { token }) => format!(" bearer {token}"),
        None => String::new(),
    }
}
