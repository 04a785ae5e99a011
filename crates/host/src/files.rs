//! Removing what a sandbox has written. Its tree may have been made to be hard to remove: chains of
//! directories deeper than a stack or a descriptor table, millions of names, links to elsewhere.

mod apart;

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use lifecycle::Budget;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, openat, openat2,
    renameat_with, unlinkat,
};
use rustix::io::Errno;

use crate::HostError;
use crate::error::Tried;
pub use apart::keep_apart;

/// Removes `path` with all below it; absent is fine. Nobody else may write below it meanwhile.
///
/// Takes three descriptors and little memory, however deep the tree is, and follows no symbolic
/// link and no mount: what somebody has mounted in it is not the sandbox's, and an error. Blocks.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] at the end of `budget`: what is gone by then is gone, and the next
/// call goes on from there. Otherwise the first thing that could not be removed; everything that
/// could be is gone.
pub fn remove_tree(path: &Path, budget: Budget) -> Result<(), HostError> {
    let shown = path.to_string_lossy();
    let top = match open_top(path) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return absent_is_fine(unlinkat(CWD, path, AtFlags::empty())).tried("remove", shown);
        }
        Err(error) => return Err(error).tried("open", shown),
    };
    Removal::new(top, budget).run().tried("remove", &shown)?;
    absent_is_fine(unlinkat(CWD, path, AtFlags::REMOVEDIR)).tried("remove", shown)
}

/// Removes everything in `dir` but the names that `keep` wants; an absent `dir` is fine.
///
/// # Errors
/// As [`remove_tree`], for the first entry that failed.
pub fn remove_below(
    dir: &Path,
    keep: impl Fn(&OsStr) -> bool,
    budget: Budget,
) -> Result<(), HostError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.tried("list", dir.to_string_lossy())?,
    };
    let mut first = Ok(());
    for entry in entries {
        let name = entry.tried("list", dir.to_string_lossy())?.file_name();
        if !keep(&name) {
            let removed = remove_tree(&dir.join(name), budget);
            first = first.and(removed);
        }
    }
    first
}

/// How many directories are remembered for the pass that moved them; the others are found again.
const MAX_HOISTED: usize = 4096;

/// One removal. Directories are never descended into: one that has something in it is moved up to
/// the top, and emptied there. So every directory that is worked on is an entry of the top.
struct Removal {
    top: OwnedFd,
    budget: Budget,
    /// What moved directories are called: this and a number.
    prefix: String,
    next: u64,
    hoisted: Vec<u64>,
    /// How much has been removed or moved up. Both can happen to an entry once only.
    done: u64,
    failed: Option<Errno>,
}

impl Removal {
    fn new(top: OwnedFd, budget: Budget) -> Self {
        // Unlike the names of an earlier call that ran out of time, and not to be guessed inside.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let prefix = format!(".removed-{now:x}-");
        Self { top, budget, prefix, next: 0, hoisted: Vec::new(), done: 0, failed: None }
    }

    fn run(&mut self) -> io::Result<()> {
        let mut listing = Dir::read_from(&self.top)?;
        loop {
            let before = self.done;
            self.failed = None;
            listing.rewind();
            while let Some(entry) = listing.read() {
                let entry = entry?;
                self.check_time()?;
                if is_real(entry.file_name()) {
                    self.remove_from_top(entry.file_name(), entry.file_type())?;
                }
                while let Some(number) = self.hoisted.pop() {
                    self.empty(&self.name(number)?)?;
                }
            }
            // A listing may miss entries while others come and go: only a quiet one is the last.
            if self.done == before {
                return self.failed.map_or(Ok(()), |error| Err(error.into()));
            }
        }
    }

    fn remove_from_top(&mut self, name: &CStr, kind: FileType) -> io::Result<()> {
        if kind != FileType::Directory {
            match unlinkat(&self.top, name, AtFlags::empty()) {
                // A file system that does not say what its entries are.
                Err(Errno::ISDIR) => {}
                result => {
                    self.note(result);
                    return Ok(());
                }
            }
        }
        self.empty(name)
    }

