//! The driver: load, decide, commit, perform. One for each partition of instances, and the only writer of them.
//!
//! Inputs that have gathered are decided together and their commits handed to the store as one batch, with what is to
//! follow kept as data; the store's one wake brings the batch back, and only then effects are performed and callers
//! answered. While a batch is written the next one gathers: nobody waits for a clock. Nothing is kept for an instance
//! that merely waits: it comes back by replay, which is also the only way it comes back after a crash.

mod batch;
mod heard;
mod hop;
mod memory;
mod watched;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ahash::HashMap;
use pavane_core::definition::Mode;
use pavane_core::engine::{
    CallId, Certainty, Command, Effect, Event, Input, Outcome, Parent, Rejected, Request, Start, State, Step,
    TraceContext, Wake, decide, decide_on,
};
use pavane_core::problem::Kind;
use pavane_core::program::Program;
use pavane_core::record::{ServiceTask, Status, WorkflowInstance};
use pavane_core::value::Texts;
use pavane_core::{Problem, Timestamp, Value};
use pavane_store::{Commit, Due, Outgoing, Store, Taken};
use pavane_watch::Span;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use batch::Continuation;

use crate::effects::{Context, Performed, Release};
use crate::{Engine, Error, Started, now, replay};

/// Messages taken before the commits they led to are handed over.
const MAX_GATHERED: usize = 1_024;

/// How often the store is asked for instances that fall due, and how far ahead.
const POLL: Duration = Duration::from_millis(500);

/// Callers that wait for one instance, at most.
const MAX_WAITERS: usize = 10_000;

/// Instances with waiters that are looked through in no time.
const MIN_SWEEP: usize = 1_024;

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What reaches a driver from outside.
pub(crate) enum Message {
    Start {
        program: Arc<Program>,
        start: Box<Start>,
        keyed: bool,
        reply: Reply<Started>,
    },
    Input {
        id: String,
        command: Command,
        reply: Option<Reply<()>>,
    },
    /// From another location of the instance. It may be the first that is heard of it here.
    Deliver {
        program: Arc<Program>,
        message: Box<pavane_core::engine::Message>,
        origin: Option<Origin>,
        reply: Reply<()>,
    },
    /// `registered` tells, once the wait stands, whether the end of the instance is still to come for sure.
    Wait {
        id: String,
        registered: oneshot::Sender<bool>,
        reply: oneshot::Sender<Box<WorkflowInstance>>,
    },
    Stop {
        until: Instant,
    },
}

/// What an envelope was made of, for a receiver in the same process.
#[derive(Clone)]
pub(crate) struct Content {
    pub message: Box<pavane_core::engine::Message>,
    pub origin: Origin,
}

/// Where a message of this process came from.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    /// The number of its instance among those that began in this process, if it did.
    born: Option<u64>,
    /// Its position in its sender's store.
    position: u64,
}

/// What comes back to a driver from work it began. Bounded by what it may begin.
enum Back {
    Committed {
        batch: Vec<Continuation>,
        result: Result<(), pavane_store::Error>,
    },
    /// Nothing was performed when the process stops.
    Outcome {
        id: String,
        call: CallId,
        performed: Option<Performed>,
    },
    ChildStarted {
        id: String,
        call: CallId,
        wait: bool,
        result: Result<(), Problem>,
    },
    Loaded {
        id: String,
        result: Result<Found, Error>,
    },
    Due(Result<Vec<(String, Due)>, Error>),
}

/// What the store holds under an id.
enum Found {
    Nothing,
    Ready(Box<Loaded>),
    /// An instance that this program cannot continue, and why. It exists: nothing may take its place.
    Stranded {
        record: Box<WorkflowInstance>,
        program_missing: bool,
        why: String,
    },
}

struct Loaded {
    record: WorkflowInstance,
    program: Arc<Program>,
    state: State,
}

enum Answer {
    Started(Reply<Started>),
    Done(Reply<()>),
}

/// A step, and the status it leads to when that is the instance's last.
type Decided = (Box<Step>, Option<Status>);

/// Why there is no step, and the one there was.
type Refused = (Rejected, Option<Box<Step>>);

/// An effect that was begun.
enum Begun {
    /// A call, and how it is taken back.
    Call(Arc<Release>),
    /// A sub-workflow; its id when somebody waits for its end.
    Child(Option<String>),
}

