//! What the host remembers of a sandbox's connections (conntrack), by ctnetlink.
//!
//! Each entry is kept for up to five days after the last packet, and the host has room for so many
//! only. One that outlives its sandbox would also let packets of a stranger through to the next one
//! with the same address: to the firewall they belong to an established connection.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLA_TYPE_MASK, NLM_F_ACK, NLM_F_DUMP,
    NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, Nla, NlasIterator, Parseable,
};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

// linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h; the numbers are the kernel's interface.
const CTNETLINK: u16 = 1 << 8;
const LIST: u16 = CTNETLINK | 1;
const DELETE: u16 = CTNETLINK | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const FAMILY_IPV4: u8 = 2;
/// Family, version, resource id: what every message of netfilter begins with.
const NFGENMSG: usize = 4;

/// The largest piece of a listing that the kernel sends at once.
const MAX_ANSWER: usize = 32 * 1024;

/// An end of a connection, seen from whoever opened it.
#[derive(Debug, Clone, Copy)]
enum End {
    Source,
    Destination,
}

impl End {
    const BOTH: [Self; 2] = [Self::Source, Self::Destination];

    /// `CTA_IP_V4_SRC`, `CTA_IP_V4_DST`.
    const fn attribute(self) -> u16 {
        match self {
            Self::Source => 1,
            Self::Destination => 2,
        }
    }

    /// The bit that makes a filter compare it.
    const fn flag(self) -> u32 {
        match self {
            Self::Source => 1 << 0,
            Self::Destination => 1 << 1,
        }
    }
}

/// How many connections the host remembers, where it can.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// Up to so many the kernel has looked through in a quarter of a millisecond.
const QUICK: u32 = 1000;

/// Removes every connection from or to `address` from the memory of the calling thread's network
/// namespace. A host that remembers none is done in microseconds, one that cannot remember, too.
/// Otherwise the kernel looks through all of them: blocks for 0.3 ms with hardly any, for 5 ms with
/// ten thousand.
///
/// # Errors
/// What the kernel says.
pub(super) fn forget(address: Ipv4Addr) -> io::Result<()> {
    forget_ends(&End::BOTH, address)
}

/// Removes the connections that were opened from `address`, unless the host remembers so many that
/// it would take long. What is left is for [`forget`].
///
/// # Errors
/// What the kernel says.
pub(super) fn forget_if_quick(address: Ipv4Addr) -> io::Result<()> {
    // Not there, or not readable: [`forget`] finds out.
    let count = fs::read_to_string(COUNT).ok().and_then(|text| text.trim().parse::<u32>().ok());
    match count {
        Some(1..=QUICK) => forget_ends(&[End::Source], address),
        _ => Ok(()),
    }
}

fn forget_ends(ends: &[End], address: Ipv4Addr) -> io::Result<()> {
    let mut conntrack = match Conntrack::open() {
        Err(error) if is_absent(&error) => return Ok(()),
        opened => opened?,
    };
    for &end in ends {
        match conntrack.remove_all(end, address) {
            // A kernel before 6.9 removes one by its whole name, or all of them, and says so.
            Err(error) if is_absent(&error) => match conntrack.remove_each(end, address) {
                // Without the module nothing is remembered.
                Err(error) if is_absent(&error) => return Ok(()),
                removed => removed?,
            },
            removed => removed?,
        }
    }
    Ok(())
}

fn is_absent(error: &io::Error) -> bool {
    let absent = [Errno::INVAL, Errno::OPNOTSUPP, Errno::PROTONOSUPPORT];
    Errno::from_io_error(error).is_some_and(|errno| absent.contains(&errno))
}

#[derive(Debug)]
struct Conntrack {
    socket: OwnedFd,
    sequence: u32,
}

impl Conntrack {
    fn open() -> io::Result<Self> {
        let protocol = Some(netlink::NETFILTER);
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Removes in one call what has `address` at its `end`.
    fn remove_all(&mut self, end: End, address: Ipv4Addr) -> io::Result<()> {
        let request = Message { kind: DELETE, attributes: filter(end, address) };
        self.request(request, NLM_F_ACK, |_none| {})
    }

    /// Lists what has `address` at its `end`, and removes one after the other.
    fn remove_each(&mut self, end: End, address: Ipv4Addr) -> io::Result<()> {
        let request = Message { kind: LIST, attributes: filter(end, address) };
        let mut found = Vec::new();
        self.request(request, NLM_F_DUMP, |message| found.push(message))?;
        for Message { mut attributes, .. } in found {
            let is = |nla: &DefaultNla, kind| nla.kind() & NLA_TYPE_MASK == kind;
            // To the kernel, removing what has no name is removing all there is.
            if !attributes.iter().any(|nla| is(nla, CTA_TUPLE_ORIG)) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a nameless connection"));
            }
            // The id spares a new connection of the same name.
            let name = [CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE];
            attributes.retain(|nla| name.iter().any(|&kind| is(nla, kind)));
            let request = Message { kind: DELETE, attributes };
            match self.request(request, NLM_F_ACK, |_none| {}) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {}
                removed => removed?,
            }
        }
        Ok(())
    }

    fn request(
        &mut self,
        message: Message,
        flags: u16,
        mut take: impl FnMut(Message),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        sendto(&self.socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        while !self.receive(&mut take)? {}
        Ok(())
    }

    /// One datagram of answers. Whether it has the last one.
    fn receive(&self, take: &mut impl FnMut(Message)) -> io::Result<bool> {
        let mut buffer = vec![0; MAX_ANSWER];
        let (len, _) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = buffer.get(..len).unwrap_or_default();
        while !rest.is_empty() {
            let length = NetlinkBuffer::new_checked(rest).map_err(nonsense)?.length();
            let packet = NetlinkMessage::<Message>::deserialize(rest).map_err(nonsense)?;
            // Lengths are told without what fills up to four bytes.
            let next = usize::try_from(length.next_multiple_of(4)).unwrap_or(usize::MAX);
            rest = rest.get(next..).unwrap_or_default();
            if packet.header.sequence_number != self.sequence {
                continue;
            }
            match packet.payload {
                NetlinkPayload::InnerMessage(message) => take(message),
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) => {
                    return error.code.map_or(Ok(true), |code| {
                        Err(io::Error::from_raw_os_error(code.get().saturating_abs()))
                    });
                }
                _other => {}
            }
        }
        Ok(false)
    }
}

fn nonsense(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// A message of ctnetlink about IPv4.
#[derive(Debug)]
struct Message {
    kind: u16,
    attributes: Vec<DefaultNla>,
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

/// Compares one address, and nothing else.
fn filter(end: End, address: Ipv4Addr) -> Vec<DefaultNla> {
    let address = DefaultNla::new(end.attribute(), address.octets().to_vec());
    let flags = |kind, flags: u32| DefaultNla::new(kind, flags.to_ne_bytes().to_vec());
    vec![
        nested(CTA_TUPLE_ORIG, &[nested(CTA_TUPLE_IP, &[address])]),
        nested(
            CTA_FILTER,
            &[flags(CTA_FILTER_ORIG_FLAGS, end.flag()), flags(CTA_FILTER_REPLY_FLAGS, 0)],
        ),
    ]
}

fn nested(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; inner.buffer_len()];
    inner.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

#[cfg(test)]
mod tests;
