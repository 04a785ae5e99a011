//! The sockets clients connect to, and where they come from: the service before this one, the
//! service manager that kept them meanwhile, or the system.
//!
//! A socket that is passed on keeps its queue: who connects while one service ends and the next one
//! begins waits, and is not refused.

pub(crate) mod handover;
mod passing;
pub(crate) mod same_process;
pub(crate) mod store;

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::Context;

use self::handover::Asker;

/// What a service listens on.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) api: TcpListener,
    /// The node's own, if it has one.
    pub(crate) node: Option<TcpListener>,
}

/// What the sockets are called wherever they are passed on.
const API: &str = "cofferdam-api";
const NODE: &str = "cofferdam-node";
/// A connection and no listener: of who waits to hear that the next program serves.
const ASKER: &str = "cofferdam-asker";

/// Takes what was passed on to this process: by the program before it in the same process, or by the
/// service manager.
///
/// To be called once, before other descriptors are opened or programs started.
///
/// # Errors
/// Descriptors that the environment names are not there.
pub(crate) fn take(env: &[(OsString, OsString)]) -> std::io::Result<Passed> {
    // What the manager passed on, too, was for the first of the programs.
    match same_process::take(env)? {
        Some(passed) => Ok(passed),
        None => store::take(env),
    }
}

/// Sockets that were passed on, by name.
#[derive(Debug, Default)]
pub(crate) struct Passed(Vec<(String, OwnedFd)>);

impl Sockets {
    /// Takes what was `passed` on if it listens where it should, and makes what is missing.
    ///
    /// To be called before anything is changed on the host: who cannot have the address leaves no
    /// trace.
    ///
    /// # Errors
    /// An address cannot be listened on.
    pub(crate) fn open(
        listen: SocketAddr,
        node_listen: Option<SocketAddr>,
        mut passed: Passed,
    ) -> anyhow::Result<Self> {
        let api = passed.take(API, listen).map_or_else(
            || {
                bind(listen).with_context(|| {
                    format!("listen on {listen}; `--listen ADDR:PORT` chooses another address")
                })
            },
            Ok,
        )?;
        let node = node_listen.map(|address| {
            passed.take(NODE, address).map_or_else(
                || {
                    bind(address).with_context(|| {
                        format!(
                            "listen on {address} for the node; `--node-listen ADDR:PORT` chooses \
                             another"
                        )
                    })
                },
                Ok,
            )
        });
        Ok(Self { api, node: node.transpose()? })
    }

    /// The same sockets once more.
    ///
    /// # Errors
    /// When the descriptor table is full.
    pub(crate) fn try_clone(&self) -> std::io::Result<Self> {
        let node = self.node.as_ref().map(TcpListener::try_clone).transpose()?;
        Ok(Self { api: self.api.try_clone()?, node })
    }

    /// By name, for the program that takes the place of this one.
    pub(crate) fn into_named(self) -> Vec<(&'static str, OwnedFd)> {
        let node = self.node.map(|node| (NODE, node.into()));
        [(API, self.api.into())].into_iter().chain(node).collect()
    }

    /// By name, to be passed on.
    fn named(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
        let node = self.node.as_ref().map(|node| (NODE, node.as_fd()));
        [(API, self.api.as_fd())].into_iter().chain(node).collect()
    }
}

impl Passed {
    /// Who waits to hear that this program serves.
    pub(crate) fn asker(&mut self) -> Option<Asker> {
        let at = self.0.iter().position(|(its, _)| its == ASKER)?;
        let (_, stream) = self.0.swap_remove(at);
        Some(Asker::from(UnixStream::from(stream)))
    }

    /// The socket called `name`, if it is one that listens on `address`. A port of 0 is any.
    fn take(&mut self, name: &str, address: SocketAddr) -> Option<TcpListener> {
        let at = self.0.iter().position(|(its, _)| its == name)?;
        let (_, socket) = self.0.swap_remove(at);
        let socket = TcpListener::from(socket);
        let bound = socket.local_addr().ok()?;
        let same_port = address.port() == 0 || bound.port() == address.port();
        if bound.ip() == address.ip() && same_port {
            socket.set_nonblocking(true).ok()?;
            return Some(socket);
        }
        tracing::info!(%bound, wanted = %address, "a socket that was passed on is for another address");
        None
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{API, NODE, Passed, Sockets, bind};

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn a_socket_that_was_passed_on_is_used_if_it_is_the_one_that_is_wanted() {
        let (api, node) = (bind(ANY).unwrap(), bind(ANY).unwrap());
        let (at, node_at) = (api.local_addr().unwrap(), node.local_addr().unwrap());
        let passed = || {
            let passed = [(API, &api), (NODE, &node)];
            let named = passed.map(|(name, s)| (name.to_owned(), s.try_clone().unwrap().into()));
            Passed(named.into())
        };
        let sockets = Sockets::open(at, Some(node_at), passed()).unwrap();
        assert_eq!(sockets.api.local_addr().unwrap(), at);
        assert_eq!(sockets.node.unwrap().local_addr().unwrap(), node_at);

        let elsewhere = Sockets::open(SocketAddr::new([127, 0, 0, 2].into(), 0), None, passed());
        assert_ne!(elsewhere.unwrap().api.local_addr().unwrap(), at);
        // Nothing was passed on, and the address is taken.
        let refused = Sockets::open(at, None, Passed::default()).unwrap_err();
        assert!(format!("{refused:#}").contains("--listen"), "{refused:#}");
    }
}
