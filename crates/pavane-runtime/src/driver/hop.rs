//! One commit for each hop: a step that a message led to waits for the outcome of its call, and both become durable as
//! one. The message stays its sender's until then; [`Step::may_wait`] says why that is safe.

use super::*;

/// How long a step waits. A call that takes longer is worth a commit of its own: its sender gets its message
/// acknowledged, and a crash repeats less. Where many calls queue for few connections, most take some ten milliseconds.
const PATIENCE: Duration = Duration::from_millis(200);

/// A step that is decided and in no batch yet.
pub(super) struct Waiting {
    number: u64,
    step: Box<Step>,
    reply: Reply<()>,
    taken: Option<Taken>,
}

impl Waiting {
    /// Texts of values in it.
    pub(super) fn texts(&self) -> &Texts {
        &self.step.texts
    }
}

impl Driver {
    /// Takes a message for an instance in memory.
    pub(super) fn arrive(
        &mut self,
        id: &str,
        message: Box<pavane_core::engine::Message>,
        origin: Option<Origin>,
        reply: Reply<()>,
    ) {
        self.end_hop(id);
        let taken = origin.zip(message.text()).map(|(Origin { position, .. }, data)| {
            let from = message.from.name().to_owned();
            Taken { from, position, data: data.clone() }
        });
        let decided = self.decide(id, Command::Message(message), None);
        let Some(active) = self.active.get_mut(id) else { return };
        match decided {
            Some(Ok((step, ended))) => {
                let alone = active.uncommitted == 0 && active.in_flight.is_empty() && self.stop.is_none();
                if alone && step.may_wait(&active.program, &active.state) {
                    self.next_hop += 1;
                    active.uncommitted += 1;
                    active.waiting = Some(Waiting { number: self.next_hop, step, reply, taken });
                    self.hops.push_back((self.next_hop, Instant::now() + PATIENCE, id.to_owned()));
                    self.begin(id);
                } else {
                    self.commit(id, step, ended, Some(Answer::Done(reply)), taken);
                }
            }
            Some(Err((rejected, _))) => {
                self.refuse(id, rejected, Some(Answer::Done(reply)));
                self.settle(id);
            }
            None => {}
        }
    }

    /// Takes the outcome of a call: with the step that waits for it, if one does.
    pub(super) fn outcome(&mut self, id: &str, outcome: Command) {
        let Some(active) = self.active.get_mut(id) else { return };
        let Some(Waiting { number, step, reply, taken }) = active.waiting.take() else {
            return self.step(id, outcome, None);
        };
        match self.decide(id, outcome, Some(step)) {
            Some(Ok((step, ended))) => self.hop(id, step, ended, reply, taken),
            // It came too late: the step has others to wait for.
            Some(Err((_, Some(step)))) => {
                if let Some(active) = self.active.get_mut(id) {
                    active.waiting = Some(Waiting { number, step, reply, taken });
                }
            }
            Some(Err((_, None))) | None => {}
        }
    }

    /// Lets no step of this instance wait any longer.
    pub(super) fn end_hop(&mut self, id: &str) {
        let waiting = self.active.get_mut(id).and_then(|active| active.waiting.take());
        if let Some(Waiting { step, reply, taken, .. }) = waiting {
            self.hop(id, step, None, reply, taken);
        }
    }

    /// Lets go what has waited long enough.
    pub(super) fn end_hops(&mut self) {
        while let Some((number, until, id)) = self.hops.front()
            && *until <= Instant::now()
        {
            let (number, id) = (*number, id.clone());
            self.hops.pop_front();
            let waiting = self.active.get(&id).and_then(|active| active.waiting.as_ref());
            if waiting.is_some_and(|waiting| waiting.number == number) {
                self.end_hop(&id);
            }
        }
    }

    fn hop(&mut self, id: &str, step: Box<Step>, ended: Option<Status>, reply: Reply<()>, taken: Option<Taken>) {
        if let Some(active) = self.active.get_mut(id) {
            // It was counted when it began to wait.
            active.uncommitted -= 1;
        }
        self.commit(id, step, ended, Some(Answer::Done(reply)), taken);
    }
}
