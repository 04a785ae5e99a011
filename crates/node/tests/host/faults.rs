//! The fault matrix on the real host: every step of create, kill, force and stop fails, takes all
//! the time there is, or panics, once or until it is mended. Each case ends with an empty census, or
//! with a visible stuck lifecycle that the next attempt clears.

use std::time::Duration;

use host::{Fault, Faults};
use lifecycle::Budget;
use model::{EndReason, NodePhase, NodeRequest, SandboxId, SandboxPhase};
use node::{Config, Step};
use node_wire::{CreateError, NodeApi, NodeError};
use testkit::{TestNode, in_view, wait_for, with_view};

use crate::holders::kill_at_last;

const LIMIT: Duration = Duration::from_secs(60);
const FAULTS: [Fault; 3] = [Fault::Error, Fault::Delay, Fault::Panic];
/// Fails until it is disarmed.
const EVERY: u32 = u32::MAX;

/// Rounds short enough that a delay past them does not make the tests slow, and long enough for
/// whatever is not delayed.
fn short(config: &mut Config, faults: &Faults) {
    config.faults = faults.clone();
    config.teardown_limit = Duration::from_secs(2);
    config.force_limit = Duration::from_secs(10);
}

fn point(step: Step) -> String {
    format!("release.{}", step.name())
}

#[test]
fn a_create_that_fails_at_any_point_in_any_way_leaves_nothing() {
    in_view(async |view| {
        let faults = Faults::default();
        let test = TestNode::start(view, |config| short(config, &faults)).await;
        for (n, at) in node::CREATE_POINTS.into_iter().enumerate() {
            for (kind, fault) in FAULTS.into_iter().enumerate() {
                faults.arm(at, fault, 1);
                // Long enough for a start, short enough to wait for the delay.
                let limit = if fault == Fault::Delay { Duration::from_secs(3) } else { LIMIT };
                let spec = test.spec(&format!("i{n}x{kind}"));
                let error = test.node.create(spec, limit).await.unwrap_err();
                let CreateError::Failed { step, message } = &error else {
                    panic!("{at} {fault:?}: {error}")
                };
                assert!(message.contains(at), "{at} {fault:?}: {step}: {message}");
                assert!(faults.left().is_empty(), "{at} was not reached");
                assert_eq!(test.node.sandboxes(), 0, "{at} {fault:?}");
                test.wait_no_sandbox_objects().await;
            }
        }
        test.stop().await;
    });
}

#[test]
fn a_failed_step_of_a_kill_is_visible_and_the_next_attempt_clears_it() {
    in_view(async |view| {
        let faults = Faults::default();
        let test = TestNode::start(view, |config| short(config, &faults)).await;
        for step in Step::ALL {
            for fault in FAULTS {
                for times in [1, EVERY] {
                    let case = format!("{step:?} {fault:?} {times}");
                    let id = SandboxId::parse("i1").unwrap();
                    test.node.create(test.spec("i1"), LIMIT).await.unwrap();
                    faults.arm(&point(step), fault, times);
                    let error = test.node.kill(&id, EndReason::Request).await.unwrap_err();
                    let NodeError::Stuck { left, .. } = &error else { panic!("{case}: {error}") };
                    assert!(left.contains(step.name()), "{case}: {left}");
                    if times == EVERY {
                        let status = test.node.drain_status().await.unwrap();
                        let blocker = &status.blockers[0];
                        assert!(blocker.last_error.is_some(), "{case}: {blocker:?}");
                        let again = test.node.create(test.spec("i1"), LIMIT).await;
                        assert!(matches!(again, Err(CreateError::AlreadyExists(_))), "{case}");
                        faults.disarm();
                    }
                    // A round that began before that may be under way still.
                    kill_at_last(&test).await;
                }
            }
        }
        test.stop().await;
    });
}

