//! Pausing, resuming and copying real sandboxes.

mod layers;
mod seal;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, SystemTime};

use host::{Fault, Faults};
use lifecycle::Budget;
use model::{BuildId, EndReason, Keep, OnTimeout, SandboxId, SandboxPhase, TemplateId};
use node::{CREATE_POINTS, HALT_POINTS};
use node_wire::{CreateError, NewSnapshot, NodeApi, NodeError, PauseError, RemoveError};
use rustix::fs::{FlockOperation, Mode, OFlags};
use testkit::{TestNode, in_view, wait_for, with_view};

use crate::guest::run;

const LIMIT: Duration = Duration::from_secs(60);

fn id(text: &str) -> SandboxId {
    SandboxId::parse(text).unwrap()
}

fn snapshot(number: u32) -> NewSnapshot {
    NewSnapshot {
        template: TemplateId::parse(&format!("snapshot{number}")).unwrap(),
        build: BuildId::parse(&format!("00000000-0000-4000-8000-{number:012}")).unwrap(),
        passing: false,
    }
}

async fn phase(test: &TestNode, sandbox: &str) -> Option<SandboxPhase> {
    let all = test.node.list().await.unwrap();
    all.iter().find(|status| status.id.as_str() == sandbox).map(|status| status.phase)
}

/// Starts a program that counts in a file as long as it runs.
const COUNT: &str = "(while true; do echo x >> /home/user/count; busybox usleep 1000; done) \
                     >/dev/null 2>&1 & echo $! > /home/user/pid; wait $! & busybox usleep 1000";

#[test]
fn a_paused_sandbox_stands_still_and_goes_on_with_its_processes() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let started = test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        let addr = started.route.addr;
        run(addr, "user", COUNT).await;
        let counts = "until [ -s /home/user/count ]; do busybox usleep 1000; done";
        assert_eq!(run(addr, "user", counts).await.code, 0);
        let paused = test.node.pause(&id("i1"), Keep::Memory).await.unwrap();
        assert!(paused.memory);
        assert_eq!(phase(&test, "i1").await, Some(SandboxPhase::Paused));
        let upper = test.data_dir().join("node/lifecycles").join(paused.lifecycle.as_str());
        let count = upper.join("upper/home/user/count");
        let bytes = || std::fs::metadata(&count).map_or(0, |meta| meta.len());
        let before = bytes();
        assert!(before > 0, "it has counted");
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(bytes(), before, "it stands still");
        let again = test.node.pause(&id("i1"), Keep::Memory).await.unwrap_err();
        assert_eq!(again, PauseError::Paused("i1".into()));
        assert_eq!(test.node.paused().await.unwrap(), std::slice::from_ref(&paused));
        let taken = test.node.create(test.spec("i1"), LIMIT).await.unwrap_err();
        assert!(matches!(taken, CreateError::AlreadyExists(_)), "{taken}");
        let resumed = test.node.resume(test.spec("i1"), Keep::Memory, LIMIT).await.unwrap();
        assert!(resumed.memory);
        assert_eq!(resumed.started.route.lifecycle, paused.lifecycle);
        wait_for("it counts on", LIMIT, || async { bytes() > before }).await;
        let alive = run(addr, "user", "kill -0 $(cat /home/user/pid)").await;
        assert_eq!(alive.code, 0, "{alive:?}");
        assert_eq!(test.node.paused().await.unwrap(), []);
        test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
}

#[test]
fn one_of_which_only_files_are_kept_starts_anew_with_them_as_often_as_one_likes() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let mut addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        let write = "echo one > /home/user/file; busybox chown 1000:7 /home/user/file; \
                     rm /etc/passwd-; busybox mkdir -p /gone /kept/deep; busybox rmdir /gone; \
                     busybox ln /home/user/file /kept/link; busybox chmod 4755 /home/user/file";
        run(addr, "root", write).await;
        for round in 1..4 {
            let paused = test.node.pause(&id("i1"), Keep::Files).await.unwrap();
            assert!(!paused.memory, "round {round}");
            assert_eq!(phase(&test, "i1").await, None);
            test.wait_no_sandbox_objects().await;
            assert_eq!(test.node.paused().await.unwrap(), std::slice::from_ref(&paused));
            let again = test.node.pause(&id("i1"), Keep::Files).await.unwrap_err();
            assert_eq!(again, PauseError::Paused("i1".into()));
            let resumed = test.node.resume(test.spec("i1"), Keep::Memory, LIMIT).await.unwrap();
            assert!(!resumed.memory);
            assert_ne!(resumed.started.route.lifecycle, paused.lifecycle);
            addr = resumed.started.route.addr;
            let look = "busybox stat -c '%a %u %g %h' /home/user/file; ls -d /gone /kept/deep; \
                        cat /kept/link; busybox stat -c '%u %a' /";
            let found = run(addr, "root", look).await;
            assert!(found.stdout.starts_with("4755 1000 7 2\n/kept/deep\none\n0 755"), "{found:?}");
            let user = run(addr, "user", "echo more >> /home/user/own && cat /home/user/own").await;
            assert_eq!(user.stdout.lines().count(), round, "{user:?}");
        }
        test.node.pause(&id("i1"), Keep::Files).await.unwrap();
        test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        let gone = test.node.kill(&id("i1"), EndReason::Request).await.unwrap_err();
        assert!(matches!(gone, NodeError::NotFound(_)));
        assert_eq!(std::fs::read_dir(test.data_dir().join("node/paused")).unwrap().count(), 0);
        test.stop().await;
    });
}

