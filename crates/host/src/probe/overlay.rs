//! The root of a sandbox, really made: an overlay over a base whose owners are shifted.
#![expect(unsafe_code, reason = "unshare is unsafe in rustix")]

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifecycle::Budget;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::{CONTAINER, Finding, Level, tools};
use crate::HostError;
use crate::error::Tried;
use crate::files::remove_tree;
use crate::identity::UIDS_PER_SLOT;
use crate::mount::{RootMount, RootPaths};
use crate::process::{Process, Spawn};

/// In front of the directory a try uses; the number of the process follows.
const PREFIX: &str = ".cofferdam-probe-";

/// Outside the ranges of every node.
const UID_BASE: u32 = 100_000;

/// For removing what a try made: three files.
const SWEEP_LIMIT: Duration = Duration::from_secs(5);

const STEP_LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn probe(data_dir: &Path) -> Vec<Finding> {
    let known = fs::read_to_string("/proc/filesystems")
        .is_ok_and(|text| text.lines().any(|line| line.trim_start_matches("nodev\t") == "overlay"));
    let overlay = if known {
        Finding::ok("overlay", CONTAINER, "in this kernel".to_owned())
    } else {
        let detail = "not loaded, or not in this kernel";
        Finding::lack("overlay", CONTAINER, Level::Missing, detail, "modprobe overlay")
    };
    let parent = existing(data_dir);
    let shown = parent.display().to_string();
    let tried = match holder().await {
        Ok(holder) => {
            let userns = holder.userns();
            let tried = match userns {
                Ok(userns) => in_throw_away_view(parent, userns).await,
                Err(error) => Err(error),
            };
            holder.end().await.and(tried)
        }
        Err(error) => Err(error),
    };
    let idmapped = match tried {
        Ok(()) => Finding::ok("idmapped overlay", CONTAINER, format!("tried in {shown}")),
        // Says nothing of the kernel, and does not last.
        Err(error) if error.is_disk_full() => Finding::lack(
            "idmapped overlay",
            CONTAINER,
            Level::Degraded,
            format!("not tried, because {shown} is full"),
            "free space, or set another data_dir",
        ),
        Err(error) => Finding::lack(
            "idmapped overlay",
            CONTAINER,
            Level::Missing,
            format!("fails in {shown}: {error}: {}", error.source),
            "set data_dir to a directory on ext4, xfs or btrfs, on a kernel from 5.19 on",
        ),
    };
    vec![overlay, idmapped]
}

/// `dir`, or the nearest directory above it that exists.
pub(super) fn existing(dir: &Path) -> PathBuf {
    dir.ancestors().find(|dir| dir.is_dir()).map_or_else(|| PathBuf::from("/"), Path::to_path_buf)
}

/// A process in a user namespace of its own. It ends by itself when we do.
struct Holder {
    process: Process,
    /// Its standard input: it lives until this is closed.
    alive: OwnedFd,
}

async fn holder() -> Result<Holder, HostError> {
    let unshare = tools::find("unshare")
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        .tried("find", "unshare (apt-get install util-linux)")?;
    let (input, alive) = pipe_with(PipeFlags::CLOEXEC).tried("make", "a pipe")?;
    let (ready, output) = pipe_with(PipeFlags::CLOEXEC).tried("make", "a pipe")?;
    let process = Spawn::new(unshare)
        .args(["--user", "--", "/bin/sh", "-c", "echo ready; read -r line"])
        .input(input.as_fd())
        .output(output.as_fd())
        .start()?;
    drop((input, output));
    let said = tokio::task::spawn_blocking(move || said_ready(ready)).await;
    let holder = Holder { process, alive };
    match said.map_err(io::Error::from).and_then(|said| said) {
        Ok(()) => Ok(holder),
        Err(error) => {
            holder.end().await?;
            Err(error).tried("make", "a user namespace")
        }
    }
}

