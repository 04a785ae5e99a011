//! What is where on the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::SandboxId;
use node_wire::NewSnapshot;

use crate::backend::Closer;
use crate::ledger::Record;
use crate::teardown::Step;

/// What a lifecycle can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Directory,
    Lease,
    Slot,
    Cgroup,
    Files,
    Mount,
    Runtime,
    Process,
}

/// How the machine of a sandbox behaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manner {
    /// A kill has no effect before [`Fake::obey`].
    pub deaf: bool,
    /// Its guest agent never answers.
    pub mute: bool,
    /// It takes this long to be made.
    pub boots_for: Duration,
    /// What it has written takes this long to be on the disk.
    pub syncs_for: Duration,
    /// What it has written takes this long to be copied.
    pub copies_for: Duration,
    /// It ends by itself this long after it was made.
    pub dies_after: Option<Duration>,
    /// This step takes so long.
    pub slow: Option<(Step, Duration)>,
    /// This step fails.
    pub refuses: Option<Step>,
}

pub(super) type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(super) struct Table {
    pub held: BTreeSet<(String, Class)>,
    /// Whose which slot is.
    pub slots: BTreeMap<u16, String>,
    pub next_slot: u16,
    /// What the node has as a whole, by who closes it.
    pub node: Vec<Closer>,
    pub claimed: bool,
    /// Daemons that are gone. What one of them held, it holds no more.
    pub daemons: u32,
    /// Lifecycles whose processes stand still.
    pub frozen: BTreeSet<String>,
    /// Lifecycles of which what was written is on the disk.
    pub synced: BTreeSet<String>,
    /// What is kept of sandboxes, by their records.
    pub sealed: BTreeMap<String, Record>,
    /// Those of them whose files are with a run.
    pub taken: BTreeSet<String>,
    /// Snapshots that were made.
    pub snapshots: Vec<NewSnapshot>,
    /// What is written of lifecycles, and of those that have gone.
    pub records: BTreeMap<String, Record>,
    pub past: Vec<Record>,
    /// Nothing can be written.
    pub full: bool,
    /// There is something that belongs to no lifecycle.
    pub strays: bool,
    /// How often a guest agent was asked what it has noted.
    pub journals: u64,
    pub boot_id: &'static str,
    pub manners: BTreeMap<SandboxId, Manner>,
    /// Called when the guest agent of a sandbox has answered, before the node hears of it.
    pub at_init: BTreeMap<SandboxId, Hook>,
    /// Steps that are in the middle of their work.
    pub releasing: u32,
    /// From the first closer to the end of the last.
    pub closing: bool,
    pub hangs: Option<Closer>,
    pub closed: Vec<Closer>,
    /// Lifecycles that were killed.
    pub killed: Vec<String>,
    pub wrongs: Vec<String>,
}

pub(super) const SLOTS: u16 = 512;

impl Table {
    pub(super) fn wrong(&mut self, what: String) {
        self.wrongs.push(what);
    }

    pub(super) fn has(&self, lifecycle: &str, class: Class) -> bool {
        self.held.contains(&(lifecycle.to_owned(), class))
    }

    pub(super) fn add(&mut self, lifecycle: &str, class: Class) {
        if !self.held.insert((lifecycle.to_owned(), class)) {
            self.wrong(format!("{lifecycle}: {class:?} acquired twice"));
        }
    }

    pub(super) fn remove(&mut self, lifecycle: &str, class: Class) {
        self.held.remove(&(lifecycle.to_owned(), class));
    }

    /// What of `classes` the lifecycle has.
    pub(super) fn which(&self, lifecycle: &str, classes: &[Class]) -> Option<Class> {
        classes.iter().copied().find(|class| self.has(lifecycle, *class))
    }
}
