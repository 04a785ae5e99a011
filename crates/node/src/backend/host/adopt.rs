//! Taking over what another daemon of this node has left running, and what it has left lying.

use std::net::SocketAddr;
use std::sync::Arc;

use host::HostError;
use host::census::{HELPERS, lifecycle_ids};
use host::net::{Redirect, Slot, linked_slots, remove_link};
use host::process::Process;
use images::LeaseError;
use lifecycle::{Budget, Owned};
use model::{BuildId, Egress, LifecycleId, Secret};
use rustix::io::Errno;

use crate::adopt::AdoptError;
use crate::backend::host::Host;
use crate::backend::host::holdings::HostHoldings;
use crate::backend::host::ways::{Agent, WayError};
use crate::backend::{Leftover, NotAdopted};
use crate::ledger::{LifecycleDir, Record};

impl Host {
    /// Every name of a lifecycle, with its record.
    pub(super) fn find_leftovers(&self) -> Result<Vec<Leftover>, AdoptError> {
        let lifecycles = self.config.lifecycles();
        let mut names = lifecycle_ids(&lifecycles)?;
        // A cgroup without a directory: its lifecycle was at its last step.
        names.extend(self.cgroups.list()?.into_iter().filter(|name| name != HELPERS));
        names.sort();
        names.dedup();
        let leftover = |name: String| {
            let record = match LifecycleDir::named(&lifecycles, &name).read() {
                Ok(record) => record,
                // Without it one that runs would be ended.
                Err(error) if is_short(Errno::from_io_error(&error)) => {
                    return Err(AdoptError::Unclear { id: name, why: error.to_string() });
                }
                Err(error) => {
                    tracing::error!(name, %error, "a record cannot be read");
                    None
                }
            };
            Ok(Leftover { name, record })
        };
        names.into_iter().map(leftover).collect()
    }

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
        let lease = self.images.lease_build(&build).map_err(no_lease)?;
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
        let network = Redirect::of(&slot).map_err(refused)?;
        let mut held = HostHoldings::new(Arc::clone(self), lifecycle);
        let record = held.record.insert(record.clone());
        record.boot_id = Some(self.boot_id.clone());
        let dir = LifecycleDir::named(&self.config.lifecycles(), lifecycle.as_str());
        let agent = agent_of(record, &slot);
        self.ways.adopt(lifecycle.as_str(), dir.path(), network, agent);
        held.lease = Some(lease);
        held.slot = Some(Owned::adopt(slot));
        held.cgroup = Some(Owned::adopt(cgroup));
        held.machine.process = Some(process);
        let lifecycles = self.config.lifecycles();
        held.dir = Some(Owned::adopt(LifecycleDir::named(&lifecycles, lifecycle.as_str())));
        Ok(held)
    }

    /// Replaces the rules of one that runs, found by its record: its supervisor alone has its slot.
    pub(super) async fn set_rules(
        &self,
        lifecycle: &LifecycleId,
        rules: &Egress,
    ) -> Result<bool, WayError> {
        let dir = LifecycleDir::named(&self.config.lifecycles(), lifecycle.as_str());
        let Some(record) = dir.read().ok().flatten() else { return Ok(false) };
        let Some((identity, index)) = record.process.zip(record.slot) else { return Ok(false) };
        let Some(process) = Process::adopt(identity)? else { return Ok(false) };
        // As above: the rules must not become those of another program's network.
        if !self.cgroups.named(lifecycle.as_str()).pids()?.contains(&identity.pid) {
            return Ok(false);
        }
        let slot = match Slot::adopt(self.mark(), index, &process) {
            Ok(slot) => slot,
            // It has ended while it was looked at.
            Err(_) if !process.is_running()? => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let (network, agent) = (Redirect::of(&slot)?, agent_of(&record, &slot));
        self.ways.set(lifecycle.as_str(), dir.path(), network, rules, Some(&agent)).await
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

fn agent_of(record: &Record, slot: &Slot) -> Agent {
    Agent {
        address: SocketAddr::from((slot.net().guest, guest_wire::ENVD_PORT)),
        token: record.access_token.clone().map(Secret::new),
    }
}

fn refused(error: HostError) -> NotAdopted {
    let errno = error.errno();
    not_adopted(errno, observe::chain(&error).to_string())
}

fn no_lease(error: LeaseError) -> NotAdopted {
    let errno = match &error {
        LeaseError::Lock { source, .. } => Errno::from_io_error(source),
        LeaseError::Unknown(_) | LeaseError::BuildGone(_) => None,
    };
    not_adopted(errno, format!("its template: {}", observe::chain(&error)))
}

fn not_adopted(errno: Option<Errno>, why: String) -> NotAdopted {
    if is_short(errno) { NotAdopted::Unclear(why) } else { NotAdopted::Refused(why) }
}

/// Whether it is only that something is used up at this moment, for which no sandbox is ended.
fn is_short(errno: Option<Errno>) -> bool {
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN))
}

#[cfg(test)]
mod tests {
    use std::io;

    use images::LeaseError;
    use rustix::io::Errno;

    use super::{NotAdopted, no_lease};

    #[test]
    fn being_short_of_something_ends_no_sandbox() {
        let lock = |errno: Errno| LeaseError::Lock {
            build: "b1".parse().unwrap(),
            source: io::Error::from(errno),
        };
        for short in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN] {
            assert!(matches!(no_lease(lock(short)), NotAdopted::Unclear(_)), "{short}");
        }
        let gone = LeaseError::BuildGone("b1".parse().unwrap());
        for error in [lock(Errno::IO), gone] {
            assert!(matches!(no_lease(error), NotAdopted::Refused(_)));
        }
    }
}
