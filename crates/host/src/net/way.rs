//! A route of a slot: which addresses it is about and where it leads.

use std::net::Ipv4Addr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

/// The addresses with one prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    pub first: Ipv4Addr,
    pub prefix_len: u8,
}

impl Subnet {
    /// Every address there is.
    pub(super) const ALL: Self = Self { first: Ipv4Addr::UNSPECIFIED, prefix_len: 0 };

    /// One address and no other.
    pub(super) fn only(address: Ipv4Addr) -> Self {
        Self { first: address, prefix_len: 32 }
    }

    /// Whether every address of `other` is in this one, too.
    pub(super) fn contains(self, other: Self) -> bool {
        let host_bits = 32_u32.saturating_sub(self.prefix_len.into());
        let prefix = |address: Ipv4Addr| address.to_bits().checked_shr(host_bits).unwrap_or(0);
        self.prefix_len <= other.prefix_len && prefix(other.first) == prefix(self.first)
    }
}

/// A route that was not made by the kernel itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) to: Subnet,
    /// `None`: it leads nowhere, and programs are told so at once.
    pub(super) gateway: Option<Ipv4Addr>,
}

impl Way {
    pub(super) fn message(self) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.protocol = RouteProtocol::Static;
        route.header.scope = RouteScope::Universe;
        route.header.destination_prefix_length = self.to.prefix_len;
        route.header.kind = match self.gateway {
            Some(_) => RouteType::Unicast,
            None => RouteType::Unreachable,
        };
        if self.to != Subnet::ALL {
            let to = RouteAddress::Inet(self.to.first);
            route.attributes.push(RouteAttribute::Destination(to));
        }
        let gateway =
            self.gateway.map(|address| RouteAttribute::Gateway(RouteAddress::Inet(address)));
        route.attributes.extend(gateway);
        route
    }

    /// `None` for a route of the kernel.
    pub(super) fn of(route: &RouteMessage) -> Option<Self> {
        let header = &route.header;
        if header.table != RouteHeader::RT_TABLE_MAIN || header.protocol != RouteProtocol::Static {
            return None;
        }
        let (mut first, mut gateway) = (Ipv4Addr::UNSPECIFIED, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => first = *address,
                RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
                _ => {}
            }
        }
        Some(Self { to: Subnet { first, prefix_len: header.destination_prefix_length }, gateway })
    }
}
