//! One address, one sandbox after the other.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use host::census::Kind;
use host::net::{Slot, is_linked};
use lifecycle::{Budget, Owned};
use model::EndReason;
use node::{Escalation, StopPlan};
use node_wire::NodeApi;
use rustix::net::{SocketFlags, accept_with};
use testkit::{TestNode, in_view, wait_for};

use super::{LIMIT, census, id, mark};

/// A slot that no node gets to in a test.
const FAR: u16 = 2000;

async fn close(slot: Owned<Slot>) {
    drop(slot.close(Budget::within(LIMIT)).await.unwrap());
}

/// Whether somebody has connected.
fn is_connected(listener: BorrowedFd<'_>) -> bool {
    rustix::io::ioctl_fionbio(listener, true).unwrap();
    match accept_with(listener, SocketFlags::CLOEXEC) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error, rustix::io::Errno::AGAIN);
            false
        }
    }
}

#[test]
fn a_connection_to_an_earlier_tenant_does_not_reach_the_next_one_of_its_address() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let mark = mark(&test);
        let helpers = Path::new("/sys/fs/cgroup").join(mark.cgroup_root()).join("_helpers");
        let helpers = std::fs::File::open(helpers).unwrap();
        let make = || {
            Owned::adopt(Slot::create(mark, FAR, guest_wire::ENVD_PORT, helpers.as_fd()).unwrap())
        };
        let first = make();
        let addr = SocketAddr::from((first.net().guest, guest_wire::ENVD_PORT));
        let mut client = TcpStream::connect_timeout(&addr, LIMIT).unwrap();
        client.write_all(b"for the first").unwrap();
        assert!(is_connected(first.listener()));
        close(first).await;
        wait_for("the link to go", LIMIT, || async { !is_linked(mark, FAR) }).await;

        let second = make();
        assert_eq!(SocketAddr::from((second.net().guest, guest_wire::ENVD_PORT)), addr);
        client.set_read_timeout(Some(LIMIT)).unwrap();
        let answer = client.write_all(b"for whom?").and_then(|()| client.read(&mut [0; 16]));
        let error = answer.unwrap_err();
        let ended = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        assert!(ended.contains(&error.kind()), "{error:?}");
        assert!(!is_connected(second.listener()), "the next tenant was reached");
        TcpStream::connect_timeout(&addr, LIMIT).unwrap();
        assert!(is_connected(second.listener()), "who connects anew does");
        close(second).await;
        wait_for("the link to go", LIMIT, || async { !is_linked(mark, FAR) }).await;
        test.stop().await;
    });
}

#[test]
fn an_address_that_something_still_holds_is_named_by_the_stop() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        let items = census(&test).await;
        let agent = items.iter().find(|item| item.name.ends_with(" envd")).unwrap();
        let pid = agent.name.split(' ').next().unwrap();
        let held = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        let slots: Vec<_> = items.iter().filter(|item| item.kind == Kind::Link).collect();
        test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        let plan = StopPlan { graceful: None, force: LIMIT };
        let report = test.node.stop(plan, &Escalation::default()).await;
        let links = report.left.iter().filter(|item| item.kind == Kind::Link);
        let links: Vec<_> = links.collect();
        assert!(links.len() == 1 && slots.contains(&links[0]), "{report:#?}");
        assert!(report.errors.iter().any(|error| error.starts_with("slots")), "{report:#?}");
        drop(held);
        let plan = StopPlan { graceful: None, force: LIMIT };
        let report = test.node.stop(plan, &Escalation::default()).await;
        assert!(report.is_clean(), "{report:#?}");
    });
}
