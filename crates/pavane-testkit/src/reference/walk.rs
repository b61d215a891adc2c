//! The walk: tasks, lists, loops, tries. What reaches outside, `fork` and undoing have files of their own.

use std::collections::BTreeMap;

use pavane_core::definition::{Definition, ErrorTemplate, For, Task, TaskKind, Template, Then, Try};
use pavane_core::engine::{Certainty, Outcome};
use pavane_core::problem::Kind;
use pavane_core::record::Status;
use pavane_core::{Problem, Value};

use super::choices::Choices;
use super::data::{Compiled, Seen, as_text};
use super::effects::Epoch;
use super::{Dead, End, Environment, Expected, end};

/// Tasks on one path, at most: a path that is longer goes in circles.
const MAX_TASKS: u32 = 5_000;

/// One path through a definition.
pub(super) struct Walk<'a> {
    pub definition: &'a Definition,
    pub environment: Environment<'a>,
    pub choices: &'a mut Choices,
    pub compiled: &'a mut Compiled,
    pub expected: Expected,
    /// How often each place did its work: the idempotency key counts it.
    pub epochs: BTreeMap<String, Epoch>,
    /// Answers taken, by key.
    pub taken: BTreeMap<String, usize>,
    limits: usize,
    tasks: u32,
}

/// A thread of control.
#[derive(Clone, Default)]
pub(super) struct Thread<'a> {
    pub data: Value,
    pub context: Value,
    pub variables: Vec<(String, Value)>,
    /// Loops and functions around: `[index]`, `reference>`.
    pub place: String,
    /// What may have to be undone, oldest first.
    pub log: Vec<Entry<'a>>,
    /// The calls after which whatever follows comes.
    pub last: Vec<String>,
    /// Whether somebody may stop this thread.
    pub stop: Stop,
    /// Timeouts that run.
    pub limits: Vec<usize>,
}

/// How a thread may be stopped from outside.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Stop {
    #[default]
    Never,
    /// Between one thing and the next.
    Between,
    /// In the middle of a call, too.
    AtOnce,
}

/// An entry of the log.
#[derive(Clone)]
pub(super) enum Entry<'a> {
    Task(Box<Done<'a>>),
    /// Branches, undone side by side.
    Parallel(Vec<Vec<Entry<'a>>>),
    /// Losers of a race: their last calls come before what follows.
    Losers(Vec<String>),
    /// A call whose outcome was unknown and is known now. It stays so that positions in the log do.
    Settled,
    /// Something here could not be undone.
    Stuck,
}

/// A call that was made, or perhaps was.
#[derive(Clone)]
pub(super) struct Done<'a> {
    pub task: &'a Task,
    pub key: String,
    pub address: String,
    pub input: Value,
    pub output: Value,
    pub certain: bool,
}

/// Why a task is left before its end.
pub(super) enum Leave {
    Fault(Problem),
    /// `then: end`.
    End,
    /// Stopped from outside.
    Stopped,
    /// A timeout struck; its number.
    TimedOut(usize),
    Dead(Dead),
}

impl From<Problem> for Leave {
    fn from(problem: Problem) -> Leave {
        Leave::Fault(problem)
    }
}

