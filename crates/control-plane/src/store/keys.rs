//! What teams show to be served: API keys and access tokens. Of each only its hash is kept.

use e2b_wire::{KeyHash, KeyMask, Timestamp};
use model::TeamId;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{FromRow, Row as _, Sqlite};
use uuid::Uuid;

use super::row::{number, parsed, time, wrong};
use super::{Store, StoreError};
use crate::Team;

// The count and the insert are one statement, so on SQLite's single writer the limit is exact.
const INSERT: &str = "INSERT INTO secrets_of_teams (id, kind, hash, team_id, name, prefix, length, \
        first, last, configured, created_at) \
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11 \
    WHERE (SELECT COUNT(*) FROM secrets_of_teams WHERE team_id = $4 AND kind = $2) < $12 \
    ON CONFLICT (kind, hash) DO UPDATE SET configured = excluded.configured \
        WHERE secrets_of_teams.team_id = excluded.team_id";
const TEAM_OF: &str = "SELECT s.hash, s.id AS secret, s.last_used_at, t.* FROM secrets_of_teams s \
    JOIN teams t ON t.id = s.team_id WHERE s.kind = $1 AND s.hash = $2";
const USED: &str = "UPDATE secrets_of_teams SET last_used_at = $2 WHERE id = $1";
const LIST: &str = "SELECT * FROM secrets_of_teams WHERE team_id = $1 AND kind = $2 \
    ORDER BY created_at, id";
const RENAME: &str =
    "UPDATE secrets_of_teams SET name = $4 WHERE team_id = $1 AND kind = $2 AND id = $3";
const DELETE: &str = "DELETE FROM secrets_of_teams \
    WHERE team_id = $1 AND kind = $2 AND id = $3 AND configured = 0";
const IS_CONFIGURED: &str = "SELECT configured FROM secrets_of_teams \
    WHERE team_id = $1 AND kind = $2 AND id = $3";

/// What a secret opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// The API, as its team.
    Key,
    /// The endpoints of people, as its team.
    AccessToken,
}

/// A secret to be kept.
#[derive(Debug)]
pub(crate) struct NewSecret<'a> {
    pub(crate) kind: Kind,
    pub(crate) id: Uuid,
    pub(crate) hash: &'a KeyHash,
    pub(crate) mask: KeyMask,
    pub(crate) name: &'a str,
    pub(crate) configured: bool,
}

/// What is kept of a secret and may be shown.
#[derive(Debug, Clone)]
pub(crate) struct SecretRow {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) mask: KeyMask,
    pub(crate) created_at: Timestamp,
    pub(crate) last_used: Option<Timestamp>,
}

/// Who showed a secret.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(crate) team: Team,
    pub(crate) secret: Uuid,
    pub(crate) last_used: Option<Timestamp>,
}

/// What became of a secret that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deleted {
    Yes,
    Unknown,
    /// It is the one of the configuration, and a start would make it again.
    Configured,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::AccessToken => "access-token",
        }
    }
}

impl<'a> NewSecret<'a> {
    /// Writes it down for `team` where that has fewer than `limit` of its kind.
    pub(super) fn insert(
        &'a self,
        team: &'a TeamId,
        limit: u32,
        now: Timestamp,
    ) -> Query<'a, Sqlite, SqliteArguments> {
        sqlx::query(INSERT)
            .bind(self.id.hyphenated().to_string())
            .bind(self.kind.as_str())
            .bind(self.hash.as_str())
            .bind(team.as_str())
            .bind(self.name)
            .bind(&self.mask.prefix)
            .bind(i64::try_from(self.mask.value_length).unwrap_or(i64::MAX))
            .bind(&self.mask.masked_value_prefix)
            .bind(&self.mask.masked_value_suffix)
            .bind(i64::from(self.configured))
            .bind(now.micros())
            .bind(i64::from(limit))
    }
}

