//! The way of a step to the disk: into a batch, to the store, and back with what follows from it.

use pavane_store::Envelope;

use super::*;

/// Batches handed to the store and not back yet: one is written while the next is filled.
const MAX_BATCHES: usize = 2;

/// Commits that a batch has room for at first.
const USUAL_BATCH: usize = 16;

/// What follows when a commit is durable.
pub(super) struct Continuation {
    id: String,
    answer: Option<Answer>,
    published: bool,
    sent: Vec<(u64, Outgoing)>,
    /// The status the instance reached with it, when that is its last.
    ended: Option<Status>,
    /// What ended with it, for its trace.
    spans: Vec<Span>,
}

impl Driver {
    pub(super) fn ready(&self) -> bool {
        self.batches < MAX_BATCHES || self.batch.len() < MAX_GATHERED
    }

    /// Puts a step into the next batch, with the message that it came from if that was made in this process.
    pub(super) fn commit(
        &mut self,
        id: &str,
        step: Box<Step>,
        ended: Option<Status>,
        answer: Option<Answer>,
        taken: Option<Taken>,
    ) {
        let Some(active) = self.active.get(id) else { return };
        let row = step.changed.then(|| active.state.record(&active.program));
        let spans = self.watch(id, &step, row.as_ref(), ended);
        let Some(active) = self.active.get_mut(id) else { return };
        active.uncommitted += 1;
        let (at, shared) = (step.entry.timestamp, &self.engine.shared);
        shared.tally.oversize.fetch_add(u64::from(step.oversize), Ordering::Relaxed);
        let outgoing = |mut message: pavane_core::engine::Message| {
            message.write();
            let envelope = match message.text() {
                Some(text) => Envelope::new(message.to_head(&active.program, at), text.clone()),
                None => message.to_envelope(&active.program, at).into(),
            };
            let to = message.to.name().to_owned();
            let position = shared.next_position();
            let content = Content { message: message.into(), origin: Origin { born: active.born, position } };
            (position, Outgoing { to, envelope, content: Some(Arc::new(content)), redelivered: false })
        };
        let goes_ahead =
            |message: &pavane_core::engine::Message| shared.ahead && message.to.is_engine() && message.goes_ahead();
        let (mut send, mut sent) = (Vec::with_capacity(step.send.len()), Vec::with_capacity(step.send.len()));
        for message in step.send {
            let ahead = goes_ahead(&message);
            let message = outgoing(message);
            // The store keeps the text alone, and whoever receives the content is to have it alone.
            let (position, Outgoing { to, envelope, redelivered, .. }) = &message;
            let kept =
                Outgoing { to: to.clone(), envelope: envelope.clone(), content: None, redelivered: *redelivered };
            send.push((*position, kept));
            if ahead { self.ahead.push(message) } else { sent.push(message) }
        }
        let texts = active.texts.follow(step.texts);
        self.continuations.push(Continuation {
            id: id.to_owned(),
            answer,
            published: !step.publish.is_empty(),
            sent,
            ended,
            spans,
        });
        self.batch.push(Commit {
            entry: Some(step.entry),
            instance: row,
            due: match active.state.wake() {
                Wake::OnInput => Due::OnInput,
                Wake::Now => Due::Now,
                Wake::At(at) => Due::At(at),
            },
            tasks: step.tasks,
            subscriptions: step.subscriptions,
            publish: step.publish,
            send,
            taken,
            texts,
            ..Commit::default()
        });
    }

    /// Hands the gathered commits to the store, if it is ready for them.
    pub(super) fn flush(&mut self) {
        if self.batch.is_empty() || self.batches >= MAX_BATCHES {
            return;
        }
        self.batches += 1;
        let tally = &self.engine.shared.tally;
        tally.batches.fetch_add(1, Ordering::Relaxed);
        tally.steps.fetch_add(self.batch.len() as u64, Ordering::Relaxed);
        // The next batch is likely to be about as large: a commit is too large to be moved for nothing.
        let room = self.batch.len().max(USUAL_BATCH);
        let commits = std::mem::replace(&mut self.batch, Vec::with_capacity(room));
        let batch = std::mem::replace(&mut self.continuations, Vec::with_capacity(room));
        let back = self.back_sender.clone();
        self.engine.shared.store.commit(
            commits,
            Box::new(move |result| {
                let _ = back.send(Back::Committed { batch, result });
            }),
        );
        if !self.ahead.is_empty() {
            self.engine.shared.relay.offer_ahead(std::mem::take(&mut self.ahead));
        }
    }

    pub(super) fn committed(&mut self, continuation: Continuation) {
        let Continuation { id, answer, published, sent, ended, spans } = continuation;
        spans.into_iter().for_each(|span| self.engine.shared.options.watch.spans.offer(span));
        match answer {
            Some(Answer::Started(reply)) => {
                self.engine.shared.tally.started.fetch_add(1, Ordering::Relaxed);
                let _ = reply.send(Ok(Started { id: id.clone(), attached: false }));
            }
            Some(Answer::Done(reply)) => drop(reply.send(Ok(()))),
            None => {}
        }
        if published {
            self.engine.shared.published.notify_one();
        }
        self.engine.shared.moved.notify_one();
        if !sent.is_empty() {
            self.engine.shared.relay.offer(sent);
        }
        if let Some(active) = self.active.get_mut(&id) {
            active.uncommitted -= 1;
            let durable = active.state.seq() - active.uncommitted;
            let ripe = active.held.partition_point(|(seq, _)| *seq <= durable);
            active.held.drain(..ripe).for_each(|(_, tell)| tell());
        }
        if let Some(status) = ended {
            self.ended(&id, status);
        }
        self.perform(&id);
        self.settle(&id);
    }

    /// Tells everybody who waits for the instance.
    fn ended(&mut self, id: &str, status: Status) {
        let tally = &self.engine.shared.tally;
        match status {
            Status::Completed => tally.completed.fetch_add(1, Ordering::Relaxed),
            Status::Cancelled => tally.cancelled.fetch_add(1, Ordering::Relaxed),
            _ => tally.faulted.fetch_add(1, Ordering::Relaxed),
        };
        self.tell_end(id, status);
        let Some(active) = self.active.get(id) else { return };
        let parent = active.state.parent().cloned();
        let waiters = self.waiters.remove(id).unwrap_or_default();
        if waiters.is_empty() && parent.is_none() {
            return;
        }
        let record = active.state.record(&active.program);
        if let Some(parent) = parent {
            tell_parent(self.engine.clone(), parent, result_for_parent(&record));
        }
        for waiter in waiters {
            let _ = waiter.send(Box::new(record.clone()));
        }
    }
}
