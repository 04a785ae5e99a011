//! The same node on hosts that arrange their cgroups otherwise, made from this one in a private
//! mount namespace.

use std::time::Duration;

use host::cgroup::{Kind, Layout};
use model::EndReason;
use node::{LimitsPolicy, Node, StartError};
use node_wire::NodeApi;
use testkit::{TestNode, in_view_after};

use crate::guest::run;

const LIMIT: Duration = Duration::from_secs(60);

fn hierarchies(fs_type: &str) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let of_type = |line: &&str| line.contains(&format!(" - {fs_type} "));
    let path = |line: &str| line.split(' ').nth(4).unwrap().to_owned();
    text.lines().filter(of_type).map(path).collect()
}

fn unmount_all(fs_type: &str) {
    for path in hierarchies(fs_type) {
        rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

fn is_hybrid() -> bool {
    let kind = Layout::detect().unwrap().kind();
    if kind != Kind::Hybrid {
        println!("skipped, because the host's cgroups are {kind:?} and cannot be made otherwise");
    }
    kind == Kind::Hybrid
}

#[test]
fn without_a_v2_mount_a_private_one_is_made_and_v1_limits_hold() {
    if !is_hybrid() {
        return;
    }
    in_view_after(
        || unmount_all("cgroup2"),
        async |view| {
            let test = TestNode::start(view, |_| {}).await;
            let info = test.node.info().await.unwrap();
            let memory = info.enforcement.iter().find(|e| e.what == "memory").unwrap();
            assert!(memory.enforced, "{memory:?}");
            let started = test.node.create(test.spec("i1"), LIMIT).await.unwrap();
            let eaten = run(started.route.addr, "user", "busybox tail /dev/zero").await;
            assert_ne!(eaten.code, 0);
            test.node.kill(&started.status.id, EndReason::Request).await.unwrap();
            test.stop().await;
        },
    );
}

#[test]
fn on_v2_alone_what_cannot_be_enforced_is_said_and_refused_when_required() {
    if !is_hybrid() {
        return;
    }
    in_view_after(
        || unmount_all("cgroup"),
        async |view| {
            let test = TestNode::start(view, |_| {}).await;
            let info = test.node.info().await.unwrap();
            let lacks = info.enforcement.iter().filter(|e| !e.enforced).map(|e| e.what);
            let lacks: Vec<_> = lacks.collect();
            assert!(lacks.contains(&"memory") && lacks.contains(&"pids"), "{lacks:?}");
            let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
            assert_eq!(run(addr, "user", "echo runs").await.stdout, "runs\n");
            test.stop().await;
        },
    );
    in_view_after(
        || unmount_all("cgroup"),
        async |view| {
            let dir = tempfile::tempdir().unwrap();
            let images = std::sync::Arc::new(images::Store::open(&dir.path().join("i")).unwrap());
            let mut config = node::Config::new(dir.path().join("data"), testkit::agent());
            config.limits = LimitsPolicy::Require;
            let error = Node::start(config, view, images).await.unwrap_err();
            assert!(matches!(error, StartError::Unenforceable { .. }), "{error}");
            assert!(error.to_string().contains("require"), "{error}");
        },
    );
}
