//! Pausing a sandbox: intent, node, record. That it is being paused is in the record before the node
//! is asked; whatever dies meanwhile, the comparison with the node finds which of the two it became.

use std::sync::Arc;

use http::StatusCode;
use lifecycle::Budget;
use model::SandboxId;
use node_wire::{PauseError, PauseOrder, PausedStatus};

use crate::Team;
use crate::app::App;
use crate::http::ApiError;
use crate::journals::LAST_LIMIT;
use crate::kill::is_starting;
use crate::node_answers;
use crate::nodes::Session;
use crate::store::{Paused, RowState, SandboxRow};
use crate::transitions::{Outcome, Patience, Turn, What};

impl App {
    /// Pauses a running sandbox of `team`, and answers when what is kept of it is safe. Joins a
    /// pause that is under way.
    ///
    /// # Errors
    /// 404 for none, 409 for one that is paused and for no other: clients take it for that. 503 for
    /// one that cannot be paused now, and what its node says.
    pub(crate) async fn pause(
        self: Arc<Self>,
        team: Arc<Team>,
        id: SandboxId,
        order: PauseOrder,
    ) -> Result<(), ApiError> {
        let mut patience = Patience::new(&self);
        loop {
            patience.look();
            let Some(row) = self.store.sandbox(&team.id, &id).await? else {
                return Err(ApiError::no_sandbox(&id));
            };
            match row.state {
                RowState::Running => {
                    let work = Arc::clone(&self).pause_now(row.clone(), order);
                    let joined = self.transit(&id, What::Pause, work)?;
                    let (paused, mine) = (joined.what == What::Pause, joined.mine);
                    // Somebody else may have asked for more than this one needs.
                    let is_mine = |error: &ApiError| mine || !error.is_unavailable();
                    match joined.outcome().await {
                        Ok(Turn::Done(_)) if paused => return Ok(()),
                        Err(error) if paused && is_mine(&error) => return Err(error),
                        // A snapshot is over, or it was another row.
                        Ok(_) | Err(_) => patience.again(&row).await.map_err(not_now)?,
                    }
                }
                RowState::Pausing => {
                    let pause = self.transitions.of(&id).filter(|known| known.what == What::Pause);
                    match pause {
                        None => patience.wait(&self, &row).await.map_err(not_now)?,
                        Some(joined) => match joined.outcome().await {
                            Ok(Turn::Done(_)) => return Ok(()),
                            Err(error) if !error.is_unavailable() => return Err(error),
                            // As above: it asked for more, or it was another row.
                            Ok(Turn::Changed) | Err(_) => {
                                patience.again(&row).await.map_err(not_now)?;
                            }
                        },
                    }
                    if self.is_paused(&team, &id).await? {
                        return Ok(());
                    }
                }
                RowState::Resuming => patience.wait(&self, &row).await.map_err(not_now)?,
                RowState::Paused => {
                    let message = format!("sandbox {id} is paused already");
                    return Err(ApiError::new(StatusCode::CONFLICT, message));
                }
                RowState::Starting | RowState::Killing | RowState::Ended => {
                    return Err(ApiError::no_sandbox(&id));
                }
            }
        }
    }

    /// Whether the pause that was waited for is what became of it.
    pub(crate) async fn is_paused(&self, team: &Team, id: &SandboxId) -> Result<bool, ApiError> {
        let row = self.store.sandbox(&team.id, id).await?;
        Ok(row.is_some_and(|row| row.state == RowState::Paused))
    }

    async fn pause_now(self: Arc<Self>, row: SandboxRow, order: PauseOrder) -> Outcome {
        let _hands = self.starting.enter(row.id.clone());
        let session = Arc::clone(self.node_of(&row)?);
        // If nothing but its files is kept, what its agent has noted goes.
        self.hear_agent_of(&row, LAST_LIMIT).await;
        if !self.store.begin_pause(&row).await? {
            return Ok(Turn::Changed);
        }
        let row = SandboxRow { state: RowState::Pausing, revision: row.revision + 1, ..row };
        // Clients are cut off before it stands still: an answer that comes in the middle of a
        // request would be one by chance. Those of one that may have to run on are cut off when its
        // node has paused it.
        if !order.needs_agent() {
            self.withdraw(&row);
        }
        let asked = self.ask_pause(&session, &row.id, order).await;
        if asked.is_ok() {
            self.withdraw(&row);
        }
        let paused = match asked {
            // Its time was over a moment before, or somebody asked its node beside us.
            Err(PauseError::Paused(_)) => match self.paused_on(&session, &row.id).await {
                Some(paused) => paused,
                None => return Err(self.not_paused(&session, row, unsure()).await),
            },
            Err(PauseError::NotFound(_)) if is_starting(&session).await => {
                return Err(self.not_paused(&session, row, unsure()).await);
            }
            Err(error) => return Err(self.not_paused(&session, row, error).await),
            Ok(paused) => paused,
        };
        match self.store.record_pause(&row, &paused).await {
            Ok(true) => Ok(Turn::Done(Box::new(recorded(row, &paused)))),
            // Somebody wanted it gone meanwhile.
            Ok(false) => Err(ApiError::no_sandbox(&row.id)),
            Err(error) => {
                session.compare_soon();
                Err(error.into())
            }
        }
    }

    /// Whether nothing has happened to a sandbox since its row was read.
    pub(crate) async fn is_as_read(&self, row: &SandboxRow) -> bool {
        let now = self.store.live_sandbox(&row.id).await;
        now.is_ok_and(|now| now.is_some_and(|now| now.revision == row.revision))
    }

    async fn ask_pause(
        &self,
        session: &Session,
        id: &SandboxId,
        order: PauseOrder,
    ) -> Result<PausedStatus, PauseError> {
        let limit = self.config.limits.create;
        let paused = Budget::within(limit).run("pause", session.api().pause_by(id, order)).await;
        paused.unwrap_or_else(|late| Err(PauseError::Unreachable(late.to_string())))
    }

    async fn paused_on(&self, session: &Session, id: &SandboxId) -> Option<PausedStatus> {
        let limit = self.config.limits.node_answer;
        let paused = session.within(limit, session.api().paused()).await.ok()?;
        paused.into_iter().find(|paused| paused.id == *id)
    }

    /// Makes the record of a sandbox that was not paused say what became of it; what the client is
    /// told.
    async fn not_paused(
        self: &Arc<Self>,
        session: &Arc<Session>,
        row: SandboxRow,
        error: PauseError,
    ) -> ApiError {
        if !self.is_as_read(&row).await {
            // Somebody wanted it gone meanwhile, and that has gone before.
            return ApiError::no_sandbox(&row.id);
        }
        tracing::warn!(error = %observe::chain(&error), "a sandbox was not paused");
        self.look_at_mine(session, &row).await;
        node_answers::pause_failed(&error, &row.id)
    }
}

fn recorded(row: SandboxRow, paused: &PausedStatus) -> SandboxRow {
    SandboxRow {
        state: RowState::Paused,
        lifecycle: Some(paused.lifecycle.clone()),
        paused: Some(Paused::from(paused)),
        pauses: row.pauses + 1,
        revision: row.revision + 1,
        ..row
    }
}

/// What a client is told for whom a sandbox stays on its way to another state for too long.
fn not_now(error: ApiError) -> ApiError {
    if error.is_conflict() { error.with_status(StatusCode::SERVICE_UNAVAILABLE) } else { error }
}

fn unsure() -> PauseError {
    PauseError::Unreachable("it has not said what became of the sandbox".to_owned())
}
