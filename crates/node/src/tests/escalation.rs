//! How long a drain waits, what it says meanwhile, and when it ends what runs.

use std::time::Duration;

use model::{NodePhase, NodeRequest};
use node_wire::{BuildRequest, BuildState, NodeApi};
use tokio::time::{Instant, sleep};

use super::log::Log;
use super::{Images, LIMIT, secs};
use crate::fake::Manner;
use crate::shutdown::{Escalation, StopPlan};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

#[tokio::test(start_paused = true)]
async fn without_a_limit_a_drain_waits_for_days_and_ends_with_the_last() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1", "i2"]).await;
    let (plan, escalation) = (StopPlan { graceful: None, force: LIMIT }, Escalation::default());
    let ends = async {
        sleep(secs(3 * DAY)).await;
        bench.kill("i1").await.unwrap();
        // At a moment of no rhythm: who looks now and then sees the end later.
        sleep(secs(4 * DAY) + Duration::from_millis(1234)).await;
        assert_eq!(bench.node.inner.phase(), NodePhase::Draining);
        bench.kill("i2").await.unwrap();
    };
    let (report, ()) = tokio::join!(bench.node.stop(plan, &escalation), ends);
    assert!(report.is_clean() && !report.forced && report.attempts == 0, "{report:#?}");
    let woken = report.took - secs(7 * DAY) - Duration::from_millis(1234);
    assert!(woken < Duration::from_millis(100), "{report:#?}");
    bench.assert_given_back("a drain of a week");
}

#[tokio::test(start_paused = true)]
async fn a_stop_with_nothing_running_waits_for_nothing() {
    let images = Images::new();
    let bench = images.node().await;
    let (plan, escalation) = (StopPlan { graceful: None, force: LIMIT }, Escalation::default());
    let report = bench.node.stop(plan, &escalation).await;
    assert!(report.is_clean() && !report.forced, "{report:#?}");
    assert!(report.took < Duration::from_millis(100), "{report:#?}");
    bench.assert_given_back("a stop with nothing running");
}

#[tokio::test(start_paused = true)]
async fn with_a_limit_a_drain_escalates_exactly_then() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    let plan = StopPlan { graceful: Some(secs(HOUR)), force: LIMIT };
    let escalation = Escalation::default();
    let instant = Duration::from_millis(5);
    let watch = async {
        sleep(secs(HOUR) - instant).await;
        assert_eq!(bench.fake.killed().len(), 0);
        assert_eq!(bench.node.inner.phase(), NodePhase::Draining);
        sleep(2 * instant).await;
        assert_eq!(bench.fake.killed().len(), 1);
    };
    let (report, ()) = tokio::join!(bench.node.stop(plan, &escalation), watch);
    assert!(report.is_clean() && report.forced && report.attempts == 1, "{report:#?}");
    bench.assert_given_back("a drain with a limit");
}

