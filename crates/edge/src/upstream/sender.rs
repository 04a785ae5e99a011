use std::future::poll_fn;
use std::num::NonZero;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::bell::Bell;
use super::pool::{Health, Kept};
use super::socket::Socket;
use super::transport::Transport;
use super::{BUFFER_BYTES, H2_HEADER_BYTES};
use crate::request_body::RequestBody;
use crate::streams::Streams;

/// What is spoken to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Http1,
    /// Without asking first, where there is no TLS to ask in.
    Http2,
}

/// A port of a sandbox, and what is spoken there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) number: NonZero<u16>,
    pub(crate) protocol: Protocol,
    /// Whether it is spoken inside of TLS.
    pub(crate) tls: bool,
}

impl Port {
    /// Whether a connection between two exchanges is a socket and nothing else.
    pub(super) fn is_bare(self) -> bool {
        self.protocol == Protocol::Http1 && !self.tls
    }
}

/// The sending end of a connection to a sandbox, and what moves its bytes unless a task does.
///
/// Connections of both protocols serve one exchange at a time: streams that share a connection wait
/// for each other when one of their clients is slow, or when the server lets only some in.
#[derive(Debug)]
pub(crate) enum Sender {
    Http1(Http1),
    Http2(http2::SendRequest<RequestBody>),
}

#[derive(Debug)]
pub(crate) struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    transport: Transport,
    bell: Bell,
}

/// What runs the streams of a connection of HTTP/2, until both ends are done with it.
pub(super) type Multiplexer = http2::Connection<TokioIo<Socket>, RequestBody, Streams>;

impl Sender {
    /// Speaks HTTP/1 on `socket` until `stop`.
    ///
    /// # Errors
    /// The connection ended at once.
    pub(super) async fn http1(
        socket: Socket,
        bell: Bell,
        stop: CancellationToken,
    ) -> hyper::Result<Self> {
        let mut builder = http1::Builder::new();
        // Small servers inside sandboxes compare names as people write them.
        builder.title_case_headers(true).max_buf_size(BUFFER_BYTES);
        let (sender, connection) = builder.handshake(TokioIo::new(socket)).await?;
        let transport = Transport::new(connection, stop);
        Ok(Self::Http1(Http1 { sender, transport, bell }))
    }

    /// Speaks HTTP/2 on `socket`, with `streams` for what runs beside the connection.
    ///
    /// # Errors
    /// The connection ended at once.
    pub(super) async fn http2(
        socket: Socket,
        streams: Streams,
    ) -> hyper::Result<(Self, Multiplexer)> {
        let window = u32::try_from(BUFFER_BYTES).unwrap_or(u32::MAX);
        let mut builder = http2::Builder::new(streams);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(window)
            .initial_connection_window_size(window)
            .max_send_buf_size(BUFFER_BYTES)
            .max_header_list_size(H2_HEADER_BYTES);
        let (sender, connection) = builder.handshake(TokioIo::new(socket)).await?;
        Ok((Self::Http2(sender), connection))
    }

    /// Sends `request` and waits for the head of its answer.
    ///
    /// Cancel safety: the connection is not to be used again after a dropped call.
    pub(crate) async fn try_send_request(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Self::Http1(Http1 { sender, transport, bell }) => {
                let mut answer = pin!(sender.try_send_request(request));
                poll_fn(|cx| {
                    bell.hold(cx, |cx| {
                        transport.drive(cx);
                        answer.as_mut().poll(cx)
                    })
                })
                .await
            }
            Self::Http2(sender) => sender.try_send_request(request).await,
        }
    }

    /// The next part of `body`, which came with an answer on this connection.
    pub(crate) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Incoming,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Self::Http1(Http1 { transport, bell, .. }) = self else {
            return Pin::new(body).poll_frame(cx);
        };
        bell.hold(cx, |cx| {
            let frame = Pin::new(&mut *body).poll_frame(cx);
            if frame.is_ready() || !transport.is_open() {
                return frame;
            }
            // Having been asked for the body makes the transport willing to read it.
            bell.seen();
            transport.drive(cx);
            Pin::new(body).poll_frame(cx)
        })
    }

    /// What moves the bytes, for a caller who does that from now on.
    pub(crate) fn take_transport(&mut self) -> Transport {
        match self {
            Self::Http1(http1) => http1.transport.take(),
            Self::Http2(_) => Transport::elsewhere(),
        }
    }

    /// The socket of a connection between two exchanges, if it has no TLS and all of it is here.
    pub(super) fn into_socket(mut self) -> Option<TcpStream> {
        if self.leave() != Health::Ready {
            return None;
        }
        let Self::Http1(Http1 { transport, .. }) = self else { return None };
        match transport.into_idle()? {
            Socket::Plain(socket) => Some(socket),
            Socket::Tls(_) => None,
        }
    }

    fn health(&self) -> Health {
        match self {
            Self::Http1(Http1 { sender, .. }) => Health::of(sender.is_closed(), sender.is_ready()),
            Self::Http2(sender) => Health::of(sender.is_closed(), sender.is_ready()),
        }
    }
}

impl Kept for Sender {
    fn leave(&mut self) -> Health {
        if let Self::Http1(Http1 { transport, bell, .. }) = self {
            bell.leave(|cx| transport.drive(cx));
        }
        self.health()
    }

    fn take(&mut self) -> Health {
        if let Self::Http1(Http1 { transport, bell, .. }) = self {
            bell.take(|cx| transport.drive(cx));
        }
        self.health()
    }
}

impl Health {
    const fn of(closed: bool, ready: bool) -> Self {
        match (closed, ready) {
            (true, _) => Self::Closed,
            (false, false) => Self::Busy,
            (false, true) => Self::Ready,
        }
    }
}
