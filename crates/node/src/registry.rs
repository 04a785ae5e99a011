//! One entry per lifecycle, from before the first acquisition to after the last confirmed release.

use std::collections::HashMap;

use model::SandboxId;
use node_wire::CreateError;

use crate::entry::{Entry, Identity};
use crate::pulse::Pulse;
use crate::sync::{Arc, Mutex};

#[derive(Debug)]
pub(crate) struct Registry {
    limit: u32,
    pulse: Pulse,
    entries: Mutex<HashMap<SandboxId, Arc<Entry>>>,
}

impl Registry {
    pub(crate) fn new(limit: u32, pulse: Pulse) -> Self {
        Self { limit, pulse, entries: Mutex::default() }
    }

    /// Enters a new lifecycle. Refused before anything is acquired when the id is in use or the
    /// node is full; what is stuck counts.
    pub(crate) fn reserve(
        &self,
        identity: Identity,
        ttl: std::time::Duration,
    ) -> Result<Arc<Entry>, CreateError> {
        let mut entries = self.entries.lock();
        if entries.contains_key(&identity.id) {
            return Err(CreateError::AlreadyExists(identity.id.to_string()));
        }
        if entries.len() >= usize::try_from(self.limit).unwrap_or(usize::MAX) {
            return Err(CreateError::Full { limit: self.limit });
        }
        let entry = Arc::new(Entry::new(identity, ttl, self.pulse.clone()));
        entries.insert(entry.id.clone(), Arc::clone(&entry));
        Ok(entry)
    }

    /// Enters a lifecycle that is on the host already, however many there are. `None` when its id
    /// is in use.
    pub(crate) fn enter(&self, entry: Entry) -> Option<Arc<Entry>> {
        let mut entries = self.entries.lock();
        if entries.contains_key(&entry.id) {
            return None;
        }
        let entry = Arc::new(entry);
        entries.insert(entry.id.clone(), Arc::clone(&entry));
        drop(entries);
        self.pulse.beat();
        Some(entry)
    }

    pub(crate) fn get(&self, id: &SandboxId) -> Option<Arc<Entry>> {
        self.entries.lock().get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        self.entries.lock().values().cloned().collect()
    }

    /// Takes a lifecycle out whose every release is confirmed, and says so to who waits for it:
    /// nobody finds it any more who has heard of its end, and nobody misses both.
    pub(crate) fn remove(&self, entry: &Arc<Entry>, confirm: impl FnOnce(&Entry)) {
        let mut entries = self.entries.lock();
        // Its id may be another lifecycle's by now, if this is a repetition.
        if entries.get(&entry.id).is_some_and(|there| Arc::ptr_eq(there, entry)) {
            entries.remove(&entry.id);
        }
        confirm(entry);
        drop(entries);
        self.pulse.beat();
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.lock().len()
    }
}
