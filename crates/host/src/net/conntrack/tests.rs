use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use lifecycle::Budget;

use super::forget;
use crate::Mark;
use crate::net::Firewall;
use crate::net::netlink::Netlink;
use crate::thread::testing::in_new_network;

const GONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);
const STAYS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);

/// The source and destination of what this thread's network remembers.
fn remembered() -> BTreeSet<(String, String)> {
    let text = fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
    let word = |line: &str, name: &str| {
        line.split_whitespace().find_map(|word| word.strip_prefix(name)).unwrap().to_owned()
    };
    text.lines().map(|line| (word(line, "src="), word(line, "dst="))).collect()
}

fn pairs(expected: &[(Ipv4Addr, Ipv4Addr)]) -> BTreeSet<(String, String)> {
    expected.iter().map(|(from, to)| (from.to_string(), to.to_string())).collect()
}

/// A network of its own, whose firewall makes the kernel remember connections.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn in_network_with_memory(test: impl FnOnce() + Send) {
    if !fs::exists("/proc/sys/net/netfilter/nf_conntrack_max").unwrap() {
        println!("skipped, because this kernel remembers no connections");
        return;
    }
    in_new_network(|| {
        let mut netlink = Netlink::open().unwrap();
        let loopback = netlink.index_of("lo").unwrap();
        netlink.set_up(loopback).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let mark = Mark::new(14, Ipv4Addr::new(10, 213, 0, 0));
        let firewall = Firewall::new(PathBuf::from("/usr/sbin/nft"), mark);
        let budget = Budget::within(Duration::from_secs(60));
        runtime.unwrap().block_on(firewall.apply(&[], budget)).unwrap();
        test();
    });
}

/// Connections of both kinds and in both directions; they are open as long as this is kept.
fn connect() -> Vec<(TcpListener, TcpStream, UdpSocket)> {
    [(GONE, SERVER), (STAYS, SERVER), (SERVER, GONE), (SERVER, STAYS)]
        .into_iter()
        .map(|(from, to)| {
            let udp = UdpSocket::bind((from, 0)).unwrap();
            udp.send_to(b"x", (to, 9)).unwrap();
            let listener = TcpListener::bind((to, 0)).unwrap();
            let at = listener.local_addr().unwrap();
            let socket = rustix::net::socket(
                rustix::net::AddressFamily::INET,
                rustix::net::SocketType::STREAM,
                None,
            );
            let socket = socket.unwrap();
            rustix::net::bind(&socket, &std::net::SocketAddr::from((from, 0))).unwrap();
            rustix::net::connect(&socket, &at).unwrap();
            (listener, TcpStream::from(socket), udp)
        })
        .collect()
}

fn all() -> BTreeSet<(String, String)> {
    pairs(&[(GONE, SERVER), (STAYS, SERVER), (SERVER, GONE), (SERVER, STAYS)])
}

fn those_that_stay() -> BTreeSet<(String, String)> {
    pairs(&[(STAYS, SERVER), (SERVER, STAYS)])
}

fn is_gone(address: Ipv4Addr) -> bool {
    address == GONE
}

#[test]
fn the_connections_of_an_address_are_forgotten_in_both_directions_and_no_others() {
    in_network_with_memory(|| {
        assert_eq!(forget(is_gone).unwrap(), 0);
        let connections = connect();
        assert_eq!(remembered(), all());
        // By UDP and by TCP, from it and to it.
        assert_eq!(forget(is_gone).unwrap(), 4);
        assert_eq!(remembered(), those_that_stay());
        // Nothing to forget is nothing to do.
        assert_eq!(forget(is_gone).unwrap(), 0);
        assert_eq!(remembered(), those_that_stay());
        drop(connections);
    });
}

#[test]
fn the_connections_of_many_addresses_are_found_among_many_others_in_one_go() {
    const EACH: u16 = 20;
    let address = |last| Ipv4Addr::new(127, 0, 1, last);
    in_network_with_memory(|| {
        // More than the kernel tells of at once.
        for last in 1..=100 {
            let socket = UdpSocket::bind((address(last), 0)).unwrap();
            for port in 1..=EACH {
                socket.send_to(b"x", (SERVER, port)).unwrap();
            }
        }
        assert_eq!(remembered().len(), 100);
        let is_even = |address: Ipv4Addr| address.octets()[3].is_multiple_of(2);
        assert_eq!(forget(is_even).unwrap(), 50 * usize::from(EACH));
        let odd: Vec<_> = (1..=100).step_by(2).map(|last| (address(last), SERVER)).collect();
        assert_eq!(remembered(), pairs(&odd));
    });
}

#[test]
fn no_connection_is_remembered_to_an_address_whose_link_is_not_there() {
    let mark = Mark::new(14, Ipv4Addr::new(10, 213, 0, 0));
    in_network_with_memory(|| {
        // A way there that is no slot's, as the host's way out is.
        let mut netlink = Netlink::open().unwrap();
        let own = fs::File::open("/proc/thread-self/ns/net").unwrap();
        netlink.add_veth("out", "far", std::os::fd::AsFd::as_fd(&own)).unwrap();
        for link in ["far", "out"] {
            let index = netlink.index_of(link).unwrap();
            netlink.set_up(index).unwrap();
        }
        let out = netlink.index_of("out").unwrap();
        netlink.add_address(out, mark.host_address(3), 20).unwrap();
        let udp = UdpSocket::bind((SERVER, 0)).unwrap();
        udp.send_to(b"x", (STAYS, 9)).unwrap();
        let other = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let refused = other.send_to(b"x", (mark.guest_address(7), 9)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        assert_eq!(remembered(), pairs(&[(SERVER, STAYS)]));
    });
}
