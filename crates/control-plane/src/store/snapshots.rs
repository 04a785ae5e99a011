//! Templates that teams make of their sandboxes.

use std::collections::BTreeMap;
use std::str::FromStr;

use e2b_wire::Timestamp;
use model::{BuildId, NodeId, Resources, SandboxId, TeamId, TemplateId};
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _};

use super::row::{maybe_parsed, parsed, resources, time, wrong};
use super::terms::encode_env;
use super::{Store, StoreError};
use crate::app::now;

const INSERT: &str = "INSERT INTO snapshots (template_id, team_id, alias, tag, build_id, \
        sandbox_id, origin_id, node_id, state, vcpus, memory_mib, disk_mib, envd_version, \
        created_at, updated_at, env) \
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $15, $9, $10, $11, $12, $13, $13, $16 \
    WHERE (SELECT COUNT(*) FROM snapshots WHERE team_id = $2 AND state <> 'removing') < $14";
const READY: &str = "UPDATE snapshots SET state = 'ready', build_id = $2, sandbox_id = $3, \
    origin_id = $4, vcpus = $5, memory_mib = $6, disk_mib = $7, envd_version = $8, \
    updated_at = $9, env = $10 WHERE template_id = $1 AND state <> 'removing'";
const SET_BUILD: &str = "UPDATE snapshots SET build_id = $2, state = 'ready', updated_at = $3 \
    WHERE template_id = $1 AND state <> 'removing'";
const FIND: &str = "SELECT * FROM snapshots WHERE team_id = $1 AND alias = $2 AND tag = $3";
const FIND_BY_ID: &str =
    "SELECT * FROM snapshots WHERE team_id = $1 AND template_id = $2 AND state = 'ready'";
const FIND_BY_BUILD: &str = "SELECT * FROM snapshots WHERE team_id = $1 AND alias = $2 \
    AND build_id = $3 AND state = 'ready'";
const LIST: &str = "SELECT * FROM snapshots WHERE team_id = $1 AND state = 'ready' \
        AND ($2 IS NULL OR sandbox_id = $2) \
        AND ($3 IS NULL OR alias = $3 OR template_id = $3) AND ($4 IS NULL OR tag = $4) \
        AND ($5 IS NULL OR created_at < $5 OR (created_at = $5 AND template_id > $6)) \
    ORDER BY created_at DESC, template_id LIMIT $7";
// All tags of a name go together.
const NAMED: &str = "SELECT * FROM snapshots WHERE team_id = $1 AND state <> 'removing' \
    AND (alias = $2 OR template_id = $2 OR alias = (SELECT alias FROM snapshots \
        WHERE team_id = $1 AND template_id = $2 AND state <> 'removing'))";
const REMOVING: &str = "UPDATE snapshots SET state = 'removing', alias = NULL, env = NULL, updated_at = $2 \
    WHERE template_id = $1";
const ON_NODE: &str = "SELECT * FROM snapshots WHERE node_id = $1";
const FORGET: &str = "DELETE FROM snapshots WHERE template_id = $1 AND state = $2";

/// Where the record of a snapshot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SnapshotState {
    /// Its node was asked, or is about to be.
    Making,
    Ready,
    /// Nobody can use it any more, or only forks that are being started; its node may still have it.
    Removing,
}

/// The record of one snapshot.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotRow {
    /// As its node knows it. Each name and tag has its own.
    pub(crate) template: TemplateId,
    pub(crate) team: TeamId,
    /// Its name in the namespace of the team.
    pub(crate) alias: Option<String>,
    pub(crate) tag: String,
    pub(crate) build: BuildId,
    /// What it was made of.
    pub(crate) sandbox: SandboxId,
    /// The template that sandbox was made of, as clients know it.
    pub(crate) origin: TemplateId,
    /// The variables that sandbox had, for those that are made of this and bring none.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) node: Option<NodeId>,
    pub(crate) state: SnapshotState,
    pub(crate) resources: Resources,
    pub(crate) envd_version: String,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

/// Which snapshots of a team are listed.
#[derive(Debug, Clone, Default)]
pub(crate) struct SnapshotFilter {
    pub(crate) sandbox: Option<SandboxId>,
    /// A name or an id.
    pub(crate) name: Option<String>,
    pub(crate) tag: Option<String>,
    /// The last of the page before.
    pub(crate) after: Option<(Timestamp, String)>,
}

