//! What a row says of pauses.

use std::collections::BTreeMap;
use std::time::Duration;

use e2b_wire::Timestamp;
use model::{Keep, OnTimeout};
use node_wire::PausedStatus;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::StoreError;
use super::row::{maybe_number, number, wrong};

/// What was asked for when a sandbox was made, and holds for each of its runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) on_timeout: OnTimeout,
    /// Whether traffic wakes it.
    pub(crate) auto_resume: bool,
    /// The time it was given. `None` where nobody knows.
    pub(crate) ttl: Option<Duration>,
    /// For the guest agent, when it is started from its files.
    pub(crate) env: BTreeMap<String, String>,
}

/// The last pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paused {
    pub(crate) at: Timestamp,
    /// Whether its processes are kept.
    pub(crate) memory: bool,
    /// Whether they are, with a guest agent that did not answer then.
    pub(crate) agent_silent: bool,
}

impl From<&PausedStatus> for Paused {
    fn from(paused: &PausedStatus) -> Self {
        let PausedStatus { memory, agent_silent, .. } = *paused;
        Self { at: paused.paused_at.into(), memory, agent_silent }
    }
}

impl Default for Terms {
    fn default() -> Self {
        let on_timeout = OnTimeout::Kill;
        Self { on_timeout, auto_resume: false, ttl: None, env: BTreeMap::new() }
    }
}

impl Terms {
    pub(super) fn read(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let is = |column| row.try_get::<i64, _>(column).map(|number| number != 0);
        let on_timeout = match (is("auto_pause")?, is("auto_pause_memory")?) {
            (false, _) => OnTimeout::Kill,
            (true, true) => OnTimeout::Pause(Keep::Memory),
            (true, false) => OnTimeout::Pause(Keep::Files),
        };
        let env: Option<&str> = row.try_get("env")?;
        let env = env.map(serde_json::from_str).transpose().map_err(wrong("env"))?;
        Ok(Self {
            on_timeout,
            auto_resume: is("auto_resume")?,
            ttl: maybe_number(row, "ttl_s")?.map(Duration::from_secs),
            env: env.unwrap_or_default(),
        })
    }

    /// The columns `auto_pause` and `auto_pause_memory`.
    pub(super) fn auto_pause(&self) -> (i64, i64) {
        match self.on_timeout {
            OnTimeout::Kill => (0, 1),
            OnTimeout::Pause(Keep::Memory) => (1, 1),
            OnTimeout::Pause(Keep::Files) => (1, 0),
        }
    }

    pub(super) fn ttl_s(&self) -> Option<i64> {
        self.ttl.and_then(|ttl| i64::try_from(ttl.as_secs()).ok())
    }
}

/// The column `env`.
pub(super) fn encode_env(env: &BTreeMap<String, String>) -> Result<Option<String>, StoreError> {
    if env.is_empty() {
        return Ok(None);
    }
    serde_json::to_string(env).map(Some).map_err(|source| StoreError::Query {
        what: "encode the environment of a sandbox",
        source: sqlx::Error::Encode(Box::new(source)),
    })
}

impl Paused {
    pub(super) fn read(row: &SqliteRow) -> Result<Option<Self>, sqlx::Error> {
        let Some(at) = row.try_get::<Option<i64>, _>("paused_at")? else { return Ok(None) };
        let at = Timestamp::from_micros(at).map_err(wrong("paused_at"))?;
        let memory: Option<i64> = row.try_get("pause_memory")?;
        let memory = memory.is_some_and(|memory| memory != 0);
        let agent_silent = memory && row.try_get::<i64, _>("pause_agent_silent")? != 0;
        Ok(Some(Self { at, memory, agent_silent }))
    }
}

/// How often it was paused.
pub(super) fn pauses(row: &SqliteRow) -> Result<u32, sqlx::Error> {
    number(row, "pauses")
}
