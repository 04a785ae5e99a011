//! The shipped unit under a real systemd, which is the first process of namespaces of a test's own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use host::cgroup::Layout;
use serde_json::json;

use crate::guest;
use crate::kit::{BINARY, Client, Ends, command, data_dir, leaked, looks, said, turn};

const SYSTEMD: &str = "/usr/lib/systemd/systemd";
const UNIT: &str = include_str!("../../../../deploy/systemd/cofferdam.service");

/// What a test's systemd does before it is one. Its units, its runtime files and its view of
/// cgroups are its own; the network and what Cofferdam nodes agree upon are the host's.
const INIT: &str = r#"#!/bin/bash
set -e
mount --make-rprivate /
mkdir -p /run/cofferdam "$1/claims"
mount --bind /run/cofferdam "$1/claims"
umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
mount -t tmpfs tmpfs /run -o mode=755
mkdir /run/cofferdam
mount --bind "$1/claims" /run/cofferdam
export container=other
export SYSTEMD_PROC_CMDLINE=systemd.unified_cgroup_hierarchy=1
export SYSTEMD_UNIT_PATH="$1/units"
export SYSTEMD_GENERATOR_PATH=/nonexistent SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/nonexistent
exec /usr/lib/systemd/systemd --system --unit=basic.target --log-target=console
"#;

/// A systemd with the unit `cofferdam`; killed with all it started when the test is over.
pub(crate) struct Systemd {
    /// `unshare`, whose only child is systemd.
    outer: Child,
    pid: i32,
    cgroup: PathBuf,
    dir: tempfile::TempDir,
    pub(crate) address: SocketAddr,
}

impl Systemd {
    /// One whose service has `data`; `None`, with the reason said, where there can be none.
    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    pub(crate) fn start(data: &Path) -> Option<Self> {
        if !Path::new(SYSTEMD).exists() {
            println!("skipped, because systemd is not installed");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let address = own_address();
        units(&dir.path().join("units"), data, address);
        let init = dir.path().join("init");
        fs::write(&init, INIT).unwrap();
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();

        let layout = Layout::detect().unwrap();
        let name = format!("cofferdam-test-systemd-{}", std::process::id());
        let cgroup = layout.unified_path().unwrap().join(name);
        fs::create_dir(&cgroup).unwrap();
        let enter = r#"echo $$ > "$0/cgroup.procs"; exec "$@""#;
        let outer = command("/bin/sh")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["-c", enter])
            .arg(&cgroup)
            .args(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--ipc"])
            .args(["--uts", "--"])
            .args([&init, &dir.path().to_path_buf()])
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut systemd = Self { outer, pid: 0, cgroup, dir, address };
        systemd.wait("systemd to run", |systemd| {
            systemd.pid = systemd.child().unwrap_or(0);
            systemd.pid != 0 && systemd.ctl(&["is-active", "basic.target"]).status.success()
        });
        Some(systemd)
    }

    /// Runs `systemctl` in there, to its end.
    pub(crate) fn ctl(&self, args: &[&str]) -> Output {
        command("/usr/bin/nsenter")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["--target", &self.pid.to_string(), "--mount", "--pid", "--cgroup", "--"])
            .arg("systemctl")
            .args(args)
            .output()
            .unwrap()
    }

    /// The same, and it has to work.
    pub(crate) fn must(&self, args: &[&str]) {
        let output = self.ctl(args);
        assert!(output.status.success(), "{args:?}: {} {}", said(&output), self.log());
    }