    /// Takes everything out of a directory at the top, and removes it.
    fn empty(&mut self, name: &CStr) -> io::Result<()> {
        let mut dir = match open_dir(&self.top, name) {
            Ok(dir) => Dir::new(dir)?,
            Err(error) => {
                self.note(absent_is_fine(Err(error)));
                return Ok(());
            }
        };
        loop {
            let before = self.done;
            while let Some(entry) = dir.read() {
                let entry = entry?;
                self.check_time()?;
                if is_real(entry.file_name()) {
                    self.take_out(dir.fd()?, entry.file_name(), entry.file_type())?;
                }
            }
            match unlinkat(&self.top, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY) if self.done > before => dir.rewind(),
                result => {
                    self.note(result);
                    return Ok(());
                }
            }
        }
    }

    fn take_out(&mut self, from: BorrowedFd<'_>, name: &CStr, kind: FileType) -> io::Result<()> {
        if kind != FileType::Directory {
            match unlinkat(from, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => {}
                result => {
                    self.note(result);
                    return Ok(());
                }
            }
        }
        match unlinkat(from, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => self.hoist(from, name),
            result => {
                self.note(result);
                Ok(())
            }
        }
    }

    fn hoist(&mut self, from: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        loop {
            let number = self.next;
            self.next += 1;
            let new_name = self.name(number)?;
            match renameat_with(from, name, &self.top, &new_name, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => self.check_time()?,
                result => {
                    if result.is_ok() && self.hoisted.len() < MAX_HOISTED {
                        self.hoisted.push(number);
                    }
                    self.note(result);
                    return Ok(());
                }
            }
        }
    }

    fn name(&self, number: u64) -> io::Result<CString> {
        Ok(CString::new(format!("{}{number}", self.prefix))?)
    }

    /// Counts a success, keeps the first failure.
    fn note(&mut self, result: Result<(), Errno>) {
        match absent_is_fine(result) {
            Ok(()) => self.done += 1,
            Err(error) => _ = self.failed.get_or_insert(error),
        }
    }

    fn check_time(&self) -> io::Result<()> {
        if self.budget.remaining().is_zero() {
            let why = "there was no time for all of it; the next try goes on";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        Ok(())
    }
}

const DIRECTORY: OFlags =
    OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::RDONLY).union(OFlags::CLOEXEC);

fn open_top(path: &Path) -> Result<OwnedFd, Errno> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent != Path::new("") => {
            open_dir(openat(CWD, parent, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?, name)
        }
        _ => open_dir(CWD, path),
    }
}

/// Opens a directory of `at` that is on the same mount.
fn open_dir(at: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    openat2(at, name, DIRECTORY, Mode::empty(), ResolveFlags::NO_XDEV)
}

fn is_real(name: &CStr) -> bool {
    !matches!(name.to_bytes(), b"." | b"..")
}

