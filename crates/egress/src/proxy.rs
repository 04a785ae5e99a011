//! The listener of one sandbox's network, and what is held open through it.

use std::io;
use std::net::{SocketAddrV4, TcpListener as StdListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use lifecycle::{Budget, Expired, Release, TaskGroup};
use model::{ALWAYS_DENIED, Egress, HostName, Ipv4Range};
use observe::metrics::EGRESS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::decision::{Look, Rules, Target};
use crate::dial::{Dialer, Sockets};
use crate::line::{Cut, Line};
use crate::opening::{OPENING_MAX, Opening};
use crate::resolve::Resolver;
use crate::{Refusal, http};

/// Connections of one sandbox that are held at a time.
pub const CONNECTIONS_MAX: usize = 512;
/// Connections of all sandboxes of a node: each is two descriptors of the daemon.
pub const NODE_CONNECTIONS_MAX: usize = 8192;
/// A connection that only its name can let through has this long to tell it.
const OPENING_LIMIT: Duration = Duration::from_secs(10);
/// One that goes by its address if it has no name is asked for that long: where the server speaks
/// first, there is none to come.
const OPENING_MOMENT: Duration = Duration::from_millis(300);
/// After a connection could not be taken in, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the sandboxes of a node have in common here.
#[derive(Debug)]
pub struct Node {
    resolver: Arc<Resolver>,
    room: Arc<Semaphore>,
    closed: Vec<Ipv4Range>,
}

impl Node {
    #[must_use]
    pub fn new(resolver: Resolver) -> Self {
        Self::closed_to(resolver, ALWAYS_DENIED.to_vec())
    }

    pub(crate) fn closed_to(resolver: Resolver, closed: Vec<Ipv4Range>) -> Self {
        let room = Arc::new(Semaphore::new(NODE_CONNECTIONS_MAX));
        Self { resolver: Arc::new(resolver), room, closed }
    }
}

/// How a sandbox's way out was used, for the log.
#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    refused: AtomicU64,
}

/// Has what a sandbox's network hands over go where its rules say, until it is closed.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    tasks: TaskGroup,
    name: String,
}

