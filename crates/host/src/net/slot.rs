//! A slot: a user namespace, a network namespace of its, and the pair of links that joins it to the
//! host.
//!
//! Both namespaces are held by descriptor only. When the last descriptor, the last process in them and
//! the last connection that has something to send are gone, the kernel takes links, addresses and
//! routes away by itself: ending the connections and closing is the whole release, and a crash of the
//! daemon releases what it alone held.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lifecycle::{Budget, Release};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::netlink::Netlink;
use super::way::{Subnet, Way};
use super::{connections, is_linked};
use crate::error::Tried;
use crate::identity::UIDS_PER_SLOT;
use crate::process::{Namespaces, Process, make_namespaces};
use crate::thread::{blocking, in_own_thread};
use crate::{Faults, HostError, Mark};

/// The sandbox's end of its link.
const GUEST_LINK: &str = "eth0";
/// Two addresses, one at each end (RFC 3021).
const LINK_PREFIX: u8 = 31;
/// How many connections wait for the guest agent while it starts.
const BACKLOG: i32 = 128;

/// What a slot shows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotNet {
    pub index: u16,
    pub guest: Ipv4Addr,
    pub host: Ipv4Addr,
    /// The user id outside that is root inside.
    pub uid_base: u32,
}

impl SlotNet {
    fn of(mark: Mark, index: u16) -> Self {
        Self {
            index,
            guest: mark.guest_address(index),
            host: mark.host_address(index),
            uid_base: mark.uid_base(index),
        }
    }
}

/// A network identity, used by one sandbox and then thrown away.
#[derive(Debug)]
pub struct Slot {
    net: SlotNet,
    name: String,
    userns: OwnedFd,
    netns: OwnedFd,
    /// Bound and listening inside, for the guest agent to inherit.
    listener: OwnedFd,
}

impl Slot {
    /// Every fault point of making one, in the order in which they are passed: each after the step
    /// it is named for.
    pub const POINTS: [&str; 4] =
        ["slot.namespaces", "slot.link", "slot.host_end", "slot.guest_end"];

    /// Makes slot `index`, of whose last use the host must have been made to [`forget`]. Blocks for
    /// about a millisecond. On an error nothing of it is left but what the kernel takes away by itself.
    ///
    /// `agent_port` is the TCP port on which the guest agent will serve.
    ///
    /// # Errors
    /// The step that failed.
    ///
    /// [`forget`]: super::forget_connections
    pub fn create(
        mark: Mark,
        index: u16,
        agent_port: u16,
        holders: BorrowedFd<'_>,
    ) -> Result<Self, HostError> {
        Self::create_with(mark, index, agent_port, holders, &Faults::default())
    }

    /// As [`Slot::create`], passing [`Slot::POINTS`].
    ///
    /// # Errors
    /// As [`Slot::create`].
    pub fn create_with(
        mark: Mark,
        index: u16,
        agent_port: u16,
        holders: BorrowedFd<'_>,
        faults: &Faults,
    ) -> Result<Self, HostError> {
        let name = mark.link(index);
        let net = SlotNet::of(mark, index);
        let after = |point| faults.pass(point).tried("make", &name);
        let Namespaces { user: userns, net: netns } =
            make_namespaces(net.uid_base, UIDS_PER_SLOT, holders)
                .tried("make namespaces of", &name)?;
        after("slot.namespaces")?;
        let mut netlink = Netlink::open().tried("open", "netlink")?;
        netlink.add_veth(&name, GUEST_LINK, netns.as_fd()).tried("make link", &name)?;
        after("slot.link")?;
        host_end(&mut netlink, &name, net.host).tried("set up link", &name)?;
        after("slot.host_end")?;
        let listener = inside(netns.as_fd(), || guest_end(net, agent_port))
            .tried("set up the inside of", &name)?;
        after("slot.guest_end")?;
        Ok(Self { net, name, userns, netns, listener })
    }

    /// Slot `index` as an earlier daemon gave it to the sandbox whose first process is `process`.
    ///
    /// # Errors
    /// When the process has ended, or its link is not there.
    pub fn adopt(mark: Mark, index: u16, process: &Process) -> Result<Self, HostError> {
        let name = mark.link(index);
        if !is_linked(mark, index) {
            let missing = io::Error::from(io::ErrorKind::NotFound);
            return Err(missing).tried("find link", name);
        }
        let open = |kind| process.namespace(kind).tried("open a namespace of", &name);
        let (userns, netns) = (open("user")?, open("net")?);
        Ok(Self { net: SlotNet::of(mark, index), name, userns, netns, listener: nowhere()? })
    }

    #[must_use]
    pub fn net(&self) -> SlotNet {
        self.net
    }

