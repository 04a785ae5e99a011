//! Reading what guest agents have noted.

use model::{Keep, SandboxId};
use node_wire::{Journal, JournalMark, NodeApi, NodeError};
use tokio::time::Instant;

use super::{Bench, Images, LIMIT, ends, secs};
use crate::fake::Manner;

fn id(text: &str) -> SandboxId {
    text.parse().unwrap()
}

impl Bench {
    async fn journal(&self, sandbox: &str) -> Result<Option<Journal>, NodeError> {
        let mark = JournalMark { run: "run".into(), number: 7 };
        ends("journal", self.node.journal(&id(sandbox), &mark)).await
    }
}

#[tokio::test(start_paused = true)]
async fn the_agent_of_a_live_sandbox_is_asked_and_of_one_that_stands_still_or_is_gone_none() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    assert_eq!(bench.journal("i1").await.unwrap().unwrap().lost, 7, "it was told the mark");
    assert_eq!(bench.fake.journals(), 1);
    ends("pause", bench.node.pause(&id("i1"), Keep::Memory)).await.unwrap();
    for absent in ["i1", "i2"] {
        let refused = bench.journal(absent).await.unwrap_err();
        assert_eq!(refused, NodeError::NotFound(absent.into()));
    }
    assert_eq!(bench.fake.journals(), 1, "no agent was asked");
    ends("resume", bench.node.resume(bench.spec("i1"), Keep::Memory, LIMIT)).await.unwrap();
    assert!(bench.journal("i1").await.unwrap().is_some());
    bench.kill("i1").await.unwrap();
    bench.stop_clean("journal").await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_agent_is_given_up_after_a_second_and_said_to_be_silent() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    bench.fake.behave("i1", Manner { mute: true, ..Manner::default() });
    let asked = Instant::now();
    let NodeError::Internal(why) = bench.journal("i1").await.unwrap_err() else {
        panic!("another error")
    };
    assert!(why.contains("i1") && why.contains("1000 ms"), "{why}");
    assert!(asked.elapsed() < secs(2), "on a clock that stands still until everybody waits");
    bench.kill("i1").await.unwrap();
    bench.stop_clean("silent").await;
}
