//! The TCP connections that are open in a sandbox's network, by `sock_diag(7)`.
//!
//! One whose program has ended lives on for as long as it has to send something, and its network with
//! it, and that network's link on the host. A peer that never reads, and says so when it is asked,
//! makes that minutes.

use std::fs;
use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NetlinkDeserializable, NetlinkHeader, NetlinkPayload,
    NetlinkSerializable,
};
use rustix::io::Errno;
use rustix::net::netlink;

use super::channel::Channel;
use crate::proc::kernel_version;

// linux/sock_diag.h, linux/inet_diag.h and net/tcp_states.h; the numbers are the kernel's interface.
const LIST: u16 = 20;
const DESTROY: u16 = 21;
const TCP: u8 = 6;
/// Each with where its sockets are counted. No link of a slot speaks IPv6, but sockets of that family
/// speak IPv4 as well.
const FAMILIES: [(u8, &str, &str); 2] = [
    (2, "/proc/thread-self/net/sockstat", "TCP: inuse "),
    (10, "/proc/thread-self/net/sockstat6", "TCP6: inuse "),
];
/// Each but those that keep no network alive: closed ones and listening ones end with their programs,
/// and what waits for stragglers, or is not accepted yet, goes with the network.
const STATES: u32 = {
    const ESTABLISHED: u32 = 1;
    const SYN_SENT: u32 = 2;
    const SYN_RECV: u32 = 3;
    const FIN_WAIT1: u32 = 4;
    const FIN_WAIT2: u32 = 5;
    const CLOSE_WAIT: u32 = 8;
    const LAST_ACK: u32 = 9;
    const CLOSING: u32 = 11;
    1 << ESTABLISHED
        | 1 << SYN_SENT
        | 1 << SYN_RECV
        | 1 << FIN_WAIT1
        | 1 << FIN_WAIT2
        | 1 << CLOSE_WAIT
        | 1 << LAST_ACK
        | 1 << CLOSING
};
/// Ports, addresses, interface, cookie: what tells one socket from all others.
const ID: usize = 48;
/// Family and three more bytes come before the id in an answer.
const ANSWER_HEAD: usize = 4;
/// Family, protocol, extensions, a byte of nothing, states.
const REQUEST_HEAD: usize = 8;

/// Before it, a connection that is ended after its program only loses what it had to send, and with
/// that whatever would have ended it: it stays for good (mended by "tcp: fix forever orphan socket caused
/// by `tcp_abort`"). Left alone it goes when the kernel gives up on the peer.
const OLDEST_KERNEL: (u32, u32) = (6, 12);

/// Ends every TCP connection in the calling thread's network namespace, whoever has it, and says how
/// many there were. The peers are told by a reset.
///
/// Blocks for some 10 µs where there is none, and for a second with a hundred thousand. A kernel that
/// cannot do it leaves them all.
///
/// # Errors
/// What the kernel says. Some may be ended by then.
pub(super) fn end_all() -> io::Result<usize> {
    if kernel_version().is_none_or(|version| version < OLDEST_KERNEL) {
        tracing::debug!("this kernel ends connections by itself only");
        return Ok(0);
    }
    match end_found() {
        // Built without it (CONFIG_INET_DIAG, CONFIG_INET_DIAG_DESTROY).
        Err(error) if is_absent(&error) => {
            tracing::debug!(%error, "this kernel ends connections by itself only");
            Ok(0)
        }
        ended => ended,
    }
}

fn is_absent(error: &io::Error) -> bool {
    let absent = [Errno::NOENT, Errno::INVAL, Errno::OPNOTSUPP, Errno::PROTONOSUPPORT];
    Errno::from_io_error(error).is_some_and(|errno| absent.contains(&errno))
}

fn end_found() -> io::Result<usize> {
    let used = FAMILIES.into_iter().filter(|(_, counts, name)| may_have_sockets(counts, name));
    let used: Vec<u8> = used.map(|(family, ..)| family).collect();
    if used.is_empty() {
        return Ok(0);
    }
    let mut channel = Channel::open(Some(netlink::SOCK_DIAG))?;
    // All are found first: of a list that is shortened meanwhile the kernel skips some.
    let mut found = Vec::new();
    for family in used {
        let all = Message { kind: LIST, family, id: [0; ID] };
        channel.request(all, NLM_F_DUMP, |message| found.push(message))?;
    }
    let count = found.len();
    for Message { family, id, .. } in found {
        let end = Message { kind: DESTROY, family, id };
        match channel.request(end, NLM_F_ACK, |_none| {}) {
            // It has gone meanwhile.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {}
            ended => ended?,
        }
    }
    Ok(count)
}

/// Whether the calling thread's network has sockets of a family, listening ones included. To list them
/// the kernel looks through the places of all that the host might have: up to a millisecond.
fn may_have_sockets(counts: &str, name: &str) -> bool {
    match fs::read_to_string(counts) {
        Ok(text) => text.lines().filter_map(|line| line.strip_prefix(name)).any(|counted| {
            let count = counted.split(' ').next();
            count != Some("0")
        }),
        // A kernel without the family.
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(_) => true,
    }
}

/// `inet_diag_req_v2` on its way to the kernel, and the first part of `inet_diag_msg` on the way back.
#[derive(Debug)]
struct Message {
    kind: u16,
    family: u8,
    /// As the kernel has it: the cookie spares a new connection of the same name.
    id: [u8; ID],
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        REQUEST_HEAD + ID
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (head, id) = buffer.split_at_mut(REQUEST_HEAD);
        let (what, states) = head.split_at_mut(ANSWER_HEAD);
        what.copy_from_slice(&[self.family, TCP, 0, 0]);
        states.copy_from_slice(&STATES.to_ne_bytes());
        id.copy_from_slice(&self.id);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let id = payload.get(ANSWER_HEAD..).and_then(|rest| rest.first_chunk::<ID>());
        match (payload.first(), id) {
            (Some(&family), Some(&id)) => Ok(Self { kind: header.message_type, family, id }),
            _ => Err("a socket without a name".into()),
        }
    }
}

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        Self::InnerMessage(message)
    }
}
