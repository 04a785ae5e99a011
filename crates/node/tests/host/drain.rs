//! Emptying a node on the real host.

use std::time::Duration;

use futures::StreamExt;
use host::census::Kind;
use lifecycle::Budget;
use model::{BuildId, EndReason, NodePhase, NodeRequest, SandboxId, SandboxPhase, TemplateId};
use node::{Escalation, StopPlan};
use node_wire::{
    BuildError, BuildRequest, BuildState, Class, CreateError, DrainStatus, NodeApi, StatusError,
};
use testkit::{TestNode, in_view, wait_for, with_view};

use crate::guest::run;

const LIMIT: Duration = Duration::from_secs(60);

fn id(text: &str) -> SandboxId {
    SandboxId::parse(text).unwrap()
}

fn count(status: &DrainStatus, class: Class) -> u32 {
    status.counts.iter().find(|c| c.class == class).unwrap().count
}

#[test]
fn a_draining_node_refuses_new_work_and_lets_the_rest_finish() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        test.node.request(NodeRequest::Drain).await.unwrap();
        let before = test.node.drain_status().await.unwrap();
        assert!(!before.accepting && count(&before, Class::Live) == 1, "{before:?}");
        let refused = test.node.create(test.spec("i2"), LIMIT).await.unwrap_err();
        assert_eq!(refused, CreateError::Draining);
        assert_eq!(run(addr, "user", "echo runs on").await.stdout, "runs on\n");
        test.node.request(NodeRequest::Drain).await.unwrap();
        let after = test.node.drain_status().await.unwrap();
        assert_eq!(after.changed_at, before.changed_at, "asking twice changes nothing");
        for back in [NodeRequest::Healthy, NodeRequest::Standby, NodeRequest::Unhealthy] {
            let refused = test.node.request(back).await.unwrap_err();
            assert!(matches!(refused, StatusError::DrainIsFinal(_)), "{refused}");
        }
        test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        let last = test.node.drain_status().await.unwrap();
        assert_eq!(last.remaining(), 0);
        test.stop().await;
    });
}

#[test]
fn a_stop_waits_for_what_runs_until_it_is_told_to_force() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        let escalation = Escalation::default();
        let plan = StopPlan { graceful: None, force: LIMIT };
        let stop = test.node.stop(plan, &escalation);
        let hurry = async {
            wait_for("the drain to begin", LIMIT, || async {
                test.node.drain_status().await.unwrap().phase == NodePhase::Draining
            })
            .await;
            assert_eq!(test.node.sandboxes(), 1, "it waits");
            escalation.force.cancel();
        };
        let (report, ()) = tokio::join!(stop, hurry);
        assert!(report.is_clean() && report.forced && report.attempts == 1, "{report:#?}");
    });
}

#[test]
fn a_stop_ends_by_itself_when_the_last_sandbox_does() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let mut spec = test.spec("i1");
        spec.ttl = Duration::from_millis(300);
        test.node.create(spec, LIMIT).await.unwrap();
        let plan = StopPlan { graceful: None, force: LIMIT };
        let report = test.node.stop(plan, &Escalation::default()).await;
        assert!(report.is_clean() && !report.forced && report.attempts == 0, "{report:#?}");
        assert_eq!(test.node.drain_status().await.unwrap().phase, NodePhase::Stopped);
    });
}

#[test]
fn the_limit_of_a_drain_escalates_by_itself() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        let plan = StopPlan { graceful: Some(Duration::from_millis(200)), force: LIMIT };
        let report = test.node.stop(plan, &Escalation::default()).await;
        assert!(report.is_clean() && report.forced, "{report:#?}");
    });
}

#[test]
fn who_gives_up_leaves_what_runs_to_the_next_start() {
    let dir = with_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        let escalation = Escalation::default();
        escalation.give_up.cancel();
        let plan = StopPlan { graceful: None, force: LIMIT };
        let report = test.node.stop(plan, &escalation).await;
        assert!(!report.is_clean(), "{report:#?}");
        // Its own last look is a hurried one.
        let left = test.node.census(Budget::within(LIMIT)).await.unwrap();
        let is_left = |kind| left.iter().any(|item| item.kind == kind);
        // The firewall stays as long as something could use the network.
        assert!(is_left(Kind::Process) && is_left(Kind::FirewallTable), "{left:#?}");
        test.into_dir()
    });
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |_| {}).await;
        // Nobody has come to ending it.
        let listed = next.node.list().await.unwrap();
        assert!(listed.len() == 1 && listed[0].phase == SandboxPhase::Live, "{listed:?}");
        next.stop().await;
    });
}

