//! rtnetlink requests, answered one at a time on a blocking socket.
//!
//! The socket belongs to the network namespace of the thread that opened it, for good.

use std::io;
use std::net::Ipv4Addr;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::net::netdevice::name_to_index;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily as SocketFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv,
    sendto, socket_with,
};

/// The most that is read at a time: the kernel makes no larger parts of a list, and an
/// acknowledgement has a copy of the request.
const MAX_ANSWER: usize = 32 * 1024;
/// Where a message begins behind another one.
const ALIGNMENT: usize = 4;

use super::way::Way;

#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket_with(
            SocketFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE is protocol 0, the default of the family.
            None,
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes a veth pair, `name` here and `peer` straight in the namespace `netns`: moving an end
    /// afterwards would take ten times as long.
    pub(super) fn add_veth(
        &mut self,
        name: &str,
        peer: &str,
        netns: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut inner = LinkMessage::default();
        inner.attributes =
            vec![LinkAttribute::IfName(peer.into()), LinkAttribute::NetNsFd(netns.as_raw_fd())];
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inner))),
            ]),
        ];
        self.request(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes a link. Takes an RCU grace period: only for links without a namespace to drop.
    pub(super) fn remove_link(&mut self, name: &str) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.into())];
        self.request(RouteNetlinkMessage::DelLink(link), 0)
    }

    pub(super) fn set_up(&mut self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(link), 0)
    }

    pub(super) fn add_address(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        prefix_len: u8,
    ) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix_len;
        message.header.index = index;
        message.attributes = vec![
            AddressAttribute::Local(address.into()),
            AddressAttribute::Address(address.into()),
        ];
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Has `way` lead where it says, whatever led there before.
    pub(super) fn set_route(&mut self, way: Way) -> io::Result<()> {
        self.request(RouteNetlinkMessage::NewRoute(way.message()), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes the route to the addresses of `way`; one that is gone is fine.
    pub(super) fn remove_route(&mut self, way: Way) -> io::Result<()> {
        match self.request(RouteNetlinkMessage::DelRoute(way.message()), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            done => done,
        }
    }

    /// The routes that [`Netlink::set_route`] has made, those of the kernel itself left out.
    pub(super) fn ways(&mut self) -> io::Result<Vec<Way>> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        self.send(RouteNetlinkMessage::GetRoute(request), NLM_F_DUMP)?;
        let mut ways = Vec::new();
        self.answers(|payload| match payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                ways.extend(Way::of(&route));
                ControlFlow::Continue(())
            }
            NetlinkPayload::Done(_) => ControlFlow::Break(Ok(())),
            NetlinkPayload::Error(error) => ControlFlow::Break(Err(failure(&error))),
            _ => ControlFlow::Continue(()),
        })?;
        Ok(ways)
    }

    /// The index of a link in this socket's namespace.
    pub(super) fn index_of(&self, name: &str) -> io::Result<u32> {
        Ok(name_to_index(&self.socket, name)?)
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_ACK | flags)?;
        self.answers(|payload| match payload {
            NetlinkPayload::Error(error) if error.code.is_some() => {
                ControlFlow::Break(Err(failure(&error)))
            }
            NetlinkPayload::Error(_acknowledgement) => ControlFlow::Break(Ok(())),
            _ => ControlFlow::Continue(()),
        })
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        sendto(&self.socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    /// Gives every answer to the last request to `take`, until that breaks.
    fn answers(
        &self,
        mut take: impl FnMut(NetlinkPayload<RouteNetlinkMessage>) -> ControlFlow<io::Result<()>>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; MAX_ANSWER];
        loop {
            let (len, _) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = buffer.get(..len).unwrap_or_default();
            // The answers of a list come several at a time.
            while !rest.is_empty() {
                let packet = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::other(error.to_string()))?;
                let len = usize::try_from(packet.header.length).unwrap_or(usize::MAX);
                rest = rest.get(len.next_multiple_of(ALIGNMENT).max(1)..).unwrap_or_default();
                if packet.header.sequence_number != self.sequence {
                    continue;
                }
                if let ControlFlow::Break(done) = take(packet.payload) {
                    return done;
                }
            }
        }
    }
}

fn failure(error: &ErrorMessage) -> io::Error {
    let code = error.code.map_or(0, |code| code.get().saturating_abs());
    io::Error::from_raw_os_error(code)
}
