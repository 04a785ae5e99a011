//! What is written of sandboxes as their records change, see `0007_past.sql`, and what their guest
//! agents have noted between, see `0009_agent_log.sql`.

use std::collections::BTreeMap;

use e2b_wire::{LogLevel, Timestamp};
use model::{SandboxId, TeamId};
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _};

use super::row::{number, time, wrong};
use super::{Store, StoreError};

// Bound by both ids: of what is another team's there is nothing.
const SELECT: &str = "SELECT l.at, l.level, l.message, l.fields FROM ( \
        SELECT sandbox_id, at, 0 AS part, seq, level, message, fields FROM sandbox_log \
            WHERE sandbox_id = $2 \
        UNION ALL \
        SELECT sandbox_id, at, 1 AS part, seq, level, message, fields FROM agent_log \
            WHERE sandbox_id = $2) l \
    JOIN sandboxes s ON s.id = l.sandbox_id AND s.team_id = $1 \
    WHERE l.at >= $3 AND l.at <= $4 AND l.level >= $5 \
        AND ($6 = '' OR instr(l.message, $6) > 0 OR instr(l.fields, $6) > 0) ";
const FORWARD: &str = "ORDER BY l.at, l.part, l.seq LIMIT $7";
const BACKWARD: &str = "ORDER BY l.at DESC, l.part DESC, l.seq DESC LIMIT $7";

/// Which lines are wanted.
#[derive(Debug, Clone)]
pub(crate) struct LogQuery {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    pub(crate) newest_first: bool,
    /// The least.
    pub(crate) level: LogLevel,
    /// Text that a line has somewhere; empty: any.
    pub(crate) search: String,
    pub(crate) limit: u32,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogLine {
    pub(crate) at: Timestamp,
    pub(crate) level: LogLevel,
    pub(crate) message: String,
    pub(crate) fields: BTreeMap<String, String>,
}

impl Store {
    /// Nothing of a sandbox that is another team's, or of which no record is kept.
    pub(crate) async fn log(
        &self,
        team: &TeamId,
        id: &SandboxId,
        query: &LogQuery,
    ) -> Result<Vec<LogLine>, StoreError> {
        let order = if query.newest_first { BACKWARD } else { FORWARD };
        let sql = format!("{SELECT}{order}");
        let found = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(team.as_str())
            .bind(id.as_str())
            .bind(query.from.micros())
            .bind(query.to.micros())
            .bind(rank(query.level))
            .bind(&query.search)
            .bind(i64::from(query.limit));
        found.fetch_all(&self.reader).await.map_err(StoreError::query("read the log of a sandbox"))
    }
}

impl<'r> FromRow<'r, SqliteRow> for LogLine {
    fn from_row(row: &'r SqliteRow) -> Result<Self, sqlx::Error> {
        let level = match number::<i64>(row, "level")? {
            0 => LogLevel::Debug,
            1 => LogLevel::Info,
            2 => LogLevel::Warn,
            _ => LogLevel::Error,
        };
        let fields: &str = row.try_get("fields")?;
        let fields = serde_json::from_str(fields).map_err(wrong("fields"))?;
        Ok(Self { at: time(row, "at")?, level, message: row.try_get("message")?, fields })
    }
}

const fn rank(level: LogLevel) -> i64 {
    match level {
        LogLevel::Debug => 0,
        LogLevel::Info => 1,
        LogLevel::Warn => 2,
        LogLevel::Error => 3,
    }
}
