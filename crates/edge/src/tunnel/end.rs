use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};

use super::frames::{Frames, GOING_AWAY};
use crate::upstream::{Leftover, Socket};

/// One end of a tunnel.
#[derive(Debug)]
pub(super) struct End {
    /// Came along with the last that was said in HTTP.
    first: Bytes,
    socket: Socket,
    /// Where the frames end that it was sent, if that is watched.
    frames: Option<Frames>,
}

impl End {
    pub(super) fn new(leftover: Leftover, frames: Option<Frames>) -> Self {
        Self { first: leftover.read, socket: leftover.socket, frames }
    }

    /// Reads what is there; nothing at the end.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        read: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, read);
        }
        let fits = self.first.len().min(read.remaining());
        read.put_slice(&self.first.split_to(fits));
        Poll::Ready(Ok(()))
    }

    /// Writes some of `bytes`.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes))?;
        if let Some(frames) = &mut self.frames {
            frames.pass(bytes.get(..taken).unwrap_or_default());
        }
        match taken {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            taken => Poll::Ready(Ok(taken)),
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    /// Tells it that no more comes.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    /// Says goodbye, where the protocol has a word for it and none is half said, and that no more
    /// comes.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        if self.frames.is_some_and(Frames::may_close) {
            self.socket.write_all(&GOING_AWAY).await?;
        }
        self.socket.shutdown().await
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::net::Ipv4Addr;

    use bytes::Bytes;
    use tokio::net::{TcpListener, TcpStream};

    use super::End;
    use crate::upstream::{Leftover, Socket};

    /// An end, and what is at the other one.
    pub(in crate::tunnel) async fn pair() -> (End, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (far, near) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (near, _peer) = near.unwrap();
        let leftover = Leftover { socket: Socket::Plain(near), read: Bytes::new() };
        (End::new(leftover, None), far.unwrap())
    }
}
