//! The other half of a connection: from the sandbox's own network to where it goes.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream as StdStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lifecycle::{Budget, Expired};
use model::{HostName, ProxyTls, SocksProxy};
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::decision::{OnlyPermitted, Rules, Target};
use crate::intercept::Roots;
use crate::outside::{self, Outside};
use crate::resolve::{LookupError, Resolver};
use crate::socks::{self, Destination, SocksError};

/// Names, addresses and proxies, all of it together.
const DIAL_LIMIT: Duration = Duration::from_secs(20);
/// One of several addresses may take this long.
const ADDRESS_LIMIT: Duration = Duration::from_secs(8);

/// Where a sandbox's sockets come from.
pub trait Sockets: fmt::Debug + Send + Sync {
    /// A new TCP socket, not blocking, in the sandbox's network, whose connections are not handed
    /// over to us again. Blocks for a fraction of a millisecond.
    ///
    /// # Errors
    /// What the kernel says.
    fn open(&self) -> io::Result<OwnedFd>;

    /// As [`Sockets::open`], for UDP.
    ///
    /// # Errors
    /// What the kernel says.
    fn open_for_packets(&self) -> io::Result<OwnedFd>;

    /// Where the program that made the connection `accepted` has connected to.
    ///
    /// # Errors
    /// What the kernel says.
    fn origin(&self, accepted: BorrowedFd<'_>) -> io::Result<SocketAddrV4>;
}

/// A connection that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("no sandbox reaches {0}")]
    Closed(Ipv4Addr),
    #[error("the network rules of this sandbox allow none of the addresses of {0}")]
    NotPermitted(HostName),
    #[error("{to} cannot be reached")]
    Connect { to: SocketAddrV4, source: io::Error },
    #[error("no socket can be made now")]
    Socket(#[source] io::Error),
    #[error(transparent)]
    Socks(#[from] SocksError),
    #[error("no TLS with the egress proxy as {name}")]
    Tls { name: String, source: io::Error },
    #[error("the node has not read yet which certificates it believes")]
    NoRoots,
    #[error("the connection takes too long")]
    Expired(#[from] Expired),
}

/// Makes connections for one sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    pub(crate) sockets: Arc<dyn Sockets>,
    pub(crate) resolver: Arc<Resolver>,
    /// By which a proxy is believed that comes with no certificates.
    pub(crate) roots: Arc<OnceLock<Roots>>,
}

impl Dialer {
    /// Connects to `target`, through the proxy if the rules have one.
    pub(crate) async fn dial(
        &self,
        rules: Rules<'_>,
        target: &Target,
    ) -> Result<Outside, DialError> {
        let connected = async {
            match &rules.egress.proxy {
                Some(proxy) => Box::pin(self.through(proxy, rules, target)).await,
                None => {
                    let addresses = self.addresses(rules, target).await?;
                    self.connect(&addresses).await.map(Outside::Left)
                }
            }
        };
        Budget::within(DIAL_LIMIT).run("connection to the outside", connected).await?
    }

    async fn through(
        &self,
        proxy: &SocksProxy,
        rules: Rules<'_>,
        target: &Target,
    ) -> Result<Outside, DialError> {
        let destination = match target {
            Target::Name { name, port, only_permitted: OnlyPermitted(false) } => {
                Destination::Name(name.clone(), *port)
            }
            _ => match self.addresses(rules, target).await?.first() {
                Some(address) => Destination::Address(*address),
                None => return Err(no_address()),
            },
        };
        let found = match (proxy.address(), proxy.name()) {
            (Some(address), _) => vec![address],
            (None, Some(name)) => self.resolver.lookup(name).await?,
            (None, None) => Vec::new(),
        };
        let at = open_ones(rules, &found)?;
        let at: Vec<_> = at.map(|ip| SocketAddrV4::new(ip, proxy.port())).collect();
        let stream = self.connect(&at).await?;
        let mut stream = match proxy.tls() {
            None => Outside::Left(stream),
            Some(tls) => self.in_tls(proxy, tls, stream).await?,
        };
        socks::connect(&mut stream, proxy.credentials(), &destination).await?;
        Ok(stream)
    }

    /// Nothing is said on `stream` before `proxy` has shown who it is.
    async fn in_tls(
        &self,
        proxy: &SocksProxy,
        tls: &ProxyTls,
        stream: TcpStream,
    ) -> Result<Outside, DialError> {
        let failed = |source| DialError::Tls { name: proxy.server_name(), source };
        let roots = match tls.authorities() {
            // Read for each connection: next to the handshake that is nothing.
            Some(text) => Roots::of_pem(text.as_bytes()).map_err(failed)?,
            None => self.roots.get().cloned().ok_or(DialError::NoRoots)?,
        };
        let config = roots.client().map_err(|error| failed(io::Error::other(error)))?;
        let name = ServerName::try_from(proxy.server_name());
        let name = name.map_err(|odd| failed(io::Error::other(odd)))?;
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        Ok(outside::in_tls(handshake.map_err(failed)?))
    }

    /// The addresses behind `target` to which a connection may go.
    async fn addresses(
        &self,
        rules: Rules<'_>,
        target: &Target,
    ) -> Result<Vec<SocketAddrV4>, DialError> {
        let (name, port, OnlyPermitted(only)) = match target {
            Target::Address(address) => return Ok(vec![*address]),
            Target::Name { name, port, only_permitted } => (name, *port, *only_permitted),
        };
        let found = self.resolver.lookup(name).await?;
        let open = open_ones(rules, &found)?;
        let allowed = open.filter(|address| !only || rules.permits(*address));
        let allowed: Vec<_> = allowed.map(|address| SocketAddrV4::new(address, port)).collect();
        if allowed.is_empty() {
            return Err(DialError::NotPermitted(name.clone()));
        }
        Ok(allowed)
    }

    /// Connects to the first of `addresses` that answers.
    async fn connect(&self, addresses: &[SocketAddrV4]) -> Result<TcpStream, DialError> {
        let mut last = no_address();
        for to in addresses {
            let connecting = self.socket().await?.connect(SocketAddr::from(*to));
            match Budget::within(ADDRESS_LIMIT).run("connect", connecting).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(source)) => last = DialError::Connect { to: *to, source },
                Err(expired) => last = expired.into(),
            }
        }
        Err(last)
    }

