//! A daemon that leaves its node to the next one.

use host::Fault;
use lifecycle::Budget;
use model::{BuildId, EndReason, NodePhase, SandboxPhase};
use node_wire::{BuildRequest, BuildState, CreateError, NodeApi, NodeError, NodeEvent};
use tokio::time::{Instant, sleep};

use super::crashes::{Site, assert_accounted, daemon, reason};
use super::{Bench, EVERY, ends, id, secs};
use crate::fake::{Class, Manner};
use crate::leave::{LEAVE_POINTS, LeaveReport};
use crate::teardown::Step;

const BUDGET: std::time::Duration = secs(20);

async fn leave(bench: &Bench) -> LeaveReport {
    ends("leave", bench.node.leave(Budget::within(BUDGET))).await
}

fn classes(site: &Site) -> Vec<Class> {
    site.fake.held().into_iter().map(|(_, class)| class).collect()
}

#[test]
fn what_is_left_is_taken_over_unchanged_again_and_again() {
    let site = Site::new();
    let mut before = daemon(&site.fake, async {
        let bench = site.open_node().await;
        bench.create_all(["i1", "i2", "i3"]).await;
        let listed = assert_accounted(&bench, "made").await;
        let report = leave(&bench).await;
        assert_eq!((report.left, report.errors), (3, Vec::new()));
        listed
    });
    for round in 0..3 {
        before = daemon(&site.fake, async {
            let bench = site.node().await;
            let listed = assert_accounted(&bench, "taken over").await;
            assert_eq!(listed, before, "round {round}");
            let report = leave(&bench).await;
            assert_eq!((report.left, report.errors), (3, Vec::new()), "round {round}");
            // No lease, no mount: those were the daemon's.
            let left = classes(&site);
            assert_eq!(left.len(), 3 * 6, "{left:?}");
            listed
        });
    }
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        bench.stop_clean("left").await;
    });
}

/// The next daemon may claim the node as soon as the call is over, with this one still there.
#[tokio::test(start_paused = true)]
async fn the_next_daemon_can_start_beside_the_one_that_has_left() {
    let site = Site::new();
    let first = site.open_node().await;
    first.create_all(["i1"]).await;
    leave(&first).await;
    let second = site.node().await;
    assert_accounted(&second, "beside").await;
    let phase = first.document().await.phase;
    assert_eq!(phase, NodePhase::Healthy, "unchanged");
    assert_eq!(first.create("i2").await.unwrap_err(), CreateError::Starting);
    for refused in [
        first.kill("i1").await.unwrap_err(),
        first.node.set_end(&id("i1"), std::time::SystemTime::now()).await.unwrap_err(),
    ] {
        assert!(matches!(refused, NodeError::Unreachable(_)), "{refused}");
    }
    drop(first);
    second.create("i2").await.unwrap();
    second.stop_clean("beside").await;
}

#[test]
fn starts_under_way_are_finished_or_undone_and_new_ones_are_told_to_come_back() {
    let site = Site::new();
    site.fake.behave("i2", Manner { boots_for: secs(2), ..Manner::default() });
    site.fake.behave("i3", Manner { boots_for: secs(60), ..Manner::default() });
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        bench.create_all(["i1"]).await;
        let leaving = async {
            sleep(secs(1)).await;
            leave(&bench).await
        };
        let late = async {
            sleep(secs(2)).await;
            assert!(!bench.document().await.accepting);
            bench.create("i4").await.unwrap_err()
        };
        let (quick, slow, report, late) =
            tokio::join!(bench.create("i2"), bench.create("i3"), leaving, late);
        quick.unwrap();
        assert_eq!(slow.unwrap_err(), CreateError::Cancelled);
        assert_eq!(late, CreateError::Starting);
        assert_eq!((report.left, report.errors), (2, Vec::new()));
    });
    daemon(&site.fake, async {
        let bench = site.node().await;
        let listed = assert_accounted(&bench, "starts").await;
        assert_eq!(listed.len(), 2);
        assert_eq!(reason(&bench, "i3").await, Some(EndReason::NodeStop));
        bench.stop_clean("starts").await;
    });
}

