//! `POST /freeze` and `POST /unfreeze`: users' processes, or everything but what is needed, stand
//! still and go on.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::with_cause;
use crate::agent::Agent;
use crate::cgroups::{Mode, Settled, Sweep};
use crate::rest::RestError;
use crate::tasks;

const CGROUPS_DEFAULT: usize = 512;
const CGROUPS_MAX: usize = 8192;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FreezeQuery {
    mode: Option<String>,
    max_cgroups: Option<i64>,
    max_wait_ms: Option<i64>,
}

/// Counts of control groups, and how long it took.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    mode: Mode,
    /// Looked at.
    visited: usize,
    /// Go on, because something would not work without.
    allowlisted: usize,
    truncated: bool,
    /// Stood still before, by somebody else's doing.
    pre_frozen: usize,
    /// Asked to stand still: those of the next two counts, and of `unobservable`.
    requested: usize,
    frozen: usize,
    not_frozen: usize,
    /// Could not be asked.
    failed: usize,
    unobservable: usize,
    sweep_ms: u64,
    wait_ms: u64,
}

impl FreezeQuery {
    fn mode(&self) -> Result<Mode, RestError> {
        match self.mode.as_deref() {
            None | Some("" | "legacy") => Ok(Mode::Legacy),
            Some("hierarchy") => Ok(Mode::Hierarchy),
            Some(other) => Err(RestError::new(
                StatusCode::BAD_REQUEST,
                format!("mode must be 'legacy' or 'hierarchy', not '{}'", other.escape_default()),
            )),
        }
    }

    /// How many groups are looked at at most.
    fn most(&self) -> usize {
        let wanted = self.max_cgroups.filter(|wanted| *wanted > 0);
        let wanted = wanted.map(|wanted| usize::try_from(wanted).unwrap_or(CGROUPS_MAX));
        wanted.unwrap_or(CGROUPS_DEFAULT).min(CGROUPS_MAX)
    }

    /// `None` for a request that does not wait.
    fn wait(&self) -> Option<Duration> {
        let wanted = self.max_wait_ms.and_then(|wanted| u64::try_from(wanted).ok());
        wanted.filter(|wanted| *wanted > 0).map(Duration::from_millis)
    }
}

impl Report {
    fn new(mode: Mode, sweep: &Sweep, settled: &Settled) -> Self {
        let ms = |took: Duration| u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Self {
            mode,
            visited: sweep.visited,
            allowlisted: sweep.left_alone,
            truncated: sweep.truncated,
            pre_frozen: sweep.pre_frozen,
            requested: sweep.asked.len(),
            frozen: settled.frozen,
            not_frozen: settled.not_frozen,
            failed: sweep.failed,
            unobservable: settled.unobservable,
            sweep_ms: ms(sweep.took),
            wait_ms: ms(settled.took),
        }
    }
}

/// A client that leaves while it waits leaves everything frozen: the host asks for a little time
/// only, and goes on whatever the answer.
pub(super) async fn freeze(
    State(agent): State<Arc<Agent>>,
    Query(query): Query<FreezeQuery>,
) -> Result<Response, RestError> {
    let (mode, most) = (query.mode()?, query.most());
    let turn = agent.control.turn.take().await?;
    let freezer = Arc::clone(&agent.cgroups.freezer);
    let swept = tasks::blocking(move || (freezer.freeze(mode, most), turn)).await;
    let (sweep, turn) = swept.ok_or_else(panicked)?;
    let Some(limit) = query.wait() else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let settled = agent.cgroups.freezer.settle(&sweep, limit).await;
    drop(turn);
    Ok(Json(Report::new(mode, &sweep, &settled)).into_response())
}

/// Takes a freeze back. After a resume `/init` does so.
pub(super) async fn unfreeze(State(agent): State<Arc<Agent>>) -> Result<StatusCode, RestError> {
    let turn = agent.control.turn.take().await?;
    let freezer = Arc::clone(&agent.cgroups.freezer);
    let thawed = tasks::blocking(move || {
        let _turn = turn;
        freezer.thaw()
    });
    match thawed.await.ok_or_else(panicked)? {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(error) => Err(RestError::new(StatusCode::INTERNAL_SERVER_ERROR, with_cause(&error))),
    }
}

pub(super) fn panicked() -> RestError {
    RestError::new(StatusCode::INTERNAL_SERVER_ERROR, "a fault of the agent's own")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_has_a_default_and_too_much_is_the_most() {
        let query = FreezeQuery::default();
        assert_eq!((query.mode().unwrap(), query.most(), query.wait()), (Mode::Legacy, 512, None));
        for (wanted, most) in [(-1, 512), (0, 512), (1, 1), (8192, 8192), (i64::MAX, 8192)] {
            let query = FreezeQuery { max_cgroups: Some(wanted), ..FreezeQuery::default() };
            assert_eq!(query.most(), most, "{wanted}");
        }
        for (wanted, wait) in [(-1, None), (0, None), (1500, Some(Duration::from_millis(1500)))] {
            let query = FreezeQuery { max_wait_ms: Some(wanted), ..FreezeQuery::default() };
            assert_eq!(query.wait(), wait, "{wanted}");
        }
    }

    #[test]
    fn a_mode_that_is_none_is_refused() {
        let query = |mode: &str| FreezeQuery { mode: Some(mode.into()), ..FreezeQuery::default() };
        assert_eq!(query("hierarchy").mode().unwrap(), Mode::Hierarchy);
        let refused = query("all").mode().unwrap_err();
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    }
}
