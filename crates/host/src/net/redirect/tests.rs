use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use lifecycle::Budget;
use rustix::io::Errno;
use rustix::net::{SocketType, connect};

use super::{Handover, Inlets, Redirect, inside, socket};
use crate::cgroup::Layout;
use crate::identity::Claim;
use crate::net::{Slot, Subnet, is_linked};
use crate::thread::testing::wait_until;

const NFT: &str = "/usr/sbin/nft";
/// Each test has a block of its own.
const SLOT: u16 = 5;
/// Nobody's (RFC 5737).
const THERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 80);
const OPEN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), 80);
const RESOLVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 53), 53);

fn in_slot(test: impl AsyncFnOnce(&Slot, &Redirect)) {
    let dir = tempfile::tempdir().unwrap();
    let claim = Claim::take(dir.path(), Ipv4Addr::new(10, 213, 0, 0)).unwrap();
    let root = Layout::detect().unwrap().unified_path().unwrap().to_path_buf();
    let cgroup = fs::File::open(root).unwrap();
    let slot = Slot::create(claim.mark(), SLOT, 49983, cgroup.as_fd()).unwrap();
    let redirect = Redirect::of(&slot).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(test(&slot, &redirect));
    drop((redirect, slot));
    wait_until("the link to go", || !is_linked(claim.mark(), SLOT));
    claim.give_back().unwrap();
}

fn soon() -> Budget {
    Budget::within(Duration::from_secs(60))
}

fn subnet(address: Ipv4Addr, prefix_len: u8) -> Subnet {
    Subnet { first: address, prefix_len }
}

/// What becomes of a program's connection in the first moment; with no answer it is under way.
fn begin(slot: &Slot, to: SocketAddrV4) -> Option<Errno> {
    inside(slot.netns(), || Ok(connect(socket(SocketType::STREAM)?, &to).err())).unwrap()
}

