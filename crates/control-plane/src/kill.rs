//! Ending sandboxes. That the end was asked for is in the record before the node is asked, and
//! stays there until the node has confirmed it: whatever dies or is away meanwhile, the order is
//! sent again.

mod joined;
mod pursuit;

pub(crate) use joined::Kills;
pub(crate) use pursuit::{Pursuit, Pursuits};

use std::sync::Arc;
use std::time::Duration;

use model::{EndReason, NodeId, NodePhase, SandboxId};
use node_wire::NodeError;

use crate::Team;
use crate::app::App;
use crate::http::ApiError;
use crate::journals::LAST_LIMIT;
use crate::node_answers;
use crate::nodes::Session;
use crate::store::{End, RowState, SandboxRow, StoreError};

/// How long a node that has a sandbox no more may take to say how that came.
const ASK_LIMIT: Duration = Duration::from_secs(5);

impl App {
    /// Ends a sandbox of `team` and answers when the node released everything it held. Joins an
    /// end that is under way; tries again what is stuck. What a node that cannot be reached does
    /// not confirm is sent again until it does.
    pub(crate) async fn kill(
        self: Arc<Self>,
        team: Arc<Team>,
        id: SandboxId,
    ) -> Result<(), ApiError> {
        let Some(row) = self.store.sandbox(&team.id, &id).await? else {
            return Err(ApiError::no_sandbox(&id));
        };
        let state = self.close_to_clients(&row).await;
        let node = self.node_of(&row).inspect_err(|_away| self.pursue(&id))?;
        match self.end(node, &row).await {
            Ok(()) => Ok(self.killed(&id, state, End::as_asked()).await?),
            // Not there any more: it ended by itself a moment ago, or its start is being undone.
            Err(NodeError::NotFound(_)) => {
                Ok(self.killed(&id, state, self.end_of(node, &row).await).await?)
            }
            Err(error) => Err(node_answers::call_failed(&error, &id)),
        }
    }

    /// As [`App::kill`], for one who ends this one alone: what its guest agent has noted last is kept,
    /// if it says so at once.
    pub(crate) async fn kill_heard(
        self: Arc<Self>,
        team: Arc<Team>,
        id: SandboxId,
    ) -> Result<(), ApiError> {
        self.hear_agent(&team.id, &id, LAST_LIMIT).await;
        self.kill(team, id).await
    }

    /// As [`App::kill`] for an operator, who names the node: a sandbox that is stuck may have no record
    /// any more, which ends with what the sandbox runs and not with what it holds.
    pub(crate) async fn kill_on_node(
        self: Arc<Self>,
        node: NodeId,
        session: Arc<Session>,
        id: SandboxId,
    ) -> Result<(), ApiError> {
        let row = self.store.live_sandbox(&id).await?;
        let is_there =
            |row: &SandboxRow| self.node_of(row).is_ok_and(|node| Arc::ptr_eq(node, &session));
        let Some(row) = row.filter(is_there) else {
            let ended = self.join_kill(&session, &id, EndReason::Request).await;
            return ended.map_err(|error| node_answers::kill_failed(&error, &node, &id));
        };
        let state = self.close_to_clients(&row).await;
        match self.end(&session, &row).await {
            Ok(()) => Ok(self.killed(&id, state, End::as_asked()).await?),
            Err(NodeError::NotFound(_)) => {
                Ok(self.killed(&id, state, self.end_of(&session, &row).await).await?)
            }
            Err(error) => Err(node_answers::kill_failed(&error, &node, &id)),
        }
    }

    /// From now on clients do not reach it. The state its record has then.
    async fn close_to_clients(&self, row: &SandboxRow) -> RowState {
        let written = self.store.sandbox_killing(&row.id).await;
        if let Err(error) = &written {
            // Whoever has no room left must be able to end something. Only that it will be asked
            // for again is lost, should the node not do it: the client is told then.
            let error = observe::chain(error).to_string();
            tracing::error!(error, "an order to end a sandbox is given, and not written down");
        }
        if let Some(lifecycle) = &row.lifecycle {
            self.routes.withdraw(&row.id, lifecycle);
        }
        if written.is_ok() { RowState::Killing } else { row.state }
    }

    /// Has the node end it. An order that the node may not have got is pursued from then on.
    async fn end(self: &Arc<Self>, node: &Arc<Session>, row: &SandboxRow) -> Result<(), NodeError> {
        let ended = self.order_end(node, row).await;
        match &ended {
            Ok(()) | Err(NodeError::NotFound(_)) => {}
            Err(error) => {
                tracing::error!(error = %observe::chain(error), "sandbox is not gone yet");
                // A stuck one the node has the order for, and tries again itself.
                if !matches!(error, NodeError::Stuck { .. }) {
                    self.pursue(&row.id);
                }
            }
        }
        ended
    }

    /// [`NodeError::NotFound`] is the word of a node that has taken over all it will.
    async fn order_end(
        self: &Arc<Self>,
        node: &Arc<Session>,
        row: &SandboxRow,
    ) -> Result<(), NodeError> {
        match self.join_kill(node, &row.id, EndReason::Request).await {
            Err(NodeError::NotFound(_)) if is_starting(node).await => {
                let why = "it has not taken over yet what an earlier process of it left";
                Err(NodeError::Unreachable(why.to_owned()))
            }
            ended => ended,
        }
    }

    /// How a sandbox ended that its node has no more: as asked, unless the node knows better.
    async fn end_of(&self, node: &Session, row: &SandboxRow) -> End {
        let known = node.within(ASK_LIMIT, node.api().ended(std::slice::from_ref(&row.id))).await;
        let known = known.inspect_err(|error| {
            tracing::debug!(error = %observe::chain(error), "how a sandbox ended is not known");
        });
        let ending = known.ok().and_then(|endings| row.ending_of(&endings).cloned());
        ending.map_or_else(End::as_asked, |ending| End { released: true, ..ending.into() })
    }

    async fn killed(&self, id: &SandboxId, from: RowState, end: End) -> Result<(), StoreError> {
        self.store.close_sandbox(id, from, &end).await?;
        tracing::info!("sandbox killed");
        Ok(())
    }
}

/// Whether a node that does not have a sandbox may still take it over. When it does not say, the
/// answer it gave counts.
pub(crate) async fn is_starting(node: &Session) -> bool {
    let drain = node.within(ASK_LIMIT, node.api().drain_status()).await;
    drain.is_ok_and(|drain| drain.phase == NodePhase::Starting)
}
