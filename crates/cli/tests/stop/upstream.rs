//! Ways in which the software that this one speaks the protocol of loses or leaves something when
//! its process stops, and that this one does not have. The others of the ten are shown with the
//! node, in its host tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use serde_json::json;

use crate::kit::{Service, census, command, data_dir, leaked, looks, said, turn};

/// There: with a forced stop the process exits at once, and leaves machines, networks and cgroups.
#[test]
fn bug_1_a_forced_stop_leaves_nothing_behind() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    for _ in 0..2 {
        service.create();
    }
    service.signal(Signal::TERM);
    service.line();
    service.signal(Signal::TERM);
    let (code, said) = service.end();
    assert_eq!(code, 3, "what ran was ended: {said}");
    assert!(said.contains("2 sandboxes ended, 0 failed, 0 objects left"), "{said:?}");
    assert_eq!(leaked(data.path()), json!([]));
}

/// There: creates succeed for as long as the drain lasts, and one that comes while the last sandbox
/// is torn down outlives the process.
#[test]
fn bug_2_creates_that_come_during_a_drain_are_all_refused() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    let id = service.create();
    service.signal(Signal::TERM);
    let line = service.line();
    assert!(line.starts_with("cofferdam: stopping when 1 sandboxes have ended"), "{line:?}");
    let drains = || !service.admin("GET", "/nodes").1.contains("\"status\":\"ready\"");
    assert!(looks(drains), "it does not begin");
    // Until nobody listens any more.
    let refused = AtomicU32::new(0);
    let (address, key) = (service.address, service.credential("E2B_API_KEY"));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(status) = try_create(address, &key) {
                    assert_eq!(status, 503);
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // They have begun before the last sandbox ends.
        let begun = looks(|| refused.load(Ordering::Relaxed) >= 10);
        service.kill(&id);
        assert!(begun, "nobody was refused");
    });
    let (code, said) = service.end();
    assert_eq!(code, 0, "{said} {}", service.complaint());
    assert!(said.contains("1 sandboxes ended, 0 failed, 0 objects left"), "{said:?}");
    assert_eq!(leaked(data.path()), json!([]));
}

/// The status of the answer; `None` when there is none.
fn try_create(address: std::net::SocketAddr, key: &str) -> Option<u16> {
    use std::io::{Read, Write};
    let mut socket = std::net::TcpStream::connect(address).ok()?;
    let body = r#"{"templateID":"busybox"}"#;
    let request = format!(
        "POST /sandboxes HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-API-Key: {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

/// There: a clean stop exits with 1, because every service that ends is an error.
#[test]
fn bug_8_a_stop_with_nothing_running_exits_with_zero() {
    let Some(_turn) = turn() else { return };
    for signal in [Signal::TERM, Signal::INT] {
        let data = data_dir();
        let mut service = Service::start(data.path(), &[]);
        service.signal(signal);
        let (code, said) = service.end();
        assert_eq!(code, 0, "{signal:?}: {said} {}", service.complaint());
        assert_eq!(leaked(data.path()), json!([]));
    }
}

/// Things of somebody else on this host that look like ours.
struct Strangers {
    programs: Vec<Child>,
    cgroup: PathBuf,
    link: String,
    _dir: tempfile::TempDir,
}

impl Strangers {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = |name: &str| {
            let path = dir.path().join(name);
            // By another program: a child that a test starts meanwhile would have this process's
            // copy open for writing, and nobody could run it until that child execs.
            let mut copy = command("/usr/bin/install");
            let copied = copy.args(["-m", "755", "/bin/sleep"]).arg(&path).status().unwrap();
            assert!(copied.success(), "{copied}");
            let mut program = command(path.to_str().unwrap());
            // It must not keep the test's own output open, should the test fail.
            program.arg("1000").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let link = format!("cdx-{}", std::process::id());
        ip(&["link", "add", &link, "type", "veth"]);
        let programs: Vec<Child> = ["crun", "envd", "cofferdam"].map(program).into();
        let layout = host::cgroup::Layout::detect().unwrap();
        // Not a block of ours: those have a number.
        let name = format!("cofferdam-x-{}", std::process::id());
        let cgroup = layout.unified_path().unwrap().join(name);
        fs::create_dir(&cgroup).unwrap();
        fs::write(cgroup.join("cgroup.procs"), programs[0].id().to_string()).unwrap();
        Self { programs, cgroup, link, _dir: dir }
    }

    fn assert_untouched(&mut self) {
        for program in &mut self.programs {
            assert!(program.try_wait().unwrap().is_none(), "a foreign program was ended");
        }
        let inside = fs::read_to_string(self.cgroup.join("cgroup.procs")).unwrap();
        assert_eq!(inside.trim(), self.programs[0].id().to_string());
        assert!(Path::new("/sys/class/net").join(&self.link).exists());
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        for program in &mut self.programs {
            drop(program.kill());
            drop(program.wait());
        }
        drop(fs::remove_dir(&self.cgroup));
        ip(&["link", "del", &self.link]);
    }
}

fn ip(args: &[&str]) {
    let done = command("/usr/sbin/ip").args(args).output().unwrap();
    assert!(done.status.success(), "ip {args:?}: {}", said(&done));
}

/// There: the next start kills every program of the machine's name and cuts off every block device,
/// whose ever they are.
#[test]
fn bug_9_a_start_after_a_crash_touches_nothing_that_is_not_its_own() {
    let Some(_turn) = turn() else { return };
    let mut strangers = Strangers::new();
    let data = data_dir();
    let mut service = Service::start(data.path(), &[]);
    service.create();
    service.signal(Signal::KILL);
    drop(service);
    assert_ne!(census(data.path()).1["waiting"], json!([]), "there is something to take over");
    service = Service::start(data.path(), &[]);
    strangers.assert_untouched();
    service.signal(Signal::TERM);
    service.line();
    service.signal(Signal::TERM);
    service.end();
    assert_eq!(leaked(data.path()), json!([]));
    strangers.assert_untouched();
}
