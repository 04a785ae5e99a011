//! A connection that can be cut off by somebody who does not own it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// One end of a TCP connection, with what was read from it already, to be read again.
#[derive(Debug)]
pub(crate) struct Line {
    stream: Arc<TcpStream>,
    again: Bytes,
}

/// Whoever has this can have the connection end with a reset.
#[derive(Debug, Clone)]
pub(crate) struct Cut(Arc<TcpStream>);

impl Cut {
    /// When the line is dropped, the other end is told that the connection is broken, at once, and
    /// nothing of it stays in the kernel, however much is unsent.
    pub(crate) fn reset_on_drop(&self) {
        if let Err(error) = self.0.set_zero_linger() {
            tracing::debug!(%error, "a connection ends without a reset");
        }
    }
}

impl Line {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream: Arc::new(stream), again: Bytes::new() }
    }

    /// Has `bytes` be read before anything else.
    pub(crate) fn read_again(&mut self, bytes: Bytes) {
        self.again = bytes;
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn cut(&self) -> Cut {
        Cut(Arc::clone(&self.stream))
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.again.has_remaining() {
            let len = self.again.len().min(buf.remaining());
            buf.put_slice(&self.again.split_to(len));
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buf.initialize_unfilled()) {
                Ok(len) => {
                    buf.advance(len);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(shutdown(&*self.stream, Shutdown::Write).map_err(io::Error::from))
    }
}