/// What became of a snapshot that was to be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewSnapshotRow {
    Inserted,
    /// The team has as many as it may.
    AtLimit,
    /// Another one with this name and tag was recorded a moment ago.
    NameTaken,
}

impl SnapshotState {
    const ALL: [Self; 3] = [Self::Making, Self::Ready, Self::Removing];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Making => "making",
            Self::Ready => "ready",
            Self::Removing => "removing",
        }
    }
}

/// Text that is no state of a snapshot.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no state of a snapshot")]
pub(crate) struct UnknownState(String);

impl FromStr for SnapshotState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| UnknownState(text.to_owned()))
    }
}

impl<'r> FromRow<'r, SqliteRow> for SnapshotRow {
    fn from_row(row: &'r SqliteRow) -> Result<Self, sqlx::Error> {
        let env: Option<&str> = row.try_get("env")?;
        let env = env.map(serde_json::from_str).transpose().map_err(wrong("env"))?;
        Ok(Self {
            env: env.unwrap_or_default(),
            template: parsed(row, "template_id")?,
            team: parsed(row, "team_id")?,
            alias: row.try_get("alias")?,
            tag: row.try_get("tag")?,
            build: parsed(row, "build_id")?,
            sandbox: parsed(row, "sandbox_id")?,
            origin: parsed(row, "origin_id")?,
            node: maybe_parsed(row, "node_id")?,
            state: parsed(row, "state")?,
            resources: resources(row)?,
            envd_version: row.try_get("envd_version")?,
            created_at: time(row, "created_at")?,
            updated_at: time(row, "updated_at")?,
        })
    }
}

