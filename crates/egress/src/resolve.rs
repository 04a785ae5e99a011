//! Asking name servers for the addresses of a name (RFC 1035).
//!
//! As the C library does it, with the node's own servers and nothing else: no search list, no file
//! of hosts, so a name means to a sandbox what it means to the world.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use lifecycle::Budget;
use model::HostName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::question::{Code, HEADER};

/// One server may take this long to answer one question.
const ANSWER_LIMIT: Duration = Duration::from_millis(1500);
/// How often every server is asked.
const ROUNDS: usize = 2;
/// The most addresses of a name that are used.
const ADDRESSES_MAX: usize = 16;
/// Records of an answer that are looked at.
const RECORDS_MAX: u16 = 256;
/// Where name servers are asked.
pub(crate) const PORT: u16 = 53;
/// The longest answer over UDP that is read; we ask for no more than 512 bytes (RFC 1035, 4.2.1).
const PACKET_MAX: usize = 4096;

const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;
const NO_SUCH_NAME: u8 = Code::NoSuchName as u8;

/// A name that leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error("{0} has no IPv4 address")]
    Nothing(HostName),
    #[error("no name server has answered for {name}")]
    NoAnswer {
        name: HostName,
        /// What the last one that was asked has done instead.
        source: io::Error,
    },
}

/// The node's name servers.
#[derive(Debug, Clone)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
}

impl Resolver {
    #[must_use]
    pub fn new(servers: &[Ipv4Addr]) -> Self {
        let server = |address: &Ipv4Addr| SocketAddr::from(SocketAddrV4::new(*address, PORT));
        Self { servers: servers.iter().map(server).collect() }
    }

    #[cfg(test)]
    pub(crate) fn at(server: SocketAddr) -> Self {
        Self { servers: vec![server] }
    }

    /// The IPv4 addresses of `name`, 16 at most, in the server's order.
    ///
    /// Cancel safety: yes.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub async fn lookup(&self, name: &HostName) -> Result<Vec<Ipv4Addr>, LookupError> {
        let mut last = io::Error::other("there is none");
        for server in std::iter::repeat_n(&self.servers, ROUNDS).flatten() {
            let asked = Budget::within(ANSWER_LIMIT).run("name server", ask(*server, name));
            match asked.await {
                Ok(Ok(addresses)) if addresses.is_empty() => {
                    return Err(LookupError::Nothing(name.clone()));
                }
                Ok(Ok(addresses)) => return Ok(addresses),
                Ok(Err(error)) => last = error,
                Err(expired) => last = io::Error::new(io::ErrorKind::TimedOut, expired),
            }
        }
        Err(LookupError::NoAnswer { name: name.clone(), source: last })
    }
}

/// Asks one server: no address is an answer, too.
async fn ask(server: SocketAddr, name: &HostName) -> io::Result<Vec<Ipv4Addr>> {
    let id = rand::random();
    let question = question(id, name);
    // The port is the kernel's choice: with the id, what a stranger would have to guess.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut packet = vec![0; PACKET_MAX];
    loop {
        let len = socket.recv(&mut packet).await?;
        match Answer::read(packet.get(..len).unwrap_or_default(), &question) {
            // Somebody else's, or nobody's.
            None => {}
            Some(Answer::Truncated) => return ask_whole(server, &question).await,
            Some(answer) => return answer.into_addresses(),
        }
    }
}

/// The same over TCP, where an answer may be long.
async fn ask_whole(server: SocketAddr, question: &[u8]) -> io::Result<Vec<Ipv4Addr>> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes(), question].concat()).await?;
    let len = stream.read_u16().await?;
    let mut packet = vec![0; usize::from(len)];
    stream.read_exact(&mut packet).await?;
    let answer = Answer::read(&packet, question);
    answer.unwrap_or(Answer::Failed(0)).into_addresses()
}

