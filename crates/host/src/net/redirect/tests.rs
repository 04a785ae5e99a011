use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use lifecycle::Budget;
use rustix::io::Errno;
use rustix::net::connect;

use super::{Handover, Redirect, inside, tcp};
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
    inside(slot.netns(), || Ok(connect(tcp()?, &to).err())).unwrap()
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
        let (listener, port) = redirect.listen().unwrap();
        let handover = Handover {
            everything: false,
            only_tcp: false,
            resolvers: &[*RESOLVER.ip()],
            open: &[subnet(*OPEN.ip(), 32)],
            closed: &[subnet(Ipv4Addr::UNSPECIFIED, 0)],
        };
        redirect.apply(Path::new(NFT), handover, port, soon()).await.unwrap();
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
        let (listener, port) = redirect.listen().unwrap();
        let handover = Handover {
            everything: true,
            only_tcp: true,
            resolvers: &[],
            open: &[subnet(*OPEN.ip(), 32)],
            closed: &[],
        };
        redirect.apply(Path::new(NFT), handover, port, soon()).await.unwrap();
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
        let (_listener, port) = redirect.listen().unwrap();
        let all = [subnet(Ipv4Addr::UNSPECIFIED, 0)];
        let handover = Handover {
            everything: false,
            only_tcp: false,
            resolvers: &[],
            open: &[],
            closed: &all,
        };
        redirect.apply(Path::new(NFT), handover, port, soon()).await.unwrap();
        let wrong = [subnet(Ipv4Addr::UNSPECIFIED, 33)];
        let handover = Handover { closed: &wrong, ..handover };
        redirect.apply(Path::new(NFT), handover, port, soon()).await.unwrap_err();
        send(slot, THERE).unwrap_err();
        redirect.apply(Path::new("/bin/false"), handover, port, soon()).await.unwrap_err();
        send(slot, THERE).unwrap_err();
    });
}
