//! Which instances are in memory: they come by replay, and leave when they need none.

use super::*;

/// An instance that waits longer than this leaves memory.
const KEPT_WAITING: i64 = 1_000;

/// Instances kept in memory that a token is to come back to from another location, at most, and for how long: it is
/// cheaper to keep one for a moment than to replay it.
const MAX_RESTING: usize = 4_096;
const REST: Duration = Duration::from_secs(10);

/// Instances taken up at once: their histories are read on threads that other reads need, too.
pub(super) const MAX_LOADING: usize = 64;

impl Driver {
    pub(super) fn insert(&mut self, id: String, active: Active) {
        if self.active.insert(id, active).is_none() {
            self.engine.shared.tally.active.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn forget(&mut self, id: &str) {
        if let Some(active) = self.active.remove(id) {
            self.engine.shared.tally.active.fetch_sub(1, Ordering::Relaxed);
            if let Some(at) = active.state.next_timer() {
                self.timers.remove(&(at, id.to_owned()));
            }
        }
    }

    /// Brings an instance into memory and keeps what is for it until it is there.
    pub(super) fn load(&mut self, id: String, message: Message) {
        let begun = self.loading.contains_key(&id);
        self.loading.entry(id.clone()).or_default().push(message);
        if !begun {
            self.begin_load(id);
        }
    }

    fn begin_load(&self, id: String) {
        let (engine, back, loads) = (self.engine.clone(), self.back_sender.clone(), self.loads.clone());
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _permit = loads.acquire().await;
            let (reader, wanted) = (engine.clone(), id.clone());
            let result = engine.blocking(move |store| take_up(store, &reader, &wanted)).await;
            let _ = back.send(Back::Loaded { id, result });
        });
    }

    pub(super) fn loaded(&mut self, id: &str, found: Found) {
        let waiting = self.loading.remove(id).unwrap_or_default();
        match found {
            Found::Ready(loaded) => {
                let Loaded { record, program, state } = *loaded;
                let mut active = Active::new(program, state);
                active.recovered = active.state.outstanding().iter().map(Effect::call_id).collect();
                self.insert(id.to_owned(), active);
                for message in waiting {
                    match message {
                        Message::Start { program, start, reply, .. } => self.attach(&record, &program, &start, reply),
                        message => self.take(message),
                    }
                }
                self.perform(id);
                self.arm(id);
                self.settle(id);
            }
            Found::Stranded { record, program_missing, why } => {
                tracing::error!(instance = id, why, "the instance cannot go on");
                for message in waiting {
                    match message {
                        Message::Start { program, start, reply, .. } => self.attach(&record, &program, &start, reply),
                        Message::Input { reply: Some(reply), .. } | Message::Deliver { reply, .. } => {
                            let _ = reply.send(Err(Error::Conflict(format!("instance {id} cannot go on: {why}"))));
                        }
                        _ => {}
                    }
                }
                let awaited = if program_missing { record.digest } else { String::new() };
                self.stranded.insert(id.to_owned(), awaited);
            }
            Found::Nothing => {
                for message in waiting {
                    match message {
                        Message::Start { program, start, reply, .. } if !self.active.contains_key(&start.id) => {
                            self.create(program, *start, reply);
                        }
                        Message::Input { id, reply: Some(reply), .. } if !self.active.contains_key(&id) => {
                            let _ = reply.send(Err(Error::UnknownInstance(id)));
                        }
                        Message::Input { id, reply: None, .. } if !self.active.contains_key(&id) => {}
                        Message::Deliver { program, message, origin, reply }
                            if !self.active.contains_key(&message.instance) =>
                        {
                            let id = message.instance.clone();
                            self.insert(id.clone(), Active::new(program, State::default()));
                            self.arrive(&id, message, origin, reply);
                        }
                        message => self.take(message),
                    }
                }
            }
        }
    }

