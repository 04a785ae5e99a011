use e2b_wire::{KeyHash, Timestamp};
use model::TeamId;
use sqlx::{FromRow as _, Row as _};

use super::{Store, StoreError};
use crate::Team;

const UPSERT_TEAM: &str = "INSERT INTO teams (id, slug, name, created_at) VALUES ($1, $2, $3, $4) \
    ON CONFLICT (id) DO UPDATE SET slug = excluded.slug, name = excluded.name";
const UPSERT_KEY: &str = "INSERT INTO api_keys (hash, team_id, name, created_at) \
    VALUES ($1, $2, 'default', $3) \
    ON CONFLICT (team_id, name) DO UPDATE SET hash = excluded.hash, \
        created_at = CASE WHEN api_keys.hash = excluded.hash \
            THEN api_keys.created_at ELSE excluded.created_at END";
const TEAM_OF_KEY: &str = "SELECT k.hash, t.id, t.slug, t.name FROM api_keys k \
    JOIN teams t ON t.id = k.team_id WHERE k.hash = $1";
const TEAM: &str = "SELECT id, slug, name FROM teams WHERE id = $1";

impl Store {
    /// Makes the team and its default key what the configuration says; a key it had before stops
    /// working.
    pub(crate) async fn configure_team(
        &self,
        team: &Team,
        key: &KeyHash,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.transact("configure the team", async |transaction| {
            sqlx::query(UPSERT_TEAM)
                .bind(team.id.as_str())
                .bind(&team.slug)
                .bind(&team.name)
                .bind(now.micros())
                .execute(&mut *transaction)
                .await?;
            sqlx::query(UPSERT_KEY)
                .bind(key.as_str())
                .bind(team.id.as_str())
                .bind(now.micros())
                .execute(transaction)
                .await?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn team_of_key(&self, key: &KeyHash) -> Result<Option<Team>, StoreError> {
        let failed = || StoreError::query("look up a key");
        let found = sqlx::query(TEAM_OF_KEY)
            .bind(key.as_str())
            .fetch_optional(&self.reader)
            .await
            .map_err(failed())?;
        let Some(row) = found else { return Ok(None) };
        let stored: &str = row.try_get("hash").map_err(failed())?;
        if !key.matches(stored) {
            return Ok(None);
        }
        Team::from_row(&row).map(Some).map_err(failed())
    }

    pub(crate) async fn team(&self, id: &TeamId) -> Result<Option<Team>, StoreError> {
        sqlx::query_as(TEAM)
            .bind(id.as_str())
            .fetch_optional(&self.reader)
            .await
            .map_err(StoreError::query("look up a team"))
    }
}
