//! Every fault at every point of every operation, once and until it is mended. Each case ends with
//! an empty machine, or with a lifecycle that is visibly stuck and that the next attempt clears.

use host::Fault;
use model::{NodePhase, NodeRequest};
use node_wire::{CreateError, NodeApi, NodeError};

use super::{Bench, EVERY, Images, secs};
use crate::backend::{CREATE_POINTS, Closer};
use crate::teardown::Step;

const FAULTS: [Fault; 3] = [Fault::Error, Fault::Delay, Fault::Panic];
const TIMES: [u32; 2] = [1, EVERY];
/// A fault that takes all the time of a create ends well within that of an attempt to force.
const CREATE_LIMIT: std::time::Duration = secs(5);

/// What is done to a node when the fault comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Create,
    Kill,
    Force,
    Stop,
}

impl Operation {
    const ALL: [Self; 4] = [Self::Create, Self::Kill, Self::Force, Self::Stop];
}

#[derive(Debug, Clone, Copy)]
struct Case {
    operation: Operation,
    fault: Fault,
    times: u32,
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        let of = |operation| FAULTS.into_iter().map(move |fault| (operation, fault));
        Operation::ALL.into_iter().flat_map(of).flat_map(|(operation, fault)| {
            TIMES.into_iter().map(move |times| Self { operation, fault, times })
        })
    }

    fn says(self, at: &str) -> String {
        format!("{:?} {at} {:?} {}", self.operation, self.fault, self.times)
    }
}

/// A create fails at `at`, and meanwhile the operation comes.
async fn fails_to_acquire(bench: &Bench, case: Case, at: &'static str) {
    let says = case.says(at);
    bench.faults.arm(at, case.fault, case.times);
    let create = bench.node.create(bench.spec("i1"), CREATE_LIMIT);
    let meanwhile = async {
        // By now it has failed, or it hangs in the point.
        tokio::time::sleep(secs(1)).await;
        match case.operation {
            Operation::Create => {}
            Operation::Kill => match bench.kill("i1").await {
                Ok(()) | Err(NodeError::NotFound(_)) => {}
                Err(error) => panic!("{says}: {error}"),
            },
            Operation::Force => {
                bench.node.request(NodeRequest::DrainForced).await.unwrap();
                let attempt = bench.attempt_ended().await;
                assert_eq!(attempt.failed, [""; 0], "{says}");
            }
            Operation::Stop => bench.stop_clean(&says).await,
        }
    };
    let (created, ()) = tokio::join!(create, meanwhile);
    let error = created.unwrap_err();
    let CreateError::Failed { message, .. } = &error else { panic!("{says}: {error}") };
    assert!(message.contains(at), "{says}: {message}");
    assert_eq!(bench.fake.held(), [], "{says}");
    assert_eq!(bench.list().await.len(), 0, "{says}");
    if case.times == 1 {
        assert_eq!(bench.faults.left(), [""; 0], "{says}");
    }
    bench.faults.disarm();
    if matches!(case.operation, Operation::Create | Operation::Kill) {
        // The id is free again, and the node as good as before.
        bench.create("i1").await.unwrap();
    }
    if case.operation != Operation::Stop {
        bench.stop_clean(&says).await;
    }
}

/// The operation ends a sandbox, whose `step` fails.
async fn fails_to_release(bench: &Bench, case: Case, step: Step) {
    let says = case.says(step.name());
    if case.operation != Operation::Create {
        bench.create("i1").await.unwrap();
    }
    bench.faults.arm(step.point(), case.fault, case.times);
    match case.operation {
        Operation::Create => {
            bench.faults.arm("create.init.after", Fault::Error, 1);
            let error = bench.create("i1").await.unwrap_err();
            assert!(matches!(error, CreateError::Failed { step: "init", .. }), "{says}: {error}");
        }
        Operation::Kill => {
            let error = bench.kill("i1").await.unwrap_err();
            let NodeError::Stuck { left, .. } = &error else { panic!("{says}: {error}") };
            assert!(left.starts_with(step.name()), "{says}: {left}");
        }
        Operation::Force => {
            bench.node.request(NodeRequest::DrainForced).await.unwrap();
            let attempt = bench.attempt_ended().await;
            assert_eq!(bench.document().await.phase, NodePhase::ForceFailed, "{says}");
            let [failed] = &attempt.failed[..] else { panic!("{says}: {attempt:?}") };
            assert!(failed.starts_with(&format!("i1: {}", step.name())), "{says}: {failed}");
        }
        Operation::Stop => {
            let report = bench.stop().await;
            assert!(report.attempts > 1, "{says}: {report:#?}");
            let is_clean = report.is_clean();
            assert_eq!(is_clean, case.times == 1, "{says}: {report:#?}");
            if is_clean {
                return bench.assert_given_back(&says);
            }
            assert!(report.errors.iter().any(|e| e.starts_with("stuck i1")), "{says}: {report:#?}");
            assert!(!report.left.is_empty(), "{says}");
        }
    }
    bench.assert_stuck("i1", step, &says).await;
    let before_slot = matches!(step, Step::Kill | Step::Slot);
    assert_eq!(bench.keeps_slot("i1"), before_slot, "{says}");
    bench.faults.disarm();
    match case.operation {
        Operation::Create | Operation::Kill => {
            bench.kill("i1").await.unwrap();
            assert_eq!(bench.fake.held(), [], "{says}");
            bench.create("i1").await.unwrap();
        }
        Operation::Force => {
            bench.node.request(NodeRequest::DrainForced).await.unwrap();
            let attempt = bench.attempt_ended().await;
            assert_eq!((attempt.number, &attempt.failed[..]), (2, &[][..]), "{says}");
        }
        Operation::Stop => {}
    }
    bench.stop_clean(&says).await;
}

/// A stop whose `closer` fails runs every other one, says so, and can be repeated.
async fn fails_to_close(bench: &Bench, case: Case, closer: Closer) {
    let says = case.says(closer.name());
    bench.create("i1").await.unwrap();
    bench.faults.arm(closer.point(), case.fault, case.times);
    let report = bench.stop().await;
    assert!(report.errors[0].starts_with(closer.name()), "{says}: {report:#?}");
    let expected: Vec<Closer> = Closer::ALL
        .into_iter()
        .filter(|other| !matches!(other, Closer::Rounds | Closer::Upkeep) && *other != closer)
        // A link may be left.
        .filter(|other| (closer, *other) != (Closer::Slots, Closer::Firewall))
        .collect();
    assert_eq!(bench.fake.closed(), expected, "{says}");
    bench.faults.disarm();
    bench.stop_clean(&says).await;
}

#[tokio::test(start_paused = true)]
async fn a_fault_at_any_point_of_any_operation_leaves_nothing_or_something_visible_that_goes() {
    let images = Images::new();
    let mut cases = 0;
    for case in Case::all() {
        for at in CREATE_POINTS {
            fails_to_acquire(&images.node().await, case, at).await;
            cases += 1;
        }
        for step in Step::ALL {
            fails_to_release(&images.node().await, case, step).await;
            cases += 1;
        }
        if case.operation == Operation::Stop {
            for closer in Closer::ALL {
                fails_to_close(&images.node().await, case, closer).await;
                cases += 1;
            }
        }
    }
    // 4 operations, 3 faults, once and until mended, at 19 points and in 8 steps; and 7 closers.
    assert_eq!(cases, 4 * 3 * 2 * (19 + 8) + 3 * 2 * 7);
}
