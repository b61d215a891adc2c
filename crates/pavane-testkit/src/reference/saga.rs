//! Undoing: from the end of the log, each by the function that its task names.

use pavane_core::problem::Kind;
use pavane_core::{Problem, Value};

use super::Dead;
use super::walk::{Done, Entry, Leave, Stop, Thread, Walk, impossible};

impl<'a> Walk<'a> {
    /// Undoes what stands in the log from `from` on. Calls that a retry is about to repeat under their key wait for it.
    pub fn roll_back(
        &mut self,
        thread: &mut Thread<'a>,
        from: usize,
        retries: bool,
        problem: &Problem,
    ) -> Result<(), Leave> {
        let entries = thread.log.split_off(from);
        let waits = |entry: &Entry| retries && matches!(entry, Entry::Task(done) if !done.certain);
        let (kept, entries) = entries.into_iter().partition(waits);
        thread.log.extend::<Vec<Entry<'a>>>(kept);
        // Nobody stops an undoing, and no timeout around binds it.
        let (stop, limits) = (std::mem::take(&mut thread.stop), std::mem::take(&mut thread.limits));
        let halted = self.undo_all(thread, entries, problem);
        (thread.stop, thread.limits) = (stop, limits);
        if halted? {
            thread.log.push(Entry::Stuck);
        }
        Ok(())
    }

    /// True when something could not be undone: then what came before it stays, too.
    fn undo_all(
        &mut self,
        thread: &mut Thread<'a>,
        mut entries: Vec<Entry<'a>>,
        problem: &Problem,
    ) -> Result<bool, Leave> {
        while let Some(entry) = entries.pop() {
            let halted = match entry {
                Entry::Task(done) => !self.undo(thread, &done, problem)?,
                Entry::Parallel(branches) => {
                    let (mut last, mut halted) = (Vec::new(), false);
                    for branch in branches {
                        let mut side = Thread { context: thread.context.clone(), ..Thread::default() };
                        side.last.clone_from(&thread.last);
                        halted |= self.undo_all(&mut side, branch, problem)?;
                        last.extend(side.last);
                    }
                    thread.last = last;
                    halted
                }
                Entry::Losers(last) => {
                    thread.last.extend(last);
                    false
                }
                Entry::Settled => false,
                Entry::Stuck => true,
            };
            if halted {
                self.leave(&entries);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Names what stays as it is.
    fn leave(&mut self, entries: &[Entry<'a>]) {
        for entry in entries {
            match entry {
                Entry::Task(done) => drop(self.expected.end.unresolved.insert(done.key.clone())),
                Entry::Parallel(branches) => branches.iter().for_each(|branch| self.leave(branch)),
                Entry::Losers(_) | Entry::Settled | Entry::Stuck => {}
            }
        }
    }

    /// Undoes one call; repeats what time may heal. False when the rest must stay.
    fn undo(&mut self, thread: &mut Thread<'a>, done: &Done<'a>, problem: &Problem) -> Result<bool, Leave> {
        let Some(compensate) = &done.task.pavane.compensate else { return Ok(true) };
        let definition = self.definition;
        let function = definition.functions.get(&compensate.function).ok_or_else(|| impossible("no such function"))?;
        // Nothing is asked again under the key of what is being undone.
        self.settle(&done.address);
        loop {
            let mut side = Thread {
                data: Value::object([
                    ("input", done.input.clone()),
                    ("output", done.output.clone()),
                    ("error", problem.to_value()),
                ]),
                context: thread.context.clone(),
                place: format!("{}/comp>", done.key),
                last: std::mem::take(&mut thread.last),
                stop: Stop::Never,
                ..Thread::default()
            };
            let result = self.task(&mut side, function);
            thread.last = side.last;
            match result {
                Ok(_) => return Ok(true),
                Err(Leave::Fault(problem)) if passes(&problem) => {}
                Err(Leave::Fault(_)) => {
                    self.expected.end.unresolved.insert(done.key.clone());
                    return Ok(compensate.continue_on_failure);
                }
                Err(Leave::Dead(dead)) => return Err(Leave::Dead(dead)),
                Err(_) => return Err(Leave::Dead(Dead::Outside("a compensation that is stopped"))),
            }
        }
    }
}

/// No connection, a timeout, a status of 500 or more, 408, 409, 423, 425, 429.
fn passes(problem: &Problem) -> bool {
    match Kind::of(&problem.type_) {
        Some(Kind::Communication) => problem.status >= 500 || matches!(problem.status, 408 | 409 | 423 | 425 | 429),
        Some(Kind::Timeout) => true,
        _ => false,
    }
}
