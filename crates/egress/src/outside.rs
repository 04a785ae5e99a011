//! The end of a connection that leads to the outside.

use std::io;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

/// What is read ahead to find out that there is something.
const AHEAD: usize = 1024;

/// A connection to a server, or to a proxy that carries everything to one: in the clear, or inside of
/// the TLS that the proxy speaks.
pub(crate) type Outside = Either<TcpStream, Box<BufReader<TlsStream<TcpStream>>>>;

/// A connection to a proxy that speaks TLS.
pub(crate) fn in_tls(stream: TlsStream<TcpStream>) -> Outside {
    Either::Right(Box::new(BufReader::with_capacity(AHEAD, stream)))
}

/// Waits until there is something to read, which may be an end. A message of TLS itself is nothing.
///
/// Cancel safety: yes; what was read is read again.
///
/// # Errors
/// The connection is broken.
pub(crate) async fn readable(connection: &mut Outside) -> io::Result<()> {
    match connection {
        Either::Left(stream) => stream.readable().await,
        Either::Right(stream) => stream.fill_buf().await.map(|_bytes| ()),
    }
}
