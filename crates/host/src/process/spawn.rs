use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifecycle::{Budget, Expired};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::clone::{self, ExecPlan};
use super::{ExitStatus, Process};
use crate::HostError;
use crate::error::Tried;
use crate::thread::in_own_thread;

/// A program to start. Standard input is `/dev/null`; standard output and error go where
/// [`Spawn::output`] says, to `/dev/null` when it says nothing.
#[derive(Debug)]
pub struct Spawn<'a> {
    program: PathBuf,
    image: Option<BorrowedFd<'a>>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    input: Option<BorrowedFd<'a>>,
    output: Option<BorrowedFd<'a>>,
    inherit: Vec<BorrowedFd<'a>>,
    cgroup: Option<BorrowedFd<'a>>,
    join: Vec<BorrowedFd<'a>>,
    limits: Vec<(libc::__rlimit_resource_t, libc::rlimit)>,
}

impl<'a> Spawn<'a> {
    /// `program` is a path; nothing is searched for.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            image: None,
            args: Vec::new(),
            env: Vec::new(),
            input: None,
            output: None,
            inherit: Vec::new(),
            cgroup: None,
            join: Vec::new(),
            limits: Vec::new(),
        }
    }

    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// What is run under the program's name is this, as [`sealed_copy`](super::sealed_copy) makes it,
    /// and what is at the path where there is none, or where this host runs nothing from memory.
    #[must_use]
    pub fn image(mut self, image: Option<BorrowedFd<'a>>) -> Self {
        self.image = image;
        self
    }

    /// The child's environment is exactly what is given here.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn input(mut self, fd: BorrowedFd<'a>) -> Self {
        self.input = Some(fd);
        self
    }

    #[must_use]
    pub fn output(mut self, fd: BorrowedFd<'a>) -> Self {
        self.output = Some(fd);
        self
    }

    /// The child has this descriptor too, as 3, 4, ... in the order of these calls.
    #[must_use]
    pub fn inherit(mut self, fd: BorrowedFd<'a>) -> Self {
        self.inherit.push(fd);
        self
    }

    /// The cgroup v2 directory it is born in.
    #[must_use]
    pub fn in_cgroup(mut self, dir: BorrowedFd<'a>) -> Self {
        self.cgroup = Some(dir);
        self
    }

    /// Cgroup v1 `tasks` files, open for writing, that it puts itself into before it execs.
    #[must_use]
    pub fn join(mut self, tasks: impl IntoIterator<Item = BorrowedFd<'a>>) -> Self {
        self.join.extend(tasks);
        self
    }

    /// The most open files that it, and what it starts, has at first (`soft`) and may raise itself
    /// to (`hard`).
    #[must_use]
    pub fn open_files(mut self, soft: u64, hard: u64) -> Self {
        self.limits.push((libc::RLIMIT_NOFILE, libc::rlimit { rlim_cur: soft, rlim_max: hard }));
        self
    }

    /// The largest core dump of it and of what it starts, in bytes.
    #[must_use]
    pub fn core_dumps(mut self, bytes: u64) -> Self {
        self.limits.push((libc::RLIMIT_CORE, libc::rlimit { rlim_cur: bytes, rlim_max: bytes }));
        self
    }

    /// Starts it. Blocks until it has execed, well under a millisecond.
    ///
    /// # Errors
    /// When it cannot be started; nothing is left then.
    pub fn start(&self) -> Result<Process, HostError> {
        let name = self.program.display().to_string();
        let start = |image| self.plan(image).and_then(|(plan, _kept)| clone::spawn(&plan));
        let started = match start(self.image) {
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied && self.image.is_some() =>
            {
                start(None)
            }
            started => started,
        };
        let (pidfd, pid) = started.tried("start", name)?;
        Ok(Process::from_pidfd(pidfd, pid))
    }

    fn plan(&self, image: Option<BorrowedFd<'_>>) -> io::Result<(ExecPlan<'_>, Vec<OwnedFd>)> {
        let null = open_null()?;
        let mut kept = Vec::new();
        let mut fds = Vec::new();
        let stdio = [
            self.input.unwrap_or_else(|| null.as_fd()),
            self.output.unwrap_or_else(|| null.as_fd()),
            self.output.unwrap_or_else(|| null.as_fd()),
        ];
        for (target, source) in (0..).zip(stdio.iter().chain(&self.inherit)) {
            // Far above every target, so that no dup2 overwrites a source that is still needed.
            let high = rustix::io::fcntl_dupfd_cloexec(source, FIRST_SOURCE)?;
            fds.push((high.as_raw_fd(), target));
            kept.push(high);
        }
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(io::Error::from);
        let mut argv = vec![text(self.program.as_os_str())?];
        for arg in &self.args {
            argv.push(text(arg)?);
        }
        let mut envp = Vec::new();
        for (name, value) in &self.env {
            let mut pair = name.clone();
            pair.push("=");
            pair.push(value);
            envp.push(text(&pair)?);
        }
        let program = match image {
            None => text(self.program.as_os_str())?,
            Some(image) => {
                // Opened by the child before what is not for the new program is closed.
                let high = rustix::io::fcntl_dupfd_cloexec(image, FIRST_SOURCE)?;
                let path = format!("/proc/self/fd/{}", high.as_raw_fd());
                kept.push(high);
                text(path.as_ref())?
            }
        };
        let plan = ExecPlan {
            program,
            argv,
            envp,
            join: self.join.iter().map(AsRawFd::as_raw_fd).collect(),
            fds,
            cgroup: self.cgroup,
            limits: self.limits.clone(),
        };
        Ok((plan, kept))
    }
}

