//! Connections without anything of a library for HTTP: between two exchanges, and while they carry a
//! plain request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::pool::{Health, Kept, Left};
use crate::quiet::Quiet;

/// A connection to a port of a sandbox, for one exchange after the other.
#[derive(Debug)]
pub(crate) struct Bare {
    socket: TcpStream,
    stop: Quiet<WaitForCancellationFutureOwned>,
    /// Who is called while nobody uses it.
    left: Waker,
}

impl Bare {
    /// It is not to be used any more when `stop` is cancelled.
    pub(super) fn new(socket: TcpStream, stop: CancellationToken, left: Arc<Left>) -> Self {
        Self { socket, stop: Quiet::new(stop.cancelled_owned()), left: Waker::from(left) }
    }

    pub(super) fn into_socket(self) -> TcpStream {
        self.socket
    }

    pub(crate) const fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Whether its sandbox has ended; if not, the task of `cx` is woken when it does.
    pub(crate) fn has_ended(&mut self, cx: &mut Context<'_>) -> bool {
        Pin::new(&mut self.stop).poll(cx).is_ready()
    }
}

impl Kept for Bare {
    fn leave(&mut self) -> Health {
        let left = self.left.clone();
        let mut cx = Context::from_waker(&left);
        // What comes now is no answer to anything.
        let mut byte = [0];
        let read = Pin::new(&mut self.socket).poll_read(&mut cx, &mut ReadBuf::new(&mut byte));
        // Also because whoever used it last is to be forgotten.
        let has_ended = self.has_ended(&mut cx);
        if has_ended || read.is_ready() { Health::Closed } else { Health::Ready }
    }

    fn take(&mut self) -> Health {
        self.leave()
    }
}
