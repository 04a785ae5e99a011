//! Files of paused sandboxes on their way to the disk, and owners who do not wait for it.

use std::time::Duration;

use host::Fault;
use model::{EndReason, Keep, SandboxPhase};
use node_wire::{NodeApi, NodeError, NodeEvent, PauseError, PausedStatus};
use tokio::sync::broadcast::Receiver;
use tokio::time::{Instant, sleep};

use super::{Bench, EVERY, Images, LIMIT, ends, id, secs};
use crate::fake::Manner;
use crate::teardown::{SEAL_POINT, Step};

/// Longer than anybody waits who wants a sandbox gone.
const SLOW: Duration = secs(12);

async fn pause(bench: &Bench, sandbox: &str) -> Result<PausedStatus, PauseError> {
    ends("pause", bench.node.pause(&id(sandbox), Keep::Files)).await
}

/// Why the sandbox was said to have ended, each time.
fn ends_told(events: &mut Receiver<NodeEvent>, sandbox: &str) -> Vec<EndReason> {
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let NodeEvent::Ended { id, reason, .. } = event
            && id.as_str() == sandbox
        {
            told.push(reason);
        }
    }
    told
}

/// There are more of them than may write at a time: the last waits for a place when it is ended.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_paused_sandbox_does_not_wait_for_the_disk() {
    let images = Images::new();
    let bench = images.node().await;
    let names: Vec<String> = (1..=9).map(|number| format!("i{number}")).collect();
    for name in &names {
        bench.fake.behave(name, Manner { syncs_for: SLOW, ..Manner::default() });
        bench.create(name).await.unwrap();
    }
    let mut events = bench.node.events();
    let pauses = futures::future::join_all(names.iter().map(|name| pause(&bench, name)));
    let killed = async {
        sleep(secs(1)).await;
        let began = Instant::now();
        for name in ["i1", "i9"] {
            assert_eq!(bench.entry(name).phase(), SandboxPhase::TearingDown, "{name}");
            bench.kill(name).await.unwrap();
        }
        began.elapsed()
    };
    let (paused, took) = tokio::join!(pauses, killed);
    assert!(took < secs(1), "{took:?}");
    for (name, paused) in names.iter().zip(paused) {
        let is_gone = name == "i1" || name == "i9";
        assert_eq!(paused.is_err(), is_gone, "{name}: {paused:?}");
        assert_eq!(bench.fake.sealed_ids().contains(name), !is_gone, "{name}");
    }
    assert_eq!(ends_told(&mut events, "i9"), [EndReason::Request]);
    for name in &names[1..8] {
        bench.kill(name).await.unwrap();
    }
    bench.stop_clean("a slow disk").await;
}

#[tokio::test(start_paused = true)]
async fn files_that_could_not_be_kept_are_kept_by_the_next_round_or_go_with_their_owner() {
    for fault in [Fault::Error, Fault::Panic, Fault::Delay] {
        let images = Images::new();
        let bench = images.node().await;
        bench.create_all(["i1", "i2"]).await;
        bench.faults.arm(SEAL_POINT, fault, 1);
        let paused = pause(&bench, "i1").await;
        assert_eq!(paused, Err(PauseError::Busy("i1".into())), "{fault:?}");
        let mut beats = bench.node.inner.pulse.listen();
        ends("kept", beats.until(|| bench.fake.sealed_ids() == ["i1"])).await;
        ends("gone", beats.until(|| bench.node.sandboxes() == 1)).await;
        let resumed = bench.node.resume(bench.spec("i1"), Keep::Memory, LIMIT).await.unwrap();
        assert!(!resumed.memory, "{fault:?}");
        bench.kill("i1").await.unwrap();

        let mut events = bench.node.events();
        bench.faults.arm(SEAL_POINT, fault, EVERY);
        let _busy = pause(&bench, "i2").await;
        bench.assert_stuck("i2", Step::Files, "not kept").await;
        bench.kill("i2").await.unwrap();
        assert_eq!(bench.fake.sealed_ids(), [""; 0], "{fault:?}");
        assert_eq!(ends_told(&mut events, "i2"), [EndReason::Request], "{fault:?}");
        bench.faults.disarm();
        bench.stop_clean("not kept").await;
    }
}

/// What was kept before its owner wanted it gone is removed, and told of once.
#[tokio::test(start_paused = true)]
async fn an_end_after_its_files_were_kept_is_told_once() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    let mut events = bench.node.events();
    bench.faults.arm(Step::Directory.point(), Fault::Delay, 1);
    let (_paused, killed) = tokio::join!(pause(&bench, "i1"), async {
        sleep(secs(1)).await;
        assert_eq!(bench.fake.sealed_ids(), ["i1"]);
        let first = bench.kill("i1").await;
        match first {
            Err(NodeError::Stuck { .. }) => bench.kill("i1").await,
            other => other,
        }
    });
    killed.unwrap();
    assert_eq!(bench.fake.sealed_ids(), [""; 0]);
    assert_eq!(ends_told(&mut events, "i1"), [EndReason::Request]);
    bench.stop_clean("kept before").await;
}
