//! From running to paused and back. Every statement names the revision its row was read at.

use e2b_wire::Timestamp;
use model::{LifecycleId, SandboxId};
use node_wire::{PausedStatus, SandboxStatus};
use sqlx::sqlite::SqliteArguments;
use sqlx::{Executor as _, Sqlite};

use super::row::SandboxRow;
use super::{Paused, Store, StoreError, Terms};
use crate::app::now;

const PAUSING: &str = "UPDATE sandboxes SET state = 'pausing', revision = revision + 1 \
    WHERE id = $1 AND revision = $2 AND state = 'running'";
const RUNS_ON: &str = "UPDATE sandboxes SET state = 'running', lifecycle = $3, ends_at = $4, \
    revision = revision + 1 WHERE id = $1 AND revision = $2 AND state = 'pausing'";
const PAUSED: &str = "UPDATE sandboxes SET state = 'paused', lifecycle = $3, paused_at = $4, \
    pause_memory = $5, pause_agent_silent = $7, pauses = pauses + 1, revision = revision + 1, \
    started_at = CASE WHEN state = 'starting' THEN $6 ELSE started_at END \
    WHERE id = $1 AND revision = $2 AND state IN ('starting', 'running', 'pausing')";
const PAUSED_AGAIN: &str = "UPDATE sandboxes SET state = 'paused', revision = revision + 1 \
    WHERE id = $1 AND revision = $2 AND state = 'resuming'";
const MEMORY_LOST: &str = "UPDATE sandboxes SET pause_memory = 0 \
    WHERE id = $1 AND revision = $2 AND state = 'paused'";
// The count and the change are one statement, as in an insert: the limit is exact.
const RESUMING: &str = "UPDATE sandboxes SET state = 'resuming', revision = revision + 1 \
    WHERE id = $1 AND revision = $2 AND state = 'paused' AND (SELECT COUNT(*) FROM sandboxes other \
        WHERE other.team_id = sandboxes.team_id AND other.ended_at IS NULL \
        AND other.state IN ('starting', 'running', 'pausing', 'resuming')) < $3";
const RESUMED: &str = "UPDATE sandboxes SET state = 'running', lifecycle = $3, started_at = $4, \
    ends_at = $5, resumed_at = $6, vcpus = $7, memory_mib = $8, disk_mib = $9, \
    revision = revision + 1 \
    WHERE id = $1 AND revision = $2 AND state IN ('resuming', 'paused')";
// Nobody asked for its end: it was only not to be found.
const FOUND_AGAIN: &str = "UPDATE sandboxes SET state = 'paused', lifecycle = $2, paused_at = $3, \
    pause_memory = $4, pause_agent_silent = $5, ended_at = NULL, end_reason = NULL, end_detail = NULL, released_at = NULL, \
    revision = revision + 1 WHERE id = $1 AND state = 'ended' AND end_reason = 'lost'";
const ON_TIMEOUT: &str = "UPDATE sandboxes SET auto_pause = $2, auto_pause_memory = $3 \
    WHERE id = $1 AND state = 'resuming'";

/// What became of the wish to let a sandbox go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resuming {
    Yes,
    /// The team has as many sandboxes as it may.
    AtLimit,
    /// The row is not what was read any more.
    Changed,
}

type Change<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

impl Store {
    /// It is about to be paused.
    pub(crate) async fn begin_pause(&self, row: &SandboxRow) -> Result<bool, StoreError> {
        self.change(at(PAUSING, row)).await
    }

    /// A pause has failed: it is as it was.
    pub(crate) async fn runs_on(
        &self,
        row: &SandboxRow,
        lifecycle: &LifecycleId,
        ends_at: Timestamp,
    ) -> Result<bool, StoreError> {
        self.change(at(RUNS_ON, row).bind(lifecycle.as_str()).bind(ends_at.micros())).await
    }

    /// It is paused, says its node. On the disk before the answer: what it has outlives a power
    /// cut, and so must what is known of it.
    pub(crate) async fn record_pause(
        &self,
        row: &SandboxRow,
        paused: &PausedStatus,
    ) -> Result<bool, StoreError> {
        let change = at(PAUSED, row)
            .bind(paused.lifecycle.as_str())
            .bind(Timestamp::from(paused.paused_at).micros())
            .bind(i64::from(paused.memory))
            .bind(Timestamp::from(paused.started_at).micros())
            .bind(i64::from(paused.agent_silent));
        self.durably(change).await
    }