/// An instance in memory.
struct Active {
    program: Arc<Program>,
    state: State,
    /// Effects begun.
    in_flight: HashMap<CallId, Begun>,
    /// Effects that were owed when the instance was loaded: they may have been begun before a crash.
    recovered: BTreeSet<CallId>,
    /// Steps decided and not durable yet.
    uncommitted: u64,
    /// What is to be said when the step of this number is durable.
    held: Vec<(u64, Box<dyn FnOnce() + Send>)>,
    /// A step that waits for the outcome of its call, to be durable together with it.
    waiting: Option<hop::Waiting>,
    /// Texts of values in its last step: the next one may hold them, too.
    texts: Texts,
    /// Its number among those that began in this process; unknown of one that came back from the store.
    born: Option<u64>,
    /// The number of its rest, while a token of it is elsewhere and may soon be back.
    resting: Option<u64>,
}

pub(crate) struct Driver {
    engine: Engine,
    index: usize,
    inbox: mpsc::Receiver<Message>,
    back: mpsc::UnboundedReceiver<Back>,
    back_sender: mpsc::UnboundedSender<Back>,
    active: HashMap<String, Active>,
    /// Inputs for instances on their way into memory.
    loading: HashMap<String, Vec<Message>>,
    waiters: HashMap<String, Vec<oneshot::Sender<Box<WorkflowInstance>>>>,
    /// Waits whose instance may never end are looked through when there are twice as many as the last time.
    sweep_at: usize,
    /// Instances that cannot go on, with the digest they wait for; empty when their history is damaged.
    stranded: HashMap<String, String>,
    /// Histories that may be read at once.
    loads: Arc<Semaphore>,
    timers: BTreeSet<(Timestamp, String)>,
    heard: heard::Heard,
    /// Instances that rest, in the order in which they came to it; some have gone on since.
    resting: VecDeque<(u64, Instant, String)>,
    rests: u64,
    /// Steps that wait for an outcome, in the order in which they have waited long enough; some wait no more.
    hops: VecDeque<(u64, Instant, String)>,
    next_hop: u64,
    numbers: watched::Known,
    batch: Vec<Commit>,
    /// Messages of the batch that are offered once it is on its way to the disk.
    ahead: Vec<(u64, Outgoing)>,
    continuations: Vec<Continuation>,
    batches: usize,
    polling: bool,
    next_poll: Instant,
    /// After a restart, everything that is owed is asked for first.
    owed: bool,
    stop: Option<Instant>,
}

impl Driver {
    pub fn new(engine: Engine, index: usize, inbox: mpsc::Receiver<Message>) -> Driver {
        let (back_sender, back) = mpsc::unbounded_channel();
        let heard = heard::Heard::since(engine.shared.births.load(Ordering::Acquire));
        Driver {
            engine,
            index,
            inbox,
            back,
            back_sender,
            active: HashMap::default(),
            loading: HashMap::default(),
            waiters: HashMap::default(),
            sweep_at: MIN_SWEEP,
            stranded: HashMap::default(),
            loads: Arc::new(Semaphore::new(memory::MAX_LOADING)),
            timers: BTreeSet::new(),
            heard,
            resting: VecDeque::new(),
            rests: 0,
            hops: VecDeque::new(),
            next_hop: 0,
            numbers: watched::Known::default(),
            batch: Vec::new(),
            ahead: Vec::new(),
            continuations: Vec::new(),
            batches: 0,
            polling: false,
            next_poll: Instant::now(),
            owed: true,
            stop: None,
        }
    }

    /// Runs until it is stopped, or until the store fails.
    pub async fn run(mut self) {
        let mut messages = Vec::with_capacity(MAX_GATHERED);
        let mut backs = Vec::with_capacity(MAX_GATHERED);
        while !self.finished() {
            let wake = self.wake();
            tokio::select! {
                biased;
                _ = self.back.recv_many(&mut backs, MAX_GATHERED) => {}
                // While the store is behind, inputs wait where their number is bounded.
                count = self.inbox.recv_many(&mut messages, MAX_GATHERED), if self.ready() => {
                    // Every handle is gone: nobody can ask for anything any more.
                    if count == 0 {
                        self.stop.get_or_insert_with(Instant::now);
                    }
                }
                () = tokio::time::sleep_until(wake) => {}
            }
            for back in backs.drain(..) {
                if let Err(failure) = self.take_back(back) {
                    self.fail(&failure);
                    return;
                }
            }
            for message in messages.drain(..) {
                self.take(message);
            }
            // What has come meanwhile belongs into the same batch.
            while self.batch.len() < MAX_GATHERED
                && self.ready()
                && let Ok(message) = self.inbox.try_recv()
            {
                self.take(message);
            }
            self.fire_timers();
            self.end_hops();
            self.poll();
            self.flush();
        }
    }

