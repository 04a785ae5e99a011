//! What bears a node's mark and belongs to nobody, asked from a fresh process.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use host::HostError;
use host::census::{CensusError, Item, Kind, Owner, census};
use host::cgroup::{Cgroups, Layout};
use host::identity::{is_held, mark_of};
use host::net::Firewall;
use lifecycle::Budget;

use crate::ledger::LifecycleDir;
use crate::start::find;

/// A census with its owners.
#[derive(Debug, serde::Serialize)]
pub struct LeakReport {
    /// Whether a daemon holds the data directory.
    pub daemon_running: bool,
    /// Lifecycles that a running daemon accounts for.
    pub lifecycles: usize,
    /// Objects that belong to them, or to the daemon.
    pub owned: Vec<Item>,
    /// Objects that nobody accounts for.
    pub leaked: Vec<Item>,
}

/// The question could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum LeaksError {
    #[error("there is no data directory {}; pass --data-dir", .0.display())]
    NoDataDir(PathBuf),
    #[error("nft is not installed; install nftables")]
    NoNft,
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Census(#[from] CensusError),
}

const LIMIT: Duration = Duration::from_secs(30);

/// Takes the census of the node of `data_dir` and says what is owned.
///
/// While a daemon runs, a lifecycle with a directory is its business, and so is a link without one:
/// slots are made ahead. Without a daemon nothing is owned: it is for the next one to take over or to
/// remove.
///
/// # Errors
/// When a part of the census cannot be taken.
pub async fn leaks(data_dir: &Path, network: Ipv4Addr) -> Result<LeakReport, LeaksError> {
    if !data_dir.is_dir() {
        return Err(LeaksError::NoDataDir(data_dir.to_owned()));
    }
    let report = look(data_dir, network).await?;
    if !report.daemon_running || report.leaked.is_empty() {
        return Ok(report);
    }
    // A sandbox that ends while the census is taken is in one part of it and not in the next. Its
    // directory goes last, so it is gone when it is looked for again; what nobody owns is there
    // both times.
    let mut again = look(data_dir, network).await?;
    if again.daemon_running {
        again.leaked.retain(|item| report.leaked.contains(item));
    }
    Ok(again)
}

async fn look(data_dir: &Path, network: Ipv4Addr) -> Result<LeakReport, LeaksError> {
    let daemon_running = is_held(data_dir)?;
    let mut report =
        LeakReport { daemon_running, lifecycles: 0, owned: Vec::new(), leaked: Vec::new() };
    // Never claimed since the last boot: no object of it can exist.
    let Some(mark) = mark_of(data_dir, network) else { return Ok(report) };
    let cgroups = Cgroups::existing(Layout::detect()?, mark.cgroup_root());
    let firewall = Firewall::new(find("nft").ok_or(LeaksError::NoNft)?, mark);
    let lifecycles = data_dir.join("node").join("lifecycles");
    let items = census(mark, &cgroups, &firewall, &lifecycles, Budget::within(LIMIT)).await?;
    let known: BTreeSet<String> = items
        .iter()
        .filter(|item| item.kind == Kind::LifecycleDirectory)
        .filter_map(|item| match &item.owner {
            Owner::Lifecycle(id) => Some(id.clone()),
            Owner::Slot(_) | Owner::Node => None,
        })
        // One without a readable record is owned by nobody who could say what is in it.
        .filter(|id| matches!(LifecycleDir::named(&lifecycles, id).read(), Ok(Some(_))))
        .collect();
    report.lifecycles = known.len();
    for item in items {
        let owned = daemon_running
            && match &item.owner {
                Owner::Lifecycle(id) => known.contains(id),
                Owner::Slot(_) | Owner::Node => true,
            };
        if owned { report.owned.push(item) } else { report.leaked.push(item) }
    }
    Ok(report)
}
