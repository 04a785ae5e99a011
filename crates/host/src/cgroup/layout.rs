use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, fstatfs, makedev, open};
use rustix::io::Errno;

use crate::HostError;
use crate::error::Tried;
use crate::proc::unescape;

/// How the host arranges its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One hierarchy with all controllers.
    V2,
    /// Controllers on v1, beside a v2 hierarchy that kills and freezes.
    Hybrid,
    /// No v2 hierarchy is mounted.
    V1,
}

/// One mounted hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchy {
    pub path: PathBuf,
    pub controllers: Vec<String>,
    /// Keeps the hierarchy reachable whatever is mounted over its path later.
    pub dir: OwnedFd,
}

/// Every hierarchy of the host, found before anything is mounted over them.
#[derive(Debug)]
pub struct Layout {
    pub(super) unified: Option<Hierarchy>,
    pub(super) v1: Vec<Hierarchy>,
}

impl Layout {
    /// Reads the mounts that this thread sees.
    ///
    /// # Errors
    /// When they cannot be read or a hierarchy cannot be opened.
    pub fn detect() -> Result<Self, HostError> {
        let text = fs::read_to_string("/proc/thread-self/mountinfo").tried("read", "mountinfo")?;
        let mut layout = Self { unified: None, v1: Vec::new() };
        for mount in text.lines().filter_map(parse_mount) {
            match mount.fs_type {
                "cgroup2" if layout.unified.is_none() => {
                    if let Some(dir) = open_mount(&mount.path, V2_MAGIC, Some(mount.device))? {
                        layout.add_unified(dir, &mount.path)?;
                    }
                }
                "cgroup" => {
                    let controllers = v1_controllers(mount.options);
                    if layout.v1.iter().any(|seen| seen.controllers == controllers) {
                        continue;
                    }
                    if let Some(dir) = open_mount(&mount.path, V1_MAGIC, Some(mount.device))? {
                        layout.v1.push(Hierarchy { dir, path: mount.path, controllers });
                    }
                }
                _ => {}
            }
        }
        Ok(layout)
    }

    /// Takes the v2 hierarchy that was just mounted at `path`.
    pub(crate) fn adopt_unified(&mut self, path: &Path) -> Result<(), HostError> {
        let dir = open_mount(path, V2_MAGIC, None)?
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            .tried("find cgroup v2 at", path.to_string_lossy())?;
        self.add_unified(dir, path)
    }

    fn add_unified(&mut self, dir: OwnedFd, path: &Path) -> Result<(), HostError> {
        let listed = fs::read_to_string(path.join("cgroup.controllers"))
            .tried("read controllers of", path.to_string_lossy())?;
        let controllers = listed.split_whitespace().map(str::to_owned).collect();
        self.unified = Some(Hierarchy { dir, path: path.to_owned(), controllers });
        Ok(())
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        match (&self.unified, self.v1.iter().any(|h| !h.controllers.is_empty())) {
            (None, _) => Kind::V1,
            (Some(_), true) => Kind::Hybrid,
            (Some(_), false) => Kind::V2,
        }
    }

    /// Where the v2 hierarchy is mounted.
    #[must_use]
    pub fn unified_path(&self) -> Option<&Path> {
        self.unified.as_ref().map(|h| h.path.as_path())
    }

    /// Where `controller` is, when it is on v1.
    pub(super) fn v1_with(&self, controller: &str) -> Option<&Hierarchy> {
        self.v1.iter().find(|h| h.controllers.iter().any(|c| c == controller))
    }

    pub(super) fn v2_has(&self, controller: &str) -> bool {
        self.unified.as_ref().is_some_and(|h| h.controllers.iter().any(|c| c == controller))
    }
}

/// `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC` (statfs(2)).
const V1_MAGIC: u64 = 0x0027_E0EB;
const V2_MAGIC: u64 = 0x6367_7270;

/// Opens the mount at `path`. `None` when what is found there is of another kind, or is not the
/// super block `device`: another mount covers it, so it is not ours to use.
fn open_mount(path: &Path, magic: u64, device: Option<u64>) -> Result<Option<OwnedFd>, HostError> {
    let shown = path.to_string_lossy();
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let dir = match open(path, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error).tried("open", shown),
    };
    let kind = fstatfs(&dir).tried("ask for the kind of", &shown)?.f_type;
    let found = fstat(&dir).tried("ask for the device of", &shown)?.st_dev;
    let is_it = u64::try_from(kind) == Ok(magic) && device.is_none_or(|device| device == found);
    Ok(is_it.then_some(dir))
}

/// One line of a mount table.
struct Mount<'a> {
    path: PathBuf,
    device: u64,
    fs_type: &'a str,
    options: &'a str,
}

/// proc(5), mountinfo: fields up to ` - `, then the type, the source and the super block's options.
fn parse_mount(line: &str) -> Option<Mount<'_>> {
    let (fields, rest) = line.split_once(" - ")?;
    let mut fields = fields.split(' ');
    let (major, minor) = fields.nth(2)?.split_once(':')?;
    let device = makedev(major.parse().ok()?, minor.parse().ok()?);
    let path = unescape(fields.nth(1)?);
    let mut rest = rest.split(' ');
    Some(Mount { path, device, fs_type: rest.next()?, options: rest.nth(1)? })
}

/// The controllers among a v1 super block's options. A named hierarchy (`name=systemd`) has none.
fn v1_controllers(options: &str) -> Vec<String> {
    const KNOWN: [&str; 14] = [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "devices",
        "freezer",
        "blkio",
        "pids",
        "net_cls",
        "net_prio",
        "perf_event",
        "hugetlb",
        "rdma",
        "misc",
    ];
    options.split(',').filter(|o| KNOWN.contains(o)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Kind, Layout, V1_MAGIC, V2_MAGIC, open_mount, parse_mount, v1_controllers};

    #[test]
    fn mount_lines_are_read_with_and_without_optional_fields() {
        let line =
            "36 25 0:30 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let mount = parse_mount(line).unwrap();
        assert_eq!((mount.path, mount.device), (PathBuf::from("/sys/fs/cgroup/cpu"), 30));
        assert_eq!((mount.fs_type, v1_controllers(mount.options).len()), ("cgroup", 2));
        let bare = "24 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(parse_mount(bare).unwrap().fs_type, "cgroup2");
        assert!(v1_controllers("rw,xattr,name=systemd").is_empty());
        assert!(parse_mount("garbage").is_none());
    }

    #[test]
    fn a_path_that_something_else_covers_is_not_the_mount() {
        let layout = Layout::detect().unwrap();
        let path = layout.unified_path().unwrap();
        assert!(open_mount(path, V2_MAGIC, None).unwrap().is_some());
        assert!(open_mount(path, V1_MAGIC, None).unwrap().is_none());
        assert!(open_mount(path, V2_MAGIC, Some(0)).unwrap().is_none());
        assert!(open_mount(Path::new("/proc"), V2_MAGIC, None).unwrap().is_none());
        assert!(open_mount(Path::new("/not/there"), V2_MAGIC, None).unwrap().is_none());
    }

    #[test]
    fn this_host_has_a_layout() {
        let layout = Layout::detect().unwrap();
        assert!(matches!(layout.kind(), Kind::V2 | Kind::Hybrid | Kind::V1));
    }
}
