//! Removing what an earlier daemon left: by the ledger first, then whatever else bears our mark.
//!
//! Runs before anything is admitted, with the node's claim held, so nobody else acts on the same
//! names. Only names under the mark are ever touched.

use std::sync::Arc;
use std::time::Duration;

use host::HostError;
use host::census::{HELPERS, lifecycle_ids};
use host::net::{linked_slots, remove_link};
use lifecycle::{Budget, Release};

use crate::start::Inner;
use crate::teardown::{Holdings, plan, release};

/// What could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum ReclaimError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("lifecycle {id}: {left}")]
    Left { id: String, left: String },
}

/// How long the kernel is given to take links away by itself.
const UNLINK_LIMIT: Duration = Duration::from_secs(5);

pub(crate) async fn reclaim(inner: &Arc<Inner>, budget: Budget) -> Result<(), ReclaimError> {
    let lifecycles = inner.config.lifecycles();
    let mut ids = lifecycle_ids(&lifecycles)?;
    // A cgroup without a directory: its lifecycle was at its last step.
    let orphans = inner.cgroups.list()?.into_iter().filter(|name| name != HELPERS);
    ids.extend(orphans);
    ids.sort();
    ids.dedup();
    if !ids.is_empty() {
        tracing::warn!(count = ids.len(), "removing sandboxes that an earlier daemon left");
    }
    for id in ids {
        reclaim_one(inner, &id, budget).await?;
    }
    if inner.pool.wait_unlinked(budget.slice(UNLINK_LIMIT)).await.is_err() {
        // Something outside our cgroups keeps a namespace alive; its link is ours all the same.
        for slot in linked_slots(inner.mark())? {
            remove_link(inner.mark(), slot)?;
        }
    }
    Ok(())
}

async fn reclaim_one(inner: &Arc<Inner>, id: &str, budget: Budget) -> Result<(), ReclaimError> {
    let mut plan = plan();
    let mut held = Holdings::default();
    plan.begin();
    while let Some((step, slice)) = plan.next(budget) {
        let released = release(inner, id, &mut held, step, slice).await;
        plan.settle(step, released.map_err(|error| observe::chain(&error).to_string()));
    }
    if plan.is_done() {
        tracing::info!(lifecycle.id = id, "reclaimed");
        return Ok(());
    }
    let failures = plan.failures().iter().map(|f| format!("{}: {}", f.step.name(), f.error));
    Err(ReclaimError::Left { id: id.to_owned(), left: failures.collect::<Vec<_>>().join("; ") })
}

impl Inner {
    /// Removes the helpers' cgroup.
    pub(crate) async fn close_helpers(&self, budget: Budget) -> Result<(), HostError> {
        self.cgroups.named(HELPERS).release(budget).await
    }
}
