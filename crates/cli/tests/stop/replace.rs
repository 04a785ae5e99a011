//! Another program takes the place of the one that serves, in the same process.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::process::Signal;
use serde_json::json;

use crate::guest;
use crate::kit::{BINARY, Ends, Service, data_dir, leaked, looks, turn};
use crate::systemd::use_it;

/// The same program under another name, as the next release is.
fn next(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    // Where the two are on different disks.
    if fs::hard_link(BINARY, &path).is_err() {
        fs::copy(BINARY, &path).unwrap();
    }
    path
}

/// A program that is none of ours.
fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn hand_over(service: &Service, program: &Path) -> (i32, String) {
    service.node(&["handover", "--binary", program.to_str().unwrap()])
}

/// The program in its process.
fn program(service: &Service) -> PathBuf {
    fs::read_link(format!("/proc/{}/exe", service.pid())).unwrap()
}

fn mounts(service: &Service) -> usize {
    fs::read_to_string(format!("/proc/{}/mountinfo", service.pid())).unwrap().lines().count()
}

#[test]
fn another_program_in_its_process_is_seen_by_no_client_and_by_no_sandbox() {
    let Some(_turn) = turn() else { return };
    let (data, bin) = (data_dir(), tempfile::tempdir().unwrap());
    let mut service = Service::start(data.path(), &[]);
    let id = service.create();
    let counting = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done";
    let mut said = guest::request(service.address, &id, counting).unwrap();
    let mut first = [0; 4096];
    let length = said.read(&mut first).unwrap();
    let pid = guest::pid_in(&String::from_utf8_lossy(&first[..length])).unwrap();
    let before = mounts(&service);

    let stop = AtomicBool::new(false);
    let client = service.client.clone();
    let (worked, failed) = std::thread::scope(|scope| {
        let ends = Ends(&stop);
        let using = scope.spawn(|| use_it(&client, &id, &stop));
        for name in ["second", "third"] {
            let program_of = next(bin.path(), name);
            let (code, told) = hand_over(&service, &program_of);
            assert_eq!(code, 0, "{told}");
            assert!(told.contains(&format!("handed over to {}", program_of.display())), "{told}");
            assert_eq!(program(&service), program_of);
            assert!(!service.has_ended(), "who supervises it saw no end");
            assert_eq!(mounts(&service), before, "it is in a view of its own, and in no other");
        }
        drop(ends);
        using.join().unwrap()
    });
    assert_eq!(failed, Vec::<String>::new(), "{worked} worked");
    assert!(worked > 0);
    // What was followed for too long is cut off, runs on, and can be followed again.
    drop(said.read_to_end(&mut Vec::new()));
    let mut again = guest::connect(service.address, &id, pid).unwrap();
    assert_ne!(again.read(&mut first).unwrap(), 0);
    drop(again);
    service.kill(&id);
    service.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn this_program_takes_the_place_where_no_other_is_named() {
    let Some(_turn) = turn() else { return };
    let (data, bin) = (data_dir(), tempfile::tempdir().unwrap());
    let mut service = Service::start(data.path(), &["--handover"]);
    let id = service.create();
    assert_eq!(hand_over(&service, &next(bin.path(), "second")).0, 0);
    for words in [["handover"], ["--handover"]] {
        let (code, told) = service.node(&words);
        assert_eq!(code, 0, "{words:?} {told} {}", service.complaint());
        assert_eq!(program(&service), Path::new(BINARY), "{words:?}");
        assert!(service.reaches(&id));
    }
    service.kill(&id);
    service.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn a_program_that_could_not_serve_leaves_the_service_as_it_is() {
    let Some(_turn) = turn() else { return };
    let (data, bin) = (data_dir(), tempfile::tempdir().unwrap());
    let mut service = Service::start(data.path(), &[]);
    let id = service.create();
    let dir = bin.path();
    let plain = dir.join("plain");
    fs::write(&plain, "no program").unwrap();
    let picky = "case $1 in config) echo no such key; exit 1;; esac; echo 9.9.9";
    let rows = [
        (dir.join("missing"), "there is no program "),
        (dir.to_path_buf(), "there is no program "),
        (plain, "run "),
        (script(dir, "broken", "echo cannot be; exit 127"), "--version` failed: cannot be"),
        (script(dir, "picky", picky), "config` failed: no such key"),
    ];
    for (program_of, why) in rows {
        let (code, told) = hand_over(&service, &program_of);
        assert_eq!(code, 1, "{program_of:?} {told}");
        let goes_on = "the service goes on as it was: ";
        assert!(told.contains(goes_on) && told.contains(why), "{program_of:?} {told}");
        assert_eq!(program(&service), Path::new(BINARY));
        assert!(service.reaches(&id));
    }
    // One that is gone when its turn has come: this program begins anew.
    let gone = script(dir, "gone", "case $1 in config) /bin/rm -f \"$0\";; esac; echo 9.9.9");
    let (code, told) = hand_over(&service, &gone);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("cannot be run"), "{told} {}", service.complaint());
    assert_eq!(program(&service), Path::new(BINARY));
    assert!(service.reaches(&id));
    service.kill(&id);
    service.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn a_node_that_drains_is_given_to_no_other_program() {
    let Some(_turn) = turn() else { return };
    let (data, bin) = (data_dir(), tempfile::tempdir().unwrap());
    let service = Service::start(data.path(), &[]);
    let id = service.create();
    assert_eq!(service.node(&["drain"]).0, 0);
    let (code, told) = hand_over(&service, &next(bin.path(), "second"));
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("its node drains; wait for its end"), "{told}");
    assert!(service.reaches(&id));
    service.kill(&id);
    service.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn a_program_that_is_killed_as_soon_as_it_is_there_leaves_all_to_the_next() {
    let Some(_turn) = turn() else { return };
    let (data, bin) = (data_dir(), tempfile::tempdir().unwrap());
    let mut service = Service::start(data.path(), &[]);
    let id = service.create();
    let second = next(bin.path(), "second");
    let client = service.client.clone();
    let (code, told) = std::thread::scope(|scope| {
        let args = ["handover", "--binary", second.to_str().unwrap()];
        let asking = scope.spawn(move || client.node(&args));
        let pid = service.pid();
        let exe = format!("/proc/{pid}/exe");
        // In a tight loop: the earlier, the less it has done.
        while fs::read_link(&exe).unwrap() != second {
            std::hint::spin_loop();
        }
        service.crash();
        asking.join().unwrap()
    });
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("ended before it served"), "{told}");
    let after = Service::start(data.path(), &[]);
    assert!(after.reaches(&id));
    after.kill(&id);
    after.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn a_signal_to_the_program_that_goes_is_one_to_the_program_that_comes() {
    let Some(_turn) = turn() else { return };
    let (data, bin) = (data_dir(), tempfile::tempdir().unwrap());
    let mut service = Service::start(data.path(), &[]);
    let id = service.create();
    // As long as somebody listens to it, the first one waits.
    let said = guest::request(service.address, &id, "while :; do sleep 1; done").unwrap();
    let second = next(bin.path(), "second");
    let client = service.client.clone();
    std::thread::scope(|scope| {
        let args = ["handover", "--binary", second.to_str().unwrap()];
        let asking = scope.spawn(move || client.node(&args));
        assert!(looks(|| !data.path().join("handover.sock").exists()));
        service.signal(Signal::TERM);
        let (code, told) = asking.join().unwrap();
        assert_eq!(code, 0, "{told}");
    });
    drop(said);
    let mut line = String::new();
    while !line.contains("stopping when 1 sandboxes have ended") {
        line = service.line();
        assert_ne!(line, "", "{}", service.complaint());
    }
    assert_eq!(program(&service), second);
    assert!(service.reaches(&id));
    service.kill(&id);
    assert_eq!(service.end().0, 0);
    assert_eq!(leaked(data.path()), json!([]));
}
