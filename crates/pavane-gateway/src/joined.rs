//! A connection whose short writes are one piece.
//!
//! The head and the body of a short answer come as two pieces. Sending a list of pieces costs the system more than copying
//! some hundred bytes, so short lists are joined. What is long goes as it is, without a copy.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};

/// What is not longer is joined: about what fits into one packet of a local network, and the stack.
const SHORT: usize = 2_048;

/// A connection.
pub(crate) struct Joined<T>(pub T);

impl<T: Read + Unpin> Read for Joined<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<T: Write + Unpin> Write for Joined<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = Pin::new(&mut self.0);
        if let [one] = pieces {
            return inner.poll_write(context, one);
        }
        let mut joined = [0; SHORT];
        let mut free = joined.as_mut_slice();
        for piece in pieces {
            let Some((room, rest)) = free.split_at_mut_checked(piece.len()) else {
                return inner.poll_write_vectored(context, pieces);
            };
            room.copy_from_slice(piece);
            free = rest;
        }
        let length = SHORT - free.len();
        inner.poll_write(context, joined.get(..length).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes so many bytes at once, and remembers what came how.
    struct Seen {
        most: usize,
        calls: Vec<(bool, Vec<u8>)>,
    }

    impl Seen {
        fn take(&mut self, vectored: bool, bytes: Vec<u8>) -> Poll<io::Result<usize>> {
            let taken: Vec<u8> = bytes.into_iter().take(self.most).collect();
            let count = taken.len();
            self.calls.push((vectored, taken));
            Poll::Ready(Ok(count))
        }
    }

    impl Write for Seen {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.take(false, bytes.to_vec())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let whole = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
            self.take(true, whole)
        }
    }

    #[test]
    fn short_pieces_are_one_and_long_ones_are_not_copied() {
        for (lengths, most, vectored) in [
            (vec![10], 100, false),
            (vec![10, 20, 0, 5], 100, false),
            (vec![10, 20], 15, false),
            (vec![0, 0], 100, false),
            (vec![SHORT - 1, 1], SHORT, false),
            (vec![SHORT, 1], 9_999, true),
            (vec![1, SHORT * 2], 700, true),
            (vec![SHORT * 2], 9_999, false),
        ] {
            let bytes: Vec<Vec<u8>> = lengths.iter().enumerate().map(|(n, len)| vec![n as u8; *len]).collect();
            let pieces: Vec<IoSlice<'_>> = bytes.iter().map(|piece| IoSlice::new(piece)).collect();
            let mut joined = Joined(Seen { most, calls: Vec::new() });
            let written = Pin::new(&mut joined).poll_write_vectored(&mut Context::from_waker(Waker::noop()), &pieces);
            let whole: Vec<u8> = bytes.concat().into_iter().take(most).collect();
            assert!(matches!(written, Poll::Ready(Ok(count)) if count == whole.len()), "{lengths:?}");
            assert_eq!(joined.0.calls, [(vectored, whole)], "{lengths:?}");
        }
    }
}
