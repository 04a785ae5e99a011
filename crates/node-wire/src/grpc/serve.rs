//! The listener: takes connections, ends them in time.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use lifecycle::{Budget, Expired, Gate, Pass, TaskGroup};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use tracing::{Span, debug, debug_span, info, warn};

use super::MAX_HEADER_BYTES;
use super::server::Server;

/// Connections at a time. A control plane needs one; the next ones wait to be accepted.
const MAX_CONNECTIONS: usize = 128;
/// Calls at a time on one connection; a client keeps the next ones until one is over.
const MAX_STREAMS: u32 = 256;
/// How long a connection may be open without a request that shows the token; enough to ask for the
/// node's health.
const STRANGER_LIMIT: Duration = Duration::from_secs(10);
/// As E2B's node does it.
const PING_AFTER: Duration = Duration::from_secs(15);
const PING_LIMIT: Duration = Duration::from_secs(5);
/// The time streams have to carry their last status out.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long what was cut may take to be gone, on a machine that has much else to do.
const CUT_LIMIT: Duration = Duration::from_secs(10);
/// Before `accept` is tried again when it fails: out of descriptors, usually.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listener has stopped, but not in order.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{tasks} connections to the node did not end when they were cut")]
    Late { tasks: usize, source: Expired },
}

/// Serves `listener` until `stop`. Calls that are under way then may go on for `grace`; after it
/// streams are ended with a status that says so, and what is still open a second later is cut.
///
/// Cancel safety: no. A dropped call stops accepting at once, and leaves open connections to
/// themselves.
///
/// # Errors
/// [`ServeError::Late`] when a connection did not end even so.
pub async fn serve(
    listener: TcpListener,
    server: Server,
    stop: CancellationToken,
    grace: Duration,
) -> Result<(), ServeError> {
    let tasks = TaskGroup::default();
    let open = Gate::default();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Some((socket, permit)) = accept(&listener, &room, &stop).await {
        let Ok(pass) = open.enter() else { break };
        let connection = Connection {
            server: server.clone(),
            known: Arc::default(),
            stop: stop.clone(),
            tasks: tasks.clone(),
            _held: (permit, pass),
        };
        tasks.spawn(debug_span!("node_client"), connection.drive(socket));
    }
    drop(listener);

    if open.wait_empty(Budget::within(grace)).await.is_err() {
        info!(open = open.inside(), "open calls to the node are ended");
        server.end_streams();
        if open.wait_empty(Budget::within(LAST_WORDS)).await.is_err() {
            info!(open = open.inside(), "connections to the node are cut");
        }
    }
    let closed = tasks.close(Budget::within(CUT_LIMIT)).await;
    closed.map_err(|source| ServeError::Late { tasks: tasks.running(), source })
}

/// The next connection, once there is room for it; `None` when `stop` is cancelled.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let next = async {
        // Never closed.
        let permit = Arc::clone(room).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((socket, _peer)) => return Some((socket, permit)),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    warn!(error = %observe::chain(&error), "node connections are not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        accepted = next => accepted,
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

struct Connection {
    server: Server,
    /// Whether a request has shown the token.
    known: Arc<AtomicBool>,
    stop: CancellationToken,
    tasks: TaskGroup,
    _held: (OwnedSemaphorePermit, Pass),
}

impl Connection {
    async fn drive(self, socket: TcpStream) {
        if let Err(error) = socket.set_nodelay(true) {
            debug!(error = %observe::chain(&error), "client left at once");
            return;
        }
        let (server, known) = (self.server.clone(), Arc::clone(&self.known));
        let service = service_fn(move |request: Request<Incoming>| {
            if !known.load(Ordering::Relaxed) && server.knows(&request) {
                known.store(true, Ordering::Relaxed);
            }
            let answer = server.clone().call(request);
            async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
        });
        let builder = builder(&self.tasks);
        let connection = builder.serve_connection(TokioIo::new(socket), service);
        let stranger = tokio::time::sleep(STRANGER_LIMIT);
        tokio::pin!(connection, stranger);
        let cut = self.tasks.stop_token();
        let (mut stopping, mut waiting) = (false, true);
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        debug!(error = %observe::chain(error.as_ref()), "node client ended");
                    }
                    return;
                }
                () = cut.cancelled() => return,
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = stranger.as_mut(), if waiting => {
                    waiting = false;
                    if !self.known.load(Ordering::Relaxed) {
                        debug!("a client that showed no token is disconnected");
                        return;
                    }
                }
            }
        }
    }
}

fn builder(tasks: &TaskGroup) -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(Streams(tasks.clone()));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(STRANGER_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_LIMIT);
    builder
}

/// Runs what belongs to an HTTP/2 connection as tasks that end with the group.
#[derive(Debug, Clone)]
pub(super) struct Streams(pub(super) TaskGroup);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let cut = self.0.stop_token().clone();
        self.0.spawn(Span::current(), async move {
            tokio::select! {
                biased;
                () = stream => {}
                () = cut.cancelled() => {}
            }
        });
    }
}
