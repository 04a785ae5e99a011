//! One control group, by the files the kernel shows of it.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use rustix::io::Errno;

/// What `cgroup.events` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Events {
    /// There are processes in it or below.
    pub(super) populated: bool,
    /// All of them stand still.
    pub(super) frozen: bool,
}

/// Whether somebody asked this very group to stand still. One that does because of a group above
/// was not asked.
pub(super) fn is_asked(group: &Path) -> bool {
    std::fs::read(group.join("cgroup.freeze")).is_ok_and(|text| text.trim_ascii() == b"1")
}

/// Asks the group and everything below to stand still, or to go on. The kernel does so later.
pub(super) fn ask(group: &Path, frozen: bool) -> io::Result<()> {
    let mut file = File::options().write(true).open(group.join("cgroup.freeze"))?;
    file.write_all(if frozen { b"1" } else { b"0" })
}

pub(super) fn events(group: &Path) -> io::Result<Events> {
    std::fs::read_to_string(group.join("cgroup.events")).map(|text| parse(&text))
}

/// Whether `error` says that the group has been removed.
pub(super) fn is_gone(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOENT | Errno::NODEV))
}

fn parse(text: &str) -> Events {
    let is_set = |name: &str| {
        text.lines().any(|line| line.strip_prefix(name).is_some_and(|value| value.trim() == "1"))
    };
    Events { populated: is_set("populated "), frozen: is_set("frozen ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_by_their_names() {
        let events = |populated, frozen| Events { populated, frozen };
        assert_eq!(parse("populated 1\nfrozen 0\n"), events(true, false));
        assert_eq!(parse("frozen 1\npopulated 0\nnew 1\n"), events(false, true));
        // Kernels before 5.2 know nothing of freezing.
        assert_eq!(parse("populated 1\n"), events(true, false));
    }

    #[test]
    fn asking_a_group_that_is_gone_makes_no_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_gone(&ask(dir.path(), true).unwrap_err()));
        assert!(!is_asked(dir.path()) && !dir.path().join("cgroup.freeze").exists());
    }
}
