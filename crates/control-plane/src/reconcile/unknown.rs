//! Sandboxes that run, or are paused, on a node and have no record there.

use std::collections::HashSet;
use std::sync::Arc;

use e2b_wire::NetworkConfig;
use model::{BuildId, EndReason, Keep, OnTimeout, SandboxId, SandboxPhase};
use node_wire::{NodeError, PausedStatus, SandboxStatus};

use super::{Has, Seen, Told};
use crate::app::{App, now};
use crate::config::UnknownSandboxes;
use crate::nodes::Session;
use crate::store::{Paused, RowState, SandboxRow, StoreError, Terms};

/// What is recorded as the build of a sandbox whose template nobody has any more.
const NO_BUILD: &str = "unknown";

/// What a node has that is in no record of it.
enum Found {
    Runs(Box<SandboxStatus>),
    Paused(Box<PausedStatus>),
}

impl App {
    /// Of what the node has beside the sandboxes of its records: ends what has its record elsewhere
    /// or is over there, and takes in what has none.
    pub(super) async fn sort_out(
        self: &Arc<Self>,
        told: &Told<'_>,
        beside: Has,
        elsewhere: &HashSet<SandboxId>,
    ) -> Result<(), StoreError> {
        let mut beside = beside;
        let mut strays = Vec::new();
        for id in beside.all() {
            let found = match beside.take(&id) {
                Seen::Run(status) if status.phase.is_routable() => Found::Runs(status),
                Seen::Paused(paused) => Found::Paused(paused),
                Seen::Run(_) | Seen::Nothing => continue,
            };
            // Looked up before the record: whoever starts it leaves the set only when the record
            // says what became of it.
            if self.starting.has(&id) {
                continue;
            }
            match self.store.record_state(&id).await? {
                Some(RowState::Ended) => {
                    if !self.is_found_again(&found).await? {
                        strays.push((id, EndReason::Request));
                    }
                }
                Some(_) if elsewhere.contains(&id) => strays.push((id, EndReason::Request)),
                // Made since the rows were read.
                Some(_) => {}
                None => {
                    if !self.take_in(told, &found).await? {
                        strays.push((id, EndReason::Reclaimed));
                    }
                }
            }
        }
        if !strays.is_empty() {
            let span = tracing::info_span!("strays", node.id = %told.node);
            let session = Arc::clone(told.session);
            self.tasks.spawn(span, Arc::clone(self).end_strays(session, strays));
        }
        Ok(())
    }

    /// Whether it is a paused sandbox that was thought to be lost: what is kept of one is removed for
    /// its owner and for nobody else.
    async fn is_found_again(&self, found: &Found) -> Result<bool, StoreError> {
        let Found::Paused(paused) = found else { return Ok(false) };
        let is_again = self.store.found_again(paused).await?;
        if is_again {
            tracing::warn!(sandbox.id = %paused.id, "a sandbox that was lost is found, and paused");
        }
        Ok(is_again)
    }

    /// Makes the record of a sandbox that has none. False when it is to be ended.
    async fn take_in(&self, told: &Told<'_>, found: &Found) -> Result<bool, StoreError> {
        let (id, team) = match found {
            Found::Runs(status) => (&status.id, &status.team),
            Found::Paused(paused) => (&paused.id, &paused.team),
        };
        if self.config.unknown_sandboxes == UnknownSandboxes::End {
            tracing::warn!(sandbox.id = %id, "a node has a sandbox without a record; ending it");
            return Ok(false);
        }
        if self.store.team(team).await?.is_none() {
            let team = team.as_str();
            tracing::warn!(sandbox.id = %id, team.id = team, "nobody owns a sandbox; ending it");
            return Ok(false);
        }
        let row = self.record_of(told, found).await?;
        if self.store.adopt_sandbox(&row, now()).await? {
            tracing::warn!(sandbox.id = %id, "a node has a sandbox without a record; it has one now");
        }
        if let Found::Runs(status) = found {
            self.route_again(&row, status).await?;
        }
        Ok(true)
    }

