//! Pauses of sandboxes whose guest agent gives no sign of life.

use model::{Keep, OnTimeout, SandboxPhase};
use node_wire::{NodeApi, PauseError, PauseOrder, PausedStatus};

use super::crashes::{Site, daemon};
use super::{Bench, Images, LIMIT, ends, secs};
use crate::fake::Manner;

const STRICT: PauseOrder = PauseOrder { keep: Keep::Memory, healthy_only: true };

impl Bench {
    async fn pause_by(&self, id: &str, order: PauseOrder) -> Result<PausedStatus, PauseError> {
        ends("pause", self.node.pause_by(&id.parse().unwrap(), order)).await
    }

    fn has_agent(&self, id: &str, answers: bool) {
        self.fake.behave(id, Manner { mute: !answers, ..Manner::default() });
    }

    fn is_live(&self, id: &str) -> bool {
        let entry = self.node.inner.registry.get(&id.parse().unwrap());
        entry.is_some_and(|entry| entry.phase() == SandboxPhase::Live)
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_needs_the_agent_is_refused_while_it_is_silent_and_changes_nothing() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    let mut events = bench.node.events();
    bench.has_agent("i1", false);
    for order in [STRICT, Keep::Files.into()] {
        let refused = bench.pause_by("i1", order).await;
        assert_eq!(refused, Err(PauseError::AgentSilent("i1".into())));
        assert!(bench.is_live("i1"));
    }
    assert!(events.try_recv().is_err(), "nobody outside noticed");
    bench.has_agent("i1", true);
    let paused = bench.pause_by("i1", STRICT).await.unwrap();
    assert!(paused.memory && !paused.agent_silent);
    bench.kill("i1").await.unwrap();
    bench.stop_clean("refused").await;
}

#[tokio::test(start_paused = true)]
async fn a_memory_with_a_silent_agent_is_kept_and_said_to_be_one_until_it_is_gone() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    bench.has_agent("i1", false);
    let paused = bench.pause_by("i1", Keep::Memory.into()).await.unwrap();
    assert!(paused.memory && paused.agent_silent);
    assert_eq!(bench.node.paused().await.unwrap(), std::slice::from_ref(&paused));
    // It answers after all: that is known from then on.
    bench.has_agent("i1", true);
    let id = "i1".parse().unwrap();
    ends("resume", bench.node.resume(bench.spec("i1"), Keep::Memory, LIMIT)).await.unwrap();
    let paused = bench.pause_by("i1", Keep::Memory.into()).await.unwrap();
    assert!(!paused.agent_silent);
    ends("resume", bench.node.resume(bench.spec("i1"), Keep::Memory, LIMIT)).await.unwrap();

    bench.has_agent("i1", false);
    assert!(bench.pause_by("i1", Keep::Memory.into()).await.unwrap().agent_silent);
    bench.has_agent("i1", true);
    let anew = ends("start", bench.node.resume(bench.spec("i1"), Keep::Files, LIMIT)).await;
    assert!(!anew.unwrap().memory);
    assert!(bench.node.paused().await.unwrap().is_empty());
    // What only has its files has nothing of the agent that was.
    bench.has_agent("i1", false);
    bench.pause_by("i1", Keep::Memory.into()).await.unwrap();
    let mut beats = bench.node.inner.pulse.listen();
    bench.node.request(model::NodeRequest::Drain).await.unwrap();
    ends("sealed", beats.until(|| bench.node.inner.registry.get(&id).is_none())).await;
    let sealed = bench.node.paused().await.unwrap();
    assert!(sealed.iter().all(|sealed| !sealed.memory && !sealed.agent_silent), "{sealed:?}");
    bench.stop_clean("silent").await;
}

/// Nobody is there to try again, and a sandbox does not outlive its time.
#[tokio::test(start_paused = true)]
async fn at_the_end_of_its_time_a_sandbox_is_paused_whether_its_agent_answers_or_not() {
    for keep in [Keep::Memory, Keep::Files] {
        let images = Images::new();
        let bench = images.node().await;
        let mut spec = bench.spec("i1");
        (spec.ttl, spec.on_timeout) = (secs(60), OnTimeout::Pause(keep));
        bench.node.create(spec, LIMIT).await.unwrap();
        bench.has_agent("i1", false);
        let mut beats = bench.node.inner.pulse.listen();
        ends("paused", beats.until(|| !bench.node.inner.paused().is_empty())).await;
        let paused = bench.node.paused().await.unwrap().remove(0);
        let memory = keep == Keep::Memory;
        assert_eq!((paused.memory, paused.agent_silent), (memory, memory));
        bench.kill("i1").await.unwrap();
        bench.stop_clean("time").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_does_not_wait_for_a_silent_agent() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    bench.has_agent("i1", false);
    let began = tokio::time::Instant::now();
    let (paused, killed) = tokio::join!(bench.pause_by("i1", Keep::Memory.into()), async {
        tokio::time::sleep(secs(1)).await;
        bench.kill("i1").await
    });
    killed.unwrap();
    assert!(matches!(paused, Err(PauseError::Lost(_))), "{paused:?}");
    assert_eq!(began.elapsed(), secs(1), "on a clock that stands still while anybody works");
    bench.stop_clean("end").await;
}

#[test]
fn the_next_daemon_knows_that_the_agent_was_silent() {
    let site = Site::new();
    daemon(&site.fake, async {
        let bench = site.node().await;
        bench.create_all(["i1"]).await;
        bench.has_agent("i1", false);
        assert!(bench.pause_by("i1", Keep::Memory.into()).await.unwrap().agent_silent);
    });
    daemon(&site.fake, async {
        let bench = site.open_node().await;
        assert!(bench.node.paused().await.unwrap()[0].agent_silent);
        bench.kill("i1").await.unwrap();
        bench.stop_clean("next").await;
    });
}