#[test]
fn builds_are_cancelled() {
    let site = Site::new();
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        let build: BuildId = "b1".parse().unwrap();
        let template = bench.template.clone();
        let request = BuildRequest { build: build.clone(), template, alias: "base".into() };
        bench.node.build(request).await.unwrap();
        assert_eq!(leave(&bench).await.errors, [""; 0]);
        let state = bench.node.build_status(&build).await.unwrap().state;
        assert!(matches!(state, BuildState::Failed(_)), "{state:?}");
    });
    daemon(&site.fake, async {
        let bench = site.node().await;
        bench.stop_clean("builds").await;
    });
}

#[test]
fn a_teardown_under_way_is_finished_and_one_that_hangs_is_left_by_name() {
    for (takes, left) in [(secs(3), false), (secs(59), true)] {
        let site = Site::new();
        let slow = Some((Step::Files, takes));
        site.fake.behave("i1", Manner { slow, ..Manner::default() });
        daemon(&site.fake, async {
            let bench = site.open_node().await;
            bench.create_all(["i1", "i2"]).await;
            let mut events = bench.node.events();
            let leaving = async {
                sleep(secs(1)).await;
                leave(&bench).await
            };
            let began = Instant::now();
            let (killed, report) = tokio::join!(bench.kill("i1"), leaving);
            match left {
                true => assert!(matches!(killed, Err(NodeError::Unreachable(_))), "{killed:?}"),
                false => assert_eq!(killed, Ok(())),
            }
            assert_eq!(report.left, 1);
            assert_eq!(!report.errors.is_empty(), left, "{:?}", report.errors);
            assert!(began.elapsed() <= BUDGET + secs(1), "{:?}", began.elapsed());
            // What the next daemon does is no teardown that failed.
            while let Ok(event) = events.try_recv() {
                assert!(!matches!(event, NodeEvent::TornDown { .. }), "{event:?}");
            }
        });
        site.fake.behave("i1", Manner::default());
        daemon(&site.fake, async {
            let bench = site.open_node().await;
            assert_eq!(assert_accounted(&bench, "teardown").await.len(), 1);
            assert_eq!(reason(&bench, "i1").await, Some(EndReason::Request));
            bench.stop_clean("teardown").await;
        });
    }
}

/// No supervisor runs between the order and the leaving, whichever comes first: a machine that is busy
/// enough does the same.
#[test]
fn an_end_that_is_asked_for_in_the_instant_of_leaving_is_done_or_left_to_the_next_daemon() {
    for first in [true, false] {
        let site = Site::new();
        let killed = daemon(&site.fake, async {
            let bench = site.open_node().await;
            bench.create_all(["i1", "i2"]).await;
            let (killed, report) = match first {
                true => tokio::join!(biased; bench.kill("i1"), leave(&bench)),
                false => {
                    let (report, killed) = tokio::join!(biased; leave(&bench), bench.kill("i1"));
                    (killed, report)
                }
            };
            assert_eq!(report.errors, [""; 0]);
            killed
        });
        match first {
            true => assert_eq!(killed, Ok(())),
            // Neither gone nor stuck: whoever asks the next daemon is answered.
            false => assert!(matches!(killed, Err(NodeError::Unreachable(_))), "{killed:?}"),
        }
        daemon(&site.fake, async {
            let bench = site.open_node().await;
            assert_eq!(assert_accounted(&bench, "in the instant").await.len(), 1, "{first}");
            assert_eq!(reason(&bench, "i1").await, Some(EndReason::Request), "{first}");
            bench.stop_clean("in the instant").await;
        });
    }
}

#[test]
fn what_is_stuck_is_left_by_name_and_holds_nobody_up() {
    for step in Step::ALL {
        let site = Site::new();
        daemon(&site.fake, async {
            let bench = site.open_node().await;
            bench.create_all(["i1", "i2"]).await;
            site.faults.arm(step.point(), Fault::Error, EVERY);
            bench.kill("i1").await.unwrap_err();
            let began = Instant::now();
            let report = leave(&bench).await;
            assert_eq!((report.left, report.errors), (1, Vec::new()), "{step:?}");
            assert!(began.elapsed() < secs(2), "{step:?}: {:?}", began.elapsed());
        });
        site.faults.disarm();
        daemon(&site.fake, async {
            let bench = site.open_node().await;
            assert_eq!(assert_accounted(&bench, step.name()).await.len(), 1, "{step:?}");
            assert_eq!(reason(&bench, "i1").await, Some(EndReason::Request), "{step:?}");
            bench.stop_clean(step.name()).await;
        });
    }
}

