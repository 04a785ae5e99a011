//! Comparing the records with what a node really has.

mod settle;
mod unknown;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use model::{NodeId, NodePhase, SandboxId, SandboxPhase};
use node_wire::{Ending, NodeError, SandboxStatus};

use crate::app::{App, now};
use crate::nodes::Session;
use crate::store::{SandboxRow, StoreError};

/// How long a node may take to say what it has, or how what it had has ended.
const LIST_LIMIT: Duration = Duration::from_secs(10);

/// The records could not be compared with the node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    #[error("list the sandboxes of the node")]
    Node(#[source] NodeError),
    #[error("read and write the records")]
    Store(#[source] StoreError),
}

/// What a node said, in one comparison.
struct Told<'a> {
    node: &'a NodeId,
    session: &'a Arc<Session>,
    endings: Vec<Ending>,
}

impl App {
    /// Makes the records say what the node says: closes rows whose sandboxes it does not have, with
    /// the reason it remembers; publishes the routes of those it has; sends the kills again that it
    /// did not confirm; and takes in, or ends, what nobody knows of. A node that nobody has heard of
    /// yet has nothing to compare with; of one that is still taking over what an earlier process of
    /// it left, only what it has is believed.
    pub(crate) async fn reconcile(
        self: &Arc<Self>,
        session: &Arc<Session>,
    ) -> Result<(), ReconcileError> {
        let Some(node) = session.id() else { return Ok(()) };
        // Rows first, node second: a row that is read as running was on the node before it is
        // asked, so when it is not in the answer it ended. Every write checks that the row still
        // is as it was read.
        let mut rows = self.store.live_sandboxes().await.map_err(ReconcileError::Store)?;
        let asked = now();
        let listed = session.within(LIST_LIMIT, list(session)).await;
        let (listed, is_whole) = match listed.map_err(ReconcileError::Node)? {
            Listed::Whole(listed) => (listed, true),
            Listed::SoFar(listed) => (live(listed), false),
        };
        let held: HashSet<SandboxId> = listed.iter().map(|status| status.id.clone()).collect();
        let mut on_node: HashMap<SandboxId, SandboxStatus> =
            listed.into_iter().map(|status| (status.id.clone(), status)).collect();
        let mut elsewhere = HashSet::new();
        rows.retain(|row| {
            let theirs = self.is_elsewhere(row, node);
            if theirs {
                elsewhere.insert(row.id.clone());
            }
            !theirs && !self.starting.has(&row.id)
        });
        if !is_whole {
            rows.retain(|row| on_node.contains_key(&row.id));
        }
        let endings = self.endings_of(session, &rows, &on_node).await?;
        let told = Told { node, session, endings };
        for row in &rows {
            let status = on_node.remove(&row.id);
            self.settle(&told, row, status).await.map_err(ReconcileError::Store)?;
        }
        if !is_whole {
            return Ok(());
        }
        let unknown = on_node.into_values().collect();
        self.sort_out(&told, unknown, &elsewhere).await.map_err(ReconcileError::Store)?;
        let released = self.store.released_but(node, &held, asked).await;
        released.map_err(ReconcileError::Store)
    }

    /// Whether the row is another node's. One that names no node of ours is anybody's who has it;
    /// when nobody can turn up with it any more, it is compared like the node's own.
    fn is_elsewhere(&self, row: &SandboxRow, node: &NodeId) -> bool {
        match &row.node {
            Some(named) if named == node => false,
            Some(named) if self.nodes.get(named).is_some() => true,
            Some(_) | None => !self.nodes.all_named(),
        }
    }

    /// What the node remembers of those that do not run on it any more. A node that fails to say it
    /// remembers nothing; only one that is away is waited for.
    async fn endings_of(
        &self,
        session: &Session,
        rows: &[SandboxRow],
        on_node: &HashMap<SandboxId, SandboxStatus>,
    ) -> Result<Vec<Ending>, ReconcileError> {
        let over = |row: &&SandboxRow| {
            on_node.get(&row.id).is_none_or(|status| status.phase != SandboxPhase::Live)
        };
        let over: Vec<SandboxId> = rows.iter().filter(over).map(|row| row.id.clone()).collect();
        if over.is_empty() {
            return Ok(Vec::new());
        }
        match session.within(LIST_LIMIT, session.api().ended(&over)).await {
            Ok(endings) => Ok(endings),
            Err(error @ NodeError::Unreachable(_)) => Err(ReconcileError::Node(error)),
            Err(error) => {
                let error = observe::chain(&error).to_string();
                tracing::warn!(error, "a node does not say how its sandboxes ended");
                Ok(Vec::new())
            }
        }
    }

    /// Removes the records of sandboxes that ended long ago, a few at a time.
    pub(crate) async fn purge(&self) -> Result<(), StoreError> {
        let limits = &self.config.limits;
        let before = now().before(limits.ended_kept);
        while self.store.purge_ended(before, limits.ended_rows).await? > 0 {
            if self.tasks.stop_token().is_cancelled() {
                break;
            }
        }
        Ok(())
    }
}

/// What a node says it has.
enum Listed {
    Whole(Vec<SandboxStatus>),
    /// It has not taken over all that an earlier process left: what is not in the list may be there
    /// in a moment.
    SoFar(Vec<SandboxStatus>),
}

async fn list(session: &Session) -> Result<Listed, NodeError> {
    let before = session.api().drain_status().await?;
    let listed = session.api().list().await?;
    // Another process in its place may have made the list.
    let after = session.api().drain_status().await?;
    let is_whole =
        before.phase != NodePhase::Starting && before.service_instance == after.service_instance;
    Ok(if is_whole { Listed::Whole(listed) } else { Listed::SoFar(listed) })
}

fn live(mut listed: Vec<SandboxStatus>) -> Vec<SandboxStatus> {
    listed.retain(|status| status.phase == SandboxPhase::Live);
    listed
}
