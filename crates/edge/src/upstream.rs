//! One run of a sandbox as the edge sees it: its address, its connections, its end.

mod bare;
mod bell;
mod dial;
mod pool;
mod sender;
mod socket;
mod tls;
mod transport;

use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use e2b_wire::host_name::ENVD_PORT;
use lifecycle::{Budget, TaskGroup};
use node_wire::{Ingress, Route};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, debug_span};

pub(crate) use self::bare::Bare;
use self::bell::Bell;
pub(crate) use self::dial::DialError;
use self::pool::{Left, Pool};
use self::sender::Multiplexer;
pub(crate) use self::sender::{Port, Protocol, Sender};
pub(crate) use self::socket::Socket;
pub(crate) use self::transport::{Leftover, Transport};
use crate::Config;
use crate::quiet::Quiet;
use crate::seats::{Seat, Seats};
use crate::streams::Streams;

/// Bytes a connection may hold between its two ends.
pub(crate) const BUFFER_BYTES: usize = 64 * 1024;
/// All headers of one message of HTTP/2; HTTP/1 has the connection's buffer for them.
pub(crate) const H2_HEADER_BYTES: u32 = 64 * 1024;

/// A port that is open takes a connection long before this.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Everything the edge has of one lifecycle. Ended with it: no connection of it is ever used for
/// another, although the address may be.
#[derive(Debug)]
pub(crate) struct Upstream {
    route: Route,
    ingress: Ingress,
    exchanges: Arc<Seats>,
    /// Those that take more than a socket.
    pool: Pool<Sender>,
    /// HTTP/1 without TLS, whoever speaks it next: a server may serve one connection at a time.
    bare: Pool<Bare>,
    left: Arc<Left>,
    fresh: Duration,
    dial_limit: Duration,
    tasks: TaskGroup,
    stop: CancellationToken,
}

/// The right to one exchange with one sandbox.
#[derive(Debug)]
pub(crate) struct Passes {
    _edge: Seat,
    _sandbox: Seat,
}

/// A connection on which an exchange is under way. Dropping it ends the connection, unless a
/// tunnel has taken that over.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) port: Port,
    pub(crate) sender: Sender,
    pub(crate) passes: Passes,
}

/// Which limit an exchange would break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Edge,
    Sandbox,
}

impl Upstream {
    /// `idle` has one seat for every unused connection the edge may keep. `sweep` is called when
    /// [`Upstream::close_left`] has something to do.
    pub(crate) fn new(
        route: Route,
        ingress: Ingress,
        config: &Config,
        idle: Arc<Seats>,
        sweep: Arc<Notify>,
        tasks: TaskGroup,
    ) -> Self {
        let left = Arc::new(Left::new(sweep));
        let per_port = config.max_idle_per_port;
        Self {
            route,
            ingress,
            exchanges: Seats::new(config.max_exchanges_per_sandbox),
            pool: Pool::new(per_port, Arc::clone(&idle)),
            bare: Pool::new(per_port, idle),
            left,
            fresh: config.fresh,
            dial_limit: config.dial_limit,
            stop: tasks.stop_token().child_token(),
            tasks,
        }
    }

    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    pub(crate) fn ingress(&self) -> &Ingress {
        &self.ingress
    }

    /// The port `number`, where `protocol` is to be spoken.
    pub(crate) fn port(&self, number: NonZero<u16>, protocol: Protocol) -> Port {
        // The guest agent is ours, and serves plain HTTP.
        let tls = number != ENVD_PORT && self.ingress.https_ports.contains(&number);
        Port { number, protocol, tls }
    }

    /// Ends every connection; later ones are refused.
    pub(crate) fn end(&self) {
        self.stop.cancel();
        self.pool.close();
        self.bare.close();
    }

    /// Cancelled by [`Upstream::end`], and when the edge ends.
    pub(crate) fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(crate) fn enter(&self, edge: &Arc<Seats>) -> Result<Passes, Full> {
        let own = self.exchanges.take().ok_or(Full::Sandbox)?;
        let all = edge.take().ok_or(Full::Edge)?;
        Ok(Passes { _edge: all, _sandbox: own })
    }