impl<'a> Walk<'a> {
    pub fn new(
        definition: &'a Definition,
        environment: Environment<'a>,
        choices: &'a mut Choices,
        compiled: &'a mut Compiled,
    ) -> Walk<'a> {
        Walk {
            definition,
            environment,
            choices,
            compiled,
            expected: Expected::default(),
            epochs: BTreeMap::new(),
            taken: BTreeMap::new(),
            limits: 0,
            tasks: 0,
        }
    }

    /// The whole workflow: its list, and what becomes of an error that nobody caught.
    pub fn workflow(&mut self) -> Result<End, Dead> {
        let input = self.environment.input.clone();
        let mut thread = Thread { data: input.clone(), context: input, ..Thread::default() };
        if self.definition.timeout.is_some() {
            thread.limits.push(0);
        }
        let definition = self.definition;
        let problem = match self.list(&mut thread, &definition.tasks) {
            Ok(()) | Err(Leave::End) => {
                let unresolved = self.expected.end.unresolved.clone();
                return Ok(end(Status::Completed, Some(&thread.data), None, unresolved));
            }
            Err(Leave::Fault(problem)) => problem,
            Err(Leave::TimedOut(_)) => Kind::Timeout.problem("the workflow"),
            Err(Leave::Stopped) => return Err(Dead::Impossible("nobody stops the workflow".into())),
            Err(Leave::Dead(dead)) => return Err(dead),
        };
        match self.roll_back(&mut thread, 0, false, &problem) {
            Err(Leave::Dead(dead)) => return Err(dead),
            Err(_) => return Err(Dead::Impossible("a rollback is not stopped".into())),
            Ok(()) => {}
        }
        Ok(end(Status::Faulted, None, Some(&problem), self.expected.end.unresolved.clone()))
    }

    /// Tasks one after the other, as their `then` says.
    pub fn list(&mut self, thread: &mut Thread<'a>, tasks: &'a [Task]) -> Result<(), Leave> {
        let mut index = 0;
        while let Some(task) = tasks.get(index) {
            match self.task(thread, task)? {
                Then::Continue => index += 1,
                Then::Exit => return Ok(()),
                Then::End => return Err(Leave::End),
                Then::Task(name) => {
                    let position = tasks.iter().position(|task| task.name == name);
                    index = position.ok_or_else(|| impossible("a jump to nowhere"))?;
                }
            }
        }
        Ok(())
    }

    /// A task with all that the standard puts around it: `if`, `input`, the work, `output`, `export`, `then`.
    pub fn task(&mut self, thread: &mut Thread<'a>, task: &'a Task) -> Result<Then, Leave> {
        self.maybe_stopped(thread)?;
        self.tasks += 1;
        if self.tasks > MAX_TASKS {
            return Err(Leave::Dead(Dead::Outside("a flow that goes in circles")));
        }
        let at = |problem: Problem| problem.at(&task.reference);
        let raw = thread.data.clone();
        if let Some(condition) = &task.condition {
            let seen = self.seen(thread, None, None);
            if !self.compiled.expression(condition, &raw, &seen).map_err(at)?.is_true() {
                return Ok(Then::Continue);
            }
        }
        if let Some(from) = &task.input.transform {
            let seen = self.seen(thread, None, None);
            thread.data = self.compiled.template(from, &raw, &seen).map_err(at)?;
        }
        let input = thread.data.clone();
        let limit = task.timeout.as_ref().map(|_| {
            self.limits += 1;
            self.limits
        });
        let around = thread.limits.len();
        thread.limits.extend(limit);
        let worked = self.work(thread, task, &input);
        thread.limits.truncate(around);
        let worked = match worked {
            Err(Leave::TimedOut(struck)) if Some(struck) == limit => {
                Err(Leave::Fault(Kind::Timeout.problem("the task").at(&task.reference)))
            }
            other => other,
        };
        let then = match worked {
            Err(Leave::Fault(problem)) => {
                self.maybe_stopped(thread)?;
                return Err(Leave::Fault(problem));
            }
            Err(leave) => return Err(leave),
            Ok(then) => then,
        };
        self.maybe_stopped(thread)?;
        Ok(then)
    }

    /// The work of a task, and what becomes of its output.
    fn work(&mut self, thread: &mut Thread<'a>, task: &'a Task, input: &Value) -> Result<Then, Leave> {
        let mut then = task.then.clone();
        let at = |problem: Problem| problem.at(&task.reference);
        let mut done = None;
        match &task.kind {
            TaskKind::Do(body) => self.list(thread, body)?,
            TaskKind::Set(template) => thread.data = self.fill(thread, input, template).map_err(at)?,
            TaskKind::Switch(cases) => {
                for case in cases {
                    let seen = self.seen(thread, Some(input), None);
                    let fits = match &case.when {
                        Some(when) => self.compiled.expression(when, input, &seen).map_err(at)?.is_true(),
                        None => true,
                    };
                    if fits {
                        then = case.then.clone();
                        break;
                    }
                }
            }
            TaskKind::For(each) => self.each(thread, task, each, input)?,
            TaskKind::Fork { compete, branches } => self.fork(thread, *compete, branches)?,
            TaskKind::Try(attempt) => then = self.attempt(thread, task, attempt, input)?,
            TaskKind::Raise(error) => return Err(self.raise(thread, task, error, input).unwrap_or_else(at).into()),
            TaskKind::Wait(_) => self.waits(thread)?,
            TaskKind::Http(call) => done = Some(self.call(thread, task, call, input)?),
            TaskKind::Function { name, with } => {
                let function = self.definition.functions.get(name).ok_or_else(|| impossible("no such function"))?;
                thread.data = self.fill(thread, input, with).map_err(at)?;
                let (place, variables) = (thread.place.clone(), std::mem::take(&mut thread.variables));
                thread.place = format!("{place}{}>", task.reference);
                let result = self.task(thread, function);
                (thread.place, thread.variables) = (place, variables);
                result?;
            }
            TaskKind::Emit(template) => {
                let given = self.fill(thread, input, template).map_err(at)?;
                thread.data = self.emit(thread, task, given);
            }
            TaskKind::RunWorkflow(run) => self.child(thread, task, run.wait, input)?,
            TaskKind::OpenApi(_) | TaskKind::Listen(_) => {
                return Err(Leave::Dead(Dead::Outside("a kind of task")));
            }
        }
        self.output(thread, task, input, done)?;
        Ok(then)
    }

    /// `output.as`, then `export.as`; a call that was made is noted, whatever they come to.
    fn output(
        &mut self,
        thread: &mut Thread<'a>,
        task: &'a Task,
        input: &Value,
        done: Option<(String, String)>,
    ) -> Result<(), Leave> {
        let raw = thread.data.clone();
        let transformed = self.transformed(thread, task, input, &raw);
        let noted = transformed.as_ref().map_or(&raw, |(output, _)| output).clone();
        if let Some((key, address)) = done {
            thread.forget(&address);
            if task.pavane.compensate.is_some() {
                let input = input.clone();
                let done = Done { task, key, address, input, output: noted, certain: true };
                thread.log.push(Entry::Task(Box::new(done)));
            }
        }
        let (output, context) = transformed.map_err(|problem| problem.at(&task.reference))?;
        thread.data = output;
        if let Some(context) = context {
            thread.context = context;
        }
        Ok(())
    }

    fn transformed(
        &mut self,
        thread: &Thread<'a>,
        task: &'a Task,
        input: &Value,
        raw: &Value,
    ) -> Result<(Value, Option<Value>), Problem> {
        let output = match &task.output.transform {
            Some(template) => self.compiled.template(template, raw, &self.seen(thread, Some(input), Some(raw)))?,
            None => raw.clone(),
        };
        let context = match &task.export.transform {
            Some(template) => {
                let seen = self.seen(thread, Some(input), Some(&output));
                Some(self.compiled.template(template, &output, &seen)?)
            }
            None => None,
        };
        Ok((output, context))
    }

    /// Each item on the output of the one before.
    fn each(&mut self, thread: &mut Thread<'a>, task: &'a Task, each: &'a For, input: &Value) -> Result<(), Leave> {
        let at = |problem: Problem| problem.at(&task.reference);
        let items = self.fill(thread, input, &each.collection).map_err(at)?;
        let no_array = || at(Kind::Expression.problem("no array"));
        let items = items.as_array().ok_or_else(no_array)?;
        let (place, around) = (thread.place.clone(), thread.variables.len());
        for (index, item) in items.into_iter().enumerate() {
            thread.variables.push((each.each.clone(), item));
            thread.variables.push((each.at.clone(), Value::integer(index as i64)));
            let seen = self.seen(thread, Some(input), None);
            let goes_on = match &each.condition {
                Some(condition) => {
                    self.compiled.expression(condition, &thread.data, &seen).map_err(at).map(|v| v.is_true())
                }
                None => Ok(true),
            };
            thread.place = format!("{place}[{index}]");
            let goes_on = goes_on.map_err(Leave::Fault);
            let result = match goes_on {
                Ok(true) => self.list(thread, &each.body).map(|()| true),
                other => other,
            };
            thread.place.clone_from(&place);
            thread.variables.truncate(around);
            if !result? {
                break;
            }
        }
        Ok(())
    }

    /// Again while the policy allows, then the handler, else the error goes on. What an attempt did is undone first.
    fn attempt(
        &mut self,
        thread: &mut Thread<'a>,
        task: &'a Task,
        code: &'a Try,
        input: &Value,
    ) -> Result<Then, Leave> {
        let mark = thread.log.len();
        let mut retries = 0;
        loop {
            let around = (thread.place.clone(), thread.variables.clone(), thread.limits.len());
            let result = self.list(thread, &code.body);
            (thread.place, thread.variables) = (around.0, around.1);
            thread.limits.truncate(around.2);
            let Err(Leave::Fault(problem)) = result else { return result.map(|()| task.then.clone()) };
            self.maybe_stopped(thread)?;
            if thread.log[mark..].iter().any(Entry::is_stuck) {
                return Err(problem.into());
            }
            let (caught, again) =
                self.plan(thread, code, &problem, input, retries).map_err(|p| p.at(&task.reference))?;
            if !caught {
                return Err(problem.into());
            }
            let from = if task.pavane.keep_effects { thread.log.len() } else { mark };
            if !again && code.handler.is_none() && code.retry.is_some() {
                return Err(problem.into());
            }
            self.roll_back(thread, from, again, &problem)?;
            if thread.log[mark..].iter().any(Entry::is_stuck) {
                return Err(problem.into());
            }
            thread.data = input.clone();
            if again {
                retries += 1;
                self.waits(thread)?;
                self.maybe_stopped(thread)?;
                continue;
            }
            if let Some(handler) = &code.handler {
                thread.variables.push((code.variable.clone(), problem.to_value()));
                let result = self.list(thread, handler);
                thread.variables.pop();
                result?;
            }
            return Ok(code.then.clone().unwrap_or_else(|| task.then.clone()));
        }
    }

    /// Whether the error is for this `try`, and whether its body runs again.
    fn plan(
        &mut self,
        thread: &Thread<'a>,
        code: &Try,
        problem: &Problem,
        input: &Value,
        retries: u32,
    ) -> Result<(bool, bool), Problem> {
        let error = problem.to_value();
        let mut seen = self.seen(thread, Some(input), None);
        seen.variables.push((&code.variable, error.clone()));
        let mut judge = |when: &Option<_>, otherwise: bool| match when {
            Some(when) => self.compiled.expression(when, &error, &seen).map(|v| v.is_true()),
            None => Ok(otherwise),
        };
        let fits = code.errors.iter().all(|(name, wanted)| match name.as_str() {
            "type" => wanted.as_str().is_some_and(|wanted| Problem::same_type(wanted, &problem.type_)),
            "details" => error.get("detail").as_ref() == Some(wanted),
            name => error.get(name).as_ref() == Some(wanted),
        });
        if !fits || !judge(&code.when, true)? || judge(&code.except_when, false)? {
            return Ok((false, false));
        }
        let Some(retry) = &code.retry else { return Ok((true, false)) };
        let again = judge(&retry.when, true)?
            && !judge(&retry.except_when, false)?
            && retry.max_retries.is_none_or(|max| retries < max);
        Ok((true, again))
    }

    fn raise(
        &mut self,
        thread: &Thread<'a>,
        task: &'a Task,
        error: &ErrorTemplate,
        input: &Value,
    ) -> Result<Problem, Problem> {
        let mut text = |template: &Template| self.fill(thread, input, template).map(|value| as_text(&value));
        let type_ = text(&error.type_)?;
        let title = error.title.as_ref().map(&mut text).transpose()?;
        let detail = error.detail.as_ref().map(&mut text).transpose()?;
        let instance = error.instance.as_ref().map(&mut text).transpose()?;
        let status = self.fill(thread, input, &error.status)?;
        let status = status.as_i64().or_else(|| status.as_str()?.parse().ok());
        let status = status.ok_or_else(|| Kind::Expression.problem("no status"))?;
        let title = title.unwrap_or_else(|| Problem::title_of(&type_, status).to_owned());
        Ok(Problem { type_, status, title, detail, instance: instance.unwrap_or_else(|| task.reference.clone()) })
    }

    /// Between one thing and the next somebody may stop the thread.
    pub fn maybe_stopped(&mut self, thread: &Thread<'a>) -> Result<(), Leave> {
        if thread.stop != Stop::Never && self.choices.choose(2) == 1 { Err(Leave::Stopped) } else { Ok(()) }
    }

    /// While a thread waits a timeout may strike, or a stop.
    pub fn waits(&mut self, thread: &Thread<'a>) -> Result<(), Leave> {
        self.struck(thread)?;
        self.maybe_stopped(thread)
    }

    fn struck(&mut self, thread: &Thread<'a>) -> Result<(), Leave> {
        if thread.limits.is_empty() || self.environment.run.is_some_and(|run| !run.timeouts) {
            return Ok(());
        }
        match self.choices.choose(thread.limits.len() + 1) {
            0 => Ok(()),
            nth => Err(Leave::TimedOut(thread.limits[nth - 1])),
        }
    }

    /// As [`Walk::waits`] in the middle of a call.
    pub fn interrupted(&mut self, thread: &Thread<'a>) -> Result<(), Leave> {
        self.struck(thread)?;
        if thread.stop == Stop::AtOnce { self.maybe_stopped(thread) } else { Ok(()) }
    }

    pub fn fill(&mut self, thread: &Thread<'a>, input: &Value, template: &Template) -> Result<Value, Problem> {
        let seen = self.seen(thread, Some(input), None);
        self.compiled.template(template, input, &seen)
    }

    /// What an expression may name.
    pub fn seen<'t>(&self, thread: &'t Thread<'a>, input: Option<&Value>, output: Option<&Value>) -> Seen<'t> {
        let workflow = Value::object([
            ("id", Value::text(self.environment.instance)),
            ("definition", self.definition.source.clone()),
            ("input", self.environment.input.clone()),
        ]);
        let mut variables = vec![("context", thread.context.clone()), ("workflow", workflow)];
        variables.extend(input.map(|input| ("input", input.clone())));
        variables.extend(output.map(|output| ("output", output.clone())));
        variables.extend(thread.variables.iter().map(|(name, value)| (name.as_str(), value.clone())));
        Seen { variables }
    }
}

impl Thread<'_> {
    /// What is known of a call replaces that nothing was.
    pub fn forget(&mut self, address: &str) {
        let unknown =
            |entry: &Entry<'_>| matches!(entry, Entry::Task(done) if !done.certain && done.address == address);
        for entry in self.log.iter_mut().filter(|entry| unknown(entry)) {
            *entry = Entry::Settled;
        }
    }
}

impl Entry<'_> {
    pub fn is_stuck(&self) -> bool {
        match self {
            Entry::Stuck => true,
            Entry::Parallel(branches) => branches.iter().flatten().any(Entry::is_stuck),
            Entry::Task(_) | Entry::Losers(_) | Entry::Settled => false,
        }
    }
}

/// Whether an answer leaves open what happened.
pub(super) fn is_uncertain(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failure { certainty: Certainty::Indeterminate | Certainty::NotSent, .. })
}

pub(super) fn impossible(why: impl Into<String>) -> Leave {
    Leave::Dead(Dead::Impossible(why.into()))
}
