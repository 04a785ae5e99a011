//! Control groups (cgroup2) for users' processes, where the machine lets the agent make some: a
//! virtual machine does. In a container there are none to see, and processes stay where they are.

mod audit;
mod freezer;
mod group;
mod own;
mod shares;
mod walk;

pub(crate) use freezer::{Freezer, Settled, Sweep};
pub(crate) use walk::Mode;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::Access;

use crate::log;

/// Of processes on pipes.
const USER: &str = "user";
/// Of processes on terminals.
const TERMINALS: &str = "ptys";
/// E2B's agent forwards ports by programs in a group of this name; this one does that itself, and
/// has the group for those who look for it. It is never frozen.
const FORWARDERS: &str = "socats";
/// A process with exactly this tag stays in the agent's own group: the host runs something that
/// must go on while users' processes stand still.
const TAG_OF_THE_HOST: &str = "_system";

/// The groups of this machine, made once. Everything is absent where none can be made.
pub(crate) struct Cgroups {
    user: Option<File>,
    terminals: Option<File>,
    pub(crate) freezer: Arc<Freezer>,
    said: AtomicBool,
}

impl Cgroups {
    /// Makes the groups below `root`. A root that is no cgroup2 directory, or is not for the agent
    /// to write, is none.
    pub(crate) fn new(root: Option<PathBuf>) -> Self {
        let root = root.filter(|root| is_usable(root));
        let entrance = |name: &str| root.as_deref().and_then(|root| make_or_say(root, name));
        let (user, terminals, _forwarders) =
            (entrance(USER), entrance(TERMINALS), entrance(FORWARDERS));
        let freezer = Arc::new(Freezer::new(root));
        Self { user, terminals, freezer, said: AtomicBool::new(false) }
    }

    /// What a new process writes "0" to, to be where it belongs before it runs its program.
    pub(crate) fn entrance(&self, is_terminal: bool, tag: Option<&str>) -> Option<BorrowedFd<'_>> {
        if tag == Some(TAG_OF_THE_HOST) {
            return None;
        }
        let group = if is_terminal { &self.terminals } else { &self.user };
        group.as_ref().map(|group| group.as_fd())
    }

    /// Says once that a process runs outside of its group, which is better than not at all.
    pub(crate) fn say_not_entered(&self, error: &io::Error) {
        if !self.said.swap(true, Ordering::Relaxed) {
            log::odd(format_args!("a process could not enter its control group: {error}"));
        }
    }
}

fn is_usable(root: &Path) -> bool {
    let Ok(found) = rustix::fs::statfs(root) else { return false };
    // The kernel keeps 32 bits; the field is wider and may be filled with the sign.
    let magic = u64::from_ne_bytes(found.f_type.to_ne_bytes()) & 0xFFFF_FFFF;
    const CGROUP2: u64 = 0x6367_7270;
    magic == CGROUP2 && rustix::fs::access(root, Access::WRITE_OK).is_ok()
}

fn make_or_say(root: &Path, name: &str) -> Option<File> {
    let group = root.join(name);
    let made = make(&group);
    if let Err(error) = &made {
        log::odd(format_args!("the control group '{name}' could not be made: {error}"));
    }
    shares::give(&group, name);
    made.ok()
}

/// Makes a group, or takes one that is there, and opens the file by which it is entered.
fn make(group: &Path) -> io::Result<File> {
    match std::fs::create_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _made => {}
    }
    File::options().write(true).open(group.join("cgroup.procs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_no_group_is_no_root_and_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for root in [dir.path().to_owned(), dir.path().join("none")] {
            let cgroups = Cgroups::new(Some(root));
            assert!(cgroups.entrance(false, None).is_none());
            assert!(cgroups.entrance(true, None).is_none());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_the_hosts_own_processes_stay_with_the_agent() {
        let file = || Some(tempfile::tempfile().unwrap());
        let cgroups = Cgroups { user: file(), terminals: file(), ..Cgroups::new(None) };
        assert!(cgroups.entrance(false, Some(TAG_OF_THE_HOST)).is_none());
        for tag in [None, Some(""), Some("system"), Some("_system2")] {
            assert!(cgroups.entrance(false, tag).is_some(), "{tag:?}");
            assert!(cgroups.entrance(true, tag).is_some(), "{tag:?}");
        }
    }
}
