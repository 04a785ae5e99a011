//! Everything on this host that carries a node's mark, listed from any process at any time.
//!
//! It reads the kernel, never a record of ours. What dies with its holder (namespaces, mounts in the
//! daemon's private view) shows through what it leaves visible: links, processes, cgroups, files.

use std::fs;
use std::io;
use std::path::Path;

use lifecycle::{Budget, Release};

use crate::cgroup::Cgroups;
use crate::error::Tried;
use crate::net::{Firewall, FirewallError, linked_slots};
use crate::proc::unescape;
use crate::{HostError, Mark};

/// What kind of object it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Process,
    Cgroup,
    Link,
    FirewallTable,
    Mount,
    LifecycleDirectory,
}

/// Whom an object is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// One run of a sandbox.
    Lifecycle(String),
    /// A slot; which sandbox has it is written in that sandbox's lifecycle directory.
    Slot(u16),
    /// The node as a whole, as long as it runs.
    Node,
}

/// One object of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Item {
    pub kind: Kind,
    pub name: String,
    pub owner: Owner,
}

/// Why the census could not be taken. A partial census proves nothing, so there is none.
#[derive(Debug, thiserror::Error)]
pub enum CensusError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("list firewall tables")]
    Firewall(#[from] FirewallError),
}

/// The cgroup of helpers that make slots. It is the node's, not a sandbox's.
pub const HELPERS: &str = "_helpers";

/// Lists everything with `mark`, and the lifecycle directories below `lifecycles`.
///
/// # Errors
/// When any part of it cannot be read.
pub async fn census(
    mark: Mark,
    cgroups: &Cgroups,
    firewall: &Firewall,
    lifecycles: &Path,
    budget: Budget,
) -> Result<Vec<Item>, CensusError> {
    let mut items = Vec::new();
    for root in cgroups.roots()? {
        if root.exists() {
            let name = root.to_string_lossy().into_owned();
            items.push(Item { kind: Kind::Cgroup, name, owner: Owner::Node });
        }
    }
    for name in cgroups.list()? {
        let owner = owner_of(&name);
        items.extend(processes(cgroups, &name, &owner)?);
        items.push(Item { kind: Kind::Cgroup, name, owner });
    }
    for slot in linked_slots(mark)? {
        items.push(Item { kind: Kind::Link, name: mark.link(slot), owner: Owner::Slot(slot) });
    }
    if firewall.exists(budget).await? {
        let name = firewall.name().to_owned();
        items.push(Item { kind: Kind::FirewallTable, name, owner: Owner::Node });
    }
    items.extend(mounts(lifecycles)?);
    for id in lifecycle_ids(lifecycles)? {
        let name = lifecycles.join(&id).to_string_lossy().into_owned();
        items.push(Item { kind: Kind::LifecycleDirectory, name, owner: Owner::Lifecycle(id) });
    }
    items.sort();
    Ok(items)
}

/// The names of the directories below `lifecycles`.
///
/// # Errors
/// When the directory exists and cannot be read.
pub fn lifecycle_ids(lifecycles: &Path) -> Result<Vec<String>, HostError> {
    let entries = match fs::read_dir(lifecycles) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.tried("list", lifecycles.to_string_lossy())?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.tried("list", lifecycles.to_string_lossy())?;
        ids.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(ids)
}

fn owner_of(cgroup: &str) -> Owner {
    if cgroup == HELPERS { Owner::Node } else { Owner::Lifecycle(cgroup.to_owned()) }
}

fn processes(cgroups: &Cgroups, name: &str, owner: &Owner) -> Result<Vec<Item>, HostError> {
    let item = |pid: i32| {
        // One that has ended since has no name any more; it was there when it was listed.
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Item { kind: Kind::Process, name: format!("{pid} {}", comm.trim()), owner: owner.clone() }
    };
    Ok(cgroups.named(name).pids()?.into_iter().map(item).collect())
}

/// Mounts of lifecycles, in the host's own view or in ours.
fn mounts(lifecycles: &Path) -> Result<Vec<Item>, HostError> {
    let mut found = Vec::new();
    for view in ["/proc/1/mountinfo", "/proc/thread-self/mountinfo"] {
        let text = fs::read_to_string(view).tried("read", view)?;
        for path in text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape) {
            let path_below = |dir: &Path| path.strip_prefix(dir).ok().map(Path::to_owned);
            let below = path_below(lifecycles).or_else(|| path_below(Path::new(crate::view::DIR)));
            let Some(below) = below else { continue };
            let Some(first) = below.components().next() else { continue };
            let id = first.as_os_str().to_string_lossy();
            let id = id.split('.').next().unwrap_or_default();
            // Lifecycle ids begin so; the agent's file is in the view as long as the daemon is.
            if !id.starts_with('l') {
                continue;
            }
            let owner = Owner::Lifecycle(id.to_owned());
            found.push(Item {
                kind: Kind::Mount,
                name: path.to_string_lossy().into_owned(),
                owner,
            });
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}
