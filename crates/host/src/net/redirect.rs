//! The rules of a sandbox for connections to the outside, in its own network: routes, and a table
//! that hands connections over to the daemon, and questions to name servers.
//!
//! The table lives in the namespace and goes with it, and nobody inside can change it. Without a
//! daemon it still stands: what it hands over is refused then, and nothing gets past it. What the
//! daemon opens in the namespace instead bears a mark that lets it through, and has to pass the
//! node's firewall outside like everything else.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use lifecycle::Budget;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt,
};

use super::firewall::FirewallError;
use super::netlink::Netlink;
use super::slot::{Slot, SlotNet, inside, ways};
use super::way::Subnet;
use crate::HostError;
use crate::error::Tried;
use crate::process::run_in_network;

/// The table's name: nobody else makes tables in a sandbox's network.
const TABLE: &str = "egress";
/// Of the daemon's own packets. Setting it takes `CAP_NET_ADMIN` or `CAP_NET_RAW` in the namespace's
/// owner (socket(7)), which no process of a sandbox has.
const MARK: u32 = 0xcd;
/// How many connections wait to be taken in.
const BACKLOG: i32 = 256;
/// What a sandbox may begin in a second, and at once: each is remembered by the kernel for a while. As
/// many packets of questions are handed over.
const BEGINNINGS: [u32; 2] = [1000, 2000];
/// How long the kernel remembers one that has ended, s. The standard is two minutes.
const REMEMBERED_S: &str = "5";

/// What is handed over, and what else gets out.
#[derive(Debug, Clone, Copy)]
pub struct Handover<'a> {
    /// Every TCP connection to the outside, not only those that would be denied.
    pub everything: bool,
    /// Nothing but TCP and questions to the name servers gets out.
    pub only_tcp: bool,
    /// Questions to these are always let through.
    pub resolvers: &'a [Ipv4Addr],
    /// Questions to these are always handed over, what is said by UDP as well.
    pub asked: &'a [Ipv4Addr],
    /// What is in `open`, or not in `closed`, gets out.
    pub open: &'a [Subnet],
    pub closed: &'a [Subnet],
}

/// Where what is handed over is taken in: sockets in the slot's network, at ports that are others every
/// time, so that no program in the sandbox can be there first.
#[derive(Debug)]
pub struct Inlets {
    /// Listens for connections.
    pub connections: OwnedFd,
    /// Takes in packets to name servers.
    pub questions: OwnedFd,
    pub ports: Ports,
}

/// The ports of [`Inlets`].
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub connections: u16,
    pub questions: u16,
}

/// A slot's network, for whoever sets its rules or carries its connections. Keeps the network until it is dropped.
#[derive(Debug)]
pub struct Redirect {
    name: String,
    net: SlotNet,
    netns: OwnedFd,
}

impl Redirect {
    /// # Errors
    /// When the descriptor table is full.
    pub fn of(slot: &Slot) -> Result<Self, HostError> {
        let name = lifecycle::Release::name(slot).to_owned();
        let netns = slot.netns().try_clone_to_owned().tried("keep the network of", &name)?;
        Ok(Self { name, net: slot.net(), netns })
    }

    /// Has only those addresses lead to the outside that are in `open`, or not in `closed`; of two
    /// subnets that have an address the narrower one decides, and `closed` of two that are the same.
    ///
    /// In force with the answer, for connections that are open, too. What was set before is forgotten;
    /// a failure leaves some of it. The link itself, with the host's end, stays reachable for answers.
    ///
    /// # Errors
    /// When a route cannot be made or removed.
    pub fn restrict(&self, open: &[Subnet], closed: &[Subnet]) -> Result<(), HostError> {
        let wanted = ways(self.net, open, closed);
        inside(self.netns.as_fd(), || {
            let mut netlink = Netlink::open()?;
            for way in &wanted {
                netlink.set_route(*way)?;
            }
            for old in netlink.ways()? {
                if wanted.iter().all(|way| way.to != old.to) {
                    netlink.remove_route(old)?;
                }
            }
            Ok(())
        })
        .tried("set the rules of", &self.name)
    }

