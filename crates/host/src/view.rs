//! The daemon's own view of the file system: a private mount namespace.
//!
//! Its mounts never reach the host and vanish with it. On hosts where controllers are split
//! between cgroup v1 and v2, runtimes also have to see v2 alone: crun refuses a hybrid tree.
#![expect(unsafe_code, reason = "unshare is unsafe in rustix")]

mod home;

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount,
};
use rustix::process::{getpid, set_child_subreaper};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::HostError;
use crate::cgroup::Layout;
use crate::error::Tried;

pub use home::Home;

const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

/// A directory in memory that only this process and the runtimes it starts can see. Everybody may
/// pass through it: a runtime does so as the sandbox's root.
pub const DIR: &str = "/run/cofferdam/view";

/// Proof that this thread, and every thread it starts from now on, is in the private view.
#[derive(Debug)]
pub struct View {
    layout: Layout,
}

impl View {
    /// The host's cgroups, reachable from inside the view.
    #[must_use]
    pub fn into_layout(self) -> Layout {
        self.layout
    }
}

/// Enters a private view. Call it before any other thread exists: threads that exist already stay
/// outside. Children started from inside see what it shows.
///
/// The process also becomes the one that orphaned descendants fall to, so that a sandbox's first
/// process can be reaped.
///
/// # Errors
/// The step that failed; needs root. The thread may be left in a half-made view: end the process.
pub fn enter() -> Result<View, HostError> {
    make_private()?;
    let mut layout = Layout::detect()?;
    match layout.unified_path().map(Path::to_path_buf) {
        Some(path) if path == Path::new(CGROUP_MOUNT) => {}
        Some(path) => {
            mount_bind(&path, CGROUP_MOUNT).tried("show cgroup v2 at", CGROUP_MOUNT)?;
        }
        None => {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount("cgroup2", CGROUP_MOUNT, "cgroup2", flags, None)
                .tried("mount cgroup v2 at", CGROUP_MOUNT)?;
            layout.adopt_unified(Path::new(CGROUP_MOUNT))?;
        }
    }
    fs::create_dir_all(DIR).tried("make", DIR)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    // Every sandbox of a full node has one small file here, which takes a page for as long as the
    // sandbox sees it, long after its name is gone: 8 MiB for 2048 of them.
    let options = c"mode=0755,size=16m";
    mount("cofferdam", DIR, "tmpfs", flags, options).tried("mount a tmpfs at", DIR)?;
    set_child_subreaper(Some(getpid())).tried("become", "the reaper of orphans")?;
    Ok(View { layout })
}

/// Puts this thread into a mount namespace of its own, whose mounts never reach the host's. Mounts
/// and unmounts of the host still reach it, so that it keeps no disk of the host busy.
///
/// # Errors
/// When the kernel refuses; needs root.
pub fn make_private() -> Result<(), HostError> {
    // SAFETY: only this thread's file system context changes; no descriptor does.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.tried("make", "a private mount namespace")?;
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slave).tried("cut mount propagation of", "/")
}

/// Shows the file `source` as `name` in the view, as it is now: a file that replaces it later does
/// not change what sandboxes get from this daemon. Read-only.
///
/// # Errors
/// When it cannot be mounted.
pub fn show_file(source: &Path, name: &str) -> Result<std::path::PathBuf, HostError> {
    let shown = Path::new(DIR).join(name);
    fs::write(&shown, "").tried("make", shown.to_string_lossy())?;
    mount_bind(source, &shown).tried("show", source.to_string_lossy())?;
    // A bind mount takes no flags of its own when it is made.
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount(&shown, flags, "").tried("protect", shown.to_string_lossy())?;
    Ok(shown)
}

/// Runs `work` in a thread that sees what this process saw before it entered a view on another
/// thread: what a fresh process sees.
///
/// # Errors
/// When the view of the process's first thread cannot be joined, or `work` panics.
pub fn outside<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, HostError> {
    let run = || {
        // SAFETY: only this thread's file system context changes; no descriptor does.
        unsafe { unshare_unsafe(UnshareFlags::FS) }.tried("leave", "the view")?;
        let first = fs::File::open("/proc/self/ns/mnt").tried("open", "/proc/self/ns/mnt")?;
        let kind = Some(LinkNameSpaceType::Mount);
        move_into_link_name_space(first.as_fd(), kind).tried("leave", "the view")?;
        Ok(work())
    };
    std::thread::scope(|scope| {
        let joined = scope.spawn(run).join();
        joined.unwrap_or_else(|_| {
            Err(std::io::Error::other("panicked")).tried("run", "outside the view")
        })
    })
}
