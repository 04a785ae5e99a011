//! The runtime's command line: create and start, each with a time limit, and what it leaves.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use host::HostError;
use host::cgroup::Cgroup;
use host::files::remove_tree;
use host::mount::detach;
use host::process::{Process, Spawn, sealed_copy};
use lifecycle::Budget;

use super::{LOG, PID, STATE};
use crate::driver::{BootError, Stop};

/// An OCI runtime on this host.
#[derive(Debug, Clone)]
pub struct Runtime {
    kind: Kind,
    program: PathBuf,
    sealed: Option<Arc<Sealed>>,
}

/// A copy of the program that nobody can change.
#[derive(Debug)]
struct Sealed {
    image: OwnedFd,
    of: Version,
}

/// What is another when a program was replaced.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Version {
    fn of(path: &Path) -> Option<Self> {
        let told = fs::metadata(path).ok()?;
        let changed = (told.ctime(), told.ctime_nsec());
        Some(Self { device: told.dev(), inode: told.ino(), changed })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Crun,
    Runc,
}

/// The runtime that was asked for is not here.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("no OCI runtime found; install crun (or runc)")]
    None,
    #[error("{0} is not installed; install it or set runtime = \"auto\"")]
    Missing(&'static str),
    #[error("there is no program {}", .0.display())]
    NoProgram(PathBuf),
    #[error("unknown runtime {0:?}; use auto, crun or runc, or the absolute path of one of them")]
    Unknown(String),
}

/// The most open files a sandbox may raise itself to, where the host allows it.
pub(super) const OPEN_FILES: u64 = 524_288;
/// What programs start with: the kernel's own default. Some walk all of it.
const OPEN_FILES_SOFT: u64 = 1024;
/// A `core_pattern` of the host that begins with `|` is a program that the kernel runs as root of the
/// host, with the dump, its size and its name chosen by the sandbox as input, and a limit of zero
/// does not stop it. A limit of one byte does: the kernel takes it for a dump of the dumping program
/// itself (`coredump.c`: "RLIMIT_CORE == 1"). As a limit for files it is less than any dump needs.
const CORE_BYTES: u64 = 1;

/// Where crun puts the file over which it mounts itself, read-only, to run as that (CVE-2019-5736):
/// `libcrun/cloned_binary.c`, version 1.8; else it is `/tmp`. Both are gone before it does anything
/// else, unless it is killed before. One that is run from a sealed copy makes none.
const OWN_COPY_DIR: &str = "_LIBCONTAINER_STATEDIR";
const OWN_COPY: &str = "crun.";

/// The longest line of a runtime's log that is told on, in bytes.
const MAX_MESSAGE: u64 = 4096;

const SEARCH: [&str; 4] = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"];

