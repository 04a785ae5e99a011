//! Comparing the records with what a node really has.

mod settle;
mod snapshots;
mod unknown;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use model::{NodeId, NodePhase, SandboxId, SandboxPhase};
use node_wire::{Ending, NodeError, PausedStatus, SandboxStatus};

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

/// What a node has of a sandbox.
#[derive(Debug)]
enum Seen {
    /// A run, in whatever phase.
    Run(Box<SandboxStatus>),
    Paused(Box<PausedStatus>),
    Nothing,
}

impl App {
    /// Makes the records say what the node says: closes rows whose sandboxes it does not have, with
    /// the reason it remembers; publishes the routes of those it has; sends the kills again that it
    /// did not confirm; and takes in, or ends, what nobody knows of. A node that nobody has heard of
    /// yet has nothing to compare with; of one that is still taking over what an earlier process of
    /// it left, only what it has, or says to have ended, is believed.
    pub(crate) async fn reconcile(
        self: &Arc<Self>,
        session: &Arc<Session>,
    ) -> Result<(), ReconcileError> {
        let Some(node) = session.id() else { return Ok(()) };
        let snapshots = self.store.snapshots_on(node).await.map_err(ReconcileError::Store)?;
        // Rows first, node second: a row that is read as running was on the node before it is
        // asked, so when it is not in the answer it ended. Every write checks that the row still
        // is as it was read.
        let mut rows = self.store.live_sandboxes().await.map_err(ReconcileError::Store)?;
        let asked = now();
        let mut has =
            session.within(LIST_LIMIT, ask(session)).await.map_err(ReconcileError::Node)?;
        let held = has.all();
        let mut elsewhere = HashSet::new();
        rows.retain(|row| {
            let theirs = self.is_elsewhere(row, node);
            if theirs {
                elsewhere.insert(row.id.clone());
            }
            !theirs && !self.starting.has(&row.id)
        });
        let endings = self.endings_of(session, &rows, &has).await?;
        let told = Told { node, session, endings };
        for row in &rows {
            let seen = has.take(&row.id);
            if !has.is_whole && matches!(seen, Seen::Nothing) && told.ending_of(row).is_none() {
                continue;
            }
            self.settle(&told, row, seen).await.map_err(ReconcileError::Store)?;
        }
        if !has.is_whole {
            return Ok(());
        }
        self.sort_out(&told, has, &elsewhere).await.map_err(ReconcileError::Store)?;
        let released = self.store.released_but(node, &held, asked).await;
        released.map_err(ReconcileError::Store)?;
        self.compare_snapshots(session, snapshots).await?;
        session.compared();
        Ok(())
    }

    /// The same for one sandbox, of which somebody has just heard something else than its record
    /// says. One that somebody else is working on is left to them. Whatever fails, the next comparison
    /// is soon.
    pub(crate) async fn look_at(self: &Arc<Self>, session: &Arc<Session>, row: &SandboxRow) {
        self.look_unless(session, row, true).await;
    }

    /// The same by who is working on it.
    pub(crate) async fn look_at_mine(self: &Arc<Self>, session: &Arc<Session>, row: &SandboxRow) {
        self.look_unless(session, row, false).await;
    }

    async fn look_unless(
        self: &Arc<Self>,
        session: &Arc<Session>,
        row: &SandboxRow,
        unless_in_hand: bool,
    ) {
        if let Err(error) = self.compare_one(session, row, unless_in_hand).await {
            let error = observe::chain(&error).to_string();
            tracing::warn!(error, "a sandbox was not compared with its node; will try again");
            session.compare_soon();
        }
    }

    async fn compare_one(
        self: &Arc<Self>,
        session: &Arc<Session>,
        row: &SandboxRow,
        unless_in_hand: bool,
    ) -> Result<(), ReconcileError> {
        let Some(node) = session.id() else { return Ok(()) };
        let row = self.store.live_sandbox(&row.id).await.map_err(ReconcileError::Store)?;
        let Some(row) = row else { return Ok(()) };
        // After the row was read: who begins to work on it from here on changes its revision.
        if unless_in_hand && self.starting.has(&row.id) {
            return Ok(());
        }
        let mut has =
            session.within(LIST_LIMIT, ask(session)).await.map_err(ReconcileError::Node)?;
        let endings = self.endings_of(session, std::slice::from_ref(&row), &has).await?;
        let told = Told { node, session, endings };
        let seen = has.take(&row.id);
        if !has.is_whole && matches!(seen, Seen::Nothing) && told.ending_of(&row).is_none() {
            return Ok(());
        }
        self.settle(&told, &row, seen).await.map_err(ReconcileError::Store)?;
        self.turn();
        Ok(())
    }

    /// Whoever waits for a sandbox looks again.
    pub(crate) fn turn(&self) {
        self.turns.send_modify(|turns| *turns = turns.wrapping_add(1));
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
        has: &Has,
    ) -> Result<Vec<Ending>, ReconcileError> {
        let over = |row: &&SandboxRow| !has.runs(&row.id);
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
struct Has {
    runs: HashMap<SandboxId, SandboxStatus>,
    paused: HashMap<SandboxId, PausedStatus>,
    /// False while it has not taken over all that an earlier process left: what is not here may be
    /// there in a moment.
    is_whole: bool,
}

impl Has {
    fn all(&self) -> HashSet<SandboxId> {
        self.runs.keys().chain(self.paused.keys()).cloned().collect()
    }

    fn runs(&self, id: &SandboxId) -> bool {
        self.runs.get(id).is_some_and(|status| status.phase.is_routable())
    }

    fn take(&mut self, id: &SandboxId) -> Seen {
        let (run, paused) = (self.runs.remove(id), self.paused.remove(id));
        match (run, paused) {
            // On its way, to or from a pause.
            (Some(run), _) if run.phase.is_routable() || is_moving(run.phase) => {
                Seen::Run(Box::new(run))
            }
            // What is left of a run that has ended does not count beside what was kept of it.
            (_, Some(paused)) => Seen::Paused(Box::new(paused)),
            (Some(run), None) => Seen::Run(Box::new(run)),
            (None, None) => Seen::Nothing,
        }
    }
}

const fn is_moving(phase: SandboxPhase) -> bool {
    match phase {
        SandboxPhase::Reserved | SandboxPhase::Booting | SandboxPhase::Pausing => true,
        SandboxPhase::Live
        | SandboxPhase::Checkpointing
        | SandboxPhase::Paused
        | SandboxPhase::Stopping
        | SandboxPhase::TearingDown
        | SandboxPhase::Stuck
        | SandboxPhase::Stopped => false,
    }
}

/// A sandbox may change between two answers, and be in neither list: a pause between the first two,
/// the end of one between the last two, also of the only one. One that is changed twice is changed by
/// this process, or has another revision in its record.
async fn ask(session: &Session) -> Result<Has, NodeError> {
    let before = session.api().drain_status().await?;
    let mut listed = session.api().list().await?;
    let paused = session.api().paused().await?;
    listed.extend(session.api().list().await?);
    // Another process in its place may have made the lists.
    let after = session.api().drain_status().await?;
    let is_whole =
        before.phase != NodePhase::Starting && before.service_instance == after.service_instance;
    if !is_whole {
        listed.retain(|status| status.phase.is_routable());
    }
    Ok(Has {
        runs: listed.into_iter().map(|status| (status.id.clone(), status)).collect(),
        paused: paused.into_iter().map(|paused| (paused.id.clone(), paused)).collect(),
        is_whole,
    })
}
