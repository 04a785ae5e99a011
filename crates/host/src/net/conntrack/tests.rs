use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use lifecycle::Budget;

use super::{Conntrack, End, QUICK, forget, forget_if_quick};
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
        let budget = Budget::within(Duration::from_secs(30));
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

#[test]
fn the_connections_of_one_address_are_forgotten_in_both_directions_and_no_others() {
    in_network_with_memory(|| {
        forget(GONE).unwrap();
        let connections = connect();
        assert_eq!(remembered(), all());
        forget(GONE).unwrap();
        assert_eq!(remembered(), those_that_stay());
        // Nothing to forget is nothing to do.
        forget(GONE).unwrap();
        assert_eq!(remembered(), those_that_stay());
        drop(connections);
    });
}

#[test]
fn a_kernel_that_cannot_pick_them_out_removes_them_one_by_one() {
    in_network_with_memory(|| {
        let connections = connect();
        assert_eq!(remembered(), all());
        let mut conntrack = Conntrack::open().unwrap();
        for end in End::BOTH {
            conntrack.remove_each(end, GONE).unwrap();
            conntrack.remove_each(end, GONE).unwrap();
        }
        assert_eq!(remembered(), those_that_stay());
        drop(connections);
    });
}

#[test]
fn a_release_forgets_what_was_opened_from_an_address_unless_that_takes_long() {
    in_network_with_memory(|| {
        let connections = connect();
        forget_if_quick(GONE).unwrap();
        let opened_by_others = pairs(&[(STAYS, SERVER), (SERVER, GONE), (SERVER, STAYS)]);
        assert_eq!(remembered(), opened_by_others);
        let many = UdpSocket::bind((GONE, 0)).unwrap();
        for port in 1..=u16::try_from(QUICK).unwrap() {
            many.send_to(b"x", (SERVER, port)).unwrap();
        }
        forget_if_quick(GONE).unwrap();
        assert!(remembered().contains(&(GONE.to_string(), SERVER.to_string())), "left for later");
        forget(GONE).unwrap();
        assert_eq!(remembered(), those_that_stay());
        drop(connections);
    });
}
