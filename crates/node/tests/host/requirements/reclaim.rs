//! What an earlier node left under its names.

use host::census::Kind;
use host::cgroup::{Cgroups, Limits};
use host::process::{Process, Spawn};
use host::{Fault, Faults};
use lifecycle::{Budget, Release};
use node::{Escalation, StopPlan};
use node_wire::NodeApi;
use testkit::{TestNode, in_view, with_view};

use super::{EVERY, LIMIT, census, lifecycles, with_limits};

/// The data directory of a node that went away while a sandbox ran, and the sandbox's lifecycle.
fn given_up() -> (tempfile::TempDir, String) {
    with_view(async |view| {
        let faults = Faults::default();
        let test = TestNode::start(view, |c| with_limits(c, &faults, 400, 400)).await;
        let started = test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        faults.arm("release.kill", Fault::Error, EVERY);
        let escalation = Escalation::default();
        escalation.give_up.cancel();
        test.node.stop(StopPlan { graceful: None, force: LIMIT }, &escalation).await;
        let lifecycle = started.status.lifecycle.to_string();
        // Its own last look is a hurried one.
        let left = census(&test).await;
        assert!(lifecycles(&left).contains(&lifecycle), "{left:#?}");
        assert!(left.iter().any(|item| item.kind == Kind::Process), "{left:#?}");
        (test.into_dir(), lifecycle)
    })
}

#[test]
fn a_group_that_lost_its_directory_is_emptied_by_the_next_start() {
    let (dir, lifecycle) = given_up();
    let record = dir.path().join("data/node/lifecycles").join(&lifecycle);
    std::fs::remove_dir_all(record).unwrap();
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |_| {}).await;
        let left = lifecycles(&census(&next).await);
        assert!(left.is_empty(), "{left:?}");
        next.stop().await;
    });
}

#[test]
fn a_stale_group_is_never_taken_for_a_new_one() {
    in_view(async |view| {
        let root = format!("cofferdam-stale-{}", std::process::id());
        let groups = Cgroups::open(view.into_layout(), root).unwrap();
        let limits = Limits { memory_bytes: None, pids: Some(10), cpu_millis: None };
        let first = groups.create("lsame", &limits).unwrap();
        let sleep = Spawn::new("/bin/sleep").args(["1000"]).in_cgroup(first.dir().unwrap());
        let sleep = sleep.start().unwrap();
        groups.create("lsame", &limits).unwrap_err();
        assert!(groups.named("lsame").contains(sleep.identity().pid), "and it is left as it was");
        // Emptied, it may be made again.
        drop(first.close(Budget::within(LIMIT)).await.unwrap());
        sleep.exited().await.unwrap();
        let second = groups.create("lsame", &limits).unwrap();
        assert!(second.pids().unwrap().is_empty());
        drop(second.close(Budget::within(LIMIT)).await.unwrap());
        groups.named("lsame").release(Budget::within(LIMIT)).await.unwrap();
        groups.close().unwrap();
    });
}

#[test]
fn a_record_that_names_a_process_of_somebody_else_harms_nobody() {
    let (dir, lifecycle) = given_up();
    let files =
        std::fs::read_dir(dir.path().join("data/node/lifecycles").join(&lifecycle)).unwrap();
    let mut files = files.map(|file| file.unwrap().path());
    let is_record = |path: &std::path::PathBuf| path.to_string_lossy().contains("lifecycle.json.");
    let path = files.find(is_record).unwrap();
    in_view(async move |view| {
        let innocent = Spawn::new("/bin/sleep").args(["1000"]).start().unwrap();
        let mut record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        record["process"] = serde_json::to_value(innocent.identity()).unwrap();
        std::fs::write(&path, record.to_string()).unwrap();
        let next = TestNode::start_in(dir, view, |_| {}).await;
        assert_eq!(next.node.sandboxes(), 0);
        next.stop().await;
        assert!(is_alive(&innocent), "killed by its number");
        innocent.signal(rustix::process::Signal::KILL).unwrap();
        innocent.exited().await.unwrap();
    });
}

#[test]
fn a_name_with_nothing_behind_it_is_released_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let lifecycles_dir = dir.path().join("data/node/lifecycles");
    for (name, record) in [("laaaaaaaaaaaaaaaaaaaa", ""), ("lbbbbbbbbbbbbbbbbbbbb", "{\"torn\":")] {
        std::fs::create_dir_all(lifecycles_dir.join(name)).unwrap();
        std::fs::write(lifecycles_dir.join(name).join("lifecycle.json.1"), record).unwrap();
    }
    in_view(async move |view| {
        let test = TestNode::start_in(dir, view, |_| {}).await;
        assert_eq!(test.node.sandboxes(), 0);
        assert!(lifecycles(&census(&test).await).is_empty());
        test.stop().await;
    });
}

fn is_alive(process: &Process) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", process.identity().pid))
        .is_ok_and(|stat| !stat.contains(") Z "))
}
