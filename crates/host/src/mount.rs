//! The root of a sandbox: an overlay of shared read-only layers and a private writable one, all with
//! their owners shifted into the sandbox's own range of user ids.
//!
//! On disk every layer has the owners that programs inside see. So a writable layer can be taken to
//! another sandbox, which has another range, as it is.
#![expect(
    unsafe_code,
    reason = "mount_setattr, unshare and what a thread writes files as have no safe wrapper"
)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use lifecycle::{Budget, Owned, Release};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree, unmount,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::HostError;
use crate::error::Tried;
use crate::files::remove_tree;
use crate::thread::in_own_thread;

/// Read-only layers of one root, at most. The kernel lays 500 over each other (`OVL_MAX_STACK`), but
/// takes their names in one value of at most 255 bytes (fsconfig(2)), and every one makes a start, and
/// looking for a file, slower.
pub const MAX_LAYERS: usize = 64;

/// Where the parts of one sandbox's root are.
#[derive(Debug, Clone)]
pub struct RootPaths {
    /// The overlay, as the sandbox sees it; mounted only while the machine is being made.
    pub root: PathBuf,
    /// Where the layers are attached while the overlay is made.
    layers: PathBuf,
    /// What has the writable layer, and the kernel's own directory beside it.
    dir: PathBuf,
    /// Everything the sandbox has written.
    pub upper: PathBuf,
    work: PathBuf,
    /// The file that the sandbox sees as the id of its boot; there only while the machine is being
    /// made.
    pub boot_id: PathBuf,
}

/// The names of the two below a lifecycle directory.
pub const UPPER: &str = "upper";
const WORK: &str = "work";

impl RootPaths {
    /// The layers of `id` are below `dir`, its lifecycle directory. Its mount points are in `view`,
    /// a directory of the daemon's private view ([`crate::view::DIR`]): a runtime that has become
    /// the sandbox's own root could not get to a path below a directory that is closed to others.
    #[must_use]
    pub fn new(dir: &Path, view: &Path, id: &str) -> Self {
        Self {
            root: view.join(id),
            layers: view.join(format!("{id}.layers")),
            dir: dir.to_owned(),
            upper: dir.join(UPPER),
            work: dir.join(WORK),
            boot_id: view.join(format!("{id}.boot_id")),
        }
    }

    /// Removes the writable layer. Already gone is fine. Blocks.
    ///
    /// # Errors
    /// As [`remove_tree`]: out of time, or a file that cannot be
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
    /// Mounts the read-only `layers`, the topmost first and [`MAX_LAYERS`] at most, under the writable
    /// layer, which is made unless it is there. `userns` gives the shift; `owner` is the user id
    /// outside that is root inside. On an error nothing stays mounted; directories may be left for
    /// [`RootPaths::remove_files`].
    ///
    /// # Errors
    /// The step that failed; with too many layers, before anything is made.
    pub fn create(
        layers: &[PathBuf],
        paths: RootPaths,
        userns: BorrowedFd<'_>,
        owner: u32,
    ) -> Result<Owned<Self>, HostError> {
        if layers.len() > MAX_LAYERS {
            let what = format!("it has {} layers and may have {MAX_LAYERS}", layers.len());
            let source = io::Error::new(io::ErrorKind::InvalidInput, what);
            return Err(source).tried("make overlay on", paths.root.to_string_lossy());
        }
        for dir in [&paths.root, &paths.layers] {
            make_dir(dir, 0o755)?;
        }
        make_layer(&paths.upper)?;
        make_dir(&paths.work, 0o700)?;
        let mount = Self { name: paths.root.to_string_lossy().into_owned(), paths };
        match mount.mount(layers, userns, owner) {
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

    fn mount(
        &self,
        layers: &[PathBuf],
        userns: BorrowedFd<'_>,
        owner: u32,
    ) -> Result<(), HostError> {
        let paths = &self.paths;
        // Overlay wants paths; kernels before 6.15 also want the layers to be attached somewhere.
        // They are given from where they are attached: in full they would be too long for the kernel.
        let writable = Path::new("writable");
        attach(&paths.dir, &paths.layers.join(writable), MOUNT_ATTR_IDMAP, userns)?;
        for (number, layer) in layers.iter().enumerate() {
            let at = paths.layers.join(number.to_string());
            attach(layer, &at, MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY, userns)?;
        }
        let options = [
            ("source", "cofferdam".into()),
            ("lowerdir", names_of(layers.len()).into()),
            ("upperdir", writable.join(UPPER)),
            ("workdir", writable.join(WORK)),
            // What a layer holds must not depend on where it is, nor on what is below it.
            ("redirect_dir", "nofollow".into()),
            ("metacopy", "off".into()),
            ("index", "off".into()),
        ];
        let made = in_own_thread("overlay", || {
            stand_in(&paths.layers)?;
            write_files_as(owner)?;
            Ok(make_overlay(&options, &self.name))
        });
        let mounted = made.tried("make overlay on", &self.name)??;
        let from_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&mounted, "", CWD, &paths.root, from_fd).tried("mount", &self.name)?;
        // The overlay keeps its own references to the layers.
        detach_below(&paths.layers)
    }

    /// Unmounts it here, mount points included; the sandbox keeps what it has in its own namespace.
    /// Not mounted is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&self) -> Result<(), HostError> {
        detach_below(&self.paths.layers)?;
        for point in [&self.paths.root, &self.paths.layers] {
            detach(point)?;
            remove_point(point)?;
        }
        match fs::remove_file(&self.paths.boot_id) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).tried("remove", self.paths.boot_id.to_string_lossy())
            }
            _ => Ok(()),
        }
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