    pub(crate) async fn socket(&self) -> Result<TcpSocket, DialError> {
        let opened = self.opened(|sockets| sockets.open()).await;
        let socket =
            TcpSocket::from_std_stream(StdStream::from(opened.map_err(DialError::Socket)?));
        socket.set_nodelay(true).map_err(DialError::Socket)?;
        Ok(socket)
    }

    /// What `open` opens, which blocks.
    pub(crate) async fn opened(
        &self,
        open: fn(&dyn Sockets) -> io::Result<OwnedFd>,
    ) -> io::Result<OwnedFd> {
        let sockets = Arc::clone(&self.sockets);
        let opened = tokio::task::spawn_blocking(move || open(&*sockets)).await;
        opened.map_err(io::Error::other).and_then(|opened| opened)
    }
}

/// Those of `found` that are not closed to all sandboxes: a name may be anybody's, and lead
/// anywhere.
fn open_ones<'a>(
    rules: Rules<'a>,
    found: &'a [Ipv4Addr],
) -> Result<impl Iterator<Item = Ipv4Addr> + 'a, DialError> {
    let is_open = move |address: &Ipv4Addr| !rules.is_closed(*address);
    match found.iter().copied().find(|address| rules.is_closed(*address)) {
        Some(closed) if !found.iter().any(is_open) => Err(DialError::Closed(closed)),
        _ => Ok(found.iter().copied().filter(is_open)),
    }
}

fn no_address() -> DialError {
    DialError::Socket(io::Error::other("there is no address"))
}