    /// Asks the store for what falls due among the instances that are not in memory.
    pub(super) fn poll(&mut self) {
        if self.polling || self.stop.is_some() || Instant::now() < self.next_poll {
            return;
        }
        self.polling = true;
        self.wake_resting();
        self.free_stranded();
        let (engine, back, owed) = (self.engine.clone(), self.back_sender.clone(), self.owed);
        let until = now().plus_millis(i64::try_from(POLL.as_millis()).unwrap_or(0));
        // What is in memory (of any partition) is still listed as due until its next commit, and what is stranded for
        // ever: ask for that much more.
        let active = usize::try_from(engine.shared.tally.active.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        let others = active.saturating_add(self.stranded.len() * engine.shared.options.partitions.max(1));
        let limit = if owed { usize::MAX } else { others.saturating_add(MAX_LOADING) };
        tokio::spawn(async move {
            let due = engine.blocking(move |store| store.due(owed, until, limit)).await;
            let _ = back.send(Back::Due(due));
        });
    }

    /// Takes up again what was stranded and whose program has come.
    fn free_stranded(&mut self) {
        let registry = &self.engine.shared.registry;
        let before = self.stranded.len();
        // A damaged history has a program and stays.
        self.stranded.retain(|_, digest| digest.is_empty() || registry.by_digest(digest).is_none());
        // Among them may be some that are due at once, and these are only listed when they are asked for.
        self.owed |= self.stranded.len() < before;
    }

    pub(super) fn due(&mut self, due: Vec<(String, Due)>) {
        self.polling = false;
        self.owed = false;
        self.next_poll = Instant::now() + POLL;
        self.sweep();
        for (id, _) in due {
            if self.engine.partition(&id) == self.index
                && !self.active.contains_key(&id)
                && !self.loading.contains_key(&id)
                && !self.stranded.contains_key(&id)
            {
                self.loading.insert(id.clone(), Vec::new());
                self.begin_load(id);
            }
        }
    }

    /// Lets an instance go that needs no memory.
    pub(super) fn settle(&mut self, id: &str) {
        let Some(active) = self.active.get(id) else { return };
        if active.uncommitted > 0 || !active.in_flight.is_empty() {
            return;
        }
        let idle = match active.state.wake() {
            Wake::Now => false,
            Wake::OnInput => true,
            Wake::At(at) => at.since(now()) > KEPT_WAITING,
        };
        // A token comes back to where its instance began, and to where its fork was split.
        let awaits = active.has_company() && (self.engine.is_home() || !active.state.is_idle());
        if active.state.is_closed() || (idle && !awaits) {
            self.forget(id);
        } else if idle {
            self.rest(id);
        }
    }

    /// Keeps an instance whose token is elsewhere, until others need its place.
    fn rest(&mut self, id: &str) {
        let Some(active) = self.active.get_mut(id).filter(|active| active.resting.is_none()) else { return };
        self.rests += 1;
        active.resting = Some(self.rests);
        self.resting.push_back((self.rests, Instant::now(), id.to_owned()));
        self.wake_resting();
    }

    /// Lets those go that have rested for long, and the first of too many.
    fn wake_resting(&mut self) {
        while let Some((rest, since, id)) = self.resting.front()
            && (self.resting.len() > MAX_RESTING || since.elapsed() > REST)
        {
            let (rest, id) = (*rest, id.clone());
            self.resting.pop_front();
            if self.active.get(&id).is_some_and(|active| active.resting == Some(rest)) {
                self.forget(&id);
            }
        }
    }
}

/// Brings an instance back from what is durable.
fn take_up(store: &dyn Store, engine: &Engine, id: &str) -> Result<Found, pavane_store::Error> {
    let Some(record) = store.instance(id)? else { return Ok(Found::Nothing) };
    let Some(program) = engine.shared.registry.by_digest(&record.digest) else {
        let why = format!("its program (digest {}) is not deployed: start the Pavane that deployed it", record.digest);
        return Ok(Found::Stranded { record: Box::new(record), program_missing: true, why });
    };
    Ok(match replay(store, &program, id)? {
        Ok(state) => Found::Ready(Box::new(Loaded { record, program, state })),
        Err(why) => Found::Stranded { record: Box::new(record), program_missing: false, why },
    })
}
