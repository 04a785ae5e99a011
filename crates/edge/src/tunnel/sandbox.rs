use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::upstream::{Leftover, Socket};

/// A sandbox in a tunnel.
#[derive(Debug)]
pub(super) struct Sandbox {
    /// Came along with the answer that opened the tunnel.
    first: Bytes,
    socket: Socket,
}

impl From<Leftover> for Sandbox {
    fn from(leftover: Leftover) -> Self {
        Self { first: leftover.read, socket: leftover.socket }
    }
}

impl AsyncRead for Sandbox {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buffer);
        }
        let fits = self.first.len().min(buffer.remaining());
        buffer.put_slice(self.first.get(..fits).unwrap_or_default());
        self.first.advance(fits);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sandbox {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