impl Runtime {
    /// `choice` is `auto` (crun, or runc when there is no crun), `crun` or `runc`, or the absolute
    /// path of a program of one of these two names.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn find(choice: &str) -> Result<Self, RuntimeError> {
        if Path::new(choice).is_absolute() {
            return Self::at(choice);
        }
        let kinds: &[Kind] = match choice {
            "auto" => &[Kind::Crun, Kind::Runc],
            "crun" => &[Kind::Crun],
            "runc" => &[Kind::Runc],
            other => return Err(RuntimeError::Unknown(other.to_owned())),
        };
        for &kind in kinds {
            let found = SEARCH.iter().map(|dir| Path::new(dir).join(kind.name()));
            if let Some(program) = found.into_iter().find(|path| path.exists()) {
                return Ok(Self::new(kind, program));
            }
        }
        Err(match kinds {
            [kind] => RuntimeError::Missing(kind.name()),
            _ => RuntimeError::None,
        })
    }

    fn at(choice: &str) -> Result<Self, RuntimeError> {
        let program = PathBuf::from(choice);
        let is_called = |kind: &Kind| program.file_name().is_some_and(|name| name == kind.name());
        let Some(kind) = [Kind::Crun, Kind::Runc].into_iter().find(is_called) else {
            return Err(RuntimeError::Unknown(choice.to_owned()));
        };
        if program.is_file() {
            Ok(Self::new(kind, program))
        } else {
            Err(RuntimeError::NoProgram(program))
        }
    }

    fn new(kind: Kind, program: PathBuf) -> Self {
        let sealed = match kind {
            Kind::Crun => {
                let of = Version::of(&program);
                let image = sealed_copy(&program).inspect_err(|error| {
                    tracing::debug!(%error, cause = %error.source, "crun is run as it is");
                });
                of.zip(image.ok()).map(|(of, image)| Arc::new(Sealed { image, of }))
            }
            // It makes a copy of its own in any case, of another form in each version.
            Kind::Runc => None,
        };
        Self { kind, program, sealed }
    }

    /// What is run in place of the file, unless that was replaced: by one that is meant, and whose
    /// libraries are there.
    fn image(&self) -> Option<BorrowedFd<'_>> {
        let sealed = self.sealed.as_ref()?;
        (Version::of(&self.program).as_ref() == Some(&sealed.of)).then(|| sealed.image.as_fd())
    }

    #[must_use]
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// Where the program is.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Whether it stays in the cgroup it is started in and touches none.
    pub(super) fn leaves_cgroups_alone(&self) -> bool {
        self.kind == Kind::Crun
    }

    /// Whether it mounts what it is told over a file in `/proc`. runc refuses all but a few that it
    /// knows.
    pub(super) fn mounts_in_proc(&self) -> bool {
        self.kind == Kind::Crun
    }

    /// The calls for one lifecycle.
    pub(super) fn on<'a>(&'a self, id: &'a str, dir: &'a Path) -> Call<'a> {
        Call { runtime: self, id, dir }
    }
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Crun => "crun",
            Self::Runc => "runc",
        }
    }
}

/// The last lines of the runtime's log in `dir`, the first of them perhaps cut; none when there is no
/// log.
pub(super) fn last_lines(dir: &Path) -> Vec<String> {
    let read = || {
        let mut log = fs::File::open(dir.join(LOG)).ok()?;
        let before = log.metadata().ok()?.len().saturating_sub(MAX_MESSAGE);
        log.seek(SeekFrom::Start(before)).ok()?;
        let mut end = Vec::new();
        log.take(MAX_MESSAGE).read_to_end(&mut end).ok()?;
        Some(end)
    };
    let end = read().unwrap_or_default();
    String::from_utf8_lossy(&end).lines().map(str::to_owned).collect()
}

pub(super) struct Call<'a> {
    runtime: &'a Runtime,
    id: &'a str,
    dir: &'a Path,
}

