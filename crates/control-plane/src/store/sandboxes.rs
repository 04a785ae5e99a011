use std::borrow::Cow;

use e2b_wire::Timestamp;
use model::{EndReason, LifecycleId, NodeId, SandboxId, TeamId, TemplateId};
use sqlx::{FromRow as _, Row as _};

use super::row::{RowState, SandboxRow};
use super::terms::encode_env;
use super::{Store, StoreError};
use crate::app::now;
use crate::idempotency::Idempotency;

/// Ended records removed in one statement, so that creates do not wait long for the writer.
const PURGE_ROWS: i64 = 500;

// The count and the insert are one statement, so on SQLite's single writer the limit is exact.
const INSERT: &str = "INSERT INTO sandboxes (id, team_id, template_id, build_id, alias, \
        envd_version, state, metadata, secure, internet, vcpus, memory_mib, disk_mib, created_at, \
        started_at, ends_at, idempotency_key, request_digest, node_id, network, origin_id, \
        auto_pause, auto_pause_memory, auto_resume, ttl_s, env) \
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $20, \
        $21, $22, $23, $24, $25, $26, $27 \
    WHERE (SELECT COUNT(*) FROM sandboxes WHERE team_id = $2 AND ended_at IS NULL \
        AND state IN ('starting', 'running', 'pausing', 'resuming')) < $19";
const RUNNING: &str = "UPDATE sandboxes SET state = 'running', lifecycle = $2, started_at = $3, \
    ends_at = $4, vcpus = $5, memory_mib = $6, disk_mib = $7, revision = revision + 1 \
    WHERE id = $1 AND state = 'starting'";
const MOVE_TO_NODE: &str =
    "UPDATE sandboxes SET node_id = $2 WHERE id = $1 AND state NOT IN ('killing', 'ended')";
const KILLING: &str = "UPDATE sandboxes SET state = 'killing', killing_at = $2, \
    revision = revision + 1 WHERE id = $1 AND state NOT IN ('killing', 'ended')";
const MOVE_END: &str = "UPDATE sandboxes SET ends_at = $3, moved_at = $4, moves = moves + 1 \
    WHERE id = $1 AND state = 'running' AND ends_at = $2";
// A key is kept only with a sandbox that ran: its request may not be answered again.
const CLOSE: &str = "UPDATE sandboxes SET state = 'ended', ended_at = $3, end_reason = $4, \
    end_detail = $5, released_at = $6, env = NULL, \
    idempotency_key = CASE WHEN lifecycle IS NULL THEN NULL ELSE idempotency_key END \
    WHERE id = $1 AND state = $2 AND ($7 IS NULL OR revision = $7)";
const NEVER_RAN: &str = "UPDATE sandboxes SET state = 'ended', \
    ended_at = COALESCE(ended_at, $2), end_reason = COALESCE(end_reason, $3), end_detail = $4, \
    idempotency_key = NULL, env = NULL WHERE id = $1";
const ENDED: &str = "UPDATE sandboxes SET state = 'ended', ended_at = $3, end_reason = $4, env = NULL, \
    idempotency_key = CASE WHEN lifecycle IS NULL THEN NULL ELSE idempotency_key END \
    WHERE id = $1 AND (lifecycle = $2 OR lifecycle IS NULL) \
        AND state IN ('starting', 'running', 'pausing') AND (node_id = $5 OR node_id IS NULL)";
const GET: &str = "SELECT * FROM sandboxes WHERE id = $1 AND team_id = $2 AND ended_at IS NULL";
const GET_OF_ANY_TEAM: &str = "SELECT * FROM sandboxes WHERE id = $1 AND ended_at IS NULL";
const LISTED_OF_TEAM: &str = "SELECT * FROM sandboxes WHERE team_id = $1 \
    AND state IN ('running', 'pausing', 'paused', 'resuming') AND ended_at IS NULL";
const STATE: &str = "SELECT state FROM sandboxes WHERE id = $1";
const LIVE: &str = "SELECT * FROM sandboxes WHERE ended_at IS NULL";
const BY_KEY: &str = "SELECT * FROM sandboxes WHERE team_id = $1 AND idempotency_key = $2";
const FORGET_KEY: &str = "UPDATE sandboxes SET idempotency_key = NULL \
    WHERE team_id = $1 AND idempotency_key = $2 AND created_at < $3";
