//! A task that keeps the node going and ends takes the node out of placement.

use std::path::PathBuf;
use std::sync::Arc;

use host::Faults;
use model::{NodePhase, NodeRequest};
use node_wire::NodeApi;
use observe::metrics::{self, Exposition};
use tokio::time::sleep;

use super::log::Log;
use super::{Bench, Images, secs};
use crate::config::Config;
use crate::fake::Fake;
use crate::start::Inner;

async fn phase(bench: &Bench) -> NodePhase {
    // Whoever was told to end has.
    sleep(secs(1)).await;
    bench.document().await.phase
}

#[tokio::test(start_paused = true)]
async fn an_upkeep_task_that_panics_or_ends_makes_the_node_unhealthy() {
    let images = Images::new();
    for (panics, from) in [
        (true, NodeRequest::Healthy),
        (false, NodeRequest::Healthy),
        (true, NodeRequest::Standby),
        (false, NodeRequest::Standby),
    ] {
        let bench = images.node().await;
        bench.node.request(from).await.unwrap();
        let log = Log::start();
        let (task, why) = if panics {
            bench.fake.upkeep_panics.cancel();
            ("first", "it panicked: told to")
        } else {
            bench.fake.upkeep_ends.cancel();
            ("second", "it ended by itself")
        };
        assert_eq!(phase(&bench).await, NodePhase::Unhealthy);
        let lines = log.lines("a task that keeps the node going has ended");
        let [line] = &lines[..] else { panic!("{lines:?}") };
        let told = (line.text("level"), line.text("task"), line.text("why"));
        assert_eq!(told, ("ERROR", task, why));
        let mut text = Exposition::default();
        metrics::expose(&mut text);
        let counted = format!("cofferdam_upkeep_ended_total{{task=\"{task}\"}}");
        assert!(text.into_text().contains(&counted));
        bench.stop_clean("an upkeep task that ended").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_drains_goes_on_draining_without_its_upkeep() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    bench.node.request(NodeRequest::Drain).await.unwrap();
    bench.fake.upkeep_panics.cancel();
    assert_eq!(phase(&bench).await, NodePhase::Draining);
    bench.stop_clean("a drain without upkeep").await;
}

#[tokio::test(start_paused = true)]
async fn an_upkeep_task_that_ends_while_the_node_starts_is_told_when_it_has() {
    let images = Images::new();
    let fake = Fake::new(Faults::default());
    fake.upkeep_panics.cancel();
    let config = Config::new(PathBuf::from("/nowhere"), PathBuf::from("/nowhere"));
    let inner = Arc::new(Inner::new(config, Arc::clone(&images.store), fake));
    inner.start_upkeep();
    sleep(secs(1)).await;
    assert_eq!(inner.phase(), NodePhase::Starting);
    inner.opened();
    assert_eq!(inner.phase(), NodePhase::Unhealthy);
}
