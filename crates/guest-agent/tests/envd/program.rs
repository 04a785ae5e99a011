//! One running `envd` with a scratch directory, ended when dropped.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Nothing takes this long, not even on a machine that has much else to do.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Envd {
    child: Child,
    pub(crate) addr: SocketAddr,
    scratch: TempDir,
}

impl Envd {
    pub(crate) fn start() -> Self {
        Self::start_with(&[], &[])
    }

    pub(crate) fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_by(&[], arguments, variables)
    }

    /// Through another program, which executes the rest of its arguments.
    pub(crate) fn start_by(
        wrapper: &[&str],
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let scratch = TempDir::new().unwrap();
        let line = wrapper.iter().copied().chain([env!("CARGO_BIN_EXE_envd")]);
        let line: Vec<&str> = line.collect();
        let mut command = command(line[0]);
        command
            .args(&line[1..])
            .args(["--listen", "127.0.0.1:0", "--run-dir"])
            .arg(scratch.path().join("run"))
            .args(arguments)
            // Never in the groups of the machine the test runs on.
            .args((!arguments.contains(&"--cgroup-root")).then_some("--no-cgroups"))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        said.read_line(&mut first).unwrap();
        let addr = first.trim().strip_prefix("envd: listening on ").unwrap().parse().unwrap();
        Self { child, addr, scratch }
    }

    /// A path below the scratch directory.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.scratch.path().join(relative)
    }

    pub(crate) fn text_path(&self, relative: &str) -> String {
        self.path(relative).to_str().unwrap().to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn resident_kib(&self) -> u64 {
        let line = self.proc_line("status", "VmRSS:");
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits until the agent writes no more: whatever it could send is sent.
    pub(crate) async fn stands_still(&self) {
        let mut last = String::new();
        let mut still_since = Instant::now();
        while still_since.elapsed() < Duration::from_millis(200) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let written = self.proc_line("io", "wchar: ");
            if written != last {
                (last, still_since) = (written, Instant::now());
            }
        }
    }

    /// How many sockets the agent has open.
    pub(crate) fn sockets(&self) -> usize {
        let all = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().flatten();
        let links = all.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        links.filter(|link| link.to_str().is_some_and(|link| link.starts_with("socket:"))).count()
    }

    /// How many descriptors the agent has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// What follows `name` in one of the agent's files in `/proc`.
    fn proc_line(&self, file: &str, name: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.pid())).unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Envd {
    /// Ends the agent and all it started; outside of a sandbox nobody else does.
    fn drop(&mut self) {
        let below = descendants(self.child.id());
        drop(self.child.kill());
        drop(self.child.wait());
        for pid in below {
            let _gone_already = kill_process(pid, Signal::KILL);
        }
    }
}

fn descendants(of: u32) -> Vec<Pid> {
    let mut all = Vec::new();
    let threads = std::fs::read_dir(format!("/proc/{of}/task"));
    for thread in threads.into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(thread.path().join("children"));
        for child in children.unwrap_or_default().split_whitespace() {
            let child: u32 = child.parse().unwrap();
            all.extend(Pid::from_raw(i32::try_from(child).unwrap()));
            all.extend(descendants(child));
        }
    }
    all
}

pub(crate) fn command(program: &str) -> Command {
    Command::new(program)
}

/// Waits until `condition` holds, looking every few milliseconds.
pub(crate) async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "{what} did not come about in {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether the process exists and is not a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    let state = |stat: String| stat.rsplit(')').next().unwrap().trim().chars().next();
    !matches!(stat.ok().and_then(state), None | Some('Z' | 'X'))
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