const PURGE: &str = "DELETE FROM sandboxes WHERE id IN (SELECT id FROM sandboxes \
    WHERE ended_at IS NOT NULL AND (ended_at < $1 OR ended_at <= (SELECT ended_at FROM sandboxes \
        WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT 1 OFFSET $2)) \
    ORDER BY ended_at LIMIT $3)";

/// What is written before the node is asked.
#[derive(Debug)]
pub(crate) struct Intent<'a> {
    /// In state [`RowState::Starting`].
    pub(crate) row: &'a SandboxRow,
    pub(crate) idempotency: Option<&'a Idempotency>,
    /// Starting and running sandboxes the team may have with this one.
    pub(crate) team_limit: u32,
}

/// What became of an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inserted {
    Yes,
    /// The team has as many sandboxes as it may.
    AtLimit,
    /// The idempotency key stands in another row.
    KeyUsed,
}

/// How a sandbox ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) at: Timestamp,
    /// A word of [`EndReason::as_str`], or [`End::LOST`].
    pub(crate) reason: Cow<'static, str>,
    /// For its team: names nothing of the host.
    pub(crate) detail: Option<String>,
    /// Whether the node holds nothing of it any more.
    pub(crate) released: bool,
}

impl End {
    /// The reason in a record whose sandbox was gone when somebody looked, and nobody knows why.
    pub(crate) const LOST: &'static str = "lost";

    /// It ended now, as somebody asked, and all it held is released.
    pub(crate) fn as_asked() -> Self {
        let reason = EndReason::Request.as_str().into();
        Self { at: now(), reason, detail: None, released: true }
    }
}

/// The request an idempotency key was used for.
#[derive(Debug)]
pub(crate) struct Used {
    pub(crate) row: SandboxRow,
    pub(crate) digest: String,
}

impl Store {
    pub(crate) async fn insert_sandbox(&self, intent: &Intent<'_>) -> Result<Inserted, StoreError> {
        let row = intent.row;
        let metadata = encode_metadata(row)?;
        let (pause, pause_memory) = row.terms.auto_pause();
        let result = sqlx::query(INSERT)
            .bind(row.id.as_str())
            .bind(row.team.as_str())
            .bind(row.template.as_str())
            .bind(row.build.as_str())
            .bind(row.alias.as_deref())
            .bind(&row.envd_version)
            .bind(row.state.as_str())
            .bind(metadata)
            .bind(i64::from(row.secure))
            .bind(row.internet.map(i64::from))
            .bind(i64::from(row.resources.vcpus))
            .bind(i64::try_from(row.resources.memory_mib).unwrap_or(i64::MAX))
            .bind(i64::try_from(row.resources.disk_mib).unwrap_or(i64::MAX))
            .bind(row.created_at.micros())
            .bind(row.started_at.micros())
            .bind(row.ends_at.micros())
            .bind(intent.idempotency.map(Idempotency::key))
            .bind(intent.idempotency.map(Idempotency::digest))
            .bind(i64::from(intent.team_limit))
            .bind(row.node.as_ref().map(NodeId::as_str))
            .bind(super::network::encode(row.network.as_ref())?)
            .bind(row.origin.as_ref().map(TemplateId::as_str))
            .bind(pause)
            .bind(pause_memory)
            .bind(i64::from(row.terms.auto_resume))
            .bind(row.terms.ttl_s())
            .bind(encode_env(&row.terms.env)?)
            .execute(&self.writer)
            .await;
        match result {
            Ok(done) if done.rows_affected() == 0 => Ok(Inserted::AtLimit),
            Ok(_one_row) => Ok(Inserted::Yes),
            Err(sqlx::Error::Database(error))
                if error.is_unique_violation() && intent.idempotency.is_some() =>
            {
                Ok(Inserted::KeyUsed)
            }
            Err(source) => Err(StoreError::Query { what: "record a sandbox", source }),
        }
    }

    /// From starting to running, with what the node said of it. False when the row was not
    /// starting any more.
    pub(crate) async fn sandbox_runs(
        &self,
        status: &node_wire::SandboxStatus,
    ) -> Result<bool, StoreError> {
        let changed = sqlx::query(RUNNING)
            .bind(status.id.as_str())
            .bind(status.lifecycle.as_str())
            .bind(Timestamp::from(status.started_at).micros())
            .bind(Timestamp::from(status.ends_at).micros())
            .bind(i64::from(status.resources.vcpus))
            .bind(i64::try_from(status.resources.memory_mib).unwrap_or(i64::MAX))
            .bind(i64::try_from(status.resources.disk_mib).unwrap_or(i64::MAX))
            .execute(&self.writer);
        let done = changed.await.map_err(StoreError::query("record a running sandbox"))?;
        Ok(done.rows_affected() > 0)
    }

