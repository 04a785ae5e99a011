//! What a crashed service has left in its files, changed before the next one reads it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::kit::{Service, command, data_dir, leaked, list, looks, turn};

/// The lifecycle directory of sandbox `id`.
pub(crate) fn lifecycle_of(data: &Path, id: &str) -> PathBuf {
    let lifecycles = fs::read_dir(data.join("node/lifecycles")).unwrap();
    let mut lifecycles = lifecycles.map(|entry| entry.unwrap().path());
    lifecycles.find(|path| record_in(path)["sandbox"] == id).unwrap()
}

fn record_path(lifecycle: &Path) -> PathBuf {
    let files = fs::read_dir(lifecycle).unwrap().map(|file| file.unwrap().path());
    files.into_iter().find(|path| path.to_string_lossy().contains("lifecycle.json.")).unwrap()
}

fn record_in(lifecycle: &Path) -> Value {
    serde_json::from_slice(&fs::read(record_path(lifecycle)).unwrap()).unwrap()
}

fn change(lifecycle: &Path, change: impl FnOnce(&mut Value)) {
    let mut record = record_in(lifecycle);
    change(&mut record);
    fs::write(record_path(lifecycle), record.to_string()).unwrap();
}

/// Ends the first process of a sandbox whose service has ended, and with it all others.
fn end(lifecycle: &Path) -> i32 {
    let pid = record_in(lifecycle)["process"]["pid"].as_i64().unwrap();
    let pid = i32::try_from(pid).unwrap();
    // The record is of this moment: nobody else has the number.
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    assert!(looks(|| start_time(pid).is_none()), "{pid} does not end");
    pid
}

/// When the process was started, in the kernel's ticks; `None` when there is none.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may have anything in it; the first of these is field 3.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    fields.nth(19)?.parse().ok()
}

/// A program that is nobody's here; ended with this.
struct Innocent(Child);

impl Innocent {
    fn start() -> Self {
        Self(command("/bin/sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap())
    }

    /// One that has the number `pid`, which is free.
    fn with_number(pid: i32) -> Self {
        for _ in 0..10_000 {
            fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
            let innocent = Self::start();
            // Somebody else may have been faster.
            if innocent.pid() == pid {
                return innocent;
            }
        }
        panic!("nobody gets the number {pid}");
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Innocent {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Why the sandbox has ended, as its owner is told.
fn reason(service: &Service, id: &str) -> Value {
    let (status, body) = service.api("GET", &format!("/sandboxes/{id}/explain"), &Value::Null);
    assert_eq!(status, 200, "{body}");
    let told: Value = serde_json::from_str(&body).unwrap();
    told["ended"]["reason"].clone()
}

fn ready(service: &Service) {
    let is_ready = || service.admin("GET", "/nodes").1.contains("\"status\":\"ready\"");
    assert!(looks(is_ready), "it never became ready");
}

#[test]
fn who_has_the_number_of_a_dead_sandboxs_process_is_left_alone() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    let [reused, same_time, stays] = [service.create(), service.create(), service.create()];
    service.crash();
    // One that was given the number by the kernel; one whose start is the one that is written, too,
    // which no kernel does.
    let mut first = Innocent::with_number(end(&lifecycle_of(data.path(), &reused)));
    let lifecycle = lifecycle_of(data.path(), &same_time);
    end(&lifecycle);
    let mut second = Innocent::start();
    let started = start_time(second.pid()).unwrap();
    change(&lifecycle, |record| {
        record["process"] = json!({ "pid": second.pid(), "start_time": started });
    });

    let service = Service::start(data.path(), &[]);
    ready(&service);
    assert!(looks(|| list(&service) == [&*stays]), "{:?}", list(&service));
    assert!(service.reaches(&stays));
    for id in [&reused, &same_time] {
        assert_eq!(reason(&service, id), "crashed", "{id}");
    }
    assert!(first.lives() && second.lives(), "an innocent process was ended");
    assert_eq!(leaked(data.path()), json!([]));
    service.kill(&stays);
    service.finish();
    assert!(first.lives() && second.lives(), "an innocent process was ended");
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn what_cannot_be_read_is_ended_by_its_names_and_told_and_an_older_form_is_read() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    let all: [String; 7] = std::array::from_fn(|_| service.create());
    let [torn, empty, missing, newer, nobodys, old, new] = &all;
    service.crash();

    let of = |id: &str| lifecycle_of(data.path(), id);
    // Found by their records before those are changed.
    let dirs = all.each_ref().map(|id| of(id));
    let [torn_dir, empty_dir, missing_dir, newer_dir, nobodys_dir, old_dir, new_dir] = &dirs;
    let path = record_path(torn_dir);
    let text = fs::read(&path).unwrap();
    fs::write(path, &text[..text.len() / 2]).unwrap();
    fs::write(record_path(empty_dir), "").unwrap();
    fs::remove_file(record_path(missing_dir)).unwrap();
    change(newer_dir, |record| record["version"] = 99.into());
    change(nobodys_dir, |record| record["sandbox"] = "../../etc".into());
    change(old_dir, |record| {
        record["version"] = 1.into();
        for later in ["boot_id", "created_at_us", "failure", "ending"] {
            record.as_object_mut().unwrap().remove(later);
        }
    });
    // Half a writing, and what another program has put where it does not belong.
    fs::write(new_dir.join("lifecycle.json.next"), "{\"version\":2,").unwrap();
    fs::write(data.path().join("node/ended/garbage.json"), "}").unwrap();
    let stranger = data.path().join("node/lifecycles/not a lifecycle");
    fs::create_dir(&stranger).unwrap();

    let service = Service::start(data.path(), &[]);
    ready(&service);
    let mut kept = [&**old, &**new];
    kept.sort_unstable();
    // The records hear of it when the node is looked at.
    assert!(looks(|| list(&service) == kept), "{:?} and not {kept:?}", list(&service));
    for id in kept {
        assert!(service.reaches(id), "{id}");
    }
    for id in [torn, empty, missing, newer, nobodys] {
        let (status, body) = service.api("GET", &format!("/sandboxes/{id}"), &Value::Null);
        assert_eq!(status, 404, "{body}");
        // Nobody can say more than that its node has it no more.
        assert_eq!(reason(&service, id), "lost", "{id}");
    }
    assert!(dirs[..5].iter().all(|dir| !dir.exists()), "{dirs:?}");
    assert!(stranger.exists(), "what is not ours is left alone");
    fs::remove_dir(stranger).unwrap();
    assert_eq!(leaked(data.path()), json!([]));
    kept.iter().for_each(|id| service.kill(id));
    service.finish();
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn a_service_that_cannot_open_its_records_leaves_what_runs_to_the_next() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    let id = service.create();
    service.crash();
    let [database, aside] = ["control-plane.sqlite", "aside"].map(|name| data.path().join(name));
    fs::rename(&database, &aside).unwrap();
    fs::create_dir(&database).unwrap();

    let mut broken = Service::spawn(data.path(), &[], &[]);
    let (code, said) = broken.end();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("1 run on for the next service"), "{said}");
    assert!(broken.complaint().contains("cofferdam: stopped, because open the store"));
    fs::remove_dir(&database).unwrap();
    fs::rename(&aside, &database).unwrap();

    let service = Service::start(data.path(), &[]);
    assert_eq!(list(&service), [&*id]);
    assert!(service.reaches(&id));
    service.kill(&id);
    service.finish();
    assert_eq!(leaked(data.path()), json!([]));
}