    /// Sockets in the slot's network for what is handed over.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn listen(&self) -> Result<Inlets, HostError> {
        let opened = inside(self.netns.as_fd(), || {
            let bound = |kind| {
                let socket = socket(kind)?;
                bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
                let port = SocketAddrV4::try_from(getsockname(&socket)?)?.port();
                io::Result::Ok((socket, port))
            };
            let (connections, connections_port) = bound(SocketType::STREAM)?;
            listen(&connections, BACKLOG)?;
            let (questions, questions_port) = bound(SocketType::DGRAM)?;
            let ports = Ports { connections: connections_port, questions: questions_port };
            Ok(Inlets { connections, questions, ports })
        });
        opened.tried("listen in", &self.name)
    }

    /// A new TCP socket in the slot's network whose connections are not handed over. Blocks for a
    /// fraction of a millisecond.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(&self) -> io::Result<OwnedFd> {
        self.open_marked(SocketType::STREAM)
    }

    /// As [`Redirect::open`], for UDP.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open_for_packets(&self) -> io::Result<OwnedFd> {
        self.open_marked(SocketType::DGRAM)
    }

    fn open_marked(&self, kind: SocketType) -> io::Result<OwnedFd> {
        inside(self.netns.as_fd(), || {
            let socket = socket(kind)?;
            set_mark(socket.as_fd(), MARK)?;
            Ok(socket)
        })
    }

    /// Where a program that is at the other end of `accepted` has connected to.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn origin(accepted: BorrowedFd<'_>) -> io::Result<SocketAddrV4> {
        Ok(sockopt::ip_original_dst(accepted)?)
    }

    /// Has what `handover` says be handed over to `ports`. In force with the answer, all of it or
    /// none, for connections that are open, too.
    ///
    /// Cancel safety: yes; it may be in force or not.
    ///
    /// # Errors
    /// See [`FirewallError`]; what was in force before still is.
    pub async fn apply(
        &self,
        nft: &Path,
        handover: Handover<'_>,
        ports: Ports,
        budget: Budget,
    ) -> Result<(), FirewallError> {
        self.forget_soon();
        self.nft(nft, &ruleset(self.net, handover, ports), budget).await
    }

    /// Hands nothing over any more, and lets everything out.
    ///
    /// Cancel safety: yes; it may be in force or not.
    ///
    /// # Errors
    /// See [`FirewallError`].
    pub async fn clear(&self, nft: &Path, budget: Budget) -> Result<(), FirewallError> {
        // Adding it first makes deleting a table that is gone no error.
        let script = format!("add table ip {TABLE}\ndelete table ip {TABLE}\n");
        self.nft(nft, &script, budget).await
    }

    async fn nft(&self, nft: &Path, script: &str, budget: Budget) -> Result<(), FirewallError> {
        let input = Some(script.as_bytes());
        let done = run_in_network(self.netns.as_fd(), nft, &["-f", "-"], input, budget);
        let done = done.await.map_err(FirewallError::Run)?;
        if done.status.success() {
            return Ok(());
        }
        let output = done.output.trim().into();
        Err(FirewallError::Refused { table: format!("{TABLE} of {}", self.name), output })
    }

    /// Has the kernel forget connections soon after they have ended: the room for them is the whole
    /// host's.
    fn forget_soon(&self) {
        let set = inside(self.netns.as_fd(), || {
            for state in ["time_wait", "close", "last_ack", "close_wait"] {
                let key = format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{state}");
                std::fs::write(key, REMEMBERED_S)?;
            }
            Ok(())
        });
        if let Err(error) = set {
            // They are there once something in the namespace is remembered; the rate holds anyway.
            tracing::debug!(slot = self.name, %error, "ended connections are remembered for longer");
        }
    }
}

