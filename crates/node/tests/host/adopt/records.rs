//! Records that say what is not so.

use host::process::{Process, ProcessIdentity, Spawn};
use model::EndReason;
use node_wire::NodeApi;
use rustix::process::Signal;
use serde_json::Value;
use testkit::{TestNode, in_view};

use super::{left_with, listed, process_of, reason, record_of, tamper};
use crate::requirements::{census, id, lifecycles};

async fn end(process: Process) {
    assert!(process.is_running().unwrap(), "an innocent process was killed");
    process.signal(Signal::KILL).unwrap();
    process.exited().await.unwrap();
}

#[test]
fn a_process_that_has_the_number_of_a_sandboxs_is_nobodys_to_end() {
    let (dir, before) = left_with(["i1", "i2", "i3"]);
    let data = dir.path().join("data");
    in_view(async move |view| {
        let sleep = || Spawn::new("/bin/sleep").args(["1000"]).start().unwrap();
        let (other, in_time) = (sleep(), sleep());
        // Its number was given to another process, which started at another time; or, which cannot
        // be, at the same. And the sandbox's own, with a time that is not its.
        let reused = ProcessIdentity { start_time: 1, ..other.identity() };
        let own = process_of(&data, &before[2]);
        let own = ProcessIdentity { start_time: own.start_time + 1, ..own };
        for (status, process) in before.iter().zip([reused, in_time.identity(), own]) {
            tamper(&data, status, |record| {
                record["process"] = serde_json::to_value(process).unwrap();
            });
        }
        let next = TestNode::start_in(dir, view, |_| {}).await;
        assert!(listed(&next).await.is_empty());
        for sandbox in ["i1", "i2", "i3"] {
            assert_eq!(reason(&next, sandbox).await, Some(EndReason::Crashed), "{sandbox}");
        }
        assert!(lifecycles(&census(&next).await).is_empty());
        next.stop().await;
        end(other).await;
        end(in_time).await;
    });
}

#[test]
fn a_record_that_cannot_be_read_is_as_good_as_none() {
    let (dir, before) = left_with(["i1", "i2", "i3", "i4", "i5"]);
    let data = dir.path().join("data");
    let [torn, empty, missing, newer, _] = &before;
    let path = record_of(&data, torn);
    let text = std::fs::read(&path).unwrap();
    std::fs::write(path, &text[..text.len() / 2]).unwrap();
    std::fs::write(record_of(&data, empty), "").unwrap();
    std::fs::remove_file(record_of(&data, missing)).unwrap();
    tamper(&data, newer, |record| record["version"] = 99.into());
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |_| {}).await;
        assert_eq!(listed(&next).await, before[4..], "by their names they are found, and removed");
        let left = lifecycles(&census(&next).await);
        assert!(left.iter().eq([before[4].lifecycle.as_str()]), "{left:?}");
        let report = next.node.adopt_report().await.unwrap().unwrap();
        assert_eq!((report.adopted, report.rolled_back, report.stuck), (1, 4, 0), "{report:?}");
        next.stop().await;
    });
}

#[test]
fn what_was_made_in_another_boot_is_told_as_ended_by_it() {
    let (dir, before) = left_with(["i1", "i2"]);
    let data = dir.path().join("data");
    tamper(&data, &before[0], |record| record["boot_id"] = "another".into());
    // The release before did not write it.
    tamper(&data, &before[1], |record| {
        record["version"] = 1.into();
        for newer in ["boot_id", "created_at_us", "failure", "ending"] {
            record.as_object_mut().unwrap().remove(newer);
        }
    });
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |_| {}).await;
        assert_eq!(listed(&next).await, before[1..]);
        assert_eq!(reason(&next, "i1").await, Some(EndReason::HostRestart));
        next.node.kill(&id("i2"), EndReason::Request).await.unwrap();
        let ended = std::fs::read_dir(data.join("node/ended")).unwrap().count();
        assert_eq!(ended, 2, "one record of each");
        next.stop().await;
    });
}

/// What a post-mortem is made from.
#[test]
fn the_record_of_an_ended_sandbox_says_what_it_used_and_keeps_no_secret() {
    let (dir, before) = left_with(["i1"]);
    let data = dir.path().join("data");
    tamper(&data, &before[0], |record| record["access_token"] = "secret".into());
    in_view(async move |view| {
        let next = TestNode::start_in(dir, view, |_| {}).await;
        let status = listed(&next).await.remove(0);
        next.node.shutdown(lifecycle::Budget::within(crate::requirements::LIMIT)).await;
        let path = data.join("node/ended").join(format!("{}.json", status.lifecycle));
        let text = std::fs::read_to_string(path).unwrap();
        assert!(!text.contains("secret"), "{text}");
        let record: Value = serde_json::from_str(&text).unwrap();
        let ending = &record["ending"];
        assert_eq!(ending["reason"], "node-stop", "{record}");
        assert!(ending["cpu_us"].as_u64().is_some_and(|used| used > 0), "{record}");
        assert!(ending["memory_peak_bytes"].as_u64().is_some_and(|peak| peak > 0), "{record}");
        assert!(ending["pids"].as_u64().is_some_and(|pids| pids > 0), "{record}");
    });
}