    fn finished(&self) -> bool {
        let Some(until) = self.stop else { return false };
        let idle = self.batch.is_empty() && self.batches == 0 && self.hops.is_empty();
        // Sub-workflows go on after a restart, as everything that only waits does.
        let is_call = |begun: &Begun| matches!(begun, Begun::Call(_));
        let calls = self.active.values().any(|active| active.in_flight.values().any(is_call));
        idle && (!calls || Instant::now() >= until)
    }

    fn wake(&self) -> Instant {
        let timer = self.timers.first().map(|(at, _)| {
            let millis = u64::try_from(at.since(now())).unwrap_or(0);
            Instant::now() + Duration::from_millis(millis)
        });
        let poll = if self.polling { None } else { Some(self.next_poll) };
        let stop = self.stop.map(|until| until.min(Instant::now() + Duration::from_millis(50)));
        let hop = self.hops.front().map(|(_, until, _)| *until);
        [timer, poll, stop, hop].into_iter().flatten().min().unwrap_or_else(|| Instant::now() + POLL)
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Stop { until } => self.stop = Some(until),
            Message::Wait { id, registered, reply } => {
                let to_come = self.active.get(&id).is_some_and(|active| !active.state.is_ended());
                let waiters = self.waiters.entry(id).or_default();
                // Those whose callers have given up make room.
                waiters.retain(|waiter| !waiter.is_closed());
                if waiters.len() < MAX_WAITERS {
                    waiters.push(reply);
                }
                // The caller may have gone.
                let _ = registered.send(to_come);
            }
            Message::Start { program, start, keyed, reply } => {
                let id = start.id.clone();
                if let Some(active) = self.active.get(&id) {
                    let record = active.state.record(&active.program);
                    self.attach(&record, &program, &start, reply);
                } else if keyed || self.loading.contains_key(&id) {
                    self.load(id, Message::Start { program, start, keyed: true, reply });
                } else {
                    self.create(program, *start, reply);
                }
            }
            Message::Input { id, command, reply } => {
                if let Some(active) = self.active.get_mut(&id) {
                    // A sub-workflow that has ended is not to be cancelled when nobody waits for it any more.
                    if let Command::Child { call, .. } = &command {
                        active.in_flight.remove(call);
                    }
                    self.step(&id, command, reply.map(Answer::Done));
                } else {
                    self.load(id.clone(), Message::Input { id, command, reply });
                }
            }
            Message::Deliver { program, message, origin, reply } => {
                let id = message.instance.clone();
                let born = origin.and_then(|origin| origin.born);
                let is_new = self.is_new(&id, born);
                if self.active.contains_key(&id) {
                    self.arrive(&id, message, origin, reply);
                } else if is_new {
                    self.insert(id.clone(), Active { born, ..Active::new(program, State::default()) });
                    self.arrive(&id, message, origin, reply);
                } else {
                    self.load(id, Message::Deliver { program, message, origin, reply });
                }
            }
        }
    }

    fn create(&mut self, program: Arc<Program>, start: Start, reply: Reply<Started>) {
        let id = start.id.clone();
        let born = Some(self.engine.shared.births.fetch_add(1, Ordering::AcqRel));
        self.insert(id.clone(), Active { born, ..Active::new(program, State::default()) });
        self.step(&id, Command::Start(start), Some(Answer::Started(reply)));
    }

    /// A start for an instance that exists: the same one, or a conflict.
    fn attach(&mut self, record: &WorkflowInstance, program: &Program, start: &Start, reply: Reply<Started>) {
        let same = record.namespace == program.document().namespace
            && record.name == program.document().name
            && record.input == start.input;
        let answer = if same {
            Ok(Started { id: record.id.clone(), attached: true })
        } else {
            Err(Error::Conflict(format!(
                "instance {} was started with the same key but another workflow or input: use another key",
                record.id
            )))
        };
        let parent = start.parent.clone().filter(|_| same && record.status.is_terminal());
        let told = parent.map(|parent| (parent, result_for_parent(record)));
        let engine = self.engine.clone();
        self.when_durable(&record.id, move || {
            if let Some((parent, result)) = told {
                tell_parent(engine, parent, result);
            }
            let _ = reply.send(answer);
        });
    }

    /// Says something that follows from an instance's state, once that state is durable: after a crash nobody may have
    /// been told what never happened.
    fn when_durable(&mut self, id: &str, tell: impl FnOnce() + Send + 'static) {
        match self.active.get_mut(id) {
            Some(active) if active.uncommitted > 0 => active.held.push((active.state.seq(), Box::new(tell))),
            _ => tell(),
        }
    }

    /// Decides one input and keeps what follows until it is durable.
    fn step(&mut self, id: &str, command: Command, answer: Option<Answer>) {
        self.end_hop(id);
        match self.decide(id, command, None) {
            Some(Ok((step, ended))) => self.commit(id, step, ended, answer, None),
            Some(Err((rejected, _))) => {
                self.refuse(id, rejected, answer);
                self.settle(id);
            }
            None => {}
        }
    }

    /// Decides one input, as the rest of a step or on its own, for an instance in memory.
    fn decide(&mut self, id: &str, command: Command, on: Option<Box<Step>>) -> Option<Result<Decided, Refused>> {
        let active = self.active.get_mut(id)?;
        let timer = active.state.next_timer();
        let was_ended = active.state.is_ended();
        let input = Input { at: now(), command };
        let (program, host, state) = (&active.program, &self.engine.shared.options.host, &mut active.state);
        let first = on.is_none();
        let step = match on {
            None => decide(program, host, state, input).map_err(|rejected| (rejected, None)),
            Some(step) => decide_on(program, host, state, *step, input).map_err(|(step, why)| (why, Some(step))),
        };
        // It is large, and goes from hand to hand.
        let decided = step.map(Box::new).map(|step| {
            active.resting = None;
            if first && step.repeats() {
                // What it leads to may have been begun when it came before.
                let owed = active.state.outstanding();
                let new = owed.iter().map(Effect::call_id).filter(|call| !active.in_flight.contains_key(call));
                active.recovered.extend(new);
            }
            (step, (active.state.is_ended() && !was_ended).then(|| active.state.status()))
        });
        if decided.is_ok() {
            if let Some(at) = timer {
                self.timers.remove(&(at, id.to_owned()));
            }
            self.arm(id);
        }
        Some(decided)
    }

    fn refuse(&mut self, id: &str, rejected: Rejected, answer: Option<Answer>) {
        let error = match rejected {
            // An answer or an event that nobody waits for any more is dealt with.
            Rejected::Stale => None,
            Rejected::Invalid(problem) => Some(Error::InvalidInput(problem)),
            Rejected::Conflict(why) => Some(Error::Conflict(why)),
            Rejected::Answered => Some(Error::Answered),
            Rejected::Late => Some(Error::Late),
        };
        match (answer, error) {
            (Some(Answer::Done(reply)), error) => self.when_durable(id, move || {
                let _ = reply.send(error.map_or(Ok(()), Err));
            }),
            (Some(Answer::Started(reply)), error) => self.when_durable(id, move || {
                let _ = reply.send(Err(error.unwrap_or(Error::Conflict("the instance exists already".into()))));
            }),
            (None, _) => {}
        }
    }

    /// Keeps the next timer of an instance in memory.
    fn arm(&mut self, id: &str) {
        if let Some(at) = self.active.get(id).and_then(|active| active.state.next_timer()) {
            self.timers.insert((at, id.to_owned()));
        }
    }

    fn fire_timers(&mut self) {
        let now = now();
        while self.timers.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, id)) = self.timers.pop_first()
        {
            self.take_back_late(&id, now);
            self.step(&id, Command::Tick, None);
        }
    }

    /// Ends the calls of an instance whose deadline has come before they were sent, before the instance hears of its
    /// deadline and must take it that they may have happened.
    fn take_back_late(&mut self, id: &str, now: Timestamp) {
        let Some(active) = self.active.get_mut(id) else { return };
        let mut late = Vec::new();
        for effect in active.state.outstanding() {
            let Effect::Call(call) = effect else { continue };
            let in_time = call.deadline.is_none_or(|deadline| deadline > now);
            let Some(Begun::Call(release)) = active.in_flight.get(&call.id).filter(|_| !in_time) else { continue };
            if release.withdraw() {
                active.in_flight.remove(&call.id);
                let problem = Kind::Timeout.problem("the call was not sent: its deadline came before its turn");
                let outcome = Outcome::Failure { problem, certainty: Certainty::NotSent };
                late.push((call.id, active.corrected(call.id, outcome)));
            }
        }
        for (call, outcome) in late {
            self.outcome(id, Command::Outcome { call, outcome, held: None });
        }
    }

    /// Forgets the callers that have given up waiting for an instance.
    fn sweep(&mut self) {
        if self.waiters.len() < self.sweep_at {
            return;
        }
        self.waiters.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            !waiters.is_empty()
        });
        self.sweep_at = (self.waiters.len() * 2).max(MIN_SWEEP);
    }

    fn take_back(&mut self, back: Back) -> Result<(), Error> {
        match back {
            Back::Committed { batch, result } => {
                self.batches -= 1;
                result.map_err(Error::Store)?;
                for continuation in batch {
                    self.committed(continuation);
                }
            }
            Back::Outcome { id, call, performed } => {
                if let Some(active) = self.active.get_mut(&id) {
                    active.in_flight.remove(&call);
                    let Some(Performed { outcome, held }) = performed else { return Ok(()) };
                    let outcome = active.corrected(call, outcome);
                    self.outcome(&id, Command::Outcome { call, outcome, held });
                }
            }
            Back::ChildStarted { id, call, wait, result } => self.child_started(&id, call, wait, result),
            Back::Loaded { id, result } => self.loaded(&id, result?),
            Back::Due(due) => self.due(due?),
        }
        Ok(())
    }

    /// Begins what an instance is owed and has not begun, once all its decisions are durable.
    fn perform(&mut self, id: &str) {
        if self.active.get(id).is_some_and(|active| active.uncommitted == 0) {
            self.begin(id);
        }
    }

    fn begin(&mut self, id: &str) {
        let Some(active) = self.active.get_mut(id) else { return };
        let outstanding = active.state.outstanding();
        let gone = active.not_owed(&outstanding);
        let mut begin = Vec::with_capacity(outstanding.len());
        for effect in outstanding {
            let call = effect.call_id();
            if active.in_flight.contains_key(&call) {
                continue;
            }
            let begun = match &effect {
                Effect::Call(_) => Begun::Call(Arc::default()),
                Effect::StartChild { child, .. } => Begun::Child(child.wait.then(|| child.id.clone())),
            };
            let release = if let Begun::Call(release) = &begun { release.clone() } else { Arc::default() };
            active.in_flight.insert(call, begun);
            begin.push((effect, release));
        }
        for call in active.state.unwanted() {
            if let Some(Begun::Call(release)) = active.in_flight.get(&call) {
                release.withdraw();
            }
        }
        if begin.is_empty() && gone.is_empty() {
            return;
        }
        let bodies: Vec<Option<Arc<str>>> = begin.iter().map(|(effect, _)| active.body_of(effect)).collect();
        let correlation = active.state.correlation_id().to_owned();
        let trace = active.state.trace().cloned();
        for begun in gone {
            match begun {
                Begun::Child(Some(child)) => self.cancel(child),
                Begun::Child(None) => {}
                // What has been given up, and perhaps undone, must not be sent after that.
                Begun::Call(release) => drop(release.withdraw()),
            }
        }
        for ((effect, release), body) in begin.into_iter().zip(bodies) {
            match effect {
                Effect::Call(call) => {
                    let (instance, trace) = (id.to_owned(), trace.clone());
                    self.call(Context { instance, release, trace, callback: None, body }, call);
                }
                Effect::StartChild { call, child } => {
                    let trace = trace.as_ref().map(|trace| watched::of_child(id, trace, call));
                    self.start_child(id, call, child, correlation.clone(), trace);
                }
            }
        }
    }

    fn call(&self, mut context: Context, call: pavane_core::engine::Call) {
        let (engine, back) = (self.engine.clone(), self.back_sender.clone());
        engine.shared.tally.calls.fetch_add(1, Ordering::Relaxed);
        if call.attempt > 1 {
            engine.shared.tally.retries.fetch_add(1, Ordering::Relaxed);
        }
        tokio::spawn(async move {
            let (id, call_id) = (context.instance.clone(), call.id);
            if call.callback {
                context.callback = engine.callback_url(&id, &call.key).await;
            }
            let performed = engine.shared.effects.call(context, call).await;
            let _ = back.send(Back::Outcome { id, call: call_id, performed });
        });
    }

    fn start_child(
        &self,
        id: &str,
        call: CallId,
        child: pavane_core::engine::Child,
        correlation: String,
        trace: Option<TraceContext>,
    ) {
        let (engine, back, id) = (self.engine.clone(), self.back_sender.clone(), id.to_owned());
        let wait = child.wait;
        let mode = self.active.get(&id).map_or(Mode::Orchestration, |active| active.program.placed());
        let parent = wait.then(|| Parent { instance: id.clone(), call, reference: child.reference.clone() });
        tokio::spawn(async move {
            let result = loop {
                match engine.start_child(child.clone(), mode, correlation.clone(), parent.clone(), trace.clone()).await
                {
                    Ok(_) => break Ok(()),
                    Err(Error::Busy { retry_after_seconds, .. }) => {
                        tokio::time::sleep(Duration::from_secs(retry_after_seconds)).await;
                    }
                    // It is started when this engine, or the next, is back.
                    Err(Error::Stopping | Error::Store(_)) => return,
                    Err(Error::InvalidInput(problem)) => break Err(problem),
                    Err(error) => break Err(Kind::Configuration.problem(error.to_string())),
                }
            };
            let _ = back.send(Back::ChildStarted { id, call, wait, result });
        });
    }

    fn child_started(&mut self, id: &str, call: CallId, wait: bool, result: Result<(), Problem>) {
        let result = match result {
            Ok(()) if wait => return,
            Ok(()) => Ok(Value::NULL),
            Err(problem) => Err(problem),
        };
        if let Some(active) = self.active.get_mut(id) {
            active.in_flight.remove(&call);
            self.step(id, Command::Child { call, result }, None);
        }
    }

    /// Cancels a sub-workflow that nobody waits for any more.
    fn cancel(&self, child: String) {
        let engine = self.engine.clone();
        tokio::spawn(async move {
            let reason = "its parent does not wait for it any more".to_owned();
            // It may have ended by itself.
            let _ = engine.command_patiently(&child, Command::Cancel { reason }).await;
        });
    }

    /// The store failed: nothing more is decided, and nobody is told what is not durable.
    fn fail(&self, failure: &Error) {
        // A read that is cut off when the process ends is no failure.
        if !matches!(failure, Error::Stopping) {
            self.engine.fail(failure);
        }
    }
}

