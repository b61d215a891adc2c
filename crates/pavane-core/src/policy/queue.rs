//! Who waits, in which order, and for how long.
//!
//! First come, first served, but calls of one flow (an instance) stand [`SPACING`] apart: a fork of a thousand branches
//! does not push everybody else back by a thousand places, and since places go by time nobody is overtaken for ever.
//! Each waits until its own time is over and no longer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// How far apart calls of one flow stand: about what a call takes, so that a flow gets about one place at a time while
/// others wait. The thousandth branch of a fork stands ten seconds back.
const SPACING: Duration = Duration::from_millis(10);

/// Names one that waits. The earlier it came, the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// One that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub flow: Arc<str>,
    pub lane: usize,
    /// When it gives up.
    pub until: Duration,
    /// When it came.
    pub since: Duration,
    place: Duration,
}

#[derive(Debug)]
struct Flow {
    last: Duration,
    waiting: usize,
}

/// A queue with lanes: one lane's head does not hold up another's.
#[derive(Debug)]
pub(super) struct Queue<const LANES: usize> {
    waiting: BTreeMap<Ticket, Waiting>,
    lanes: [BTreeSet<(Duration, Ticket)>; LANES],
    ends: BTreeSet<(Duration, Ticket)>,
    flows: HashMap<Arc<str>, Flow>,
    last: u64,
}

impl<const LANES: usize> Queue<LANES> {
    pub fn new() -> Queue<LANES> {
        Queue {
            waiting: BTreeMap::new(),
            lanes: [const { BTreeSet::new() }; LANES],
            ends: BTreeSet::new(),
            flows: HashMap::new(),
            last: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many of a flow wait.
    pub fn of_flow(&self, flow: &str) -> usize {
        self.flows.get(flow).map_or(0, |flow| flow.waiting)
    }

    /// Puts one at its place.
    pub fn push(&mut self, now: Duration, flow: Arc<str>, lane: usize, until: Duration) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        let known = self.flows.entry(flow.clone());
        let of_flow = known
            .and_modify(|known| known.last = known.last.saturating_add(SPACING).max(now))
            .or_insert(Flow { last: now, waiting: 0 });
        of_flow.waiting += 1;
        let place = of_flow.last;
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.insert((place, ticket));
        }
        self.ends.insert((until, ticket));
        self.waiting.insert(ticket, Waiting { flow, lane, until, since: now, place });
        ticket
    }

    /// Takes one out.
    pub fn remove(&mut self, ticket: Ticket) -> Option<Waiting> {
        let waiting = self.waiting.remove(&ticket)?;
        if let Some(lane) = self.lanes.get_mut(waiting.lane) {
            lane.remove(&(waiting.place, ticket));
        }
        self.ends.remove(&(waiting.until, ticket));
        if let Some(flow) = self.flows.get_mut(&waiting.flow) {
            flow.waiting -= 1;
            if flow.waiting == 0 {
                self.flows.remove(&waiting.flow);
            }
        }
        Some(waiting)
    }

    /// The first of a lane, with its place.
    pub fn head(&self, lane: usize) -> Option<(Duration, Ticket)> {
        self.lanes.get(lane)?.first().copied()
    }

    /// Takes out one whose time is over.
    pub fn expired(&mut self, now: Duration) -> Option<(Ticket, Waiting)> {
        let (until, ticket) = *self.ends.first()?;
        if until > now {
            return None;
        }
        Some((ticket, self.remove(ticket)?))
    }

    /// When the one came that has waited longest.
    pub fn oldest(&self) -> Option<Duration> {
        self.waiting.values().next().map(|waiting| waiting.since)
    }

    /// When the next one's time is over.
    pub fn next_end(&self) -> Option<Duration> {
        self.ends.first().map(|(until, _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_with_many_does_not_hold_up_the_others_and_is_not_held_up_for_ever() {
        let mut queue = Queue::<1>::new();
        let at = Duration::from_millis;
        let mut names = HashMap::new();
        let mut push = |queue: &mut Queue<1>, now, flow: &str, name: &str| {
            let ticket = queue.push(at(now), flow.into(), 0, at(60_000));
            names.insert(ticket, name.to_owned());
        };
        (0..4).for_each(|n| push(&mut queue, 0, "fork", &format!("f{n}")));
        push(&mut queue, 5, "a", "a");
        push(&mut queue, 5, "b", "b");
        push(&mut queue, 25, "c", "c");
        push(&mut queue, 100, "fork", "f4");
        push(&mut queue, 40, "d", "d");
        let mut order = Vec::new();
        while let Some((_, ticket)) = queue.head(0) {
            queue.remove(ticket).unwrap();
            order.push(names[&ticket].clone());
        }
        assert_eq!(order.join(" "), "f0 a b f1 f2 c f3 d f4");
        assert!(queue.len() == 0 && queue.flows.is_empty() && queue.ends.is_empty());
    }

    #[test]
    fn each_waits_until_its_own_time() {
        let mut queue = Queue::<2>::new();
        let at = Duration::from_millis;
        let late = queue.push(at(0), "a".into(), 0, at(500));
        let soon = queue.push(at(0), "a".into(), 1, at(100));
        assert_eq!((queue.next_end(), queue.of_flow("a")), (Some(at(100)), 2));
        assert!(queue.expired(at(99)).is_none());
        assert_eq!(queue.expired(at(100)).map(|(ticket, _)| ticket), Some(soon));
        assert_eq!((queue.head(1), queue.head(0).map(|(_, ticket)| ticket)), (None, Some(late)));
        assert!(queue.remove(soon).is_none() && queue.len() == 1);
    }
}
