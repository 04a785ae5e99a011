use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use lifecycle::{Budget, Expired};
use rustix::io::Errno;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{Protocol, tls};

/// Between two tries, in milliseconds: a server that was just started may open its port late.
/// E2B's proxy waits the same, so a closed port is known after one second.
const PAUSES_MS: [u64; 4] = [100, 200, 300, 400];

/// No connection to a sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("nobody listens on {addr}")]
    Closed { addr: SocketAddr, source: io::Error },
    #[error("no connection to {addr}")]
    Slow { addr: SocketAddr, source: Expired },
    #[error("no room for one more connection here")]
    NoRoom { source: io::Error },
    #[error("set up TLS on a new connection")]
    Tls { source: io::Error },
    #[error("set up HTTP on a new connection")]
    Handshake(#[source] hyper::Error),
}

/// Connects to `addr`, trying again while nobody listens there.
///
/// Cancel safety: yes.
pub(super) async fn dial(addr: SocketAddr, budget: Budget) -> Result<TcpStream, DialError> {
    let tried = budget.run("dial", async {
        for pause_ms in PAUSES_MS {
            match TcpStream::connect(addr).await {
                Err(error) if !is_no_room(&error) => {
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                }
                done => return done,
            }
        }
        TcpStream::connect(addr).await
    });
    let socket = match tried.await {
        Ok(Ok(socket)) => socket,
        Ok(Err(source)) if is_no_room(&source) => return Err(DialError::NoRoom { source }),
        Ok(Err(source)) => return Err(DialError::Closed { addr, source }),
        Err(source) => return Err(DialError::Slow { addr, source }),
    };
    socket.set_nodelay(true).map_err(|source| DialError::Closed { addr, source })?;
    Ok(socket)
}

/// Connects to `addr` if somebody listens there now.
///
/// Cancel safety: yes.
pub(super) async fn dial_once(addr: SocketAddr, budget: Budget) -> Option<TcpStream> {
    let socket = budget.run("dial once", TcpStream::connect(addr)).await.ok()?.ok()?;
    socket.set_nodelay(true).ok()?;
    Some(socket)
}

/// Sets up TLS on a new connection.
///
/// Cancel safety: yes.
pub(super) async fn shake_hands(
    socket: TcpStream,
    protocol: Protocol,
    budget: Budget,
) -> Result<TlsStream<TcpStream>, DialError> {
    let shaken = budget.run("set up TLS", tls::connect(socket, protocol)).await;
    let shaken = shaken.unwrap_or_else(|late| Err(io::Error::new(io::ErrorKind::TimedOut, late)));
    shaken.map_err(|source| DialError::Tls { source })
}

/// Whether it is this process or this host that has run out of something.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL)
    )
}
