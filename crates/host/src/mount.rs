//! The root of a sandbox: an overlay of a shared read-only base and a private writable layer, with
//! the base's owners shifted into the sandbox's own range of user ids.
#![expect(unsafe_code, reason = "mount_setattr has no safe wrapper")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use lifecycle::{Budget, Owned, Release};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree, unmount,
};

use crate::HostError;
use crate::error::Tried;
use crate::files::remove_tree;

/// Where the parts of one sandbox's root are.
#[derive(Debug, Clone)]
pub struct RootPaths {
    /// The overlay, as the sandbox sees it; mounted only while the machine is being made.
    pub root: PathBuf,
    lower: PathBuf,
    /// Everything the sandbox has written.
    pub upper: PathBuf,
    work: PathBuf,
}

impl RootPaths {
    /// The layers of `id` are below `dir`, its lifecycle directory. Its mount points are in `view`,
    /// a directory of the daemon's private view ([`crate::view::DIR`]): a runtime that has become
    /// the sandbox's own root could not get to a path below a directory that is closed to others.
    #[must_use]
    pub fn new(dir: &Path, view: &Path, id: &str) -> Self {
        Self {
            root: view.join(id),
            lower: view.join(format!("{id}.lower")),
            upper: dir.join("upper"),
            work: dir.join("work"),
        }
    }

    /// Removes the writable layer. Already gone is fine. Blocks.
    ///
    /// # Errors
    /// As [`remove_tree`](crate::files::remove_tree): out of time, or a file that cannot be
    /// removed; what could be is gone.
    pub fn remove_files(&self, budget: Budget) -> Result<(), HostError> {
        let upper = remove_tree(&self.upper, budget);
        let work = remove_tree(&self.work, budget);
        upper.and(work)
    }
}

/// A mounted root, in this process's private view only.
#[derive(Debug)]
pub struct RootMount {
    paths: RootPaths,
    name: String,
}

impl RootMount {
    /// Mounts `base` under a fresh writable layer. `userns` gives the shift; `owner` is the user id
    /// outside that is root inside. On an error nothing stays mounted; directories may be left
    /// for [`RootPaths::remove_files`].
    ///
    /// # Errors
    /// The step that failed.
    pub fn create(
        base: &Path,
        paths: RootPaths,
        userns: BorrowedFd<'_>,
        owner: u32,
    ) -> Result<Owned<Self>, HostError> {
        for dir in [&paths.root, &paths.lower] {
            make_dir(dir, 0o755)?;
        }
        for dir in [&paths.upper, &paths.work] {
            make_dir(dir, 0o700)?;
            chown(dir, Some(owner), Some(owner)).tried("chown", dir.to_string_lossy())?;
        }
        fs::set_permissions(&paths.upper, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tried("chmod", paths.upper.to_string_lossy())?;
        let mount = Self { name: paths.root.to_string_lossy().into_owned(), paths };
        match mount.mount(base, userns) {
            Ok(()) => Ok(Owned::adopt(mount)),
            Err(error) => {
                if let Err(left) = mount.detach() {
                    tracing::error!(mount = mount.name, error = %left, "a half-made root is left");
                }
                Err(error)
            }
        }
    }

    /// The mount of this lifecycle, whether there is one or not.
    #[must_use]
    pub fn named(paths: RootPaths) -> Self {
        Self { name: paths.root.to_string_lossy().into_owned(), paths }
    }

    fn mount(&self, base: &Path, userns: BorrowedFd<'_>) -> Result<(), HostError> {
        let paths = &self.paths;
        let shown = base.to_string_lossy();
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, base, flags).tried("clone mount of", &shown)?;
        idmap(tree.as_fd(), userns).tried("shift owners of", &shown)?;
        // Overlay wants a path; kernels before 6.15 also want the layer to be attached somewhere.
        let from_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, "", CWD, &paths.lower, from_fd).tried("attach", &shown)?;
        let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).tried("open", "overlay")?;
        let options = [
            ("source", Path::new("cofferdam")),
            ("lowerdir", &paths.lower),
            ("upperdir", &paths.upper),
            ("workdir", &paths.work),
        ];
        for (key, value) in options {
            fsconfig_set_string(&overlay, key, value).tried("configure overlay", key)?;
        }
        // The layer is thrown away with the sandbox: nothing in it is worth a sync.
        fsconfig_set_flag(&overlay, "volatile").tried("configure overlay", "volatile")?;
        fsconfig_create(&overlay).tried("make overlay on", &self.name)?;
        // Device files in it are not honoured: whatever way one gets into the writable layer, it
        // opens no device. Those of /dev are on a mount of their own.
        let mounted =
            fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
                .tried("make overlay on", &self.name)?;
        move_mount(&mounted, "", CWD, &paths.root, from_fd).tried("mount", &self.name)?;
        // The overlay keeps its own reference to the layer.
        detach(&paths.lower)
    }

    /// Unmounts it here, mount points included; the sandbox keeps what it has in its own namespace.
    /// Not mounted is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&self) -> Result<(), HostError> {
        for point in [&self.paths.root, &self.paths.lower] {
            detach(point)?;
            match fs::remove_dir(point) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).tried("remove", point.to_string_lossy());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Release for RootMount {
    const KIND: &'static str = "mount";
    type Error = HostError;

    fn name(&self) -> &str {
        &self.name
    }

    async fn release(&self, _budget: Budget) -> Result<(), HostError> {
        self.detach()
    }
}

fn make_dir(dir: &Path, mode: u32) -> Result<(), HostError> {
    fs::DirBuilder::new().mode(mode).create(dir).tried("make", dir.to_string_lossy())
}

fn detach(path: &Path) -> Result<(), HostError> {
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point (any more), or not there at all.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error).tried("unmount", path.to_string_lossy()),
        }
    }
}

/// mount_setattr(2), `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
const MOUNT_ATTR_RDONLY: u64 = 0x0000_0001;

fn idmap(tree: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    let attr = MountAttr {
        set: MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY,
        clear: 0,
        propagation: 0,
        userns_fd: u64::from(userns.as_raw_fd().unsigned_abs()),
    };
    // SAFETY: the path is an empty C string, the attribute block is whole and its size is given.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(&attr),
            size_of::<MountAttr>(),
        )
    };
    if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