fn question(id: u16, name: &HostName) -> Vec<u8> {
    // Recursion desired, one question.
    let mut packet = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.as_str().split('.') {
        // A label of a HostName has 63 bytes at most.
        packet.push(u8::try_from(label.len()).unwrap_or_default());
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend(TYPE_A.to_be_bytes());
    packet.extend(CLASS_IN.to_be_bytes());
    packet
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Addresses(Vec<Ipv4Addr>),
    /// It did not fit.
    Truncated,
    /// The server's code for what went wrong.
    Failed(u8),
}

impl Answer {
    /// `None`: it is no answer to `question`.
    fn read(packet: &[u8], question: &[u8]) -> Option<Self> {
        let (header, body) = packet.split_at_checked(HEADER)?;
        let [id @ .., flags, code, q1, q2, a1, a2, _, _, _, _] = header else { return None };
        let (asked_id, asked) = (question.get(..2)?, question.get(HEADER..)?);
        let echoed = body.get(..asked.len())?;
        let is_answer = flags & 0x80 != 0 && [*q1, *q2] == [0, 1];
        if id != asked_id || !is_answer || !echoed.eq_ignore_ascii_case(asked) {
            return None;
        }
        if flags & 0x02 != 0 {
            return Some(Self::Truncated);
        }
        match code & 0x0f {
            0 => {}
            NO_SUCH_NAME => return Some(Self::Addresses(Vec::new())),
            code => return Some(Self::Failed(code)),
        }
        let records = u16::from_be_bytes([*a1, *a2]).min(RECORDS_MAX);
        let mut rest = body.get(asked.len()..)?;
        let mut addresses = Vec::new();
        for _ in 0..records {
            let Some((address, after)) = record(rest) else { return Some(Self::Failed(1)) };
            addresses.extend(address);
            rest = after;
        }
        addresses.truncate(ADDRESSES_MAX);
        Some(Self::Addresses(addresses))
    }

    fn into_addresses(self) -> io::Result<Vec<Ipv4Addr>> {
        match self {
            Self::Addresses(addresses) => Ok(addresses),
            Self::Truncated => Err(io::Error::other("a server's whole answer is cut short")),
            Self::Failed(code) => {
                Err(io::Error::other(format!("a server failed with code {code}")))
            }
        }
    }
}

/// The address in the first record of `bytes`, if it is one, and what comes after the record. Whose
/// it is does not matter: on the way there may be other names (CNAME), and the server has gone it.
fn record(bytes: &[u8]) -> Option<(Option<Ipv4Addr>, &[u8])> {
    let mut rest = bytes;
    loop {
        let (&len, after) = rest.split_first()?;
        match len {
            0 => {
                rest = after;
                break;
            }
            // A pointer to where the rest of the name is.
            0xc0.. => {
                rest = after.get(1..)?;
                break;
            }
            1..=63 => rest = after.get(usize::from(len)..)?,
            _ => return None,
        }
    }
    let (fixed, after) = rest.split_at_checked(10)?;
    let [t1, t2, c1, c2, _, _, _, _, l1, l2] = fixed else { return None };
    let (data, after) = after.split_at_checked(usize::from(u16::from_be_bytes([*l1, *l2])))?;
    let is_address = [*t1, *t2] == TYPE_A.to_be_bytes() && [*c1, *c2] == CLASS_IN.to_be_bytes();
    let address = <[u8; 4]>::try_from(data).ok().filter(|_| is_address);
    Some((address.map(Ipv4Addr::from), after))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::ErrorKind;
    use std::net::Ipv4Addr;

    use model::HostName;
    use proptest::prelude::{any, prop, proptest};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UdpSocket};

    use super::{Answer, LookupError, Resolver, question};

    fn name() -> HostName {
        "a.example.com".parse().unwrap()
    }

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, last)
    }

    /// The answer to `question` with a name on the way and the addresses that end in `lasts`.
    fn answer(question: &[u8], flags: [u8; 2], lasts: &[u8]) -> Vec<u8> {
        let mut packet = question.to_vec();
        packet[2..4].copy_from_slice(&flags);
        packet[7] = u8::try_from(lasts.len()).unwrap() + 1;
        packet.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, b'b', 0xc0, 14]);
        for last in lasts {
            packet.extend([1, b'b', 0xc0, 14, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
            packet.extend(address(*last).octets());
        }
        packet
    }

    #[test]
    fn the_addresses_at_the_end_of_the_way_are_the_answer() {
        let question = question(7, &name());
        let read = |packet: &[u8]| Answer::read(packet, &question);
        let good = answer(&question, [0x81, 0x80], &[1, 2]);
        assert_eq!(read(&good), Some(Answer::Addresses(vec![address(1), address(2)])));
        let many: Vec<u8> = (1..60).collect();
        let Some(Answer::Addresses(some)) = read(&answer(&question, [0x81, 0x80], &many)) else {
            panic!("no answer")
        };
        assert_eq!(some.len(), super::ADDRESSES_MAX);
        assert_eq!(read(&answer(&question, [0x83, 0x80], &[])), Some(Answer::Truncated));
        assert_eq!(read(&answer(&question, [0x81, 0x83], &[1])), Some(Answer::Addresses(vec![])));
        assert_eq!(read(&answer(&question, [0x81, 0x82], &[1])), Some(Answer::Failed(2)));
        for (at, what) in [(1, "id"), (2, "no answer"), (5, "questions"), (15, "name")] {
            let mut other = good.clone();
            other[at] = if at == 2 { 1 } else { other[at] ^ 1 };
            assert_eq!(read(&other), None, "another {what}");
        }
        assert_eq!(read(&good[..good.len() - 1]), Some(Answer::Failed(1)));
    }

    proptest! {
        #[test]
        fn any_packet_is_read_to_an_end(tail in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..99) {
            let question = question(7, &name());
            let mut packet = answer(&question, [0x81, 0x80], &[1]);
            packet.truncate(packet.len().saturating_sub(cut));
            packet.extend(tail);
            drop(Answer::read(&packet, &question));
        }
    }

    /// A server's two sockets. A port that the kernel has free for one protocol may be taken in the
    /// other by whoever else runs on the host: then another one is asked for.
    pub(crate) async fn one_port_of_both() -> (UdpSocket, TcpListener) {
        loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            match UdpSocket::bind(tcp.local_addr().unwrap()).await {
                Ok(udp) => return (udp, tcp),
                Err(error) => assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}"),
            }
        }
    }

    #[tokio::test]
    async fn a_stranger_is_not_heard_and_what_is_cut_short_is_asked_for_again() {
        let (udp, tcp) = one_port_of_both().await;
        let at = udp.local_addr().unwrap();
        let serve = async {
            let mut packet = [0; 512];
            let (len, from) = udp.recv_from(&mut packet).await.unwrap();
            let mut other = answer(&packet[..len], [0x81, 0x80], &[66]);
            other[0] ^= 1;
            udp.send_to(&other, from).await.unwrap();
            udp.send_to(&answer(&packet[..len], [0x83, 0x80], &[]), from).await.unwrap();
            let (mut stream, _) = tcp.accept().await.unwrap();
            let len = stream.read_u16().await.unwrap();
            let mut packet = vec![0; usize::from(len)];
            stream.read_exact(&mut packet).await.unwrap();
            let whole = answer(&packet, [0x81, 0x80], &[3]);
            stream.write_u16(u16::try_from(whole.len()).unwrap()).await.unwrap();
            stream.write_all(&whole).await.unwrap();
        };
        let (resolver, asked) = (Resolver::at(at), name());
        let (found, ()) = tokio::join!(resolver.lookup(&asked), serve);
        assert_eq!(found.unwrap(), [address(3)]);
    }

    #[tokio::test]
    async fn a_name_that_is_not_there_is_told_from_servers_that_are_not() {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = Resolver::at(udp.local_addr().unwrap());
        let serve = async {
            let mut packet = [0; 512];
            let (len, from) = udp.recv_from(&mut packet).await.unwrap();
            udp.send_to(&answer(&packet[..len], [0x81, 0x83], &[]), from).await.unwrap();
        };
        let asked = name();
        let (found, ()) = tokio::join!(resolver.lookup(&asked), serve);
        assert!(matches!(found, Err(LookupError::Nothing(_))), "{found:?}");
        drop(udp);
        let found = resolver.lookup(&name()).await;
        assert!(matches!(found, Err(LookupError::NoAnswer { .. })), "{found:?}");
    }
}