/// What becomes of a program's packet.
fn send(slot: &Slot, to: SocketAddrV4) -> io::Result<usize> {
    inside(slot.netns(), || UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", to))
}

fn accept(listener: OwnedFd) -> TcpStream {
    let listener = TcpListener::from(listener);
    listener.set_nonblocking(false).unwrap();
    listener.accept().unwrap().0
}

#[test]
fn what_would_be_denied_is_handed_over_with_its_destination_and_the_rest_is_as_it_was() {
    in_slot(async |slot, redirect| {
        let Inlets { connections: listener, ports, .. } = redirect.listen().unwrap();
        let handover = Handover {
            everything: false,
            only_tcp: false,
            resolvers: &[*RESOLVER.ip()],
            asked: &[],
            open: &[subnet(*OPEN.ip(), 32)],
            closed: &[subnet(Ipv4Addr::UNSPECIFIED, 0)],
        };
        redirect.apply(Path::new(NFT), handover, ports, soon()).await.unwrap();
        let mut program = inside(slot.netns(), || TcpStream::connect(THERE)).unwrap();
        program.write_all(b"hello").unwrap();
        let mut taken = accept(listener);
        assert_eq!(Redirect::origin(taken.as_fd()).unwrap(), THERE);
        let mut said = [0; 5];
        taken.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hello");

        // The socket is gone: as when there is no daemon. A child that another test starts at this
        // moment has a copy of it until it execs.
        drop((taken, program));
        let again = || inside(slot.netns(), || TcpStream::connect(THERE)).map(drop);
        let is_refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        wait_until("it to be refused", || again().is_err_and(is_refused));

        // Nobody is there, but they are on their way.
        assert_eq!(begin(slot, OPEN), Some(Errno::INPROGRESS));
        let ours = redirect.open().unwrap();
        assert_eq!(connect(&ours, &THERE), Err(Errno::INPROGRESS));
        assert_eq!(send(slot, RESOLVER).unwrap(), 1);
        assert_eq!(send(slot, OPEN).unwrap(), 1);
        send(slot, THERE).unwrap_err();
        let other_port = SocketAddrV4::new(*RESOLVER.ip(), 54);
        send(slot, other_port).unwrap_err();

        redirect.clear(Path::new(NFT), soon()).await.unwrap();
        redirect.clear(Path::new(NFT), soon()).await.unwrap();
        assert_eq!(begin(slot, THERE), Some(Errno::INPROGRESS));
        assert_eq!(send(slot, THERE).unwrap(), 1);
    });
}

#[test]
fn everything_is_handed_over_and_nothing_else_gets_out() {
    in_slot(async |slot, redirect| {
        let Inlets { connections: listener, ports, .. } = redirect.listen().unwrap();
        let handover = Handover {
            everything: true,
            only_tcp: true,
            resolvers: &[],
            asked: &[],
            open: &[subnet(*OPEN.ip(), 32)],
            closed: &[],
        };
        redirect.apply(Path::new(NFT), handover, ports, soon()).await.unwrap();
        let program = inside(slot.netns(), || TcpStream::connect(OPEN)).unwrap();
        assert_eq!(Redirect::origin(accept(listener).as_fd()).unwrap(), OPEN);
        drop(program);
        for to in [OPEN, THERE, RESOLVER] {
            send(slot, to).unwrap_err();
        }
        // The way to the host is how the sandbox is reached.
        let host = SocketAddrV4::new(slot.net().host, 9);
        assert_eq!(send(slot, host).unwrap(), 1);
    });
}

#[test]
fn rules_that_are_refused_leave_those_before_in_force() {
    in_slot(async |slot, redirect| {
        let Inlets { ports, .. } = redirect.listen().unwrap();
        let all = [subnet(Ipv4Addr::UNSPECIFIED, 0)];
        let handover = Handover {
            everything: false,
            only_tcp: false,
            resolvers: &[],
            asked: &[],
            open: &[],
            closed: &all,
        };
        redirect.apply(Path::new(NFT), handover, ports, soon()).await.unwrap();
        let wrong = [subnet(Ipv4Addr::UNSPECIFIED, 33)];
        let handover = Handover { closed: &wrong, ..handover };
        redirect.apply(Path::new(NFT), handover, ports, soon()).await.unwrap_err();
        send(slot, THERE).unwrap_err();
        redirect.apply(Path::new("/bin/false"), handover, ports, soon()).await.unwrap_err();
        send(slot, THERE).unwrap_err();
    });
}

#[test]
fn questions_are_handed_over_and_answered_from_where_they_were_asked() {
    in_slot(async |slot, redirect| {
        let inlets = redirect.listen().unwrap();
        let other = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 54), 53);
        let before = Handover {
            everything: false,
            only_tcp: false,
            resolvers: &[],
            asked: &[],
            open: &[subnet(*RESOLVER.ip(), 32)],
            closed: &[subnet(Ipv4Addr::UNSPECIFIED, 0)],
        };
        redirect.apply(Path::new(NFT), before, inlets.ports, soon()).await.unwrap();
        let known = inside(slot.netns(), || UdpSocket::bind("0.0.0.0:0")).unwrap();
        known.send_to(b"x", RESOLVER).unwrap();

        let asked = &[*RESOLVER.ip(), *other.ip()];
        let handover = Handover { asked, ..before };
        redirect.apply(Path::new(NFT), handover, inlets.ports, soon()).await.unwrap();
        known.send_to(b"x", RESOLVER).unwrap_err();
        let questions = UdpSocket::from(inlets.questions);
        questions.set_nonblocking(false).unwrap();
        let mut packet = [0; 16];
        // One socket that asks several servers at a time is what musl has.
        let program = inside(slot.netns(), || UdpSocket::bind("0.0.0.0:0")).unwrap();
        for server in [RESOLVER, other] {
            program.send_to(b"question", server).unwrap();
            let (len, from) = questions.recv_from(&mut packet).unwrap();
            assert_eq!(&packet[..len], b"question");
            questions.send_to(b"answer", from).unwrap();
            let (len, from) = program.recv_from(&mut packet).unwrap();
            assert_eq!((&packet[..len], from), (&b"answer"[..], server.into()));
        }
        let stream = inside(slot.netns(), || TcpStream::connect(RESOLVER)).unwrap();
        assert_eq!(Redirect::origin(accept(inlets.connections).as_fd()).unwrap(), RESOLVER);
        drop(stream);

        // What else of it is open goes by the rules, and the daemon's own are let through.
        send(slot, SocketAddrV4::new(*RESOLVER.ip(), 54)).unwrap();
        send(slot, SocketAddrV4::new(*other.ip(), 54)).unwrap_err();
        let ours = UdpSocket::from(redirect.open_for_packets().unwrap());
        assert_eq!(ours.send_to(b"x", other).unwrap(), 1);
        // As when there is no daemon.
        drop(questions);
        let program = inside(slot.netns(), || UdpSocket::bind("0.0.0.0:0")).unwrap();
        program.connect(RESOLVER).unwrap();
        program.send(b"question").unwrap();
        let refused = program.recv(&mut packet).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn no_flood_of_questions_is_handed_over() {
    in_slot(async |slot, redirect| {
        let Inlets { ports, .. } = redirect.listen().unwrap();
        let handover = Handover {
            everything: false,
            only_tcp: false,
            resolvers: &[],
            asked: &[*RESOLVER.ip()],
            open: &[],
            closed: &[subnet(Ipv4Addr::UNSPECIFIED, 0)],
        };
        redirect.apply(Path::new(NFT), handover, ports, soon()).await.unwrap();
        let program = inside(slot.netns(), || UdpSocket::bind("0.0.0.0:0")).unwrap();
        let lost = (0..100_000).find(|_| program.send_to(b"x", RESOLVER).is_err());
        // A packet that is dropped on its way out is told to whoever has sent it.
        assert!(lost.is_some_and(|sent| sent >= 2000), "{lost:?}");
    });
}
