//! A proxy, the programs that connect through it, a server and a name server.

use std::io;
use std::net::{
    Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener as StdListener, UdpSocket as StdPackets,
};
use std::ops::{Deref, DerefMut};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use lifecycle::{Budget, Release, TaskGroup};
use model::{Egress, Ipv4Range};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::{Inlets, Interceptor, Node, Proxy, Resolver, Sockets};

pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// Sockets of this network, and connections that were for this address.
#[derive(Debug)]
pub(super) struct Here(pub(super) SocketAddrV4);

fn open(kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::INET, kind, flags, None)?)
}

impl Sockets for Here {
    fn open(&self) -> io::Result<OwnedFd> {
        open(SocketType::STREAM)
    }

    fn open_for_packets(&self) -> io::Result<OwnedFd> {
        open(SocketType::DGRAM)
    }

    fn origin(&self, _accepted: BorrowedFd<'_>) -> io::Result<SocketAddrV4> {
        Ok(self.0)
    }
}

pub(super) struct World {
    pub(super) proxy: Proxy,
    pub(super) node: Arc<Node>,
    at: SocketAddr,
    server: TcpListener,
    pub(super) tasks: TaskGroup,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Program<S = TcpStream>(pub(super) S);

impl World {
    pub(super) async fn new(egress: Egress) -> Self {
        Self::closed_to(egress, Vec::new()).await
    }

    pub(super) async fn closed_to(egress: Egress, closed: Vec<Ipv4Range>) -> Self {
        Self::with(egress, closed, Ipv4Addr::new(203, 0, 113, 9), None).await
    }

    /// What goes by its address gets to the server.
    pub(super) async fn by_address(egress: Egress) -> Self {
        Self::with(egress, Vec::new(), Ipv4Addr::LOCALHOST, None).await
    }

    /// `*.com` is here, but for `gone.com`; programs connect to `origin`.
    pub(super) async fn with(
        egress: Egress,
        closed: Vec<Ipv4Range>,
        origin: Ipv4Addr,
        interceptor: Option<Arc<Interceptor>>,
    ) -> Self {
        let tasks = TaskGroup::default();
        let dns = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = Resolver::at(dns.local_addr().unwrap());
        let stop = tasks.stop_token().clone();
        tasks.spawn(tracing::Span::none(), async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = answer_names(&dns) => {}
            }
        });
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let here = Arc::new(Here(SocketAddrV4::new(origin, port)));
        let (inlets, [at, _questions]) = inlets();
        let node = Arc::new(Node::closed_to(resolver, closed, 53));
        interceptor.into_iter().for_each(|interceptor| node.intercept(interceptor));
        let proxy = Proxy::start("l1", inlets, here, Arc::clone(&node), egress).unwrap();
        Self { proxy, node, at, server, tasks }
    }

    pub(super) async fn connect(&self) -> Program {
        Program(TcpStream::connect(self.at).await.unwrap())
    }

    pub(super) fn server_address(&self) -> SocketAddr {
        self.server.local_addr().unwrap()
    }

    /// The next that has come to the server.
    pub(super) async fn accept(&self) -> Program {
        let accepted = Budget::within(LIMIT).run("accept", self.server.accept()).await;
        Program(accepted.unwrap().unwrap().0)
    }

    pub(super) fn nobody_came(&self) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        self.server.poll_accept(&mut cx).is_pending()
    }

    pub(super) async fn close(self) {
        self.proxy.release(Budget::within(LIMIT)).await.unwrap();
        self.tasks.close(Budget::within(LIMIT)).await.unwrap();
    }
}

/// Where a proxy may take in connections and questions, and where that is.
pub(super) fn inlets() -> (Inlets, [SocketAddr; 2]) {
    let connections = StdListener::bind("127.0.0.1:0").unwrap();
    let questions = StdPackets::bind("127.0.0.1:0").unwrap();
    let at = [connections.local_addr().unwrap(), questions.local_addr().unwrap()];
    (Inlets { connections: connections.into(), questions: questions.into() }, at)
}

async fn answer_names(dns: &UdpSocket) {
    let mut packet = [0; 512];
    while let Ok((len, from)) = dns.recv_from(&mut packet).await {
        let mut answer = packet[..len].to_vec();
        let is_here = !answer.windows(4).any(|part| part == b"gone");
        answer[2..4].copy_from_slice(&[0x81, 0x80]);
        answer[7] = u8::from(is_here);
        if is_here {
            answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
        }
        dns.send_to(&answer, from).await.unwrap();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Program<S> {
    /// Reads the lines of a request or an answer.
    pub(super) async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = Budget::within(LIMIT).run("head", self.0.read_u8()).await;
            head.push(byte.unwrap().unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// Answers a request, which it returns.
    pub(super) async fn answer(&mut self) -> String {
        let head = self.head().await;
        self.0.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        head
    }

    pub(super) async fn try_read_all(&mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        let read = Budget::within(LIMIT).run("the end", self.0.read_to_end(&mut all)).await;
        read.unwrap().map(|_len| all)
    }
}

impl<S> Deref for Program<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.0
    }
}

impl<S> DerefMut for Program<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.0
    }
}

/// Everything up to the end.
pub(super) async fn read_all<S: AsyncRead + AsyncWrite + Unpin>(
    program: &mut Program<S>,
) -> Vec<u8> {
    program.try_read_all().await.unwrap()
}
