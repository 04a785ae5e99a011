//! A control group of this machine's for one test, removed with all that is in it when dropped.

use std::fs::{read_dir, read_to_string};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// `None`, and said so, where this machine lets nobody make one.
    pub(crate) fn make() -> Option<Self> {
        let mounts = read_to_string("/proc/self/mounts").unwrap();
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mounts = fields.filter(|fields| fields[2] == "cgroup2").map(|fields| fields[1]);
        for mount in mounts.map(PathBuf::from).collect::<Vec<_>>() {
            let dir = tempfile::Builder::new().prefix("cofferdam-test-").tempdir_in(mount);
            let Ok(path) = dir.map(tempfile::TempDir::keep) else { continue };
            let group = Self { path };
            if group.path("cgroup.freeze").exists() {
                return Some(group);
            }
        }
        println!("skipped, because this machine has no control groups to make and to freeze");
        None
    }

    pub(crate) fn root(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.path.join(relative)
    }

    pub(crate) fn add(&self, relative: &str) {
        std::fs::create_dir_all(self.path(relative)).unwrap();
    }

    /// Asks a group to stand still or to go on, as somebody else than the agent.
    pub(crate) fn ask(&self, relative: &str, frozen: bool) {
        let value = if frozen { "1" } else { "0" };
        std::fs::write(self.path(relative).join("cgroup.freeze"), value).unwrap();
    }

    pub(crate) fn is_frozen(&self, relative: &str) -> bool {
        has(&self.path(relative), "frozen 1")
    }

    pub(crate) fn processes(&self, relative: &str) -> Vec<u32> {
        let all = read_to_string(self.path(relative).join("cgroup.procs")).unwrap();
        all.lines().map(|pid| pid.parse().unwrap()).collect()
    }
}

fn has(group: &Path, event: &str) -> bool {
    let events = read_to_string(group.join("cgroup.events"));
    events.is_ok_and(|events| events.lines().any(|line| line == event))
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        drop(std::fs::write(self.path("cgroup.kill"), "1"));
        let end = Instant::now() + Duration::from_secs(60);
        while has(&self.path, "populated 1") && Instant::now() < end {
            std::thread::yield_now();
        }
        remove(&self.path);
    }
}

/// Only directories can be removed there, and the files go with them.
fn remove(group: &Path) {
    for entry in read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    drop(std::fs::remove_dir(group));
}
