//! A service of a test's own, with real sandboxes, and what is asked of it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use images::{NewTemplate, Store};
use model::Resources;
use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_cofferdam");

/// A host has room for a few services only, and other tests run some too.
static TURN: Mutex<()> = Mutex::new(());

/// The right to run services; `None` where none can run sandboxes.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
pub(crate) fn turn() -> Option<MutexGuard<'static, ()>> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped, because the service needs root");
        return None;
    }
    if !testkit::has_busybox() {
        println!("skipped, because there is no busybox to make a template of");
        return None;
    }
    Some(TURN.lock())
}

#[expect(clippy::disallowed_methods, reason = "a test runs programs from outside")]
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null());
    command
}

/// A data directory with the template `busybox`, and an empty one called `base` so that none has
/// to be made.
pub(crate) fn data_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    furnish(dir.path());
    dir
}

/// Makes one of `data`.
pub(crate) fn furnish(data: &Path) {
    let store = Store::open(&data.join("images")).unwrap();
    testkit::busybox(&store);
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
}

/// A running service; killed if the test fails before it stopped it.
pub(crate) struct Service {
    child: Child,
    out: BufReader<Box<dyn Read>>,
    err: BufReader<ChildStderr>,
    /// What it is asked by; a test may have another data directory name the credentials.
    pub(crate) client: Client,
}

/// Who asks a service, whoever started it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) data: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Deref for Service {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Service {
    /// Starts one as a service manager would, and waits until it serves.
    pub(crate) fn start(data: &Path, args: &[&str]) -> Self {
        Self::start_with(data, args, &[])
    }

    pub(crate) fn start_with(data: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut service = Self::spawn(data, args, env);
        service.wait_ready();
        service
    }

    fn wait_ready(&mut self) {
        let line = self.line();
        let address = line.trim_end().strip_prefix("cofferdam: ready on http://");
        let address = address.unwrap_or_else(|| panic!("{line:?} {}", self.complaint()));
        self.client.address = address.parse().unwrap();
    }

    /// Waits until it serves, or ends.
    pub(crate) fn serves(&mut self) -> bool {
        let line = self.line();
        let address = line.trim_end().strip_prefix("cofferdam: ready on http://");
        if let Some(address) = address {
            self.client.address = address.parse().unwrap();
        }
        address.is_some()
    }

    /// The same, without waiting.
    pub(crate) fn spawn(data: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        // As systemd does for all it starts.
        let managed = ("INVOCATION_ID", "0123456789abcdef");
        Self::piped(data, args, &[&[managed], env].concat())
    }

    fn piped(data: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::launch(Self::command(data, args), data, env)
    }

    fn launch(mut command: Command, data: &Path, env: &[(&str, &str)]) -> Self {
        let mut child = command
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        Self::of(child, Box::new(out), data)
    }

    /// Starts one as a script does, without waiting.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn spawn_alone(data: &Path, env: &[(&str, &str)]) -> Self {
        Self::piped(data, &[], env)
    }

    /// Starts one as a person does, and waits until it serves.
    pub(crate) fn start_on_a_terminal(data: &Path, args: &[&str]) -> Self {
        let (screen, keyboard) = terminal();
        let child = Self::command(data, args)
            .stdin(keyboard.try_clone().unwrap())
            .stdout(keyboard)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut service = Self::of(child, Box::new(screen), data);
        service.wait_ready();
        service
    }

    fn command(data: &Path, args: &[&str]) -> Command {
        let mut command = command(BINARY);
        command
            .args(["up", "--listen", "127.0.0.1:0", "--log", "error", "--warm-slots", "1"])
            .arg("--data-dir")
            .arg(data)
            .args(args);
        if !args.contains(&"--envd") {
            command.arg("--envd").arg(testkit::agent());
        }
        // Most tests have no client whose answer would be waited for.
        if !args.contains(&"--timeouts-clients") {
            command.args(["--timeouts-clients", "0s"]);
        }
        command
    }

    fn of(mut child: Child, out: Box<dyn Read>, data: &Path) -> Self {
        let err = BufReader::new(child.stderr.take().unwrap());
        let address = ([127, 0, 0, 1], 0).into();
        let client = Client { data: data.to_path_buf(), address };
        Self { child, out: BufReader::new(out), err, client }
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    /// Reads standard error up to a line with `part`.
    pub(crate) fn complains(&mut self, part: &str) {
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            assert_ne!(self.err.read_line(&mut line).unwrap(), 0, "it never said {part:?}");
        }
    }

    pub(crate) fn complaint(&mut self) -> String {
        let mut text = String::new();
        self.err.read_to_string(&mut text).unwrap();
        text
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // A child of ours that was not waited for: the number is its own.
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The exit code, and the rest of what it said.
    pub(crate) fn end(&mut self) -> (i32, String) {
        let rest = read_all(&mut self.out);
        (self.child.wait().unwrap().code().unwrap(), rest)
    }

    /// Stops it; nothing may be left for it to wait for.
    pub(crate) fn finish(mut self) {
        self.signal(Signal::TERM);
        let (code, said) = self.end();
        assert_eq!(code, 0, "{said} {}", self.complaint());
    }

    /// Waits until it has killed itself at `point`.
    pub(crate) fn killed(&mut self, point: &str) {
        if !looks(|| self.child.try_wait().unwrap().is_some()) {
            panic!("{point} was not reached");
        }
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "{point}: {status:?}: {}", self.complaint());
    }

    /// Kills it, as `kill -9` does.
    pub(crate) fn crash(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
    }
}

