//! Connecting to a sandbox, whether it runs or is paused, and moving its end. The node keeps the time; the bound of a
//! sandbox's whole life is kept here.

use std::sync::Arc;
use std::time::Duration;

use e2b_wire::{Sandbox, Timestamp};
use http::StatusCode;
use model::SandboxId;
use node_wire::NodeError;

use crate::Team;
use crate::app::{App, now};
use crate::http::ApiError;
use crate::node_answers;
use crate::resume::{Wish, refuse_to_join};
use crate::store::{RowState, SandboxRow};
use crate::transitions::{Patience, Turn, still_transitioning};

/// How long a node may take to move an end.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Where an end is to be moved.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NewEnd {
    /// To this long from now, sooner or later than it was.
    In(Duration),
    /// To this long from now, unless it is later already.
    AtLeastIn(Duration),
}

impl App {
    /// Answers a running sandbox and sees to it that it lives `ttl` from now; lets a paused one go
    /// on. Whether it did not run before.
    pub(crate) async fn connect(
        self: Arc<Self>,
        team: Arc<Team>,
        id: SandboxId,
        wish: Wish,
    ) -> Result<(Sandbox, bool), ApiError> {
        let mut patience = Patience::new(&self);
        let mut resumed = false;
        loop {
            patience.look();
            let Some(row) = self.store.sandbox(&team.id, &id).await? else {
                return Err(ApiError::no_sandbox(&id));
            };
            match row.state {
                RowState::Running => {
                    let new_end = NewEnd::AtLeastIn(wish.ttl);
                    match self.try_move_end(&team, &id, new_end).await {
                        Ok(Some(row)) => return Ok((self.answer(&row), resumed)),
                        // Its time was over a moment ago, or somebody paused it.
                        Ok(None) => patience.again(&row).await?,
                        Err(error) if error.is_conflict() => patience.again(&row).await?,
                        Err(error) => return Err(error),
                    }
                }
                RowState::Paused => match self.resume_or_join(&team, &row, &wish).await? {
                    Turn::Done(row) => return Ok((self.answer(&row), true)),
                    Turn::Changed => {
                        resumed = true;
                        patience.again(&row).await?;
                    }
                },
                RowState::Resuming => {
                    refuse_to_join(&wish)?;
                    resumed = true;
                    self.join_resume(&mut patience, &row).await?;
                }
                RowState::Pausing => patience.wait(&self, &row).await?,
                RowState::Killing => return Err(being_killed(&id)),
                RowState::Starting | RowState::Ended => return Err(ApiError::no_sandbox(&id)),
            }
        }
    }

    /// Moves the end of a running sandbox, never past the longest life of one.
    pub(crate) async fn move_end(
        self: &Arc<Self>,
        team: &Team,
        id: &SandboxId,
        new_end: NewEnd,
    ) -> Result<SandboxRow, ApiError> {
        match self.try_move_end(team, id, new_end).await {
            Ok(moved) => moved.ok_or_else(|| ApiError::no_sandbox(id)),
            // E2B has no paused sandbox whose end could be moved.
            Err(error) if error.is_conflict() && self.is_paused(team, id).await? => {
                Err(ApiError::no_sandbox(id))
            }
            Err(error) => Err(error),
        }
    }

    /// As [`App::move_end`]; `None` when its node does not have it running any more, which is in
    /// the record then.
    async fn try_move_end(
        self: &Arc<Self>,
        team: &Team,
        id: &SandboxId,
        new_end: NewEnd,
    ) -> Result<Option<SandboxRow>, ApiError> {
        let alone = self.lock_end(id).await;
        let row = self.running(team, id).await?;
        let longest = self.config.limits.of(team).sandbox_length;
        let Some(ends_at) = decide(&row, new_end, now(), longest)? else {
            return Ok(Some(row));
        };
        let node = Arc::clone(self.node_of(&row)?);
        let moved = node.api().set_end(id, ends_at.to_system_time());
        match node.within(CALL_LIMIT, moved).await {
            Ok(()) => {}
            Err(NodeError::NotFound(_)) => {
                drop(alone);
                self.look_at(&node, &row).await;
                return Ok(None);
            }
            Err(error) => return Err(node_answers::call_failed(&error, id)),
        }
        self.store.move_end(id, row.ends_at, ends_at).await?;
        Ok(Some(SandboxRow { ends_at, ..row }))
    }

    /// The row of a running sandbox of `team`.
    pub(crate) async fn running(
        &self,
        team: &Team,
        id: &SandboxId,
    ) -> Result<SandboxRow, ApiError> {
        let Some(row) = self.store.sandbox(&team.id, id).await? else {
            return Err(ApiError::no_sandbox(id));
        };
        match row.state {
            RowState::Running => Ok(row),
            RowState::Paused => {
                let message = format!("sandbox {id} is paused; connect to it first");
                Err(ApiError::new(StatusCode::CONFLICT, message))
            }
            RowState::Pausing | RowState::Resuming => Err(still_transitioning(id)),
            RowState::Killing => Err(being_killed(id)),
            RowState::Starting | RowState::Ended => Err(ApiError::no_sandbox(id)),
        }
    }
}

fn being_killed(id: &SandboxId) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, format!("sandbox {id} is being killed"))
}

/// The end to set, `None` when it can stay. Ends past the longest life become its end.
fn decide(
    row: &SandboxRow,
    new_end: NewEnd,
    now: Timestamp,
    longest: Duration,
) -> Result<Option<Timestamp>, ApiError> {
    let last = row.started_at.after(longest);
    if now > last {
        let hours = longest.as_secs() / 3600;
        let message = format!("sandbox {} has lived its {hours} hours; create another", row.id);
        return Err(ApiError::bad_request(message));
    }
    match new_end {
        NewEnd::In(ttl) => Ok(Some(now.after(ttl).min(last))),
        NewEnd::AtLeastIn(ttl) => {
            Ok(Some(now.after(ttl).min(last)).filter(|&ends_at| ends_at > row.ends_at))
        }
    }
}
