use std::collections::BTreeMap;
use std::error::Error;
use std::str::FromStr;

use e2b_wire::{NetworkConfig, Timestamp};
use model::{BuildId, LifecycleId, NodeId, Resources, SandboxId, TeamId, TemplateId};
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _};

use super::terms::{Paused, Terms, pauses};

/// Where the record of a sandbox stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowState {
    /// The node was asked, or is about to be.
    Starting,
    Running,
    /// It is not reachable any more, and what is kept of it is not safe yet.
    Pausing,
    Paused,
    /// Its node was asked to let it go on, or is about to be.
    Resuming,
    /// Its end was asked for and is not confirmed.
    Killing,
    Ended,
}

/// The record of one sandbox.
#[derive(Debug, Clone)]
pub(crate) struct SandboxRow {
    pub(crate) id: SandboxId,
    pub(crate) team: TeamId,
    pub(crate) template: TemplateId,
    /// The template its clients are told, where it is not that.
    pub(crate) origin: Option<TemplateId>,
    pub(crate) build: BuildId,
    pub(crate) alias: Option<String>,
    pub(crate) envd_version: String,
    pub(crate) state: RowState,
    /// The node that was asked last. `None` when there was none to ask, and in rows from before
    /// there could be several.
    pub(crate) node: Option<NodeId>,
    /// Known once it runs.
    pub(crate) lifecycle: Option<LifecycleId>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) secure: bool,
    /// What the request said.
    pub(crate) internet: Option<bool>,
    /// What the request said of the network, or the last change of it. Of a sandbox whose record was
    /// lost nobody knows it any more; its rules for traffic to the outside go on.
    pub(crate) network: Option<NetworkConfig>,
    pub(crate) resources: Resources,
    pub(crate) created_at: Timestamp,
    /// When it was asked for, until it runs. Of one that was paused: when it last went on.
    pub(crate) started_at: Timestamp,
    pub(crate) ends_at: Timestamp,
    pub(crate) terms: Terms,
    /// The last pause, whether or not it is over.
    pub(crate) paused: Option<Paused>,
    pub(crate) pauses: u32,
    /// Whether the record was made anew of what a node had: it does not say everything.
    pub(crate) adopted: bool,
    /// Counts every change between running and paused.
    pub(crate) revision: i64,
}

/// A template that can be started.
#[derive(Debug, Clone)]
pub(crate) struct TemplateRow {
    pub(crate) id: TemplateId,
    pub(crate) build: BuildId,
    /// In the order the node tells them.
    pub(crate) aliases: Vec<String>,
    /// The variables of sandboxes that bring none: of a snapshot those of its sandbox.
    pub(crate) env: BTreeMap<String, String>,
    /// It came with a node, for all teams; a snapshot is its team's.
    pub(crate) public: bool,
    pub(crate) resources: Resources,
    pub(crate) envd_version: String,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) spawn_count: i64,
    pub(crate) last_spawned_at: Option<Timestamp>,
}

impl SandboxRow {
    /// The template its clients are told.
    pub(crate) fn shown_template(&self) -> &TemplateId {
        self.origin.as_ref().unwrap_or(&self.template)
    }
}

impl RowState {
    const ALL: [Self; 7] = [
        Self::Starting,
        Self::Running,
        Self::Pausing,
        Self::Paused,
        Self::Resuming,
        Self::Killing,
        Self::Ended,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Killing => "killing",
            Self::Ended => "ended",
        }
    }
}

/// Text that is no state of a record.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no state of a sandbox")]
pub(crate) struct UnknownState(String);

impl FromStr for RowState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.to_owned()))
    }
}

