//! Comparing the records with what a node really has.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use e2b_wire::Timestamp;
use model::{EndReason, NodeId, SandboxId, SandboxPhase};
use node_wire::{NodeError, SandboxStatus};

use crate::app::{App, now};
use crate::nodes::Session;
use crate::store::{RowState, SandboxRow, StoreError};

/// The reason in a row whose sandbox was gone when we looked: how it ended, nobody saw.
const LOST: &str = "lost";

/// How long a node may take to say what it has.
const LIST_LIMIT: Duration = Duration::from_secs(10);

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
    /// Sandboxes that never had a row are not ours to end: they are logged. A node that nobody has
    /// heard of yet has nothing to compare with.
    pub(crate) async fn reconcile(
        self: &Arc<Self>,
        session: &Arc<Session>,
    ) -> Result<(), ReconcileError> {
        let Some(node) = session.id() else { return Ok(()) };
        // Rows first, node second: a row that is read as running was on the node before it is
        // asked, so when it is not in the answer it ended. Every write checks that the row still
        // is as it was read.
        let rows = self.store.live_sandboxes().await.map_err(ReconcileError::Store)?;
        let listed = session.within(LIST_LIMIT, session.api().list()).await;
        let listed = listed.map_err(ReconcileError::Node)?;
        let mut on_node: HashMap<SandboxId, SandboxStatus> =
            listed.into_iter().map(|status| (status.id.clone(), status)).collect();
        let mut elsewhere = HashSet::new();
        for row in &rows {
            if self.is_elsewhere(row, node) {
                elsewhere.insert(&row.id);
                continue;
            }
            let status = on_node.remove(&row.id);
            self.settle(row, node, status).await.map_err(ReconcileError::Store)?;
        }
        let mut strays = Vec::new();
        for status in on_node.into_values().filter(|status| !self.starting.has(&status.id)) {
            let moved = elsewhere.contains(&status.id);
            let state = self.store.record_state(&status.id).await.map_err(ReconcileError::Store)?;
            match state {
                _ if status.phase != SandboxPhase::Live => {}
                Some(RowState::Ended) => strays.push(status.id),
                Some(_) if moved => strays.push(status.id),
                // Made since the rows were read.
                Some(_) => {}
                None => tracing::warn!(
                    sandbox.id = %status.id,
                    "a node has a sandbox without a record; it is left alone"
                ),
            }
        }
        if !strays.is_empty() {
            let span = tracing::info_span!("strays", node.id = %node);
            self.tasks.spawn(span, Arc::clone(self).end_strays(Arc::clone(session), strays));
        }
        Ok(())
    }

    /// Whether the row is another node's. One that names no node of ours is anybody's who has it;
    /// when nobody can turn up with it any more, it is compared like the node's own.
    fn is_elsewhere(&self, row: &SandboxRow, node: &NodeId) -> bool {
        match &row.node {
            Some(named) if named == node => false,
            Some(named) if self.nodes.get(named).is_some() => true,
            Some(_) | None => !self.nodes.all_named(),
        }
    }

    /// Ends sandboxes that nobody can reach: a node was asked for them, did not answer in time and
    /// was left for another one, or for none.
    async fn end_strays(self: Arc<Self>, session: Arc<Session>, strays: Vec<SandboxId>) {
        let stop = self.tasks.stop_token();
        for id in strays {
            tracing::warn!(sandbox.id = %id, "ending a sandbox whose record is over or elsewhere");
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                ended = session.api().kill(&id, EndReason::Request) => match ended {
                    Ok(()) | Err(NodeError::NotFound(_)) => {}
                    Err(error) => {
                        let error = observe::chain(&error).to_string();
                        tracing::warn!(sandbox.id = %id, error, "it is not gone yet");
                    }
                },
            }
        }
    }

    async fn settle(
        &self,
        row: &SandboxRow,
        node: &NodeId,
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
        if row.node.as_ref() != Some(node) {
            self.store.move_to_node(&row.id, node).await?;
        }
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