#[test]
fn memory_can_be_given_up_and_goes_with_the_node_and_the_files_stay() {
    let dir = with_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        for name in ["i1", "i2"] {
            let addr = test.node.create(test.spec(name), LIMIT).await.unwrap().route.addr;
            run(addr, "user", "echo kept > /home/user/file").await;
            test.node.pause(&id(name), Keep::Memory).await.unwrap();
        }
        let resumed = test.node.resume(test.spec("i1"), Keep::Files, LIMIT).await.unwrap();
        assert!(!resumed.memory, "as it was asked");
        let file = run(resumed.started.route.addr, "user", "cat /home/user/file").await;
        assert_eq!(file.stdout, "kept\n");
        test.node.pause(&id("i1"), Keep::Memory).await.unwrap();
        let report = test.node.shutdown(Budget::within(Duration::from_secs(60))).await;
        assert!(report.is_clean(), "left: {:#?}, errors: {:#?}", report.left, report.errors);
        test.into_dir()
    });
    in_view(async |view| {
        let test = TestNode::start_in(dir, view, |_| {}).await;
        let mut paused = test.node.paused().await.unwrap();
        paused.sort_by(|a, b| a.id.cmp(&b.id));
        let told: Vec<_> = paused.iter().map(|p| (p.id.as_str(), p.memory)).collect();
        assert_eq!(told, [("i1", false), ("i2", false)]);
        let resumed = test.node.resume(test.spec("i2"), Keep::Memory, LIMIT).await.unwrap();
        let file = run(resumed.started.route.addr, "user", "cat /home/user/file").await;
        assert_eq!(file.stdout, "kept\n");
        for name in ["i1", "i2"] {
            test.node.kill(&id(name), EndReason::Request).await.unwrap();
        }
        assert_eq!(test.node.paused().await.unwrap(), []);
        test.stop().await;
    });
}

#[test]
fn its_time_pauses_one_that_is_to_be_paused_then() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        for (name, keep) in [("i1", Keep::Memory), ("i2", Keep::Files)] {
            let mut spec = test.spec(name);
            spec.on_timeout = OnTimeout::Pause(keep);
            test.node.create(spec, LIMIT).await.unwrap();
            test.node.set_end(&id(name), SystemTime::now()).await.unwrap();
        }
        wait_for("both are paused", LIMIT, || async {
            test.node.paused().await.unwrap().len() == 2
        })
        .await;
        let mut paused = test.node.paused().await.unwrap();
        paused.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(paused.iter().map(|p| p.memory).collect::<Vec<_>>(), [true, false]);
        for name in ["i1", "i2"] {
            test.node.kill(&id(name), EndReason::Request).await.unwrap();
        }
        test.stop().await;
    });
}

#[test]
fn a_snapshot_is_a_template_of_its_files_and_its_source_goes_on() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        run(
            addr,
            "root",
            "echo one > /home/user/file; rm -r /home/user/.profile; echo > /only-here",
        )
        .await;
        run(addr, "user", COUNT).await;
        let made = test.node.snapshot(&id("i1"), snapshot(1)).await.unwrap();
        assert!(made.halted < LIMIT);
        let goes_on = run(addr, "user", "kill -0 $(cat /home/user/pid)").await;
        assert_eq!(goes_on.code, 0, "{goes_on:?}");
        run(addr, "root", "echo two > /home/user/file").await;
        let from = |name: &str, number| {
            let mut spec = test.spec(name);
            spec.template = snapshot(number).template;
            spec
        };
        let addr = test.node.create(from("i2", 1), LIMIT).await.unwrap().route.addr;
        let found = run(addr, "user", "cat /home/user/file; ls -d /only-here").await;
        assert_eq!(found.stdout, "one\n/only-here\n", "{found:?}");
        run(addr, "root", "rm /only-here").await;
        test.node.snapshot(&id("i2"), snapshot(2)).await.unwrap();
        let addr = test.node.create(from("i3", 2), LIMIT).await.unwrap().route.addr;
        let found = run(addr, "user", "cat /home/user/file; ls -d /only-here").await;
        assert_eq!(found.stdout, "one\n", "{found:?}");
        let used = test.node.remove_template(&snapshot(1).template).await.unwrap_err();
        assert!(matches!(used, RemoveError::InUse(_)), "{used}");
        for name in ["i1", "i2", "i3"] {
            test.node.kill(&id(name), EndReason::Request).await.unwrap();
        }
        let below = test.node.remove_template(&snapshot(1).template).await.unwrap_err();
        assert!(matches!(below, RemoveError::InUse(_)), "{below}");
        for number in [2, 1] {
            test.node.remove_template(&snapshot(number).template).await.unwrap();
        }
        let gone = test.node.remove_template(&snapshot(1).template).await.unwrap_err();
        assert!(matches!(gone, RemoveError::NotFound(_)), "{gone}");
        test.stop().await;
    });
}

