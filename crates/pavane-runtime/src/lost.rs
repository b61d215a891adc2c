//! A participant's store that was lost, and what an operator decides about it: to adopt a new one, or to abandon.
//!
//! It works on stores that no process serves: nothing is called and nothing is sent meanwhile. Each instance is judged by
//! [`Loss`]; its part is brought back into the new store as far as the home has copied it, or ended. A crash in between
//! costs nothing: the new store counts as the service's only when all is done, and what is done is passed over.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, mpsc};

use pavane_core::definition::Mode;
use pavane_core::engine::{Command, Extent, Host, Input, Loss, Message, Rejected, State, Step, Wake, Witness, decide};
use pavane_core::program::{Location, Program};
use pavane_core::record::{CompensationStatus, JournalEntry, Unresolved, WorkflowInstance};
use pavane_store::{Commit, Due, OBSERVED, Outgoing, Query, Store};

use crate::alone::{Recognized, home_knows, identity_of, remembered_as};
use crate::effects::Effects;
use crate::engine::Company;
use crate::{Engine, Error, Options, now};

/// Rows read in one go.
const PAGE: usize = 500;

/// What an operator decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// What is known of the lost store goes on in the new one, with calls in flight as unknown outcomes.
    Adopt,
    /// Instances that had a part in it end as faulted.
    Abandon,
}

/// What was done about a lost store, each instance by its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replacement {
    /// Their parts go on in the new store.
    pub adopted: Vec<String>,
    /// They ended as faulted, or had ended before; with what is unresolved.
    pub abandoned: Vec<(String, Vec<Unresolved>)>,
    /// Only what was over was brought back; they go on, or had ended.
    pub kept: usize,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The store is the one that the home knows, or the home has never known one.
    #[error("{0}")]
    NotLost(String),
    /// An instance cannot be judged.
    #[error("{0}")]
    Unreadable(String),
    /// A store failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<pavane_store::Error> for Refused {
    fn from(error: pavane_store::Error) -> Refused {
        Refused::Failed(Error::Store(error))
    }
}

/// Gives the participant of a service the store that `participants` names, in place of the one that the home knows.
/// `participants` are the stores of all services.
///
/// # Errors
/// [`Refused`]. What was done up to there stays, and is not done again.
pub async fn replace(
    options: Options,
    home: Arc<dyn Store>,
    participants: BTreeMap<String, Arc<dyn Store>>,
    effects: Arc<dyn Effects>,
    service: &str,
    remedy: Remedy,
) -> Result<Replacement, Refused> {
    let (engine, _) = Engine::new(options, home.clone(), effects, Arc::default(), Company::default()).await?;
    engine.load_definitions().await?;
    let service = service.to_owned();
    let done = tokio::task::spawn_blocking(move || {
        let Some(new) = participants.get(&service).cloned() else {
            let known: Vec<&str> = participants.keys().map(String::as_str).collect();
            let known = known.join(", ");
            return Err(Refused::NotLost(format!("`{service}` has no participant here; there are: {known}")));
        };
        let identity = identity_of(&*new)?;
        match home_knows(&*home, &service, identity)? {
            Recognized::Known => Err(Refused::NotLost(format!(
                "the store of {service} is the one that the engine knows: nothing was lost"
            ))),
            Recognized::New => Err(Refused::NotLost(format!(
                "the engine has never known a store of {service}: nothing of it can have been lost"
            ))),
            Recognized::Other => {
                let witnesses = participants.into_iter().filter(|(name, _)| *name != service).collect();
                let lost = Location::Service(service.as_str().into());
                Replacing { engine, home, new, witnesses, lost, remedy }.run(identity)
            }
        }
    });
    done.await.map_err(|_| Error::Stopping)?
}

struct Replacing {
    engine: Engine,
    home: Arc<dyn Store>,
    new: Arc<dyn Store>,
    /// Stores of the other participants.
    witnesses: BTreeMap<String, Arc<dyn Store>>,
    lost: Location,
    remedy: Remedy,
}

/// Messages that were sent and not forgotten, by sender and instance.
type OnTheWay = HashMap<(Location, String), Vec<Message>>;

