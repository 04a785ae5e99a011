//! Files of paused sandboxes on their way to where they are kept.

use host::{Fault, Faults};
use model::{EndReason, Keep};
use node::SEAL_POINT;
use node_wire::{NodeApi, PauseError};
use testkit::{TestNode, in_view, wait_for};

use super::{LIMIT, id};
use crate::guest::run;

/// The disk takes longer than the step may: whoever waited for it would hear that the sandbox is stuck.
#[test]
fn the_end_of_a_sandbox_whose_files_are_on_their_way_does_not_wait_for_the_disk() {
    in_view(async |view| {
        let faults = Faults::default();
        let own = faults.clone();
        let test = TestNode::start(view, move |config| config.faults = own).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        faults.arm(SEAL_POINT, Fault::Delay, 1);
        let sandbox = id("i1");
        let (paused, ()) = tokio::join!(test.node.pause(&sandbox, Keep::Files), async {
            wait_for("the disk", LIMIT, async || faults.left().is_empty()).await;
            test.node.kill(&sandbox, EndReason::Request).await.unwrap();
        });
        let paused = paused.unwrap_err();
        assert!(matches!(paused, PauseError::Lost(_) | PauseError::NotFound(_)), "{paused}");
        test.wait_no_sandbox_objects().await;
        assert_eq!(std::fs::read_dir(test.data_dir().join("node/paused")).unwrap().count(), 0);
        test.stop().await;
    });
}

#[test]
fn files_that_could_not_be_kept_at_once_are_kept_by_the_next_round() {
    in_view(async |view| {
        let faults = Faults::default();
        let own = faults.clone();
        let test = TestNode::start(view, move |config| config.faults = own).await;
        let mut addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        run(addr, "user", "echo kept > /home/user/file").await;
        for fault in [Fault::Error, Fault::Panic] {
            faults.arm(SEAL_POINT, fault, 1);
            let busy = test.node.pause(&id("i1"), Keep::Files).await.unwrap_err();
            assert!(matches!(busy, PauseError::Busy(_)), "{busy}");
            wait_for("its run is gone", LIMIT, async || test.node.sandboxes() == 0).await;
            let resumed = test.node.resume(test.spec("i1"), Keep::Memory, LIMIT).await.unwrap();
            assert!(!resumed.memory, "{fault:?}");
            addr = resumed.started.route.addr;
            assert_eq!(run(addr, "user", "cat /home/user/file").await.stdout, "kept\n");
        }
        test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
}
