//! The listener of the one port: takes connections, speaks HTTP/1.1 and HTTP/2 on them, ends them
//! in time.

mod accept;
mod clock;
mod connection;
mod lanes;
mod plain;
mod refuse;
mod watch;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use lifecycle::{Budget, Expired, Gate};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, debug_span, info, warn};

use self::accept::Acceptor;
pub(crate) use self::clock::Serving;
use self::connection::Connection;
pub(crate) use self::connection::{ClientPass, left_http};
pub(crate) use self::lanes::AtHome;
use self::lanes::Lanes;
#[cfg(feature = "fuzz")]
pub(crate) use self::plain::check as plain_check;
use crate::seats::Seats;
use crate::{BoxError, Edge};

/// Quiet time after which the kernel asks whether a client is still there, and between the tries.
/// No other limit ends a stream whose client vanished without a word.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_TRIES: u32 = 6;

/// Connections that are being told that there is no room.
const MAX_REFUSALS: usize = 64;

/// How much of the time an unused connection to a sandbox may live passes between two looks.
const SWEEPS: u32 = 8;

/// The listener has stopped, but not in order.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{tasks} connections did not end when they were cut")]
    Late { tasks: usize, source: Expired },
    #[error("start the threads of the listener")]
    Threads(#[source] io::Error),
}

/// Serves `listener` until `stop`: sandbox traffic by `edge`, everything else by `api`.
///
/// After `stop` no connection is accepted; those that are open end when what is under way on them
/// has ended, or after [`crate::Config::grace`]. The edge and its connections to sandboxes end
/// with the listener, so an edge is served once.
///
/// Cancel safety: no. A dropped call stops accepting at once, and cuts open connections.
///
/// # Errors
/// [`ServeError::Late`] when something did not end within [`crate::Config::reserve`],
/// [`ServeError::Threads`] when there are no threads to be had at the start.
pub async fn serve<S, B>(
    listener: TcpListener,
    edge: Arc<Edge>,
    api: S,
    stop: CancellationToken,
) -> Result<(), ServeError>
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let config = edge.config().clone();
    let clients = edge.clients().clone();
    let open = Gate::default();
    let room = Seats::new(config.max_connections);
    let refusals = Seats::new(MAX_REFUSALS);
    clients.spawn(debug_span!("sweep"), sweep(Arc::clone(&edge), clients.stop_token().clone()));

    let lanes = Lanes::start(config.lanes).map_err(ServeError::Threads)?;
    edge.settle();
    let mut acceptor = Acceptor::new(listener);
    while let Some((socket, peer)) = acceptor.next(&stop).await {
        if let Err(error) = prepare(&socket) {
            debug!(%peer, error = %observe::chain(&error), "client left at once");
            continue;
        }
        let span = debug_span!("client", %peer);
        let Some(pass) = ClientPass::new(&room, &open) else {
            refuse(socket, &refusals, &edge, span);
            continue;
        };
        let connection = Connection {
            pass: Arc::new(pass),
            edge: Arc::clone(&edge),
            api: api.clone(),
            stop: stop.clone(),
        };
        let tasks = clients.clone();
        let drive = move |socket, place| {
            connection.pass.settle(place);
            tasks.spawn(span, connection.drive(socket));
        };
        if let Err(error) = lanes.run(socket, drive).await {
            warn!(%peer, error = %observe::chain(&error), "client connection not served");
        }
    }
    drop(acceptor);

    info!(open = open.inside(), "listener stopped");
    if open.wait_empty(Budget::within(config.grace)).await.is_err() {
        info!(open = open.inside(), "connections are cut");
    }
    let budget = Budget::within(config.reserve);
    let closed = edge.close(budget).await;
    closed
        .and(lanes.close(budget).await)
        .map_err(|source| ServeError::Late { tasks: edge.running(), source })
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_TRIES)?;
    Ok(())
}

/// Says no, if there is room even for that.
fn refuse(socket: TcpStream, refusals: &Arc<Seats>, edge: &Edge, span: tracing::Span) {
    let Some(seat) = refusals.take() else { return };
    let (limit, stop) = (edge.config().max_connections, edge.clients().stop_token().clone());
    edge.clients().spawn(span, async move {
        let _seat = seat;
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = refuse::refuse(socket, limit) => {}
        }
    });
}

/// Closes unused connections to sandboxes from time to time, and at once when their other end leaves.
async fn sweep(edge: Arc<Edge>, stop: CancellationToken) {
    let max_age = edge.config().upstream_idle;
    let mut looks = tokio::time::interval((max_age / SWEEPS).max(Duration::from_millis(1)));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _at = looks.tick() => edge.close_idle(max_age),
            () = edge.left.notified() => edge.close_left(),
        }
    }
}

/// A connection as the listener gives it.
type Accepted = (TcpStream, SocketAddr);
