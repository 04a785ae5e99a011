use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use lifecycle::Budget;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{Cgroups, Layout};
use crate::cgroup::Limits;
use crate::process::Spawn;

fn groups(name: &str) -> Cgroups {
    let root = format!("cofferdam-{name}-{}", std::process::id());
    Cgroups::open(Layout::detect().unwrap(), root).unwrap()
}

#[test]
fn all_sandboxes_together_leave_the_host_process_numbers() {
    let groups = groups("pids");
    let files: Vec<_> =
        groups.roots().unwrap().into_iter().map(|root| root.join("pids.max")).collect();
    let limits: Vec<u64> = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
        .collect();
    let all = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    let most = all.trim().parse::<u64>().unwrap() * 80 / 100;
    let can = groups.layout().support().iter().any(|s| s.what == "pids" && s.enforced);
    groups.close().unwrap();
    assert_eq!(limits, if can { vec![most] } else { Vec::new() });
}

/// A group of the v1 freezer: what is frozen in it cannot even be killed.
struct Freezer {
    hierarchy: tempfile::TempDir,
    group: PathBuf,
}

impl Freezer {
    /// `None` where the kernel has none, or this user may not.
    fn new() -> Option<Self> {
        let hierarchy = tempfile::tempdir().unwrap();
        let options = c"freezer";
        mount("freezer", hierarchy.path(), "cgroup", MountFlags::empty(), Some(options)).ok()?;
        let group = hierarchy.path().join(format!("cofferdam-await-{}", std::process::id()));
        fs::create_dir(&group).unwrap();
        Some(Self { hierarchy, group })
    }

    fn freeze(&self, pid: i32) {
        fs::write(self.group.join("cgroup.procs"), pid.to_string()).unwrap();
        let state = self.group.join("freezer.state");
        fs::write(&state, "FROZEN").unwrap();
        while fs::read_to_string(&state).unwrap().trim() != "FROZEN" {
            std::thread::yield_now();
        }
    }

    fn thaw(&self) {
        fs::write(self.group.join("freezer.state"), "THAWED").unwrap();
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.thaw();
        // What was killed leaves in its own time.
        while fs::remove_dir(&self.group).is_err() {
            std::thread::yield_now();
        }
        unmount(self.hierarchy.path(), UnmountFlags::DETACH).unwrap();
    }
}

/// How often this thread has read anything, so far (proc(5), `io`). How often it slept says less:
/// beside other tests it also sleeps where the kernel has it wait for them.
fn reads() -> u64 {
    let io = fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("syscr:"));
    line.unwrap().trim().parse().unwrap()
}

/// However long it takes: with a look every 20 ms there would be a hundred.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
async fn who_waits_for_a_group_to_be_empty_sleeps_until_it_is() {
    const FEW: u64 = 20;
    let Some(freezer) = Freezer::new() else {
        println!("skipped, because there is no cgroup v1 freezer");
        return;
    };
    let groups = groups("await");
    let group = groups.create("g1", &Limits::default()).unwrap();
    let process = Spawn::new("/bin/sleep").args(["1000"]).in_cgroup(group.dir().unwrap());
    let process = process.start().unwrap();
    freezer.freeze(process.identity().pid);

    let before = reads();
    let error = group.kill(Budget::within(Duration::from_secs(2))).await.unwrap_err();
    let looks = reads() - before;
    assert_eq!(error.action, "empty cgroup", "{error}");
    assert!((1..=FEW).contains(&looks), "it looked {looks} times");

    // And it hears of the end that comes while it waits.
    let thaw = async {
        tokio::task::yield_now().await;
        freezer.thaw();
        Ok(())
    };
    let waiting = group.kill(Budget::within(Duration::from_secs(60)));
    futures::try_join!(waiting, thaw).unwrap();
    process.exited().await.unwrap();
    let _closed = group.close(Budget::within(Duration::from_secs(60))).await.unwrap();
    drop(freezer);
    groups.close().unwrap();
}
