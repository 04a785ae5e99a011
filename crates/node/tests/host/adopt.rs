//! Sandboxes that run on under the next daemon of their node, and those that cannot.

mod foreign;
mod killed;
mod records;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use host::census::Kind;
use host::process::ProcessIdentity;
use lifecycle::Budget;
use model::{EndReason, SandboxPhase};
use node_wire::{NodeApi, SandboxStatus};
use serde_json::Value;
use tempfile::TempDir;
use testkit::{TestNode, in_view, wait_for, with_view};

use crate::guest::run;
use crate::requirements::{LIMIT, census, id, lifecycles};

/// The data directory of a node that was left with these sandboxes live, and what they were like.
pub(crate) fn left_with<const N: usize>(ids: [&'static str; N]) -> (TempDir, [SandboxStatus; N]) {
    with_view(async move |view| {
        let test = TestNode::start(view, |_| {}).await;
        for id in ids {
            test.node.create(test.spec(id), LIMIT).await.unwrap();
        }
        let statuses = listed(&test).await;
        let report = test.node.leave(Budget::within(LIMIT)).await;
        assert_eq!((report.left, report.errors), (N, Vec::new()));
        (test.into_dir(), statuses.try_into().unwrap())
    })
}

/// What the node lists, by id.
pub(crate) async fn listed(test: &TestNode) -> Vec<SandboxStatus> {
    let mut listed = test.node.list().await.unwrap();
    listed.sort_by_key(|status| status.id.clone());
    listed
}

/// Where the record of a lifecycle is.
pub(crate) fn record_of(data: &Path, status: &SandboxStatus) -> PathBuf {
    let dir = data.join("node/lifecycles").join(status.lifecycle.as_str());
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let mut records = files.filter(|path| path.to_string_lossy().contains("lifecycle.json."));
    records.next().unwrap()
}

/// Changes the record of a lifecycle.
pub(crate) fn tamper(data: &Path, status: &SandboxStatus, change: impl FnOnce(&mut Value)) {
    let path = record_of(data, status);
    let mut record = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut record);
    std::fs::write(path, record.to_string()).unwrap();
}

/// The first process of a lifecycle, as it is written.
pub(crate) fn process_of(data: &Path, status: &SandboxStatus) -> ProcessIdentity {
    let record: Value =
        serde_json::from_slice(&std::fs::read(record_of(data, status)).unwrap()).unwrap();
    serde_json::from_value(record["process"].clone()).unwrap()
}

/// Why the last run of a sandbox has ended.
pub(crate) async fn reason(test: &TestNode, sandbox: &str) -> Option<EndReason> {
    test.node.ended(&[id(sandbox)]).await.unwrap().pop().map(|ending| ending.reason)
}

#[test]
fn sandboxes_run_on_under_the_next_daemon_as_they_were() {
    let (dir, before) = left_with(["i1", "i2", "i3"]);
    let data = dir.path().join("data");
    let processes: Vec<_> = before.iter().map(|status| process_of(&data, status)).collect();
    // A sandbox works on while nobody is there.
    let dir = with_view(async move |_view| {
        let written = run(before[0].addr.unwrap(), "root", "echo kept > /root/file").await;
        assert_eq!(written.code, 0, "{written:?}");
        (dir, before)
    });
    let (dir, before) = dir;
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |_| {}).await;
        assert_eq!(listed(&next).await, before, "the same ids, times and addresses");
        let report = next.node.adopt_report().await.unwrap().unwrap();
        assert_eq!((report.finished, report.adopted, report.stuck), (true, 3, 0), "{report:?}");
        for (status, process) in before.iter().zip(processes) {
            let output = run(status.addr.unwrap(), "user", "echo here").await;
            assert_eq!(output.stdout, "here\n");
            assert_eq!(process_of(&next.data_dir(), status), process);
        }
        let kept = run(before[0].addr.unwrap(), "root", "cat /root/file").await;
        assert_eq!(kept.stdout, "kept\n");
        // All that a node does with a sandbox it does with these.
        assert!(!next.node.samples(&id("i1")).await.unwrap().is_empty());
        next.node.create(next.spec("i4"), LIMIT).await.unwrap();
        next.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        let i1 = before[0].lifecycle.as_str();
        assert!(!lifecycles(&census(&next).await).contains(i1));
        next.node.set_end(&id("i2"), SystemTime::now()).await.unwrap();
        let agent = process_of(&next.data_dir(), &before[2]);
        let agent = host::process::Process::adopt(agent).unwrap().unwrap();
        agent.signal(rustix::process::Signal::KILL).unwrap();
        wait_for("two to end", LIMIT, async || next.node.sandboxes() == 1).await;
        assert_eq!(reason(&next, "i1").await, Some(EndReason::Request));
        assert_eq!(reason(&next, "i2").await, Some(EndReason::Timeout));
        assert_eq!(reason(&next, "i3").await, Some(EndReason::Crashed));
        next.stop().await;
    });
}

