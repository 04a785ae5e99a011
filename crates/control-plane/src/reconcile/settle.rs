//! One record and what its node says of it.

use std::sync::Arc;

use e2b_wire::Timestamp;
use model::{EndReason, SandboxPhase};
use node_wire::{Ending, PausedStatus, Route, SandboxStatus};

use super::{Seen, Told};
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
        seen: Seen,
    ) -> Result<(), StoreError> {
        if !matches!(seen, Seen::Nothing) && row.node.as_ref() != Some(told.node) {
            self.store.move_to_node(&row.id, told.node).await?;
        }
        match seen {
            Seen::Run(status) => self.settle_run(told, row, &status).await,
            Seen::Paused(paused) => self.settle_paused(row, &paused).await,
            Seen::Nothing => {
                let end = End { released: true, ..told.end_of(row) };
                self.close_gone(row, &end).await
            }
        }
    }

    async fn settle_run(
        self: &Arc<Self>,
        told: &Told<'_>,
        row: &SandboxRow,
        status: &SandboxStatus,
    ) -> Result<(), StoreError> {
        if status.phase.is_routable() {
            return self.settle_live(row, status).await;
        }
        match (row.state, status.phase) {
            // Its time was over, and its node has begun to pause it, or has done so since it said what
            // is paused.
            (RowState::Running, SandboxPhase::Pausing | SandboxPhase::Paused) => {
                self.withdraw(row);
                self.store.begin_pause(row).await?;
            }
            // On its way; the next round, or an event, finds where it arrived.
            (RowState::Pausing, SandboxPhase::Pausing | SandboxPhase::Paused)
            | (
                RowState::Starting | RowState::Resuming | RowState::Paused,
                SandboxPhase::Reserved
                | SandboxPhase::Booting
                | SandboxPhase::Pausing
                | SandboxPhase::Paused,
            ) => {}
            // Asked to end, and the node does not know, or does not do it.
            (
                RowState::Killing,
                SandboxPhase::Reserved
                | SandboxPhase::Booting
                | SandboxPhase::Pausing
                | SandboxPhase::Paused,
            ) => {
                self.pursue_now(&row.id);
            }
            // Not gone, and in the node's hands.
            (RowState::Killing | RowState::Ended, _) => {}
            // What ran is being released, and what is kept of it is safe only after that. One of
            // which nothing is kept will be on no node.
            (RowState::Pausing | RowState::Paused | RowState::Resuming, _) => {}
            (RowState::Running, _) if told.is_pause(status) => {
                self.withdraw(row);
                self.store.begin_pause(row).await?;
            }
            // The same of one whose start nobody lived to record.
            (RowState::Starting, _) if told.is_pause(status) => {}
            // It does not run any more, whatever is still being released.
            (RowState::Running | RowState::Starting, _) => {
                self.close_gone(row, &told.end_of(row)).await?;
            }
        }
        Ok(())
    }

    async fn settle_live(
        self: &Arc<Self>,
        row: &SandboxRow,
        status: &SandboxStatus,
    ) -> Result<(), StoreError> {
        let ends_at = Timestamp::from(status.ends_at);
        match row.state {
            RowState::Running => {
                if ends_at != row.ends_at {
                    self.store.move_end(&row.id, row.ends_at, ends_at).await?;
                }
            }
            // Started by an earlier process that did not live to record it.
            RowState::Starting => {
                if self.store.sandbox_runs(status).await? {
                    tracing::info!(sandbox.id = %row.id, "a start that was cut off is recorded");
                }
            }
            RowState::Pausing => {
                if self.store.runs_on(row, &status.lifecycle, ends_at).await? {
                    tracing::info!(sandbox.id = %row.id, "a sandbox that was to be paused runs on");
                }
            }
            RowState::Resuming | RowState::Paused => {
                let since = row.paused.map_or(row.started_at, |last| last.at);
                if self.store.record_resume(row, status, since).await? {
                    tracing::info!(sandbox.id = %row.id, "a paused sandbox is found running");
                }
            }
            RowState::Killing => {
                self.pursue_now(&row.id);
                return Ok(());
            }
            RowState::Ended => return Ok(()),
        }
        self.route_again(row, status).await
    }

    async fn settle_paused(
        self: &Arc<Self>,
        row: &SandboxRow,
        paused: &PausedStatus,
    ) -> Result<(), StoreError> {
        match row.state {
            RowState::Starting | RowState::Running | RowState::Pausing => {
                self.withdraw(row);
                if self.store.record_pause(row, paused).await? {
                    tracing::info!(sandbox.id = %row.id, memory = paused.memory, "sandbox is paused");
                }
                // A comparison that did not know yet may have put the route back meanwhile.
                self.withdraw(row);
            }
            RowState::Paused => {
                if !paused.memory && row.paused.is_some_and(|last| last.memory) {
                    tracing::info!(sandbox.id = %row.id, "a paused sandbox has its files only now");
                    self.store.memory_lost(row).await?;
                }
            }
            // Begun by an earlier process, and over without success.
            RowState::Resuming => {
                self.store.paused_again(row).await?;
            }
            RowState::Killing => self.pursue_now(&row.id),
            RowState::Ended => {}
        }
        Ok(())
    }

    pub(crate) fn withdraw(&self, row: &SandboxRow) {
        if let Some(lifecycle) = &row.lifecycle {
            self.routes.withdraw(&row.id, lifecycle);
        }
    }

    async fn close_gone(&self, row: &SandboxRow, end: &End) -> Result<(), StoreError> {
        if self.store.close_read(row, end).await? {
            tracing::info!(
                sandbox.id = %row.id,
                reason = &*end.reason,
                detail = end.detail,
                "closed the record of a sandbox that is gone"
            );
        }
        // After the record: whoever publishes a route looks at the record afterwards.
        self.withdraw(row);
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
    /// What the node remembers of the run of a row, or the last one. The end of one that was paused
    /// is none of the sandbox.
    pub(super) fn ending_of(&self, row: &SandboxRow) -> Option<&Ending> {
        row.ending_of(&self.endings).filter(|ending| ending.reason != EndReason::Paused)
    }

    /// Whether this run is over because the sandbox was paused, whatever run its record names.
    fn is_pause(&self, status: &SandboxStatus) -> bool {
        let mine =
            |ending: &&Ending| ending.id == status.id && ending.lifecycle == status.lifecycle;
        self.endings.iter().find(mine).is_some_and(|ending| ending.reason == EndReason::Paused)
    }

    /// How a sandbox ended that does not run on the node any more.
    fn end_of(&self, row: &SandboxRow) -> End {
        if let Some(ending) = self.ending_of(row) {
            return ending.clone().into();
        }
        if row.state == RowState::Killing {
            return End { released: false, ..End::as_asked() };
        }
        let detail = format!("node {} does not have it and does not know how it ended", self.node);
        End { at: now(), reason: End::LOST.into(), detail: Some(detail), released: false }
    }
}
