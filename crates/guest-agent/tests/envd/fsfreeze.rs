//! The root file system is frozen and thawed: always one of the test's own, never the machine's.

use std::io::Write as _;
use std::net::TcpStream;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde_json::json;
use tempfile::TempDir;

use crate::cgroup::Cgroup;
use crate::connect::{Frames, base64};
use crate::program::{Envd, command, wait_until};
use crate::wire::Answer;

/// Makes a file system the root of the rest of the line, in a mount namespace of its own. The
/// machine's programs are there to run, and nothing else of it.
const ENTER: &str = "\
set -e
mount --make-rprivate /
mount $1 $2 $3
for name in bin sbin lib lib64 usr etc proc dev sys; do
    if test -d /$name; then mkdir -p $3/$name; mount --rbind /$name $3/$name; fi
done
mkdir -p $3$4 $3/tmp
mount --rbind $4 $3$4
root=$3
shift 4
exec chroot $root \"$@\"";

/// An agent with a root of its own. Thaws it when dropped, before the agent is ended: one that is
/// frozen and not mounted any more could not be thawed.
struct Caged {
    root: OwnedFd,
    envd: Envd,
    _dir: TempDir,
}

impl Caged {
    fn start(kind: &str) -> Option<Self> {
        Self::start_with(kind, &[])
    }

    /// `None`, and said so, where this machine allows no such thing.
    fn start_with(kind: &str, arguments: &[&str]) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (image, mount) = (path("image"), path("mount"));
        std::fs::create_dir(&mount).unwrap();
        let options = match kind {
            "ext4" => {
                std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
                let made = command("mkfs.ext4").args(["-q", &image]).status();
                if !made.is_ok_and(|status| status.success()) {
                    println!("skipped, because there is no mkfs.ext4 here");
                    return None;
                }
                "-oloop"
            }
            other => ["-t", other].concat().leak(),
        };
        let program = Path::new(env!("CARGO_BIN_EXE_envd")).parent().unwrap().to_str().unwrap();
        let line = ["unshare", "--mount", "/bin/sh", "-c", ENTER, "sh"];
        let line = [&line[..], &[options, &image, &mount, program]].concat();
        // Run there to see that it is there: without it nothing could be thawed in the end.
        let probe = command(line[0]).args(&line[1..]).args(["fsfreeze", "--version"]).output();
        if !probe.is_ok_and(|output| output.status.success()) {
            println!("skipped, because this machine mounts no {kind} for a test");
            return None;
        }
        let envd = Envd::start_by(&line, arguments, &[]);
        let root = format!("/proc/{}/root", envd.pid());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).unwrap();
        let device = |stat: rustix::fs::Stat| stat.st_dev;
        let of_the_machine = device(rustix::fs::stat("/").unwrap());
        assert_ne!(device(rustix::fs::fstat(&root).unwrap()), of_the_machine);
        Some(Self { root, envd, _dir: dir })
    }

    /// As somebody else than the agent. Whether it was done.
    fn fsfreeze(&self, option: &str) -> bool {
        let root = format!("/proc/{}/fd/{}", std::process::id(), self.root.as_raw_fd());
        let mut command = command("fsfreeze");
        command.args([option, &root]).stderr(std::process::Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    async fn post(&self, path: &str) -> (u16, String) {
        let answer: Answer = self.envd.post(path, &[], "").await;
        (answer.status.as_u16(), answer.text().to_owned())
    }
}

impl Drop for Caged {
    fn drop(&mut self) {
        self.fsfreeze("--unfreeze");
    }
}

const DONE: (u16, String) = (204, String::new());

/// Whether the process waits and cannot be interrupted, as one does whose write must wait.
fn is_stuck(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().trim_start().starts_with('D')
}

async fn writer(envd: &Envd) -> (Frames, u64) {
    let script = "echo up; read go; echo $go >/tmp/file; echo written";
    let request = json!({"process": {"cmd": "/bin/sh", "args": ["-c", script], "cwd": "/"}});
    let mut frames = envd.stream("process.Process/Start", request, &[]).await;
    let pid = frames.started().await;
    frames.until("stdout", "up\n").await;
    (frames, pid)
}

async fn go(envd: &Envd, pid: u64) {
    let input = json!({"process": {"pid": pid}, "input": {"stdin": base64(b"go\n")}});
    envd.ok("process.Process/SendInput", input).await;
}

#[tokio::test]
async fn writes_wait_while_the_root_is_frozen_and_asking_again_changes_nothing() {
    let Some(caged) = Caged::start("ext4") else { return };
    assert_eq!(caged.post("/fsthaw").await, DONE, "what is not frozen is thawed");
    let (mut frames, pid) = writer(&caged.envd).await;
    for _ in 0..2 {
        assert_eq!(caged.post("/fsfreeze").await, DONE);
    }
    assert!(!caged.fsfreeze("--freeze"), "it is frozen already");
    go(&caged.envd, pid).await;
    wait_until("the write waits", || is_stuck(pid)).await;
    for _ in 0..2 {
        assert_eq!(caged.post("/fsthaw").await, DONE);
    }
    frames.until("stdout", "written\n").await;
    assert!(!caged.fsfreeze("--unfreeze"), "it is not frozen any more");
}

#[tokio::test]
async fn what_somebody_else_froze_is_thawed_when_asked() {
    let Some(caged) = Caged::start("ext4") else { return };
    assert!(caged.fsfreeze("--freeze"));
    assert_eq!(caged.post("/fsfreeze").await, DONE);
    assert_eq!(caged.post("/fsthaw").await, DONE);
    assert!(!caged.fsfreeze("--unfreeze"));
}

#[tokio::test]
async fn a_root_that_cannot_be_frozen_is_told_with_the_kernels_reason() {
    let Some(caged) = Caged::start("tmpfs") else { return };
    let answer = caged.envd.post("/fsfreeze", &[], "").await;
    let (status, message) = answer.error();
    assert_eq!(status, 500);
    assert!(message.starts_with("the root file system could not be frozen: "), "{message}");
    assert!(message.contains("Operation not supported"), "{message}");
}

#[tokio::test]
async fn a_freeze_that_does_not_come_about_is_waited_for_only_while_its_client_is_there() {
    let Some(group) = Cgroup::make() else { return };
    let arguments = ["--cgroup-root", group.root()];
    let Some(caged) = Caged::start_with("ext4", &arguments) else { return };
    let (mut frames, pid) = writer(&caged.envd).await;
    assert_eq!(caged.post("/fsfreeze").await, DONE);
    go(&caged.envd, pid).await;
    wait_until("the write waits", || is_stuck(pid)).await;
    // What waits for a disk does not stand still before it has it.
    let report = caged.envd.post("/freeze?maxWaitMs=20", &[], "").await.json();
    assert_eq!((&report["frozen"], &report["notFrozen"]), (&json!(1), &json!(1)), "{report}");
    assert!(report["waitMs"].as_u64().unwrap() >= 20, "{report}");
    assert_eq!(caged.post("/unfreeze").await, DONE);

    let mut client = TcpStream::connect(caged.envd.addr).unwrap();
    let request = "POST /freeze?maxWaitMs=600000 HTTP/1.1\r\nhost: sandbox\r\n\r\n";
    client.write_all(request.as_bytes()).unwrap();
    wait_until("the freeze", || group.is_frozen("ptys")).await;
    drop(client);
    assert_eq!(caged.post("/unfreeze").await, DONE);
    assert_eq!(caged.post("/fsthaw").await, DONE);
    frames.until("stdout", "written\n").await;
}