    /// Another node has it, or is about to be asked for it. False when its end was asked for, or
    /// came.
    pub(crate) async fn move_to_node(
        &self,
        id: &SandboxId,
        node: &NodeId,
    ) -> Result<bool, StoreError> {
        let moved = sqlx::query(MOVE_TO_NODE).bind(id.as_str()).bind(node.as_str());
        let done = moved.execute(&self.writer).await;
        let done = done.map_err(StoreError::query("record the node of a sandbox"))?;
        Ok(done.rows_affected() > 0)
    }

    /// Its end was asked for; no effect on a row that is killing or ended.
    pub(crate) async fn sandbox_killing(&self, id: &SandboxId) -> Result<(), StoreError> {
        let changed =
            sqlx::query(KILLING).bind(id.as_str()).bind(now().micros()).execute(&self.writer);
        changed.await.map(drop).map_err(StoreError::query("record a kill"))
    }

    /// Moves the end, if it still is `from`.
    pub(crate) async fn move_end(
        &self,
        id: &SandboxId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<(), StoreError> {
        let moved = sqlx::query(MOVE_END)
            .bind(id.as_str())
            .bind(from.micros())
            .bind(to.micros())
            .bind(now().micros())
            .execute(&self.writer);
        moved.await.map(drop).map_err(StoreError::query("move the end of a sandbox"))
    }

    /// Closes the row if it still is in `state`. Whether it was. An end that cannot be written down
    /// counts all the same, and is written later.
    pub(crate) async fn close_sandbox(
        &self,
        id: &SandboxId,
        state: RowState,
        end: &End,
    ) -> Result<bool, StoreError> {
        self.close_at(id, state, None, end).await
    }

    /// The same for a row that was read: one on which anything between running and paused has
    /// happened since stays open.
    pub(crate) async fn close_read(&self, row: &SandboxRow, end: &End) -> Result<bool, StoreError> {
        self.close_at(&row.id, row.state, Some(row.revision), end).await
    }

    async fn close_at(
        &self,
        id: &SandboxId,
        state: RowState,
        revision: Option<i64>,
        end: &End,
    ) -> Result<bool, StoreError> {
        let mut closed = self.close_row(id, state, revision, end).await;
        if closed.as_ref().is_err_and(StoreError::is_disk_full) {
            self.balance().await;
            closed = self.close_row(id, state, revision, end).await;
        }
        closed.or_else(|error| {
            self.overdue.keep(id, end.clone(), &error);
            Ok(true)
        })
    }

    async fn close_row(
        &self,
        id: &SandboxId,
        state: RowState,
        revision: Option<i64>,
        end: &End,
    ) -> Result<bool, StoreError> {
        let closed = sqlx::query(CLOSE)
            .bind(id.as_str())
            .bind(state.as_str())
            .bind(end.at.micros())
            .bind(&*end.reason)
            .bind(end.detail.as_deref())
            .bind(end.released.then(|| now().micros()))
            .bind(revision)
            .execute(&self.writer);
        let done = closed.await.map_err(StoreError::query("close a sandbox"))?;
        Ok(done.rows_affected() > 0)
    }

    /// Closes the row of a sandbox that never ran and frees its idempotency key: a repeated
    /// request may try again.
    pub(crate) async fn sandbox_never_ran(
        &self,
        id: &SandboxId,
        detail: &str,
    ) -> Result<(), StoreError> {
        let closed = sqlx::query(NEVER_RAN)
            .bind(id.as_str())
            .bind(now().micros())
            .bind(EndReason::StartFailed.as_str())
            .bind(detail)
            .execute(&self.writer);
        closed.await.map(drop).map_err(StoreError::query("close a sandbox that did not start"))
    }

    /// One run of it is over, says `node`. Rows in state killing are left to the kill, which
    /// knows whether everything was released, and so are paused ones: what ran may be over and what
    /// was kept be there. Whether the row was closed.
    pub(crate) async fn sandbox_ended(
        &self,
        id: &SandboxId,
        lifecycle: &LifecycleId,
        node: Option<&NodeId>,
        reason: EndReason,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let closed = sqlx::query(ENDED)
            .bind(id.as_str())
            .bind(lifecycle.as_str())
            .bind(at.micros())
            .bind(reason.as_str())
            .bind(node.map(NodeId::as_str))
            .execute(&self.writer);
        let done = closed.await.map_err(StoreError::query("record the end of a sandbox"))?;
        Ok(done.rows_affected() > 0)
    }

    /// The row of a sandbox of `team` that has not ended.
    pub(crate) async fn sandbox(
        &self,
        team: &TeamId,
        id: &SandboxId,
    ) -> Result<Option<SandboxRow>, StoreError> {
        let found = sqlx::query_as(GET).bind(id.as_str()).bind(team.as_str());
        let row = found.fetch_optional(&self.reader).await;
        let row = row.map_err(StoreError::query("look up a sandbox"))?;
        Ok(row.filter(|row: &SandboxRow| !self.overdue.has(&row.id)))
    }

    /// The row of a sandbox that has not ended, whosever it is.
    pub(crate) async fn live_sandbox(
        &self,
        id: &SandboxId,
    ) -> Result<Option<SandboxRow>, StoreError> {
        let row = sqlx::query_as(GET_OF_ANY_TEAM).bind(id.as_str()).fetch_optional(&self.reader);
        let row = row.await.map_err(StoreError::query("look up a sandbox of any team"))?;
        Ok(row.filter(|row: &SandboxRow| !self.overdue.has(&row.id)))
    }

    /// The running and the paused sandboxes of `team`, those on their way between the two included.
    pub(crate) async fn listed_sandboxes(
        &self,
        team: &TeamId,
    ) -> Result<Vec<SandboxRow>, StoreError> {
        let found = sqlx::query_as(LISTED_OF_TEAM).bind(team.as_str());
        let rows = found.fetch_all(&self.reader).await;
        let rows = rows.map_err(StoreError::query("list sandboxes"))?;
        Ok(self.overdue.open_of(rows))
    }

    /// Every row that has not ended, of all teams.
    pub(crate) async fn live_sandboxes(&self) -> Result<Vec<SandboxRow>, StoreError> {
        let found = sqlx::query_as(LIVE).fetch_all(&self.reader);
        let rows: Vec<_> = found.await.map_err(StoreError::query("list live sandboxes"))?;
        Ok(self.overdue.open_of(rows))
    }

    /// Where the record of a sandbox stands; `None` when there is none.
    pub(crate) async fn record_state(
        &self,
        id: &SandboxId,
    ) -> Result<Option<RowState>, StoreError> {
        if self.overdue.has(id) {
            return Ok(Some(RowState::Ended));
        }
        let failed = || StoreError::query("look up the state of a sandbox");
        let found: Option<String> = sqlx::query_scalar(STATE)
            .bind(id.as_str())
            .fetch_optional(&self.reader)
            .await
            .map_err(failed())?;
        let parsed = found.map(|state| state.parse()).transpose();
        parsed.map_err(|source| failed()(sqlx::Error::Decode(Box::new(source))))
    }

    /// What an idempotency key was used for. A use before `since` is forgotten.
    pub(crate) async fn idempotency_use(
        &self,
        team: &TeamId,
        key: &str,
        since: Timestamp,
    ) -> Result<Option<Used>, StoreError> {
        let failed = || StoreError::query("look up an idempotency key");
        let forget = sqlx::query(FORGET_KEY).bind(team.as_str()).bind(key).bind(since.micros());
        forget.execute(&self.writer).await.map_err(failed())?;
        let found = sqlx::query(BY_KEY).bind(team.as_str()).bind(key);
        let Some(row) = found.fetch_optional(&self.writer).await.map_err(failed())? else {
            return Ok(None);
        };
        let digest = row.try_get("request_digest").map_err(failed())?;
        let row = SandboxRow::from_row(&row).map_err(failed())?;
        Ok(Some(Used { row, digest }))
    }

    /// Removes some of the ended rows that are older than `before` or more than `kept`. How many.
    pub(crate) async fn purge_ended(
        &self,
        before: Timestamp,
        kept: u32,
    ) -> Result<u64, StoreError> {
        let purged = sqlx::query(PURGE)
            .bind(before.micros())
            .bind(i64::from(kept))
            .bind(PURGE_ROWS)
            .execute(&self.writer);
        let done = purged.await.map_err(StoreError::query("purge ended sandboxes"))?;
        Ok(done.rows_affected())
    }
}

pub(super) fn encode_metadata(row: &SandboxRow) -> Result<String, StoreError> {
    serde_json::to_string(&row.metadata).map_err(|source| StoreError::Query {
        what: "encode metadata for a row",
        source: sqlx::Error::Encode(Box::new(source)),
    })
}

#[cfg(test)]
pub(super) mod tests;
