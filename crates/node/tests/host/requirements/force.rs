//! Ending everything, in attempts.

use std::time::Duration;

use host::{Fault, Faults};
use model::{NodePhase, NodeRequest};
use node::{Escalation, StopPlan};
use node_wire::NodeApi;
use testkit::{TestNode, in_view, wait_for, with_view};

use super::{EVERY, LIMIT, attempt_ended, census, lifecycles, status, with_limits};

async fn create_all(test: &TestNode, ids: impl IntoIterator<Item = u32>) {
    let create = |n| test.node.create(test.spec(&format!("i{n}")), LIMIT);
    futures::future::try_join_all(ids.into_iter().map(create)).await.unwrap();
}

#[test]
fn however_many_hang_they_cost_one_budget_and_all_who_ask_share_the_attempt() {
    in_view(async |view| {
        let faults = Faults::default();
        let test = TestNode::start(view, |c| with_limits(c, &faults, 4000, 60_000)).await;
        create_all(&test, 0..8).await;
        faults.arm("release.kill", Fault::Delay, EVERY);
        for _ in 0..3 {
            test.node.request(NodeRequest::DrainForced).await.unwrap();
        }
        let attempt = attempt_ended(&test).await;
        let now = status(&test).await;
        assert_eq!(now.phase, NodePhase::ForceFailed);
        assert_eq!((attempt.number, attempt.failed.len()), (1, 8), "{attempt:?}");
        let took = now.changed_at.duration_since(attempt.started_at).unwrap();
        assert!(took < Duration::from_secs(32), "one after the other they take 32 s: {took:?}");
        faults.disarm();
        test.stop().await;
    });
}

#[test]
fn one_that_will_not_die_holds_up_neither_the_others_nor_the_exit() {
    let dir = with_view(async |view| {
        let faults = Faults::default();
        let test = TestNode::start(view, |c| with_limits(c, &faults, 60_000, 60_000)).await;
        create_all(&test, 0..4).await;
        // Whoever comes first hangs in it for as long as the step may take.
        faults.arm("release.kill", Fault::Delay, 1);
        let escalation = Escalation::default();
        let stop = test.node.stop(StopPlan::at_once(LIMIT), &escalation);
        let others = async {
            wait_for("the others to go", LIMIT, || async { test.node.sandboxes() == 1 }).await;
            let attempt = status(&test).await.attempt.unwrap();
            assert!(attempt.running, "it hangs still: {attempt:?}");
            escalation.give_up.cancel();
        };
        let (report, ()) = tokio::join!(stop, others);
        // Had it been waited for, nothing would be left.
        assert!(!report.is_clean(), "{report:#?}");
        assert_eq!(lifecycles(&census(&test).await).len(), 1, "{report:#?}");
        test.into_dir()
    });
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |_| {}).await;
        assert_eq!(next.node.sandboxes(), 0);
        next.stop().await;
    });
}

#[test]
fn what_ends_after_a_failed_attempt_is_gone_and_a_success_is_kept() {
    in_view(async |view| {
        let faults = Faults::default();
        let test = TestNode::start(view, |c| with_limits(c, &faults, 10_000, 3000)).await;
        create_all(&test, 0..2).await;
        faults.arm("release.kill", Fault::Delay, 1);
        test.node.request(NodeRequest::DrainForced).await.unwrap();
        let first = attempt_ended(&test).await;
        assert_eq!((first.number, first.failed.len()), (1, 1), "{first:?}");
        wait_for("the late end", LIMIT, || async { status(&test).await.remaining() == 0 }).await;
        assert_eq!(status(&test).await.attempt.unwrap(), first, "nobody asked again");
        test.node.request(NodeRequest::DrainForced).await.unwrap();
        let second = attempt_ended(&test).await;
        assert!(second.number == 2 && second.failed.is_empty(), "{second:?}");
        let before = status(&test).await;
        test.node.request(NodeRequest::DrainForced).await.unwrap();
        let after = status(&test).await;
        assert_eq!(after.attempt, before.attempt, "there is nothing left to attempt");
        let told = (after.phase, after.changed_at);
        assert_eq!(told, (before.phase, before.changed_at), "and nothing has changed");
        test.stop().await;
    });
}
