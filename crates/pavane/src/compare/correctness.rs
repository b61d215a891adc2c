//! Correctness first: whether both modes did what they were asked to. No figure is told if they did not.
//!
//! The demo's books are audited: every order paid and shipped once, or undone; no key executed twice. Of any other workflow
//! every instance must have an end, the same in both modes, with as many calls, and no key with two requests.

use std::collections::BTreeMap;

use serde::Serialize;

use super::client::{End, Seen};
use super::layout::Layout;
use super::subject::{Answering, Subject};
use crate::demo::services::{Fate, audit};

/// Problems that are told; the rest is counted.
const TOLD: usize = 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Correctness {
    /// Whether both modes did everything right.
    pub correct: bool,
    /// What was looked at, in words.
    pub looked_at: String,
    /// Instances.
    pub instances: u64,
    /// Effects in the books; absent when there are no books.
    pub effects: Option<u64>,
    /// The first of what is wrong.
    pub problems: Vec<String>,
    /// Everything that is wrong.
    pub problem_count: u64,
}

impl Correctness {
    /// Nothing looked at yet.
    pub fn new(subject: &Subject) -> Correctness {
        let looked_at = match subject.answering {
            Answering::Demo => {
                "the services' books: every order charged, shipped and confirmed once, or undone; no key executed twice; balances add up; every order ended alike in both modes"
            }
            Answering::StandIns => {
                "every instance ended, alike in both modes; as many calls at each service; no key came with two requests"
            }
            Answering::Configured => "every instance ended, alike in both modes; what the services did is not known",
        };
        let effects = (subject.answering == Answering::Demo).then_some(0);
        Correctness { correct: true, looked_at: looked_at.to_owned(), effects, ..Correctness::default() }
    }

    fn problem(&mut self, problem: String) {
        self.correct = false;
        self.problem_count += 1;
        if self.problems.len() < TOLD {
            self.problems.push(problem);
        }
    }

    /// Looks at what one layout did for its instances.
    ///
    /// # Errors
    /// A service does not answer.
    pub async fn look_at(&mut self, subject: &Subject, layout: &Layout, seen: &[Seen]) -> Result<(), String> {
        self.instances += seen.len() as u64;
        let mut fates = BTreeMap::new();
        for seen in seen {
            match &seen.end {
                End::Completed(_) => drop(fates.insert(seen.key.clone(), Fate::Completed)),
                End::Faulted { fate: Some(fate), .. } => drop(fates.insert(seen.key.clone(), fate.clone())),
                End::Faulted { error, fate: None } => {
                    self.problem(format!("{}: it faulted, and nothing is said of what is undone: {error}", seen.key));
                }
                End::Lost(why) => self.problem(format!("{}: {why}", seen.key)),
            }
        }
        match subject.answering {
            Answering::Demo => {
                let audit = audit(&layout.books().await?, &fates);
                self.effects = self.effects.map(|effects| effects + audit.effects as u64);
                audit.problems.into_iter().for_each(|problem| self.problem(problem));
            }
            Answering::StandIns => {
                for (service, done) in layout.services.iter().zip(layout.done().await?) {
                    if done.misused_keys > 0 {
                        let keys = done.misused_keys;
                        self.problem(format!("{}: {keys} keys came with more than one request", service.name));
                    }
                }
            }
            Answering::Configured => {}
        }
        Ok(())
    }

    /// Compares what both modes did for the same numbers.
    ///
    /// # Errors
    /// A service does not answer.
    pub async fn compare(
        &mut self,
        subject: &Subject,
        layouts: [&Layout; 2],
        seen: [&[Seen]; 2],
    ) -> Result<(), String> {
        self.compare_ends(seen);
        if subject.answering == Answering::StandIns {
            let [one, other] = layouts;
            let done = [one.done().await?, other.done().await?];
            for (service, (one, other)) in one.services.iter().zip(done[0].iter().zip(&done[1])) {
                if one.keys != other.keys {
                    self.problem(format!(
                        "{}: {} calls orchestrated, {} choreographed",
                        service.name, one.keys, other.keys
                    ));
                }
            }
        }
        Ok(())
    }

    fn compare_ends(&mut self, seen: [&[Seen]; 2]) {
        let ends = seen.map(|seen| seen.iter().map(|seen| (seen.number, seen.end.word())).collect::<BTreeMap<_, _>>());
        for (number, end) in &ends[0] {
            match ends[1].get(number) {
                Some(other) if other == end => {}
                other => {
                    let other = other.unwrap_or(&"absent");
                    self.problem(format!("instance {number}: {end} orchestrated, {other} choreographed"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn seen(number: u64, end: End) -> Seen {
        let key = format!("o-{number}");
        Seen { number, key, due: Instant::now(), took: Duration::ZERO, accepted: true, failed_at: None, end }
    }

    #[test]
    fn ends_that_differ_are_told() {
        let completed = || End::Completed(serde_json::Value::Null);
        let faulted = || End::Faulted { error: "402".into(), fate: Some(Fate::Undone) };
        let mut alike = Correctness { correct: true, ..Correctness::default() };
        alike.compare_ends([&[seen(1, completed()), seen(2, faulted())], &[seen(2, faulted()), seen(1, completed())]]);
        assert!(alike.correct);
        let mut differ = alike.clone();
        differ.compare_ends([&[seen(1, completed()), seen(2, completed())], &[seen(1, faulted())]]);
        assert!(!differ.correct);
        assert_eq!(
            differ.problems,
            [
                "instance 1: completed orchestrated, faulted choreographed",
                "instance 2: completed orchestrated, absent choreographed"
            ]
        );
    }
}