const FIRST_SOURCE: RawFd = 64;

fn open_null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// What a helper program left when it ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    /// The first [`MAX_OUTPUT`] bytes of its output and error output.
    pub output: String,
}

/// How much of a helper's output is kept, in bytes.
pub const MAX_OUTPUT: u64 = 64 * 1024;

/// Why a helper did not end by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("{program} was killed")]
    Expired { program: String, source: Expired },
}

/// Runs a helper to its end and gives back what it printed. `input` is its standard input.
///
/// Cancel safety: a dropped call kills the helper, which [`super::Orphans`] reaps.
///
/// # Errors
/// When it cannot be started, or is not over within `budget`; it has been killed then, and reaped
/// unless it did not end even so.
pub async fn run(
    program: &Path,
    args: &[&str],
    input: Option<&[u8]>,
    budget: Budget,
) -> Result<Finished, RunError> {
    run_by(&Around::default(), program, args, input, budget).await
}

/// As [`run`], with exactly this environment.
///
/// # Errors
/// Those of [`run`].
pub async fn run_with(
    env: &[(OsString, OsString)],
    program: &Path,
    args: &[OsString],
    budget: Budget,
) -> Result<Finished, RunError> {
    run_by(&Around { env: Some(env), netns: None }, program, args, None, budget).await
}

/// As [`run`], with the helper in the network namespace `netns`.
pub(crate) async fn run_in_network(
    netns: BorrowedFd<'_>,
    program: &Path,
    args: &[&str],
    input: Option<&[u8]>,
    budget: Budget,
) -> Result<Finished, RunError> {
    run_by(&Around { netns: Some(netns), env: None }, program, args, input, budget).await
}

/// Where a helper runs that does not run where the daemon does.
#[derive(Debug, Default)]
struct Around<'a> {
    netns: Option<BorrowedFd<'a>>,
    /// Instead of the little that a helper needs.
    env: Option<&'a [(OsString, OsString)]>,
}

impl Around<'_> {
    fn variables(&self) -> Vec<(OsString, OsString)> {
        const USUAL: [(&str, &str); 2] = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LC_ALL", "C"),
        ];
        let usual = || USUAL.map(|(name, value)| (name.into(), value.into())).into();
        self.env.map_or_else(usual, <[_]>::to_vec)
    }
}

