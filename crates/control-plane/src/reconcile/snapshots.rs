//! The records of snapshots, and what their node has of them.

use std::collections::HashMap;
use std::sync::Arc;

use model::{BuildId, TemplateId};

use super::{LIST_LIMIT, ReconcileError};
use crate::app::App;
use crate::nodes::Session;
use crate::store::{SnapshotRow, SnapshotState};

impl App {
    /// Makes `rows`, which were read before the node was asked, say what the node has, and has it
    /// remove what was deleted. Templates of snapshots that are in no record stay where they are:
    /// nobody knows whose they are, and they may be all that is left of lost records.
    pub(super) async fn compare_snapshots(
        &self,
        session: &Arc<Session>,
        mut rows: Vec<SnapshotRow>,
    ) -> Result<(), ReconcileError> {
        rows.retain(|row| !self.making.has(&row.template));
        if rows.is_empty() {
            return Ok(());
        }
        let info = session.within(LIST_LIMIT, session.api().info()).await;
        let info = info.map_err(ReconcileError::Node)?;
        let has: HashMap<TemplateId, BuildId> =
            info.templates.into_iter().map(|template| (template.id, template.build)).collect();
        for row in rows {
            // Begun since the rows were read.
            if self.making.has(&row.template) {
                continue;
            }
            self.settle_snapshot(session, &row, has.get(&row.template)).await?;
        }
        Ok(())
    }

    async fn settle_snapshot(
        &self,
        session: &Session,
        row: &SnapshotRow,
        build: Option<&BuildId>,
    ) -> Result<(), ReconcileError> {
        let template = &row.template;
        match (row.state, build) {
            (SnapshotState::Ready, Some(build)) if *build == row.build => {}
            (SnapshotState::Making | SnapshotState::Ready, Some(build)) => {
                tracing::info!(template.id = %template, "a snapshot that was cut off is recorded");
                let set = self.store.set_snapshot_build(template, build).await;
                set.map_err(ReconcileError::Store)?;
            }
            (SnapshotState::Removing, Some(_)) => self.remove_on_node(session, row).await,
            (state, None) => {
                let forgotten = self.store.forget_snapshot(row).await;
                if forgotten.map_err(ReconcileError::Store)? && state == SnapshotState::Ready {
                    tracing::warn!(template.id = %template, "a snapshot is not on its node any more");
                }
            }
        }
        Ok(())
    }
}