    #[must_use]
    pub fn userns(&self) -> BorrowedFd<'_> {
        self.userns.as_fd()
    }

    #[must_use]
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    /// The guest agent's socket.
    #[must_use]
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Lets go of the guest agent's socket: from now on only the sandbox holds it, so connections
    /// are refused when the agent is gone instead of waiting for nobody.
    ///
    /// # Errors
    /// When the descriptor table is full.
    pub fn hand_over_listener(&mut self) -> Result<(), HostError> {
        self.listener = nowhere()?;
        Ok(())
    }
}

/// A descriptor in the place of a socket that only the sandbox holds.
fn nowhere() -> Result<OwnedFd, HostError> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()).tried("open", "/dev/null")
}

impl Release for Slot {
    const KIND: &'static str = "slot";
    type Error = HostError;

    fn name(&self) -> &str {
        &self.name
    }

    /// Ends the connections inside, which would keep the namespace without any program. The
    /// descriptors close when the owner is consumed.
    async fn release(&self, _budget: Budget) -> Result<(), HostError> {
        match blocking(|| inside(self.netns.as_fd(), connections::end_all)) {
            Ok(0) => {}
            Ok(count) => tracing::debug!(slot = self.name, count, "connections ended"),
            // The slot can be let go all the same: its index waits for the link.
            Err(error) => tracing::warn!(slot = self.name, %error, "connections are left to end"),
        }
        Ok(())
    }
}

/// Removes the link of a slot that nobody holds any more, with its namespace's end of it.
///
/// # Errors
/// When the kernel refuses; an absent link is fine.
pub fn remove_link(mark: Mark, slot: u16) -> Result<(), HostError> {
    let name = mark.link(slot);
    let removed = Netlink::open().and_then(|mut netlink| netlink.remove_link(&name));
    match removed {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        done => done.tried("remove link", name),
    }
}

fn host_end(netlink: &mut Netlink, name: &str, address: Ipv4Addr) -> io::Result<()> {
    // Nothing on this link speaks IPv6; without this the kernel would start to.
    set_sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1")?;
    let index = netlink.index_of(name)?;
    netlink.add_address(index, address, LINK_PREFIX)?;
    netlink.set_up(index)
}

/// The routes of a slot: of all that have an address, the kernel takes the one with the longest
/// prefix. Nobody inside may change them.
pub(super) fn ways(net: SlotNet, open: &[Subnet], closed: &[Subnet]) -> Vec<Way> {
    // The way to the host's end is the kernel's own, and how the sandbox is reached.
    let link = Subnet { first: net.guest.min(net.host), prefix_len: LINK_PREFIX };
    let opened = [Subnet::ALL].iter().chain(open);
    let opened = opened.map(|to| Way { to: *to, gateway: Some(net.host) });
    let closed = closed.iter().map(|to| Way { to: *to, gateway: None });
    let mut ways: Vec<Way> = Vec::new();
    for way in opened.chain(closed).filter(|way| !link.contains(way.to)) {
        match ways.iter_mut().find(|known| known.to == way.to) {
            Some(known) => *known = way,
            None => ways.push(way),
        }
    }
    ways
}

/// Runs in a thread that is inside the slot's network namespace.
fn guest_end(net: SlotNet, agent_port: u16) -> io::Result<OwnedFd> {
    let mut netlink = Netlink::open()?;
    let loopback = netlink.index_of("lo")?;
    netlink.set_up(loopback)?;
    set_sysctl(&format!("net/ipv6/conf/{GUEST_LINK}/disable_ipv6"), "1")?;
    // Programs inside are root of their own namespace only: let them serve port 80 and ping. Groups
    // are given as the writer's namespace, the host's, numbers them.
    set_sysctl("net/ipv4/ip_unprivileged_port_start", "0")?;
    let (first, last) = (net.uid_base, net.uid_base + UIDS_PER_SLOT - 1);
    set_sysctl("net/ipv4/ping_group_range", &format!("{first} {last}"))?;
    let index = netlink.index_of(GUEST_LINK)?;
    netlink.add_address(index, net.guest, LINK_PREFIX)?;
    netlink.set_up(index)?;
    netlink.set_route(Way { to: Subnet::ALL, gateway: Some(net.host) })?;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, agent_port))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn set_sysctl(key: &str, value: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/{key}"), value) {
        // A kernel without IPv6 has none of its keys.
        Err(error) if error.kind() == io::ErrorKind::NotFound && key.starts_with("net/ipv6") => {
            Ok(())
        }
        done => done,
    }
}

/// Runs `work` in a thread of its own that is in the network namespace `netns`.
pub(super) fn inside<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    in_own_thread("netns", || {
        move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
        work()
    })
}

#[cfg(test)]
mod tests;