/// What a sub-workflow's end is to its parent.
fn result_for_parent(record: &WorkflowInstance) -> Result<Value, Problem> {
    let cancelled = || Kind::Runtime.problem("the sub-workflow was cancelled");
    match record.status {
        Status::Completed => Ok(record.output.clone().unwrap_or_default()),
        _ => Err(record.error.clone().unwrap_or_else(cancelled)),
    }
}

fn tell_parent(engine: Engine, parent: Parent, result: Result<Value, Problem>) {
    tokio::spawn(async move {
        let command = Command::Child { call: parent.call, result };
        // A parent that does not answer now asks for its child's end when it comes back.
        if let Err(error) = engine.command_patiently(&parent.instance, command).await {
            tracing::debug!(parent = parent.instance, %error, "a sub-workflow's end waits for its parent");
        }
    });
}

impl Active {
    fn new(program: Arc<Program>, state: State) -> Active {
        Active {
            program,
            state,
            in_flight: HashMap::default(),
            recovered: BTreeSet::new(),
            uncommitted: 0,
            held: Vec::new(),
            waiting: None,
            texts: Texts::default(),
            born: None,
            resting: None,
        }
    }

    /// Takes out what was begun and is owed no more.
    fn not_owed(&mut self, outstanding: &[Effect]) -> Vec<Begun> {
        if self.in_flight.is_empty() {
            return Vec::new();
        }
        let owed: BTreeSet<CallId> = outstanding.iter().map(Effect::call_id).collect();
        self.in_flight.extract_if(|call, _| !owed.contains(call)).map(|(_, begun)| begun).collect()
    }

    /// The body of a call's request, as the step has it that led to the call.
    fn body_of(&self, effect: &Effect) -> Option<Arc<str>> {
        let Effect::Call(call) = effect else { return None };
        let Request::Http(request) = &*call.request else { return None };
        self.waiting.as_ref().map_or(&self.texts, |waiting| waiting.texts()).shared(request.body.as_ref()?)
    }

    /// Whether messages may come for it from other locations.
    fn has_company(&self) -> bool {
        self.program.locations().len() > 1
    }

    /// A request that did not leave this time may have left before the process came back.
    fn corrected(&mut self, call: CallId, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Failure { problem, certainty: Certainty::NotSent } if self.recovered.remove(&call) => {
                Outcome::Failure { problem, certainty: Certainty::Indeterminate }
            }
            outcome => outcome,
        }
    }
}
