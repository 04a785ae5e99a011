//! Letting a paused sandbox go on: intent, node, route, record. What was kept of it is on one node,
//! so that one is asked and no other.

use std::sync::Arc;
use std::time::Duration;

use e2b_wire::{Sandbox, Timestamp, error_code};
use http::StatusCode;
use lifecycle::Budget;
use model::{EndReason, Ipv4Range, Keep, OnTimeout, SandboxId, SandboxSpec, Secret};
use node_wire::{CreateError, Resumed, Started};

use crate::Team;
use crate::app::{App, now};
use crate::create::at_limit;
use crate::http::ApiError;
use crate::kill::is_starting;
use crate::network;
use crate::node_answers;
use crate::nodes::Session;
use crate::store::{Resuming, RowState, SandboxRow};
use crate::transitions::{Outcome, Patience, Turn, What, still_transitioning};

/// The shortest run: what is asked for no time at all would end before its client hears of it.
const TTL_MIN: Duration = Duration::from_secs(1);
/// What a node may need beyond the time of a start, to undo one that failed.
const UNDO_MARGIN: Duration = Duration::from_secs(10);

/// How a sandbox is to go on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    pub(crate) ttl: Duration,
    /// [`Keep::Files`] starts it anew, whatever else is kept.
    pub(crate) keep: Keep,
    /// What becomes of it at its next end, instead of what was asked for when it was made.
    pub(crate) on_timeout: Option<OnTimeout>,
}

impl App {
    /// Lets a paused sandbox of `team` go on; as [`App::connect`], but one that runs is refused.
    ///
    /// # Errors
    /// 404 for none, 409 for one that runs.
    pub(crate) async fn resume(
        self: Arc<Self>,
        team: Arc<Team>,
        id: SandboxId,
        wish: Wish,
    ) -> Result<Sandbox, ApiError> {
        let mut patience = Patience::new(&self);
        let mut joined = false;
        loop {
            patience.look();
            let Some(row) = self.store.sandbox(&team.id, &id).await? else {
                return Err(ApiError::no_sandbox(&id));
            };
            match row.state {
                RowState::Paused => match self.resume_or_join(&team, &row, &wish).await? {
                    Turn::Done(row) => return Ok(self.answer(&row)),
                    Turn::Changed => {
                        joined = true;
                        patience.again(&row).await?;
                    }
                },
                RowState::Resuming => {
                    refuse_to_join(&wish)?;
                    joined = true;
                    self.join_resume(&mut patience, &row).await?;
                }
                RowState::Pausing => patience.wait(&self, &row).await?,
                RowState::Running if joined => return Ok(self.answer(&row)),
                RowState::Running => {
                    let message = format!("sandbox {id} runs; connect to it instead");
                    return Err(ApiError::new(StatusCode::CONFLICT, message));
                }
                RowState::Starting | RowState::Killing | RowState::Ended => {
                    return Err(ApiError::no_sandbox(&id));
                }
            }
        }
    }

    /// Lets the sandbox of a row that was read as paused go on, or waits for whoever does. Of a
    /// start that somebody else began the time is theirs: [`Turn::Changed`], and the caller looks
    /// again.
    ///
    /// # Errors
    /// 409 for a memory whose guest agent was silent, and what its node says.
    pub(crate) async fn resume_or_join(
        self: &Arc<Self>,
        team: &Team,
        row: &SandboxRow,
        wish: &Wish,
    ) -> Outcome {
        if wish.keep == Keep::Memory && row.paused.is_some_and(|last| last.agent_silent) {
            return Err(node_answers::agent_silent(&row.id));
        }
        let limit = self.config.limits.of(team).team_sandboxes;
        let work = Arc::clone(self).resume_now(row.clone(), *wish, limit);
        let joined = self.transit(&row.id, What::Resume, work)?;
        if joined.mine {
            return joined.outcome().await;
        }
        if joined.what == What::Resume {
            refuse_to_join(wish)?;
            return joined.outcome().await.map(|_theirs| Turn::Changed);
        }
        // How a pause ended is for who asked for it.
        drop(joined.outcome().await);
        Ok(Turn::Changed)
    }

    /// Waits for a start that is under way. Its failure is the caller's, too.
    pub(crate) async fn join_resume(
        &self,
        patience: &mut Patience,
        row: &SandboxRow,
    ) -> Result<(), ApiError> {
        match self.transitions.of(&row.id) {
            Some(joined) if joined.what == What::Resume => {
                joined.outcome().await?;
                patience.again(row).await
            }
            Some(_) | None => patience.wait(self, row).await,
        }
    }

    async fn resume_now(
        self: Arc<Self>,
        mut row: SandboxRow,
        wish: Wish,
        team_limit: u32,
    ) -> Outcome {
        let _hands = self.starting.enter(row.id.clone());
        let session = Arc::clone(self.node_of(&row)?);
        if let Some(on_timeout) = wish.on_timeout {
            row.terms.on_timeout = on_timeout;
        }
        let spec = self.spec_of(&row, wish.ttl.max(TTL_MIN))?;
        match self.store.begin_resume(&row, team_limit).await? {
            Resuming::Yes => {}
            Resuming::AtLimit => return Err(at_limit(team_limit)),
            Resuming::Changed => return Ok(Turn::Changed),
        }
        row = SandboxRow { state: RowState::Resuming, revision: row.revision + 1, ..row };
        if wish.on_timeout.is_some() {
            self.store.set_on_timeout(&row.id, &row.terms).await?;
        }
        let asked_at = now();
        match self.ask_resume(&session, spec, wish.keep).await {
            Ok(resumed) => {
                let memory = resumed.memory;
                let row = self.goes_on(&session, row, resumed.started, asked_at).await?;
                if wish.keep == Keep::Files && memory {
                    return Err(unconfirmed(&row.id));
                }
                Ok(Turn::Done(Box::new(row)))
            }
            Err(error) => self.not_resumed(&session, row, error).await,
        }
    }

