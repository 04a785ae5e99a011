//! Every step fails once, on the real host; each case ends with an empty census.

use std::time::Duration;

use model::{EndReason, SandboxId, SandboxPhase};
use node::Step;
use node_wire::{CreateError, NodeApi, NodeError};
use testkit::{TestNode, in_view, wait_for};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_create_that_fails_at_any_step_names_it_and_leaves_nothing() {
    in_view(async |view| {
        let faults = host::Faults::default();
        let test = TestNode::start(view, |config| config.faults = faults.clone()).await;
        for (n, point) in node::CREATE_POINTS.into_iter().enumerate() {
            faults.arm(point, 1);
            let error = test.node.create(test.spec(&format!("i{n}")), LIMIT).await.unwrap_err();
            let CreateError::Failed { step, message } = &error else { panic!("{point}: {error}") };
            assert!(message.contains(point), "{point}: {error}");
            assert!(!step.is_empty());
            assert!(faults.left().is_empty(), "{point} was not reached");
            assert_eq!(test.node.sandboxes(), 0, "{point}");
            test.wait_no_sandbox_objects().await;
        }
        test.stop().await;
    });
}

#[test]
fn a_release_step_that_fails_is_visible_and_the_next_attempt_clears_it() {
    in_view(async |view| {
        let faults = host::Faults::default();
        let test = TestNode::start(view, |config| config.faults = faults.clone()).await;
        for (n, step) in Step::ALL.into_iter().enumerate() {
            let name = format!("i{n}");
            let id = SandboxId::parse(&name).unwrap();
            test.node.create(test.spec(&name), LIMIT).await.unwrap();
            faults.arm(&format!("release.{}", step.name()), 1);
            let error = test.node.kill(&id, EndReason::Request).await.unwrap_err();
            let NodeError::Stuck { left, .. } = &error else { panic!("{step:?}: {error}") };
            assert!(left.contains(step.name()), "{step:?}: {left}");
            // By hand, or by the node itself if it was quicker.
            match test.node.kill(&id, EndReason::Request).await {
                Ok(()) | Err(NodeError::NotFound(_)) => {}
                Err(error) => panic!("{step:?}: {error}"),
            }
            test.wait_no_sandbox_objects().await;
        }
        test.stop().await;
    });
}

#[test]
fn a_step_that_keeps_failing_stays_visible_and_blocks_the_clean_stop() {
    in_view(async |view| {
        let faults = host::Faults::default();
        let test = TestNode::start(view, |config| config.faults = faults.clone()).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        faults.arm("release.files", u32::MAX);
        let id = SandboxId::parse("i1").unwrap();
        test.node.kill(&id, EndReason::Request).await.unwrap_err();
        let status = test.node.list().await.unwrap().remove(0);
        assert!(!status.left.is_empty());
        assert!(matches!(status.phase, SandboxPhase::Stuck | SandboxPhase::TearingDown));
        assert!(matches!(
            test.node.create(test.spec("i1"), LIMIT).await,
            Err(CreateError::AlreadyExists(_))
        ));
        faults.arm("release.files", 1);
        wait_for("the janitor's own retry", LIMIT, || async { test.node.sandboxes() == 0 }).await;
        test.stop().await;
    });
}

#[test]
fn a_failed_create_whose_rollback_fails_too_is_stuck_and_then_clears() {
    in_view(async |view| {
        let faults = host::Faults::default();
        let test = TestNode::start(view, |config| config.faults = faults.clone()).await;
        faults.arm("create.init.before", 1);
        faults.arm("release.cgroup", 1);
        let error = test.node.create(test.spec("i1"), LIMIT).await.unwrap_err();
        assert!(matches!(error, CreateError::Failed { step: "init", .. }), "{error}");
        wait_for("the rollback's second try", LIMIT, || async { test.node.sandboxes() == 0 }).await;
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
}