fn socket(kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::INET, kind, flags, None)?)
}

#[expect(unsafe_code, reason = "rustix has no call for SO_MARK")]
fn set_mark(socket: BorrowedFd<'_>, mark: u32) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(&mark)).map_err(io::Error::other)?;
    // SAFETY: the option's value is read from `mark`, of which `len` is the size, during the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MARK,
            (&raw const mark).cast(),
            len,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Every chain sees a packet that a program sends, in this order: the first limits beginnings, the
/// second hands over, the third refuses what is left. The kernel's memory of connections, which it
/// needs for handing over, is asked in between.
fn ruleset(net: SlotNet, handover: Handover<'_>, ports: Ports) -> String {
    let SlotNet { guest, host, .. } = net;
    let Handover { everything, only_tcp, resolvers, asked, open, closed } = handover;
    let port = ports.connections;
    let mut dns = String::new();
    for resolver in resolvers {
        for protocol in ["udp", "tcp"] {
            // Writing to a String does not fail.
            let _infallible = writeln!(dns, "    ip daddr {resolver} {protocol} dport 53 accept");
        }
    }
    let decide = "    ip daddr @open accept\n    ip daddr @closed";
    let to_us = match everything {
        true => format!("    meta l4proto tcp redirect to :{port}\n"),
        false => format!("{decide} meta l4proto tcp redirect to :{port}\n"),
    };
    let rest = match only_tcp {
        true => "    reject with icmp type net-unreachable\n".to_owned(),
        false => format!("{decide} reject with icmp type net-unreachable\n"),
    };
    let over = over();
    let [known, few, to_be_asked, unasked] = match asked.is_empty() {
        true => Default::default(),
        false => questions(asked, ports),
    };
    let own = format!(
        "    meta mark {MARK} accept\n    ip daddr {{ 127.0.0.0/8, {guest}, {host} }} accept\n"
    );
    format!(
        "add table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
{}{}{known}  chain beginnings {{
    type filter hook output priority -150; policy accept;
{own}    tcp flags & (fin|syn|rst|ack) == syn {over}
{few}  }}
  chain handover {{
    type nat hook output priority -100; policy accept;
{own}{to_be_asked}{dns}{to_us}  }}
  chain rest {{
    type filter hook output priority 0; policy accept;
{own}{unasked}{dns}{rest}  }}
}}
",
        set("open", open),
        set("closed", closed),
    )
}

/// For what comes faster than a sandbox may begin.
fn over() -> String {
    let [per_second, at_once] = BEGINNINGS;
    format!("limit rate over {per_second}/second burst {at_once} packets drop")
}

/// The servers of whom questions are handed over, and what is said of those in each of the chains.
fn questions(asked: &[Ipv4Addr], ports: Ports) -> [String; 4] {
    let Ports { connections, questions } = ports;
    let servers: Vec<Subnet> = asked.iter().copied().map(Subnet::only).collect();
    let to = "    ip daddr @asked";
    let handed = format!(
        "{to} udp dport 53 redirect to :{questions}\n{to} tcp dport 53 redirect to :{connections}\n"
    );
    // The kernel remembers what was let through by the rules before, and would go on with that.
    let kept = format!(
        "{to} meta l4proto {{ tcp, udp }} th dport 53 reject with icmp type net-unreachable\n"
    );
    [set("asked", &servers), format!("{to} udp dport 53 {}\n", over()), handed, kept]
}

fn set(name: &str, subnets: &[Subnet]) -> String {
    let texts: Vec<String> =
        subnets.iter().map(|subnet| format!("{}/{}", subnet.first, subnet.prefix_len)).collect();
    let elements = match texts.is_empty() {
        true => String::new(),
        false => format!(" elements = {{ {} }}", texts.join(", ")),
    };
    format!("  set {name} {{ type ipv4_addr; flags interval; auto-merge;{elements} }}\n")
}

#[cfg(test)]
mod tests;
