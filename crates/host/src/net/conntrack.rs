//! What the host remembers of a sandbox's connections (conntrack), by ctnetlink.
//!
//! Each entry is kept for up to five days after the last packet, and the host has room for so many
//! only. One that outlives its sandbox would also let packets of a stranger through to the next one
//! with the same address: to the firewall they belong to an established connection.

use std::io;
use std::net::Ipv4Addr;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_TYPE_MASK, NLM_F_ACK, NLM_F_DUMP, NetlinkDeserializable,
    NetlinkHeader, NetlinkPayload, NetlinkSerializable, Nla, NlasIterator, Parseable,
};
use rustix::io::Errno;
use rustix::net::netlink;

use super::channel::Channel;

// linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h; the numbers are the kernel's interface.
const CTNETLINK: u16 = 1 << 8;
const LIST: u16 = CTNETLINK | 1;
const DELETE: u16 = CTNETLINK | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const FAMILY_IPV4: u8 = 2;
/// What tells one connection from all others.
const NAME: [u16; 3] = [CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE];
/// Family, version, resource id: what every message of netfilter begins with.
const NFGENMSG: usize = 4;

/// The ends of a connection, seen from whoever opened it: `CTA_IP_V4_SRC`, `CTA_IP_V4_DST`.
const ENDS: [u16; 2] = [1, 2];

/// Removes every connection that was opened from or to an address that `is_meant` from the memory of
/// the calling thread's network namespace, and says how many there were.
///
/// The kernel looks through all it remembers, once for as many addresses as are meant: blocks for
/// 0.3 ms with hardly any, for some 10 ms with ten thousand. A host that cannot remember is done at
/// once.
///
/// # Errors
/// What the kernel says. Some may be removed by then.
pub(super) fn forget(is_meant: impl Fn(Ipv4Addr) -> bool) -> io::Result<usize> {
    let forgotten = Conntrack::open().and_then(|mut conntrack| {
        let meant = conntrack.list(|message| message.ends().any(&is_meant))?;
        let count = meant.len();
        meant.into_iter().try_for_each(|connection| conntrack.remove(connection))?;
        Ok(count)
    });
    match forgotten {
        // Without the module nothing is remembered.
        Err(error) if is_absent(&error) => Ok(0),
        forgotten => forgotten,
    }
}

fn is_absent(error: &io::Error) -> bool {
    let absent = [Errno::INVAL, Errno::OPNOTSUPP, Errno::PROTONOSUPPORT];
    Errno::from_io_error(error).is_some_and(|errno| absent.contains(&errno))
}

#[derive(Debug)]
struct Conntrack {
    channel: Channel,
}

impl Conntrack {
    fn open() -> io::Result<Self> {
        Ok(Self { channel: Channel::open(Some(netlink::NETFILTER))? })
    }

    /// Lists those that are `wanted`.
    fn list(&mut self, wanted: impl Fn(&Message) -> bool) -> io::Result<Vec<Message>> {
        let request = Message { kind: LIST, attributes: Vec::new() };
        let mut found = Vec::new();
        self.channel.request(request, NLM_F_DUMP, |message| {
            if wanted(&message) {
                found.push(message);
            }
        })?;
        Ok(found)
    }

    /// Removes one that was listed; one that has gone meanwhile is fine.
    fn remove(&mut self, Message { mut attributes, .. }: Message) -> io::Result<()> {
        // The id spares a new connection of the same name. What has no name was not listed for its
        // address: to the kernel, removing it would be removing all there is.
        attributes.retain(|nla| NAME.contains(&(nla.kind() & NLA_TYPE_MASK)));
        let request = Message { kind: DELETE, attributes };
        match self.channel.request(request, NLM_F_ACK, |_none| {}) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(()),
            removed => removed,
        }
    }
}

/// A message of ctnetlink about IPv4.
#[derive(Debug)]
struct Message {
    kind: u16,
    attributes: Vec<DefaultNla>,
}

impl Message {
    /// The addresses of the connection that it is about.
    fn ends(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let tuple = value_of(&self.attributes, CTA_TUPLE_ORIG).unwrap_or_default();
        let addresses = within(&value_of(&within(&tuple), CTA_TUPLE_IP).unwrap_or_default());
        ENDS.into_iter().filter_map(move |end| {
            let octets: [u8; 4] = value_of(&addresses, end)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets))
        })
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        NFGENMSG + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (start, attributes) = buffer.split_at_mut(NFGENMSG);
        start.copy_from_slice(&[FAMILY_IPV4, 0, 0, 0]);
        self.attributes.as_slice().emit(attributes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(payload.get(NFGENMSG..).unwrap_or_default());
        let attributes =
            attributes.map(|nla| DefaultNla::parse(&nla?)).collect::<Result<_, _>>()?;
        Ok(Self { kind: header.message_type, attributes })
    }
}

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        Self::InnerMessage(message)
    }
}

/// The value of the attribute `kind`.
fn value_of(attributes: &[DefaultNla], kind: u16) -> Option<Vec<u8>> {
    let nla = attributes.iter().find(|nla| nla.kind() & NLA_TYPE_MASK == kind)?;
    let mut value = vec![0; nla.value_len()];
    nla.emit_value(&mut value);
    Some(value)
}

/// The attributes in the value of another one; those that cannot be read are left out.
fn within(value: &[u8]) -> Vec<DefaultNla> {
    NlasIterator::new(value).filter_map(|nla| DefaultNla::parse(&nla.ok()?).ok()).collect()
}

#[cfg(test)]
mod tests;
