//! One record and what its node says of it.

use std::sync::Arc;

use e2b_wire::Timestamp;
use model::SandboxPhase;
use node_wire::{Ending, Route, SandboxStatus};

use super::Told;
use crate::app::{App, now};
use crate::store::{End, RowState, SandboxRow, StoreError};

impl SandboxRow {
    /// What a node remembers of this run, or of the last one of a sandbox whose run is not known.
    pub(crate) fn ending_of<'a>(&self, endings: &'a [Ending]) -> Option<&'a Ending> {
        let mine = |ending: &&Ending| {
            let lifecycle = self.lifecycle.as_ref();
            ending.id == self.id && lifecycle.is_none_or(|known| *known == ending.lifecycle)
        };
        endings.iter().filter(mine).max_by_key(|ending| ending.at)
    }
}

impl From<Ending> for End {
    fn from(ending: Ending) -> Self {
        Self {
            at: ending.at.into(),
            reason: ending.reason.as_str().into(),
            detail: Some(ending.detail).filter(|detail| !detail.is_empty()),
            released: false,
        }
    }
}

impl App {
    pub(super) async fn settle(
        self: &Arc<Self>,
        told: &Told<'_>,
        row: &SandboxRow,
        status: Option<SandboxStatus>,
    ) -> Result<(), StoreError> {
        let Some(status) = status else {
            let end = End { released: true, ..told.end_of(row) };
            return self.close_gone(row, &end).await;
        };
        if row.node.as_ref() != Some(told.node) {
            self.store.move_to_node(&row.id, told.node).await?;
        }
        match (row.state, status.phase) {
            (RowState::Running, SandboxPhase::Live) => {
                let ends_at = Timestamp::from(status.ends_at);
                if ends_at != row.ends_at {
                    self.store.move_end(&row.id, row.ends_at, ends_at).await?;
                }
                self.route_again(row, &status).await?;
            }
            // Started by an earlier process that did not live to record it.
            (RowState::Starting, SandboxPhase::Live) => {
                if self.store.sandbox_runs(&status).await? {
                    tracing::info!(sandbox.id = %row.id, "a start that was cut off is recorded");
                }
                self.route_again(row, &status).await?;
            }
            // On its way; the next round, or an event, finds where it arrived.
            (RowState::Starting, SandboxPhase::Reserved | SandboxPhase::Booting) => {}
            // Asked to end, and the node does not know, or does not do it.
            (
                RowState::Killing,
                SandboxPhase::Live
                | SandboxPhase::Reserved
                | SandboxPhase::Booting
                | SandboxPhase::Checkpointing
                | SandboxPhase::Pausing,
            ) => {
                self.pursue_now(&row.id);
            }
            // Not gone, and in the node's hands.
            (RowState::Killing, _) | (RowState::Ended, _) => {}
            // It does not run any more, whatever is still being released.
            (RowState::Running | RowState::Starting, _) => {
                self.close_gone(row, &told.end_of(row)).await?;
            }
        }
        Ok(())
    }

    async fn close_gone(&self, row: &SandboxRow, end: &End) -> Result<(), StoreError> {
        if self.store.close_sandbox(&row.id, row.state, end).await? {
            tracing::info!(
                sandbox.id = %row.id,
                reason = &*end.reason,
                detail = end.detail,
                "closed the record of a sandbox that is gone"
            );
        }
        // After the record: whoever publishes a route looks at the record afterwards.
        if let Some(lifecycle) = &row.lifecycle {
            self.routes.withdraw(&row.id, lifecycle);
        }
        Ok(())
    }

    /// Publishes the route of a sandbox that runs. One that is there already stays as it is.
    pub(super) async fn route_again(
        &self,
        row: &SandboxRow,
        status: &SandboxStatus,
    ) -> Result<(), StoreError> {
        let Some(addr) = status.addr else { return Ok(()) };
        let (sandbox, lifecycle) = (status.id.clone(), status.lifecycle.clone());
        self.routes.publish(Route { sandbox, lifecycle, addr }, self.ingress(row));
        // An end that came since the node was asked closes the record and then takes the route
        // away, so either it finds this route, or we find its record.
        let row = self.store.live_sandbox(&status.id).await?;
        let runs = row.is_some_and(|row| {
            row.state == RowState::Running && row.lifecycle.as_ref() == Some(&status.lifecycle)
        });
        if !runs {
            self.routes.withdraw(&status.id, &status.lifecycle);
        }
        Ok(())
    }
}

impl Told<'_> {
    /// How a sandbox ended that does not run on the node any more.
    fn end_of(&self, row: &SandboxRow) -> End {
        if let Some(ending) = row.ending_of(&self.endings) {
            return ending.clone().into();
        }
        if row.state == RowState::Killing {
            return End { released: false, ..End::as_asked() };
        }
        let detail = format!("node {} does not have it and does not know how it ended", self.node);
        End { at: now(), reason: End::LOST.into(), detail: Some(detail), released: false }
    }
}
