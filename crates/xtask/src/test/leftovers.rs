//! The last check of a test run: nothing that carries our mark is on the host that was not there
//! before. It looks with its own eyes, through `/sys` and `/proc`, and shares no code with the
//! product's census: a fault in that must not hide itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::failure::{Failure, Result};
use crate::{command, processes};

/// How deep below the cgroup file system the product makes its groups, at most.
const CGROUP_DEPTH: usize = 4;

/// How long what is going away may take: the host's first process waits for orphans when it likes.
const SETTLE: Duration = Duration::from_secs(15);

/// Everything on the host that carries our mark, one line each.
pub(crate) struct Leftovers(BTreeSet<String>);

impl Leftovers {
    /// Looks for cgroups, links, firewall tables, mounts and processes.
    pub(crate) fn find() -> Self {
        let mut found = BTreeSet::new();
        cgroups(Path::new("/sys/fs/cgroup"), CGROUP_DEPTH, &mut found);
        links(&mut found);
        tables(&mut found);
        mounts(&mut found);
        processes(&mut found);
        Self(found)
    }

    /// Compares with the host as it is now. What the kernel or the first process of the host is
    /// still clearing away is waited for.
    ///
    /// # Errors
    /// Something is there now that was not there when `self` was found, and does not go away.
    pub(crate) fn nothing_new(&self) -> Result<()> {
        let mut new = BTreeSet::new();
        let gone = command::wait_until(SETTLE, || {
            new = Self::find().0.difference(&self.0).cloned().collect();
            new.is_empty()
        });
        if gone {
            return Ok(());
        }
        let new: Vec<String> = new.into_iter().collect();
        Err(Failure::new(format!("left behind on this host:\n      {}", new.join("\n      "))))
    }
}

fn cgroups(folder: &Path, depth: usize, found: &mut BTreeSet<String>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    for entry in entries(folder) {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().starts_with("cofferdam") {
            found.insert(format!("cgroup {}", entry.path().display()));
        } else {
            cgroups(&entry.path(), depth, found);
        }
    }
}

fn links(found: &mut BTreeSet<String>) {
    for entry in entries(Path::new("/sys/class/net")) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("cd") && name.contains('-') {
            found.insert(format!("link {name}"));
        }
    }
}

fn tables(found: &mut BTreeSet<String>) {
    let Some(nft) = crate::packages::find("nft") else { return };
    let listed = command::answer(Command::new(nft).args(["list", "tables"])).unwrap_or_default();
    found.extend(
        listed
            .lines()
            .filter(|line| {
                line.rsplit(' ').next().is_some_and(|name| name.starts_with("cofferdam"))
            })
            .map(|line| format!("nft {line}")),
    );
}

fn mounts(found: &mut BTreeSet<String>) {
    let data = crate::sdk::data_folder();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(
        table
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|place| place.contains("cofferdam") || Path::new(place).starts_with(&data))
            .map(|place| format!("mount {place}")),
    );
}

fn processes(found: &mut BTreeSet<String>) {
    let ours = [crate::paths::release().join("cofferdam"), crate::paths::release().join("envd")];
    for pid in processes::pids() {
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if ours.contains(&program) || groups.contains("/cofferdam") {
            found.insert(format!("process {pid} {}", program.display()));
        }
    }
}

/// What is in a folder; nothing if it is not there or goes away meanwhile.
fn entries(folder: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(folder).into_iter().flatten().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Leftovers, cgroups};

    #[test]
    fn a_group_with_our_name_is_found_at_any_depth_and_others_are_not() {
        let root = std::env::temp_dir().join(format!("xtask-leftovers-{}", std::process::id()));
        std::fs::create_dir_all(root.join("unified/cofferdam-x/lifecycle")).unwrap();
        std::fs::create_dir_all(root.join("memory/system")).unwrap();
        let mut found = BTreeSet::new();
        cgroups(&root, 4, &mut found);
        std::fs::remove_dir_all(&root).unwrap();
        let expected = format!("cgroup {}", root.join("unified/cofferdam-x").display());
        assert_eq!(found, BTreeSet::from([expected]));
    }

    #[test]
    fn only_what_is_new_counts_as_left_behind() {
        let mut before = Leftovers::find();
        before.0.insert("link cdaaaa-1".to_owned());
        before.nothing_new().unwrap();
    }
}
