//! `fork`: branches are independent of one another, so they are walked one after the other. How far a branch came
//! before a sibling, a timeout or somebody further out stopped it is a choice.

use std::collections::BTreeMap;

use pavane_core::definition::{Task, Then};
use pavane_core::problem::Kind;
use pavane_core::{Problem, Value};

use super::Dead;
use super::walk::{Entry, Leave, Stop, Thread, Walk, impossible};

/// How a branch came home.
enum Report {
    Completed,
    Ended,
    Faulted(Problem),
    Stopped,
}

/// What happens to a fork as a whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Story {
    /// Every branch comes to its own end.
    Undisturbed,
    /// A branch fails or ends the workflow before others are done.
    Broken,
    /// This branch wins the race.
    Won(usize),
    /// Somebody further out stops it.
    Stopped,
    /// A timeout around it strikes; its number.
    TimedOut(usize),
}

impl<'a> Walk<'a> {
    pub fn fork(&mut self, thread: &mut Thread<'a>, compete: bool, branches: &'a [Task]) -> Result<(), Leave> {
        if branches.is_empty() {
            thread.data = Value::array([]);
            return Ok(());
        }
        let story = self.story(thread, compete, branches.len());
        let mut home = Vec::new();
        for (index, task) in branches.iter().enumerate() {
            let stop = match story {
                Story::Undisturbed => Stop::Never,
                Story::Won(winner) if winner == index => Stop::Never,
                Story::Broken | Story::Won(_) => Stop::Between,
                Story::Stopped => thread.stop,
                Story::TimedOut(_) => Stop::AtOnce,
            };
            let mut branch = Thread { stop, log: Vec::new(), limits: Vec::new(), ..thread.clone() };
            let report = self.branch(&mut branch, task)?;
            if compete {
                self.out_of_race(&mut branch, &report, story, index)?;
            }
            home.push((report, branch));
        }
        if compete { self.race(thread, story, home) } else { self.join(thread, story, home) }
    }

    fn story(&mut self, thread: &Thread<'a>, compete: bool, branches: usize) -> Story {
        let mut stories = vec![Story::Undisturbed];
        if compete {
            stories.extend((0..branches).map(Story::Won));
        } else if branches > 1 {
            stories.push(Story::Broken);
        }
        if thread.stop != Stop::Never {
            stories.push(Story::Stopped);
        }
        if self.environment.run.is_none_or(|run| run.timeouts) {
            stories.extend(thread.limits.iter().map(|limit| Story::TimedOut(*limit)));
        }
        if stories.len() == 1 { stories[0] } else { stories[self.choices.choose(stories.len())] }
    }

    fn branch(&mut self, branch: &mut Thread<'a>, task: &'a Task) -> Result<Report, Leave> {
        match self.task(branch, task) {
            Ok(Then::End) | Err(Leave::End) => Ok(Report::Ended),
            Ok(_) => Ok(Report::Completed),
            Err(Leave::Fault(problem)) => Ok(Report::Faulted(problem)),
            Err(Leave::Stopped) => Ok(Report::Stopped),
            Err(Leave::TimedOut(_)) => Err(impossible("a timeout of a branch's own ends within it")),
            Err(dead) => Err(dead),
        }
    }

    /// A branch of a race that does not win undoes what it did: when it drops out, and when it has lost.
    fn out_of_race(
        &mut self,
        branch: &mut Thread<'a>,
        report: &Report,
        story: Story,
        index: usize,
    ) -> Result<(), Leave> {
        let raced = matches!(story, Story::Won(winner) if winner != index);
        let problem = match report {
            Report::Faulted(problem) => problem.clone(),
            Report::Stopped => Kind::Runtime.problem("it was stopped"),
            Report::Completed | Report::Ended if raced => Kind::Runtime.problem("the race was lost"),
            Report::Completed | Report::Ended => return Ok(()),
        };
        self.roll_back(branch, 0, false, &problem)?;
        if branch.log.iter().any(Entry::is_stuck) {
            return Err(Leave::Dead(Dead::Outside("a branch out of a race that cannot be undone")));
        }
        Ok(())
    }

