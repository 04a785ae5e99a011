//! Others on the host that hold on to what a sandbox leaves: a file, a mount, its network. What they
//! hold goes when they let go, and until then either nothing hangs on it or it can be seen.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use host::census::Kind;
use host::net::is_linked;
use host::process::{Process, Spawn};
use model::{EndReason, SandboxPhase};
use node_wire::{NodeApi, NodeError};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;
use testkit::{TestNode, in_view, wait_for};

use crate::guest::run;
use crate::network::{INTERNET, Internet};
use crate::requirements::{LIMIT, census, id, lifecycles, mark};

/// The directory of the one lifecycle there is.
async fn directory(test: &TestNode) -> PathBuf {
    let lifecycle = lifecycles(&census(test).await).pop_first().unwrap();
    test.data_dir().join("node/lifecycles").join(lifecycle)
}

/// The process number of the one guest agent.
pub(crate) async fn agent(test: &TestNode) -> i32 {
    let items = census(test).await;
    let agent = items.iter().find(|item| item.name.ends_with(" envd")).unwrap();
    agent.name.split(' ').next().unwrap().parse().unwrap()
}

async fn kill_nothing_left(test: &TestNode) {
    test.node.kill(&id("i1"), EndReason::Request).await.unwrap();
    let left = census(test).await;
    assert!(lifecycles(&left).is_empty(), "{left:#?}");
}

async fn end(process: Process) {
    process.signal(Signal::KILL).unwrap();
    process.exited().await.unwrap();
}

#[test]
fn who_has_a_file_of_a_sandbox_open_keeps_nothing_but_the_file() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        assert_eq!(run(addr, "root", "echo kept > /root/file; mkdir /root/dir").await.code, 0);
        let upper = directory(&test).await.join("upper/root");
        let file = File::open(upper.join("file")).unwrap();
        // A program that works in a directory of it.
        let program = format!("cd {} && exec sleep 1000", upper.join("dir").display());
        let program = Spawn::new("/bin/sh").args(["-c", &program]).start().unwrap();
        // The whole root, as the sandbox has it mounted: an overlay that nobody can unmount.
        let root = File::open(format!("/proc/{}/root/", agent(&test).await)).unwrap();
        kill_nothing_left(&test).await;
        assert_eq!(std::io::read_to_string(file).unwrap(), "kept\n");
        end(program).await;
        drop(root);
        test.stop().await;
    });
}

#[test]
fn a_mount_among_the_files_of_a_sandbox_is_seen_until_it_goes() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        let held = directory(&test).await.join("upper/held");
        fs::create_dir(&held).unwrap();
        mount("held", &held, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(held.join("precious"), "").unwrap();
        for _ in 0..2 {
            let error = test.node.kill(&id("i1"), EndReason::Request).await.unwrap_err();
            let NodeError::Stuck { left, .. } = &error else { panic!("{error}") };
            assert!(left.contains("files: "), "{left}");
            assert!(held.join("precious").exists(), "what is mounted is somebody else's");
        }
        let seen = test.node.list().await.unwrap().remove(0);
        assert!(matches!(seen.phase, SandboxPhase::Stuck | SandboxPhase::TearingDown), "{seen:?}");
        let processes = census(&test).await;
        assert!(processes.iter().all(|item| item.kind != Kind::Process), "{processes:#?}");
        unmount(&held, UnmountFlags::empty()).unwrap();
        kill_at_last(&test).await;
        test.stop().await;
    });
}

#[test]
fn a_program_of_the_host_in_a_sandboxs_network_keeps_its_address_from_the_next() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        let first = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        let slot =
            (0..host::identity::SLOTS).find(|&slot| mark(&test).guest_address(slot) == first);
        let slot = slot.unwrap();
        let net = format!("--net=/proc/{}/ns/net", agent(&test).await);
        let guest = Spawn::new("/usr/bin/nsenter").args([&*net, "/bin/sleep", "1000"]);
        let guest = guest.start().unwrap();
        let inside = format!("/proc/{}/ns/net", guest.identity().pid);
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        wait_for("it to enter", LIMIT, async || fs::read_link(&inside).unwrap() != own).await;
        kill_nothing_left(&test).await;
        assert!(is_linked(mark(&test), slot), "the kernel keeps the link of who is inside");
        assert!(runs(&guest), "it is no process of the sandbox");
        for n in 0..4 {
            let name = format!("n{n}");
            let next = test.node.create(test.spec(&name), LIMIT).await.unwrap().route.addr;
            assert_ne!(next, first, "an address with somebody behind it");
            test.node.kill(&id(&name), EndReason::Request).await.unwrap();
        }
        end(guest).await;
        wait_for("the link to go", LIMIT, async || !is_linked(mark(&test), slot)).await;
        test.wait_no_sandbox_objects().await;
        test.stop().await;
    });
}

#[test]
fn what_was_sent_to_a_peer_that_does_not_read_keeps_nothing_of_a_sandbox_that_is_killed() {
    let internet = Internet::new();
    let (ready, is_ready) = std::sync::mpsc::channel();
    internet.within(move || {
        let server = std::net::TcpListener::bind((INTERNET, 81)).unwrap();
        ready.send(()).unwrap();
        let _held: Vec<_> = server.incoming().collect();
    });
    is_ready.recv().unwrap();
    in_view(async move |view| {
        let test = TestNode::start(view, |_| {}).await;
        let addr = test.node.create(test.spec("i1"), LIMIT).await.unwrap().route.addr;
        let send = format!("nc {INTERNET} 81 < /dev/zero > /dev/null 2>&1 &");
        assert_eq!(run(addr, "user", &send).await.code, 0);
        // The kernel asks the peer now and then whether it has room (proc_pid_net(5), timer 4).
        let is_full = "grep -q ' 04:[0-9A-F]\\{8\\} ' /proc/net/tcp";
        wait_for("the peer to be full", LIMIT, async || run(addr, "user", is_full).await.code == 0)
            .await;
        kill_nothing_left(&test).await;
        test.wait_no_sandbox_objects().await;
        test.stop().await;
        drop(internet);
    });
}

