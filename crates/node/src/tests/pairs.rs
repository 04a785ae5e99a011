//! Two faults at a time: a create that fails anywhere, and whose undoing fails anywhere.

use std::time::Duration;

use host::Fault;
use node_wire::CreateError;

use super::{Bench, EVERY, Images, secs};
use crate::backend::CREATE_POINTS;
use crate::teardown::Step;

const FAULTS: [Fault; 3] = [Fault::Error, Fault::Delay, Fault::Panic];
const CREATE_LIMIT: Duration = secs(5);

async fn fails_twice(bench: &Bench, at: &'static str, first: Fault, step: Step, second: Fault) {
    use node_wire::NodeApi;
    let says = format!("{at} {first:?}, then {step:?} {second:?}");
    bench.faults.arm(at, first, 1);
    bench.faults.arm(step.point(), second, EVERY);
    let error = bench.node.create(bench.spec("i1"), CREATE_LIMIT).await.unwrap_err();
    let CreateError::Failed { message, .. } = &error else { panic!("{says}: {error}") };
    assert!(message.contains(at), "{says}: {message}");
    bench.assert_stuck("i1", step, &says).await;
    bench.faults.disarm();
    bench.kill("i1").await.unwrap();
    assert_eq!(bench.fake.held(), [], "{says}");
    bench.create("i1").await.unwrap();
    bench.stop_clean(&says).await;
}

#[tokio::test(start_paused = true)]
async fn a_create_that_fails_and_cannot_be_undone_is_stuck_until_the_next_attempt() {
    let images = Images::new();
    let mut pairs = 0;
    for at in CREATE_POINTS {
        for step in Step::ALL {
            for first in FAULTS {
                for second in FAULTS {
                    fails_twice(&images.node().await, at, first, step, second).await;
                    pairs += 1;
                }
            }
        }
    }
    assert_eq!(pairs, 19 * 8 * 9);
}
