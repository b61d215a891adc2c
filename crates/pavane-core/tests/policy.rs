//! The gate before a service, played through in time that the test makes: who passes, who waits for what, who is late.

#![expect(clippy::unwrap_used, reason = "what fails in a test fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pavane_core::policy::{
    Arrival, BreakerSettings, BreakerState, Decision, Entry, Gate, GateSettings, Held, Pass, Rate, Reason,
    RetrySettings, Ticket, Verdict,
};
use proptest::prelude::*;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A gate, its time, and what is in flight and waits.
struct World {
    gate: Gate,
    now: Duration,
    flying: BTreeMap<u32, Pass>,
    waiting: BTreeMap<Ticket, u32>,
    /// What became of each: `go`, `late` or `full`, when, and what it was held for.
    told: BTreeMap<u32, (&'static str, Duration, Held)>,
    next: u32,
}

impl World {
    fn new(settings: GateSettings) -> World {
        World {
            gate: Gate::new(settings),
            now: Duration::ZERO,
            flying: BTreeMap::new(),
            waiting: BTreeMap::new(),
            told: BTreeMap::new(),
            next: 0,
        }
    }

    fn come(&mut self, flow: &str, retry: bool, patience: Duration) -> u32 {
        let number = self.next;
        self.next += 1;
        let arrival = Arrival { flow: flow.into(), retry, until: self.now + patience };
        match self.gate.enter(self.now, arrival) {
            Entry::Passed(pass) => self.go(number, pass),
            Entry::Waits(ticket) => drop(self.waiting.insert(ticket, number)),
            Entry::Full => drop(self.told.insert(number, ("full", self.now, Held::default()))),
        }
        self.poll();
        number
    }

    fn go(&mut self, number: u32, pass: Pass) {
        self.told.insert(number, ("go", self.now, pass.held));
        self.flying.insert(number, pass);
    }

    fn poll(&mut self) {
        for decision in self.gate.poll(self.now) {
            match decision {
                Decision::Go(ticket, pass) => {
                    let number = self.waiting.remove(&ticket).unwrap();
                    self.go(number, pass);
                }
                Decision::Late(ticket, held) => {
                    let number = self.waiting.remove(&ticket).unwrap();
                    self.told.insert(number, ("late", self.now, held));
                }
            }
        }
    }

    fn end(&mut self, number: u32, verdict: Verdict) {
        let pass = self.flying.remove(&number).unwrap();
        self.gate.end(self.now, pass, verdict);
        self.poll();
    }

    /// Lets time pass; whatever falls due on the way happens when it is due.
    fn pass(&mut self, time: Duration) {
        let then = self.now + time;
        while let Some(at) = self.gate.next_at().filter(|at| *at <= then) {
            assert!(at > self.now || self.gate.waiting() > 0, "it asks to be polled for nothing");
            self.now = self.now.max(at);
            let before = (self.gate.waiting(), self.gate.next_at());
            self.poll();
            assert_ne!(before, (self.gate.waiting(), self.gate.next_at()), "it would be polled for ever");
        }
        self.now = then;
        self.poll();
    }

