//! What becomes of the machine when a daemon is gone and others come after it.

use crate::backend::NotAdopted;
use crate::fake::{Class, Fake};
use crate::ledger::Record;

/// Everything that a sandbox has as long as it is live.
pub(crate) const OF_LIVE: [Class; 7] = [
    Class::Directory,
    Class::Lease,
    Class::Slot,
    Class::Cgroup,
    Class::Files,
    Class::Runtime,
    Class::Process,
];

/// What goes with the daemon that has it, whatever becomes of the sandbox.
const OF_DAEMON: [Class; 2] = [Class::Lease, Class::Mount];

impl Fake {
    /// The daemon is killed. What it alone held is gone; everything else stays as it is. Its tasks
    /// must not run any more.
    pub(crate) fn crash(&self) {
        let mut table = self.table.lock();
        table.daemons += 1;
        table.claimed = false;
        table.closing = false;
        table.hangs = None;
        // What has no files is no sandbox to the next one.
        for taken in std::mem::take(&mut table.taken) {
            table.sealed.remove(&taken);
        }
        table.held.retain(|(_, class)| !OF_DAEMON.contains(class));
    }

    /// The host is restarted: nothing is left but files.
    pub(crate) fn reboot(&self) {
        let mut table = self.table.lock();
        let files = [Class::Directory, Class::Files, Class::Runtime];
        table.held.retain(|(_, class)| files.contains(class));
        table.slots.clear();
        table.frozen.clear();
        table.node.clear();
        table.boot_id = "next boot";
    }

    /// Somebody takes away what the node has as a whole.
    pub(crate) fn lose_node(&self) {
        self.table.lock().node.clear();
    }

    /// `class` of the sandbox goes by itself.
    pub(crate) fn lose(&self, lifecycle: &str, class: Class) {
        self.table.lock().remove(lifecycle, class);
        self.deaths.send_replace(());
    }

    /// Nothing can be written from now on, or everything again.
    pub(crate) fn set_full(&self, full: bool) {
        self.table.lock().full = full;
    }

    /// There is something that belongs to no lifecycle.
    pub(crate) fn stray(&self) {
        self.table.lock().strays = true;
    }

    pub(crate) fn has_strays(&self) -> bool {
        self.table.lock().strays
    }

    pub(crate) fn record(&self, lifecycle: &str) -> Option<Record> {
        self.table.lock().records.get(lifecycle).cloned()
    }

    /// Changes what is written of a lifecycle behind the node's back; `None` makes it unreadable.
    pub(crate) fn tamper(&self, lifecycle: &str, change: impl FnOnce(Record) -> Option<Record>) {
        let mut table = self.table.lock();
        let changed = table.records.remove(lifecycle).and_then(change);
        table.records.extend(changed.map(|record| (lifecycle.to_owned(), record)));
    }

    pub(super) fn take_over(&self, lifecycle: &str) -> Result<(), NotAdopted> {
        let mut table = self.table.lock();
        if !table.node.contains(&crate::backend::Closer::Firewall) {
            table.wrong(format!("{lifecycle}: taken over without a firewall"));
        }
        if !table.has(lifecycle, Class::Process) {
            return Err(NotAdopted::Gone);
        }
        let needed = OF_LIVE.iter().filter(|class| !OF_DAEMON.contains(class));
        for class in needed {
            if !table.has(lifecycle, *class) {
                return Err(NotAdopted::Refused(format!("it has no {class:?}")));
            }
        }
        table.add(lifecycle, Class::Lease);
        Ok(())
    }
}
