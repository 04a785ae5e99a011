//! `cofferdam up` from outside: start, lock, addresses, stop. Needs root; starts no sandbox.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

use images::{NewTemplate, Store};
use model::Resources;
use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Pid, Signal, kill_process};

const BINARY: &str = env!("CARGO_BIN_EXE_cofferdam");

/// A service of this test's own; killed if the test fails before it stopped it.
struct Service {
    child: Child,
    /// `None` once nobody reads what it says.
    lines: Option<BufReader<ChildStdout>>,
}

fn start(data: &Path, listen: &str) -> Service {
    start_logging(data, listen, "error")
}

fn start_logging(data: &Path, listen: &str, log: &str) -> Service {
    #[expect(clippy::disallowed_methods, reason = "a test runs the binary from outside")]
    start_by(std::process::Command::new(BINARY), data, listen, log)
}

fn up(data: &Path, listen: &str, log: &str) -> std::process::Command {
    #[expect(clippy::disallowed_methods, reason = "a test runs the binary from outside")]
    up_by(std::process::Command::new(BINARY), data, listen, log)
}

fn up_by(
    mut command: std::process::Command,
    data: &Path,
    listen: &str,
    log: &str,
) -> std::process::Command {
    command
        .args(["up", "--listen", listen, "--warm-slots", "0", "--log", log])
        // Longer than any test may take: what has to wait for clients is seen to.
        .args(["--timeouts-clients", "10m"])
        // No sandbox is started, so any program will do for the guest agent.
        .args(["--envd", "/bin/true", "--data-dir"])
        .arg(data)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn start_by(command: std::process::Command, data: &Path, listen: &str, log: &str) -> Service {
    let mut child = up_by(command, data, listen, log).spawn().unwrap();
    let lines = child.stdout.take().map(BufReader::new);
    Service { child, lines }
}

impl Service {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.as_mut().unwrap().read_line(&mut line).unwrap();
        line
    }

    /// Closes the other ends of its standard output and standard error.
    fn stop_listening(&mut self) {
        drop((self.lines.take(), self.child.stderr.take()));
    }

    /// What it says when it serves, taken apart.
    fn ready(&mut self) -> SocketAddr {
        let line = self.line();
        let address = line.trim_end().strip_prefix("cofferdam: ready on http://");
        let address = address.unwrap_or_else(|| panic!("{line:?} {}", self.complaint()));
        address.parse().unwrap()
    }

    fn complaint(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn signal(&self, signal: Signal) {
        // A child of ours that was not waited for: the number is its own.
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn code(&mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A data directory with a template `base`, so that none has to be made.
fn data_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("images")).unwrap();
    let draft = store.begin().unwrap();
    fs::create_dir(draft.rootfs()).unwrap();
    let content = NewTemplate {
        aliases: vec!["base".to_owned()],
        resources: Resources { vcpus: 1, memory_mib: 64, disk_mib: 64 },
        user: "root".to_owned(),
        workdir: None,
        envd_version: "0.6.4".to_owned(),
        packages: Vec::new(),
    };
    store.publish(draft, content).unwrap();
    dir
}

fn api_key(data: &Path) -> String {
    let text = fs::read_to_string(data.join("credentials.env")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("E2B_API_KEY=")).unwrap().to_owned()
}

fn leaks(data: &Path) -> (i32, serde_json::Value) {
    #[expect(clippy::disallowed_methods, reason = "a test runs the binary from outside")]
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    let told = command.args(["leaks", "--json", "--data-dir"]).arg(data).env_clear().output();
    let told = told.unwrap();
    (told.status.code().unwrap(), serde_json::from_slice(&told.stdout).unwrap())
}

/// A host has room for a few services only, and other tests run some too.
static TURN: Mutex<()> = Mutex::new(());

/// The right to run services; `None` where none can run.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn turn() -> Option<MutexGuard<'static, ()>> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped, because the service needs root");
        return None;
    }
    Some(TURN.lock())
}