    pub(crate) fn property(&self, name: &str) -> String {
        let output = self.ctl(&["show", "cofferdam", "--value", "--property", name]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What systemd and the service said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        assert!(looks(|| done(self)), "waited for {what}: {}", self.log());
    }

    /// The first process in there, as the host numbers it.
    fn child(&self) -> Option<i32> {
        let pid = self.outer.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.trim().parse().ok()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // The kernel kills what is in there with its first process.
        drop(fs::write(self.cgroup.join("cgroup.kill"), "1"));
        drop(self.outer.wait());
        let gone = looks(|| remove_groups(&self.cgroup).is_ok());
        assert!(gone || std::thread::panicking(), "{} is left", self.cgroup.display());
    }
}

fn remove_groups(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

/// Free a moment ago. All addresses that begin with 127 are this machine's own: nobody else uses this
/// one, or is given its port.
fn own_address() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    TcpListener::bind((Ipv4Addr::new(127, 96, high, low), 0)).unwrap().local_addr().unwrap()
}

/// The shipped unit with another command line and data directory, and the targets it names.
fn units(dir: &Path, data: &Path, address: SocketAddr) {
    let drop_in = dir.join("cofferdam.service.d");
    fs::create_dir_all(&drop_in).unwrap();
    for target in ["basic", "sysinit", "shutdown", "multi-user", "network-online", "network"] {
        let text = "[Unit]\nDefaultDependencies=no\n";
        fs::write(dir.join(format!("{target}.target")), text).unwrap();
    }
    fs::write(dir.join("cofferdam.service"), UNIT).unwrap();
    let (agent, data) = (testkit::agent(), data.display());
    let text = format!(
        "[Service]\nStateDirectory=\nExecStart=\nExecStart={BINARY} up --listen {address} \
         --data-dir {data} --envd {} --warm-slots 1 --log info\n",
        agent.display()
    );
    fs::write(drop_in.join("test.conf"), text).unwrap();
}

/// Asks for the sandbox and runs a program in it, over and over, until `stop`; says how often both
/// worked, and every answer that was not what it should be after one repetition.
pub(crate) fn use_it(client: &Client, id: &str, stop: &AtomicBool) -> (u32, Vec<String>) {
    let (mut worked, mut failed) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let once = || {
            let key = client.credential("E2B_API_KEY");
            let path = format!("/sandboxes/{id}");
            let answer = client.try_call("GET", &path, &[("X-API-Key", &key)], "");
            match answer {
                Ok((200, _)) => {}
                other => return Err(format!("{other:?}")),
            }
            let said = guest::try_run(client.address, id, "echo it is $((6 * 7))");
            match said {
                // "it is 42\n"
                Ok(said) if said.contains("aXQgaXMgNDIK") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        };
        match once().or_else(|first| once().map_err(|second| format!("{first}; {second}"))) {
            Ok(()) => worked += 1,
            Err(error) => failed.push(error),
        }
    }
    (worked, failed)
}

#[test]
fn a_restart_is_seen_by_no_client_and_by_no_sandbox() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let Some(mut systemd) = Systemd::start(data.path()) else { return };
    systemd.must(&["start", "cofferdam"]);
    let client = Client { data: data.path().to_path_buf(), address: systemd.address };
    let id = client.create();
    let pid = guest::start(client.address, &id, "while :; do sleep 1; done");

    let stop = AtomicBool::new(false);
    let (worked, failed) = std::thread::scope(|scope| {
        let over = Ends(&stop);
        let using = scope.spawn(|| use_it(&client, &id, &stop));
        for _ in 0..3 {
            let before = systemd.property("MainPID");
            systemd.must(&["restart", "cofferdam"]);
            assert_ne!(systemd.property("MainPID"), before);
        }
        drop(over);
        using.join().unwrap()
    });
    assert_eq!(failed, Vec::<String>::new(), "{worked} worked: {}", systemd.log());
    assert!(worked > 0);
    let said = guest::run(client.address, &id, &format!("kill -0 {pid} && echo it is there"));
    // "it is there\n"
    assert!(said.contains("aXQgaXMgdGhlcmUK"), "{said}");

    // A stop is no restart: it waits for the sandbox.
    systemd.must(&["stop", "--no-block", "cofferdam"]);
    systemd.wait("the drain", |_| client.admin("GET", "/nodes").1.contains("draining"));
    assert!(client.reaches(&id));
    client.kill(&id);
    systemd.wait("the end", |systemd| systemd.property("ActiveState") == "inactive");
    assert_eq!(systemd.property("Result"), "success");
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn a_service_that_is_killed_is_started_again_and_has_its_sandboxes() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let Some(mut systemd) = Systemd::start(data.path()) else { return };
    systemd.must(&["start", "cofferdam"]);
    let client = Client { data: data.path().to_path_buf(), address: systemd.address };
    let id = client.create();
    let before = systemd.property("MainPID");
    systemd.must(&["kill", "--kill-whom=main", "--signal=SIGKILL", "cofferdam"]);
    systemd.wait("another process", |systemd| {
        systemd.property("ActiveState") == "active" && systemd.property("MainPID") != before
    });
    // Its sockets were kept: nobody was refused, and whoever waited is answered now.
    assert!(client.reaches(&id));
    client.kill(&id);
    systemd.must(&["stop", "cofferdam"]);
    assert_eq!(leaked(data.path()), json!([]));
}

#[test]
fn a_unit_whose_program_is_replaced_is_the_same_process_and_never_inactive() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let Some(mut systemd) = Systemd::start(data.path()) else { return };
    systemd.must(&["start", "cofferdam"]);
    let client = Client { data: data.path().to_path_buf(), address: systemd.address };
    let id = client.create();
    let before = systemd.property("MainPID");
    let (code, told) = client.node(&["handover", "--binary", BINARY]);
    assert_eq!(code, 0, "{told} {}", systemd.log());
    systemd.wait("the unit", |systemd| systemd.property("SubState") == "running");
    assert_eq!(systemd.property("MainPID"), before);
    assert_eq!(systemd.property("NRestarts"), "0");
    assert!(client.reaches(&id));
    // It is in its place in every respect: a restart hands the sockets on, and a stop drains.
    systemd.must(&["restart", "cofferdam"]);
    assert!(client.reaches(&id));
    client.kill(&id);
    systemd.must(&["stop", "cofferdam"]);
    assert_eq!(systemd.property("Result"), "success");
    assert_eq!(leaked(data.path()), json!([]));
}
