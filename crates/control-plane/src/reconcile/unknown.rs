//! Sandboxes that run on a node and have no record there.

use std::collections::HashSet;
use std::sync::Arc;

use e2b_wire::NetworkConfig;
use model::{BuildId, EndReason, SandboxId, SandboxPhase};
use node_wire::{NodeError, SandboxStatus};

use super::Told;
use crate::app::{App, now};
use crate::config::UnknownSandboxes;
use crate::nodes::Session;
use crate::store::{RowState, SandboxRow, StoreError};

/// What is recorded as the build of a sandbox whose template nobody has any more.
const NO_BUILD: &str = "unknown";

impl App {
    /// Of what the node has beside the sandboxes of its records: ends what has its record elsewhere
    /// or is over there, and takes in what has none.
    pub(super) async fn sort_out(
        self: &Arc<Self>,
        told: &Told<'_>,
        beside: Vec<SandboxStatus>,
        elsewhere: &HashSet<SandboxId>,
    ) -> Result<(), StoreError> {
        let runs = |status: &SandboxStatus| status.phase == SandboxPhase::Live;
        let mut strays = Vec::new();
        for status in beside.into_iter().filter(runs) {
            // Looked up before the record: whoever starts it leaves the set only when the record
            // says what became of it.
            if self.starting.has(&status.id) {
                continue;
            }
            match self.store.record_state(&status.id).await? {
                Some(RowState::Ended) => strays.push((status.id, EndReason::Request)),
                Some(_) if elsewhere.contains(&status.id) => {
                    strays.push((status.id, EndReason::Request));
                }
                // Made since the rows were read.
                Some(_) => {}
                None => {
                    if !self.take_in(told, &status).await? {
                        strays.push((status.id, EndReason::Reclaimed));
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

    /// Makes the record of a sandbox that has none. False when it is to be ended.
    async fn take_in(&self, told: &Told<'_>, status: &SandboxStatus) -> Result<bool, StoreError> {
        let id = &status.id;
        if self.config.unknown_sandboxes == UnknownSandboxes::End {
            tracing::warn!(sandbox.id = %id, "a node has a sandbox without a record; ending it");
            return Ok(false);
        }
        if self.store.team(&status.team).await?.is_none() {
            let team = status.team.as_str();
            tracing::warn!(sandbox.id = %id, team.id = team, "nobody owns a sandbox; ending it");
            return Ok(false);
        }
        let row = self.record_of(told, status).await?;
        if self.store.adopt_sandbox(&row, now()).await? {
            tracing::warn!(sandbox.id = %id, "a node has a sandbox without a record; it has one now");
        }
        self.route_again(&row, status).await?;
        Ok(true)
    }

    async fn record_of(
        &self,
        told: &Told<'_>,
        status: &SandboxStatus,
    ) -> Result<SandboxRow, StoreError> {
        let template = self.store.find_template(status.template.as_str()).await?;
        let template = template.filter(|template| template.id == status.template);
        let (build, alias, envd_version) = match template {
            Some(known) => (known.build, known.aliases.into_iter().next(), known.envd_version),
            // Every template of a node has the agent of the node.
            None => (no_build(), None, told.session.envd_version().unwrap_or_default()),
        };
        let started_at = status.started_at.into();
        Ok(SandboxRow {
            id: status.id.clone(),
            team: status.team.clone(),
            template: status.template.clone(),
            build,
            alias,
            envd_version,
            state: RowState::Running,
            node: Some(told.node.clone()),
            lifecycle: Some(status.lifecycle.clone()),
            metadata: status.metadata.clone(),
            // Clients get its token: an agent that needs none does not look at it.
            secure: true,
            internet: None,
            // It may have been private, and then its token is still the one its clients have.
            network: Some(NetworkConfig {
                allow_public_traffic: Some(false),
                ..Default::default()
            }),
            resources: status.resources,
            created_at: started_at,
            started_at,
            ends_at: status.ends_at.into(),
        })
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

#[expect(clippy::expect_used, reason = "the text is a legal id")]
fn no_build() -> BuildId {
    BuildId::parse(NO_BUILD).expect("a legal id")
}