    /// `go@120 breaker=100,in_flight=20`, or `waits`.
    fn of(&self, number: u32) -> String {
        let Some((what, at, held)) = self.told.get(&number) else { return "waits".into() };
        let reasons: Vec<String> =
            held.reasons().map(|(reason, time)| format!("{}={}", reason.as_str(), time.as_millis())).collect();
        format!("{what}@{} {}", at.as_millis(), reasons.join(",")).trim_end().to_owned()
    }
}

fn open(in_flight: u32) -> GateSettings {
    GateSettings { in_flight, rate: None, breaker: None, retries: None, waiting: 1_000 }
}

fn quick_breaker() -> BreakerSettings {
    BreakerSettings { min_calls: 2, open_for: ms(1_000), half_open_calls: 1, ..BreakerSettings::default() }
}

#[test]
fn no_more_pass_than_have_a_place_and_the_rest_wait_in_order() {
    let mut world = World::new(open(2));
    let calls: Vec<u32> = (0..5).map(|n| world.come(&format!("i{n}"), false, ms(60_000))).collect();
    world.pass(ms(30));
    world.end(calls[1], Verdict::Success);
    world.pass(ms(30));
    world.end(calls[0], Verdict::Failure);
    let told: Vec<String> = calls.iter().map(|n| world.of(*n)).collect();
    assert_eq!(told, ["go@0", "go@0", "go@30 in_flight=30", "go@60 in_flight=60", "waits"]);
    let standing = world.gate.standing(world.now);
    assert_eq!((standing.in_flight, standing.waiting, standing.reason), (2, 1, Some(Reason::InFlight)));
    assert_eq!((standing.oldest, standing.counts.passed, standing.counts.waited), (ms(60), 4, 2));
}

#[test]
fn an_open_breaker_is_waited_for_and_one_trial_decides_for_all() {
    let mut world = World::new(GateSettings { breaker: Some(quick_breaker()), ..open(10) });
    for _ in 0..2 {
        let call = world.come("x", false, ms(60_000));
        world.end(call, Verdict::Failure);
    }
    assert_eq!(world.gate.standing(world.now).breaker, Some(BreakerState::Open));
    world.pass(ms(200));
    let calls: Vec<u32> = (0..3).map(|n| world.come(&format!("i{n}"), false, ms(60_000))).collect();
    let impatient = world.come("j", false, ms(300));
    world.pass(ms(900));
    // One is the trial; the others wait for what it finds.
    assert_eq!(calls.iter().map(|n| world.of(*n)).collect::<Vec<_>>(), ["go@1000 breaker=800", "waits", "waits"]);
    assert_eq!(world.of(impatient), "late@500 breaker=300");
    world.end(calls[0], Verdict::Failure);
    world.pass(ms(1_000));
    assert_eq!(world.of(calls[1]), "go@2100 breaker=1900", "it failed: open once more");
    world.pass(ms(50));
    world.end(calls[1], Verdict::Success);
    assert_eq!(world.of(calls[2]), "go@2150 breaker=1950");
    let standing = world.gate.standing(world.now);
    assert_eq!((standing.breaker, standing.counts.opened), (Some(BreakerState::Closed), 2));
}

#[test]
fn a_rate_spreads_calls_out_and_tells_when_the_next_may_come() {
    let rate = Some(Rate { calls: 10, per: Duration::from_secs(1) });
    let mut world = World::new(GateSettings { rate, ..open(100) });
    let calls: Vec<u32> = (0..4).map(|n| world.come(&format!("i{n}"), false, ms(60_000))).collect();
    assert_eq!(world.gate.next_at(), Some(ms(80)), "20 ms early at the most");
    world.pass(ms(1_000));
    let told: Vec<String> = calls.iter().map(|n| world.of(*n)).collect();
    assert_eq!(told, ["go@0", "go@80 rate=80", "go@180 rate=180", "go@280 rate=280"]);
}

#[test]
fn retries_wait_for_their_budget_and_hold_up_nobody() {
    let at_least = Rate { calls: 1, per: Duration::from_secs(10) };
    let retries = Some(RetrySettings { ratio: 0.5, at_least });
    let mut world = World::new(GateSettings { retries, ..open(100) });
    let first = world.come("a", true, ms(60_000));
    let second = world.come("b", true, ms(60_000));
    let third = world.come("c", true, ms(60_000));
    assert_eq!([first, second].map(|n| world.of(n)), ["go@0", "waits"]);
    world.pass(ms(100));
    let call = world.come("d", false, ms(60_000));
    assert_eq!([call, second].map(|n| world.of(n)), ["go@100", "waits"], "half a retry is none");
    world.come("e", false, ms(60_000));
    assert_eq!([second, third].map(|n| world.of(n)), ["go@100 retries=100", "waits"]);
    world.pass(ms(20_000));
    assert!(world.of(third).starts_with("go@10000 retries=10000"), "{}", world.of(third));
    assert_eq!(world.gate.standing(world.now).counts.retries, 3);
}

#[test]
fn a_call_that_gives_up_leaves_no_trace_and_a_full_queue_refuses() {
    let mut world = World::new(GateSettings { waiting: 2, ..open(1) });
    let first = world.come("a", false, ms(60_000));
    let second = world.come("b", false, ms(60_000));
    let third = world.come("c", false, ms(60_000));
    let fourth = world.come("d", false, ms(60_000));
    assert_eq!(world.of(fourth), "full@0");
    assert_eq!(world.gate.waiting_of("b"), 1);
    let ticket = *world.waiting.iter().find(|(_, n)| **n == second).unwrap().0;
    world.waiting.remove(&ticket);
    world.gate.leave(world.now, ticket);
    assert_eq!(world.gate.waiting_of("b"), 0);
    world.pass(ms(10));
    world.end(first, Verdict::NoNews);
    assert_eq!(world.of(third), "go@10 in_flight=10");
    let counts = world.gate.standing(world.now).counts;
    assert_eq!((counts.refused, counts.late, counts.passed), (1, 0, 2));
}

#[derive(Clone, Debug)]
enum Move {
    Come { flow: u8, retry: bool, patience: u64 },
    End { which: usize, verdict: u8 },
    Leave { which: usize },
    Pass(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (0..6_u8, prop::bool::weighted(0.3), prop_oneof![1..200_u64, Just(1_000_000)])
            .prop_map(|(flow, retry, patience)| Move::Come { flow, retry, patience }),
        3 => (any::<usize>(), 0..5_u8).prop_map(|(which, verdict)| Move::End { which, verdict }),
        1 => any::<usize>().prop_map(|which| Move::Leave { which }),
        3 => (0..400_u64).prop_map(Move::Pass),
    ];
    prop::collection::vec(one, 1..200)
}

fn settings() -> impl Strategy<Value = GateSettings> {
    let rate = prop::option::of((1..50_u32).prop_map(|calls| Rate { calls, per: Duration::from_secs(1) }));
    let breaker =
        prop::option::of((1..5_u32, 1..4_u32, 1..2_000_u64).prop_map(|(min_calls, half_open_calls, open)| {
            BreakerSettings { min_calls, half_open_calls, open_for: ms(open), ..BreakerSettings::default() }
        }));
    let retries = prop::option::of((0..10_u32).prop_map(|tenths| RetrySettings {
        ratio: f64::from(tenths) / 10.0,
        at_least: Rate { calls: 1, per: Duration::from_secs(1) },
    }));
    (1..8_u32, rate, breaker, retries).prop_map(|(in_flight, rate, breaker, retries)| GateSettings {
        in_flight,
        rate,
        breaker,
        retries,
        waiting: 100,
    })
}

fn verdict(number: u8) -> Verdict {
    match number {
        0 => Verdict::NoNews,
        1 | 2 => Verdict::Failure,
        _ => Verdict::Success,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever comes and goes: no limit is exceeded, nobody is lost, nobody is late before its time, and what may go
    /// does not wait.
    #[test]
    fn nothing_is_exceeded_and_nobody_is_lost(settings in settings(), moves in moves()) {
        let mut world = World::new(settings);
        let mut until = BTreeMap::new();
        let mut left = BTreeSet::new();
        for step in moves {
            let before = world.gate.standing(world.now);
            match step {
                Move::Come { flow, retry, patience } => {
                    let end = world.now + ms(patience);
                    let number = world.come(&format!("i{flow}"), retry, ms(patience));
                    until.insert(number, end);
                }
                Move::End { which, verdict: v } => {
                    let number = world.flying.keys().nth(which % world.flying.len().max(1)).copied();
                    if let Some(number) = number {
                        world.end(number, verdict(v));
                    }
                }
                Move::Leave { which } => {
                    let found = world.waiting.iter().nth(which % world.waiting.len().max(1));
                    if let Some((ticket, number)) = found.map(|(t, n)| (*t, *n)) {
                        world.waiting.remove(&ticket);
                        left.insert(number);
                        world.gate.leave(world.now, ticket);
                        world.poll();
                    }
                }
                Move::Pass(millis) => world.pass(ms(millis)),
            }
            let standing = world.gate.standing(world.now);
            prop_assert_eq!(standing.in_flight as usize, world.flying.len());
            prop_assert_eq!(standing.waiting, world.waiting.len());
            prop_assert!(standing.in_flight <= settings.in_flight);
            prop_assert!((0.0..=1.0).contains(&standing.utilisation));
            if standing.waiting > 0 {
                prop_assert!(standing.reason.is_some(), "what may go waits: {standing:?}");
            }
            if before.open_until.is_some_and(|open_until| world.now < open_until) {
                prop_assert_eq!(standing.counts.passed, before.counts.passed, "it was open all the time");
            }
        }
        for (number, (what, at, held)) in &world.told {
            prop_assert!(*what != "late" || *at >= until[number], "{number} was told early");
            prop_assert!(*what != "go" || *at <= until[number], "{number} went after its time");
            prop_assert!(held.total() <= *at);
        }
        if let Some(rate) = settings.rate {
            let mut went: Vec<Duration> =
                world.told.values().filter(|(what, ..)| *what == "go").map(|(_, at, _)| *at).collect();
            went.sort();
            for (i, from) in went.iter().enumerate() {
                for (n, to) in went.iter().enumerate().skip(i) {
                    let most = 1.0 + (*to - *from + ms(20)).as_secs_f64() * rate.per_second() + 1e-6;
                    prop_assert!((n - i + 1) as f64 <= most, "{} calls from {from:?} to {to:?}", n - i + 1);
                }
            }
        }
        // The service is well from now on: everybody who has the time gets through.
        for _ in 0..10_000 {
            if world.waiting.is_empty() {
                break;
            }
            let flying: Vec<u32> = world.flying.keys().copied().collect();
            flying.into_iter().for_each(|number| world.end(number, Verdict::Success));
            world.pass(ms(100));
        }
        prop_assert!(world.waiting.is_empty(), "{:?}", world.gate.standing(world.now));
        for number in 0..world.next {
            prop_assert!(left.contains(&number) != world.told.contains_key(&number), "{number} was lost");
            let patient = until[&number] > ms(900_000);
            prop_assert!(!patient || world.told.get(&number).is_none_or(|(what, ..)| *what != "late"));
        }
        prop_assert_eq!(world.gate.waiting(), 0);
        prop_assert_eq!(world.gate.next_at(), None);
    }
}