    fn race(&mut self, thread: &mut Thread<'a>, story: Story, home: Vec<(Report, Thread<'a>)>) -> Result<(), Leave> {
        let Story::Won(winner) = story else {
            let done = |(report, _): &(Report, Thread<'a>)| matches!(report, Report::Completed | Report::Ended);
            if story == Story::Undisturbed && home.iter().any(done) {
                return Err(impossible("a race that is not decided"));
            }
            return self.join(thread, story, home);
        };
        let mut losers = Vec::new();
        let mut won = None;
        for (index, (report, branch)) in home.into_iter().enumerate() {
            if index == winner {
                won = Some((report, branch));
            } else {
                losers.extend(branch.last);
            }
        }
        let Some((report @ (Report::Completed | Report::Ended), branch)) = won else {
            return Err(impossible("a winner that did not come to its end"));
        };
        thread.log.push(Entry::Losers(losers));
        thread.log.extend(branch.log);
        (thread.data, thread.context, thread.last) = (branch.data, branch.context, branch.last);
        if matches!(report, Report::Ended) { Err(Leave::End) } else { Ok(()) }
    }

    fn join(&mut self, thread: &mut Thread<'a>, story: Story, home: Vec<(Report, Thread<'a>)>) -> Result<(), Leave> {
        let is = |what: fn(&Report) -> bool| home.iter().any(|(report, _)| what(report));
        let ended = is(|report| matches!(report, Report::Ended));
        let broken = ended || is(|report| matches!(report, Report::Faulted(_)));
        if story == Story::Broken && !(broken && is(|report| matches!(report, Report::Stopped))) {
            return Err(impossible("nothing was broken, or nobody was stopped for it"));
        }
        // What is stopped as a whole leaves nothing behind.
        let stopped = matches!(story, Story::Stopped | Story::TimedOut(_));
        let before = thread.context.clone();
        let mut outputs = Vec::new();
        let (mut problem, mut output, mut logs) = (None, None, Vec::new());
        thread.last.clear();
        for (report, branch) in home {
            if !branch.log.is_empty() {
                logs.push(branch.log);
            }
            thread.last.extend(branch.last);
            let done = matches!(report, Report::Completed | Report::Ended);
            let counts = ended || !broken;
            if done && counts && !stopped {
                thread.context = merged(&before, &thread.context, &branch.context);
            }
            match report {
                Report::Faulted(fault) => drop(problem.get_or_insert(fault)),
                Report::Ended => drop(output.get_or_insert(branch.data)),
                Report::Completed => outputs.push(branch.data),
                Report::Stopped => {}
            }
        }
        if !logs.is_empty() {
            thread.log.push(Entry::Parallel(logs));
        }
        match story {
            Story::Stopped => return Err(Leave::Stopped),
            Story::TimedOut(limit) => return Err(Leave::TimedOut(limit)),
            _ => {}
        }
        if let Some(output) = output {
            thread.data = output;
            return Err(Leave::End);
        }
        match problem {
            Some(problem) => Err(problem.into()),
            None => {
                thread.data = Value::array(outputs);
                Ok(())
            }
        }
    }
}

/// What a branch changed or removed at the top level of the context, put into what others made of it.
fn merged(before: &Value, now: &Value, branch: &Value) -> Value {
    if branch == before {
        return now.clone();
    }
    let (Some(old), Some(current), Some(new)) = (before.entries(), now.entries(), branch.entries()) else {
        return branch.clone();
    };
    let old: BTreeMap<String, Value> = old.into_iter().collect();
    let kept = current.into_iter().filter(|(key, _)| !old.contains_key(key) || new.iter().any(|(name, _)| name == key));
    let changed = new.iter().filter(|(key, value)| old.get(key) != Some(value));
    changed.fold(Value::object(kept.collect::<Vec<_>>()), |all, (key, value)| all.with(key, value.clone()))
}
