//! The listener of one sandbox's network, and what is held open through it.

use std::io;
use std::net::{SocketAddrV4, TcpListener as StdListener, UdpSocket as StdPackets};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lifecycle::{Budget, Expired, Release, TaskGroup};
use model::{ALWAYS_DENIED, Egress, Ipv4Range};
use observe::metrics::EGRESS;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::decision::Rules;
use crate::dial::{Dialer, Sockets};
use crate::line::Line;
use crate::resolve::{PORT, Resolver};
use crate::{Interceptor, Refusal, Roots, names};

/// Connections of one sandbox that are held at a time.
pub const CONNECTIONS_MAX: usize = 512;
/// Connections of all sandboxes of a node: each is two descriptors of the daemon.
pub const NODE_CONNECTIONS_MAX: usize = 8192;
/// Of them, those whose requests of HTTP/2 are given headers: each may hold some MiB of what its ends
/// have not read yet. Beyond that HTTP/1.1 is spoken where a program offers it.
pub(crate) const H2_MAX: usize = 64;
const NODE_H2_MAX: usize = 1024;
/// Questions of one sandbox to its name servers that wait for an answer at a time. Beyond that they
/// fail at once.
pub const QUESTIONS_MAX: usize = 64;
/// Of all sandboxes of a node: each is a descriptor of the daemon for some seconds at most.
pub const NODE_QUESTIONS_MAX: usize = 2048;
/// After something could not be taken in, for want of descriptors most likely.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the sandboxes of a node have in common here.
#[derive(Debug)]
pub struct Node {
    resolver: Arc<Resolver>,
    room: Room,
    closed: Vec<Ipv4Range>,
    /// Where name servers of sandboxes are asked.
    names_port: u16,
    interceptor: OnceLock<Arc<Interceptor>>,
    roots: Arc<OnceLock<Roots>>,
}

impl Node {
    #[must_use]
    pub fn new(resolver: Resolver) -> Self {
        Self::closed_to(resolver, ALWAYS_DENIED.to_vec(), PORT)
    }

    pub(crate) fn closed_to(resolver: Resolver, closed: Vec<Ipv4Range>, names_port: u16) -> Self {
        let room = Room::new(NODE_CONNECTIONS_MAX, NODE_H2_MAX, NODE_QUESTIONS_MAX);
        let (resolver, interceptor) = (Arc::new(resolver), OnceLock::new());
        Self { resolver, room, closed, names_port, interceptor, roots: Arc::default() }
    }

    /// Has proxies that speak TLS be believed by `roots`, if they come with no certificates. Before
    /// that nothing goes through such a proxy. Only the first call counts.
    pub fn believe(&self, roots: Roots) {
        drop(self.roots.set(roots));
    }

    /// Has requests of HTTPS be given headers. Before that there must be no rules which ask for it:
    /// such requests are refused. Only the first call counts.
    pub fn intercept(&self, interceptor: Arc<Interceptor>) {
        drop(self.interceptor.set(interceptor));
    }
}

/// How many more connections and questions there may be.
#[derive(Debug)]
struct Room {
    connections: Arc<Semaphore>,
    h2: Arc<Semaphore>,
    questions: Arc<Semaphore>,
}

impl Room {
    fn new(connections: usize, h2: usize, questions: usize) -> Self {
        let [connections, h2, questions] =
            [connections, h2, questions].map(|max| Arc::new(Semaphore::new(max)));
        Self { connections, h2, questions }
    }
}

/// The right to hold something, of the sandbox and of the node.
pub(crate) type Passes = [OwnedSemaphorePermit; 2];

fn enter(rooms: [&Arc<Semaphore>; 2]) -> Result<Passes, Refusal> {
    let [sandbox, node] = rooms.map(|room| Arc::clone(room).try_acquire_owned());
    match (sandbox, node) {
        (Ok(sandbox), Ok(node)) => Ok([sandbox, node]),
        _ => Err(Refusal::TooMany),
    }
}