impl Client {
    pub(crate) fn credential(&self, name: &str) -> String {
        let text = fs::read_to_string(self.data.join("credentials.env")).unwrap();
        let prefix = format!("{name}=");
        text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().to_owned()
    }

    /// The one node's id.
    pub(crate) fn node_id(&self) -> String {
        let (status, body) = self.admin("GET", "/nodes");
        assert_eq!(status, 200, "{body}");
        let nodes: Vec<Value> = serde_json::from_str(&body).unwrap();
        nodes[0]["id"].as_str().unwrap().to_owned()
    }

    /// One request of a user to a service that may not live to answer it.
    pub(crate) fn try_api(
        &self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> io::Result<(u16, String)> {
        let key = self.credential("E2B_API_KEY");
        self.try_call(method, path, &[("X-API-Key", &key)], &body.to_string())
    }

    /// The same of an operator.
    pub(crate) fn try_admin(
        &self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> io::Result<(u16, String)> {
        let token = self.credential("COFFERDAM_ADMIN_TOKEN");
        self.try_call(method, path, &[("X-Admin-Token", &token)], &body.to_string())
    }

    /// One request of a user.
    pub(crate) fn api(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let key = self.credential("E2B_API_KEY");
        self.call(method, path, &[("X-API-Key", &key)], &body.to_string())
    }

    /// One request of an operator.
    pub(crate) fn admin(&self, method: &str, path: &str) -> (u16, String) {
        let token = self.credential("COFFERDAM_ADMIN_TOKEN");
        self.call(method, path, &[("X-Admin-Token", &token)], "")
    }

    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, String) {
        self.try_call(method, path, headers, body).unwrap()
    }

    /// The same, of a service that may not be there.
    pub(crate) fn try_call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> io::Result<(u16, String)> {
        self.try_call_within(None, method, path, headers, body)
    }

    /// The same, of a client that waits for an answer so long and no longer.
    pub(crate) fn try_call_within(
        &self,
        limit: Option<Duration>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> io::Result<(u16, String)> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.set_read_timeout(limit)?;
        let named = headers.iter().any(|(name, _)| *name == "Host");
        let host = if named { "" } else { "Host: localhost\r\n" };
        let headers: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        socket.write_all(request.as_bytes())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let status = answer.split(' ').nth(1).ok_or_else(cut)?.parse().map_err(io::Error::other)?;
        Ok((status, answer.split_once("\r\n\r\n").ok_or_else(cut)?.1.to_owned()))
    }

    /// A running sandbox.
    pub(crate) fn create(&self) -> String {
        let (status, body) = self.try_create();
        assert_eq!(status, 201, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        body["sandboxID"].as_str().unwrap().to_owned()
    }

    pub(crate) fn try_create(&self) -> (u16, String) {
        self.api("POST", "/sandboxes", &json!({ "templateID": "busybox", "timeout": 3600 }))
    }

    pub(crate) fn kill(&self, id: &str) {
        let (status, body) = self.api("DELETE", &format!("/sandboxes/{id}"), &Value::Null);
        assert_eq!(status, 204, "{body}");
    }

    /// Whether requests reach the agent inside the sandbox.
    pub(crate) fn reaches(&self, id: &str) -> bool {
        let port = guest_wire::ENVD_PORT.to_string();
        let headers = [("E2b-Sandbox-Id", id), ("E2b-Sandbox-Port", &*port)];
        self.call("GET", "/health", &headers, "").0 == 204
    }

    /// A command that is run as this service's operator.
    pub(crate) fn operator(&self, args: &[&str]) -> Command {
        self.command_of("node", args)
    }

    /// The same about sandboxes.
    pub(crate) fn about_sandboxes(&self, args: &[&str]) -> Command {
        self.command_of("sandbox", args)
    }

    fn command_of(&self, group: &str, args: &[&str]) -> Command {
        let mut command = command(BINARY);
        command.arg(group).args(args).args(["--log", "error", "--data-dir"]).arg(&self.data);
        command
    }

    /// Runs it to its end.
    pub(crate) fn node(&self, args: &[&str]) -> (i32, String) {
        let output = self.operator(args).output().unwrap();
        (output.status.code().unwrap(), said(&output))
    }

    /// The same about sandboxes: its exit code, standard output and standard error.
    pub(crate) fn sandbox(&self, args: &[&str]) -> (i32, String, String) {
        self.told(self.about_sandboxes(args))
    }

    /// The same about teams.
    pub(crate) fn team(&self, args: &[&str]) -> (i32, String, String) {
        self.told(self.command_of("team", args))
    }

    /// The same about keys.
    pub(crate) fn key(&self, args: &[&str]) -> (i32, String, String) {
        self.told(self.command_of("key", args))
    }

    fn told(&self, mut command: Command) -> (i32, String, String) {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }
}

impl Service {
    /// Makes the files of the one sandbox impossible to remove, for this service: something is
    /// mounted among them where only it sees it.
    pub(crate) fn hold_files(&self) -> PathBuf {
        let lifecycles = fs::read_dir(self.data.join("node/lifecycles")).unwrap();
        let lifecycle = lifecycles.into_iter().next().unwrap().unwrap().path();
        let held = lifecycle.join("held");
        fs::create_dir(&held).unwrap();
        self.inside_view(&["mount", "-t", "tmpfs", "none"], &held);
        held
    }

    /// Undoes it.
    pub(crate) fn let_go(&self, held: &Path) {
        self.inside_view(&["umount"], held);
    }

    fn inside_view(&self, tool: &[&str], path: &Path) {
        let pid = self.child.id().to_string();
        let ran = command("/usr/bin/nsenter")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["--target", &pid, "--mount", "--"])
            .args(tool)
            .arg(path)
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", said(&ran));
    }
}

/// Set when this goes: also by a test that fails, so that no thread of it works on for good.
pub(crate) struct Ends<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Longer than anything takes that a test waits for.
const LIMIT: Duration = Duration::from_secs(120);

/// Looks again and again until `done`; whether that was in time.
#[expect(clippy::disallowed_methods, reason = "the state of another process is waited for")]
pub(crate) fn looks(mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// The sandboxes that are listed, sorted.
pub(crate) fn list(service: &Client) -> Vec<String> {
    let (status, body) = service.api("GET", "/v2/sandboxes", &Value::Null);
    assert_eq!(status, 200, "{body}");
    let list: Vec<Value> = serde_json::from_str(&body).unwrap();
    let id = |sandbox: &Value| sandbox["sandboxID"].as_str().unwrap().to_owned();
    let mut ids: Vec<String> = list.iter().map(id).collect();
    ids.sort();
    ids
}

/// A terminal: what is on its screen, and what a program has for its input and output.
pub(crate) fn terminal() -> (File, File) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let screen = openpt(flags).unwrap();
    grantpt(&screen).unwrap();
    unlockpt(&screen).unwrap();
    let name = ptsname(&screen, Vec::new()).unwrap();
    let keyboard = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (screen.into(), keyboard)
}

/// Everything up to the end; the screen of a terminal that nobody writes to any more ends with an
/// error.
pub(crate) fn read_all(out: &mut impl Read) -> String {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = out.read(&mut piece) {
        bytes.extend_from_slice(piece.get(..length).unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

/// What a program said, on both outputs.
pub(crate) fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// What `cofferdam leaks` tells of the service of `data`, and its exit code.
pub(crate) fn census(data: &Path) -> (i32, Value) {
    let told = command(BINARY).args(["leaks", "--json", "--data-dir"]).arg(data).output().unwrap();
    (told.status.code().unwrap(), serde_json::from_slice(&told.stdout).unwrap())
}

/// What of the service of `data` nobody owns.
pub(crate) fn leaked(data: &Path) -> Value {
    census(data).1["leaked"].take()
}
