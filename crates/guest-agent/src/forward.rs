//! Makes servers that listen on loopback only reachable from outside of the sandbox.
//!
//! Many programs bind 127.0.0.1 by default, and a client who opened a port expects to reach
//! them. Once a second this looks which ports only loopback listens on, and listens on the
//! sandbox's own address for each.

mod address;
mod listeners;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::listeners::Listeners;
use crate::cli::Forward;
use crate::{log, tasks};

const CADENCE: Duration = Duration::from_secs(1);
/// How many ports are forwarded at once.
const PORTS_MAX: usize = 64;
/// How many connections all of them carry together; more wait to be accepted.
const CONNECTIONS_MAX: usize = 256;

/// Looks and listens until the agent ends.
pub(crate) struct Forwarder {
    /// Looked up again until there is one: the network may come after the agent.
    address: Option<Ipv4Addr>,
    listeners: Listeners,
    forwarded: HashMap<u16, Forwarded>,
    places: Arc<Semaphore>,
}

struct Forwarded {
    to: SocketAddr,
    /// Ends the listener and every connection when the target is gone.
    gone: CancellationToken,
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

impl Forwarder {
    /// `None` where there is nothing to forward: outside of a sandbox, unless it was asked for.
    pub(crate) fn new(wanted: &Forward) -> Option<Self> {
        let address = match wanted {
            Forward::Auto if std::process::id() != 1 => return None,
            Forward::Auto => None,
            Forward::On(address) => Some(*address),
        };
        Some(Self {
            address,
            listeners: Listeners::new(),
            forwarded: HashMap::new(),
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        })
    }

    pub(crate) async fn run(mut self) {
        let mut tick = tokio::time::interval(CADENCE);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.address = self.address.or_else(address::own_address);
            let Some(address) = self.address else { continue };
            match self.listeners.read() {
                Ok(listening) => self.follow(address, &listening),
                Err(error) => {
                    log::odd(format_args!("ports are no longer forwarded: {error}"));
                    return;
                }
            }
        }
    }

    /// Makes what is forwarded equal to what should be.
    fn follow(&mut self, address: Ipv4Addr, listening: &[SocketAddr]) {
        let targets = targets(address, listening, |port| self.forwarded.contains_key(&port));
        self.forwarded.retain(|port, forwarded| targets.get(port) == Some(&forwarded.to));
        for (port, to) in targets {
            if self.forwarded.contains_key(&port) || self.forwarded.len() >= PORTS_MAX {
                continue;
            }
            // Somebody was faster: then they are reachable without us.
            let Ok(listener) = bind(SocketAddr::from((address, port))) else { continue };
            let gone = CancellationToken::new();
            let work = accept(listener, to, Arc::clone(&self.places), gone.clone());
            let ended = gone.clone();
            tasks::spawn(async move {
                tokio::select! {
                    biased;
                    () = ended.cancelled() => {}
                    () = work => {}
                }
            });
            self.forwarded.insert(port, Forwarded { to, gone });
        }
    }
}

/// Which ports only loopback listens on, and where. A port that something else listens on, on
/// `address` or on all, is reachable already; `ours` tells of those that are our own doing.
fn targets(
    address: Ipv4Addr,
    listening: &[SocketAddr],
    ours: impl Fn(u16) -> bool,
) -> HashMap<u16, SocketAddr> {
    let reaches_all = |ip: IpAddr| ip.is_unspecified();
    let taken: BTreeSet<u16> = listening
        .iter()
        .filter(|at| reaches_all(at.ip()) || (at.ip() == address && !ours(at.port())))
        .map(SocketAddr::port)
        .collect();
    let mut targets = HashMap::new();
    for at in listening {
        let is_loopback =
            at.ip() == Ipv4Addr::LOCALHOST || at.ip() == std::net::Ipv6Addr::LOCALHOST;
        if !is_loopback || taken.contains(&at.port()) {
            continue;
        }
        let target = targets.entry(at.port()).or_insert(*at);
        // Of both families, one is as good as the other; it must only stay the same.
        if at.is_ipv4() {
            *target = *at;
        }
    }
    targets
}

fn bind(at: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn accept(
    listener: TcpListener,
    to: SocketAddr,
    places: Arc<Semaphore>,
    gone: CancellationToken,
) {
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _peer)) = listener.accept().await else {
            // No descriptors left: those in use will come back.
            tokio::time::sleep(CADENCE).await;
            continue;
        };
        let gone = gone.clone();
        tasks::spawn(async move {
            tokio::select! {
                biased;
                () = gone.cancelled() => {}
                () = carry(stream, to) => {}
            }
            drop(place);
        });
    }
}

/// Carries bytes both ways until both sides are done. A target that does not answer closes the
/// connection, which is what its client would see without us.
async fn carry(mut from: TcpStream, to: SocketAddr) {
    let Ok(mut target) = TcpStream::connect(to).await else { return };
    // Delay is worse than many small packets for most of what is served like this.
    drop(from.set_nodelay(true));
    drop(target.set_nodelay(true));
    drop(tokio::io::copy_bidirectional(&mut from, &mut target).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn found(listening: &[&str], ours: &[u16]) -> Vec<(u16, String)> {
        let listening: Vec<SocketAddr> = listening.iter().map(|at| at.parse().unwrap()).collect();
        let targets = targets(ADDRESS, &listening, |port| ours.contains(&port));
        let mut targets: Vec<_> =
            targets.into_iter().map(|(port, to)| (port, to.to_string())).collect();
        targets.sort();
        targets
    }

    #[test]
    fn only_ports_that_loopback_alone_listens_on_are_targets() {
        let listening =
            ["127.0.0.1:80", "[::1]:81", "0.0.0.0:82", "10.0.0.2:83", "127.0.0.53:84", "[::]:85"];
        let expected = [(80, "127.0.0.1:80".to_owned()), (81, "[::1]:81".to_owned())];
        assert_eq!(found(&listening, &[]), expected);
    }

    #[test]
    fn a_port_that_is_reachable_already_is_left_alone() {
        assert_eq!(found(&["127.0.0.1:80", "0.0.0.0:80"], &[]), []);
        assert_eq!(found(&["127.0.0.1:80", "[::]:80"], &[]), []);
        assert_eq!(found(&["127.0.0.1:80", "10.0.0.2:80"], &[]), []);
    }

    #[test]
    fn our_own_listener_does_not_make_a_port_reachable_without_us() {
        let expected = [(80, "127.0.0.1:80".to_owned())];
        assert_eq!(found(&["10.0.0.2:80", "127.0.0.1:80"], &[80]), expected);
        assert_eq!(found(&["10.0.0.2:80"], &[80]), []);
    }

    #[test]
    fn of_both_families_the_choice_does_not_depend_on_the_order() {
        let expected = [(80, "127.0.0.1:80".to_owned())];
        assert_eq!(found(&["[::1]:80", "127.0.0.1:80"], &[]), expected);
        assert_eq!(found(&["127.0.0.1:80", "[::1]:80"], &[]), expected);
    }
}
