//! The classic mistakes. Nothing here is used but to show that the checker finds them.

use std::collections::{BTreeSet, HashMap};

use model::SandboxId;

use crate::entry::Entry;
use crate::lifecycles::{Book, identity};
use crate::pulse::Pulse;
use crate::slots::Give;
use crate::sync::{Arc, Mutex};

/// Chooses an index that is free, and writes down afterwards that it is not.
#[derive(Debug)]
pub(crate) struct Indexes {
    size: u16,
    given: Mutex<BTreeSet<u16>>,
}

impl Give for Indexes {
    fn new(size: u16) -> Arc<Self> {
        Arc::new(Self { size, given: Mutex::default() })
    }

    fn give(self: &Arc<Self>) -> Option<u16> {
        let free = {
            let given = self.given.lock();
            (0..self.size).find(|index| !given.contains(index))
        }?;
        self.given.lock().insert(free);
        Some(free)
    }
}

/// Looks whether the id is free, and enters it afterwards.
#[derive(Debug, Default)]
pub(crate) struct LooksThenEnters {
    entries: Mutex<HashMap<SandboxId, Arc<Entry>>>,
}

impl Book for LooksThenEnters {
    fn reserve(&self, id: &str, lifecycle: &str) -> Option<Arc<Entry>> {
        let identity = identity(id, lifecycle);
        if self.entries.lock().contains_key(&identity.id) {
            return None;
        }
        let entry = Arc::new(Entry::new(identity, std::time::Duration::ZERO, Pulse::default()));
        self.entries.lock().insert(entry.id.clone(), Arc::clone(&entry));
        Some(entry)
    }

    fn get(&self, id: &SandboxId) -> Option<Arc<Entry>> {
        self.entries.lock().get(id).cloned()
    }

    fn remove(&self, entry: &Arc<Entry>, confirm: impl FnOnce(&Entry)) {
        let mut entries = self.entries.lock();
        entries.remove(&entry.id);
        confirm(entry);
    }
}

/// Tells of the end, and leaves the book afterwards.
#[derive(Debug, Default)]
pub(crate) struct TellsThenLeaves(LooksThenEnters);

impl Book for TellsThenLeaves {
    fn reserve(&self, id: &str, lifecycle: &str) -> Option<Arc<Entry>> {
        self.0.reserve(id, lifecycle)
    }

    fn get(&self, id: &SandboxId) -> Option<Arc<Entry>> {
        self.0.get(id)
    }

    fn remove(&self, entry: &Arc<Entry>, confirm: impl FnOnce(&Entry)) {
        confirm(entry);
        self.0.remove(entry, |_| {});
    }
}
