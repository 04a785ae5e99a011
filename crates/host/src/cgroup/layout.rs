use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};

use crate::HostError;
use crate::error::Tried;

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
        for (path, fs_type, options) in text.lines().filter_map(parse_mount) {
            match fs_type {
                "cgroup2" if layout.unified.is_none() => {
                    layout.adopt_unified(&path)?;
                }
                "cgroup" => {
                    let controllers = v1_controllers(options);
                    let known = layout.v1.iter().any(|seen| seen.controllers == controllers);
                    // One that another mount covers is not ours to use.
                    if !known && path.is_dir() {
                        layout.v1.push(Hierarchy { dir: open_dir(&path)?, path, controllers });
                    }
                }
                _ => {}
            }
        }
        Ok(layout)
    }

    /// Takes the v2 hierarchy that was just mounted at `path`.
    pub(crate) fn adopt_unified(&mut self, path: &Path) -> Result<(), HostError> {
        let listed = fs::read_to_string(path.join("cgroup.controllers"))
            .tried("read controllers of", path.to_string_lossy())?;
        let controllers = listed.split_whitespace().map(str::to_owned).collect();
        self.unified = Some(Hierarchy { dir: open_dir(path)?, path: path.to_owned(), controllers });
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

fn open_dir(path: &Path) -> Result<OwnedFd, HostError> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map_err(io::Error::from).tried("open", path.to_string_lossy())
}

/// proc(5): fields up to ` - `, then the type, the source and the super block's options.
fn parse_mount(line: &str) -> Option<(PathBuf, &str, &str)> {
    let (fields, rest) = line.split_once(" - ")?;
    let path = fields.split(' ').nth(4)?;
    let mut rest = rest.split(' ');
    let fs_type = rest.next()?;
    let options = rest.nth(1)?;
    Some((PathBuf::from(path), fs_type, options))
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
    use std::path::PathBuf;

    use super::{Kind, Layout, parse_mount, v1_controllers};

    #[test]
    fn mount_lines_are_read_with_and_without_optional_fields() {
        let line =
            "36 25 0:30 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let (path, fs_type, options) = parse_mount(line).unwrap();
        assert_eq!((path, fs_type), (PathBuf::from("/sys/fs/cgroup/cpu"), "cgroup"));
        assert_eq!(v1_controllers(options), ["cpu", "cpuacct"]);
        let bare = "24 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(parse_mount(bare).unwrap().1, "cgroup2");
        assert!(v1_controllers("rw,xattr,name=systemd").is_empty());
        assert!(parse_mount("garbage").is_none());
    }

    #[test]
    fn this_host_has_a_layout() {
        let layout = Layout::detect().unwrap();
        assert!(matches!(layout.kind(), Kind::V2 | Kind::Hybrid | Kind::V1));
    }
}
