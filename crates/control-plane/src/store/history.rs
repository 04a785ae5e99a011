//! What the records say of a sandbox beyond how it is: when what happened to it, and why it ended.

use std::borrow::Cow;
use std::collections::HashSet;

use e2b_wire::Timestamp;
use model::{NodeId, SandboxId, TeamId};
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _};

use super::row::{SandboxRow, number, wrong};
use super::sandboxes::End;
use super::{Store, StoreError};

const GET: &str = "SELECT * FROM sandboxes WHERE id = $1 AND team_id = $2";
// A row that is there already is in better hands.
const ADOPT: &str = "INSERT INTO sandboxes (id, team_id, template_id, build_id, alias, \
        envd_version, state, lifecycle, metadata, secure, internet, vcpus, memory_mib, disk_mib, \
        created_at, started_at, ends_at, node_id, adopted_at, network, paused_at, \
        pause_memory, pause_agent_silent, pauses, auto_pause, auto_pause_memory) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, \
        $19, $20, $21, $22, $23, $24, $25, $26) ON CONFLICT (id) DO NOTHING";
const RELEASED: &str = "UPDATE sandboxes SET released_at = $2 \
    WHERE node_id = $1 AND ended_at IS NOT NULL AND released_at IS NULL AND created_at < $3 \
        AND id NOT IN (SELECT value FROM json_each($4))";

/// The whole record of a sandbox, ended or not.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) row: SandboxRow,
    /// When the record was made of a sandbox that a node had already.
    pub(crate) adopted_at: Option<Timestamp>,
    /// When its end last moved, and how often it has.
    pub(crate) moved_at: Option<Timestamp>,
    pub(crate) moves: u64,
    /// When somebody asked for its end.
    pub(crate) killing_at: Option<Timestamp>,
    pub(crate) end: Option<End>,
    /// When it last went on after a pause.
    pub(crate) resumed_at: Option<Timestamp>,
    /// When its node was first seen to hold nothing of it.
    pub(crate) released_at: Option<Timestamp>,
}

impl<'r> FromRow<'r, SqliteRow> for History {
    fn from_row(row: &'r SqliteRow) -> Result<Self, sqlx::Error> {
        let released_at = maybe_time(row, "released_at")?;
        let end = match maybe_time(row, "ended_at")? {
            Some(at) => Some(End {
                at,
                reason: Cow::Owned(row.try_get("end_reason")?),
                detail: row.try_get("end_detail")?,
                released: released_at.is_some(),
            }),
            None => None,
        };
        Ok(Self {
            row: SandboxRow::from_row(row)?,
            adopted_at: maybe_time(row, "adopted_at")?,
            moved_at: maybe_time(row, "moved_at")?,
            moves: number(row, "moves")?,
            killing_at: maybe_time(row, "killing_at")?,
            end,
            resumed_at: maybe_time(row, "resumed_at")?,
            released_at,
        })
    }
}

fn maybe_time(row: &SqliteRow, column: &'static str) -> Result<Option<Timestamp>, sqlx::Error> {
    let micros: Option<i64> = row.try_get(column)?;
    micros.map(Timestamp::from_micros).transpose().map_err(wrong(column))
}

impl Store {
    /// All that is recorded of a sandbox of `team`, as long as records are kept.
    pub(crate) async fn history(
        &self,
        team: &TeamId,
        id: &SandboxId,
    ) -> Result<Option<History>, StoreError> {
        let found = sqlx::query_as(GET).bind(id.as_str()).bind(team.as_str());
        let history: Option<History> = found
            .fetch_optional(&self.reader)
            .await
            .map_err(StoreError::query("look up the history of a sandbox"))?;
        Ok(history.map(|history| match self.overdue.end_of(id) {
            Some(end) => History { end: Some(end), ..history },
            None => history,
        }))
    }

    /// Makes the record of a sandbox that runs, or is paused, and has none. False when it has one.
    pub(crate) async fn adopt_sandbox(
        &self,
        row: &SandboxRow,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let (pause, pause_memory) = row.terms.auto_pause();
        let adopted = sqlx::query(ADOPT)
            .bind(row.id.as_str())
            .bind(row.team.as_str())
            .bind(row.template.as_str())
            .bind(row.build.as_str())
            .bind(row.alias.as_deref())
            .bind(&row.envd_version)
            .bind(row.state.as_str())
            .bind(row.lifecycle.as_ref().map(model::LifecycleId::as_str))
            .bind(super::sandboxes::encode_metadata(row)?)
            .bind(i64::from(row.secure))
            .bind(row.internet.map(i64::from))
            .bind(i64::from(row.resources.vcpus))
            .bind(i64::try_from(row.resources.memory_mib).unwrap_or(i64::MAX))
            .bind(i64::try_from(row.resources.disk_mib).unwrap_or(i64::MAX))
            .bind(row.created_at.micros())
            .bind(row.started_at.micros())
            .bind(row.ends_at.micros())
            .bind(row.node.as_ref().map(NodeId::as_str))
            .bind(at.micros())
            .bind(super::network::encode(row.network.as_ref())?)
            .bind(row.paused.map(|last| last.at.micros()))
            .bind(row.paused.map(|last| i64::from(last.memory)))
            .bind(i64::from(row.paused.is_some_and(|last| last.agent_silent)))
            .bind(i64::from(row.pauses))
            .bind(pause)
            .bind(pause_memory)
            .execute(&self.writer);
        let done = adopted.await.map_err(StoreError::query("adopt a sandbox"))?;
        Ok(done.rows_affected() > 0)
    }

    /// `node` was asked at `asked` what it holds, and it is nothing but `held`.
    pub(crate) async fn released_but(
        &self,
        node: &NodeId,
        held: &HashSet<SandboxId>,
        asked: Timestamp,
    ) -> Result<(), StoreError> {
        // Ids are of an alphabet that needs no escapes.
        let held: Vec<String> = held.iter().map(|id| format!("\"{id}\"")).collect();
        let released = sqlx::query(RELEASED)
            .bind(node.as_str())
            .bind(crate::app::now().micros())
            .bind(asked.micros())
            .bind(format!("[{}]", held.join(",")))
            .execute(&self.writer);
        released.await.map(drop).map_err(StoreError::query("record what was released"))
    }
}