/// Names of what is in the directory of templates.
fn templates(dir: &Path) -> BTreeSet<OsString> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

/// A disk takes as long as it likes to have a snapshot; here it is the lock of the templates that
/// somebody has.
#[test]
fn the_end_of_a_sandbox_does_not_wait_until_its_snapshot_is_on_the_disk() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let dir = test.images_dir();
        let before = templates(&dir);
        let lock = rustix::fs::open(&dir, OFlags::DIRECTORY, Mode::empty()).unwrap();
        for number in 1.. {
            let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
            let fill = "busybox dd if=/dev/zero of=/home/user/large bs=1048576 count=100";
            run(addr, "root", fill).await;
            let finished = Cell::new(false);
            let taking = async {
                let taken = test.node.snapshot(&id("i1"), snapshot(number)).await;
                finished.set(true);
                taken
            };
            let ending = async {
                let begun = async || finished.get() || templates(&dir) != before;
                wait_for("a copy that is being made", LIMIT, begun).await;
                rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
                let made: Vec<_> = templates(&dir).difference(&before).cloned().collect();
                let in_time = made.iter().any(|name| name.to_str().unwrap().starts_with('.'));
                if in_time {
                    // Its processes go on as soon as the copy is made.
                    let copied = run(addr, "root", "true");
                    Budget::within(LIMIT).run("the copy", copied).await.unwrap();
                    let sandbox = id("i1");
                    let killed = test.node.kill(&sandbox, EndReason::Request);
                    Budget::within(LIMIT).run("its end", killed).await.unwrap().unwrap();
                    assert_ne!(templates(&dir), before, "it was still to be published");
                }
                rustix::fs::flock(&lock, FlockOperation::Unlock).unwrap();
                in_time
            };
            let (taken, in_time) = tokio::join!(taking, ending);
            if in_time {
                assert!(matches!(taken, Err(PauseError::Lost(_))), "{taken:?}");
                break;
            }
            // It was faster than this test.
            taken.unwrap();
            test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
            test.node.remove_template(&snapshot(number).template).await.unwrap();
        }
        wait_for("a snapshot that nobody was told of to be gone", LIMIT, || async {
            templates(&dir) == before
        })
        .await;
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
}

/// What a sandbox has written may lead anywhere: neither a resume nor a snapshot follows it.
#[test]
fn what_a_sandbox_has_written_does_not_lead_the_node_astray() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let outside = tempfile::tempdir().unwrap();
        let file = outside.path().join("resolv.conf");
        std::fs::write(&file, "untouched").unwrap();
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        let lead = format!("mv /etc /real && busybox ln -s {} /etc", outside.path().display());
        run(addr, "root", &lead).await;
        test.node.snapshot(&id("i1"), snapshot(1)).await.unwrap();
        test.node.pause(&id("i1"), Keep::Files).await.unwrap();
        let resumed = test.node.resume(test.spec("i1"), Keep::Memory, LIMIT).await;
        let mut spec = test.spec("i2");
        spec.template = snapshot(1).template;
        let copied = test.node.create(spec, LIMIT).await;
        // Whether a system without /etc starts is its owner's business.
        for (name, started) in [("i1", resumed.map(drop)), ("i2", copied.map(drop))] {
            println!("{name}: {started:?}");
            let ended = test.node.kill(&id(name), EndReason::Request).await;
            assert!(!matches!(ended, Err(NodeError::Stuck { .. })), "{ended:?}");
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "untouched");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
        test.node.remove_template(&snapshot(1).template).await.unwrap();
        test.stop().await;
    });
}

