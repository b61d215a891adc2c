//! Counting what a thread holds, so that an evaluation can be stopped before it holds too much.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

/// What a thread has allocated so far, in bytes.
#[derive(Clone, Copy)]
struct Count {
    live: i64,
    taken: u64,
}

thread_local! {
    static COUNT: Cell<Count> = const { Cell::new(Count { live: 0, taken: 0 }) };
}

/// Bytes this thread has allocated and not freed (negative when it freed what others allocated). Only differences mean
/// anything, and only where [`Counting`] is the process's allocator.
pub(super) fn live() -> i64 {
    COUNT.get().live
}

/// Bytes this thread has ever allocated: what is copied costs time, too.
pub(super) fn taken() -> u64 {
    COUNT.get().taken
}

/// A global allocator that counts for [`super::Expression`]'s memory limit. Install it in the binary:
/// `#[global_allocator] static ALLOCATOR: Counting<…> = Counting(…);`
#[derive(Debug)]
pub struct Counting<A>(pub A);

/// In line: it runs for whatever is allocated.
#[inline]
fn count(more: usize, less: usize) {
    // A thread that is ending has no counter any more, and no evaluation either.
    let _ = COUNT.try_with(|count| {
        let Count { live, taken } = count.get();
        let live = live.wrapping_add(more as i64).wrapping_sub(less as i64);
        count.set(Count { live, taken: taken.wrapping_add(more.saturating_sub(less) as u64) });
    });
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; every call is handed on unchanged")]
// SAFETY: all four requirements of the trait are those of the inner allocator.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promise is handed on.
        unsafe { self.0.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's promise is handed on.
        unsafe { self.0.dealloc(pointer, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller's promise is handed on.
        unsafe { self.0.realloc(pointer, layout, size) }
    }
}
