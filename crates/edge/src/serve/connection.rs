use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::UPGRADE;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::conn::auto::upgrade::{Parts, downcast};
use lifecycle::{Gate, Pass, TaskGroup};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::debug;

use super::clock::Clock;
use super::lanes::Place;
use super::plain::{self, Handover};
use super::watch::Watch;
use crate::answer::Form;
use crate::seats::{Seat, Seats};
use crate::streams::Streams;
use crate::upstream::{BUFFER_BYTES, H2_HEADER_BYTES, Leftover, Socket};
use crate::{Body, BoxError, Edge, answer};

/// HTTP/2 as E2B's proxy sets it up. One stream too many is refused before it is looked at, which
/// tells the client that it may ask again.
const H2_STREAMS: u32 = 100;
const H2_WINDOW_BYTES: u32 = 1024 * 1024;
/// More than one stream can fill: an upload that its sandbox does not take must not hold up the
/// others. What all of them can fill is limited by the number of exchanges.
const H2_CONNECTION_WINDOW_BYTES: u32 = 4 * H2_WINDOW_BYTES;
const H2_PING_AFTER: Duration = Duration::from_secs(30);
const H2_PING_LIMIT: Duration = Duration::from_secs(15);

/// A client connection counts for as long as someone holds this, which a tunnel does longer than
/// HTTP.
#[derive(Debug)]
pub(crate) struct ClientPass {
    _room: Seat,
    _open: Pass,
    /// Where it is served: a tunnel takes as much of a lane as HTTP does.
    place: OnceLock<Place>,
}

impl ClientPass {
    /// `None` when there is no room for one more.
    pub(super) fn new(room: &Arc<Seats>, open: &Gate) -> Option<Self> {
        let room = room.take()?;
        Some(Self { _room: room, _open: open.enter().ok()?, place: OnceLock::new() })
    }

    /// It is served at `place` from now on.
    pub(super) fn settle(&self, place: Place) {
        // It is settled once.
        drop(self.place.set(place));
    }
}

/// What one client connection needs to be served.
#[derive(Debug)]
pub(super) struct Connection<S> {
    pub(super) pass: Arc<ClientPass>,
    pub(super) edge: Arc<Edge>,
    pub(super) api: S,
    /// Cancelled when the connection should end as soon as it is unused.
    pub(super) stop: CancellationToken,
}

impl<S, B> Connection<S>
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    /// Serves all requests of `socket`, until the client or a limit ends it, or the edge's tasks
    /// are told to end.
    pub(super) async fn drive(self, socket: TcpStream) {
        let config = self.edge.config();
        let clock = Arc::new(Clock::new(config.head_limit, config.client_idle));
        let cut = self.edge.clients().stop_token().clone();
        let mut watch = Watch::new(Arc::clone(&clock), cut, self.stop.clone());
        let plain = plain::serve(socket, &self.edge, &clock, &mut watch).await;
        if let Some(handover) = plain {
            // In a room of its own: that of plain requests is small.
            Box::pin(self.drive_rest(handover, clock, watch)).await;
        }
    }

    /// The same with the library for HTTP, which has all of it.
    async fn drive_rest(self, handover: Handover, clock: Arc<Clock>, mut watch: Watch) {
        let Handover { socket, read } = handover;
        let builder = builder(self.edge.clients());
        let socket = TokioIo::new(Timed { socket, read, clock: Arc::clone(&clock) });
        let this = Arc::new(self);
        let service = service_fn(move |request| {
            let serving = clock.serve();
            let this = Arc::clone(&this);
            async move {
                let response = this.answer(request).await;
                Ok::<_, Infallible>(response.map(|body| body.while_serving(serving)))
            }
        });
        let mut connection = pin!(builder.serve_connection_with_upgrades(socket, service));
        let mut is_told = false;
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                    if let Err(error) = ended {
                        debug!(error = %observe::chain(error.as_ref()), "client connection ended");
                    }
                    return Poll::Ready(());
                }
                if watch.poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                if is_told || !watch.is_stopping() {
                    return Poll::Pending;
                }
                is_told = true;
                connection.as_mut().graceful_shutdown();
            }
        })
        .await;
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        match Edge::target(&request) {
            Ok(Some(target)) => {
                if request.headers().contains_key(UPGRADE) {
                    request.extensions_mut().insert(Arc::clone(&self.pass));
                }
                self.edge.handle(&target, request).await
            }
            Ok(None) => match self.edge.signer(&request) {
                Ok(Some(target)) => self.edge.handle(&target, request).await,
                Ok(None) => match self.edge.at_home(self.api.clone().oneshot(request)).await {
                    Ok(response) => response.map(Body::api),
                    Err(never) => match never {},
                },
                Err(error) => Form::wanted(&request).refused(error),
            },
            Err(why) => answer::bad_target(why),
        }
    }
}

fn builder(tasks: &TaskGroup) -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(Streams::new(tasks.clone(), tasks.stop_token().clone()));
    builder
        .http1()
        // `Clock` does this.
        .header_read_timeout(None)
        .title_case_headers(true)
        .max_buf_size(BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS)
        .initial_stream_window_size(H2_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .max_header_list_size(H2_HEADER_BYTES)
        .keep_alive_interval(H2_PING_AFTER)
        .keep_alive_timeout(H2_PING_LIMIT);
    builder
}

/// A client's socket, telling the clock what arrives.
#[derive(Debug)]
struct Timed {
    socket: TcpStream,
    /// Was read from it before, and the clock knows.
    read: Bytes,
    clock: Arc<Clock>,
}

/// The socket of a client that has left HTTP; `None` when it did not speak HTTP/1.
pub(crate) fn left_http(upgraded: Upgraded) -> Option<Leftover> {
    let Parts { io, read_buf, .. } = downcast::<TokioIo<Timed>>(upgraded).ok()?;
    let Timed { socket, read, .. } = io.into_inner();
    let read = if read.is_empty() { read_buf } else { [read_buf, read].concat().into() };
    Some(Leftover { socket: Socket::Plain(socket), read })
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.read.is_empty() {
            let here = self.read.len().min(buffer.remaining());
            buffer.put_slice(&self.read.split_to(here));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        self.clock.read(buffer.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
