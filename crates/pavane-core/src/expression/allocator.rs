//! Counting what a thread holds, so that an evaluation can be stopped before it holds too much.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

/// Bytes this thread has allocated and not freed (negative when it freed what others allocated). Only differences mean
/// anything, and only where [`Counting`] is the process's allocator.
pub(super) fn live() -> i64 {
    LIVE.with(Cell::get)
}

/// Bytes this thread has ever allocated: what is copied costs time, too.
pub(super) fn taken() -> u64 {
    TAKEN.with(Cell::get)
}

/// A global allocator that counts for [`super::Expression`]'s memory limit. Install it in the binary:
/// `#[global_allocator] static ALLOCATOR: Counting<…> = Counting(…);`
#[derive(Debug)]
pub struct Counting<A>(pub A);

fn count(bytes: i64) {
    // A thread that is ending has no counter any more, and no evaluation either.
    let _ = LIVE.try_with(|live| live.set(live.get().wrapping_add(bytes)));
    if bytes > 0 {
        let _ = TAKEN.try_with(|taken| taken.set(taken.get().wrapping_add(bytes.unsigned_abs())));
    }
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; every call is handed on unchanged")]
// SAFETY: all four requirements of the trait are those of the inner allocator.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise is handed on.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise is handed on.
        unsafe { self.0.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        // SAFETY: the caller's promise is handed on.
        unsafe { self.0.realloc(pointer, layout, size) }
    }
}
