use std::fs;
use std::io;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use lifecycle::{Budget, Owned};
use rustix::net::{AddressFamily, SocketType, ipproto, socket};
use rustix::process::Gid;
use rustix::thread::set_thread_res_gid;

use super::{Netlink, Slot, inside};
use crate::cgroup::Layout;
use crate::identity::Claim;
use crate::net::connections::end_all;
use crate::net::{is_linked, linked_slots};
use crate::thread::testing::{in_new_network, wait_until};

fn close(slot: Slot) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let budget = Budget::within(Duration::from_secs(60));
    drop(runtime.block_on(Owned::adopt(slot).close(budget)).unwrap());
}

/// Sends to who does not read, until the kernel takes no more.
fn fill(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    loop {
        match stream.write(&[0; 64 * 1024]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            written => written?,
        };
    }
}

#[test]
fn programs_of_a_slot_may_ping_whatever_their_group_and_no_others_may() {
    let dir = tempfile::tempdir().unwrap();
    let claim = Claim::take(dir.path(), Ipv4Addr::new(10, 213, 0, 0)).unwrap();
    let root = Layout::detect().unwrap().unified_path().unwrap().to_path_buf();
    let cgroup = fs::File::open(root).unwrap();
    let slot = Slot::create(claim.mark(), 3, 49983, cgroup.as_fd()).unwrap();
    let base = slot.net().uid_base;
    let ping_as = |group: u32| {
        inside(slot.netns(), || {
            let gid = Gid::from_raw(group);
            set_thread_res_gid(gid, gid, gid)?;
            Ok(socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP))?)
        })
    };
    for inside in [0, 1000, 65_535] {
        ping_as(base + inside).unwrap();
    }
    let stranger = ping_as(base + 65_536).unwrap_err();
    assert_eq!(stranger.raw_os_error(), Some(libc::EACCES));
    drop(slot);
    wait_until("the link to go", || !is_linked(claim.mark(), 3));
    claim.give_back().unwrap();
}

#[test]
fn what_is_sent_to_a_peer_that_does_not_read_keeps_no_slot_that_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let claim = Claim::take(dir.path(), Ipv4Addr::new(10, 213, 0, 0)).unwrap();
    let root = Layout::detect().unwrap().unified_path().unwrap().to_path_buf();
    let cgroup = fs::File::open(root).unwrap();
    let slot = Slot::create(claim.mark(), 4, 49983, cgroup.as_fd()).unwrap();
    let host = slot.net().host;
    let server = TcpListener::bind((host, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    // As programs of both families do it.
    let addresses = [IpAddr::from(host), IpAddr::from(host.to_ipv6_mapped())];
    inside(slot.netns(), || {
        for address in addresses {
            let stream = TcpStream::connect((address, port))?;
            fill(&stream)?;
        }
        Ok(())
    })
    .unwrap();
    let peers = addresses.map(|_| server.accept().unwrap().0);
    close(slot);
    wait_until("the link to go", || !is_linked(claim.mark(), 4));
    drop(peers);
    claim.give_back().unwrap();
}

#[test]
fn the_connections_of_one_network_are_ended_and_no_others() {
    let pair = || {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        (client, server.accept().unwrap().0, server)
    };
    let (mut outer, ..) = pair();
    in_new_network(|| {
        let mut netlink = Netlink::open().unwrap();
        let loopback = netlink.index_of("lo").unwrap();
        netlink.set_up(loopback).unwrap();
        assert_eq!(end_all().unwrap(), 0);
        let pairs: Vec<_> = std::iter::repeat_with(pair).take(500).collect();
        // More than the kernel tells of at once; who listens is no connection.
        assert_eq!(end_all().unwrap(), 1000);
        assert_eq!(end_all().unwrap(), 0);
        for (mut client, ..) in pairs {
            assert!(client.write(b"x").is_err(), "it is still open");
        }
    });
    outer.write_all(b"x").unwrap();
}

#[test]
fn links_are_those_of_the_network_of_who_asks_whatever_is_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let claim = Claim::take(dir.path(), Ipv4Addr::new(10, 213, 0, 0)).unwrap();
    let mark = claim.mark();
    let root = Layout::detect().unwrap().unified_path().unwrap().to_path_buf();
    let cgroup = fs::File::open(root).unwrap();
    let slot = |index| Slot::create(mark, index, 49983, cgroup.as_fd()).unwrap();
    let seen = |indexes: [u16; 2]| indexes.map(|index| is_linked(mark, index));
    let outer = slot(5);
    in_new_network(|| {
        assert_eq!(seen([5, 6]), [false, false]);
        let inner = slot(6);
        assert_eq!(seen([5, 6]), [false, true]);
        assert_eq!(linked_slots(mark).unwrap(), [6]);
        close(inner);
        wait_until("the link to go", || linked_slots(mark).unwrap().is_empty());
        assert_eq!(seen([5, 6]), [false, false]);
    });
    assert_eq!(seen([5, 6]), [true, false]);
    assert_eq!(linked_slots(mark).unwrap(), [5]);
    close(outer);
    wait_until("the link to go", || !is_linked(mark, 5));
    claim.give_back().unwrap();
}

/// The processes in a cgroup of a test's own.
#[cfg(feature = "fault-injection")]
fn processes(cgroup: &std::path::Path) -> String {
    fs::read_to_string(cgroup.join("cgroup.procs")).unwrap()
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_slot_whose_making_fails_after_any_step_leaves_nothing() {
    use crate::thread::testing::with_own_descriptors;
    use crate::{Fault, Faults};

    let dir = tempfile::tempdir().unwrap();
    let claim = Claim::take(dir.path(), Ipv4Addr::new(10, 213, 0, 0)).unwrap();
    let mark = claim.mark();
    let root = Layout::detect().unwrap().unified_path().unwrap().to_path_buf();
    let path = root.join(format!("cofferdam-test-slot-{}", std::process::id()));
    fs::create_dir(&path).unwrap();
    let cgroup = fs::File::open(&path).unwrap();
    with_own_descriptors(|| {
        let descriptors = || fs::read_dir("/proc/thread-self/fd").unwrap().count();
        let faults = Faults::default();
        let make = |index| Slot::create_with(mark, index, 49983, cgroup.as_fd(), &faults);
        let before = descriptors();
        for (index, point) in (7..).zip(Slot::POINTS) {
            for fault in [Fault::Error, Fault::Panic] {
                faults.arm(point, fault, 1);
                let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| make(index)));
                match (fault, made) {
                    (Fault::Error, Ok(Err(error))) => {
                        assert_eq!(error.source.to_string(), format!("fault injected at {point}"));
                    }
                    (Fault::Panic, Err(_panic)) => {}
                    (_, made) => panic!("{point} {fault:?}: {made:?}"),
                }
                assert!(faults.left().is_empty(), "{point} was not reached");
                assert_eq!(descriptors(), before, "{point} {fault:?}");
                assert_eq!(processes(&path), "", "{point} {fault:?}");
                // The kernel takes it away with the namespaces, which nobody holds.
                wait_until("the link to go", || !is_linked(mark, index));
            }
            // Nothing is in its way.
            drop(make(index).unwrap());
            assert_eq!(descriptors(), before, "{point}");
            wait_until("the link to go", || !is_linked(mark, index));
        }
    });
    fs::remove_dir(&path).unwrap();
    claim.give_back().unwrap();
}
