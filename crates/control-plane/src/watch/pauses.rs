//! Pauses that nodes tell of.
//!
//! One that was asked for here is recorded by who asked. One that a node makes by itself, when the
//! time of a sandbox is over, is recorded out of its events; but a lifecycle whose processes are kept
//! goes on after a pause, so of a sandbox that was paused before, an event may be that of the earlier
//! pause, come late. Then everything is compared instead.

use model::{LifecycleId, SandboxId};

use crate::app::App;
use crate::nodes::Session;
use crate::store::{Paused, RowState, SandboxRow, StoreError};

impl App {
    pub(super) async fn heard_pausing(
        &self,
        session: &Session,
        id: &SandboxId,
        lifecycle: &LifecycleId,
    ) {
        let begun = async {
            let Some(row) = self.not_in_hand(id, lifecycle).await? else { return Ok(()) };
            match row.state {
                RowState::Running if row.pauses == 0 => {
                    self.store.begin_pause(&row).await?;
                    self.routes.withdraw(id, lifecycle);
                }
                RowState::Running => session.compare_soon(),
                _ => {}
            }
            Ok(())
        };
        written(session, begun.await);
    }

    pub(super) async fn heard_paused(
        &self,
        session: &Session,
        id: &SandboxId,
        lifecycle: &LifecycleId,
        paused: Paused,
    ) {
        let recorded = async {
            let Some(row) = self.not_in_hand(id, lifecycle).await? else { return Ok(()) };
            match row.state {
                // A lifecycle without its processes is over: the event is no old one.
                RowState::Running | RowState::Pausing if row.pauses == 0 || !paused.memory => {
                    self.store.heard_paused(&row, paused).await?;
                    self.routes.withdraw(id, lifecycle);
                    let memory = paused.memory;
                    tracing::info!(sandbox.id = %id, memory, "its node has paused a sandbox");
                }
                RowState::Paused if !paused.memory => {
                    self.store.memory_lost(&row).await?;
                }
                RowState::Paused | RowState::Killing | RowState::Ended => {}
                RowState::Starting | RowState::Running | RowState::Pausing | RowState::Resuming => {
                    session.compare_soon()
                }
            }
            Ok(())
        };
        written(session, recorded.await);
    }

    /// A run is over whose record does not say that it runs. Of one that is paused the node is asked
    /// what is kept.
    pub(super) async fn ended_while_paused(
        &self,
        session: &Session,
        id: &SandboxId,
        lifecycle: &LifecycleId,
    ) {
        match self.not_in_hand(id, lifecycle).await {
            Ok(Some(row)) if matches!(row.state, RowState::Paused | RowState::Resuming) => {
                session.compare_soon();
            }
            Ok(_) => {}
            Err(error) => written(session, Err(error)),
        }
    }

    /// The row of this run, if nobody here works on it.
    async fn not_in_hand(
        &self,
        id: &SandboxId,
        lifecycle: &LifecycleId,
    ) -> Result<Option<SandboxRow>, StoreError> {
        if self.starting.has(id) {
            return Ok(None);
        }
        let row = self.store.live_sandbox(id).await?;
        Ok(row.filter(|row| row.lifecycle.as_ref().is_none_or(|known| known == lifecycle)))
    }
}

fn written(session: &Session, outcome: Result<(), StoreError>) {
    if let Err(error) = outcome {
        let error = observe::chain(&error).to_string();
        tracing::error!(error, "a row is out of date until the next comparison");
        session.compare_soon();
    }
}
