//! A netlink socket on which one request at a time is answered.

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{
    DecodeError, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto,
    socket_with,
};

/// The most that is read at a time: the kernel makes no larger parts of a list, and an
/// acknowledgement has a copy of the request.
const MAX_ANSWER: usize = 32 * 1024;
/// Where a message begins behind another one.
const ALIGNMENT: u32 = 4;

/// Belongs to the network namespace of the thread that opened it, for good.
#[derive(Debug)]
pub(super) struct Channel {
    socket: OwnedFd,
    sequence: u32,
}

impl Channel {
    /// Opens a socket in the calling thread's network namespace. Without a protocol it is
    /// `NETLINK_ROUTE`, which is the family's 0.
    pub(super) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks, and gives every message of the answer to `take`. Blocks until the kernel has said all:
    /// with `NLM_F_DUMP` that is the end of the list, with `NLM_F_ACK` the acknowledgement. One of
    /// them must be in `flags`.
    pub(super) fn request<M>(
        &mut self,
        message: M,
        flags: u16,
        mut take: impl FnMut(M),
    ) -> io::Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        sendto(&self.socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut buffer = vec![0; MAX_ANSWER];
        while !self.receive(&mut buffer, &mut take)? {}
        Ok(())
    }

    /// One datagram of answers. Whether it has the last one.
    fn receive<M>(&self, buffer: &mut [u8], take: &mut impl FnMut(M)) -> io::Result<bool>
    where
        M: NetlinkDeserializable,
    {
        let (len, _) = recv(&self.socket, &mut *buffer, RecvFlags::empty())?;
        let mut rest = buffer.get(..len).unwrap_or_default();
        while !rest.is_empty() {
            let length = NetlinkBuffer::new_checked(rest).map_err(nonsense)?.length();
            let packet = NetlinkMessage::<M>::deserialize(rest).map_err(nonsense)?;
            // Lengths are told without what fills up to four bytes.
            let next = usize::try_from(length.next_multiple_of(ALIGNMENT)).unwrap_or(usize::MAX);
            rest = rest.get(next..).unwrap_or_default();
            if packet.header.sequence_number != self.sequence {
                continue;
            }
            match packet.payload {
                NetlinkPayload::InnerMessage(message) => take(message),
                // A list that could not be told to its end says so there.
                NetlinkPayload::Done(done) => return outcome(done.code).map(|()| true),
                NetlinkPayload::Error(error) => {
                    return outcome(error.code.map_or(0, std::num::NonZero::get)).map(|()| true);
                }
                _other => {}
            }
        }
        Ok(false)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What the kernel says at the end: 0, or the negative number of an error.
fn outcome(code: i32) -> io::Result<()> {
    if code < 0 { Err(io::Error::from_raw_os_error(code.saturating_abs())) } else { Ok(()) }
}

fn nonsense(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