    async fn record_of(&self, told: &Told<'_>, found: &Found) -> Result<SandboxRow, StoreError> {
        let template = match found {
            Found::Runs(status) => &status.template,
            Found::Paused(paused) => &paused.template,
        };
        let known = self.store.find_template(template.as_str()).await?;
        let known = known.filter(|known| known.id == *template);
        let (build, alias, envd_version) = match known {
            Some(known) => (known.build, known.aliases.into_iter().next(), known.envd_version),
            // Every template of a node has the agent of the node.
            None => (no_build(), None, told.session.envd_version().unwrap_or_default()),
        };
        let row = match found {
            Found::Runs(status) => {
                SandboxRow { ends_at: status.ends_at.into(), ..running(status, build) }
            }
            Found::Paused(paused) => of_paused(paused),
        };
        Ok(SandboxRow { alias, envd_version, node: Some(told.node.clone()), ..row })
    }

    /// Ends sandboxes that nobody can reach: a node was asked for them, did not answer in time and
    /// was left for another one, or for none; or nobody knows whose they are. What is not gone yet
    /// the next comparison finds again.
    async fn end_strays(
        self: Arc<Self>,
        session: Arc<Session>,
        strays: Vec<(SandboxId, EndReason)>,
    ) {
        for (id, reason) in strays {
            if self.tasks.stop_token().is_cancelled() {
                return;
            }
            tracing::warn!(sandbox.id = %id, "ending a sandbox that has no record here");
            match self.join_kill(&session, &id, reason).await {
                Ok(()) | Err(NodeError::NotFound(_)) => {}
                Err(error) => {
                    let error = observe::chain(&error).to_string();
                    tracing::warn!(sandbox.id = %id, error, "it is not gone yet");
                }
            }
        }
    }
}

/// Out of what a node tells of one that runs.
fn running(status: &SandboxStatus, build: BuildId) -> SandboxRow {
    let started_at = status.started_at.into();
    SandboxRow {
        id: status.id.clone(),
        team: status.team.clone(),
        template: status.template.clone(),
        origin: None,
        build,
        alias: None,
        envd_version: String::new(),
        state: RowState::Running,
        node: None,
        lifecycle: Some(status.lifecycle.clone()),
        metadata: status.metadata.clone(),
        // Clients get its token: an agent that needs none does not look at it.
        secure: true,
        internet: None,
        // It may have been private, and then its token is still the one its clients have.
        network: Some(NetworkConfig { allow_public_traffic: Some(false), ..Default::default() }),
        resources: status.resources,
        created_at: started_at,
        started_at,
        ends_at: status.ends_at.into(),
        terms: Terms::default(),
        paused: None,
        pauses: 0,
        adopted: true,
        revision: 0,
    }
}

/// The same of one that is paused.
fn of_paused(paused: &PausedStatus) -> SandboxRow {
    let status = SandboxStatus {
        id: paused.id.clone(),
        lifecycle: paused.lifecycle.clone(),
        team: paused.team.clone(),
        template: paused.template.clone(),
        phase: SandboxPhase::Paused,
        resources: paused.resources,
        metadata: paused.metadata.clone(),
        started_at: paused.started_at,
        ends_at: paused.paused_at,
        addr: None,
        left: Vec::new(),
    };
    let last = Paused::from(paused);
    // Whoever had it paused wants to keep it.
    let on_timeout = OnTimeout::Pause(Keep::Memory);
    SandboxRow {
        state: RowState::Paused,
        terms: Terms { on_timeout, ..Terms::default() },
        paused: Some(last),
        pauses: 1,
        ..running(&status, paused.build.clone())
    }
}

#[expect(clippy::expect_used, reason = "the text is a legal id")]
fn no_build() -> BuildId {
    BuildId::parse(NO_BUILD).expect("a legal id")
}
