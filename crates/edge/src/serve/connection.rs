use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::UPGRADE;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use lifecycle::{Gate, Pass, TaskGroup};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::debug;

use super::clock::{Alarm, Clock};
use crate::answer::Form;
use crate::quiet::Quiet;
use crate::seats::{Seat, Seats};
use crate::streams::Streams;
use crate::upstream::{BUFFER_BYTES, H2_HEADER_BYTES};
use crate::{Body, BoxError, Edge, answer};

/// HTTP/2 as E2B's proxy sets it up. One stream too many is refused before it is looked at, which
/// tells the client that it may ask again.
const H2_STREAMS: u32 = 100;
const H2_WINDOW_BYTES: u32 = 1024 * 1024;
/// More than one stream can fill: an upload that its sandbox does not take must not hold up the
/// others. What all of them can fill is limited by the number of exchanges.
const H2_CONNECTION_WINDOW_BYTES: u32 = 4 * H2_WINDOW_BYTES;
/// How long the first request of a connection is waited for when the listener stops.
const FIRST_LIMIT: Duration = Duration::from_millis(500);
const H2_PING_AFTER: Duration = Duration::from_secs(30);
const H2_PING_LIMIT: Duration = Duration::from_secs(15);

/// A client connection counts for as long as someone holds this, which a tunnel does longer than
/// HTTP.
#[derive(Debug)]
pub(crate) struct ClientPass {
    _room: Seat,
    _open: Pass,
}

impl ClientPass {
    /// `None` when there is no room for one more.
    pub(super) fn new(room: &Arc<Seats>, open: &Gate) -> Option<Self> {
        let room = room.take()?;
        Some(Self { _room: room, _open: open.enter().ok()? })
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
        let alarm = Alarm::new(Arc::clone(&clock));
        let (cut, stop) = (self.edge.clients().stop_token().clone(), self.stop.clone());
        let stopped = async move { stop.cancelled().await };
        let mut told = Quiet::new(told(cut.clone(), Some(stopped.boxed())));
        let (known, mut waited) = (Arc::clone(&clock), false);
        let builder = builder(self.edge.clients());

        let socket = TokioIo::new(Timed { socket, clock: Arc::clone(&clock) });
        let this = Arc::new(self);
        let service = service_fn(move |request| {
            let serving = clock.serve();
            let this = Arc::clone(&this);
            async move {
                let response = this.answer(request).await;
                Ok::<_, Infallible>(response.map(|body| body.while_serving(serving)))
            }
        });
        let connection = builder.serve_connection_with_upgrades(socket, service);
        tokio::pin!(connection, alarm);
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        debug!(error = %observe::chain(error.as_ref()), "client connection ended");
                    }
                    return;
                }
                told_so = &mut told => match told_so {
                    Told::Cut => return,
                    // Its first request is on its way, most likely: a client that was let in and sees
                    // its connection closed cannot know that nothing was done.
                    Told::Stop if known.is_fresh() && !waited => {
                        waited = true;
                        told = Quiet::new(self::told(cut.clone(), Some(soon())));
                    }
                    Told::Stop => {
                        connection.as_mut().graceful_shutdown();
                        told = Quiet::new(self::told(cut.clone(), None));
                    }
                },
                () = alarm.as_mut() => {
                    debug!("client took longer than it may");
                    return;
                }
            }
        }
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

/// What the listener has to say to a connection.
enum Told {
    Cut,
    /// End when nothing is under way.
    Stop,
}

/// When a connection that nothing has come on is closed after all.
fn soon() -> BoxFuture<'static, ()> {
    tokio::time::sleep(FIRST_LIMIT).boxed()
}

async fn told(cut: CancellationToken, stop: Option<BoxFuture<'static, ()>>) -> Told {
    let stopped = async {
        match stop {
            Some(stop) => stop.await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = cut.cancelled() => Told::Cut,
        () = stopped => Told::Stop,
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
    clock: Arc<Clock>,
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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