    /// A connection kept from an earlier exchange; only a fresh one, unless what it is for can be
    /// sent again.
    ///
    /// Cancel safety: the connection is closed by a dropped call.
    pub(crate) async fn kept(&self, port: Port, repeatable: bool) -> Option<Sender> {
        if !port.is_bare() {
            return self.pool.take(port, if repeatable { Duration::MAX } else { self.fresh });
        }
        let socket = Socket::Plain(self.kept_bare(port, repeatable)?.into_socket());
        self.speak(socket).await.ok()
    }

    /// The same as a socket, of a port that has no more than that.
    pub(crate) fn kept_bare(&self, port: Port, repeatable: bool) -> Option<Bare> {
        self.bare.take(port, if repeatable { Duration::MAX } else { self.fresh })
    }

    /// Keeps a connection for the next exchange; to be called when this one is complete.
    pub(crate) fn keep_bare(&self, port: Port, bare: Bare) {
        self.bare.put(port, bare);
    }

    /// The same, of whatever has the socket.
    fn keep(&self, port: Port, sender: Sender) {
        if !port.is_bare() {
            self.pool.put(port, sender);
        } else if let Some(socket) = sender.into_socket() {
            self.keep_bare(port, self.bare(socket));
        }
    }

    fn bare(&self, socket: TcpStream) -> Bare {
        Bare::new(socket, self.stop.clone(), Arc::clone(&self.left))
    }

    /// Speaks HTTP/1 on `socket`.
    async fn speak(&self, socket: Socket) -> hyper::Result<Sender> {
        Sender::http1(socket, Bell::new(Arc::clone(&self.left)), self.stop.clone()).await
    }

    /// A new connection for plain requests, if that is to be had at once.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn connect_bare(&self, port: Port) -> Option<Bare> {
        let addr = SocketAddr::new(self.route.addr, port.number.get());
        let socket = dial::dial_once(addr, Budget::within(AT_ONCE)).await?;
        Some(self.bare(socket))
    }

    /// Closes connections not used for `max_age`.
    pub(crate) fn close_idle(&self, max_age: Duration) {
        // First: what happens from here on is seen next time.
        self.left.take();
        self.pool.close_idle(max_age);
        self.bare.close_idle(max_age);
    }

    /// Closes unused connections whose other end has left.
    pub(crate) fn close_left(&self) {
        if self.left.take() {
            self.pool.close_idle(Duration::MAX);
            self.bare.close_idle(Duration::MAX);
        }
    }

    /// Starts a task that must end when [`Upstream::stop_token`] is cancelled.
    pub(crate) fn spawn(&self, what: &str, task: impl Future<Output = ()> + Send + 'static) {
        let Route { sandbox, lifecycle, .. } = &self.route;
        let span = debug_span!("upstream", what, sandbox.id = %sandbox, lifecycle.id = %lifecycle);
        self.tasks.spawn(span, task);
    }

    /// A new connection.
    ///
    /// Cancel safety: yes.
    pub(crate) async fn connect(&self, port: Port) -> Result<Sender, DialError> {
        let addr = SocketAddr::new(self.route.addr, port.number.get());
        let budget = Budget::within(self.dial_limit);
        let socket = dial::dial(addr, budget).await?;
        let socket = match port.tls {
            false => Socket::Plain(socket),
            true => Socket::Tls(Box::new(dial::shake_hands(socket, port.protocol, budget).await?)),
        };
        match port.protocol {
            Protocol::Http1 => self.speak(socket).await.map_err(DialError::Handshake),
            Protocol::Http2 => {
                let streams = Streams::new(self.tasks.clone(), self.stop.clone());
                let opened = Sender::http2(socket, streams).await;
                let (sender, connection) = opened.map_err(DialError::Handshake)?;
                self.spawn_multiplexer(connection);
                Ok(sender)
            }
        }
    }

    fn spawn_multiplexer(&self, connection: Multiplexer) {
        let stop = Quiet::new(self.stop.clone().cancelled_owned());
        self.spawn("connection", async move {
            tokio::select! {
                biased;
                () = stop => {}
                ended = connection => {
                    if let Err(error) = ended {
                        debug!(error = %observe::chain(&error), "connection to sandbox ended");
                    }
                }
            }
        });
    }
}

impl Lease {
    /// Keeps the connection for the next exchange; to be called when this one is complete.
    pub(crate) fn give_back(self) {
        self.upstream.keep(self.port, self.sender);
    }
}