impl Replacing {
    fn run(&self, identity: u64) -> Result<Replacement, Refused> {
        let on_the_way = self.on_the_way()?;
        let mut done = Replacement::default();
        let mut query = Query { mode: Some(Mode::Choreography), limit: PAGE, ..Query::default() };
        loop {
            let page = self.home.instances(&query)?;
            for record in &page.instances {
                self.judge(record, &on_the_way, &mut done)?;
            }
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }
        let service = self.lost.name();
        // The new store's history begins anew: what was copied before is passed over.
        let anew = ["steps", "tasks"].map(|what| (format!("observe:{service}:{what}"), 0));
        let consumed = anew.into_iter().chain([remembered_as(service, identity)]).collect();
        write(&*self.home, vec![Commit { consumed, ..Commit::default() }])?;
        Ok(done)
    }

    /// Everything that the surviving stores have sent and nobody has taken.
    fn on_the_way(&self) -> Result<OnTheWay, Refused> {
        let mut found = OnTheWay::new();
        for (from, store) in self.stores() {
            let mut keep = |message: &Outgoing| {
                // What cannot be read brings nobody any work.
                if let Ok(message) = Message::from_envelope(&message.envelope.text()) {
                    found.entry((from.clone(), message.instance.clone())).or_default().push(message);
                }
            };
            let mut position = 0;
            loop {
                let page = store.outgoing(position, PAGE)?;
                page.iter().for_each(|(_, message)| keep(message));
                position = page.last().map_or(position, |(position, _)| *position);
                if page.len() < PAGE {
                    break;
                }
            }
            store.dead_letters(usize::from(u16::MAX))?.iter().for_each(|letter| keep(&letter.message));
        }
        Ok(found)
    }

    /// The home's store first, then those of the participants that were not lost.
    fn stores(&self) -> impl Iterator<Item = (Location, &dyn Store)> {
        let others = self.witnesses.iter().map(|(name, store)| (Location::Service(name.as_str().into()), &**store));
        std::iter::once((Location::Engine, &*self.home)).chain(others)
    }

    fn judge(&self, record: &WorkflowInstance, on_the_way: &OnTheWay, done: &mut Replacement) -> Result<(), Refused> {
        let id = &record.id;
        let ended = record.status.is_terminal();
        let Some(program) = self.engine.shared.registry.by_digest(&record.digest) else {
            if ended {
                return Ok(());
            }
            // It waits for the program that began it; that one has to judge it.
            return Err(Refused::Unreadable(format!(
                "the program of instance {id} (digest {}) is not deployed: do it with the Pavane that deployed it",
                record.digest
            )));
        };
        let Some(place) = program.locations().iter().position(|at| *at == self.lost) else { return Ok(()) };
        // Of one that has ended, losers of races may still come home, and an operator may have had things undone again.
        if ended && !program.has_races() && record.compensation.status == CompensationStatus::None {
            return Ok(());
        }
        // What the home has copied.
        let seen = steps(&*self.home, id, place as u64)?;
        let mut others = Vec::new();
        for (at, store) in self.stores().filter(|(at, _)| program.locations().contains(at)) {
            let steps = steps(store, id, 0)?;
            let sent = on_the_way.get(&(at.clone(), id.clone())).cloned().unwrap_or_default();
            others.push(Witness::new(&program, at, &steps, sent).map_err(Refused::Unreadable)?);
        }
        let loss = Loss::of(&program, &self.lost, &seen, &others).map_err(Refused::Unreadable)?;
        // The home is the first of them.
        let Some(home) = others.into_iter().next().map(|witness| witness.into_state()) else { return Ok(()) };
        let ends = match (loss.extent(), self.remedy) {
            (Extent::Nothing, _) => return Ok(()),
            (Extent::Past, _) | (Extent::Held, Remedy::Adopt) => false,
            // Its work is done or undone: what is left is undoing, which may be repeated.
            (Extent::Held, Remedy::Abandon) => !ended,
            (Extent::Beyond, _) => true,
        };
        let told = if ends { loss.replace() } else { Some(Command::LoseAnswers) };
        self.bring_back(&program, id, seen, told)?;
        if ends {
            let record = self.abandon(&program, home, &loss)?;
            if ended {
                done.kept += 1;
            } else {
                done.abandoned.push((id.clone(), record.compensation.unresolved));
            }
        } else if loss.extent() == Extent::Held {
            done.adopted.push(id.clone());
        } else {
            done.kept += 1;
        }
        Ok(())
    }

