//! Ten ways in which the software that this one speaks the protocol of loses a sandbox, hangs or
//! leaves something behind, and that none of them happens here. What hangs on the daemon's process
//! itself (1, 2, 8, 9) is shown with it, in the tests of the command line.

use std::time::Duration;

use model::{BuildId, EndReason, NodePhase, NodeRequest, TemplateId};
use node::{Escalation, StopPlan};
use node_wire::{
    BuildError, BuildRequest, BuildState, Class, CreateError, NodeApi, NodeError, StatusError,
};
use testkit::{TestNode, in_view, wait_for};

use crate::holders::{Freezer, agent, kill_at_last};
use crate::requirements::{LIMIT, census, count, id, lifecycles, status};
use crate::runtimes::{HANG, Script};

/// Longer than any test may take: who waits for it has not waited for what it should have.
const HOURS: Duration = Duration::from_secs(36_000);

fn base(name: &str) -> BuildRequest {
    BuildRequest {
        build: BuildId::parse(name).unwrap(),
        template: TemplateId::parse("base").unwrap(),
        alias: "base".to_owned(),
    }
}

/// There: the error of the first stop is kept, every later one answers with it and does nothing,
/// and the machine is noted as stopped all the same.
#[test]
fn bug_3_a_stop_that_failed_is_tried_again_until_it_works() {
    in_view(async |view| {
        let Some(freezer) = Freezer::new() else {
            println!("skipped, because this kernel has no cgroup v1 freezer");
            return;
        };
        let short = Duration::from_secs(2);
        let test = TestNode::start(view, |config| config.teardown_limit = short).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        freezer.freeze(agent(&test).await).await;
        for _ in 0..2 {
            let error = test.node.kill(&id("i1"), EndReason::Request).await.unwrap_err();
            assert!(matches!(error, NodeError::Stuck { .. }), "{error}");
            assert_eq!(test.node.sandboxes(), 1, "it has not stopped");
            assert_eq!(lifecycles(&census(&test).await).len(), 1);
        }
        freezer.thaw();
        kill_at_last(&test).await;
        drop(freezer);
        assert_eq!(test.node.sandboxes(), 0);
        test.stop().await;
    });
}

/// There: a machine that ends after its end could be noticed and before it is listed as live is
/// listed for good, and no drain ends any more.
#[test]
fn bug_4_a_machine_that_dies_while_it_becomes_live_is_not_waited_for() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        for n in 0..20_u32 {
            let name = format!("i{n}");
            let create = test.node.create(test.spec(&name), LIMIT);
            let crash = async {
                let first_process = async || {
                    let items = census(&test).await;
                    let envd = items.into_iter().find(|item| item.name.ends_with(" envd"))?;
                    let pid = envd.name.split(' ').next()?.parse().ok()?;
                    host::process::Process::open(pid).ok()
                };
                loop {
                    if let Some(process) = first_process().await {
                        // Each time a little later, from before its first answer to after it.
                        for _ in 0..n * 8 {
                            tokio::task::yield_now().await;
                        }
                        process.signal(rustix::process::Signal::KILL).unwrap();
                        return;
                    }
                    if status(&test).await.remaining() == 0 {
                        return;
                    }
                }
            };
            let (created, ()) = tokio::join!(create, crash);
            if let Err(error) = created {
                assert!(matches!(error, CreateError::Failed { .. }), "{error}");
            }
            wait_for("its end to be noticed", LIMIT, async || test.node.sandboxes() == 0).await;
        }
        let plan = StopPlan { graceful: None, force: LIMIT };
        let report = test.node.stop(plan, &Escalation::default()).await;
        assert!(report.is_clean() && !report.forced, "{report:#?}");
    });
}

/// There: an operator may set a node that drains to healthy while its process waits for the last
/// sandbox to end, and it takes work that nobody waits for.
#[test]
fn bug_5_a_node_that_drains_is_not_made_healthy_while_its_stop_waits() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        let escalation = Escalation::default();
        let stop = test.node.stop(StopPlan { graceful: None, force: LIMIT }, &escalation);
        let operator = async {
            wait_for("the drain to begin", LIMIT, async || {
                status(&test).await.phase == NodePhase::Draining
            })
            .await;
            for request in [NodeRequest::Healthy, NodeRequest::Standby, NodeRequest::Unhealthy] {
                let refused = test.node.request(request).await.unwrap_err();
                assert!(matches!(refused, StatusError::DrainIsFinal(_)), "{refused}");
                let late = test.node.create(test.spec("i2"), LIMIT).await.unwrap_err();
                assert_eq!(late, CreateError::Draining);
            }
            test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        };
        let (report, ()) = tokio::join!(stop, operator);
        assert!(report.is_clean() && report.ended == 1, "{report:#?}");
    });
}

