//! Slots that cannot be made.

use std::time::{Duration, Instant};

use host::fault::{Fault, Faults};
use host::net::Slot;
use model::EndReason;
use node_wire::NodeApi;
use observe::metrics::SLOTS;
use testkit::{TestNode, in_view, wait_for};

use crate::requirements::{LIMIT, id};

const FAILURES: u32 = 2;
/// What the pool waits after a failure.
const PAUSE: Duration = Duration::from_secs(1);

#[test]
fn a_failure_to_make_slots_ahead_is_counted_and_paused_after_and_gets_over() {
    in_view(async |view| {
        let faults = Faults::default();
        let test = TestNode::start(view, |config| config.faults = faults.clone()).await;
        wait_for("slots", LIMIT, async || test.node.warm_slots() == 2).await;
        for (point, sandbox) in Slot::POINTS.into_iter().zip(["i1", "i2", "i3", "i4"]) {
            let failed = SLOTS.of(["failed"]);
            faults.arm(point, Fault::Error, FAILURES);
            let began = Instant::now();
            // Takes one of those that are ready: it is the next one that cannot be made.
            test.node.create(test.spec(sandbox), LIMIT).await.unwrap();
            wait_for("another slot", LIMIT, async || test.node.warm_slots() == 2).await;
            assert!(began.elapsed() >= PAUSE * (FAILURES - 1), "{point}: {:?}", began.elapsed());
            assert!(faults.left().is_empty(), "{point} was not reached");
            assert_eq!(SLOTS.of(["failed"]) - failed, u64::from(FAILURES), "{point}");
            test.node.kill(&id(sandbox), EndReason::Request).await.unwrap();
        }
        test.stop().await;
    });
}
