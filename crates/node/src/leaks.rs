//! What bears a node's mark and who accounts for it, asked from a fresh process.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use host::HostError;
use host::census::{CensusError, Item, Kind, Owner, census};
use host::cgroup::{Cgroups, Layout};
use host::identity::{is_held, mark_of};
use host::net::Firewall;
use host::process::Process;
use lifecycle::Budget;

use crate::ledger::{Fate, LifecycleDir, Record};
use crate::start::{boot_id, find};

/// A census with its owners.
#[derive(Debug, serde::Serialize)]
pub struct LeakReport {
    /// Whether a daemon holds the data directory.
    pub daemon_running: bool,
    /// Lifecycles that a running daemon accounts for; without one, those that live and wait for it.
    pub lifecycles: usize,
    /// Objects that belong to a running daemon or to what it accounts for.
    pub owned: Vec<Item>,
    /// Without a daemon: objects of sandboxes that live, which the next one takes over, and what they
    /// need of the node.
    pub waiting: Vec<Item>,
    /// Without a daemon: objects of what was half made or half removed, and of the node itself. The
    /// next one removes or takes them.
    pub unfinished: Vec<Item>,
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
    #[error("read the number of this boot")]
    Boot(#[source] std::io::Error),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Census(#[from] CensusError),
}

const LIMIT: Duration = Duration::from_secs(30);
/// How long the kernel may take to remove the links of slots that nobody holds any more.
const LINKS_LIMIT: Duration = Duration::from_secs(5);
const LINKS_PAUSE: Duration = Duration::from_millis(20);

/// Takes the census of the node of `data_dir` and says who accounts for what.
///
/// While a daemon runs, a lifecycle with a directory is its business, and so is a link without one:
/// slots are made ahead. Without a daemon the records say what the next one will find, and the kernel
/// what of it lives.
///
/// # Errors
/// When a part of the census cannot be taken.
pub async fn leaks(data_dir: &Path, network: Ipv4Addr) -> Result<LeakReport, LeaksError> {
    if !data_dir.is_dir() {
        return Err(LeaksError::NoDataDir(data_dir.to_owned()));
    }
    let first = look(data_dir, network).await?;
    if first.leaked.is_empty() {
        return Ok(first);
    }
    // A sandbox that ends while the census is taken is in one part of it and not in the next. Its
    // directory goes last, so it is gone when it is looked for again; what nobody owns is there
    // both times.
    let mut again = look(data_dir, network).await?;
    let end = Instant::now() + LINKS_LIMIT;
    // A daemon that was killed has slots that were made ahead; the kernel takes their links away a
    // little later than it.
    while !again.daemon_running && again.has_link_of_nobody() && Instant::now() < end {
        tokio::time::sleep(LINKS_PAUSE).await;
        again = look(data_dir, network).await?;
    }
    if again.daemon_running {
        again.leaked.retain(|item| first.leaked.contains(item));
    }
    Ok(again)
}

impl LeakReport {
    fn has_link_of_nobody(&self) -> bool {
        self.leaked.iter().any(|item| item.kind == Kind::Link)
    }
}

async fn look(data_dir: &Path, network: Ipv4Addr) -> Result<LeakReport, LeaksError> {
    let mut report = LeakReport {
        daemon_running: is_held(data_dir)?,
        lifecycles: 0,
        owned: Vec::new(),
        waiting: Vec::new(),
        unfinished: Vec::new(),
        leaked: Vec::new(),
    };
    // Never claimed since the last boot: no object of it can exist.
    let Some(mark) = mark_of(data_dir, network) else { return Ok(report) };
    let cgroups = Cgroups::existing(Layout::detect()?, mark.cgroup_root());
    let firewall = Firewall::new(find("nft").ok_or(LeaksError::NoNft)?, mark);
    let lifecycles = data_dir.join("node").join("lifecycles");
    let items = census(mark, &cgroups, &firewall, &lifecycles, Budget::within(LIMIT)).await?;
    let books = Books::read(&items, &lifecycles, &cgroups, report.daemon_running)?;
    report.lifecycles = books.accounted();
    for item in items {
        let place = match books.whose(&item.owner) {
            Whose::Daemons => &mut report.owned,
            Whose::Waiting => &mut report.waiting,
            Whose::Unfinished => &mut report.unfinished,
            Whose::Nobodys => &mut report.leaked,
        };
        place.push(item);
    }
    Ok(report)
}

/// Who accounts for an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Daemons,
    Waiting,
    Unfinished,
    Nobodys,
}

/// What the records say of those in a census.
#[derive(Debug)]
struct Books {
    daemon_running: bool,
    lifecycles: BTreeMap<String, Whose>,
    /// Without a daemon: by whose record a slot is used.
    slots: BTreeMap<u16, Whose>,
}

impl Books {
    fn read(
        items: &[Item],
        lifecycles: &Path,
        cgroups: &Cgroups,
        daemon_running: bool,
    ) -> Result<Self, LeaksError> {
        let mut books =
            Self { daemon_running, lifecycles: BTreeMap::new(), slots: BTreeMap::new() };
        let boot_id = boot_id().map_err(LeaksError::Boot)?;
        for item in items.iter().filter(|item| item.kind == Kind::LifecycleDirectory) {
            let Owner::Lifecycle(id) = &item.owner else { continue };
            // One without a readable record is owned by nobody who could say what is in it.
            let Ok(Some(record)) = LifecycleDir::named(lifecycles, id).read() else { continue };
            let whose = match daemon_running {
                true => Whose::Daemons,
                false if is_live(id, &record, &boot_id, cgroups)? => Whose::Waiting,
                false => Whose::Unfinished,
            };
            books.lifecycles.insert(id.clone(), whose);
            // One that lives is sure to have its slot; a record that is wrong takes none from it.
            if let Some(slot) = record.slot
                && books.slots.get(&slot) != Some(&Whose::Waiting)
            {
                books.slots.insert(slot, whose);
            }
        }
        Ok(books)
    }

    fn accounted(&self) -> usize {
        self.lifecycles.values().filter(|whose| **whose != Whose::Unfinished).count()
    }

    fn whose(&self, owner: &Owner) -> Whose {
        let known = |whose: Option<&Whose>| whose.copied().unwrap_or(Whose::Nobodys);
        match owner {
            Owner::Lifecycle(id) => known(self.lifecycles.get(id)),
            Owner::Slot(_) | Owner::Node if self.daemon_running => Whose::Daemons,
            Owner::Slot(index) => known(self.slots.get(index)),
            Owner::Node if self.accounted() > 0 => Whose::Waiting,
            Owner::Node => Whose::Unfinished,
        }
    }
}

/// Whether the next daemon takes it over: by its record it was live, and the process that the record
/// names by its number and its start time runs, in its own group.
fn is_live(id: &str, record: &Record, boot_id: &str, cgroups: &Cgroups) -> Result<bool, HostError> {
    if record.fate(boot_id) != Fate::Live {
        return Ok(false);
    }
    let Some(identity) = record.process else { return Ok(false) };
    Ok(Process::adopt(identity)?.is_some() && cgroups.named(id).pids()?.contains(&identity.pid))
}
