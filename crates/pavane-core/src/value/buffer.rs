//! Memory to write into, used again by the next who writes on the same thread. What is written is copied out at its exact
//! size: memory that was just written to is near, and what is kept takes no more than it must.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Buffers that a thread keeps: as many as are in use at one time when one text is written within another.
const KEPT: usize = 4;

/// Bytes of a buffer that is kept. A larger one is given back.
const KEPT_BYTES: usize = 64 * 1024;

thread_local! {
    static IDLE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer, which goes back to its thread when it is dropped.
pub(crate) struct Buffer(Vec<u8>);

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer(IDLE.try_with(|idle| idle.borrow_mut().pop()).ok().flatten().unwrap_or_default())
    }
}

impl Buffer {
    /// What was written, when all of it is UTF-8.
    pub fn text(&self) -> Result<&str, std::str::Utf8Error> {
        std::str::from_utf8(&self.0)
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.0);
        if memory.capacity() <= KEPT_BYTES {
            memory.clear();
            // A thread that ends keeps nothing.
            let _ = IDLE.try_with(|idle| {
                let mut idle = idle.borrow_mut();
                if idle.len() < KEPT {
                    idle.push(memory);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_empty_whoever_had_it_and_two_are_never_one() {
        let mut one = Buffer::default();
        one.extend_from_slice(b"one");
        let mut two = Buffer::default();
        two.extend_from_slice(b"two");
        assert_eq!((one.text(), two.text()), (Ok("one"), Ok("two")));
        let memory = (two.as_ptr(), two.capacity());
        drop(two);
        let again = Buffer::default();
        assert!(again.is_empty() && (again.as_ptr(), again.capacity()) == memory);
        drop((one, again));
        let mut large = Buffer::default();
        large.reserve(KEPT_BYTES + 1);
        drop(large);
        let kept: Vec<Buffer> = std::iter::repeat_with(Buffer::default).take(KEPT + 1).collect();
        assert!(kept.iter().all(|buffer| buffer.capacity() <= KEPT_BYTES));
    }
}
