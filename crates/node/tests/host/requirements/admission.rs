//! Who is let in, and what becomes of those who were.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use model::{EndReason, NodeRequest};
use node::{Escalation, StopPlan};
use node_wire::{Class, CreateError, NodeApi};
use testkit::{TestNode, in_view};
use tokio::runtime::Handle;

use super::{LIMIT, attempt_ended, census, count, id, lifecycles, status};
use crate::runtimes::{HANG, Script};

#[test]
fn who_was_admitted_before_a_drain_is_started_and_waited_for() {
    in_view(async |view| {
        let script = Script::new();
        let test = TestNode::start(view, |config| script.used_by(config)).await;
        let mut spec = test.spec("i1");
        spec.ttl = Duration::from_millis(300);
        // It is not made before the look.
        script.holds("create");
        let escalation = Escalation::default();
        let plan = StopPlan { graceful: None, force: LIMIT };
        let look = async {
            let now = status(&test).await;
            assert!(!now.accepting && now.phase.is_draining(), "{now:?}");
            assert_eq!(count(&now, Class::Starting), 1, "it has not been made yet: {now:?}");
            script.lets_go();
        };
        let create = test.node.create(spec, LIMIT);
        let (created, report, ()) = tokio::join!(create, test.node.stop(plan, &escalation), look);
        created.unwrap();
        assert!(report.is_clean() && !report.forced && report.ended == 1, "{report:#?}");
    });
}

#[test]
fn starts_under_way_when_force_begins_are_undone_and_their_callers_told() {
    in_view(async |view| {
        let script = Script::new();
        let test = TestNode::start(view, |config| script.used_by(config)).await;
        // None gets live before force has begun, however late that comes.
        script.says("create", HANG);
        let creates = (0..6).map(|n| test.node.create(test.spec(&format!("i{n}")), LIMIT));
        let creates = futures::future::join_all(creates);
        let force = async {
            test.node.request(NodeRequest::DrainForced).await.unwrap();
            test.node.create(test.spec("late"), LIMIT).await.unwrap_err()
        };
        let (created, late) = tokio::join!(creates, force);
        assert_eq!(late, CreateError::Draining, "force shuts the gate first");
        for error in created.into_iter().map(Result::unwrap_err) {
            assert_eq!(error, CreateError::Cancelled);
        }
        // Who was told so can rely on it.
        assert!(lifecycles(&census(&test).await).is_empty());
        let attempt = attempt_ended(&test).await;
        assert!(attempt.stopped == 6 && attempt.failed.is_empty(), "{attempt:?}");
        test.stop().await;
    });
}

#[test]
fn of_many_creates_with_one_id_one_wins_and_the_others_acquire_nothing() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let results = tokio::task::block_in_place(|| {
            let (handle, barrier, test) = (Handle::current(), Barrier::new(4), &test);
            let one = || {
                barrier.wait();
                handle.block_on(test.node.create(test.spec("i1"), LIMIT)).map(drop)
            };
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
            })
        });
        let refused =
            |r: &&Result<(), CreateError>| matches!(r, Err(CreateError::AlreadyExists(_)));
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1, "{results:?}");
        assert_eq!(results.iter().filter(refused).count(), 3, "{results:?}");
        assert_eq!(lifecycles(&census(&test).await).len(), 1);
        test.stop().await;
    });
}

#[test]
fn nothing_of_a_sandbox_is_ever_on_the_host_without_its_entry() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let known = async || -> BTreeSet<String> {
            let list = test.node.list().await.unwrap();
            list.into_iter().map(|status| status.lifecycle.to_string()).collect()
        };
        let (over, met) = (AtomicBool::new(false), AtomicUsize::new(0));
        let churn = async {
            // As often as it takes to be looked at in the middle of it.
            for _ in (0..200).take_while(|n| *n < 8 || met.load(Ordering::Relaxed) <= 3) {
                let ids = ["i1", "i2", "i3"].map(id);
                let create =
                    |id: &model::SandboxId| test.node.create(test.spec(id.as_str()), LIMIT);
                futures::future::try_join_all(ids.iter().map(create)).await.unwrap();
                let kill = |id| test.node.kill(id, EndReason::Request);
                futures::future::try_join_all(ids.iter().map(kill)).await.unwrap();
            }
            over.store(true, Ordering::Relaxed);
        };
        let watch = async {
            let mut seen = BTreeSet::new();
            while !over.load(Ordering::Relaxed) {
                let before = known().await;
                let found = lifecycles(&census(&test).await);
                let after = known().await;
                let unknown: Vec<_> =
                    found.iter().filter(|l| !before.contains(*l) && !after.contains(*l)).collect();
                assert!(unknown.is_empty(), "on the host and in no entry: {unknown:?}");
                seen.extend(found);
                met.store(seen.len(), Ordering::Relaxed);
                let leaks = test.node.leaks().await.unwrap();
                assert!(leaks.leaked.is_empty(), "told as leaked: {leaks:?}");
            }
            seen
        };
        let ((), seen) = tokio::join!(churn, watch);
        assert!(seen.len() > 3, "it was looked at often enough: {seen:?}");
        test.stop().await;
    });
}

#[test]
fn however_requests_race_a_drain_is_final_and_nobody_sees_it_open() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let other = [NodeRequest::Healthy, NodeRequest::Standby, NodeRequest::Unhealthy];
        let drained = AtomicBool::new(false);
        let (handle, barrier) = (Handle::current(), Barrier::new(4));
        let ask = |request| handle.block_on(test.node.request(request));
        // What was asked for after the drain was answered, and granted.
        let override_it = || {
            barrier.wait();
            let mut granted = 0;
            for n in 0..1000 {
                let after = drained.load(Ordering::SeqCst);
                let is_granted = ask(other[n % other.len()]).is_ok();
                granted += u32::from(after && is_granted);
            }
            granted
        };
        let drain = || {
            barrier.wait();
            for n in 0..300 {
                ask(other[n % other.len()]).unwrap();
            }
            ask(NodeRequest::Drain).unwrap();
            drained.store(true, Ordering::SeqCst);
        };
        let look = || {
            barrier.wait();
            let mut closed = 0;
            while closed < 1000 {
                let now = handle.block_on(status(&test));
                assert!(!(now.phase.is_draining() && now.accepting), "draining and open: {now:?}");
                assert!(closed == 0 || now.phase.is_draining(), "out of the drain: {now:?}");
                closed += u32::from(now.phase.is_draining());
            }
        };
        let granted = tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                let overrides = [scope.spawn(override_it), scope.spawn(override_it)];
                let others = [scope.spawn(drain), scope.spawn(look)];
                others.into_iter().for_each(|thread| thread.join().unwrap());
                overrides.map(|thread| thread.join().unwrap())
            })
        });
        assert_eq!(granted, [0, 0]);
        assert!(status(&test).await.phase.is_draining());
        test.stop().await;
    });
}