#[test]
fn a_daemon_leaves_while_it_removes_what_the_one_before_left() {
    let site = Site::new();
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        bench.create_all(["i1", "i2"]).await;
        site.fake.lose(bench.entry("i1").lifecycle.as_str(), Class::Slot);
    });
    site.fake.behave("i1", Manner { slow: Some((Step::Files, secs(59))), ..Manner::default() });
    daemon(&site.fake, async {
        let bench = site.node().await;
        sleep(secs(1)).await;
        let stopping = bench.entry("i1").phase();
        assert_eq!(stopping, SandboxPhase::TearingDown);
        let report = leave(&bench).await;
        assert_eq!(report.left, 1);
    });
    site.fake.behave("i1", Manner::default());
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        assert_eq!(assert_accounted(&bench, "twice left").await.len(), 1);
        assert_eq!(reason(&bench, "i1").await, Some(EndReason::Reclaimed));
        bench.stop_clean("twice left").await;
    });
}

/// Leaves with a start, an end and a build under way, so that there is something at every step.
async fn leave_in_the_middle(bench: &Bench) -> LeaveReport {
    let (start, end) = (bench.create("i2"), bench.kill("i1"));
    let leaving = async {
        sleep(secs(1)).await;
        leave(bench).await
    };
    let (_, _, report) = tokio::join!(start, end, leaving);
    report
}

/// Two that are live, a third that is slow to start, and the end of a second one that is slow.
async fn busy(site: &Site) -> Bench {
    site.fake.behave("i1", Manner { slow: Some((Step::Files, secs(3))), ..Manner::default() });
    site.fake.behave("i2", Manner { boots_for: secs(2), ..Manner::default() });
    let bench = site.open_node().await;
    bench.create_all(["i0", "i1"]).await;
    bench
}

#[test]
fn a_daemon_killed_at_any_point_of_leaving_leaves_what_is_live_and_nothing_else() {
    for point in LEAVE_POINTS {
        let site = Site::new();
        let live = daemon(&site.fake, async {
            let bench = busy(&site).await;
            let mut live = bench.list().await;
            live.retain(|status| status.id == id("i0"));
            site.faults.arm(point, Fault::Delay, 1);
            tokio::select! {
                report = leave_in_the_middle(&bench) => panic!("{point} was not passed: {report:?}"),
                () = site.hung() => live,
            }
        });
        site.fake.behave("i1", Manner::default());
        daemon(&site.fake, async {
            let bench = site.open_node().await;
            let listed = assert_accounted(&bench, point).await;
            assert_eq!(listed[..1], live, "{point}");
            // The one that was about to start is there or was never told of.
            let others: Vec<_> = listed[1..].iter().map(|status| status.id.as_str()).collect();
            assert!(others.is_empty() || others == ["i2"], "{point}: {others:?}");
            assert_eq!(reason(&bench, "i1").await, Some(EndReason::Request), "{point}");
            bench.stop_clean(point).await;
        });
    }
}

#[test]
fn a_step_of_leaving_that_fails_is_told_and_holds_up_none_of_the_others() {
    for point in LEAVE_POINTS {
        let site = Site::new();
        daemon(&site.fake, async {
            let bench = site.open_node().await;
            bench.create_all(["i1"]).await;
            site.faults.arm(point, Fault::Error, 1);
            let report = leave(&bench).await;
            assert_eq!((report.left, report.errors.len()), (1, 1), "{point}: {report:?}");
            assert!(report.errors[0].contains(point), "{report:?}");
        });
        daemon(&site.fake, async {
            let bench = site.open_node().await;
            assert_eq!(assert_accounted(&bench, point).await.len(), 1, "{point}");
            bench.stop_clean(point).await;
        });
    }
}
