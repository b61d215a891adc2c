//! `listen`: waits for events, and works on each with `foreach`.
//!
//! An event is offered to everything that waits when it comes; what nobody takes is kept, in a bounded buffer, for a
//! listen that begins later. So nothing is lost between two listens, and nothing is taken twice in sequence. The output
//! is always an array, in the order of arrival.

use base64::Engine as _;

use crate::definition::Read;
use crate::engine::event::{Event, TokenId};
use crate::engine::machine::{Go, Machine, check};
use crate::engine::scope::Scope;
use crate::engine::secret;
use crate::engine::state::{Listening, Pending, Role};
use crate::event::CloudEvent;
use crate::problem::{Kind, Problem};
use crate::program::{
    Act, AttributeCode, ConsumptionCode, ConsumptionKind, EventFilterCode, ForeachCode, ListenCode, UntilCode,
};
use crate::value::Value;

/// Events one listen may take: its output is an array in memory.
const MAX_EVENTS: usize = 100_000;

/// A filter that took an event, and what that means for the listen.
struct Taken {
    filter: u32,
    item: Option<Value>,
    correlation: Vec<(String, Value)>,
    done: bool,
}

impl Machine<'_> {
    pub fn begin_listen(&mut self, t: TokenId) -> Go {
        if let Some((_, node)) = self.top(t) {
            self.emit(Event::Listening { t, task: node.reference.clone() });
        }
        // What came before the listen began.
        let mut position = 0;
        while let Some(event) = self.state.inbox.get(position as usize).cloned() {
            match self.frame_takes(t, &event) {
                Ok(Some((run, taken))) => self.consume(t, run, taken, Some(position)),
                Ok(None) => position += 1,
                Err(problem) => return Go::Fail(problem, crate::engine::event::Trace::None),
            }
        }
        Go::Listen
    }

    /// Offers an event to every listen that waits; tells whether any took it or may want it later.
    pub fn offer(&mut self, event: &CloudEvent) -> bool {
        let listening: Vec<TokenId> = self
            .state
            .tokens
            .iter()
            .filter(|(_, token)| token.frames.iter().any(|f| matches!(f.role, Role::Listen(_))))
            .map(|(id, _)| *id)
            .collect();
        let mut takes = Vec::new();
        for t in listening {
            match self.frame_takes(t, event) {
                Ok(Some((run, taken))) => takes.push((t, Ok((run, taken)))),
                Ok(None) => {}
                Err(problem) => takes.push((t, Err(problem))),
            }
        }
        let kept = takes.is_empty();
        if kept && !self.wanted(event) {
            return false;
        }
        self.emit(Event::Received { event: event.clone(), kept });
        for (t, taken) in takes {
            match taken {
                Ok((run, taken)) => {
                    self.consume(t, run, taken, None);
                    self.schedule(t, Go::Listen);
                }
                // Only a listen on top can fail; one whose `foreach` works drops the event.
                Err(problem) if matches!(self.token(t).map(|token| &token.pending), Some(Pending::Events)) => {
                    self.schedule(t, Go::Fail(problem, crate::engine::event::Trace::None));
                }
                Err(_) => {}
            }
        }
        true
    }

    /// Whether a listen of the program names the event's type (or any type).
    fn wanted(&self, event: &CloudEvent) -> bool {
        let names = |filter: &EventFilterCode| {
            filter.with.iter().filter(|(name, _)| name == "type").all(|(_, code)| match code {
                AttributeCode::Text { exact, pattern } => {
                    *exact == event.type_() || pattern.as_ref().is_some_and(|p| p.is_match(&event.type_()))
                }
                _ => true,
            })
        };
        self.program.nodes().any(|node| match &node.act {
            Act::Listen(code) => {
                let own = &code.to.filters;
                own.iter().chain(until_filters(&code.to)).any(names) || own.is_empty()
            }
            _ => false,
        })
    }

    /// Whether the innermost listen of a token that is not done takes the event.
    fn frame_takes(&self, t: TokenId, event: &CloudEvent) -> Result<Option<(u32, Taken)>, Problem> {
        let Some(token) = self.token(t) else { return Ok(None) };
        for frame in token.frames.iter().rev() {
            let node = self.program.node(frame.node);
            let (Role::Listen(listening), Act::Listen(code)) = (&frame.role, &node.act) else { continue };
            if listening.done {
                continue;
            }
            let scope = Scope { token: Some(token), ..self.scope() }.with_frame(frame);
            if let Some(taken) = takes(&scope, code, listening, &frame.input, event)? {
                return Ok(Some((frame.run, taken)));
            }
        }
        Ok(None)
    }

    fn consume(&mut self, t: TokenId, run: u32, taken: Taken, position: Option<u32>) {
        let Taken { filter, item, correlation, done } = taken;
        self.emit(Event::Consumed { t, run, filter, item, correlation, taken: position, done });
    }

    /// Takes the next item of `foreach`, or ends the listen when it has all it needs.
    pub fn listen_on(&mut self, t: TokenId) -> Option<Go> {
        let (frame, node) = self.top(t)?;
        let (Role::Listen(listening), Act::Listen(code)) = (&frame.role, &node.act) else { return None };
        if !matches!(self.token(t)?.pending, Pending::Events) {
            return None;
        }
        match &code.foreach {
            Some(foreach) => match listening.queue.front() {
                Some(item) => {
                    let (item, index) = (item.clone(), listening.next);
                    self.emit(Event::Foreach { t, item, index });
                    Some(foreach.first.map_or(Go::ListEnd, Go::Enter))
                }
                None if listening.done => Some(Go::Leave(Value::array(listening.results.iter().cloned()))),
                None => None,
            },
            None if listening.done => Some(Go::Leave(Value::array(listening.items.iter().cloned()))),
            None => None,
        }
    }

    /// `foreach.do` is over for an item.
    pub fn item_done(&mut self, t: TokenId, code: &ListenCode) -> Result<Go, Problem> {
        let Some(foreach) = &code.foreach else { return Ok(Go::Listen) };
        let (output, context) = self.item_result(t, foreach)?;
        self.emit(Event::ForeachDone { t, output, context });
        Ok(Go::Listen)
    }

    fn item_result(&self, t: TokenId, foreach: &ForeachCode) -> Result<(Value, Option<Value>), Problem> {
        let raw = self.data(t);
        let reference = self.top(t).map(|(_, node)| node.reference.clone()).unwrap_or_default();
        let scope = Scope { output: Some(&raw), ..self.task_scope(t) };
        let output = match &foreach.output.transform {
            Some(template) => scope.template(template, &raw)?,
            None => raw.clone(),
        };
        check(foreach.output.schema.as_ref(), &output, "output", &reference)?;
        let context = match &foreach.export.transform {
            Some(template) => Some(Scope { output: Some(&output), ..scope }.template(template, &output)?),
            None => None,
        };
        if let Some(context) = &context {
            check(foreach.export.schema.as_ref(), context, "context", &reference)?;
        }
        Ok((output, context))
    }
}

