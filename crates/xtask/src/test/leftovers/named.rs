//! What has a name of ours, and can be removed by it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::entries;
use crate::{command, packages};

/// How deep below the cgroup file system the product makes its groups, at most.
const CGROUP_DEPTH: usize = 4;

/// What there is of ours under a name. The order is the one in which it can be removed.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Named {
    Cgroup(PathBuf),
    Link(String),
    /// A network namespace.
    Network(String),
    /// A firewall table: its family and name.
    Table(String, String),
}

/// Everything of ours on this host that has a name.
pub(crate) fn named() -> BTreeSet<Named> {
    let mut found = BTreeSet::new();
    cgroups(Path::new("/sys/fs/cgroup"), CGROUP_DEPTH, &mut found);
    let names =
        |folder| entries(Path::new(folder)).map(|e| e.file_name().to_string_lossy().into_owned());
    let is_link = |name: &String| name.starts_with("cd") && name.contains('-');
    found.extend(names("/sys/class/net").filter(is_link).map(Named::Link));
    let is_ours = |name: &String| name.starts_with("cofferdam");
    found.extend(names("/run/netns").filter(is_ours).map(Named::Network));
    tables(&mut found);
    found
}

fn cgroups(folder: &Path, depth: usize, found: &mut BTreeSet<Named>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    for entry in entries(folder) {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().starts_with("cofferdam") {
            found.insert(Named::Cgroup(entry.path()));
        } else {
            cgroups(&entry.path(), depth, found);
        }
    }
}

fn tables(found: &mut BTreeSet<Named>) {
    let Some(nft) = packages::find("nft") else { return };
    let listed = command::answer(Command::new(nft).args(["list", "tables"])).unwrap_or_default();
    for line in listed.lines() {
        // `table FAMILY NAME`
        if let [_, family, name] = line.split(' ').collect::<Vec<_>>()[..]
            && name.starts_with("cofferdam")
        {
            found.insert(Named::Table(family.to_owned(), name.to_owned()));
        }
    }
}

impl Named {
    fn name(&self) -> &str {
        match self {
            Self::Cgroup(path) => {
                path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
            }
            Self::Link(name) | Self::Network(name) | Self::Table(_, name) => name,
        }
    }

    /// What follows the product's name, and the number that is last in it.
    fn parts(&self) -> Option<(&str, u32)> {
        let (kind, number) = self.name().rsplit_once(['-', '_'])?;
        let kind = match self {
            Self::Link(_) => kind.strip_prefix("cd"),
            _ => kind.strip_prefix("cofferdam"),
        };
        Some((kind?, number.parse().ok()?))
    }

    /// The block of names that it is of: those of a node have its number and, at most, one of a slot.
    pub(crate) fn block(&self) -> Option<u8> {
        match (self, self.parts()?) {
            (Self::Link(_), (block, _slot)) => block.parse().ok(),
            (Self::Cgroup(_) | Self::Table(..), ("", block)) => block.try_into().ok(),
            _ => None,
        }
    }

    /// The process whose it is, where a test has made it beside a node: `cofferdam-WHAT-PID`,
    /// `cdWHAT-PID`.
    pub(crate) fn maker(&self) -> Option<u32> {
        let (kind, pid) = self.parts()?;
        kind.contains(|c: char| c.is_ascii_alphabetic()).then_some(pid)
    }

    /// Removes it with all that is in it. What it was, if it is gone in time.
    pub(crate) fn remove(&self, limit: Duration) -> Option<String> {
        let is_gone = match self {
            Self::Cgroup(path) => remove_group(path, limit),
            Self::Link(name) => tool("ip", &["link", "delete", name]),
            Self::Network(name) => tool("ip", &["netns", "delete", name]),
            Self::Table(family, name) => tool("nft", &["delete", "table", family, name]),
        };
        is_gone.then(|| self.to_string())
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(path) => write!(f, "cgroup {}", path.display()),
            Self::Link(name) => write!(f, "link {name}"),
            Self::Network(name) => write!(f, "network {name}"),
            Self::Table(family, name) => write!(f, "nft table {family} {name}"),
        }
    }
}

fn tool(name: &str, args: &[&str]) -> bool {
    packages::find(name)
        .is_some_and(|tool| command::answer(Command::new(tool).args(args)).is_some())
}

/// Ends what is in a group and in those below it, and removes them all.
fn remove_group(folder: &Path, limit: Duration) -> bool {
    let all = below(folder);
    for group in &all {
        // Version 1 has no such file, and what is no group gets none.
        let kill = fs::File::options().write(true).open(group.join("cgroup.kill"));
        if kill.and_then(|mut kill| kill.write_all(b"1")).is_err() {
            let pids = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            // It may have ended by itself.
            let end = |pid| command::answer(Command::new("kill").args(["-KILL", pid]));
            pids.lines().for_each(|pid| drop(end(pid)));
        }
    }
    command::wait_until(limit, || {
        // The deepest first.
        all.iter().rev().for_each(|group| drop(fs::remove_dir(group)));
        !folder.exists()
    })
}

/// `folder` and those below it, none before the one it is in.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut all = vec![folder.to_owned()];
    let mut next = 0;
    while let Some(folder) = all.get(next).cloned() {
        let folders = entries(&folder).filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()));
        all.extend(folders.map(|entry| entry.path()));
        next += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::{Named, cgroups};

    fn folder(test: &str) -> PathBuf {
        std::env::temp_dir().join(format!("xtask-{test}-{}", std::process::id()))
    }

    #[test]
    fn a_group_with_our_name_is_found_at_any_depth_and_others_are_not() {
        let root = folder("leftovers");
        std::fs::create_dir_all(root.join("unified/cofferdam-x/lifecycle")).unwrap();
        std::fs::create_dir_all(root.join("memory/system")).unwrap();
        let mut found = BTreeSet::new();
        cgroups(&root, 4, &mut found);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(found, BTreeSet::from([Named::Cgroup(root.join("unified/cofferdam-x"))]));
    }

    #[test]
    fn a_group_goes_with_those_below_it() {
        let root = folder("groups").join("cofferdam-5");
        std::fs::create_dir_all(root.join("one/two")).unwrap();
        std::fs::create_dir_all(root.join("three")).unwrap();
        let group = Named::Cgroup(root.clone());
        let gone = group.remove(Duration::from_secs(60));
        assert_eq!(gone, Some(format!("cgroup {}", root.display())));
        std::fs::remove_dir(root.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_name_says_whose_it_is() {
        let group = |name: &str| Named::Cgroup(PathBuf::from("/sys/fs/cgroup").join(name));
        let link = |name: &str| Named::Link(name.to_owned());
        let table = |name: &str| Named::Table("inet".to_owned(), name.to_owned());
        let network = |name: &str| Named::Network(name.to_owned());
        for (named, block, maker) in [
            (group("cofferdam-7"), Some(7), None),
            (group("cofferdam-test-systemd-4711"), None, Some(4711)),
            (group("cofferdam"), None, None),
            (group("cofferdam.service"), None, None),
            (group("cofferdam-mine"), None, None),
            (link("cd14-2047"), Some(14), None),
            (link("cdi-4711"), None, Some(4711)),
            (link("cd-wan0"), None, None),
            (table("cofferdam_0"), Some(0), None),
            (table("cofferdam_foreign_4711"), None, Some(4711)),
            (network("cofferdam-test-4711"), None, Some(4711)),
            (network("cofferdam-7"), None, None),
        ] {
            assert_eq!((named.block(), named.maker()), (block, maker), "{named}");
        }
    }
}
