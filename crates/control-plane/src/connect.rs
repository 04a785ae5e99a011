//! Connecting to a running sandbox and moving its end. The node keeps the time; the bound of a
//! sandbox's whole life is kept here.

use std::sync::Arc;
use std::time::Duration;

use e2b_wire::{Sandbox, Timestamp};
use http::StatusCode;
use model::SandboxId;

use crate::Team;
use crate::app::{App, now};
use crate::http::ApiError;
use crate::node_answers;
use crate::store::{RowState, SandboxRow};

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
    /// Answers a running sandbox and sees to it that it lives `ttl` from now.
    pub(crate) async fn connect(
        self: Arc<Self>,
        team: Arc<Team>,
        id: SandboxId,
        ttl: Duration,
    ) -> Result<Sandbox, ApiError> {
        let row = self.move_end(&team, &id, NewEnd::AtLeastIn(ttl)).await?;
        Ok(self.answer(&row))
    }

    /// Moves the end of a running sandbox, never past the longest life of one.
    pub(crate) async fn move_end(
        &self,
        team: &Team,
        id: &SandboxId,
        new_end: NewEnd,
    ) -> Result<SandboxRow, ApiError> {
        let _alone = self.lock_end(id).await;
        let row = self.running(team, id).await?;
        let Some(ends_at) = decide(&row, new_end, now(), self.config.limits.sandbox_length)? else {
            return Ok(row);
        };
        let node = self.node_of(&row)?;
        let moved = node.api().set_end(id, ends_at.to_system_time());
        let moved = node.within(CALL_LIMIT, moved).await;
        moved.map_err(|error| node_answers::call_failed(&error, id))?;
        self.store.move_end(id, row.ends_at, ends_at).await?;
        Ok(SandboxRow { ends_at, ..row })
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
            RowState::Killing => {
                let message = format!("sandbox {id} is being killed");
                Err(ApiError::new(StatusCode::CONFLICT, message))
            }
            RowState::Starting | RowState::Ended => Err(ApiError::no_sandbox(id)),
        }
    }
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