fn said_ready(ready: OwnedFd) -> io::Result<()> {
    let limit = Timespec::try_from(STEP_LIMIT).map_err(io::Error::other)?;
    if poll(&mut [PollFd::new(&ready, PollFlags::IN)], Some(&limit))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut byte = [0];
    match fs::File::from(ready).read(&mut byte)? {
        1 if byte == *b"r" => Ok(()),
        // Its complaint, or its silent end: the kernel refused.
        _ => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

impl Holder {
    fn userns(&self) -> Result<OwnedFd, HostError> {
        let pid = self.process.identity().pid;
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{file}"), format!("0 {UID_BASE} {UIDS_PER_SLOT}"))
                .tried("map user ids of", "a user namespace")?;
        }
        let namespace = fs::File::open(format!("/proc/{pid}/ns/user"));
        Ok(namespace.tried("open", "a user namespace")?.into())
    }

    async fn end(self) -> Result<(), HostError> {
        drop(self.alive);
        self.process.signal(rustix::process::Signal::KILL)?;
        self.process.exited().await?;
        Ok(())
    }
}

/// Does the mounts in a thread with a mount namespace of its own: when the thread is over the
/// kernel takes the namespace and all that is mounted in it away.
async fn in_throw_away_view(parent: PathBuf, userns: OwnedFd) -> Result<(), HostError> {
    let runtime = tokio::runtime::Handle::current();
    let (answer, answered) = tokio::sync::oneshot::channel();
    // Not a pool's thread: this one must not do anything else afterwards.
    let thread = std::thread::Builder::new().name("probe-view".to_owned()).spawn(move || {
        let tried = private_mounts().and_then(|()| {
            sweep(&parent);
            let dir = parent.join(format!("{PREFIX}{}", std::process::id()));
            let tried = make_root(&dir, &userns, &runtime);
            remove_tree(&dir, Budget::within(SWEEP_LIMIT)).and(tried)
        });
        // Nobody waits any more: then nobody wants to know.
        drop(answer.send(tried));
    });
    drop(thread.tried("start", "a thread")?);
    answered.await.map_err(io::Error::other).tried("wait for", "the probe's thread")?
}

fn private_mounts() -> Result<(), HostError> {
    // SAFETY: only this thread's file system context changes; no descriptor does.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.tried("make", "a private mount namespace")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).tried("cut mount propagation of", "/")
}

fn make_root(
    dir: &Path,
    userns: &OwnedFd,
    runtime: &tokio::runtime::Handle,
) -> Result<(), HostError> {
    let base = dir.join("base");
    DirBuilder::new().mode(0o700).create(dir).tried("make", dir.to_string_lossy())?;
    DirBuilder::new().mode(0o755).create(&base).tried("make", base.to_string_lossy())?;
    fs::write(base.join("file"), "of the base").tried("write", base.to_string_lossy())?;
    let paths = RootPaths::new(dir, dir, "probe");
    let root = RootMount::create(&[base], paths.clone(), userns.as_fd(), UID_BASE)?;
    let used = use_root(&paths);
    match runtime.block_on(root.close(Budget::within(STEP_LIMIT))) {
        Ok(_closed) => used,
        // The thread's end unmounts it.
        Err((left, error)) => {
            drop(left);
            Err(error)
        }
    }
}

/// The shift must show, and a change must go to the writable layer.
fn use_root(paths: &RootPaths) -> Result<(), HostError> {
    let file = paths.root.join("file");
    let shown = file.to_string_lossy();
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&file).tried("read", &shown)?);
    if owner != UID_BASE {
        let what = format!("its owner is {owner} and not {UID_BASE}");
        return Err(io::Error::other(what)).tried("shift owners of", &shown);
    }
    fs::write(&file, "changed").tried("change", &shown)?;
    let copy = paths.upper.join("file");
    let copied = fs::read_to_string(&copy).tried("read", copy.to_string_lossy())?;
    if copied != "changed" {
        return Err(io::Error::other("the copy is another")).tried("change", &shown);
    }
    Ok(())
}

/// Removes what a probe left that was killed halfway.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let Some(Ok(pid)) = number.map(str::parse::<i32>) else { continue };
        if !fs::exists(format!("/proc/{pid}")).unwrap_or(true)
            && let Err(error) = remove_tree(&entry.path(), Budget::within(SWEEP_LIMIT))
        {
            tracing::debug!(%error, "left by an earlier probe and not removed");
        }
    }
}
