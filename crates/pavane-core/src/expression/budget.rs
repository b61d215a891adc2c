//! What one evaluation may use: terms, stack and memory.
//!
//! jaq asks for its look-up table once for every term it evaluates; that is where the meter sits. A limit that is
//! reached unwinds (no hook of the process sees it, jq's `try` cannot catch it) and is caught around the run.

use std::cell::Cell;
use std::panic::resume_unwind;

use jaq_core::data::HasLut;
use jaq_core::{DataT, Lut};
use jaq_json::Val;

use super::allocator::live;

/// Terms of the first try: enough for what definitions do, over in a few milliseconds.
pub(super) const INLINE: Budget = Budget { terms: 100_000, stack: 512 << 10 };
/// Terms of the second try, on a thread with a stack of its own: about 0.1 s.
pub(super) const LARGE: Budget = Budget { terms: 2_000_000, stack: 48 << 20 };
/// Stack of that thread: the budget's and room for what runs below and drops afterwards.
pub(super) const LARGE_STACK: usize = 64 << 20;
/// Memory one evaluation may hold. It also bounds how deep a value under construction gets.
pub(super) const MEMORY: i64 = 64 << 20;

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
}

/// The meter of one evaluation.
pub(super) struct Meter<'a> {
    lut: &'a Lut<Jq>,
    left: Cell<u64>,
    floor: usize,
    before: i64,
    /// jq's `now`: seconds since 1970.
    pub now: f64,
}

impl<'a> Meter<'a> {
    pub fn new(lut: &'a Lut<Jq>, budget: Budget, now: f64) -> Meter<'a> {
        let here = 0_u8;
        let floor = (&raw const here as usize).saturating_sub(budget.stack);
        Meter { lut, left: Cell::new(budget.terms), floor, before: live(), now }
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
        if left & 15 == 0 && live() - self.before > MEMORY {
            resume_unwind(Box::new(Stop::Memory));
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
