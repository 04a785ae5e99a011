//! How a teardown that is stuck is tried again, and that nothing of it runs beside the closers.

use std::time::Duration;

use host::Fault;
use tokio::time::{Instant, sleep};

use super::{EVERY, Images, LIMIT, ends, secs};
use crate::backend::Closer;
use crate::fake::Manner;
use crate::shutdown::{Escalation, StopPlan};
use crate::teardown::Step;

#[tokio::test(start_paused = true)]
async fn the_pauses_between_rounds_double_with_jitter_up_to_a_minute_and_rounds_are_counted() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    bench.faults.arm(Step::Files.point(), Fault::Error, EVERY);
    bench.kill("i1").await.unwrap_err();
    let entry = bench.entry("i1");
    let mut state = entry.watch();
    let mut jitters = Vec::new();
    let mut before = Instant::now();
    for round in 1..=12_u32 {
        assert_eq!(state.borrow_and_update().rounds, round);
        drop(ends("a round", state.wait_for(|state| state.rounds > round)).await.unwrap());
        let pause = before.elapsed();
        before = Instant::now();
        let usual = Duration::from_millis(500 << (round - 1)).min(secs(60));
        let jitter = pause.as_secs_f64() / usual.as_secs_f64();
        // The clock goes by milliseconds.
        assert!((0.79..=1.21).contains(&jitter), "after round {round}: {pause:?} of {usual:?}");
        jitters.push(jitter);
    }
    let spread = jitters.iter().copied().fold(f64::MIN, f64::max)
        - jitters.iter().copied().fold(f64::MAX, f64::min);
    assert!(spread > 0.02, "all in step: {jitters:?}");
    bench.faults.disarm();
    sleep(secs(73)).await;
    assert_eq!(bench.node.sandboxes(), 0, "gone by itself at the next round");
    bench.stop_clean("retries").await;
}

#[tokio::test(start_paused = true)]
async fn a_round_that_is_under_way_is_over_before_anything_is_closed() {
    let images = Images::new();
    for is_stuck in [false, true] {
        let bench = images.node().await;
        bench.create_all(["i1"]).await;
        if is_stuck {
            bench.faults.arm(Step::Files.point(), Fault::Error, 1);
            bench.kill("i1").await.unwrap_err();
        }
        let slow = Some((Step::Files, Duration::from_millis(1050)));
        bench.fake.behave("i1", Manner { slow, ..Manner::default() });
        let escalation = Escalation::default();
        escalation.give_up.cancel();
        let stop = async {
            // In the middle of it; nobody forces, and there is a tenth of a second for rounds.
            sleep(secs(1)).await;
            bench.node.stop(StopPlan::at_once(LIMIT), &escalation).await
        };
        let (killed, report) = tokio::join!(bench.kill("i1"), stop);
        killed.unwrap();
        assert!(report.is_clean() && report.attempts == 0, "{report:#?}");
        bench.assert_given_back("a slow round");
    }
}

/// Ends it by force at once, and begins to close a second later.
fn hasty() -> StopPlan {
    StopPlan::at_once(secs(1))
}

#[tokio::test(start_paused = true)]
async fn a_round_that_does_not_end_is_cut_off_and_told_before_anything_is_closed() {
    let images = Images::new();
    let bench = images.node().await;
    let slow = Some((Step::Files, secs(50)));
    bench.fake.behave("i1", Manner { slow, ..Manner::default() });
    bench.create_all(["i1"]).await;
    let report = bench.node.stop(hasty(), &Escalation::default()).await;
    assert!(report.errors[0].starts_with("rounds: "), "{report:#?}");
    let left = report.errors.iter().find(|error| error.starts_with("stuck i1")).unwrap();
    assert!(left.contains("files: was not over"), "{left}");
    assert_eq!(bench.fake.closed().first(), Some(&Closer::Orphans));
    bench.fake.behave("i1", Manner::default());
    bench.stop_clean("after a round that was cut off").await;
}

#[tokio::test(start_paused = true)]
async fn no_round_begins_while_the_node_is_closed() {
    let images = Images::new();
    let bench = images.node().await;
    bench.create_all(["i1"]).await;
    let refuses = Some(Step::Files);
    bench.fake.behave("i1", Manner { refuses, ..Manner::default() });
    bench.kill("i1").await.unwrap_err();
    // Long enough for the next round to be due.
    bench.fake.hang(Some(Closer::Slots));
    let escalation = Escalation::default();
    let stop = bench.node.stop(hasty(), &escalation);
    let ask = async {
        sleep(secs(2)).await;
        // Nor when it is asked for; it comes after the closers.
        bench.kill("i1").await.unwrap_err();
    };
    let (report, ()) = tokio::join!(stop, ask);
    assert!(report.took > secs(3) && !report.is_clean(), "{report:#?}");
    assert_eq!(bench.fake.wrongs(), [""; 0]);
    bench.fake.hang(None);
    bench.fake.behave("i1", Manner::default());
    bench.stop_clean("after rounds that had to wait").await;
}
