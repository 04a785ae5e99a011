//! Roots that a sandbox has made to mislead whoever works with them later: the runtime that mounts
//! into one, the copy of a snapshot, the removal.

use std::net::IpAddr;

use model::{EndReason, Keep};
use node_wire::NodeApi as _;
use testkit::{TestNode, in_view};

use super::escape::{Marks, assert_confined, install, tried};
use super::later::snapshot;
use super::{LIMIT, PROBE, id};
use crate::guest::run;

/// Where a runtime mounts something into the root, and what that is below. Were one of them a link,
/// the next run's would be mounted to where it leads.
const MOUNTED: &str = "/proc /sys /dev /usr /usr/bin /usr/bin/envd";

async fn assert_stays(addr: IpAddr, who: &str, marks: &Marks) {
    let out = run(addr, "root", &format!("{PROBE} replace for {MOUNTED}")).await;
    assert_eq!((out.code, out.stdout.as_str()), (1, ""), "{who}: {out:?}");
    assert_confined(&tried(addr, "root", PROBE, marks).await, who);
}

fn stays_under(runtime: &'static str) {
    if let Err(error) = machine::Runtime::find(runtime) {
        println!("skipped, because {error}");
        return;
    }
    in_view(async move |view| {
        let test = TestNode::start(view, |config| config.runtime = runtime.into()).await;
        let marks = Marks::new();
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        install(addr).await;
        // The probe does see when something is replaced.
        let control = run(addr, "root", "echo > /x; /probe replace for /x").await;
        assert_eq!(control.code, 0, "{control:?}");
        assert_stays(addr, "at first", &marks).await;
        test.node.snapshot(&id("i1"), snapshot()).await.unwrap();
        test.node.pause(&id("i1"), Keep::Files).await.unwrap();
        let resumed = test.node.resume(test.spec("i1"), Keep::Memory, LIMIT).await.unwrap();
        assert_stays(resumed.started.route.addr, "resumed from files", &marks).await;
        let mut copy = test.spec("i2");
        copy.template = snapshot().template;
        let addr = test.node.create(copy, LIMIT).await.unwrap().route.addr;
        assert_stays(addr, "started from a snapshot", &marks).await;
        marks.assert_untouched();
        for name in ["i1", "i2"] {
            test.node.kill(&id(name), EndReason::Request).await.unwrap();
        }
        test.node.remove_template(&snapshot().template).await.unwrap();
        test.stop().await;
    });
}

#[test]
fn what_crun_mounts_into_cannot_be_replaced_from_inside() {
    stays_under("crun");
}

#[test]
fn what_runc_mounts_into_cannot_be_replaced_from_inside() {
    stays_under("runc");
}

#[test]
fn a_tree_deeper_than_any_path_is_kept_and_removed() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        install(addr).await;
        let made = run(addr, "user", "cd /home/user && /probe deep").await;
        assert_eq!(made.code, 0, "{made:?}");
        let taken = test.node.snapshot(&id("i1"), snapshot()).await;
        println!("its snapshot: {taken:?}");
        assert_eq!(run(addr, "user", "echo alive").await.stdout, "alive\n");
        test.node.pause(&id("i1"), Keep::Files).await.unwrap();
        let resumed = test.node.resume(test.spec("i1"), Keep::Memory, LIMIT).await.unwrap();
        let there = run(resumed.started.route.addr, "user", "ls -d /home/user/d/d/d").await;
        assert_eq!(there.code, 0, "{there:?}");
        test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        if taken.is_ok() {
            test.node.remove_template(&snapshot().template).await.unwrap();
        }
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
}
