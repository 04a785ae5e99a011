//! Closing a node, whatever state it is in.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use host::census::{Kind, Owner};
use host::identity::ClaimError;
use host::{Claim, Fault, Faults};
use lifecycle::Budget;
use node::Config;
use node_wire::NodeApi;
use testkit::{TestNode, in_view, with_view};

use super::{EVERY, LIMIT, lifecycles, with_limits};

#[test]
fn a_node_without_work_stops_within_a_second() {
    in_view(async |view| {
        let began = Instant::now();
        let test = TestNode::start(view, |_| {}).await;
        let started = began.elapsed();
        let report = test.node.shutdown(Budget::within(LIMIT)).await;
        assert!(report.is_clean() && !report.forced, "{report:#?}");
        // A second is what it may wait for; the rest is work, and the machine may have other.
        assert!(report.took < Duration::from_secs(1) + started, "{started:?}, {report:#?}");
    });
}

#[test]
fn slots_that_are_being_made_when_a_stop_comes_are_gone_with_it() {
    in_view(async |view| {
        let test = TestNode::start(view, |config| config.warm_slots = 256).await;
        assert!(test.node.warm_slots() < 256, "they are made in the background");
        test.stop().await;
    });
}

#[test]
fn a_stuck_sandbox_keeps_no_other_closer_from_its_work() {
    let dir = with_view(async |view| {
        let faults = Faults::default();
        let test = TestNode::start(view, |c| with_limits(c, &faults, 2000, 2000)).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        faults.arm("release.files", Fault::Error, EVERY);
        let report = test.node.shutdown(Budget::within(Duration::from_secs(4))).await;
        // Its directory, and what it would be dangerous or impossible to remove before it.
        assert_eq!(lifecycles(&report.left).len(), 1, "{report:#?}");
        for item in &report.left {
            let expected = match item.kind {
                Kind::LifecycleDirectory => matches!(item.owner, Owner::Lifecycle(_)),
                Kind::FirewallTable => true,
                Kind::Process | Kind::Cgroup | Kind::Link | Kind::Mount => false,
            };
            assert!(expected, "{item:?}");
        }
        let says = |what: &str| report.errors.iter().any(|error| error.starts_with(what));
        assert!(says("stuck i1") && says("firewall"), "{report:#?}");
        test.into_dir()
    });
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |_| {}).await;
        next.stop().await;
    });
}

#[test]
fn who_races_for_the_lock_never_has_it_with_another_and_it_stays_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let network = Config::new(dir.path().into(), dir.path().into()).network;
    let (holders, taken) = (AtomicU32::new(0), AtomicU32::new(0));
    let start_and_stop = || match Claim::take(dir.path(), network) {
        Ok(claim) => {
            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two have it");
            taken.fetch_add(1, Ordering::SeqCst);
            claim.give_back().unwrap();
            holders.fetch_sub(1, Ordering::SeqCst);
        }
        Err(error) => assert!(matches!(error, ClaimError::InUse { .. }), "{error}"),
    };
    start_and_stop();
    let lock = || std::fs::metadata(dir.path().join("node.lock")).unwrap().ino();
    let before = lock();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..200).for_each(|_| start_and_stop()));
        }
    });
    assert!(taken.load(Ordering::SeqCst) > 3);
    assert_eq!(lock(), before);
}