    /// Writes the part into the new store as it was seen, and what it is told.
    fn bring_back(
        &self,
        program: &Program,
        id: &str,
        seen: Vec<JournalEntry>,
        told: Option<Command>,
    ) -> Result<(), Refused> {
        // It was brought back when this was tried before.
        if self.new.instance(id)?.is_some() {
            return Ok(());
        }
        let mut state = State::replay(program, &seen).map_err(Refused::Unreadable)?;
        let here = Host { here: self.lost.clone(), ..self.engine.shared.options.host.clone() };
        let step = told.map(|told| decide(program, &here, &mut state, Input { at: now(), command: told }));
        let step = match step {
            Some(Ok(step)) => Some(step),
            // Nothing was in flight.
            Some(Err(Rejected::Stale)) | None => None,
            Some(Err(refused)) => {
                return Err(Refused::Unreadable(format!("instance {id} at {}: {refused:?}", here.here.name())));
            }
        };
        let row = state.record(program);
        let mut commits: Vec<Commit> = seen
            .into_iter()
            .map(|entry| Commit {
                entry: Some(entry),
                instance: Some(row.clone()),
                due: due(&state),
                ..Commit::default()
            })
            .collect();
        if let Some(step) = step {
            let mut commit = commit_of(&*self.new, program, &state, step)?;
            commit.instance = Some(row);
            commits.push(commit);
        }
        write(&*self.new, commits)?;
        Ok(())
    }

    /// The home ends the instance.
    fn abandon(&self, program: &Program, mut home: State, loss: &Loss) -> Result<WorkflowInstance, Refused> {
        let host = &self.engine.shared.options.host;
        let step = decide(program, host, &mut home, Input { at: now(), command: loss.abandon() });
        let step =
            step.map_err(|refused| Refused::Unreadable(format!("an instance cannot be abandoned: {refused:?}")))?;
        let record = home.record(program);
        let mut commit = commit_of(&*self.home, program, &home, step)?;
        commit.instance = Some(record.clone());
        write(&*self.home, vec![commit])?;
        Ok(record)
    }
}

/// The steps of an instance at a location, by its place in the program's list in the home's store; numbered as they were
/// there, up to the first that is not there.
fn steps(store: &dyn Store, id: &str, place: u64) -> Result<Vec<JournalEntry>, pavane_store::Error> {
    let first = place * OBSERVED;
    let mut steps: Vec<JournalEntry> = Vec::new();
    loop {
        let page = store.journal(id, first + steps.len() as u64, PAGE)?;
        let full = page.len() == PAGE;
        for entry in page {
            if entry.seq != first + steps.len() as u64 + 1 {
                return Ok(steps);
            }
            steps.push(JournalEntry { seq: entry.seq - first, ..entry });
        }
        if !full {
            return Ok(steps);
        }
    }
}

fn due(state: &State) -> Due {
    match state.wake() {
        Wake::OnInput => Due::OnInput,
        Wake::Now => Due::Now,
        Wake::At(at) => Due::At(at),
    }
}

fn commit_of(store: &dyn Store, program: &Program, state: &State, step: Step) -> Result<Commit, pavane_store::Error> {
    let (last, at) = (store.last_position()?, step.entry.timestamp);
    let outgoing = |message: Message| Outgoing {
        to: message.to.name().to_owned(),
        envelope: message.to_envelope(program, at).into(),
        content: None,
        redelivered: false,
    };
    Ok(Commit {
        entry: Some(step.entry),
        instance: step.changed.then(|| state.record(program)),
        due: due(state),
        tasks: step.tasks,
        subscriptions: step.subscriptions,
        publish: step.publish,
        send: (last + 1..).zip(step.send.into_iter().map(outgoing)).collect(),
        ..Commit::default()
    })
}

/// Writes, and waits until it is durable.
pub(crate) fn write(store: &dyn Store, commits: Vec<Commit>) -> Result<(), Error> {
    let (sender, written) = mpsc::channel();
    store.commit(
        commits,
        Box::new(move |result| {
            // Whoever waited may have gone.
            let _ = sender.send(result);
        }),
    );
    written.recv().map_err(|_| Error::Stopping)?.map_err(Error::Store)
}
