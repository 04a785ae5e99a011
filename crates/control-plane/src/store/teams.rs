use std::collections::BTreeMap;
use std::time::Duration;

use e2b_wire::{ApiKey, Timestamp};
use model::TeamId;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row as _};
use uuid::Uuid;

use super::keys::{Kind, NewSecret};
use super::row::{maybe_number, number, parsed, time};
use super::{Store, StoreError};
use crate::{Quota, Standing, Team};

const UPSERT: &str = "INSERT INTO teams (id, slug, name, created_at) VALUES ($1, $2, $3, $4) \
    ON CONFLICT (id) DO UPDATE SET slug = excluded.slug";
const DROP_CONFIGURED: &str =
    "DELETE FROM secrets_of_teams WHERE team_id = $1 AND configured = 1 AND hash <> $2";
// The count and the insert are one statement, so on SQLite's single writer the limit is exact.
const INSERT: &str = "INSERT INTO teams (id, slug, name, created_at, max_sandboxes, max_length_s, \
        max_vcpus, max_memory_mib) SELECT $1, $2, $3, $4, $5, $6, $7, $8 \
    WHERE (SELECT COUNT(*) FROM teams) < $9";
const CHANGE: &str = "UPDATE teams SET name = $2, max_sandboxes = $3, max_length_s = $4, \
    max_vcpus = $5, max_memory_mib = $6, banned = $7, blocked_reason = $8 WHERE id = $1";
const GET: &str = "SELECT * FROM teams WHERE id = $1";
const LIST: &str = "SELECT * FROM teams ORDER BY created_at, id";

const RUNNING_COUNTS: &str = "SELECT team_id, COUNT(*) AS running FROM sandboxes \
    WHERE state = 'running' AND ended_at IS NULL GROUP BY team_id";
const RUNS: &str = "SELECT started_at, ended_at FROM sandbox_runs WHERE team_id = $1 \
    AND started_at <= $3 AND (ended_at IS NULL OR ended_at >= $2)";

/// The record of a team.
#[derive(Debug, Clone)]
pub(crate) struct TeamRow {
    pub(crate) team: Team,
    pub(crate) created_at: Timestamp,
}

/// What became of a team that was to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TeamInserted {
    Yes,
    SlugTaken,
    /// There are as many as there may be.
    AtLimit,
}

