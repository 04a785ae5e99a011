//! Machines that never come up.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::NodeRequest;
use node_wire::{CreateError, NodeApi};
use rustix::process::Signal;
use testkit::{TestNode, in_view};

use super::{LIMIT, census, lifecycles, status};
use crate::silent::tell_agent;

/// A guest agent that does `what` and nothing else.
fn agent(dir: &Path, what: &str) -> PathBuf {
    let path = dir.join("agent");
    std::fs::write(&path, format!("#!/bin/sh\n{what}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_machine_that_dies_before_it_answers_leaves_no_entry_and_no_drain_waits_for_it() {
    in_view(async |view| {
        let dir = tempfile::tempdir().unwrap();
        let dies = agent(dir.path(), "exit 7");
        let test = TestNode::start(view, |config| config.agent = dies).await;
        let error = test.node.create(test.spec("i1"), LIMIT).await.unwrap_err();
        assert!(matches!(error, CreateError::Failed { .. }), "{error}");
        assert!(lifecycles(&census(&test).await).is_empty());
        test.node.request(NodeRequest::Drain).await.unwrap();
        assert_eq!(status(&test).await.remaining(), 0);
        test.stop().await;
    });
}

#[test]
fn a_guest_that_never_answers_costs_its_caller_the_limit_and_leaves_nothing() {
    in_view(async |view| {
        let dir = tempfile::tempdir().unwrap();
        let deaf = agent(dir.path(), "trap '' TERM; while :; do sleep 1000; done");
        let test = TestNode::start(view, |config| config.agent = deaf).await;
        // Long enough to get so far.
        let limit = Duration::from_secs(5);
        let error = test.node.create(test.spec("i1"), limit).await.unwrap_err();
        assert!(matches!(error, CreateError::Expired { step: "init", .. }), "{error}");
        assert!(lifecycles(&census(&test).await).is_empty());
        assert_eq!(test.node.sandboxes(), 0);
        test.stop().await;
    });
}

#[test]
fn a_guest_that_answers_no_more_is_killed_like_any_other() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        for forced in [false, true] {
            test.node.create(test.spec("i1"), LIMIT).await.unwrap();
            tell_agent(&test, Signal::STOP).await;
            if forced {
                test.node.request(NodeRequest::DrainForced).await.unwrap();
                let attempt = super::attempt_ended(&test).await;
                assert!(attempt.stopped == 1 && attempt.failed.is_empty(), "{attempt:?}");
            } else {
                test.node.kill(&super::id("i1"), model::EndReason::Request).await.unwrap();
            }
            assert!(lifecycles(&census(&test).await).is_empty());
        }
        test.stop().await;
    });
}
