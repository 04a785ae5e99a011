//! Traffic wakes a paused sandbox, if that was asked for when it was made.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use model::{Keep, SandboxId, Secret};
use node_wire::{Knock, WakeError, Waker};
use subtle::ConstantTimeEq as _;
use tracing::{Instrument as _, info_span};

use crate::app::App;
use crate::http::ApiError;
use crate::resume::Wish;
use crate::store::{Paused, RowState, SandboxRow, StoreError};
use crate::transitions::{Patience, Turn};
use crate::{Standing, Team};

/// The time a sandbox gets at least: who sends the next request does not know that it was paused.
const TTL_MIN: Duration = Duration::from_secs(300);

/// The control plane as the edge asks it, which it knows itself: neither keeps the other alive.
#[derive(Debug)]
pub(crate) struct Wakeful(pub(crate) Weak<App>);

#[async_trait]
impl Waker for Wakeful {
    async fn wake(&self, sandbox: &SandboxId, knock: Knock) -> Result<(), WakeError> {
        let span = info_span!("wake", sandbox.id = %sandbox);
        let app = self.0.upgrade().ok_or(WakeError::Failed)?;
        app.wake(sandbox, &knock).instrument(span).await
    }
}

impl App {
    async fn wake(self: &Arc<Self>, id: &SandboxId, knock: &Knock) -> Result<(), WakeError> {
        let mut patience = Patience::new(self);
        loop {
            patience.look();
            let row = self.store.live_sandbox(id).await.map_err(|error| failed(&error))?;
            let row = row.ok_or(WakeError::NotFound)?;
            match row.state {
                // Its route was published before its record said so.
                RowState::Running => return Ok(()),
                RowState::Paused => {
                    let team = self.may_wake(&row, knock).await?;
                    let wish = Wish {
                        ttl: self.wake_ttl(&row, &team),
                        keep: Keep::Memory,
                        on_timeout: None,
                    };
                    match self.resume_or_join(&team, &row, &wish).await {
                        Ok(Turn::Done(_)) => return Ok(()),
                        Ok(Turn::Changed) => {
                            let again = patience.again(&row).await;
                            again.map_err(|_late| WakeError::Transitioning)?;
                        }
                        Err(error) => return Err(told(&error)),
                    }
                }
                RowState::Pausing | RowState::Resuming => {
                    self.may_wake(&row, knock).await?;
                    let waited = patience.wait(self, &row).await;
                    waited.map_err(|_late| WakeError::Transitioning)?;
                }
                RowState::Starting | RowState::Killing | RowState::Ended => {
                    return Err(WakeError::NotFound);
                }
            }
        }
    }

    /// The team of a sandbox that this request may wake.
    async fn may_wake(&self, row: &SandboxRow, knock: &Knock) -> Result<Team, WakeError> {
        // A start from files alone ends what a client may think still runs: only who asks for it
        // by name gets that.
        let starts_anew = |last: Paused| !last.memory || last.agent_silent;
        let starts_anew = row.state == RowState::Paused && row.paused.is_some_and(starts_anew);
        if !row.terms.auto_resume || starts_anew {
            return Err(WakeError::NotFound);
        }
        let ingress = self.ingress(row);
        let shown = if knock.for_agent {
            shows(ingress.agent_token.as_ref(), knock.agent_token.as_ref())
        } else {
            shows(ingress.traffic_token.as_ref(), knock.traffic_token.as_ref())
        };
        if !shown {
            return Err(WakeError::Denied);
        }
        let team = self.store.team(&row.team).await.map_err(|error| failed(&error))?;
        let team = team.ok_or(WakeError::NotFound)?;
        match &team.standing {
            Standing { banned: false, blocked: None } => Ok(team),
            Standing { .. } => Err(WakeError::Denied),
        }
    }

    fn wake_ttl(&self, row: &SandboxRow, team: &Team) -> Duration {
        let asked = row.terms.ttl.unwrap_or(TTL_MIN).max(TTL_MIN);
        asked.min(self.config.limits.of(team).sandbox_length)
    }
}

/// Whether what is asked for was shown.
fn shows(asked: Option<&Secret>, shown: Option<&Secret>) -> bool {
    let Some(asked) = asked else { return true };
    let asked = asked.expose().as_bytes();
    shown.is_some_and(|shown| bool::from(shown.expose().as_bytes().ct_eq(asked)))
}

fn told(error: &ApiError) -> WakeError {
    if error.is_rate_limited() {
        return WakeError::AtLimit;
    }
    if error.is_conflict() { WakeError::Transitioning } else { WakeError::Failed }
}

fn failed(error: &StoreError) -> WakeError {
    tracing::error!(error = %observe::chain(error), "nobody knows whether a sandbox is to be woken");
    WakeError::Failed
}