    /// The same of a row whose run is known, out of an event.
    pub(crate) async fn heard_paused(
        &self,
        row: &SandboxRow,
        paused: Paused,
    ) -> Result<bool, StoreError> {
        let change = at(PAUSED, row)
            .bind(row.lifecycle.as_ref().map(LifecycleId::as_str))
            .bind(paused.at.micros())
            .bind(i64::from(paused.memory))
            .bind(row.started_at.micros())
            .bind(i64::from(paused.agent_silent));
        self.durably(change).await
    }

    /// It could not go on: it is paused as before.
    pub(crate) async fn paused_again(&self, row: &SandboxRow) -> Result<bool, StoreError> {
        self.change(at(PAUSED_AGAIN, row)).await
    }

    /// One whose record was closed because no node had it is there after all. Its environment went
    /// with the record. False when it has ended otherwise.
    pub(crate) async fn found_again(&self, paused: &PausedStatus) -> Result<bool, StoreError> {
        let change = sqlx::query(FOUND_AGAIN)
            .bind(paused.id.as_str().to_owned())
            .bind(paused.lifecycle.as_str().to_owned())
            .bind(Timestamp::from(paused.paused_at).micros())
            .bind(i64::from(paused.memory))
            .bind(i64::from(paused.agent_silent));
        self.durably(change).await
    }

    /// Only its files are kept any more.
    pub(crate) async fn memory_lost(&self, row: &SandboxRow) -> Result<bool, StoreError> {
        self.change(at(MEMORY_LOST, row)).await
    }

    /// Its node is about to be asked to let it go on. `limit` is for the starting and running
    /// sandboxes of its team, with this one.
    pub(crate) async fn begin_resume(
        &self,
        row: &SandboxRow,
        limit: u32,
    ) -> Result<Resuming, StoreError> {
        if self.change(at(RESUMING, row).bind(i64::from(limit))).await? {
            return Ok(Resuming::Yes);
        }
        let now = self.live_sandbox(&row.id).await?;
        let same = |now: &SandboxRow| (now.revision, now.state) == (row.revision, row.state);
        Ok(if now.is_some_and(|now| same(&now)) { Resuming::AtLimit } else { Resuming::Changed })
    }

    /// It runs again, says its node. Its clock starts anew: at `since` at the earliest.
    pub(crate) async fn record_resume(
        &self,
        row: &SandboxRow,
        status: &SandboxStatus,
        since: Timestamp,
    ) -> Result<bool, StoreError> {
        let size = status.resources;
        let change = at(RESUMED, row)
            .bind(status.lifecycle.as_str())
            .bind(Timestamp::from(status.started_at).max(since).micros())
            .bind(Timestamp::from(status.ends_at).micros())
            .bind(now().micros())
            .bind(i64::from(size.vcpus))
            .bind(i64::try_from(size.memory_mib).unwrap_or(i64::MAX))
            .bind(i64::try_from(size.disk_mib).unwrap_or(i64::MAX));
        self.change(change).await
    }

    /// What becomes of it at its next end, from the run that begins now on.
    pub(crate) async fn set_on_timeout(
        &self,
        id: &SandboxId,
        terms: &Terms,
    ) -> Result<bool, StoreError> {
        let (pause, memory) = terms.auto_pause();
        self.change(sqlx::query(ON_TIMEOUT).bind(id.as_str()).bind(pause).bind(memory)).await
    }

    async fn change(&self, change: Change<'_>) -> Result<bool, StoreError> {
        let done = change.execute(&self.writer).await;
        let done = done.map_err(StoreError::query("record a pause or its end"))?;
        Ok(done.rows_affected() > 0)
    }

    /// As [`Store::change`], and waits until it, and all before it, are on the disk.
    pub(super) async fn durably(&self, change: Change<'_>) -> Result<bool, StoreError> {
        let failed = || StoreError::query("record a pause");
        let mut connection = self.writer.acquire().await.map_err(failed())?;
        // <https://sqlite.org/pragma.html#pragma_synchronous>: with FULL the log is synced after
        // each transaction.
        connection.execute("PRAGMA synchronous = FULL").await.map_err(failed())?;
        let done = change.execute(&mut *connection).await;
        if connection.execute("PRAGMA synchronous = NORMAL").await.is_err() {
            connection.close_on_drop();
        }
        Ok(done.map_err(failed())?.rows_affected() > 0)
    }
}

fn at<'q>(statement: &'static str, row: &'q SandboxRow) -> Change<'q> {
    sqlx::query(statement).bind(row.id.as_str()).bind(row.revision)
}
