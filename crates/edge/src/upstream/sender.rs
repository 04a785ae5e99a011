use std::num::NonZero;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::socket::Socket;
use super::{BUFFER_BYTES, H2_HEADER_BYTES};
use crate::request_body::RequestBody;
use crate::streams::Streams;

/// What is spoken to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Http1,
    /// Without asking first, where there is no TLS to ask in.
    Http2,
}

/// A port of a sandbox, and what is spoken there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Port {
    pub(crate) number: NonZero<u16>,
    pub(crate) protocol: Protocol,
    /// Whether it is spoken inside of TLS.
    pub(crate) tls: bool,
}

/// The sending end of a connection to a sandbox.
///
/// Connections of both protocols serve one exchange at a time: streams that share a connection wait
/// for each other when one of their clients is slow, or when the server lets only some in.
#[derive(Debug)]
pub(crate) enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

/// What carries the bytes of a connection, until both ends are done with it.
pub(super) enum Connection {
    Http1(Box<http1::Connection<TokioIo<Socket>, RequestBody>>),
    Http2(http2::Connection<TokioIo<Socket>, RequestBody, Streams>),
}

impl Sender {
    pub(crate) async fn try_send_request(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2(sender) => sender.try_send_request(request).await,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }
}

impl Connection {
    /// Speaks `protocol` on `socket`, with `streams` for what that runs beside the connection.
    ///
    /// # Errors
    /// The connection ended at once.
    pub(super) async fn open(
        socket: Socket,
        protocol: Protocol,
        streams: Streams,
    ) -> hyper::Result<(Sender, Self)> {
        let socket = TokioIo::new(socket);
        match protocol {
            Protocol::Http1 => {
                let mut builder = http1::Builder::new();
                // Small servers inside sandboxes compare names as people write them.
                builder.title_case_headers(true).max_buf_size(BUFFER_BYTES);
                let (sender, connection) = builder.handshake(socket).await?;
                Ok((Sender::Http1(sender), Self::Http1(Box::new(connection))))
            }
            Protocol::Http2 => {
                let window = u32::try_from(BUFFER_BYTES).unwrap_or(u32::MAX);
                let mut builder = http2::Builder::new(streams);
                builder
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(window)
                    .initial_connection_window_size(window)
                    .max_send_buf_size(BUFFER_BYTES)
                    .max_header_list_size(H2_HEADER_BYTES);
                let (sender, connection) = builder.handshake(socket).await?;
                Ok((Sender::Http2(sender), Self::Http2(connection)))
            }
        }
    }

    /// # Errors
    /// The connection did not end in order.
    pub(super) async fn drive(self) -> hyper::Result<()> {
        match self {
            Self::Http1(connection) => connection.with_upgrades().await,
            Self::Http2(connection) => connection.await,
        }
    }
}
