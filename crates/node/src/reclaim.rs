//! Removing what an earlier daemon left: by the ledger first, then whatever else bears our mark.
//!
//! Runs before anything is admitted, with the node's claim held, so nobody else acts on the same
//! names. Only names under the mark are ever touched. What will not go is stuck like any other
//! teardown that failed: it keeps its id, is tried again, and keeps the node from stopping clean; the
//! node starts all the same, unless processes could not be killed.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use host::HostError;
use host::census::{HELPERS, lifecycle_ids};
use host::net::{linked_slots, remove_link};
use lifecycle::{Budget, Release};
use model::{EndReason, LifecycleId, Resources, SandboxId, SandboxPhase, TeamId, TemplateId};

use crate::entry::{Entry, Identity};
use crate::ledger::LifecycleDir;
use crate::start::Inner;
use crate::supervise::finish;
use crate::teardown::{Holdings, Step};

/// Why a node cannot start on what is there.
#[derive(Debug, thiserror::Error)]
pub enum ReclaimError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("processes of {id} cannot be killed: {left}; they would run on beside new ones")]
    Alive { id: String, left: String },
    #[error("more is left than this node may have sandboxes ({0})")]
    TooMany(String),
}

/// How long the kernel is given to take links away by itself.
const UNLINK_LIMIT: Duration = Duration::from_secs(5);
/// Lifecycles reclaimed at a time.
const AT_A_TIME: usize = 16;

pub(crate) async fn reclaim(inner: &Arc<Inner>, budget: Budget) -> Result<(), ReclaimError> {
    let mut ids = lifecycle_ids(&inner.config.lifecycles())?;
    // A cgroup without a directory: its lifecycle was at its last step.
    let orphans = inner.cgroups.list()?.into_iter().filter(|name| name != HELPERS);
    ids.extend(orphans);
    ids.sort();
    ids.dedup();
    if !ids.is_empty() {
        tracing::warn!(count = ids.len(), "removing sandboxes that an earlier daemon left");
    }
    let mut reclaimed =
        stream::iter(ids).map(|id| reclaim_one(inner, id)).buffer_unordered(AT_A_TIME);
    while let Some(done) = reclaimed.next().await {
        done?;
    }
    if inner.pool.wait_unlinked(budget.slice(UNLINK_LIMIT)).await.is_err() {
        // Something outside our cgroups keeps a namespace alive; its link is ours all the same.
        for slot in linked_slots(inner.mark())? {
            remove_link(inner.mark(), slot)?;
        }
    }
    Ok(())
}

async fn reclaim_one(inner: &Arc<Inner>, id: String) -> Result<(), ReclaimError> {
    let Some(identity) = identity(inner, &id) else {
        tracing::error!(name = id, "not a lifecycle, and in the place of one; left alone");
        return Ok(());
    };
    let reserved = inner.registry.reserve(identity, Duration::ZERO);
    let entry: Arc<Entry> = reserved.map_err(|error| ReclaimError::TooMany(error.to_string()))?;
    finish(inner, &entry, &mut Holdings::default(), EndReason::Reclaimed).await;
    let state = entry.state();
    let alive = state.left.iter().any(|left| left.starts_with(Step::Kill.name()));
    if state.phase == SandboxPhase::Stuck && alive {
        return Err(ReclaimError::Alive { id, left: state.left.join("; ") });
    }
    Ok(())
}

/// Who the lifecycle was for, as far as its record can still be read.
fn identity(inner: &Inner, id: &str) -> Option<Identity> {
    let lifecycle = LifecycleId::parse(id).ok()?;
    let record = LifecycleDir::named(&inner.config.lifecycles(), id).read();
    let text = |pick: fn(&crate::ledger::Record) -> &str| record.as_ref().map_or(id, pick);
    let resources = record.as_ref().map(|record| Resources {
        vcpus: record.vcpus,
        memory_mib: record.memory_mib,
        disk_mib: record.disk_mib,
    });
    Some(Identity {
        id: SandboxId::parse(text(|r| &r.sandbox)).or_else(|_illegal| SandboxId::parse(id)).ok()?,
        lifecycle,
        team: TeamId::parse(text(|r| &r.team)).or_else(|_illegal| TeamId::parse(id)).ok()?,
        template: TemplateId::parse(text(|r| &r.template))
            .or_else(|_illegal| TemplateId::parse(id))
            .ok()?,
        resources: resources.unwrap_or(Resources { vcpus: 0, memory_mib: 0, disk_mib: 0 }),
        metadata: record.map(|record| record.metadata).unwrap_or_default(),
    })
}

impl Inner {
    /// Removes the helpers' cgroup.
    pub(crate) async fn close_helpers(&self, budget: Budget) -> Result<(), HostError> {
        self.cgroups.named(HELPERS).release(budget).await
    }
}