/// The tasks of a proxy were not over in time.
#[derive(Debug, thiserror::Error)]
#[error("connections to the outside are not closed")]
pub struct Closing(#[from] Expired);

impl Proxy {
    /// Serves `listener`, a listening socket in the network of the sandbox `name`, by `egress`.
    ///
    /// # Errors
    /// When the socket cannot be waited for.
    pub fn start(
        name: &str,
        listener: OwnedFd,
        sockets: Arc<dyn Sockets>,
        node: Arc<Node>,
        egress: Egress,
    ) -> io::Result<Self> {
        let listener = StdListener::from(listener);
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let dialer = Dialer { sockets, resolver: Arc::clone(&node.resolver) };
        let shared = Arc::new(Shared {
            node,
            dialer,
            egress: watch::Sender::new(Arc::new(egress)),
            room: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            counts: Counts::default(),
        });
        let tasks = TaskGroup::default();
        let span = tracing::info_span!("egress", lifecycle = name);
        let accept = accept(Arc::clone(&shared), listener, tasks.clone());
        tasks.spawn(span, accept);
        Ok(Self { shared, tasks, name: name.to_owned() })
    }

    /// Has other rules be in force: for what comes, and for what is open. A connection that they
    /// would not have let through to where it goes is cut off.
    pub fn set_rules(&self, egress: Egress) {
        drop(self.shared.egress.send_replace(Arc::new(egress)));
    }
}

impl Release for Proxy {
    const KIND: &'static str = "egress proxy";
    type Error = Closing;

    fn name(&self) -> &str {
        &self.name
    }

    /// Everything that is open is cut off: it would keep the sandbox's network.
    async fn release(&self, budget: Budget) -> Result<(), Closing> {
        self.tasks.close(budget).await?;
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { connections, refused } = &self.shared.counts;
        let (connections, refused) = (count(connections), count(refused));
        tracing::debug!(lifecycle = self.name, connections, refused, "a way out is closed");
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    node: Arc<Node>,
    pub(crate) dialer: Dialer,
    egress: watch::Sender<Arc<Egress>>,
    room: Arc<Semaphore>,
    counts: Counts,
}

impl Shared {
    pub(crate) fn egress(&self) -> Arc<Egress> {
        Arc::clone(&self.egress.borrow())
    }

    pub(crate) fn rules<'a>(&'a self, egress: &'a Egress) -> Rules<'a> {
        Rules { egress, closed: &self.node.closed }
    }

    /// Notes that something was not let through.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        EGRESS.count([refusal.word()]);
        tracing::debug!(%refusal, "a connection to the outside is refused");
    }

    fn enter(&self) -> Result<[OwnedSemaphorePermit; 2], Refusal> {
        let enter = |room: &Arc<Semaphore>| {
            Arc::clone(room).try_acquire_owned().map_err(|_full| Refusal::TooMany)
        };
        Ok([enter(&self.room)?, enter(&self.node.room)?])
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, tasks: TaskGroup) {
    let stop = tasks.stop_token().clone();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _program)) => take(&shared, stream, &tasks),
            Err(error) => {
                tracing::warn!(%error, "a connection to the outside cannot be taken in");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

fn take(shared: &Arc<Shared>, stream: TcpStream, tasks: &TaskGroup) {
    shared.counts.connections.fetch_add(1, Ordering::Relaxed);
    let line = Line::new(stream);
    let cut = line.cut();
    let passes = match shared.enter() {
        Ok(passes) => passes,
        Err(refusal) => {
            shared.refused(&refusal);
            return cut.reset_on_drop();
        }
    };
    let (shared, stop) = (Arc::clone(shared), tasks.stop_token().clone());
    let work = async move {
        let carried = Box::pin(shared.carry(line, cut.clone(), &stop)).await;
        match carried {
            Ok(()) => EGRESS.count(["ok"]),
            Err(refusal) => {
                shared.refused(&refusal);
                cut.reset_on_drop();
            }
        }
        drop(passes);
    };
    tasks.spawn(tracing::Span::current(), work);
}

/// What a connection is allowed as.
#[derive(Debug, Clone)]
pub(crate) struct Allowed {
    pub(crate) origin: SocketAddrV4,
    pub(crate) name: Option<HostName>,
    pub(crate) target: Target,
    pub(crate) egress: Arc<Egress>,
}

impl Allowed {
    /// Whether it would be the same by other rules.
    fn holds_by(&self, now: Rules<'_>) -> bool {
        let same_way = now.egress.proxy == self.egress.proxy;
        let same_look = now.egress.headers.is_empty() == self.egress.headers.is_empty();
        same_way
            && same_look
            && now.decide(self.origin, self.name.as_ref()).is_ok_and(|target| target == self.target)
    }
}

impl Shared {
    /// Carries one connection from its beginning to its end.
    async fn carry(
        self: &Arc<Self>,
        line: Line,
        cut: Cut,
        stop: &CancellationToken,
    ) -> Result<(), Refusal> {
        let origin = self.dialer.sockets.origin(line.stream().as_fd());
        let origin = origin.map_err(|_error| Refusal::Request("its destination is not known"))?;
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                cut.reset_on_drop();
                Ok(())
            }
            carried = self.carry_on(line, cut.clone(), origin) => carried,
        }
    }

    async fn carry_on(
        self: &Arc<Self>,
        mut line: Line,
        cut: Cut,
        origin: SocketAddrV4,
    ) -> Result<(), Refusal> {
        let egress = self.egress();
        let rules = self.rules(&egress);
        let (opening, begun) = read_opening(&mut line, rules.look(origin)).await;
        if matches!(opening, Opening::Http(_)) && rules.look_at_each(origin) {
            line.read_again(begun.freeze());
            return http::serve(Arc::clone(self), line, cut, origin).await;
        }
        let name = opening.name();
        let target = rules.decide(origin, name)?;
        let mut server = self.dialer.dial(rules, &target).await?;
        let allowed = Allowed { origin, name: name.cloned(), target, egress: Arc::clone(&egress) };
        let both = async {
            server.write_all(&begun).await?;
            tokio::io::copy_bidirectional(&mut line, &mut server).await
        };
        tokio::select! {
            biased;
            () = self.wait_for_change(|| Some(allowed.clone())) => cut.reset_on_drop(),
            ended = both => if let Err(error) = ended {
                // One end has broken it off: so is the other told.
                tracing::trace!(%error, "a connection to the outside is broken");
                cut.reset_on_drop();
            },
        }
        Ok(())
    }

    /// Waits until the rules are such that what is `allowed` then would not be any more.
    pub(crate) async fn wait_for_change(&self, allowed: impl Fn() -> Option<Allowed>) {
        let mut egress = self.egress.subscribe();
        loop {
            let now = Arc::clone(&egress.borrow_and_update());
            if allowed().is_some_and(|allowed| !allowed.holds_by(self.rules(&now))) {
                return;
            }
            if egress.changed().await.is_err() {
                // Nobody changes them any more.
                return std::future::pending().await;
            }
        }
    }
}

/// Reads as much of the beginning of `line` as there is to know about it.
async fn read_opening(line: &mut Line, look: Look) -> (Opening, BytesMut) {
    let mut begun = BytesMut::new();
    let limit = match look {
        Look::No => return (Opening::Other, begun),
        Look::Shortly => OPENING_MOMENT,
        Look::Needed => OPENING_LIMIT,
    };
    let read = async {
        loop {
            let room = OPENING_MAX.saturating_sub(begun.len());
            let len = (&mut *line)
                .take(u64::try_from(room).unwrap_or_default())
                .read_buf(&mut begun)
                .await;
            if let Some(opening) = Opening::read(&begun) {
                return opening;
            }
            if !len.is_ok_and(|len| len > 0) {
                return Opening::Other;
            }
        }
    };
    let opening = Budget::within(limit).run("the beginning of a connection", read).await;
    (opening.unwrap_or(Opening::Other), begun)
}
