//! Taking over what another daemon of this node has left running, and what it has left lying.

use std::sync::Arc;

use host::HostError;
use host::net::{Slot, linked_slots, remove_link};
use host::process::Process;
use lifecycle::{Budget, Owned};
use model::{BuildId, LifecycleId};

use crate::backend::NotAdopted;
use crate::backend::host::Host;
use crate::backend::host::holdings::HostHoldings;
use crate::ledger::{LifecycleDir, Record};

impl Host {
    /// Everything of `lifecycle` by what its record says, each proven by the kernel: the process by
    /// its number and start time, and that it is in its own cgroup, its namespaces through it.
    pub(super) fn take_over(
        self: &Arc<Self>,
        lifecycle: &LifecycleId,
        record: &Record,
    ) -> Result<HostHoldings, NotAdopted> {
        let identity = record.process.ok_or(NotAdopted::Gone)?;
        let process = Process::adopt(identity).map_err(refused)?.ok_or(NotAdopted::Gone)?;
        let cgroup = self.cgroups.named(lifecycle.as_str());
        // Another program that was given the number, and by chance the time, is not in it.
        if !cgroup.pids().map_err(refused)?.contains(&identity.pid) {
            return Err(NotAdopted::Gone);
        }
        let build = BuildId::parse(&record.build)
            .map_err(|error| NotAdopted::Refused(error.to_string()))?;
        let lease = self.images.lease_build(&build).map_err(|error| {
            NotAdopted::Refused(format!("its template: {}", observe::chain(&error)))
        })?;
        let index = record.slot.ok_or_else(|| NotAdopted::Refused("it has no slot".into()))?;
        let slot = match Slot::adopt(self.mark(), index, &process) {
            Ok(slot) => slot,
            // It has ended while it was looked at.
            Err(_) if !process.is_running().map_err(refused)? => return Err(NotAdopted::Gone),
            Err(error) => return Err(refused(error)),
        };
        if !self.pool.claim(index) {
            return Err(NotAdopted::Refused(format!("slot {index} is another's")));
        }
        let mut held = HostHoldings::new(Arc::clone(self), lifecycle);
        let record = held.record.insert(record.clone());
        record.boot_id = Some(self.boot_id.clone());
        held.lease = Some(lease);
        held.slot = Some(Owned::adopt(slot));
        held.cgroup = Some(Owned::adopt(cgroup));
        held.machine.process = Some(process);
        let lifecycles = self.config.lifecycles();
        held.dir = Some(Owned::adopt(LifecycleDir::named(&lifecycles, lifecycle.as_str())));
        Ok(held)
    }

    /// What is to be released of `lifecycle`. A slot that another has is left to that one.
    pub(super) fn left(
        self: &Arc<Self>,
        lifecycle: &LifecycleId,
        record: Option<Record>,
    ) -> HostHoldings {
        let index = record.as_ref().and_then(|record| record.slot);
        let mut held = HostHoldings::new(Arc::clone(self), lifecycle);
        held.left_slot = index.filter(|index| self.pool.claim(*index));
        held.record = record;
        held
    }

    /// Keeps from everybody the slots whose links are there and that are nobody's.
    pub(super) fn claim_strays(&self) -> Result<bool, HostError> {
        let strays = self.pool.strays()?;
        let mut aside = self.strays.lock();
        aside.extend(strays.into_iter().filter(|index| self.pool.claim(*index)));
        Ok(!aside.is_empty())
    }

    /// Waits for the kernel to take the links of strays away, and takes those away that it leaves:
    /// somebody outside our cgroups keeps their namespace alive; its link is ours all the same.
    pub(super) async fn remove_strays(&self, budget: Budget) -> Result<(), HostError> {
        let gone = async {
            while linked_slots(self.mark()).map_or(true, |linked| {
                self.strays.lock().iter().any(|stray| linked.contains(stray))
            }) {
                tokio::time::sleep(super::LINKS_PAUSE).await;
            }
        };
        if budget.run("links of nobody", gone).await.is_err() {
            for index in self.strays.lock().iter() {
                tracing::warn!(index, "the link of a slot that nobody has is removed");
                remove_link(self.mark(), *index)?;
            }
        }
        self.strays.lock().drain(..).for_each(|index| self.pool.released(index));
        Ok(())
    }
}

/// A sandbox is not ended because this daemon is short of something at this moment.
fn refused(error: HostError) -> NotAdopted {
    use rustix::io::Errno;
    match error.errno() {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN) => {
            NotAdopted::Unclear(error)
        }
        _ => NotAdopted::Refused(observe::chain(&error).to_string()),
    }
}
