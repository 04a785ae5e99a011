//! Comparing the records with what the node really has.

use std::collections::HashMap;

use e2b_wire::Timestamp;
use model::{EndReason, SandboxId, SandboxPhase};
use node_wire::{NodeError, SandboxStatus};

use crate::app::{App, now};
use crate::store::{RowState, SandboxRow, StoreError};

/// The reason in a row whose sandbox was gone when we looked: how it ended, nobody saw.
const LOST: &str = "lost";

/// The records could not be compared with the node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    #[error("list the sandboxes of the node")]
    Node(#[source] NodeError),
    #[error("read and write the records")]
    Store(#[source] StoreError),
}

impl App {
    /// Closes rows whose sandboxes the node does not have, and makes rows say what the node says.
    /// Sandboxes without a row are not ours to end: they are logged.
    pub(crate) async fn reconcile(&self) -> Result<(), ReconcileError> {
        // Rows first, node second: a row that is read as running was on the node before it is
        // asked, so when it is not in the answer it ended. Every write checks that the row still
        // is as it was read.
        let rows = self.store.live_sandboxes().await.map_err(ReconcileError::Store)?;
        let listed = self.node.list().await.map_err(ReconcileError::Node)?;
        let mut on_node: HashMap<SandboxId, SandboxStatus> =
            listed.into_iter().map(|status| (status.id.clone(), status)).collect();
        for row in &rows {
            let status = on_node.remove(&row.id);
            self.settle(row, status).await.map_err(ReconcileError::Store)?;
        }
        for status in on_node.values().filter(|status| !self.starting.has(&status.id)) {
            tracing::warn!(
                sandbox.id = %status.id,
                phase = ?status.phase,
                "the node has a sandbox without a record; it is left alone"
            );
        }
        Ok(())
    }

    async fn settle(
        &self,
        row: &SandboxRow,
        status: Option<SandboxStatus>,
    ) -> Result<(), StoreError> {
        if self.starting.has(&row.id) {
            return Ok(());
        }
        let Some(status) = status else {
            if let Some(lifecycle) = &row.lifecycle {
                self.routes.withdraw(&row.id, lifecycle);
            }
            let reason = match row.state {
                RowState::Killing => EndReason::Request.as_str(),
                RowState::Starting | RowState::Running | RowState::Ended => LOST,
            };
            if self.store.close_sandbox(&row.id, row.state, reason).await? {
                tracing::info!(sandbox.id = %row.id, "closed the record of a sandbox that is gone");
            }
            return Ok(());
        };
        match (row.state, status.phase) {
            (RowState::Running, SandboxPhase::Live) => {
                let ends_at = Timestamp::from(status.ends_at);
                if ends_at != row.ends_at {
                    self.store.move_end(&row.id, row.ends_at, ends_at).await?;
                }
            }
            // Started by an earlier process that did not live to record it.
            (RowState::Starting, SandboxPhase::Live) => {
                self.store.sandbox_runs(&status).await?;
            }
            // On its way; the next round, or an event, finds where it arrived.
            (RowState::Starting, SandboxPhase::Reserved | SandboxPhase::Booting)
            // Asked to end and not gone.
            | (RowState::Killing, _)
            | (RowState::Ended, _) => {}
            // It does not run any more, whatever is still being released.
            (RowState::Running | RowState::Starting, _) => {
                self.routes.withdraw(&row.id, &status.lifecycle);
                self.store.close_sandbox(&row.id, row.state, LOST).await?;
            }
        }
        Ok(())
    }

    /// Removes the records of sandboxes that ended long ago, a few at a time.
    pub(crate) async fn purge(&self) -> Result<(), StoreError> {
        let limits = &self.config.limits;
        let before = now().before(limits.ended_kept);
        while self.store.purge_ended(before, limits.ended_rows).await? > 0 {
            if self.tasks.stop_token().is_cancelled() {
                break;
            }
        }
        Ok(())
    }
}