/// How a sandbox's way out was used, for the log.
#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    refused: AtomicU64,
}

/// Where a sandbox's network hands over what its programs begin: sockets in it.
#[derive(Debug)]
pub struct Inlets {
    /// Listens for connections.
    pub connections: OwnedFd,
    /// Takes in packets to name servers.
    pub questions: OwnedFd,
}

/// Has what a sandbox's network hands over go where its rules say, until it is closed.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    name: String,
}

/// The tasks of a proxy were not over in time.
#[derive(Debug, thiserror::Error)]
#[error("connections to the outside are not closed")]
pub struct Closing(#[from] Expired);

impl Proxy {
    /// Serves what comes in by `inlets`, of the network of the sandbox `name`, by `egress`: the name
    /// servers in that are those which are asked through here, for the names that are allowed.
    ///
    /// # Errors
    /// When a socket cannot be waited for.
    pub fn start(
        name: &str,
        inlets: Inlets,
        sockets: Arc<dyn Sockets>,
        node: Arc<Node>,
        egress: Egress,
    ) -> io::Result<Self> {
        let listener = StdListener::from(inlets.connections);
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let questions = StdPackets::from(inlets.questions);
        questions.set_nonblocking(true)?;
        let questions = UdpSocket::from_std(questions)?;
        let (resolver, roots) = (Arc::clone(&node.resolver), Arc::clone(&node.roots));
        let dialer = Dialer { sockets, resolver, roots };
        let tasks = TaskGroup::default();
        let shared = Arc::new(Shared {
            node,
            dialer,
            egress: watch::Sender::new(Arc::new(egress)),
            room: Room::new(CONNECTIONS_MAX, H2_MAX, QUESTIONS_MAX),
            counts: Counts::default(),
            tasks: tasks.clone(),
        });
        let span = tracing::info_span!("egress", lifecycle = name);
        tasks.spawn(span.clone(), accept(Arc::clone(&shared), listener));
        tasks.spawn(span, names::serve(Arc::clone(&shared), questions));
        Ok(Self { shared, name: name.to_owned() })
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
        self.shared.tasks.close(budget).await?;
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
    pub(crate) egress: watch::Sender<Arc<Egress>>,
    room: Room,
    counts: Counts,
    /// Everything that has a socket in the sandbox's network.
    pub(crate) tasks: TaskGroup,
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

    fn enter(&self) -> Result<Passes, Refusal> {
        enter([&self.room.connections, &self.node.room.connections])
    }

    /// Whether a connection to `origin` is to ask for names.
    pub(crate) fn is_name_server(&self, origin: SocketAddrV4) -> bool {
        origin.port() == self.node.names_port && self.name_servers().contains(&origin)
    }

    /// Where those are asked that the rules have.
    pub(crate) fn name_servers(&self) -> Vec<SocketAddrV4> {
        let servers = self.egress().name_servers.clone().unwrap_or_default();
        servers.into_iter().map(|server| SocketAddrV4::new(server, self.node.names_port)).collect()
    }

    /// The right to ask one question.
    pub(crate) fn enter_question(&self) -> Result<Passes, Refusal> {
        enter([&self.room.questions, &self.node.room.questions])
    }

    /// The right to speak HTTP/2 with both ends of a connection.
    pub(crate) fn enter_h2(&self) -> Option<Passes> {
        enter([&self.room.h2, &self.node.room.h2]).ok()
    }

    pub(crate) fn interceptor(&self) -> Result<Arc<Interceptor>, Refusal> {
        let interceptor = self.node.interceptor.get().cloned();
        interceptor.ok_or(Refusal::Unready("the node has no certificate authority yet"))
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let stop = shared.tasks.stop_token().clone();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _program)) => take(&shared, stream),
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

fn take(shared: &Arc<Shared>, stream: TcpStream) {
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
    let (tasks, shared) = (&shared.tasks, Arc::clone(shared));
    let stop = tasks.stop_token().clone();
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
