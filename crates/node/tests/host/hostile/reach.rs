//! Whom a sandbox reaches with signals and datagrams: itself.

use std::net::{IpAddr, UdpSocket};

use host::census::Item;
use node_wire::NodeApi as _;
use serde_json::json;
use testkit::{TestNode, in_view};

use super::{LIMIT, call};
use crate::guest::run;
use crate::requirements::census;

/// The processes of all sandboxes, as the host numbers them.
fn pids(items: &[Item]) -> Vec<u32> {
    let agents = items.iter().filter(|item| item.name.ends_with(" envd"));
    agents.map(|item| item.name.split(' ').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn signals_reach_nobody_whom_the_client_has_not_started() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        let other = test.node.create(test.spec("i2"), LIMIT).await.unwrap().route.addr;
        // Its parent is gone, so that it is the first process's.
        let orphan = "(sleep 600 >/dev/null 2>&1 & echo $!)";
        let orphan = run(addr, "user", orphan).await.stdout.trim().parse::<u32>().unwrap();
        let agents = pids(&census(&test).await);
        assert_eq!(agents.len(), 2);
        let mut foreign = vec![0, 1, orphan, std::process::id(), u32::MAX, u32::MAX / 2 + 1];
        foreign.extend(&agents);
        for pid in &foreign {
            for signal in ["SIGNAL_SIGKILL", "SIGNAL_SIGTERM"] {
                let message = json!({"process": {"pid": pid}, "signal": signal});
                let (status, body) = call(addr, "process.Process/SendSignal", message).await;
                assert_eq!(status, 404, "{pid}: {body}");
            }
        }
        for user in ["user", "root"] {
            for pid in agents.iter().copied().chain([std::process::id()]) {
                let out = run(addr, user, &format!("kill -9 {pid}; kill -0 {pid}")).await;
                assert_ne!(out.code, 0, "{user} has a process {pid}: {out:?}");
            }
            // The first process of a namespace is neither ended nor stopped from inside.
            run(addr, user, "kill -9 1; kill -STOP 1").await;
        }
        // It ends everything when it is told to, which its own root may do and nobody else.
        let told = run(addr, "user", "kill -TERM 1").await;
        assert_ne!(told.code, 0, "{told:?}");
        let out = run(addr, "root", &format!("kill -0 {orphan} && echo alive")).await;
        assert_eq!(out.stdout, "alive\n", "{out:?}");
        // Everybody whom one can, and that is nobody else.
        run(addr, "root", "kill -9 -1").await;
        assert_eq!(run(addr, "user", "echo alive").await.stdout, "alive\n");
        assert_eq!(run(other, "user", "echo alive").await.stdout, "alive\n");
        assert_eq!(pids(&census(&test).await), agents);
        test.stop().await;
    });
}

#[test]
fn datagrams_do_not_reach_the_host_and_there_is_no_second_address() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        let IpAddr::V4(own) = addr else { panic!("not IPv4") };
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let gateway = std::net::Ipv4Addr::from_bits(own.to_bits() - 1);
        for target in [gateway.to_string(), "255.255.255.255".into(), "224.0.0.1".into()] {
            let send = format!("bash -c 'echo from-inside > /dev/udp/{target}/{port}'");
            run(addr, "root", &send).await;
        }
        // They are dropped before the socket or queued there by the time that the program ends.
        let marker = UdpSocket::bind("127.0.0.1:0").unwrap();
        marker.send_to(b"from-host", ("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let mut got = [0; 64];
        let len = socket.recv(&mut got).unwrap();
        assert_eq!(&got[..len], b"from-host");
        // No addresses of IPv6, for which the host might have no rules.
        let six = run(addr, "root", "cat /proc/net/if_inet6").await.stdout;
        assert!(six.lines().all(|line| line.ends_with(" lo")), "{six}");
        test.stop().await;
    });
}
