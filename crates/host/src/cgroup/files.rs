//! Files and directories of a hierarchy, by path below it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::layout::Hierarchy;
use crate::HostError;
use crate::error::Tried;

/// Whether a file could not be had because its group is gone: not found by name, or removed after
/// it was opened.
pub(super) fn is_gone(error: &HostError) -> bool {
    matches!(error.errno(), Some(Errno::NOENT | Errno::NODEV))
}

fn label(hierarchy: &Hierarchy, path: &str) -> String {
    hierarchy.path.join(path).to_string_lossy().into_owned()
}

pub(super) fn make_dir(hierarchy: &Hierarchy, path: &str) -> Result<(), HostError> {
    match mkdirat(&hierarchy.dir, path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).tried("make cgroup", label(hierarchy, path)),
    }
}

/// An old group of the same name would lend us its limits and its processes.
pub(super) fn make_new_dir(hierarchy: &Hierarchy, path: &str) -> Result<(), HostError> {
    mkdirat(&hierarchy.dir, path, Mode::from_raw_mode(0o755))
        .tried("make cgroup", label(hierarchy, path))
}

pub(super) fn remove_dir(hierarchy: &Hierarchy, path: &str) -> Result<(), HostError> {
    match unlinkat(&hierarchy.dir, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error).tried("remove cgroup", label(hierarchy, path)),
    }
}

/// A runtime or a program inside may have made groups below ours: they go first.
pub(super) fn remove_tree(hierarchy: &Hierarchy, path: &str) -> Result<(), HostError> {
    for child in child_dirs(hierarchy, path)? {
        remove_tree(hierarchy, &format!("{path}/{child}"))?;
    }
    remove_dir(hierarchy, path)
}

pub(super) fn child_dirs(hierarchy: &Hierarchy, path: &str) -> Result<Vec<String>, HostError> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let dir = match openat(&hierarchy.dir, path, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error).tried("read cgroup", label(hierarchy, path)),
    };
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(dir).tried("read cgroup", label(hierarchy, path))? {
        let entry = match entry {
            // Removed while it was listed.
            Err(Errno::NOENT | Errno::NODEV) => break,
            entry => entry.tried("read cgroup", label(hierarchy, path))?,
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type() == rustix::fs::FileType::Directory && name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

pub(super) fn open_file(dir: &OwnedFd, path: &str, mode: OFlags) -> Result<OwnedFd, HostError> {
    openat(dir, path, mode | OFlags::CLOEXEC, Mode::empty()).tried("open", path)
}

pub(super) fn write_at(dir: &OwnedFd, path: &str, text: &str) -> Result<(), HostError> {
    let file = open_file(dir, path, OFlags::WRONLY)?;
    fs::File::from(file).write_all(text.as_bytes()).tried("write", path)
}

pub(super) fn write_if_there(dir: &OwnedFd, path: &str, text: &str) -> Result<(), HostError> {
    match write_at(dir, path, text) {
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(()),
        done => done,
    }
}

pub(super) fn read_at(dir: &OwnedFd, path: &str) -> Result<String, HostError> {
    let mut text = String::new();
    fs::File::from(open_file(dir, path, OFlags::RDONLY)?)
        .read_to_string(&mut text)
        .tried("read", path)?;
    Ok(text)
}