#[test]
fn it_serves_until_a_signal_and_leaves_nothing() {
    let Some(_turn) = turn() else { return };
    for signal in [Signal::TERM, Signal::INT] {
        let data = data_dir();
        let mut service = start(data.path(), "127.0.0.1:0");
        let address = service.ready();
        TcpStream::connect(address).unwrap();
        let (code, report) = leaks(data.path());
        assert_eq!((code, &report["daemon_running"]), (0, &true.into()));
        service.signal(signal);
        assert_eq!(service.line(), "cofferdam: stopping\n");
        let last = service.line();
        let counts = " s (stopped), 0 sandboxes ended, 0 failed, 0 objects left, 0 events and 0 log \
                      lines lost, exit code 0\n";
        assert!(last.starts_with("cofferdam: stopped in ") && last.ends_with(counts), "{last:?}");
        assert_eq!(service.line(), "", "and no more");
        assert_eq!(service.code(), 0, "{}", service.complaint());
        let (code, report) = leaks(data.path());
        assert_eq!((code, &report["daemon_running"]), (0, &false.into()));
        assert_eq!(report["leaked"], serde_json::json!([]));
        TcpStream::connect(address).unwrap_err();
    }
}

#[test]
fn it_stops_with_its_terminal_unless_it_was_told_to_ignore_that() {
    let Some(_turn) = turn() else { return };
    // Whatever this test was started with.
    let plain = ["/usr/bin/env", "--default-signal=HUP"];
    let ignoring = ["/usr/bin/env", "--ignore-signal=HUP"];
    for (starter, ends_it) in [(plain, Signal::HUP), (ignoring, Signal::TERM)] {
        let data = data_dir();
        #[expect(clippy::disallowed_methods, reason = "a test runs the binary from outside")]
        let mut command = std::process::Command::new(starter[0]);
        command.args([starter[1], BINARY]);
        let mut service = start_by(command, data.path(), "127.0.0.1:0", "error");
        service.ready();
        let status = fs::read_to_string(format!("/proc/{}/status", service.child.id())).unwrap();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
        let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
        assert_eq!(ignored & 1 != 0, ends_it != Signal::HUP, "{status}");
        service.signal(ends_it);
        assert_eq!(service.code(), 0);
    }
}

#[test]
fn nobody_reading_what_it_says_changes_nothing_about_how_it_stops() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut service = start_logging(data.path(), "127.0.0.1:0", "debug");
    let address = service.ready();
    service.stop_listening();
    // A connection is told to the log, which nobody reads either.
    TcpStream::connect(address).unwrap();
    TcpStream::connect(address).unwrap();
    service.signal(Signal::TERM);
    assert_eq!(service.code(), 0);
    let (code, report) = leaks(data.path());
    assert_eq!((code, &report["leaked"]), (0, &serde_json::json!([])));
}

#[test]
fn log_lines_that_cannot_be_written_are_counted_in_the_last_line() {
    let Some(_turn) = turn() else { return };
    for (log, loses) in [("error", false), ("debug", true)] {
        let data = data_dir();
        let mut command = up(data.path(), "127.0.0.1:0", log);
        // A disk that is full.
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let mut child = command.stderr(full).spawn().unwrap();
        let lines = child.stdout.take().map(BufReader::new);
        let mut service = Service { child, lines };
        service.ready();
        service.signal(Signal::TERM);
        assert_eq!(service.line(), "cofferdam: stopping\n");
        let last = service.line();
        let lost = last.split(", ").find_map(|part| part.strip_prefix("0 events and ")).unwrap();
        let lost: u64 = lost.strip_suffix(" log lines lost").unwrap().parse().unwrap();
        assert_eq!(lost > 0, loses, "{last:?}");
        assert_eq!(service.code(), 0);
    }
}

