//! What one evaluation may use: terms, stack and memory.
//!
//! jaq asks for its look-up table once for every term it evaluates; that is where the meter sits. A limit that is
//! reached unwinds (no hook of the process sees it, jq's `try` cannot catch it) and is caught around the run.
//!
//! What one term does on large data is paid for in terms, too: memory it takes ([`BYTES_PER_TERM`]) by itself, and what
//! is walked without taking any by the functions of [`super::functions`] that [`super::guard`] puts before it.

use std::cell::Cell;
use std::panic::resume_unwind;

use jaq_core::data::HasLut;
use jaq_core::{DataT, Lut};
use jaq_json::Val;

use super::allocator::{live, taken};

/// Terms of the first try: enough for what definitions do, over in a few milliseconds.
pub(super) const INLINE: Budget = Budget { terms: 100_000, stack: 512 << 10 };
/// Terms of the second try, on a thread with a stack of its own: about 0.1 s.
pub(super) const LARGE: Budget = Budget { terms: 2_000_000, stack: 48 << 20 };
/// Stack of that thread: the budget's and room for what runs below and drops afterwards.
pub(super) const LARGE_STACK: usize = 64 << 20;
/// Memory one evaluation may hold.
pub(super) const MEMORY: i64 = 64 << 20;
/// Bytes that may be taken (and given back) for the price of a term.
pub(super) const BYTES_PER_TERM: u64 = 1_024;
/// Nodes of values that may be walked for the price of a term.
pub(super) const NODES_PER_TERM: u64 = 16;
/// Values with more nodes than this, shared parts counted each time, are not made: whatever walks them would not end.
pub(super) const MAX_SIZE: usize = 1_000_000;
/// Deeper values are not made either: they are dropped, compared and printed level by level, on the stack.
pub(super) const MAX_LEVELS: usize = 1_000;
/// Nodes that may be put into values before one is looked at as a whole.
const UNSEEN: usize = 4_096;

#[derive(Clone, Copy)]
pub(super) struct Budget {
    pub terms: u64,
    pub stack: usize,
}

/// Which limit ended an evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Terms,
    Stack,
    Memory,
    Size,
}

/// The meter of one evaluation.
pub(super) struct Meter<'a> {
    lut: &'a Lut<Jq>,
    left: Cell<u64>,
    floor: usize,
    before: i64,
    taken: Cell<u64>,
    /// Nodes put into values since one was looked at as a whole, and how many that one had.
    grown: Cell<usize>,
    seen: Cell<usize>,
    /// jq's `now`: seconds since 1970.
    pub now: f64,
}

impl<'a> Meter<'a> {
    pub fn new(lut: &'a Lut<Jq>, budget: Budget, now: f64) -> Meter<'a> {
        let here = 0_u8;
        let floor = (&raw const here as usize).saturating_sub(budget.stack);
        Meter {
            lut,
            left: Cell::new(budget.terms),
            floor,
            before: live(),
            taken: Cell::new(taken()),
            grown: Cell::new(0),
            seen: Cell::new(0),
            now,
        }
    }

    #[inline]
    pub fn tick(&self) {
        let left = self.left.get();
        if left == 0 {
            resume_unwind(Box::new(Stop::Terms));
        }
        self.left.set(left - 1);
        if (&raw const left as usize) < self.floor {
            resume_unwind(Box::new(Stop::Stack));
        }
        if left & 15 == 0 {
            self.look();
        }
    }

    fn look(&self) {
        if live() - self.before > MEMORY {
            resume_unwind(Box::new(Stop::Memory));
        }
        let taken = taken();
        let terms = taken.wrapping_sub(self.taken.replace(taken)) / BYTES_PER_TERM;
        self.left.set(self.left.get().saturating_sub(terms));
    }

    /// Pays for work that is not terms.
    pub fn pay(&self, terms: u64) {
        match self.left.get().checked_sub(terms) {
            Some(left) => self.left.set(left),
            None => resume_unwind(Box::new(Stop::Terms)),
        }
    }

    /// Walks a value and pays for that; stops the run when it is too large or too deep. Gives its nodes.
    pub fn walk(&self, value: &Val) -> usize {
        if !matches!(value, Val::Arr(_) | Val::Obj(_)) {
            return 1;
        }
        let mut left = MAX_SIZE;
        let fits = super::functions::fits(value, &mut left, MAX_LEVELS);
        let nodes = MAX_SIZE - left;
        self.pay(nodes as u64 / NODES_PER_TERM);
        if !fits {
            resume_unwind(Box::new(Stop::Size));
        }
        nodes
    }

    /// Notes that `nodes` were put into a value.
    pub fn grow(&self, nodes: usize) {
        self.grown.set(self.grown.get().saturating_add(nodes));
    }

    /// Walks a value that has grown, each time it may have become larger by half.
    pub fn settle(&self, value: &Val) {
        if self.grown.get() > UNSEEN.max(self.seen.get() / 2) {
            self.grown.set(0);
            self.seen.set(self.walk(value));
        }
    }
}

/// Our kind of jaq run.
pub(super) struct Jq;

#[derive(Clone, Copy)]
pub(super) struct Run<'a>(pub &'a Meter<'a>);

impl DataT for Jq {
    type V<'a> = Val;
    type Data<'a> = Run<'a>;
}

impl<'a> HasLut<'a, Jq> for Run<'a> {
    #[inline]
    fn lut(&self) -> &'a Lut<Jq> {
        self.0.tick();
        self.0.lut
    }
}
