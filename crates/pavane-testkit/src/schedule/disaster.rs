//! Hardships that the reference does not know: messages that are too large, and a participant's store that is lost.
//! Such runs are held to the invariants alone.

use std::collections::BTreeSet;

use pavane_core::engine::{Extent, Loss, Witness};

use super::*;

/// The copy of a participant's steps lags behind by as many, at most.
const MAX_LAG: usize = 3;

/// A store that is lost once, and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Disaster {
    /// After how many steps it strikes.
    at: u64,
    extent: Option<Extent>,
    /// Keys of calls that the lost store knew and no copy of it does.
    unknown: BTreeSet<String>,
    abandoned: bool,
}

/// Runs a schedule in which messages that take work on have at most so many bytes; tells how many had more.
///
/// # Errors
/// What broke, and what happened up to there.
pub fn cramped(program: &Program, seed: u64, services: u64, bytes: usize) -> Result<u32, (String, Vec<String>)> {
    let prepare = |world: &mut World<'_>| world.parts.iter_mut().for_each(|part| part.host.max_token = bytes);
    Ok(played(program, seed, services, prepare)?.run.oversize)
}

/// Runs a schedule in which a participant's store is lost, and an operator adopts a new one or abandons; tells how much was
/// lost, when it came to that.
///
/// # Errors
/// What broke, and what happened up to there.
pub fn bereaved(program: &Program, seed: u64, services: u64) -> Result<Option<Extent>, (String, Vec<String>)> {
    let prepare = |world: &mut World<'_>| {
        let at = world.chance.below(60) as u64;
        world.disaster = Some(Disaster { at, extent: None, unknown: BTreeSet::new(), abandoned: false });
    };
    Ok(played(program, seed, services, prepare)?.disaster.and_then(|disaster| disaster.extent))
}

/// Plays a world that was prepared; once more with a trace, if it broke.
fn played(
    program: &Program,
    seed: u64,
    services: u64,
    prepare: impl Fn(&mut World<'_>),
) -> Result<World<'_>, (String, Vec<String>)> {
    let prepared = |tracing| {
        let mut world = world(program, seed, services, None, false);
        prepare(&mut world);
        World { tracing, ..world }
    };
    let mut world = prepared(false);
    if play(&mut world).is_err() {
        world = prepared(true);
        play(&mut world)?;
    }
    Ok(world)
}

impl World<'_> {
    /// Lets the disaster strike when its time has come.
    pub(super) fn strike(&mut self) -> Result<(), String> {
        let due = |disaster: &Disaster| disaster.extent.is_none() && self.run.steps >= disaster.at;
        if self.parts.len() > 1 && self.disaster.as_ref().is_some_and(due) { self.lose() } else { Ok(()) }
    }

    /// Whether an instance of which a part was abandoned has come to rest: nobody waits for what is lost.
    pub(super) fn is_abandoned(&self) -> bool {
        self.disaster.as_ref().is_some_and(|disaster| disaster.abandoned)
    }

    fn lose(&mut self) -> Result<(), String> {
        for p in 0..self.parts.len() {
            // The process is down while an operator decides.
            self.p = p;
            self.crash()?;
        }
        self.p = 1 + self.chance.below(self.parts.len() - 1);
        let (p, lost) = (self.p, self.parts[self.p].host.here.clone());
        let all = std::mem::take(&mut self.parts[p].journal);
        let seen = all.len().saturating_sub(self.chance.below(MAX_LAG + 1));
        self.parts[p].journal = all[..seen].to_vec();
        let unseen = &all[seen..];
        self.history.retain(|entry| !unseen.contains(entry));
        let named: BTreeSet<String> = keys(&all[..seen]).collect();
        let mut unknown: BTreeSet<String> = keys(unseen).filter(|key| !named.contains(key)).collect();
        let mut posted = Vec::new();
        for message in std::mem::take(&mut self.messages) {
            let read = Message::from_envelope(&message.envelope)?;
            if read.from != lost {
                posted.push(read);
                self.messages.push(message);
            }
        }
        let others = self.parts.iter().filter(|part| part.host.here != lost).map(|part| {
            let sent = posted.iter().filter(|message| message.from == part.host.here).cloned().collect();
            Witness::new(self.program, part.host.here.clone(), &part.journal, sent)
        });
        let others = others.collect::<Result<Vec<_>, _>>()?;
        let loss = Loss::of(self.program, &lost, &self.parts[p].journal, &others)?;
        self.parts[p].state = self.replayed()?;
        self.parts[p].recovered.clear();
        let ended = self.parts[0].state.is_ended();
        let abandon = loss.extent() == Extent::Beyond || (loss.extent() == Extent::Held && self.chance.percent(50));
        self.tell(|| {
            format!(
                "the store of {} is lost, of {} steps {seen} are known: {:?}",
                lost.name(),
                all.len(),
                loss.extent()
            )
        });
        // A step that waited for the outcome of its call was in no store at all: its message comes again, or is lost.
        let executed = self.services.order.iter().filter(|key| self.services.answers[*key].undoes.is_none());
        let requested: BTreeSet<String> = keys(&self.history).collect();
        unknown.extend(executed.filter(|key| !requested.contains(*key)).cloned());
        self.services.lenient = true;
        match loss.extent() {
            Extent::Nothing => {}
            Extent::Past | Extent::Held | Extent::Beyond if !abandon || ended && loss.extent() != Extent::Beyond => {
                self.take(Command::LoseAnswers)?;
            }
            _ => {
                self.take(loss.replace().ok_or("it cannot be replaced")?)?;
                self.p = 0;
                self.take(loss.abandon())?;
            }
        }
        self.disaster = Some(Disaster { at: 0, extent: Some(loss.extent()), unknown, abandoned: true });
        Ok(())
    }

    /// What holds at the end whatever was lost: one end, and no effect that nobody names, but those that no copy knew.
    pub(super) fn mourned(&self, disaster: &Disaster) -> Result<(), String> {
        invariants::one_end(&self.history)?;
        let unresolved = self.parts[0].state.compensation(self.program).unresolved;
        let named = |key: &str| unresolved.iter().any(|entry| entry.key == key) || disaster.unknown.contains(key);
        for key in &self.services.order {
            let answer = &self.services.answers[key];
            let kept = self.parts[0].state.status() == pavane_core::record::Status::Completed;
            if answer.undoes.is_none()
                && answer.effect
                && answer.undoable
                && !kept
                && !self.services.undone(key)
                && !named(key)
            {
                return Err(format!("{} ({key}) had an effect, and it is neither undone nor named", answer.reference));
            }
        }
        Ok(())
    }
}

/// Keys of the calls that steps ask for.
fn keys(steps: &[JournalEntry]) -> impl Iterator<Item = String> {
    events(steps).filter_map(|event| match event {
        Event::Requested { key, .. } => Some(key),
        _ => None,
    })
}