fn until_filters(to: &ConsumptionCode) -> impl Iterator<Item = &EventFilterCode> {
    let until = match &to.kind {
        ConsumptionKind::Any(Some(UntilCode::Events(until))) => until.filters.as_slice(),
        _ => &[],
    };
    until.iter()
}

/// What an event means for a listen. Filters of `until` are tried first, because its events must not enter the output;
/// then the others in declared order.
fn takes(
    scope: &Scope<'_>,
    code: &ListenCode,
    listening: &Listening,
    input: &Value,
    event: &CloudEvent,
) -> Result<Option<Taken>, Problem> {
    if listening.items.len() >= MAX_EVENTS {
        return Err(Kind::Runtime.problem(format!("the listen took {MAX_EVENTS} events, the most one may keep")));
    }
    let count = code.to.filters.len() as u32;
    if let ConsumptionKind::Any(Some(UntilCode::Events(until))) = &code.to.kind {
        for (index, filter) in (count..).zip(&until.filters) {
            if let Some(correlation) = fits(scope, filter, listening, input, event)? {
                let matched = |i: u32| i == index || listening.matched.contains(&i);
                let done = match until.kind {
                    ConsumptionKind::All => (count..count + until.filters.len() as u32).all(matched),
                    ConsumptionKind::One | ConsumptionKind::Any(_) => true,
                };
                return Ok(Some(Taken { filter: index, item: None, correlation, done }));
            }
        }
    }
    let free = |index: u32| !matches!(code.to.kind, ConsumptionKind::All) || !listening.matched.contains(&index);
    for (index, filter) in (0..).zip(&code.to.filters) {
        if free(index)
            && let Some(correlation) = fits(scope, filter, listening, input, event)?
        {
            return taken(scope, code, listening, event, index, correlation).map(Some);
        }
    }
    if code.to.filters.is_empty() && matches!(code.to.kind, ConsumptionKind::Any(_)) {
        return taken(scope, code, listening, event, 0, Vec::new()).map(Some);
    }
    Ok(None)
}