fn absent_is_fine(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::io;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::time::Duration;

    use lifecycle::Budget;
    use rustix::fs::{CWD, Mode, mkdirat};

    use super::{open_dir, open_top, remove_below, remove_tree};

    fn plenty() -> Budget {
        Budget::within(Duration::from_secs(60))
    }

    /// In memory where that is possible: making what is removed here would take a disk far longer.
    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").or_else(|_no_such| tempfile::tempdir()).unwrap()
    }

    #[test]
    fn a_chain_deeper_than_any_stack_or_descriptor_table_goes() {
        let dir = scratch();
        let tree = dir.path().join("upper");
        fs::create_dir(&tree).unwrap();
        let mut at = open_top(&tree).unwrap();
        for _ in 0..20_000 {
            mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            at = open_dir(&at, "d").unwrap();
        }
        drop(at);
        remove_tree(&tree, plenty()).unwrap();
        assert!(!tree.exists());
        remove_tree(&tree, plenty()).unwrap();
    }

    #[test]
    fn odd_names_and_modes_go_and_what_links_lead_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("upper"), dir.path().join("outside"));
        fs::create_dir_all(outside.join("sub")).unwrap();
        fs::write(outside.join("file"), "kept").unwrap();
        let long = "x".repeat(255);
        let names: [&[u8]; 7] =
            [b"-rf", b"a\nb", b"\xFF\xFE", b"...", b" ", b".removed-0-0", long.as_bytes()];
        for below in ["", "one", "one/two"] {
            let base = tree.join(below);
            fs::create_dir_all(&base).unwrap();
            for name in names {
                let name = base.join(OsStr::from_bytes(name));
                fs::create_dir(&name).unwrap();
                fs::write(name.join("file"), "gone").unwrap();
                symlink(&outside, name.join("link")).unwrap();
                fs::set_permissions(&name, fs::Permissions::from_mode(0o555)).unwrap();
            }
            symlink(&outside, base.join("link")).unwrap();
            symlink(outside.join("file"), base.join("file link")).unwrap();
            symlink("nowhere", base.join("dangling")).unwrap();
        }
        remove_tree(&tree, plenty()).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept");
        assert!(outside.join("sub").is_dir());
        symlink(&outside, &tree).unwrap();
        remove_tree(&tree, plenty()).unwrap();
        assert!(!tree.is_symlink() && outside.is_dir(), "a link is removed as a link");
    }

    #[test]
    fn it_stops_at_the_end_of_its_time_and_the_next_call_goes_on() {
        let dir = scratch();
        let tree = dir.path().join("upper");
        for part in 0..100 {
            let part = tree.join(format!("p{part}/q"));
            fs::create_dir_all(&part).unwrap();
            for file in 0..1000 {
                rustix::fs::mknodat(
                    CWD,
                    part.join(file.to_string()),
                    rustix::fs::FileType::RegularFile,
                    Mode::from_raw_mode(0o600),
                    0,
                )
                .unwrap();
            }
        }
        let expired = remove_tree(&tree, Budget::within(Duration::ZERO)).unwrap_err();
        assert_eq!(expired.source.kind(), io::ErrorKind::TimedOut);
        let mut calls = 1;
        while let Err(error) = remove_tree(&tree, Budget::within(Duration::from_millis(20))) {
            assert_eq!(error.source.kind(), io::ErrorKind::TimedOut);
            calls += 1;
            assert!(calls < 10_000, "every call gets on");
        }
        assert!(calls > 1, "100000 files take longer than 20 ms");
        assert!(!tree.exists());
    }

    #[test]
    fn only_what_is_to_be_kept_stays() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["lifecycle.json", "lifecycle.json.next", "pid", ".pid.tmp"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        fs::create_dir_all(dir.path().join("runtime/l1")).unwrap();
        let record = |name: &OsStr| name.as_bytes().starts_with(b"lifecycle.json");
        remove_below(dir.path(), record, plenty()).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["lifecycle.json", "lifecycle.json.next"]);
        remove_below(Path::new("/nowhere/at/all"), record, plenty()).unwrap();
    }

    #[test]
    fn what_is_mounted_in_a_tree_is_not_removed_with_it() {
        use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

        let dir = scratch();
        crate::thread::in_own_thread("test", || {
            crate::view::make_private().unwrap();
            for held in ["tree", "tree/a", "tree/a/b"] {
                let tree = dir.path().join("tree");
                let held = dir.path().join(held);
                fs::create_dir_all(tree.join("a/b"))?;
                mount("held", &held, "tmpfs", MountFlags::empty(), None)?;
                fs::write(held.join("precious"), "")?;
                remove_tree(&tree, plenty()).unwrap_err();
                // The directories above it may have been moved, and it with them.
                let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
                let line = mounts.lines().find(|line| line.contains(" - tmpfs held ")).unwrap();
                let held = Path::new(line.split(' ').nth(4).unwrap());
                assert!(held.join("precious").exists(), "{}", held.display());
                unmount(held, UnmountFlags::empty())?;
                remove_tree(&tree, plenty()).unwrap();
                assert!(!tree.exists());
            }
            Ok(())
        })
        .unwrap();
    }
}
