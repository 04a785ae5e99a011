//! The last check of a test run: nothing that carries our mark is on the host that was not there
//! before. It looks with its own eyes, through `/sys` and `/proc`, and shares no code with the
//! product's census: a fault in that must not hide itself.

mod named;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::{Failure, Result};
use crate::{command, processes};

pub(super) use named::named;

/// How long what is going away may take: the host's first process waits for orphans when it likes.
const SETTLE: Duration = Duration::from_secs(15);

/// Everything on the host that carries our mark, one line each.
pub(crate) struct Leftovers(BTreeSet<String>);

impl Leftovers {
    /// Looks for cgroups, links, networks, firewall tables, mounts and processes.
    pub(crate) fn find() -> Self {
        let mut found: BTreeSet<String> = named().iter().map(ToString::to_string).collect();
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
        self.nothing_new_in(Self::find)
    }

    fn nothing_new_in(&self, find: impl Fn() -> Self) -> Result<()> {
        let mut new = BTreeSet::new();
        let gone = command::wait_until(SETTLE, || {
            new = find().0.difference(&self.0).cloned().collect();
            new.is_empty()
        });
        if gone {
            return Ok(());
        }
        let new: Vec<String> = new.into_iter().collect();
        Err(Failure::new(format!("left behind on this host:\n      {}", new.join("\n      "))))
    }
}

fn mounts(found: &mut BTreeSet<String>) {
    let data = crate::sdk::data_folder();
    let ours =
        |place: &PathBuf| place.to_string_lossy().contains("cofferdam") || place.starts_with(&data);
    let places = mounted().into_iter().filter(ours);
    found.extend(places.map(|place| format!("mount {}", place.display())));
}

/// What is mounted at `folder` or below it, the deepest first.
pub(super) fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let mut places = mounted();
    places.retain(|place| place.starts_with(folder));
    places.sort();
    places.reverse();
    places
}

/// Where anything is mounted.
fn mounted() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
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
pub(super) fn entries(folder: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(folder).into_iter().flatten().flatten()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use super::Leftovers;

    fn those<const N: usize>(lines: [&str; N]) -> Leftovers {
        Leftovers(BTreeSet::from(lines.map(str::to_owned)))
    }

    #[test]
    fn only_what_is_new_counts_as_left_behind() {
        let before = those(["link cd3-1", "link cd3-2"]);
        before.nothing_new_in(|| those(["link cd3-1"])).unwrap();
    }

    #[test]
    fn what_goes_a_little_later_is_waited_for() {
        let looks = Cell::new(0);
        let find = || match looks.replace(looks.get() + 1) {
            0 | 1 => those(["link cd4-1"]),
            _ => those([]),
        };
        those([]).nothing_new_in(find).unwrap();
        assert_eq!(looks.get(), 3);
    }
}
