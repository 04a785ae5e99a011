//! The end of a connection that leads to the outside.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// What is read ahead to find out that there is something.
const AHEAD: usize = 1024;

/// A connection to a server, or to a proxy that carries everything to one.
#[derive(Debug)]
pub(crate) enum Outside {
    Clear(TcpStream),
    /// The proxy speaks TLS.
    Tls(Box<BufReader<TlsStream<TcpStream>>>),
}

impl From<TcpStream> for Outside {
    fn from(stream: TcpStream) -> Self {
        Self::Clear(stream)
    }
}

impl From<TlsStream<TcpStream>> for Outside {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self::Tls(Box::new(BufReader::with_capacity(AHEAD, stream)))
    }
}

impl Outside {
    /// Waits until there is something to read, which may be an end. A message of TLS itself is
    /// nothing.
    ///
    /// Cancel safety: yes; what was read is read again.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) async fn readable(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.readable().await,
            Self::Tls(stream) => stream.fill_buf().await.map(|_bytes| ()),
        }
    }
}

impl AsyncRead for Outside {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Outside {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Clear(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