impl Store {
    /// Records a snapshot that is about to be made, if its team has fewer than `limit`.
    pub(crate) async fn insert_snapshot(
        &self,
        row: &SnapshotRow,
        limit: u32,
    ) -> Result<NewSnapshotRow, StoreError> {
        let inserted = sqlx::query(INSERT)
            .bind(row.template.as_str())
            .bind(row.team.as_str())
            .bind(row.alias.as_deref())
            .bind(&row.tag)
            .bind(row.build.as_str())
            .bind(row.sandbox.as_str())
            .bind(row.origin.as_str())
            .bind(row.node.as_ref().map(NodeId::as_str))
            .bind(i64::from(row.resources.vcpus))
            .bind(i64::try_from(row.resources.memory_mib).unwrap_or(i64::MAX))
            .bind(i64::try_from(row.resources.disk_mib).unwrap_or(i64::MAX))
            .bind(&row.envd_version)
            .bind(row.created_at.micros())
            .bind(i64::from(limit))
            .bind(row.state.as_str())
            .bind(encode_env(&row.env)?)
            .execute(&self.writer)
            .await;
        match inserted {
            Ok(done) if done.rows_affected() == 0 => Ok(NewSnapshotRow::AtLimit),
            Ok(_one_row) => Ok(NewSnapshotRow::Inserted),
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                Ok(NewSnapshotRow::NameTaken)
            }
            Err(source) => Err(StoreError::Query { what: "record a snapshot", source }),
        }
    }

    /// Its node has made this build of it. On the disk before the answer.
    pub(crate) async fn snapshot_made(&self, row: &SnapshotRow) -> Result<bool, StoreError> {
        let change = sqlx::query(READY)
            .bind(row.template.as_str())
            .bind(row.build.as_str())
            .bind(row.sandbox.as_str())
            .bind(row.origin.as_str())
            .bind(i64::from(row.resources.vcpus))
            .bind(i64::try_from(row.resources.memory_mib).unwrap_or(i64::MAX))
            .bind(i64::try_from(row.resources.disk_mib).unwrap_or(i64::MAX))
            .bind(&row.envd_version)
            .bind(row.updated_at.micros())
            .bind(encode_env(&row.env)?);
        self.durably(change).await
    }

    /// Its node has this build of it, whatever was recorded.
    pub(crate) async fn set_snapshot_build(
        &self,
        template: &TemplateId,
        build: &BuildId,
    ) -> Result<(), StoreError> {
        let set = sqlx::query(SET_BUILD)
            .bind(template.as_str())
            .bind(build.as_str())
            .bind(now().micros())
            .execute(&self.writer);
        set.await.map(drop).map_err(StoreError::query("record the build of a snapshot"))
    }

    /// The snapshot of `team` with this name and tag, whether it is made or not.
    pub(crate) async fn named_snapshot(
        &self,
        team: &TeamId,
        alias: &str,
        tag: &str,
    ) -> Result<Option<SnapshotRow>, StoreError> {
        let found = sqlx::query_as(FIND).bind(team.as_str()).bind(alias).bind(tag);
        let found = found.fetch_optional(&self.reader).await;
        found.map_err(StoreError::query("look up a snapshot"))
    }

    /// The snapshot of `team` with this id, if it can be used.
    pub(crate) async fn snapshot(
        &self,
        team: &TeamId,
        template: &str,
    ) -> Result<Option<SnapshotRow>, StoreError> {
        let found = sqlx::query_as(FIND_BY_ID).bind(team.as_str()).bind(template);
        let found = found.fetch_optional(&self.reader).await;
        found.map_err(StoreError::query("look up a snapshot by its id"))
    }

    /// The snapshot of `team` with this name whose newest build is this one.
    pub(crate) async fn snapshot_of_build(
        &self,
        team: &TeamId,
        alias: &str,
        build: &BuildId,
    ) -> Result<Option<SnapshotRow>, StoreError> {
        let found = sqlx::query_as(FIND_BY_BUILD).bind(team.as_str()).bind(alias);
        let found = found.bind(build.as_str()).fetch_optional(&self.reader).await;
        found.map_err(StoreError::query("look up a snapshot by its build"))
    }

    /// At most `limit` of the snapshots of `team` that can be used, the newest first.
    pub(crate) async fn snapshots(
        &self,
        team: &TeamId,
        filter: &SnapshotFilter,
        limit: usize,
    ) -> Result<Vec<SnapshotRow>, StoreError> {
        let after = filter.after.as_ref();
        let found = sqlx::query_as(LIST)
            .bind(team.as_str())
            .bind(filter.sandbox.as_ref().map(SandboxId::as_str))
            .bind(filter.name.as_deref())
            .bind(filter.tag.as_deref())
            .bind(after.map(|(time, _)| time.micros()))
            .bind(after.map(|(_, id)| id.as_str()))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&self.reader);
        found.await.map_err(StoreError::query("list snapshots"))
    }

    /// Takes every snapshot of `team` with this name or id from its users, all tags together. What
    /// was taken: its nodes still have it. On the disk before the answer.
    pub(crate) async fn remove_snapshots(
        &self,
        team: &TeamId,
        name: &str,
    ) -> Result<Vec<SnapshotRow>, StoreError> {
        let found = sqlx::query_as(NAMED).bind(team.as_str()).bind(name);
        let rows: Vec<SnapshotRow> = found
            .fetch_all(&self.writer)
            .await
            .map_err(StoreError::query("look up the snapshots of a name"))?;
        for row in &rows {
            self.remove_snapshot(&row.template).await?;
        }
        Ok(rows)
    }

    /// As [`Store::remove_snapshots`], for one tag.
    pub(crate) async fn remove_snapshot(&self, template: &TemplateId) -> Result<(), StoreError> {
        let change = sqlx::query(REMOVING).bind(template.as_str()).bind(now().micros());
        self.durably(change).await.map(drop)
    }

    /// Every record of a snapshot on this node.
    pub(crate) async fn snapshots_on(&self, node: &NodeId) -> Result<Vec<SnapshotRow>, StoreError> {
        let found = sqlx::query_as(ON_NODE).bind(node.as_str()).fetch_all(&self.reader);
        found.await.map_err(StoreError::query("list the snapshots of a node"))
    }

    /// Removes the record of a snapshot that is not there, if it still is as it was read. Whether it
    /// was.
    pub(crate) async fn forget_snapshot(&self, row: &SnapshotRow) -> Result<bool, StoreError> {
        let forgotten = sqlx::query(FORGET)
            .bind(row.template.as_str())
            .bind(row.state.as_str())
            .execute(&self.writer);
        let done = forgotten.await.map_err(StoreError::query("remove the record of a snapshot"))?;
        Ok(done.rows_affected() > 0)
    }
}