/// Asks for its end until there is none of it; the node may be in a round that cannot succeed.
pub(crate) async fn kill_at_last(test: &TestNode) {
    wait_for("it to go", LIMIT, async || {
        match test.node.kill(&id("i1"), EndReason::Request).await {
            // By hand, or by the node itself if it was quicker.
            Ok(()) | Err(NodeError::NotFound(_)) => true,
            Err(NodeError::Stuck { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    })
    .await;
    test.wait_no_sandbox_objects().await;
}

/// A cgroup v1 freezer of the test's own; what is frozen there not even SIGKILL can end.
pub(crate) struct Freezer {
    hierarchy: tempfile::TempDir,
    group: PathBuf,
}

impl Drop for Freezer {
    /// Also when the test has failed: what is frozen would stay for good.
    fn drop(&mut self) {
        self.thaw();
        let left = fs::read_to_string(self.group.join("cgroup.procs")).unwrap();
        for pid in left.lines() {
            // It may end meanwhile.
            drop(fs::write(self.hierarchy.path().join("cgroup.procs"), pid));
        }
        fs::remove_dir(&self.group).unwrap();
        unmount(self.hierarchy.path(), UnmountFlags::DETACH).unwrap();
    }
}

impl Freezer {
    /// `None` where the kernel has none.
    pub(crate) fn new() -> Option<Self> {
        let hierarchy = tempfile::tempdir().unwrap();
        let options = c"freezer";
        mount("freezer", hierarchy.path(), "cgroup", MountFlags::empty(), Some(options)).ok()?;
        // The hierarchy is one for the host; the name of the directory is nobody else's.
        let name = hierarchy.path().file_name().unwrap().to_string_lossy().replace('.', "frozen-");
        let group = hierarchy.path().join(name);
        fs::create_dir(&group).unwrap();
        Some(Self { hierarchy, group })
    }

    pub(crate) async fn freeze(&self, pid: i32) {
        fs::write(self.group.join("cgroup.procs"), pid.to_string()).unwrap();
        fs::write(self.group.join("freezer.state"), "FROZEN").unwrap();
        wait_for("it to be frozen", LIMIT, async || self.state() == "FROZEN").await;
    }

    fn state(&self) -> String {
        fs::read_to_string(self.group.join("freezer.state")).unwrap().trim().to_owned()
    }

    pub(crate) fn thaw(&self) {
        fs::write(self.group.join("freezer.state"), "THAWED").unwrap();
    }
}

#[test]
fn a_process_that_cannot_be_killed_is_told_of_at_its_limit_and_goes_when_it_can() {
    in_view(async |view| {
        let Some(freezer) = Freezer::new() else {
            println!("skipped, because this kernel has no cgroup v1 freezer");
            return;
        };
        let short = std::time::Duration::from_secs(2);
        let test = TestNode::start(view, |config| config.teardown_limit = short).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        freezer.freeze(agent(&test).await).await;
        let mut links = linked(&test).await;
        for _ in 0..2 {
            let error = test.node.kill(&id("i1"), EndReason::Request).await.unwrap_err();
            let NodeError::Stuck { left, .. } = &error else { panic!("{error}") };
            assert!(left.starts_with("kill: empty cgroup l"), "{left}");
            assert!(left.contains("cgroup kill ran past its"), "{left}");
            let left = census(&test).await;
            for kind in [Kind::Process, Kind::Cgroup, Kind::LifecycleDirectory] {
                assert!(left.iter().any(|item| item.kind == kind), "no {kind:?} in {left:#?}");
            }
            assert!(linked(&test).await >= links, "it may be using its network still");
            links = linked(&test).await;
        }
        let status = test.node.drain_status().await.unwrap();
        let blocker = &status.blockers[0];
        assert!(blocker.id == "i1" && blocker.last_error.is_some(), "{blocker:?}");
        // It holds up nobody else.
        test.node.create(test.spec("i2"), LIMIT).await.unwrap();
        test.node.kill(&id("i2"), EndReason::Request).await.unwrap();
        freezer.thaw();
        kill_at_last(&test).await;
        drop(freezer);
        test.stop().await;
    });
}

/// How many slots have their link.
async fn linked(test: &TestNode) -> usize {
    census(test).await.iter().filter(|item| item.kind == Kind::Link).count()
}

fn runs(process: &Process) -> bool {
    let stat = Path::new("/proc").join(process.identity().pid.to_string()).join("stat");
    fs::read_to_string(stat).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_descriptor_of_a_sandboxs_cgroup_does_not_keep_it() {
    in_view(async |view| {
        let test = TestNode::start(view, |_| {}).await;
        test.node.create(test.spec("i1"), LIMIT).await.unwrap();
        let lifecycle = lifecycles(&census(&test).await).pop_first().unwrap();
        let path = Path::new("/sys/fs/cgroup").join(mark(&test).cgroup_root()).join(lifecycle);
        let held = File::open(path.join("cgroup.procs")).unwrap();
        kill_nothing_left(&test).await;
        assert!(!path.exists());
        assert!(rustix::io::read(held.as_fd(), &mut [0; 16]).is_err());
        test.stop().await;
    });
}
