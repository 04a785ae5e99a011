//! What is recorded and told of teardowns.

use std::sync::Arc;

use host::{Fault, Faults};
use model::{EndReason, NodeRequest};
use node_wire::{NodeApi, NodeEvent};
use tokio::sync::broadcast;
use tokio::time::sleep;

use super::log::{Line, Log};
use super::{EVERY, Images, secs};
use crate::fake::{Class, Fake};
use crate::teardown::Step;

/// Every record of a release step has the step, its result and whose it was.
fn assert_steps(lines: &[Line], sandbox: &str, lifecycle: &str, expected: &[(Step, &str)]) {
    let steps: Vec<_> = lines.iter().map(|line| (line.text("step"), line.text("result"))).collect();
    let expected: Vec<_> = expected.iter().map(|(step, result)| (step.name(), *result)).collect();
    assert_eq!(steps, expected);
    for line in lines {
        let whose = (line.of_span("sandbox.id"), line.of_span("lifecycle.id"));
        assert_eq!(whose, (sandbox, lifecycle), "{line:?}");
        assert_eq!((line.text("level"), line.number("ms")), ("DEBUG", 0), "{line:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_release_step_is_recorded_with_the_ids_in_the_first_round_and_in_all_others() {
    let images = Images::new();
    let bench = images.node().await;
    let log = Log::start();
    bench.create_all(["i1"]).await;
    let lifecycle = bench.entry("i1").lifecycle.to_string();
    bench.faults.arm(Step::Files.point(), Fault::Error, 2);
    bench.kill("i1").await.unwrap_err();
    sleep(secs(5)).await;
    assert_eq!(bench.node.sandboxes(), 0);
    let (ok, failed) = ("ok", "failed");
    let expected = [
        (Step::Kill, ok),
        (Step::Runtime, ok),
        (Step::Mounts, ok),
        (Step::Slot, ok),
        (Step::Cgroup, ok),
        (Step::Files, failed),
        (Step::Lease, ok),
        // The second round, and the third.
        (Step::Files, failed),
        (Step::Files, ok),
        (Step::Directory, ok),
    ];
    assert_steps(&log.lines("release step"), "i1", &lifecycle, &expected);
    bench.stop_clean("steps").await;
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_daemon_left_is_released_under_its_own_name() {
    let images = Images::new();
    let (faults, log) = (Faults::default(), Log::start());
    let fake = Fake::new(faults.clone());
    fake.plant("l1", &[Class::Directory, Class::Lease, Class::Files, Class::Mount, Class::Process]);
    let bench = images.node_on(Arc::clone(&fake), faults, |_| {}).await;
    bench.node.opened().await;
    assert_eq!(fake.held(), []);
    let expected = Step::ALL.map(|step| (step, "ok"));
    assert_steps(&log.lines("release step"), "l1", "l1", &expected);
    bench.stop_clean("reclaim").await;
}

/// An event in short: `ended`, or of a teardown, whether it was forced and what is left first.
fn told(events: &mut broadcast::Receiver<NodeEvent>) -> Vec<String> {
    let short = |event| match event {
        NodeEvent::Ended { id, reason, .. } => format!("{id} ended: {}", reason.as_str()),
        NodeEvent::TornDown { id, reason, forced, left, .. } => {
            let left = left.first().map_or("nothing", |left| left.split(':').next().unwrap());
            format!("{id} torn down: {}, {forced}, {left}", reason.as_str())
        }
        NodeEvent::EndMoved { id, .. } => format!("{id} moved"),
        NodeEvent::Pausing { id, .. } => format!("{id} is being paused"),
        NodeEvent::Paused { id, memory, .. } => format!("{id} paused, memory: {memory}"),
        NodeEvent::Resumed { id, .. } => format!("{id} runs on"),
    };
    std::iter::from_fn(|| events.try_recv().ok()).map(short).collect()
}

#[tokio::test(start_paused = true)]
async fn a_teardown_that_failed_is_told_once_however_often_it_fails() {
    let images = Images::new();
    let bench = images.node().await;
    let mut events = bench.node.events();
    bench.create_all(["i1", "i2"]).await;
    bench.kill("i1").await.unwrap();
    assert_eq!(told(&mut events), ["i1 ended: request"]);
    bench.faults.arm(Step::Cgroup.point(), Fault::Error, 3);
    bench.kill("i2").await.unwrap_err();
    bench.kill("i2").await.unwrap_err();
    sleep(secs(20)).await;
    assert_eq!(bench.node.sandboxes(), 0);
    let expected = ["i2 ended: request", "i2 torn down: request, false, cgroup"];
    assert_eq!(told(&mut events), expected);
    bench.faults.arm("create.init.before", Fault::Error, 1);
    bench.faults.arm(Step::Slot.point(), Fault::Panic, 1);
    bench.create("i3").await.unwrap_err();
    let expected = ["i3 ended: start-failed", "i3 torn down: start-failed, false, slot"];
    assert_eq!(told(&mut events), expected);
    bench.stop_clean("events").await;
}

#[tokio::test(start_paused = true)]
async fn a_teardown_that_was_forced_is_told_once_whether_it_fails_or_not() {
    let images = Images::new();
    for fails in [false, true] {
        let bench = images.node().await;
        let mut events = bench.node.events();
        bench.create_all(["i1"]).await;
        if fails {
            bench.faults.arm(Step::Kill.point(), Fault::Error, EVERY);
        }
        bench.node.request(NodeRequest::DrainForced).await.unwrap();
        bench.attempt_ended().await;
        bench.faults.disarm();
        bench.stop_clean("forced").await;
        let left = if fails { "kill" } else { "nothing" };
        let torn_down = format!("i1 torn down: {}, true, {left}", EndReason::NodeStop.as_str());
        assert_eq!(told(&mut events), ["i1 ended: node-stop".to_owned(), torn_down]);
    }
}
