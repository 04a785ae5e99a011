//! Emptying a node by itself: what is waited for, what is answered, what is told.

use std::time::{Duration, SystemTime};

use model::{BuildId, EndReason, NodePhase, NodeRequest, TemplateId};
use node::{Escalation, StopPlan};
use node_wire::{BuildError, BuildRequest, Class, NodeApi};
use testkit::{TestNode, in_view, wait_for};
use tracing::Level;

use super::log::{Line, logged};
use super::{LIMIT, attempt_ended, count, id, status};

fn base(n: u32) -> BuildRequest {
    BuildRequest {
        build: BuildId::parse(&format!("b{n}")).unwrap(),
        template: TemplateId::parse("base").unwrap(),
        alias: "base".to_owned(),
    }
}

#[test]
fn everything_but_new_work_is_answered_in_a_drain() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let node = &test.node;
        node.create(test.spec("i1"), LIMIT).await.unwrap();
        node.request(NodeRequest::Drain).await.unwrap();
        assert_eq!(node.info().await.unwrap().phase, NodePhase::Draining);
        assert_eq!(node.list().await.unwrap().len(), 1);
        assert!(!node.samples(&id("i1")).await.unwrap().is_empty());
        let end = SystemTime::now() + Duration::from_secs(60);
        node.set_end(&id("i1"), end).await.unwrap();
        assert_eq!(node.list().await.unwrap()[0].ends_at, end);
        assert!(node.builds().await.unwrap().is_empty());
        let leaks = node.leaks().await.unwrap();
        assert!(leaks.leaked.is_empty() && !leaks.owned.is_empty(), "{leaks:?}");
        node.kill(&id("i1"), EndReason::Request).await.unwrap();
        test.stop().await;
    });
}

#[test]
fn a_phase_that_is_asked_for_again_is_no_change() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let requests = [
            NodeRequest::Standby,
            NodeRequest::Unhealthy,
            NodeRequest::Healthy,
            NodeRequest::Unhealthy,
            NodeRequest::Drain,
        ];
        for request in requests {
            let before = status(&test).await.changed_at;
            test.node.request(request).await.unwrap();
            let changed = status(&test).await;
            assert!(changed.changed_at > before, "{request:?}");
            test.node.request(request).await.unwrap();
            assert_eq!(status(&test).await.changed_at, changed.changed_at, "{request:?}");
        }
        test.stop().await;
    });
}

#[test]
fn the_limit_of_a_drain_is_one_for_all_kinds_of_work_and_is_not_set_again() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        test.node.build(base(1)).await.unwrap();
        let graceful = Duration::from_secs(5);
        let plan = StopPlan { graceful: Some(graceful), force: LIMIT };
        let began = SystemTime::now();
        let again = async {
            let first = status(&test).await;
            assert_eq!((count(&first, Class::Live), count(&first, Class::Build)), (1, 1));
            test.node.request(NodeRequest::Drain).await.unwrap();
            let second = status(&test).await;
            assert_eq!((second.changed_at, second.force_at), (first.changed_at, first.force_at));
            first.force_at.unwrap()
        };
        let escalation = Escalation::default();
        let (report, force_at) = tokio::join!(test.node.stop(plan, &escalation), again);
        assert!(report.is_clean() && report.forced && report.attempts == 1, "{report:#?}");
        assert!(force_at >= began + graceful);
        let attempt = attempt_ended(&test).await;
        let late = attempt.started_at.duration_since(force_at).unwrap();
        assert!(late < graceful, "set again, it is over as much later: {late:?}");
    });
}

#[test]
fn sandboxes_end_while_a_build_is_waited_for() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let mut spec = test.spec("i1");
        spec.ttl = Duration::from_millis(50);
        test.node.create(spec, LIMIT).await.unwrap();
        test.node.build(base(1)).await.unwrap();
        test.node.request(NodeRequest::Drain).await.unwrap();
        wait_for("the sandbox to end", LIMIT, || async { test.node.sandboxes() == 0 }).await;
        let now = status(&test).await;
        assert_eq!((now.remaining(), count(&now, Class::Build)), (1, 1), "{now:?}");
        assert_eq!(now.blockers[0].id, "b1");
        // Deleting it is how somebody helps a drain on: it is over when the answer comes.
        test.node.build_delete(&base(1).build).await.unwrap();
        assert_eq!(status(&test).await.remaining(), 0);
        let gone = test.node.build_status(&base(1).build).await.unwrap_err();
        assert!(matches!(gone, BuildError::NotFound(_)), "{gone}");
        let drafts = std::fs::read_dir(test.data_dir().join("../images")).unwrap();
        let names: Vec<_> = drafts.map(|entry| entry.unwrap().file_name()).collect();
        let published = test.node.info().await.unwrap().templates.len();
        assert_eq!(names.len(), published, "only what was published is there: {names:?}");
        test.stop().await;
    });
}

fn starting_with<'a>(lines: &'a [Line], text: &'a str) -> impl Iterator<Item = &'a Line> {
    lines.iter().filter(move |line| line.text.starts_with(text))
}

#[test]
fn a_drain_is_told_at_its_start_when_it_escalates_and_at_its_end() {
    in_view(async |view| {
        let ((), lines) = logged(async {
            let test = TestNode::start(view, |_| {}).await;
            test.node.create(test.spec("young"), LIMIT).await.unwrap();
            let plan = StopPlan { graceful: Some(Duration::from_millis(100)), force: LIMIT };
            let report = test.node.stop(plan, &Escalation::default()).await;
            assert!(report.is_clean(), "{report:#?}");
        });
        let of = |text| starting_with(&lines, text).map(|line| line.text.as_str());
        let start = of("draining ").next().unwrap();
        for part in
            ["phase=draining", "remaining=1", r#"{"live": 1}"#, "oldest=young", "oldest_state=live"]
        {
            assert!(start.contains(part), "no {part} in {start}");
        }
        assert!(start.contains("oldest_age_s="), "{start}");
        assert_eq!(of("ending everything number=1 sandboxes=1").count(), 1, "{lines:#?}");
        assert_eq!(of("nothing is left to wait for").count(), 1, "{lines:#?}");
        let last = lines.last().unwrap();
        assert_eq!(last.level, Level::INFO);
        for part in [
            "node stopped",
            "took_ms=",
            "phase=stopped",
            "stopped=1",
            "forced=true",
            "leaked=0",
            "failed=0",
        ] {
            assert!(last.text.contains(part), "no {part} in {}", last.text);
        }
    });
}

#[test]
fn the_end_of_the_last_sandbox_wakes_the_drain_at_once() {
    let after = || {
        testkit::with_view(async |view| {
            let ((), lines) = logged(async {
                let test = TestNode::start(view, |_| {}).await;
                test.node.create(test.spec("i1"), LIMIT).await.unwrap();
                test.node.request(NodeRequest::Drain).await.unwrap();
                test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
                test.stop().await;
            });
            let at = |text| starting_with(&lines, text).next().unwrap().at;
            at("nothing is left to wait for") - at("sandbox ended")
        })
    };
    // One may be late, because the machine is busy; one that looks now and then is late every time.
    let fastest = [after(), after(), after()].into_iter().min().unwrap();
    assert!(fastest < Duration::from_secs(1), "woken after {fastest:?}");
}