impl Store {
    /// Makes the team and its configured key what the configuration says; a key that was configured
    /// before stops working. What else the team is, its name included, is what it was made later.
    pub(crate) async fn configure_team(
        &self,
        team: &Team,
        key: &ApiKey,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let hash = key.hash();
        let secret = NewSecret {
            kind: Kind::Key,
            id: Uuid::new_v4(),
            hash: &hash,
            mask: key.mask(),
            name: "default",
            configured: true,
        };
        self.transact("configure the team", async |transaction| {
            sqlx::query(UPSERT)
                .bind(team.id.as_str())
                .bind(&team.slug)
                .bind(&team.name)
                .bind(now.micros())
                .execute(&mut *transaction)
                .await?;
            sqlx::query(DROP_CONFIGURED)
                .bind(team.id.as_str())
                .bind(hash.as_str())
                .execute(&mut *transaction)
                .await?;
            secret.insert(&team.id, u32::MAX, now).execute(transaction).await?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn team(&self, id: &TeamId) -> Result<Option<Team>, StoreError> {
        Ok(self.team_row(id).await?.map(|row| row.team))
    }

    pub(crate) async fn team_row(&self, id: &TeamId) -> Result<Option<TeamRow>, StoreError> {
        let found = sqlx::query_as(GET).bind(id.as_str()).fetch_optional(&self.reader);
        found.await.map_err(StoreError::query("look up a team"))
    }

    /// Every team, the oldest first.
    pub(crate) async fn teams(&self) -> Result<Vec<TeamRow>, StoreError> {
        let found = sqlx::query_as(LIST).fetch_all(&self.reader);
        found.await.map_err(StoreError::query("list teams"))
    }

    /// Makes a team where there are fewer than `limit`.
    pub(crate) async fn insert_team(
        &self,
        row: &TeamRow,
        limit: u32,
    ) -> Result<TeamInserted, StoreError> {
        let TeamRow { team, created_at } = row;
        let inserted = sqlx::query(INSERT)
            .bind(team.id.as_str())
            .bind(&team.slug)
            .bind(&team.name)
            .bind(created_at.micros())
            .bind(team.quota.sandboxes.map(i64::from))
            .bind(team.quota.length.map(seconds))
            .bind(team.quota.vcpus.map(i64::from))
            .bind(team.quota.memory_mib.map(wide))
            .bind(i64::from(limit))
            .execute(&self.writer)
            .await;
        match inserted {
            Ok(done) if done.rows_affected() == 0 => Ok(TeamInserted::AtLimit),
            Ok(_one_row) => Ok(TeamInserted::Yes),
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                Ok(TeamInserted::SlugTaken)
            }
            Err(error) => Err(StoreError::query("make a team")(error)),
        }
    }

    /// The team is from now on what `team` says, except for its slug. False when it is not there.
    pub(crate) async fn change_team(&self, team: &Team) -> Result<bool, StoreError> {
        let changed = sqlx::query(CHANGE)
            .bind(team.id.as_str())
            .bind(&team.name)
            .bind(team.quota.sandboxes.map(i64::from))
            .bind(team.quota.length.map(seconds))
            .bind(team.quota.vcpus.map(i64::from))
            .bind(team.quota.memory_mib.map(wide))
            .bind(i64::from(team.standing.banned))
            .bind(team.standing.blocked.as_deref())
            .execute(&self.writer);
        let done = changed.await.map_err(StoreError::query("change a team"))?;
        Ok(done.rows_affected() > 0)
    }

    /// How many sandboxes each team runs, of those that run any.
    pub(crate) async fn running_counts(&self) -> Result<BTreeMap<String, u32>, StoreError> {
        let failed = || StoreError::query("count running sandboxes");
        let rows = sqlx::query(RUNNING_COUNTS).fetch_all(&self.reader).await.map_err(failed())?;
        let count = |row: &SqliteRow| Ok((row.try_get("team_id")?, number(row, "running")?));
        rows.iter().map(count).collect::<Result<_, sqlx::Error>>().map_err(failed())
    }

    /// The runs of sandboxes of `team` between these: when each began and ended. Seconds since 1970.
    pub(crate) async fn runs_between(
        &self,
        team: &TeamId,
        start: i64,
        end: i64,
    ) -> Result<Vec<(i64, Option<i64>)>, StoreError> {
        let failed = || StoreError::query("look up what a team did");
        let micros = |seconds: i64| seconds.saturating_mul(MICROS);
        let rows = sqlx::query(RUNS)
            .bind(team.as_str())
            .bind(micros(start))
            .bind(micros(end.saturating_add(1)))
            .fetch_all(&self.reader)
            .await
            .map_err(failed())?;
        let run = |row: &SqliteRow| {
            let ended: Option<i64> = row.try_get("ended_at")?;
            let started: i64 = row.try_get("started_at")?;
            Ok((started.div_euclid(MICROS), ended.map(|at| at.div_euclid(MICROS))))
        };
        rows.iter().map(run).collect::<Result<_, sqlx::Error>>().map_err(failed())
    }
}

/// In a second.
const MICROS: i64 = 1_000_000;

fn seconds(length: Duration) -> i64 {
    wide(length.as_secs())
}

fn wide(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl<'r> FromRow<'r, SqliteRow> for Team {
    fn from_row(row: &'r SqliteRow) -> Result<Self, sqlx::Error> {
        let length: Option<u64> = maybe_number(row, "max_length_s")?;
        let quota = Quota {
            sandboxes: maybe_number(row, "max_sandboxes")?,
            length: length.map(Duration::from_secs),
            vcpus: maybe_number(row, "max_vcpus")?,
            memory_mib: maybe_number(row, "max_memory_mib")?,
        };
        let banned = row.try_get::<i64, _>("banned")? != 0;
        Ok(Self {
            id: parsed(row, "id")?,
            slug: row.try_get("slug")?,
            name: row.try_get("name")?,
            quota,
            standing: Standing { banned, blocked: row.try_get("blocked_reason")? },
        })
    }
}

impl<'r> FromRow<'r, SqliteRow> for TeamRow {
    fn from_row(row: &'r SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self { team: Team::from_row(row)?, created_at: time(row, "created_at")? })
    }
}

#[cfg(test)]
mod tests {
    use e2b_wire::ApiKey;
    use model::SandboxId;

    use super::MICROS;
    use crate::Team;
    use crate::app::now;
    use crate::store::Store;
    use crate::store::sandboxes::tests::insert;

    /// Changes the record of a sandbox, as whoever changes it does.
    async fn set(store: &Store, id: &SandboxId, changes: &str) {
        let sql = format!("UPDATE sandboxes SET {changes} WHERE id = $1");
        let changed = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id.as_str());
        assert_eq!(changed.execute(&store.writer).await.unwrap().rows_affected(), 1);
    }

    #[tokio::test]
    async fn a_sandbox_that_was_paused_ran_twice_and_not_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.sqlite")).await.unwrap();
        let team = Team::default();
        store.configure_team(&team, &ApiKey::generate(), now()).await.unwrap();
        let id = insert(&store, "i1").await;
        let at = |second: i64| second * MICROS;
        let runs = async || store.runs_between(&team.id, 0, 1000).await.unwrap();
        assert_eq!(runs().await, [], "one that only starts does not run");
        set(&store, &id, &format!("state = 'running', started_at = {}", at(10))).await;
        assert_eq!(runs().await, [(10, None)]);
        set(&store, &id, "state = 'pausing'").await;
        set(&store, &id, "state = 'running'").await;
        assert_eq!(runs().await, [(10, None)], "a pause that failed ends nothing");
        set(&store, &id, &format!("state = 'paused', paused_at = {}", at(20))).await;
        set(&store, &id, "state = 'resuming'").await;
        assert_eq!(runs().await, [(10, Some(20))]);
        set(&store, &id, &format!("state = 'running', started_at = {}", at(50))).await;
        set(&store, &id, "state = 'killing'").await;
        assert_eq!(runs().await, [(10, Some(20)), (50, None)]);
        let end = format!("state = 'ended', end_reason = 'request', ended_at = {}", at(60));
        set(&store, &id, &end).await;
        assert_eq!(runs().await, [(10, Some(20)), (50, Some(60))]);
        assert_eq!(store.runs_between(&team.id, 30, 40).await.unwrap(), []);
        store.close().await;
    }
}