#[test]
fn time_goes_on_while_no_daemon_is_there() {
    let (dir, before) = left_with(["i1", "i2"]);
    let data = dir.path().join("data");
    let micros = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
    let past = u64::try_from(micros(SystemTime::now() - Duration::from_secs(1))).unwrap();
    tamper(&data, &before[0], |record| record["ends_at_us"] = past.into());
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |_| {}).await;
        wait_for("the one whose time is over to go", LIMIT, async || next.node.sandboxes() == 1)
            .await;
        assert_eq!(reason(&next, "i1").await, Some(EndReason::Timeout));
        // Moved under this daemon, it holds under the next.
        let end = SystemTime::now() + Duration::from_secs(1000);
        next.node.set_end(&id("i2"), end).await.unwrap();
        let written = record_of(&data, &before[1]);
        let written: Value = serde_json::from_slice(&std::fs::read(written).unwrap()).unwrap();
        assert_eq!(written["ends_at_us"].as_u64().map(u128::from), Some(micros(end)));
        next.stop().await;
    });
}

#[test]
fn one_that_died_while_no_daemon_was_there_is_told_as_crashed_and_gone() {
    let (dir, before) = left_with(["i1", "i2"]);
    let process = process_of(&dir.path().join("data"), &before[0]);
    with_view(async move |_view| {
        let process = host::process::Process::adopt(process).unwrap().unwrap();
        process.signal(rustix::process::Signal::KILL).unwrap();
        process.exited().await.unwrap();
    });
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |_| {}).await;
        assert_eq!(listed(&next).await, before[1..]);
        let told = next.node.ended(&[id("i1")]).await.unwrap().remove(0);
        assert_eq!((told.reason, &told.lifecycle), (EndReason::Crashed, &before[0].lifecycle));
        let explained = next.node.explain(&id("i1"), None).await.unwrap().unwrap();
        assert_eq!(explained.lifecycle, before[0].lifecycle);
        assert!(!lifecycles(&census(&next).await).contains(before[0].lifecycle.as_str()));
        next.stop().await;
    });
}

#[test]
fn what_cannot_be_taken_over_is_ended_and_the_rest_runs_on() {
    let (dir, before) = left_with(["i1", "i2", "i3", "i4"]);
    let data = dir.path().join("data");
    // Its template is gone, its slot is not known, its slot is another's.
    tamper(&data, &before[0], |record| record["build"] = "gone".into());
    tamper(&data, &before[1], |record| record["slot"] = Value::Null);
    tamper(&data, &before[2], |record| record["slot"] = 2000.into());
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |_| {}).await;
        assert_eq!(listed(&next).await, before[3..]);
        for sandbox in ["i1", "i2", "i3"] {
            assert_eq!(reason(&next, sandbox).await, Some(EndReason::Reclaimed), "{sandbox}");
        }
        let output = run(before[3].addr.unwrap(), "user", "echo here").await;
        assert_eq!(output.stdout, "here\n");
        // Also the links: of those that run on and of the warm slots there is one each.
        wait_for("the links of the others to go", LIMIT, async || {
            let links = census(&next).await.iter().filter(|item| item.kind == Kind::Link).count();
            links == 1 + next.node.warm_slots()
        })
        .await;
        next.stop().await;
    });
}

/// Nothing of a sandbox that was left is in the way of a node that is stopped for good.
#[test]
fn a_node_that_took_sandboxes_over_stops_clean() {
    let (dir, _) = left_with(["i1", "i2"]);
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |_| {}).await;
        assert!(listed(&next).await.iter().all(|status| status.phase == SandboxPhase::Live));
        next.stop().await;
    });
}
