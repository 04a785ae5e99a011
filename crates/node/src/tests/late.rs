//! What comes in, becomes live or is built in the middle of an attempt to force.

use std::sync::Arc;

use model::admission::Work;
use model::{EndReason, NodeRequest, SandboxPhase};
use node_wire::{BuildRequest, BuildState, CreateError, NodeApi, NodeEvent};
use tokio::time::{Instant, sleep};

use super::{Bench, Images, LIMIT, id, secs};
use crate::fake::Manner;

fn build(bench: &Bench, build: &str) -> BuildRequest {
    let template = bench.template.clone();
    BuildRequest { build: build.parse().unwrap(), template, alias: "base".into() }
}

#[tokio::test(start_paused = true)]
async fn who_comes_through_the_gate_before_force_and_registers_after_is_stopped_and_counted_late() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    let inner = &bench.node.inner;
    let slow = inner.enter(Work::Start).unwrap();
    let quick = inner.enter(Work::Start).unwrap();
    let make = inner.enter(Work::Build).unwrap();
    bench.node.request(NodeRequest::DrainForced).await.unwrap();
    sleep(secs(1)).await;
    assert_eq!(bench.node.sandboxes(), 0);
    assert!(bench.document().await.attempt.unwrap().running, "three are inside the gate");
    bench.fake.behave("i2", Manner { boots_for: secs(5), ..Manner::default() });
    let created = inner.create_within(slow, bench.spec("i2"), LIMIT).await;
    assert!(matches!(created, Err(CreateError::Cancelled)), "{created:?}");
    // Live before the attempt has seen it, and ended as soon as it has.
    inner.create_within(quick, bench.spec("i3"), LIMIT).await.unwrap();
    inner.build_within(make, build(&bench, "b1")).unwrap();
    let attempt = bench.attempt_ended().await;
    assert_eq!((attempt.number, attempt.stopped, attempt.late), (1, 4, 3), "{attempt:?}");
    assert_eq!(attempt.failed, [""; 0]);
    let built = bench.node.build_status(&"b1".parse().unwrap()).await.unwrap();
    assert!(matches!(built.state, BuildState::Failed(_)), "{built:?}");
    bench.stop_clean("late ones").await;
}

#[tokio::test(start_paused = true)]
async fn builds_that_force_ends_are_among_the_stopped_and_those_that_had_ended_are_not() {
    let images = Images::new();
    let bench = images.node().await;
    bench.node.build(build(&bench, "b1")).await.unwrap();
    bench.fake.builds_end.cancel();
    sleep(secs(1)).await;
    let built = bench.node.build_status(&"b1".parse().unwrap()).await.unwrap();
    assert_eq!(built.state, BuildState::Completed);
    bench.stop_clean("a build that has ended").await;

    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    for name in ["b1", "b2"] {
        bench.node.build(build(&bench, name)).await.unwrap();
    }
    bench.node.request(NodeRequest::DrainForced).await.unwrap();
    let attempt = bench.attempt_ended().await;
    assert_eq!((attempt.stopped, attempt.late, &attempt.failed[..]), (3, 0, &[][..]));
    bench.stop_clean("builds that were ended").await;
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_asked_for_before_it_is_live_wins_over_the_start() {
    let images = Images::new();
    let bench = images.node().await;
    let mut events = bench.node.events();
    // The agent has answered, the start has only to be told: then comes force.
    let inner = Arc::clone(&bench.node.inner);
    bench.fake.at_init("i1", move || {
        inner.registry.get(&id("i1")).unwrap().end(EndReason::NodeStop);
    });
    let created = bench.create("i1").await;
    assert!(matches!(created, Err(CreateError::Cancelled)), "{created:?}");
    assert_eq!(bench.fake.held(), [], "its caller hears when nothing is left");
    let event = events.try_recv().unwrap();
    assert!(matches!(event, NodeEvent::Ended { reason: EndReason::NodeStop, .. }), "{event:?}");
    bench.stop_clean("an end before it was live").await;
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_asked_for_when_it_is_live_is_the_end_of_one_that_was_started() {
    let images = Images::new();
    let bench = images.node().await;
    let mut events = bench.node.events();
    let end = async {
        let entry = loop {
            if let Some(entry) = bench.node.inner.registry.get(&id("i1")) {
                break entry;
            }
            tokio::task::yield_now().await;
        };
        entry.watch().wait_for(|state| state.phase == SandboxPhase::Live).await.unwrap();
        entry.end(EndReason::NodeStop);
    };
    let (created, ()) = tokio::join!(bench.create("i1"), end);
    created.unwrap();
    let event = events.recv().await.unwrap();
    assert!(matches!(event, NodeEvent::Ended { reason: EndReason::NodeStop, .. }), "{event:?}");
    bench.stop_clean("an end when it was live").await;
}

#[tokio::test(start_paused = true)]
async fn starts_under_way_are_cancelled_wherever_they_wait() {
    let images = Images::new();
    let bench = images.node().await;
    let manners = [
        ("i1", Manner { boots_for: secs(30), ..Manner::default() }),
        ("i2", Manner { mute: true, ..Manner::default() }),
    ];
    for (id, manner) in manners {
        bench.fake.behave(id, manner);
    }
    let force = async {
        sleep(secs(3)).await;
        bench.node.request(NodeRequest::DrainForced).await.unwrap();
        bench.attempt_ended().await
    };
    let began = Instant::now();
    let (booting, mute, attempt) = tokio::join!(bench.create("i1"), bench.create("i2"), force);
    for created in [booting, mute] {
        assert!(matches!(created, Err(CreateError::Cancelled)), "{created:?}");
    }
    assert_eq!((attempt.stopped, &attempt.failed[..]), (2, &[][..]));
    assert!(began.elapsed() < secs(4), "{:?}", began.elapsed());
    bench.stop_clean("starts under way").await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_never_answers_or_dies_before_it_does_is_a_failed_start() {
    let images = Images::new();
    let bench = images.node().await;
    let dies_after = Some(secs(2));
    bench.fake.behave("i1", Manner { mute: true, ..Manner::default() });
    bench.fake.behave("i2", Manner { mute: true, dies_after, ..Manner::default() });
    bench.fake.behave("i3", Manner { dies_after, ..Manner::default() });
    let began = Instant::now();
    let error = bench.create("i1").await.unwrap_err();
    assert!(matches!(error, CreateError::Expired { step: "init", .. }), "{error}");
    assert_eq!(began.elapsed().as_secs(), 10);
    let error = bench.create("i2").await.unwrap_err();
    let CreateError::Failed { step: "init", message } = &error else { panic!("{error}") };
    assert!(message.contains("ended before"), "{message}");
    bench.create("i3").await.unwrap();
    sleep(secs(3)).await;
    assert_eq!(bench.fake.held(), [], "all three are gone");
    bench.stop_clean("machines that do not answer").await;
}