/// Every step fails once, in each way: the sandbox runs or is paused, as it says, and nothing is left
/// when it is gone.
#[test]
fn whatever_step_fails_on_the_real_machine_nothing_is_lost_and_nothing_is_left() {
    for fault in [Fault::Error, Fault::Panic] {
        in_view(async move |view| {
            let faults = Faults::default();
            let own = faults.clone();
            let test = TestNode::start(view, move |config| config.faults = own).await;
            for (point, number) in HALT_POINTS.into_iter().zip(1..) {
                let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
                run(addr, "user", "echo kept > /home/user/file").await;
                faults.arm(point, fault, 1);
                if test.node.pause(&id("i1"), Keep::Memory).await.is_err() {
                    assert_eq!(phase(&test, "i1").await, Some(SandboxPhase::Live), "{point}");
                    assert_eq!(run(addr, "user", "true").await.code, 0, "{point}: it runs on");
                    test.node.pause(&id("i1"), Keep::Memory).await.unwrap();
                }
                let resumed = test.node.resume(test.spec("i1"), Keep::Memory, LIMIT).await;
                if let Err(error) = resumed {
                    assert!(matches!(error, CreateError::Failed { .. }), "{point}: {error}");
                    assert_eq!(test.node.paused().await.unwrap().len(), 1, "{point}");
                    test.node.resume(test.spec("i1"), Keep::Memory, LIMIT).await.unwrap();
                }
                let taken = test.node.snapshot(&id("i1"), snapshot(number)).await;
                assert_eq!(phase(&test, "i1").await, Some(SandboxPhase::Live), "{point}");
                let file = run(addr, "user", "cat /home/user/file").await;
                assert_eq!(file.stdout, "kept\n", "{point}, {taken:?}");
                assert_eq!(faults.left(), [""; 0], "{point} was never passed");
                test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
                let removed = test.node.remove_template(&snapshot(number).template).await;
                // One whose last point failed is there all the same.
                assert!(taken.is_err() || removed.is_ok(), "{point}: {removed:?}");
            }
            test.wait_no_sandbox_objects().await;
            assert_eq!(std::fs::read_dir(test.data_dir().join("node/paused")).unwrap().count(), 0);
            test.stop().await;
        });
    }
}

/// A start with the files of a paused sandbox that fails at any step gives them back.
#[test]
fn a_start_that_fails_leaves_the_paused_sandbox_as_it_was() {
    in_view(async |view| {
        let faults = Faults::default();
        let own = faults.clone();
        let test = TestNode::start(view, move |config| config.faults = own).await;
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        run(addr, "user", "echo kept > /home/user/file").await;
        let paused = test.node.pause(&id("i1"), Keep::Files).await.unwrap();
        for point in CREATE_POINTS {
            faults.arm(point, Fault::Error, 1);
            let failed = test.node.resume(test.spec("i1"), Keep::Memory, LIMIT).await.unwrap_err();
            assert!(matches!(failed, CreateError::Failed { .. }), "{point}: {failed}");
            assert_eq!(test.node.paused().await.unwrap(), std::slice::from_ref(&paused), "{point}");
        }
        let resumed = test.node.resume(test.spec("i1"), Keep::Memory, LIMIT).await.unwrap();
        let file = run(resumed.started.route.addr, "user", "cat /home/user/file").await;
        assert_eq!(file.stdout, "kept\n");
        test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
}

/// What programs take for the id of the boot stays over a pause that keeps the memory, and is another
/// after a start with nothing but the files; it is never the host's, and nobody inside can change it.
#[test]
fn every_start_is_a_boot_of_its_own() {
    const ID: &str = "/proc/sys/kernel/random/boot_id";
    in_view(async |view| {
        let mut seen = vec![std::fs::read_to_string(ID).unwrap()];
        let test = TestNode::start(view, |_| {}).await;
        let mut addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        for keep in [Keep::Memory, Keep::Files, Keep::Files] {
            let own = run(addr, "root", &format!("cat {ID}")).await.stdout;
            assert_eq!(own.len(), "cc1ac1f4-1e44-4df7-bf79-35ed4115a2c0\n".len(), "{own:?}");
            assert!(!seen.contains(&own), "{own:?} is known: {seen:?}");
            let meddle = format!("echo x > {ID} || busybox chmod 666 {ID} || busybox umount {ID}");
            assert_ne!(run(addr, "root", &meddle).await.code, 0);
            test.node.pause(&id("i1"), keep).await.unwrap();
            let resumed = test.node.resume(test.spec("i1"), Keep::Memory, LIMIT).await.unwrap();
            addr = resumed.started.route.addr;
            let after = run(addr, "user", &format!("cat {ID}")).await.stdout;
            assert_eq!(after == own, resumed.memory, "{keep:?}");
            if !resumed.memory {
                seen.push(own);
            }
        }
        assert_eq!(boot_ids(), 0, "it is there only while a machine is made");
        test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
}

/// How many of the files are in the view.
fn boot_ids() -> usize {
    let names = std::fs::read_dir(host::view::DIR).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".boot_id")).count()
}