/// The writable layer, which a sandbox may bring with it. Its directory is the root directory that
/// programs inside see.
fn make_layer(upper: &Path) -> Result<(), HostError> {
    match fs::DirBuilder::new().mode(0o755).create(upper) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made.tried("make", upper.to_string_lossy())?,
    }
    // The mode given to mkdir is cut by the umask.
    fs::set_permissions(upper, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tried("chmod", upper.to_string_lossy())
}

/// Makes `dir` appear at `at` with its owners shifted by `userns`.
fn attach(dir: &Path, at: &Path, attributes: u64, userns: BorrowedFd<'_>) -> Result<(), HostError> {
    let shown = dir.to_string_lossy();
    make_dir(at, 0o755)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, dir, flags).tried("clone mount of", &shown)?;
    shift(tree.as_fd(), attributes, userns).tried("shift owners of", &shown)?;
    let from_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&tree, "", CWD, at, from_fd).tried("attach", &shown)
}

/// What `count` layers are called where they are attached, the topmost first.
fn names_of(count: usize) -> String {
    (0..count).map(|number| number.to_string()).collect::<Vec<_>>().join(":")
}

/// From here on the calling thread, and no other, finds relative paths from `dir`.
fn stand_in(dir: &Path) -> io::Result<()> {
    // SAFETY: only this thread's file system context changes; no descriptor does.
    unsafe { unshare_unsafe(UnshareFlags::FS) }?;
    Ok(rustix::process::chdir(dir)?)
}

fn make_overlay(options: &[(&str, PathBuf)], name: &str) -> Result<OwnedFd, HostError> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).tried("open", "overlay")?;
    for (key, value) in options {
        fsconfig_set_string(&overlay, *key, value).tried("configure overlay", key)?;
    }
    // What programs sync is not waited for: a pause writes the layer out, and else it is thrown away.
    fsconfig_set_flag(&overlay, "volatile").tried("configure overlay", "volatile")?;
    fsconfig_create(&overlay).tried("make overlay on", name)?;
    // Device files in it are not honoured: whatever way one gets into the writable layer, it opens
    // no device. Those of /dev are on a mount of their own.
    fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
        .tried("make overlay on", name)
}

/// From here on the calling thread, and the overlay it makes, write files as `owner`: a user that the
/// shift does not know, as root outside is one, could make none in a shifted layer.
///
/// Everything else of the thread stays as it is, capabilities included (capabilities(7),
/// `SECBIT_NO_SETUID_FIXUP`).
fn write_files_as(owner: u32) -> io::Result<()> {
    // SAFETY: both change the calling thread only, and take plain numbers.
    let kept = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, libc::SECBIT_NO_SETUID_FIXUP) };
    if kept != 0 {
        return Err(io::Error::last_os_error());
    }
    for call in [libc::SYS_setfsgid, libc::SYS_setfsuid] {
        // SAFETY: as above. It gives back the id before, and no error: the second call tells.
        let is = unsafe {
            libc::syscall(call, owner);
            libc::syscall(call, owner)
        };
        if u32::try_from(is) != Ok(owner) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
    }
    Ok(())
}

/// Unmounts everything right below `dir`, mount points included.
fn detach_below(dir: &Path) -> Result<(), HostError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.tried("list", dir.to_string_lossy())?,
    };
    for entry in entries {
        let point = entry.tried("list", dir.to_string_lossy())?.path();
        detach(&point)?;
        remove_point(&point)?;
    }
    Ok(())
}

fn remove_point(point: &Path) -> Result<(), HostError> {
    match fs::remove_dir(point) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).tried("remove", point.to_string_lossy())
        }
        _ => Ok(()),
    }
}

/// Unmounts everything that is mounted on `path` here. No mount point, or nothing at all, is fine.
///
/// # Errors
/// When the kernel refuses.
pub fn detach(path: &Path) -> Result<(), HostError> {
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

fn shift(tree: BorrowedFd<'_>, attributes: u64, userns: BorrowedFd<'_>) -> io::Result<()> {
    let attr = MountAttr {
        set: attributes,
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::AsFd;
    use std::path::{Path, PathBuf};

    use super::{MAX_LAYERS, RootMount, RootPaths, names_of};

    #[test]
    fn the_kernel_takes_the_names_of_as_many_layers_as_there_may_be() {
        assert_eq!(names_of(3), "0:1:2");
        // fs/fsopen.c: 256 with the byte that ends it.
        assert!(names_of(MAX_LAYERS).len() < 256, "{}", names_of(MAX_LAYERS));
    }

    #[test]
    fn too_many_layers_are_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let layers = vec![PathBuf::from("/"); MAX_LAYERS + 1];
        let paths = RootPaths::new(dir.path(), dir.path(), "l1");
        let any = std::fs::File::open(Path::new("/")).unwrap();
        let refused = RootMount::create(&layers, paths, any.as_fd(), 0).unwrap_err();
        assert_eq!(refused.source.kind(), io::ErrorKind::InvalidInput, "{refused:?}");
        assert!(refused.source.to_string().contains("65 layers and may have 64"), "{refused:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