#[test]
fn its_files_are_the_owners_alone_even_if_the_directory_was_open() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(data.path(), open).unwrap();
    let mut service = start(data.path(), "127.0.0.1:0");
    service.ready();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(data.path()), 0o700);
    for name in ["credentials.env", "control-plane.sqlite", "control-plane.sqlite-wal"] {
        assert_eq!(mode(&data.path().join(name)), 0o600, "{name}");
    }
    service.signal(Signal::TERM);
    assert_eq!(service.code(), 0);
}

#[test]
fn clients_may_finish_and_a_second_signal_does_not_wait_for_them() {
    let Some(_turn) = turn() else { return };
    for hurry in [false, true] {
        let data = data_dir();
        let mut service = start(data.path(), "127.0.0.1:0");
        let address = service.ready();
        let mut client = TcpStream::connect(address).unwrap();
        let key = api_key(data.path());
        let head = format!(
            "POST /sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nContent-Length: 2\r\n\
             Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n"
        );
        client.write_all(head.as_bytes()).unwrap();
        // The answer to `Expect`: somebody waits for the body, so the request is under way.
        let mut go_on = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
        client.read_exact(&mut go_on).unwrap();
        assert!(go_on.starts_with(b"HTTP/1.1 100"));
        service.signal(Signal::TERM);
        // It does not accept any more, so the signal has been seen.
        while TcpStream::connect(address).is_ok() {}
        if hurry {
            service.signal(Signal::TERM);
        } else {
            client.write_all(b"{}").unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 400"), "{answer:?}");
        }
        assert_eq!(service.code(), 0);
    }
}

#[test]
fn a_second_service_on_one_data_directory_is_refused_and_changes_nothing() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let mut first = start(data.path(), "127.0.0.1:0");
    let address = first.ready();
    let credentials = data.path().join("credentials.env");
    let before = fs::read_to_string(&credentials).unwrap();
    assert!(before.contains(&format!("E2B_API_URL=http://{address}\n")), "{address}");

    let mut second = start(data.path(), "127.0.0.1:0");
    assert_eq!(second.line(), "");
    assert_eq!(second.code(), 4);
    let complaint = second.complaint();
    assert!(complaint.contains("is in use by another cofferdam"), "{complaint}");
    assert_eq!(fs::read_to_string(&credentials).unwrap(), before);

    first.signal(Signal::TERM);
    assert_eq!(first.code(), 0);
}

#[test]
fn another_address_is_written_down_and_the_secrets_stay() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let credentials = data.path().join("credentials.env");
    let mut texts = Vec::new();
    for _ in 0..2 {
        let mut service = start(data.path(), "127.0.0.1:0");
        let address = service.ready();
        let text = fs::read_to_string(&credentials).unwrap();
        let port = address.port();
        texts.push(text.replace(&format!(":{port}"), ":PORT"));
        assert_ne!(texts.last(), Some(&text), "the port is in it");
        service.signal(Signal::TERM);
        assert_eq!(service.code(), 0);
    }
    assert_eq!(texts.first(), texts.last());
}

#[test]
fn a_port_that_is_taken_is_found_out_before_anything_is_done() {
    let Some(_turn) = turn() else { return };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut service = start(&data, &taken.local_addr().unwrap().to_string());
    assert_eq!(service.line(), "");
    assert_eq!(service.code(), 1);
    let complaint = service.complaint();
    assert!(complaint.contains("`--listen ADDR:PORT` chooses another"), "{complaint}");
    assert!(!data.exists());
}

#[test]
fn credentials_that_are_not_understood_stop_the_start_and_stay() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let credentials = data.path().join("credentials.env");
    fs::write(&credentials, "E2B_API_KEY=mine\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&credentials, mode).unwrap();
    let mut service = start(data.path(), "127.0.0.1:0");
    assert_eq!(service.code(), 1);
    let complaint = service.complaint();
    assert!(complaint.contains("E2B_API_KEY is not `e2b_` and 40"), "{complaint}");
    assert!(!complaint.contains("mine"), "{complaint}");
    assert_eq!(fs::read_to_string(&credentials).unwrap(), "E2B_API_KEY=mine\n");
    assert!(!data.path().join("node").exists(), "nothing was claimed");
}
