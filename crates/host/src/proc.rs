//! Readers of `/proc`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// What `/proc/PID/stat` says of a process (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) is_zombie: bool,
    pub(crate) parent: i32,
    /// Clock ticks since boot.
    pub(crate) start_time: u64,
}

/// Reads it; `None` when there is no such process.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The command may contain spaces and parentheses: count from the last closing one.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let is_zombie = fields.next()? == "Z";
    let parent = fields.next()?.parse().ok()?;
    // Field 22; the third of them was the first here, and two are read.
    let start_time = fields.nth(17)?.parse().ok()?;
    Some(Stat { is_zombie, parent, start_time })
}

/// The running kernel's version.
pub(crate) fn kernel_version() -> Option<(u32, u32)> {
    parse_version(&fs::read_to_string("/proc/sys/kernel/osrelease").ok()?)
}

pub(crate) fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// When a process started, in clock ticks since boot.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    Some(stat(pid)?.start_time)
}

/// The processes that the threads of this one have as children, zombies included.
///
/// # Errors
/// When `/proc` cannot be read.
pub(crate) fn children() -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for thread in fs::read_dir("/proc/self/task")? {
        match fs::read_to_string(thread?.path().join("children")) {
            Ok(text) => found.extend(text.split_ascii_whitespace().flat_map(str::parse::<i32>)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // The thread has ended, or the kernel does not keep these lists (CONFIG_PROC_CHILDREN).
            Err(_) if fs::exists("/proc/thread-self/children")? => {}
            Err(_) => return children_by_parent(),
        }
    }
    Ok(found)
}

fn children_by_parent() -> io::Result<Vec<i32>> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse() else { continue };
        if stat(pid).is_some_and(|stat| stat.parent == own) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A path as mount tables write it: space, tab, newline and backslash are `\` and three octal
/// digits (proc(5), mountinfo).
pub(crate) fn unescape(field: &str) -> PathBuf {
    let mut path = Vec::new();
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            (byte, tail) => {
                path.push(*byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::path::Path;

    use crate::process::Spawn;

    use super::{Stat, children, children_by_parent, parse_stat, start_time, unescape};

    #[test]
    fn a_live_process_has_a_start_time_and_a_missing_one_has_none() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(start_time(own).unwrap() > 0);
        assert_eq!(start_time(-1), None);
    }

    #[test]
    fn a_command_cannot_forge_the_fields_after_it() {
        let line = "7 (a) Z 1 (b c) S 3 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        let stat = Stat { is_zombie: false, parent: 3, start_time: 12345 };
        assert_eq!(parse_stat(line), Some(stat));
        assert_eq!(parse_stat("garbage"), None);
    }

    #[tokio::test]
    async fn a_child_is_found_by_either_way() {
        let (reader, writer) = std::io::pipe().unwrap();
        let child = Spawn::new("/bin/cat").input(reader.as_fd()).start().unwrap();
        let pid = child.identity().pid;
        assert!(children().unwrap().contains(&pid));
        assert!(children_by_parent().unwrap().contains(&pid));
        drop(writer);
        child.exited().await.unwrap();
        assert!(!children().unwrap().contains(&pid));
    }

    #[test]
    fn paths_of_mount_tables_are_what_they_were() {
        assert_eq!(unescape(r"/a\040b\011c\134d"), Path::new("/a b\tc\\d"));
        assert_eq!(unescape(r"/plain\04"), Path::new(r"/plain\04"));
        assert_eq!(unescape("/plain"), Path::new("/plain"));
    }
}
