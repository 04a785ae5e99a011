//! Reading what guest agents have noted before it is gone with them: once a minute, when somebody
//! asks for the log, and before a sandbox is ended or paused. Nothing waits for an agent that is
//! silent for longer than a limit, and what was not read once is read the next time.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use lifecycle::{Budget, Expired};
use model::{SandboxId, TeamId};
use node_wire::{Journal, JournalMark, NodeError};
use tokio::sync::oneshot;
use tracing::info_span;

use crate::app::{App, now};
use crate::nodes::{Link, Session};
use crate::store::{RowState, SandboxRow, StoreError};

/// For an answer to whoever asks for the log.
pub(crate) const ASKED_LIMIT: Duration = Duration::from_millis(300);
/// Before an end or a pause, which nobody is to wait longer for.
pub(crate) const LAST_LIMIT: Duration = Duration::from_millis(50);
/// In a round. A node has a limit of its own, which is shorter.
const ROUND_LIMIT: Duration = Duration::from_secs(5);
/// Sandboxes of a round that are asked at one time.
const AT_A_TIME: usize = 16;
/// Answers of one agent in a row: all it keeps, however it is written.
const ANSWERS_MAX: usize = 8;

/// Why a journal was not read to its end. What was read is kept.
#[derive(Debug, thiserror::Error)]
enum JournalError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Expired(#[from] Expired),
    #[error("the task that keeps it has died")]
    Died,
}

impl App {
    /// Keeps what the guest agent of a sandbox of `team` has noted until now, if it says so in time.
    pub(crate) async fn hear_agent(&self, team: &TeamId, id: &SandboxId, limit: Duration) {
        match self.store.sandbox(team, id).await {
            Ok(Some(row)) => self.hear_agent_of(&row, limit).await,
            Ok(None) => {}
            Err(error) => not_heard(&error.into()),
        }
    }

    /// The same, by its record.
    pub(crate) async fn hear_agent_of(&self, row: &SandboxRow, limit: Duration) {
        if let Err(error) = self.read_journal(row, limit).await {
            not_heard(&error);
        }
    }

    /// Of every sandbox that runs. Ends early when the control plane closes.
    ///
    /// # Errors
    /// Those of the database; silent agents are none.
    pub(crate) async fn collect_journals(&self) -> Result<(), StoreError> {
        let rows = self.store.live_sandboxes().await?;
        let read = stream::iter(rows).map(Ok).try_for_each_concurrent(AT_A_TIME, async |row| {
            let read = tokio::select! {
                biased;
                () = self.tasks.stop_token().cancelled() => return Ok(()),
                read = self.read_journal(&row, ROUND_LIMIT) => read,
            };
            match read {
                Err(JournalError::Store(error)) => Err(error),
                Err(error) => {
                    not_heard(&error);
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        });
        read.await?;
        self.store.purge_journals(self.config.limits.agent_log_rows).await
    }

    /// Only of one that runs: the agent of one that stands still cannot answer.
    async fn read_journal(&self, row: &SandboxRow, limit: Duration) -> Result<(), JournalError> {
        if row.state != RowState::Running {
            return Ok(());
        }
        let node = self.node_of(row).ok().filter(|node| node.link() == Link::Up);
        let Some(node) = node else { return Ok(()) };
        Budget::within(limit).run("journal", self.read_to_the_end(node, &row.id)).await?
    }

    /// Cancel safety: yes; what is kept is kept, and the rest is read the next time.
    async fn read_to_the_end(&self, node: &Session, id: &SandboxId) -> Result<(), JournalError> {
        let mut mark = self.store.journal_mark(id).await?;
        for _ in 0..ANSWERS_MAX {
            let Some(journal) = node.api().journal(id, &mark).await? else { break };
            if journal.lost > 0 {
                tracing::debug!(sandbox.id = %id, lost = journal.lost, "lines of a guest agent are gone");
            }
            let Some(last) = journal.lines.last() else { break };
            let next = JournalMark { number: last.number, run: journal.run.clone() };
            let more = journal.more;
            self.keep_journal(id, std::mem::replace(&mut mark, next), journal).await?;
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// In a task of its own: what is under way on the one connection that writes is not to be cut off
    /// in the middle.
    async fn keep_journal(
        &self,
        id: &SandboxId,
        mark: JournalMark,
        journal: Journal,
    ) -> Result<(), JournalError> {
        let (store, id) = (self.store.clone(), id.clone());
        let (answer, answered) = oneshot::channel();
        self.tasks.spawn(info_span!("journal", sandbox.id = %id), async move {
            let kept = store.keep_journal(&id, &mark, &journal, now()).await;
            // Nobody may wait for it any more.
            drop(answer.send(kept));
        });
        Ok(answered.await.map_err(|_died| JournalError::Died)??)
    }
}

fn not_heard(error: &JournalError) {
    tracing::debug!(error = %observe::chain(error), "what a guest agent has noted is not read now");
}
