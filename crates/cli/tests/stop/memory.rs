//! A service that the kernel ends because there is no memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::kit::{Client, Ends, Service, data_dir, leaked, list, looks, turn};

/// Bytes a service may use beyond what it has when it begins to serve.
const MORE: u64 = 2 * 1024 * 1024;
/// Of a request, which the service holds before it refuses it; the API takes 16 MiB.
const BODY: usize = 15 * 1024 * 1024;

/// A cgroup with a limit on memory; removed with this.
struct Limited {
    dir: PathBuf,
    limit: &'static str,
}

impl Limited {
    /// `None`, with the reason said, where no such can be made.
    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    fn new() -> Option<Self> {
        let name = format!("cofferdam-test-{}", std::process::id());
        let places =
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        for (root, limit) in places {
            let dir = Path::new(root).join(&name);
            if !Path::new(root).join("cgroup.procs").exists() || fs::create_dir(&dir).is_err() {
                continue;
            }
            let limited = Self { dir, limit };
            if limited.dir.join(limit).exists() {
                return Some(limited);
            }
        }
        println!("skipped, because there is no cgroup hierarchy that limits memory here");
        None
    }

    fn holds(&self, service: &Service) {
        fs::write(self.dir.join("cgroup.procs"), service.pid().to_string()).unwrap();
        // What it had before is counted where it was then.
        fs::write(self.dir.join(self.limit), MORE.to_string()).unwrap();
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        assert!(looks(|| fs::remove_dir(&self.dir).is_ok()), "{} is left", self.dir.display());
    }
}

/// Makes sandboxes until nobody answers, or all is over; those it was told of.
fn create(service: &Client, over: &AtomicBool) -> BTreeSet<String> {
    let mut told = BTreeSet::new();
    let body = json!({ "templateID": "busybox", "timeout": 3600 });
    while !over.load(Ordering::Relaxed)
        && let Ok((status, body)) = service.try_api("POST", "/sandboxes", &body)
    {
        // Short of memory it may well refuse.
        if status == 201 {
            let body: Value = serde_json::from_str(&body).unwrap();
            told.insert(body["sandboxID"].as_str().unwrap().to_owned());
        }
    }
    told
}

/// Sends large requests until nobody answers.
fn load(service: &Client, over: &AtomicBool, given_up: &AtomicBool) {
    let metadata = json!({ "large": "x".repeat(BODY) });
    let body = json!({ "templateID": "busybox", "metadata": metadata });
    while !over.load(Ordering::Relaxed) && !given_up.load(Ordering::Relaxed) {
        if service.try_api("POST", "/sandboxes", &body).is_err() {
            over.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn ended_for_want_of_memory_it_leaves_what_it_told_of_and_nothing_half_made() {
    let Some(_turn) = turn() else { return };
    let Some(limited) = Limited::new() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    let mut told = BTreeSet::from([service.create()]);
    let client = service.client.clone();
    let (over, given_up) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _over = Ends(&given_up);
        let creating = scope.spawn(|| create(&client, &given_up));
        // It is at work when its end comes.
        assert!(looks(|| list(&client).len() > 3));
        limited.holds(&service);
        for _ in 0..2 {
            scope.spawn(|| load(&client, &over, &given_up));
        }
        service.killed("the limit");
        told.extend(creating.join().unwrap());
    });
    drop(limited);

    let service = Service::start(data.path(), &[]);
    let ready = || service.admin("GET", "/nodes").1.contains("\"status\":\"ready\"");
    assert!(looks(ready), "it never became ready");
    let there: BTreeSet<String> = list(&service).into_iter().collect();
    assert!(there.is_superset(&told), "{told:?} and not {there:?}");
    // At most the one that the client was not told of any more.
    assert!(there.len() <= told.len() + 1, "{told:?} and not {there:?}");
    assert_eq!(leaked(data.path()), json!([]));
    for id in &there {
        assert!(service.reaches(id), "{id}");
    }
    service.signal(Signal::TERM);
    there.iter().for_each(|id| service.kill(id));
    let mut service = service;
    assert_eq!(service.end().0, 0, "{}", service.complaint());
    assert_eq!(leaked(data.path()), json!([]));
}