impl<'r> FromRow<'r, SqliteRow> for SandboxRow {
    fn from_row(row: &'r SqliteRow) -> Result<Self, sqlx::Error> {
        let metadata: String = row.try_get("metadata")?;
        let network: Option<&str> = row.try_get("network")?;
        let network = network.map(serde_json::from_str).transpose().map_err(wrong("network"))?;
        Ok(Self {
            id: parsed(row, "id")?,
            team: parsed(row, "team_id")?,
            template: parsed(row, "template_id")?,
            build: parsed(row, "build_id")?,
            alias: row.try_get("alias")?,
            envd_version: row.try_get("envd_version")?,
            state: parsed(row, "state")?,
            node: maybe_parsed(row, "node_id")?,
            lifecycle: maybe_parsed(row, "lifecycle")?,
            metadata: serde_json::from_str(&metadata).map_err(wrong("metadata"))?,
            secure: row.try_get::<i64, _>("secure")? != 0,
            internet: row.try_get::<Option<i64>, _>("internet")?.map(|allowed| allowed != 0),
            network,
            resources: resources(row)?,
            created_at: time(row, "created_at")?,
            started_at: time(row, "started_at")?,
            ends_at: time(row, "ends_at")?,
            origin: maybe_parsed(row, "origin_id")?,
            terms: Terms::read(row)?,
            paused: Paused::read(row)?,
            pauses: pauses(row)?,
            adopted: row.try_get::<Option<i64>, _>("adopted_at")?.is_some(),
            revision: row.try_get("revision")?,
        })
    }
}

impl<'r> FromRow<'r, SqliteRow> for TemplateRow {
    /// Without its aliases, which are rows of their own.
    fn from_row(row: &'r SqliteRow) -> Result<Self, sqlx::Error> {
        let last_spawned_at: Option<i64> = row.try_get("last_spawned_at")?;
        Ok(Self {
            id: parsed(row, "id")?,
            build: parsed(row, "build_id")?,
            aliases: Vec::new(),
            env: BTreeMap::new(),
            public: true,
            resources: resources(row)?,
            envd_version: row.try_get("envd_version")?,
            created_at: time(row, "created_at")?,
            updated_at: time(row, "updated_at")?,
            spawn_count: row.try_get("spawn_count")?,
            last_spawned_at: last_spawned_at
                .map(Timestamp::from_micros)
                .transpose()
                .map_err(wrong("last_spawned_at"))?,
        })
    }
}

pub(super) fn resources(row: &SqliteRow) -> Result<Resources, sqlx::Error> {
    Ok(Resources {
        vcpus: number(row, "vcpus")?,
        memory_mib: number(row, "memory_mib")?,
        disk_mib: number(row, "disk_mib")?,
    })
}

pub(super) fn parsed<T: FromStr>(row: &SqliteRow, column: &'static str) -> Result<T, sqlx::Error>
where
    T::Err: Error + Send + Sync + 'static,
{
    row.try_get::<&str, _>(column)?.parse().map_err(wrong(column))
}

pub(super) fn maybe_parsed<T: FromStr>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<T>, sqlx::Error>
where
    T::Err: Error + Send + Sync + 'static,
{
    let text: Option<&str> = row.try_get(column)?;
    text.map(str::parse).transpose().map_err(wrong(column))
}

pub(super) fn number<T: TryFrom<i64>>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<T, sqlx::Error>
where
    T::Error: Error + Send + Sync + 'static,
{
    T::try_from(row.try_get(column)?).map_err(wrong(column))
}

pub(super) fn maybe_number<T: TryFrom<i64>>(
    row: &SqliteRow,
    column: &'static str,
) -> Result<Option<T>, sqlx::Error>
where
    T::Error: Error + Send + Sync + 'static,
{
    let value: Option<i64> = row.try_get(column)?;
    value.map(T::try_from).transpose().map_err(wrong(column))
}

pub(super) fn time(row: &SqliteRow, column: &'static str) -> Result<Timestamp, sqlx::Error> {
    Timestamp::from_micros(row.try_get(column)?).map_err(wrong(column))
}

pub(super) fn wrong<E: Error + Send + Sync + 'static>(
    column: &str,
) -> impl FnOnce(E) -> sqlx::Error {
    move |source| sqlx::Error::ColumnDecode { index: column.to_owned(), source: Box::new(source) }
}
