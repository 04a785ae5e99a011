//! The bytes of a connection to a sandbox, moved by whoever uses it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::debug;

use super::socket::Socket;
use crate::quiet::Quiet;
use crate::request_body::RequestBody;

/// What carries the bytes of a connection of HTTP/1, if it is here and has not ended.
///
/// As a task of its own it would be woken for every request and every answer, and would wake the
/// task of the client in turn. So what waits for an answer moves the bytes itself, and when nobody
/// waits for anything none are read.
#[derive(Debug)]
pub(crate) struct Transport(State);

#[derive(Debug)]
enum State {
    Open(Box<Open>),
    /// It has left HTTP, or was closed in order.
    Over(Box<Leftover>),
    Gone,
}

struct Open {
    connection: Http1,
    stop: Quiet<WaitForCancellationFutureOwned>,
}

type Http1 = http1::Connection<TokioIo<Socket>, RequestBody>;

/// What is left of a connection after its last answer.
#[derive(Debug)]
pub(crate) struct Leftover {
    pub(crate) socket: Socket,
    /// Was read, and is not part of the answer.
    pub(crate) read: Bytes,
}

impl Transport {
    /// It ends when `stop` is cancelled.
    pub(super) fn new(connection: Http1, stop: CancellationToken) -> Self {
        let stop = Quiet::new(stop.cancelled_owned());
        Self(State::Open(Box::new(Open { connection, stop })))
    }

    /// For a connection that is moved by a task.
    pub(super) const fn elsewhere() -> Self {
        Self(State::Gone)
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self.0, State::Open(_))
    }

    /// Leaves it to the caller.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::elsewhere())
    }

    /// Moves what can be moved now, and has the task of `cx` woken when there is more. When that
    /// was the end, whoever waits for an answer has been told.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        let State::Open(open) = &mut self.0 else { return };
        let Poll::Ready(ended) = open.poll(cx) else { return };
        // Nobody is told before the connection is dropped.
        let State::Open(open) = std::mem::replace(&mut self.0, State::Gone) else { return };
        if let Ended::InOrder = ended {
            let parts = open.connection.into_parts();
            let socket = parts.io.into_inner();
            self.0 = State::Over(Box::new(Leftover { socket, read: parts.read_buf }));
        }
    }

    /// The socket of a connection on which nothing is under way, and nothing was read too much.
    pub(super) fn into_idle(self) -> Option<Socket> {
        let State::Open(open) = self.0 else { return None };
        let parts = open.connection.into_parts();
        parts.read_buf.is_empty().then(|| parts.io.into_inner())
    }

    /// Moves everything until the end; `None` when that was not in order.
    ///
    /// Cancel safety: the connection is closed by a dropped call.
    pub(crate) async fn run(mut self) -> Option<Leftover> {
        std::future::poll_fn(|cx| {
            self.drive(cx);
            if self.is_open() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        match self.0 {
            State::Over(leftover) => Some(*leftover),
            State::Open(_) | State::Gone => None,
        }
    }
}

enum Ended {
    InOrder,
    Broken,
}

impl Open {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if Pin::new(&mut self.stop).poll(cx).is_ready() {
            return Poll::Ready(Ended::Broken);
        }
        Pin::new(&mut self.connection).poll(cx).map(|ended| match ended {
            Ok(()) => Ended::InOrder,
            Err(error) => {
                debug!(error = %observe::chain(&error), "connection to sandbox ended");
                Ended::Broken
            }
        })
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").finish_non_exhaustive()
    }
}
