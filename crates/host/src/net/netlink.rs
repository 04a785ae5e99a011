//! rtnetlink: links, addresses and routes of the network namespace in which it was opened.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::net::netdevice::name_to_index;

use super::channel::Channel;
use super::way::Way;

#[derive(Debug)]
pub(super) struct Netlink {
    channel: Channel,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { channel: Channel::open(None)? })
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
        let mut ways = Vec::new();
        self.channel.request(RouteNetlinkMessage::GetRoute(request), NLM_F_DUMP, |message| {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                ways.extend(Way::of(&route));
            }
        })?;
        Ok(ways)
    }

    /// The index of a link in this socket's namespace.
    pub(super) fn index_of(&self, name: &str) -> io::Result<u32> {
        Ok(name_to_index(&self.channel, name)?)
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.channel.request(message, NLM_F_ACK | flags, |_none| {})
    }
}