#[test]
fn force_ends_starts_that_are_under_way_and_their_callers_hear_of_it() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let creates = futures::future::join_all(
            (0..6).map(|n| test.node.create(test.spec(&format!("i{n}")), LIMIT)),
        );
        let force = async {
            wait_for("a start to begin", LIMIT, || async { test.node.sandboxes() > 0 }).await;
            test.node.request(NodeRequest::DrainForced).await.unwrap();
        };
        let (created, ()) = tokio::join!(creates, force);
        wait_for("everything to be gone", LIMIT, || async { test.node.sandboxes() == 0 }).await;
        for result in created {
            if let Err(error) = result {
                assert!(matches!(error, CreateError::Cancelled | CreateError::Draining), "{error}");
            }
        }
        let attempt = test.node.drain_status().await.unwrap().attempt.unwrap();
        assert!(attempt.failed.is_empty(), "{attempt:?}");
        test.stop().await;
    });
}

#[test]
fn a_watcher_sees_the_drain_change_and_end() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        let mut updates = test.node.drain_updates().await.unwrap();
        assert_eq!(updates.next().await.unwrap().phase, NodePhase::Healthy);
        test.node.request(NodeRequest::DrainForced).await.unwrap();
        let mut seen = Vec::new();
        while let Some(status) = updates.next().await {
            seen.push(status.phase);
            if status.remaining() == 0 && status.attempt.is_some_and(|a| !a.running) {
                break;
            }
        }
        assert!(seen.iter().all(|phase| phase.is_draining()), "{seen:?}");
        test.stop().await;
    });
}

#[test]
fn builds_are_seen_waited_for_cancelled_and_refused() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let request = |n: u32, alias: &str| BuildRequest {
            build: BuildId::parse(&format!("b{n}")).unwrap(),
            template: TemplateId::parse("base").unwrap(),
            alias: alias.to_owned(),
        };
        let unsupported = test.node.build(request(0, "mine")).await.unwrap_err();
        assert!(matches!(unsupported, BuildError::Unsupported(_)), "{unsupported}");
        test.node.build(request(1, "base")).await.unwrap();
        let twice = test.node.build(request(1, "base")).await.unwrap_err();
        assert!(matches!(twice, BuildError::AlreadyExists(_)), "{twice}");
        let status = test.node.drain_status().await.unwrap();
        assert_eq!(count(&status, Class::Build), 1, "nobody polls it, and it is seen");
        test.node.request(NodeRequest::Drain).await.unwrap();
        let refused = test.node.build(request(2, "base")).await.unwrap_err();
        assert!(matches!(refused, BuildError::Draining), "{refused}");
        assert_eq!(test.node.drain_status().await.unwrap().remaining(), 1, "the drain waits");
        test.node.request(NodeRequest::DrainForced).await.unwrap();
        wait_for("the build to be cancelled", LIMIT, || async {
            test.node.drain_status().await.unwrap().remaining() == 0
        })
        .await;
        let id = BuildId::parse("b1").unwrap();
        let ended = test.node.build_status(&id).await.unwrap();
        assert_eq!(ended.state, BuildState::Failed("build was cancelled".into()));
        test.node.build_delete(&id).await.unwrap();
        assert!(test.node.build_status(&id).await.is_err());
        test.stop().await;
    });
}

#[test]
fn no_race_of_requests_leads_out_of_a_drain() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        test.node.request(NodeRequest::Drain).await.unwrap();
        let requests = (0..1000).map(|n| {
            let node = std::sync::Arc::clone(&test.node);
            async move {
                let request = [NodeRequest::Healthy, NodeRequest::Standby, NodeRequest::Drain];
                node.request(request[n % 3]).await.is_ok()
            }
        });
        let accepted = futures::future::join_all(requests).await;
        assert_eq!(accepted.iter().filter(|ok| **ok).count(), 333, "only the drains");
        assert!(test.node.drain_status().await.unwrap().phase.is_draining());
        test.stop().await;
    });
}