/// There: the last sandbox is paused during a drain, both lists of sandboxes are empty while its
/// memory is stored still, and the process is ended in the middle of that. Nothing is paused or
/// stored here yet; the work that is no sandbox and outlives the last one is a build.
#[test]
fn bug_6_a_drain_waits_for_work_that_is_no_sandbox() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        test.node.build(base("b1")).await.unwrap();
        let escalation = Escalation::default();
        let stop = test.node.stop(StopPlan { graceful: None, force: LIMIT }, &escalation);
        let look = async {
            wait_for("the drain to begin", LIMIT, async || {
                status(&test).await.phase == NodePhase::Draining
            })
            .await;
            test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
            assert_eq!(test.node.sandboxes(), 0);
            let now = status(&test).await;
            assert_eq!((now.remaining(), count(&now, Class::Build)), (1, 1), "{now:?}");
            assert_eq!(now.phase, NodePhase::Draining, "it is not over");
            test.node.build_delete(&base("b1").build).await.unwrap();
        };
        let (report, ()) = tokio::join!(stop, look);
        assert!(report.is_clean() && !report.forced, "{report:#?}");
    });
}

/// There: with every block device in use, a create waits for one; cancelled, it closes its overlay,
/// and that waits for the device for ever. There are no block devices here: one create waits for a
/// runtime that never comes back and has the only permit to start, as another finds out.
#[test]
fn bug_7_a_create_that_waits_for_what_never_comes_is_cancelled_at_once() {
    in_view(async |view| {
        let script = Script::new();
        let test = TestNode::start(view, |config| {
            script.used_by(config);
            config.max_starting = 1;
        })
        .await;
        for call in ["create", "start"] {
            script.says(call, HANG);
            let create = test.node.create(test.spec("i1"), HOURS);
            let cancel = async {
                wait_for("the runtime to be called", LIMIT, async || {
                    census(&test).await.iter().any(|item| item.name.ends_with(" sleep"))
                })
                .await;
                let full = test.node.create(test.spec("i2"), HOURS).await.unwrap_err();
                assert_eq!(full, CreateError::TooManyStarting { limit: 1 });
                test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
                let left = census(&test).await;
                assert!(lifecycles(&left).is_empty(), "{left:#?}");
            };
            let (created, ()) = tokio::join!(create, cancel);
            assert_eq!(created.unwrap_err(), CreateError::Cancelled);
            script.obeys();
            // Its permit is back.
            test.node.create(test.spec("i3"), LIMIT).await.unwrap();
            test.node.kill(&id("i3"), EndReason::Request).await.unwrap();
        }
        test.stop().await;
    });
}

/// There: a build that nobody asks about for ten minutes is forgotten while it runs; deleting it
/// does not cancel it, and removes files under a builder that works on. Nothing here counts the
/// time since somebody asked; what comes and goes meanwhile does not push it out either.
#[test]
fn bug_10_a_running_build_is_never_forgotten_and_deleting_it_waits_for_its_end() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let images = test.data_dir().join("../images");
        let directories = || std::fs::read_dir(&images).unwrap().count();
        let published = directories();
        test.node.build(base("old")).await.unwrap();
        wait_for("it to begin", LIMIT, async || directories() > published).await;
        for n in 0..20 {
            let other = base(&format!("b{n}"));
            test.node.build(other.clone()).await.unwrap();
            test.node.build_delete(&other.build).await.unwrap();
        }
        let builds = test.node.builds().await.unwrap();
        assert!(builds.len() == 1 && builds[0].state == BuildState::Building, "{builds:?}");
        assert_eq!(count(&status(&test).await, Class::Build), 1);
        test.node.build_delete(&base("old").build).await.unwrap();
        assert_eq!(count(&status(&test).await, Class::Build), 0, "nor does it hold up a drain");
        let gone = test.node.build_status(&base("old").build).await.unwrap_err();
        assert!(matches!(gone, BuildError::NotFound(_)), "{gone}");
        // A builder that was still on its way out keeps its files from this removal, not from the
        // next.
        wait_for("its files to go", LIMIT, async || {
            test.node.build(base("last")).await.unwrap();
            test.node.build_delete(&base("last").build).await.unwrap();
            directories() == published
        })
        .await;
        test.stop().await;
    });
}
