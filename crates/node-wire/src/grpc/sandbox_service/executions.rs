use std::collections::BTreeMap;

use model::{LifecycleId, SandboxId};
use parking_lot::Mutex;

use crate::SandboxStatus;

/// As many as a node has slots, and then some: E2B's control plane lists every 20 s, which forgets
/// those that have ended.
const MAX: usize = 4096;

/// What E2B's control plane calls the runs it has started: the node names runs itself, and tells
/// this name to whoever gave it. After a restart of the node a run has the node's name only.
#[derive(Debug, Default)]
pub(super) struct Executions(Mutex<BTreeMap<SandboxId, (LifecycleId, String)>>);

impl Executions {
    pub(super) fn note(&self, sandbox: &SandboxId, run: &LifecycleId, execution: String) {
        let mut known = self.0.lock();
        if known.len() < MAX || known.contains_key(sandbox) {
            known.insert(sandbox.clone(), (run.clone(), execution));
        }
    }

    pub(super) fn of(&self, sandbox: &SandboxId, run: &LifecycleId) -> Option<String> {
        let known = self.0.lock();
        known.get(sandbox).filter(|(known, _)| known == run).map(|(_, execution)| execution.clone())
    }

    /// To be called now and then with everything there is.
    pub(super) fn forget_all_but(&self, sandboxes: &[SandboxStatus]) {
        self.0.lock().retain(|id, (run, _)| {
            sandboxes.iter().any(|sandbox| sandbox.id == *id && sandbox.lifecycle == *run)
        });
    }
}
