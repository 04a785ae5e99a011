//! Where a filesystem puts what has nothing to do with each other.

use std::path::Path;

use rustix::fs::{CWD, IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags, openat};
use rustix::io::Errno;

use crate::HostError;
use crate::error::Tried;

/// Has the filesystem put each directory that is made in `dir` apart from the others, if it knows
/// how: what is written in one has nothing to do with what is in another. May be repeated; one that
/// knows no such thing is left as it is.
///
/// On ext2, ext3 and ext4 it is what `chattr +T` sets (chattr(1), "top of directory hierarchy"), and
/// each directory begins in a block group of its own. Without it all are in the group of `dir`. There
/// an ext4 that has no journal passes over every inode that was deleted in the last one to five
/// minutes, one by one, to find a free one (`recently_deleted` in `fs/ext4/ialloc.c`, Linux 6.18): a
/// sandbox that starts after 2000 others have ended takes twice as long.
///
/// # Errors
/// `dir` cannot be opened or changed. Nothing but speed depends on it.
pub fn keep_apart(dir: &Path) -> Result<(), HostError> {
    let shown = dir.to_string_lossy();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(CWD, dir, flags, Mode::empty()).tried("open", &shown)?;
    let changed =
        ioctl_getflags(&opened).and_then(|flags| ioctl_setflags(&opened, flags | IFlags::TOPDIR));
    match changed {
        // What filesystems say that have no flags, or not this one.
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => Ok(()),
        changed => changed.tried("spread what is made in", shown),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    fn what_is_made_in_a_directory_is_kept_apart_where_the_filesystem_knows_how() {
        // /var/tmp is on a disk where /tmp may be memory.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        for _ in 0..2 {
            keep_apart(dir.path()).unwrap();
        }
        // The number of ext2, ext3 and ext4 (statfs(2)).
        if rustix::fs::statfs(dir.path()).unwrap().f_type != 0xEF53 {
            println!("skipped, because /var/tmp is not on ext4");
            return;
        }
        let flags = ioctl_getflags(File::open(dir.path()).unwrap()).unwrap();
        assert!(flags.contains(IFlags::TOPDIR), "{flags:?}");
    }

    #[test]
    fn a_filesystem_that_knows_no_such_thing_is_left_as_it_is() {
        keep_apart(Path::new("/proc")).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_there_is_told() {
        let error = keep_apart(Path::new("/proc/no such directory")).unwrap_err();
        assert!(error.to_string().contains("no such directory"), "{error}");
    }
}