#[test]
fn a_failed_force_says_what_is_left_and_the_next_one_takes_it() {
    for fault in FAULTS {
        for step in Step::ALL {
            in_view(async move |view| {
                let faults = Faults::default();
                let test = TestNode::start(view, |config| short(config, &faults)).await;
                for id in ["i1", "i2", "i3"] {
                    test.node.create(test.spec(id), LIMIT).await.unwrap();
                }
                faults.arm(&point(step), fault, EVERY);
                test.node.request(NodeRequest::DrainForced).await.unwrap();
                // Who sees that it has failed need not wait for anything else.
                wait_for("the first attempt to fail", LIMIT, || async {
                    test.node.drain_status().await.unwrap().phase == NodePhase::ForceFailed
                })
                .await;
                let attempt = test.node.drain_status().await.unwrap().attempt.unwrap();
                assert!(!attempt.running, "{step:?}: {attempt:?}");
                assert_eq!((attempt.number, attempt.failed.len()), (1, 3), "{step:?}: {attempt:?}");
                assert!(attempt.failed[0].contains(step.name()), "{step:?}: {attempt:?}");
                faults.disarm();
                test.node.request(NodeRequest::DrainForced).await.unwrap();
                wait_for("the second attempt to succeed", LIMIT, || async {
                    let status = test.node.drain_status().await.unwrap();
                    status.attempt.is_some_and(|a| !a.running && a.failed.is_empty())
                        && status.counts.iter().all(|c| c.count == 0)
                })
                .await;
                test.stop().await;
            });
        }
    }
}

#[test]
fn a_stop_whose_steps_fail_once_still_ends_with_an_empty_census() {
    for fault in FAULTS {
        for step in Step::ALL {
            in_view(async move |view| {
                let faults = Faults::default();
                let test = TestNode::start(view, |config| short(config, &faults)).await;
                test.node.create(test.spec("i1"), LIMIT).await.unwrap();
                faults.arm(&point(step), fault, 1);
                let report = test.node.shutdown(Budget::within(LIMIT)).await;
                assert!(report.is_clean(), "{step:?} {fault:?}: {report:#?}");
                assert!(faults.left().is_empty(), "{step:?} was not reached");
            });
        }
    }
}

/// A node that stopped with one sandbox whose files would not go.
fn left_over(faults: &Faults) -> tempfile::TempDir {
    let faults = faults.clone();
    with_view(async move |view| {
        let test = TestNode::start(view, |config| short(config, &faults)).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        faults.arm("release.files", Fault::Error, EVERY);
        let report = test.node.shutdown(Budget::within(Duration::from_secs(4))).await;
        assert!(!report.is_clean() && !report.left.is_empty(), "{report:#?}");
        assert!(report.errors.iter().any(|error| error.contains("i1")), "{report:#?}");
        test.into_dir()
    })
}

#[test]
fn a_stop_that_cannot_finish_names_what_is_left_and_the_next_start_removes_it() {
    let faults = Faults::default();
    let dir = left_over(&faults);
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |_| {}).await;
        assert_eq!(next.node.sandboxes(), 0);
        next.stop().await;
    });
}

#[test]
fn a_failed_create_whose_rollback_fails_too_is_stuck_and_then_clears() {
    in_view(async |view| {
        let faults = Faults::default();
        let test = TestNode::start(view, |config| short(config, &faults)).await;
        faults.arm("create.init.before", Fault::Error, 1);
        faults.arm("release.cgroup", Fault::Error, 1);
        let error = test.node.create(test.spec("i1"), LIMIT).await.unwrap_err();
        assert!(matches!(error, CreateError::Failed { step: "init", .. }), "{error}");
        wait_for("the rollback's second try", LIMIT, || async { test.node.sandboxes() == 0 }).await;
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
}

#[test]
fn leftovers_that_will_not_go_do_not_keep_a_node_from_starting() {
    let faults = Faults::default();
    let dir = left_over(&faults);
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |config| short(config, &faults)).await;
        let status = next.node.list().await.unwrap().remove(0);
        assert_eq!(status.id.as_str(), "i1");
        assert!(matches!(status.phase, SandboxPhase::Stuck | SandboxPhase::TearingDown));
        next.node.create(next.spec("i2"), LIMIT).await.unwrap();
        faults.disarm();
        wait_for("the leftover to go", LIMIT, || async { next.node.sandboxes() == 1 }).await;
        next.stop().await;
    });
}
