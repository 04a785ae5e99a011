//! The bytes of one direction of a tunnel.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::ReadBuf;

use super::end::End;
use crate::scratch;

/// One direction. It has memory only for what was read and not taken: most tunnels are silent most
/// of the time.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// Not taken yet; at most what is read at a time.
    kept: Bytes,
    /// Something was written that may still be in a buffer.
    unflushed: bool,
    at: At,
}

#[derive(Debug, Default)]
enum At {
    #[default]
    Open,
    /// The one end has said that no more comes, the other was not told.
    Ended,
    Done,
}

impl Way {
    /// Moves what can be moved now, and has the task of `cx` woken when there is more. Ready when
    /// `from` has ended and `to` knows.
    ///
    /// # Errors
    /// Of either end.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut End,
        to: &mut End,
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.kept.is_empty() {
                let taken = ready!(to.poll_write(cx, &self.kept))?;
                self.kept.advance(taken);
            }
            match self.at {
                At::Open => {}
                At::Ended => {
                    ready!(to.poll_shutdown(cx))?;
                    self.at = At::Done;
                    return Poll::Ready(Ok(()));
                }
                At::Done => return Poll::Ready(Ok(())),
            }
            if scratch::with(|scratch| self.pass(cx, scratch, from, to))?.is_pending() {
                if self.unflushed {
                    ready!(to.poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
    }

    /// Reads once into `space`, and writes that.
    fn pass(
        &mut self,
        cx: &mut Context<'_>,
        space: &mut [u8],
        from: &mut End,
        to: &mut End,
    ) -> Poll<io::Result<()>> {
        let mut read = ReadBuf::new(space);
        ready!(from.poll_read(cx, &mut read))?;
        let bytes = read.filled();
        if bytes.is_empty() {
            self.at = At::Ended;
            return Poll::Ready(Ok(()));
        }
        self.unflushed = true;
        let taken = match to.poll_write(cx, bytes)? {
            Poll::Ready(taken) => taken,
            Poll::Pending => 0,
        };
        let left = bytes.get(taken..).unwrap_or_default();
        if !left.is_empty() {
            self.kept = Bytes::copy_from_slice(left);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::coop;

    use super::Way;
    use crate::tunnel::end::testing::pair;

    /// A direction that has ended costs nothing while the other one goes on, however long.
    #[tokio::test]
    async fn an_end_is_passed_on_once() {
        let ((mut from, mut client), (mut to, mut sandbox)) = (pair().await, pair().await);
        let mut way = Way::default();
        client.write_all(b"all").await.unwrap();
        client.shutdown().await.unwrap();
        let passed = std::future::poll_fn(|cx| {
            let polled = way.poll(cx, &mut from, &mut to);
            assert!(coop::has_budget_remaining(), "the end is passed on over and over");
            polled
        });
        passed.await.unwrap();
        let mut got = Vec::new();
        sandbox.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"all");
    }
}