    async fn ask_resume(
        &self,
        session: &Session,
        spec: SandboxSpec,
        keep: Keep,
    ) -> Result<Resumed, CreateError> {
        let limit = self.config.limits.create;
        let resumed = session.api().resume(spec, keep, limit);
        let resumed = Budget::within(limit + UNDO_MARGIN).run("resume", resumed).await;
        resumed.unwrap_or_else(|late| Err(CreateError::Unreachable(late.to_string())))
    }

    /// Its node has it running again.
    async fn goes_on(
        self: &Arc<Self>,
        session: &Arc<Session>,
        row: SandboxRow,
        started: Started,
        asked_at: Timestamp,
    ) -> Result<SandboxRow, ApiError> {
        let Started { status, route } = started;
        // Before the record, as in a create: whoever ends it between the two finds the row, and
        // the check below takes the route away.
        self.routes.publish(route, self.ingress(&row));
        match self.store.record_resume(&row, &status, asked_at).await {
            Ok(true) => {
                tracing::info!(lifecycle.id = %status.lifecycle, "a paused sandbox runs again");
                Ok(SandboxRow {
                    state: RowState::Running,
                    lifecycle: Some(status.lifecycle),
                    resources: status.resources,
                    started_at: Timestamp::from(status.started_at).max(asked_at),
                    ends_at: status.ends_at.into(),
                    revision: row.revision + 1,
                    ..row
                })
            }
            Ok(false) => {
                self.routes.withdraw(&row.id, &status.lifecycle);
                // Whoever wanted it gone may have asked before there was anything to end.
                let ended = self.join_kill(session, &row.id, EndReason::Request).await;
                if let Err(error) = ended {
                    tracing::warn!(error = %observe::chain(&error), "kill after a lost start");
                }
                Err(ApiError::no_sandbox(&row.id))
            }
            Err(error) => {
                // It runs, and the next comparison can say so.
                session.compare_soon();
                Err(error.into())
            }
        }
    }

    /// Makes the record of a sandbox that did not go on say what it is now.
    async fn not_resumed(
        self: &Arc<Self>,
        session: &Arc<Session>,
        row: SandboxRow,
        error: CreateError,
    ) -> Outcome {
        tracing::warn!(error = %observe::chain(&error), "a paused sandbox did not go on");
        match error {
            // It may run there.
            CreateError::Unreachable(_) => session.compare_soon(),
            // It runs, or is on its way to or from it: as when its memory is being given up.
            CreateError::AlreadyExists(_) => {
                self.look_at_mine(session, &row).await;
                return Ok(Turn::Changed);
            }
            CreateError::NotPaused(_) if !is_starting(session).await => {
                self.look_at_mine(session, &row).await;
                self.store.paused_again(&row).await?;
                return Ok(Turn::Changed);
            }
            _ => {
                let still_there = self.store.paused_again(&row).await?;
                if !still_there {
                    return Err(ApiError::no_sandbox(&row.id));
                }
            }
        }
        if matches!(error, CreateError::NotPaused(_)) {
            return Err(still_transitioning(&row.id));
        }
        Err(node_answers::create_failed(&error, &row.id))
    }

    /// What a node is told of the sandbox of a row, to start it.
    ///
    /// # Errors
    /// Its rules for connections are not understood.
    pub(crate) fn spec_of(&self, row: &SandboxRow, ttl: Duration) -> Result<SandboxSpec, ApiError> {
        let mut egress = match &row.network {
            Some(network) => network::egress(network)?,
            None => model::Egress::default(),
        };
        // With its record the rules were lost that it had. Fewer connections than it may have are
        // better than more; who owns it can set them.
        if row.adopted && row.internet.is_none() && egress == model::Egress::default() {
            egress.deny.push(Ipv4Range::ALL);
        }
        Ok(SandboxSpec {
            id: row.id.clone(),
            team: row.team.clone(),
            template: row.template.clone(),
            resources: None,
            env: row.terms.env.clone(),
            metadata: row.metadata.clone(),
            access_token: self.envd_token(row).map(Secret::new),
            ttl,
            on_timeout: row.terms.on_timeout,
            internet: row.internet.unwrap_or(true),
            egress,
        })
    }
}

/// Who wants a start from the files alone cannot have part in one that may be another.
///
/// # Errors
/// 409 for such a wish.
pub(crate) fn refuse_to_join(wish: &Wish) -> Result<(), ApiError> {
    if wish.keep == Keep::Memory {
        return Ok(());
    }
    let message = "the sandbox is being started by somebody else; memory: false cannot change that";
    Err(ApiError::new(StatusCode::CONFLICT, message).code(error_code::START_IN_FLIGHT))
}

fn unconfirmed(id: &SandboxId) -> ApiError {
    let message = format!("the node of sandbox {id} went on with its memory all the same");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).code(error_code::FILES_BOOT_UNCONFIRMED)
}
