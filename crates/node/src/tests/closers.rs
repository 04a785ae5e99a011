//! The closers of a stop: their order, and the time that each may take.

use tokio::time::sleep;

use super::log::Log;
use super::{Images, secs};
use crate::backend::Closer;
use crate::shutdown::RESERVE;

#[tokio::test(start_paused = true)]
async fn closers_run_in_their_fixed_order_and_every_run_is_recorded() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    let log = Log::start();
    bench.stop_clean("closers").await;
    let lines = log.lines("closed");
    let order: Vec<&str> = lines.iter().map(|line| line.text("closer")).collect();
    assert_eq!(order, ["rounds", "upkeep", "orphans", "slots", "firewall", "helpers", "cgroups"]);
    assert!(lines.iter().all(|line| line.text("error").is_empty()), "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_closer_that_hangs_costs_its_share_and_keeps_no_other_from_running() {
    let images = Images::new();
    // The rounds and the upkeep are the node's own: see the tests of them.
    for hanging in &Closer::ALL[2..] {
        let bench = images.node().await;
        bench.create_all(["i1"]).await;
        bench.fake.hang(Some(*hanging));
        let log = Log::start();
        let report = bench.stop().await;
        let name = hanging.name();
        assert!(report.errors[0].starts_with(&format!("{name}: {name} ran past")), "{report:#?}");
        let lines = log.lines("closed");
        assert_eq!(lines.len(), Closer::ALL.len(), "{name}");
        // Those before it have left it their time; those after it have all of theirs.
        let upto = Closer::ALL.iter().position(|closer| closer == hanging).unwrap();
        let weight = |closers: &[Closer]| closers.iter().map(|c| c.weight()).sum::<u32>();
        let share = RESERVE * 3 / 4 * weight(&Closer::ALL[..=upto]) / weight(&Closer::ALL);
        for line in &lines {
            let took = u128::from(line.number("took_ms"));
            let expected = if line.text("closer") == name { share.as_millis() } else { 0 };
            assert!(took.abs_diff(expected) <= 2, "{name}: {line:?}");
        }
        bench.fake.hang(None);
        bench.stop_clean(name).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_of_the_upkeep_that_does_not_end_costs_its_share() {
    let images = Images::new();
    let bench = images.node().await;
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    bench.node.inner.upkeep.spawn(tracing::Span::none(), async {
        drop(told.await);
    });
    sleep(secs(1)).await;
    let report = bench.stop().await;
    assert!(report.errors[0].starts_with("upkeep: "), "{report:#?}");
    assert!(report.took < RESERVE / 2, "{report:#?}");
    assert_eq!(bench.fake.closed().len(), Closer::ALL.len() - 2);
    tell.send(()).unwrap();
    bench.stop_clean("after a task that did not end").await;
}