impl Store {
    /// Whose secret this is.
    pub(crate) async fn holder(
        &self,
        kind: Kind,
        hash: &KeyHash,
    ) -> Result<Option<Holder>, StoreError> {
        let failed = || StoreError::query("look up a key");
        let found = sqlx::query(TEAM_OF).bind(kind.as_str()).bind(hash.as_str());
        let found = found.fetch_optional(&self.reader).await.map_err(failed())?;
        let Some(row) = found else { return Ok(None) };
        let stored: &str = row.try_get("hash").map_err(failed())?;
        if !hash.matches(stored) {
            return Ok(None);
        }
        Holder::from_row(&row).map(Some).map_err(failed())
    }

    /// It was shown.
    pub(crate) async fn secret_used(&self, id: Uuid, now: Timestamp) -> Result<(), StoreError> {
        let used = sqlx::query(USED).bind(id.hyphenated().to_string()).bind(now.micros());
        let done = used.execute(&self.writer).await;
        done.map(drop).map_err(StoreError::query("note the use of a key"))
    }

    /// The oldest first; at most as many as a team may have.
    pub(crate) async fn secrets(
        &self,
        team: &TeamId,
        kind: Kind,
    ) -> Result<Vec<SecretRow>, StoreError> {
        let found = sqlx::query_as(LIST).bind(team.as_str()).bind(kind.as_str());
        found.fetch_all(&self.reader).await.map_err(StoreError::query("list keys"))
    }

    /// False when the team has `limit` of its kind.
    pub(crate) async fn insert_secret(
        &self,
        team: &TeamId,
        secret: &NewSecret<'_>,
        limit: u32,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let done = secret.insert(team, limit, now).execute(&self.writer).await;
        Ok(done.map_err(StoreError::query("make a key"))?.rows_affected() > 0)
    }

    /// False when the team has none of this id.
    pub(crate) async fn rename_secret(
        &self,
        team: &TeamId,
        kind: Kind,
        id: Uuid,
        name: &str,
    ) -> Result<bool, StoreError> {
        let renamed = sqlx::query(RENAME)
            .bind(team.as_str())
            .bind(kind.as_str())
            .bind(id.hyphenated().to_string())
            .bind(name)
            .execute(&self.writer);
        Ok(renamed.await.map_err(StoreError::query("rename a key"))?.rows_affected() > 0)
    }

    pub(crate) async fn delete_secret(
        &self,
        team: &TeamId,
        kind: Kind,
        id: Uuid,
    ) -> Result<Deleted, StoreError> {
        let failed = || StoreError::query("delete a key");
        let id = id.hyphenated().to_string();
        let bind = |sql| sqlx::query(sql).bind(team.as_str()).bind(kind.as_str()).bind(id.clone());
        let done = bind(DELETE).execute(&self.writer).await.map_err(failed())?;
        if done.rows_affected() > 0 {
            return Ok(Deleted::Yes);
        }
        let left = bind(IS_CONFIGURED).fetch_optional(&self.writer).await.map_err(failed())?;
        Ok(if left.is_some() { Deleted::Configured } else { Deleted::Unknown })
    }
}

impl<'r> FromRow<'r, SqliteRow> for Holder {
    fn from_row(row: &'r SqliteRow) -> Result<Self, sqlx::Error> {
        let (team, secret) = (Team::from_row(row)?, parsed(row, "secret")?);
        Ok(Self { team, secret, last_used: last_used(row)? })
    }
}

impl<'r> FromRow<'r, SqliteRow> for SecretRow {
    fn from_row(row: &'r SqliteRow) -> Result<Self, sqlx::Error> {
        let mask = KeyMask {
            prefix: row.try_get("prefix")?,
            value_length: number(row, "length")?,
            masked_value_prefix: row.try_get("first")?,
            masked_value_suffix: row.try_get("last")?,
        };
        Ok(Self {
            id: parsed(row, "id")?,
            name: row.try_get("name")?,
            mask,
            created_at: time(row, "created_at")?,
            last_used: last_used(row)?,
        })
    }
}

fn last_used(row: &SqliteRow) -> Result<Option<Timestamp>, sqlx::Error> {
    let micros: Option<i64> = row.try_get("last_used_at")?;
    micros.map(Timestamp::from_micros).transpose().map_err(wrong("last_used_at"))
}