fn taken(
    scope: &Scope<'_>,
    code: &ListenCode,
    listening: &Listening,
    event: &CloudEvent,
    filter: u32,
    correlation: Vec<(String, Value)>,
) -> Result<Taken, Problem> {
    let item = read(code.read, event);
    let done = match &code.to.kind {
        ConsumptionKind::One | ConsumptionKind::Any(None) => true,
        ConsumptionKind::All => {
            (0..code.to.filters.len() as u32).all(|i| i == filter || listening.matched.contains(&i))
        }
        ConsumptionKind::Any(Some(UntilCode::Condition(condition))) => {
            let consumed = listening.items.iter().cloned().chain([item.clone()]);
            scope.expression(condition, &Value::array(consumed))?.is_true()
        }
        ConsumptionKind::Any(Some(UntilCode::Events(_))) => false,
    };
    Ok(Taken { filter, item: Some(item), correlation, done })
}

fn read(read: Read, event: &CloudEvent) -> Value {
    match read {
        Read::Data => decoded(event).map_or_else(|| event.data(), secret::foreign),
        Read::Envelope => event.envelope().clone(),
        Read::Raw => event.envelope().get("data_base64").unwrap_or_else(|| match event.data() {
            data if data.as_str().is_some() => data,
            data => Value::text(data.to_json()),
        }),
    }
}

/// Binary data that is text after all.
fn decoded(event: &CloudEvent) -> Option<Value> {
    let encoded = event.envelope().get("data_base64")?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded.as_str()?).ok()?;
    Value::parse(&bytes).ok().or_else(|| String::from_utf8(bytes).ok().map(Value::from)).or(Some(encoded))
}

/// Whether an event fits a filter, and the correlation keys it would fix.
fn fits(
    scope: &Scope<'_>,
    filter: &EventFilterCode,
    listening: &Listening,
    input: &Value,
    event: &CloudEvent,
) -> Result<Option<Vec<(String, Value)>>, Problem> {
    for (name, wanted) in &filter.with {
        let found = if name == "data" { Some(read(Read::Data, event)) } else { event.envelope().get(name) };
        let Some(found) = found else { return Ok(None) };
        if !attribute_fits(scope, wanted, &found, input)? {
            return Ok(None);
        }
    }
    let mut fixed = Vec::new();
    for key in &filter.correlate {
        let found = scope.expression(&key.from, event.envelope())?;
        if found.is_null() {
            return Ok(None);
        }
        let expected = match &key.expect {
            Some(expect) => Some(scope.template(expect, input)?),
            None => listening.correlation.iter().find(|(name, _)| *name == key.key).map(|(_, value)| value.clone()),
        };
        match expected {
            Some(expected) if expected != found => return Ok(None),
            Some(_) => {}
            None => fixed.push((key.key.clone(), found)),
        }
    }
    Ok(Some(fixed))
}

fn attribute_fits(scope: &Scope<'_>, wanted: &AttributeCode, found: &Value, input: &Value) -> Result<bool, Problem> {
    Ok(match wanted {
        AttributeCode::Text { exact, pattern } => {
            let text = crate::engine::scope::text(found);
            *exact == text || pattern.as_ref().is_some_and(|p| p.is_match(&text))
        }
        AttributeCode::Expression(expression) => {
            // A predicate that fails on this event's data means that the event is not the one.
            match scope.expression(expression, found) {
                Ok(Value(jaq_json::Val::Bool(truth))) => truth,
                Ok(value) => value == *found,
                Err(_) => false,
            }
        }
        AttributeCode::Value(template) => contains(found, &scope.template(template, input)?),
    })
}

/// Whether every property of `wanted` is in `found` with the same value; other values must be equal.
fn contains(found: &Value, wanted: &Value) -> bool {
    match wanted.entries() {
        Some(entries) => {
            entries.iter().all(|(name, value)| found.get(name).is_some_and(|found| contains(&found, value)))
        }
        None => found == wanted,
    }
}