impl Call<'_> {
    fn command(&self) -> Spawn<'_> {
        let path = |name| self.dir.join(name).into_os_string();
        let spawn = Spawn::new(&self.runtime.program)
            .image(self.runtime.image())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["--root".into(), path(STATE), "--log".into(), path(LOG)])
            .args(["--log-format", "json"]);
        match self.runtime.kind {
            // Limits are written by us, before anything runs under them.
            Kind::Crun => spawn.args(["--cgroup-manager=disabled"]).env(OWN_COPY_DIR, self.dir),
            Kind::Runc => spawn,
        }
    }

    /// Puts the runtime itself under the sandbox's limits and into its kill.
    fn confined<'a>(&self, spawn: Spawn<'a>, cgroup: &'a Cgroup) -> Spawn<'a> {
        let spawn = spawn.join(cgroup.tasks());
        match (self.runtime.kind, cgroup.dir()) {
            // runc joins by path, and refuses a v2 group that it already is in.
            (Kind::Crun, Some(dir)) => spawn.in_cgroup(dir),
            (Kind::Runc, _) | (Kind::Crun, None) => spawn,
        }
    }

    /// Makes the container, its first process waiting to be started. `agent` becomes descriptor 3.
    ///
    /// Limits by process are inherited, not written in the bundle: from outside runc could only set
    /// them with CAP_SYS_RESOURCE, for the namespace is not its own.
    pub(super) async fn create(
        &self,
        cgroup: &Cgroup,
        agent: BorrowedFd<'_>,
        open_files: u64,
        stop: &Stop,
    ) -> Result<(), BootError> {
        let spawn = self
            .command()
            .args(["create", "--preserve-fds", "1", "--bundle"])
            .args([self.dir])
            .args(["--pid-file".as_ref(), self.dir.join(PID).as_os_str()])
            .args([self.id])
            .inherit(agent)
            .open_files(OPEN_FILES_SOFT.min(open_files), open_files)
            .core_dumps(CORE_BYTES);
        self.finish("create", &self.confined(spawn, cgroup), stop).await
    }

    pub(super) async fn start(&self, cgroup: &Cgroup, stop: &Stop) -> Result<(), BootError> {
        let spawn = self.command().args(["start", self.id]);
        self.finish("start", &self.confined(spawn, cgroup), stop).await
    }

    /// The container's first process, proven to be the one in our cgroup.
    pub(super) fn first_process(&self, cgroup: &Cgroup) -> Result<Process, BootError> {
        let astray = |what: &str| BootError::Astray(format!("{} {what}", self.runtime.name()));
        let text = fs::read_to_string(self.dir.join(PID));
        let text = text.map_err(|_unreadable| astray("has written no pid file"))?;
        let pid =
            text.trim().parse().map_err(|_none| astray("has written no number as its pid"))?;
        let process = Process::open(pid)?;
        // Opened first, asked then: a number that was reused in between is not in our cgroup.
        if cgroup.contains(pid) {
            Ok(process)
        } else {
            Err(BootError::Astray(format!("process {pid} is not in cgroup {}", cgroup.id())))
        }
    }

    async fn finish(
        &self,
        call: &'static str,
        spawn: &Spawn<'_>,
        stop: &Stop,
    ) -> Result<(), BootError> {
        let process = spawn.start()?;
        let status = match stop.race(call, process.exited()).await {
            Ok(status) => status?,
            Err(source) => {
                // It is ours to end and to reap, whatever it was in the middle of.
                process.kill_and_reap().await?;
                return Err(BootError::Stopped { call, source });
            }
        };
        match status {
            Some(status) if status.success() => Ok(()),
            status => {
                let ended = status.map_or_else(|| "ended".to_owned(), |s| s.to_string());
                let message = self.last_message().unwrap_or(ended);
                Err(BootError::Refused { runtime: self.runtime.name(), call, message })
            }
        }
    }

    /// The last thing the runtime wrote to its log, unless it is too long to be a message.
    fn last_message(&self) -> Option<String> {
        let lines = last_lines(self.dir);
        let line: serde_json::Value = serde_json::from_str(lines.last()?).ok()?;
        Some(line.get("msg")?.as_str()?.to_owned())
    }
}

/// Removes what the runtime has noted of the machine in `dir`, which must be dead, and what it has
/// mounted there. Gone is fine.
///
/// It is not asked to: all that is left to it then is to remove its directory, which is its own by
/// `--root`. So a runtime that hangs, fails or is not there any more keeps no sandbox from going.
///
/// # Errors
/// As [`remove_tree`]; the kernel refuses to unmount.
pub(super) fn forget(dir: &Path, budget: Budget) -> Result<(), HostError> {
    let copies = fs::read_dir(dir).into_iter().flatten().flatten().filter(is_own_copy);
    let detached = copies.map(|copy| detach(&copy.path())).fold(Ok(()), Result::and);
    remove_tree(&dir.join(STATE), budget).and(detached)
}

fn is_own_copy(entry: &fs::DirEntry) -> bool {
    entry.file_name().as_bytes().starts_with(OWN_COPY.as_bytes())
}
