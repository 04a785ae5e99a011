//! Closing a node, whatever state it is in.

use std::time::Duration;

use host::census::{Kind, Owner};
use host::{Fault, Faults};
use lifecycle::Budget;
use node_wire::NodeApi;
use testkit::{TestNode, in_view, with_view};

use super::{EVERY, LIMIT, lifecycles, with_limits};

#[test]
fn a_node_without_work_stops_within_a_second() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let report = test.node.shutdown(Budget::within(LIMIT)).await;
        assert!(report.is_clean() && !report.forced, "{report:#?}");
        assert!(report.took < Duration::from_secs(1), "{report:#?}");
    });
}

#[test]
fn slots_that_are_being_made_when_a_stop_comes_are_gone_with_it() {
    in_view(async |view| {
        let test = TestNode::start(view, |config| config.warm_slots = 64).await;
        assert!(test.node.warm_slots() < 64, "they are made in the background");
        test.stop().await;
    });
}

#[test]
fn a_stuck_sandbox_keeps_no_other_closer_from_its_work() {
    let faults = Faults::default();
    let armed = faults.clone();
    let dir = with_view(async move |view| {
        let test = TestNode::start(view, |c| with_limits(c, &armed, 400, 2000)).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        armed.arm("release.files", Fault::Error, EVERY);
        let report = test.node.shutdown(Budget::within(Duration::from_secs(1))).await;
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