async fn run_by(
    around: &Around<'_>,
    program: &Path,
    args: &[impl AsRef<OsStr>],
    input: Option<&[u8]>,
    budget: Budget,
) -> Result<Finished, RunError> {
    let name = program.display().to_string();
    let memory = |what| rustix::fs::memfd_create(what, MemfdFlags::CLOEXEC);
    let output = memory("helper output").tried("make output buffer for", &name)?;
    let stdin = match input {
        Some(bytes) => {
            let fd = memory("helper input").tried("make input buffer for", &name)?;
            io::Write::write_all(
                &mut File::from(fd.try_clone().tried("write input of", &name)?),
                bytes,
            )
            .tried("write input of", &name)?;
            rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(0)).tried("write input of", &name)?;
            fd
        }
        None => open_null().tried("open", "/dev/null")?,
    };
    let mut spawn = Spawn::new(program).args(args).input(stdin.as_fd()).output(output.as_fd());
    spawn.env = around.variables();
    let process = match around.netns {
        Some(netns) => in_own_thread("netns", || {
            move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
            // What cannot be started is told as such, with its cause.
            Ok(spawn.start())
        })
        .tried("enter a network for", &name)??,
        None => spawn.start()?,
    };
    drop(spawn);
    let mut armed = KillOnDrop(Some(process));
    let status = match budget.run("helper", armed.exited()).await {
        Ok(status) => status?,
        Err(source) => {
            armed.kill_and_wait().await?;
            return Err(RunError::Expired { program: name, source });
        }
    };
    armed.0 = None;
    rustix::fs::seek(&output, rustix::fs::SeekFrom::Start(0)).tried("read output of", &name)?;
    let mut bytes = Vec::new();
    File::from(output).take(MAX_OUTPUT).read_to_end(&mut bytes).tried("read output of", &name)?;
    let status = status.unwrap_or(ExitStatus::Code(-1));
    Ok(Finished { status, output: String::from_utf8_lossy(&bytes).into_owned() })
}

/// How long a killed program is waited for. One that the kernel keeps for longer is left to
/// [`super::Orphans`].
const REAP_LIMIT: Duration = Duration::from_secs(5);

/// A helper that dies when nobody waits for it any more.
struct KillOnDrop(Option<Process>);

impl KillOnDrop {
    async fn exited(&self) -> Result<Option<ExitStatus>, HostError> {
        match &self.0 {
            Some(process) => process.exited().await,
            None => Ok(None),
        }
    }

    async fn kill_and_wait(&mut self) -> Result<(), HostError> {
        match self.0.take() {
            Some(process) => process.kill_and_reap().await,
            None => Ok(()),
        }
    }
}

impl Process {
    /// Kills a child of ours and takes its status. One that does not end within five seconds is
    /// left, killed, to [`super::Orphans`].
    ///
    /// Cancel safety: it may be killed and not reaped.
    ///
    /// # Errors
    /// When it cannot be killed or waited for.
    pub async fn kill_and_reap(self) -> Result<(), HostError> {
        self.signal(Signal::KILL)?;
        match Budget::within(REAP_LIMIT).run("reap", self.exited()).await {
            Ok(status) => status.map(drop),
            Err(expired) => {
                tracing::warn!(pid = self.identity().pid, %expired, "a killed process is still there");
                Ok(())
            }
        }
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(process) = &self.0
            && let Err(error) = process.signal(Signal::KILL)
        {
            tracing::error!(%error, "a helper could not be killed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::Spawn;

    #[tokio::test]
    async fn a_program_starts_with_the_limits_it_was_given() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let sh = Spawn::new("/bin/sh")
            .args(["-c", "ulimit -Sn; ulimit -Hn; cat /proc/self/limits"])
            .env("PATH", "/usr/bin:/bin")
            .output(writer.as_fd())
            .open_files(100, 200)
            .core_dumps(1);
        let process = sh.start().unwrap();
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        process.exited().await.unwrap();
        assert!(said.starts_with("100\n200\n"), "{said}");
        let core = said.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let fields: Vec<_> = core.split_whitespace().collect();
        assert_eq!(fields[4..6], ["1", "1"]);
    }
}