#[tokio::test(start_paused = true)]
async fn how_a_build_ended_can_be_asked_for_a_while_before_the_node_is_closed() {
    for asked_after in [Some(secs(5)), None] {
        let images = Images::new();
        let bench = images.node().await;
        let (template, build) = (bench.template.clone(), "b1".parse().unwrap());
        let request = BuildRequest { build, template, alias: "base".into() };
        bench.node.build(request.clone()).await.unwrap();
        let plan = StopPlan { graceful: None, force: LIMIT };
        let escalation = Escalation::default();
        let poll = async {
            sleep(secs(HOUR)).await;
            bench.fake.builds_end.cancel();
            let Some(pause) = asked_after else { return };
            sleep(pause).await;
            let built = bench.node.build_status(&request.build).await.unwrap();
            assert_eq!(built.state, BuildState::Completed);
        };
        let (report, ()) = tokio::join!(bench.node.stop(plan, &escalation), poll);
        assert!(report.is_clean() && !report.forced, "{report:#?}");
        let waited = if asked_after.is_some() { 5 } else { 15 };
        assert_eq!(report.took.as_secs(), HOUR + waited, "{asked_after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_of_three_hours_is_told_in_its_cadence_with_its_oldest_blocker() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    sleep(secs(10)).await;
    bench.create_all(["i2"]).await;
    let log = Log::start();
    bench.node.request(NodeRequest::Drain).await.unwrap();
    // Asking again changes nothing of it.
    bench.node.request(NodeRequest::Drain).await.unwrap();
    sleep(secs(HOUR) + secs(30)).await;
    bench.kill("i1").await.unwrap();
    sleep(secs(2 * HOUR) - secs(60)).await;
    let lines = log.lines("draining");
    let minute = (0..12).map(|n| 5 * n);
    let hour = (1..60).map(|n| 60 * n);
    let then = (0..8).map(|n| HOUR + 900 * n);
    let expected: Vec<u64> = minute.chain(hour).chain(then).collect();
    let told: Vec<u64> = lines.iter().map(|line| line.at().as_secs()).collect();
    assert_eq!(told, expected);
    assert_eq!(told.len(), 79);
    for line in &lines {
        let elapsed = line.number("elapsed_s");
        let (oldest, remaining) = if elapsed <= HOUR { ("i1", 2) } else { ("i2", 1) };
        assert_eq!(
            (line.text("oldest"), line.number("remaining")),
            (oldest, remaining),
            "{line:?}"
        );
        let older_by = if oldest == "i1" { 10 } else { 0 };
        assert_eq!(line.number("oldest_age_s"), elapsed + older_by, "{line:?}");
    }
    bench.kill("i2").await.unwrap();
    // The next line is minutes away; the end is told at once.
    sleep(Duration::from_millis(1)).await;
    assert_eq!(log.lines("nothing is left to wait for").len(), 1);
    bench.stop_clean("a drain of three hours").await;
}

#[tokio::test(start_paused = true)]
async fn many_that_ignore_the_kill_cost_one_budget_and_hold_up_nobody() {
    const DEAF: usize = 200;
    let images = Images::new();
    let bench = images.node().await;
    let ids: Vec<String> = (0..DEAF + 20).map(|n| format!("i{n}")).collect();
    for id in &ids[..DEAF] {
        bench.fake.behave(id, Manner { deaf: true, ..Manner::default() });
    }
    bench.create_all(ids.iter().map(String::as_str)).await;
    for number in 1..=2 {
        let began = Instant::now();
        bench.node.request(NodeRequest::DrainForced).await.unwrap();
        sleep(secs(1)).await;
        assert_eq!(bench.node.sandboxes(), DEAF, "the others are gone at once");
        let attempt = bench.attempt_ended().await;
        assert_eq!((attempt.number, attempt.failed.len()), (number, DEAF));
        assert_eq!(attempt.stopped, if number == 1 { 20 } else { 0 });
        assert!(attempt.failed.iter().all(|left| left.contains(": kill: ")), "{attempt:?}");
        // A kill has ten seconds, a round of the second attempt may run already.
        assert!(began.elapsed() < secs(11), "{:?}", began.elapsed());
        assert_eq!(bench.document().await.phase, NodePhase::ForceFailed);
    }
    bench.fake.obey();
    bench.node.request(NodeRequest::DrainForced).await.unwrap();
    let attempt = bench.attempt_ended().await;
    assert_eq!((attempt.number, attempt.failed.len()), (3, 0), "failure is not kept");
    let before = bench.document().await;
    sleep(secs(1)).await;
    bench.node.request(NodeRequest::DrainForced).await.unwrap();
    let after = bench.document().await;
    let told = |document: &node_wire::DrainStatus| {
        let attempt = document.attempt.clone().unwrap();
        (document.phase, document.changed_at, attempt.number, attempt.started_at)
    };
    assert_eq!(told(&before), told(&after), "success is");
    bench.stop_clean("many deaf ones").await;
}
