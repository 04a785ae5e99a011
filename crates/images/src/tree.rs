//! Directories as wholes: locking one, making its content durable, taking it away.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};

/// Opens the directory itself, for locking and syncing.
pub(crate) fn open_dir(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Takes an advisory lock on an open directory without waiting; `false` when somebody else holds
/// a lock that is in the way. It is released with the last descriptor, so also by a crash.
pub(crate) fn try_lock(dir: &File, operation: FlockOperation) -> io::Result<bool> {
    match rustix::fs::flock(dir, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Locks `dir` for one alone, unless somebody keeps it for longer than the start of a program takes: a
/// child has copies of its parent's locks until it execs. Blocks for half a second at most.
#[expect(clippy::disallowed_methods, reason = "there is no event for a lock that is let go")]
pub(crate) fn lock_soon(dir: &File) -> io::Result<bool> {
    let end = Instant::now() + LOCK_LIMIT;
    loop {
        if try_lock(dir, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        std::thread::sleep(LOCK_RETRY);
    }
}

const LOCK_LIMIT: Duration = Duration::from_millis(500);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Whether `path` still leads to the directory that is open as `dir`.
pub(crate) fn is_at(dir: &File, path: &Path) -> io::Result<bool> {
    let here = dir.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes `path` with all it holds; already gone is fine. Follows no symbolic link, and refuses
/// when something is mounted beneath: the walk would go on into what is mounted.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    if let Some(mount) = mount_beneath(path)? {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("{mount} is still mounted beneath {}", path.display()),
        ));
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn mount_beneath(path: &Path) -> io::Result<Option<String>> {
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    // Spaces and the like are written as \040 there; our own names have none of them.
    Ok(mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .find(|point| Path::new(point).starts_with(&path))
        .map(str::to_owned))
}
