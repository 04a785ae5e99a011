//! One connection to a node, and another one when it is lost.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::ConnectError;
use connectrpc::client::{BoxFuture, ClientBody, ClientTransport};
use futures::FutureExt as _;
use futures::future::Shared;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use lifecycle::{Budget, TaskGroup};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, debug_span};

use crate::grpc::MAX_HEADER_BYTES;
use crate::grpc::serve::Streams;

/// How long making a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// After a failure no other try is made for this long, twice as long after the next one, and so
/// on: calls fail at once meanwhile, and a node that starts is not stormed.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// A node that does not answer pings is lost.
const PING_AFTER: Duration = Duration::from_secs(10);
const PING_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub(super) struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Host and port.
    target: String,
    state: Mutex<State>,
    /// What drives the connections.
    tasks: TaskGroup,
}

#[derive(Debug)]
struct State {
    connection: Connection,
    failures: u32,
    /// The number of the current try: an outcome counts once, for the try it is of.
    attempt: u64,
}

type Opened = Result<SendRequest<ClientBody>, String>;

#[derive(Debug)]
enum Connection {
    None,
    /// Being made, whether somebody still waits for it or not.
    Making(Shared<BoxFuture<'static, Opened>>),
    Up(SendRequest<ClientBody>),
    /// Not to be tried again before the moment given.
    Failed {
        why: String,
        again_at: Instant,
    },
}

impl Link {
    pub(super) fn new(target: String, tasks: TaskGroup) -> Self {
        let state = State { connection: Connection::None, failures: 0, attempt: 0 };
        Self(Arc::new(Inner { target, state: Mutex::new(state), tasks }))
    }

    /// The connection, made if there is none.
    ///
    /// Cancel safety: yes. The connection is made all the same.
    async fn open(&self) -> Opened {
        let (making, attempt) = {
            let mut state = self.0.state.lock();
            match &state.connection {
                Connection::Up(sender) if !sender.is_closed() => return Ok(sender.clone()),
                Connection::Making(making) => (making.clone(), state.attempt),
                Connection::Failed { why, again_at } if Instant::now() < *again_at => {
                    return Err(why.clone());
                }
                Connection::None | Connection::Up(_) | Connection::Failed { .. } => {
                    let making = self.make().boxed().shared();
                    state.connection = Connection::Making(making.clone());
                    state.attempt += 1;
                    (making, state.attempt)
                }
            }
        };
        let opened = making.await;
        let mut state = self.0.state.lock();
        if state.attempt == attempt && matches!(state.connection, Connection::Making(_)) {
            state.settle(opened.clone());
        }
        opened
    }

    /// Begins to make a connection.
    fn make(&self) -> impl Future<Output = Opened> + use<> {
        let (done, made) = oneshot::channel();
        let inner = Arc::clone(&self.0);
        let stop = self.0.tasks.stop_token().clone();
        self.0.tasks.spawn(debug_span!("node_connect", target = self.0.target), async move {
            let opened = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                opened = inner.connect() => opened,
            };
            // Nobody may be waiting any more; the next caller finds it.
            drop(done.send(opened));
        });
        made.map(|made| made.unwrap_or_else(|_closed| Err("the client is closed".to_owned())))
    }
}

impl State {
    fn settle(&mut self, opened: Opened) {
        self.connection = match opened {
            Ok(sender) => {
                self.failures = 0;
                Connection::Up(sender)
            }
            Err(why) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(MAX_PAUSE);
                self.failures = self.failures.saturating_add(1);
                Connection::Failed { why, again_at: Instant::now() + pause }
            }
        };
    }
}

impl Inner {
    async fn connect(&self) -> Opened {
        let opened = async {
            let socket =
                TcpStream::connect(&self.target).await.map_err(|error| error.to_string())?;
            socket.set_nodelay(true).map_err(|error| error.to_string())?;
            let handshake = http2::Builder::new(Streams(self.tasks.clone()))
                .timer(TokioTimer::new())
                .max_header_list_size(MAX_HEADER_BYTES)
                .keep_alive_interval(PING_AFTER)
                .keep_alive_timeout(PING_LIMIT)
                .keep_alive_while_idle(true)
                .handshake(TokioIo::new(socket));
            handshake.await.map_err(|error| observe::chain(&error).to_string())
        };
        let limit = Budget::within(CONNECT_LIMIT);
        let opened = limit.run("connect to a node", opened).await;
        let (sender, connection) = opened.map_err(|late| late.to_string())??;
        let stop = self.tasks.stop_token().clone();
        self.tasks.spawn(debug_span!("node_link", target = self.target), async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                ended = connection => {
                    if let Err(error) = ended {
                        debug!(error = %observe::chain(&error), "connection to a node ended");
                    }
                }
            }
        });
        Ok(sender)
    }
}

/// Nobody answers.
fn unreachable(why: impl Into<String>) -> ConnectError {
    ConnectError::unavailable(why)
}

impl ClientTransport for Link {
    type ResponseBody = Incoming;
    type Error = ConnectError;

    fn send(
        &self,
        request: Request<ClientBody>,
    ) -> BoxFuture<'static, Result<Response<Incoming>, ConnectError>> {
        let link = self.clone();
        async move {
            let mut sender = link.open().await.map_err(unreachable)?;
            let mut lost = match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(lost) => lost,
            };
            // It has not been sent: the connection was already going. Another one is tried once.
            if let Some(request) = lost.take_message() {
                let mut sender = link.open().await.map_err(unreachable)?;
                let answer = sender.send_request(request).await;
                return answer.map_err(|error| unreachable(observe::chain(&error).to_string()));
            }
            Err(unreachable(observe::chain(&lost.into_error()).to_string()))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Connection, FIRST_PAUSE, MAX_PAUSE, State};

    #[tokio::test(start_paused = true)]
    async fn the_pause_after_a_failure_doubles_up_to_a_limit() {
        let mut state = State { connection: Connection::None, failures: 0, attempt: 0 };
        let mut pauses = Vec::new();
        for _failure in 0..100 {
            state.settle(Err("refused".into()));
            let Connection::Failed { again_at, .. } = &state.connection else { panic!() };
            pauses.push(*again_at - Instant::now());
        }
        assert_eq!(pauses.first(), Some(&FIRST_PAUSE));
        assert!(pauses.windows(2).all(|two| two[1] == (two[0] * 2).min(MAX_PAUSE)));
        assert_eq!(pauses.last(), Some(&Duration::from_secs(2)));
    }
}
