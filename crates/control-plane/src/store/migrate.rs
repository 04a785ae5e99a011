use sqlx::{Row as _, SqlitePool};

use super::StoreError;

/// Every step from an empty database to this version, in order. A step that was released never
/// changes; a change is a new step.
const STEPS: [&str; 2] = [include_str!("0001_first.sql"), include_str!("0002_nodes.sql")];

const MAKE_LEDGER: &str = "CREATE TABLE IF NOT EXISTS schema_steps (version BIGINT PRIMARY KEY)";
const READ_LEDGER: &str = "SELECT COALESCE(MAX(version), 0) AS version FROM schema_steps";
const WRITE_LEDGER: &str = "INSERT INTO schema_steps (version) VALUES ($1)";

/// Runs the steps the database has not seen, each in a transaction with its ledger line.
pub(super) async fn run(writer: &SqlitePool) -> Result<(), StoreError> {
    let failed = |version| move |source| StoreError::Migrate { version, source };
    sqlx::query(MAKE_LEDGER).execute(writer).await.map_err(failed(0))?;
    let ledger = sqlx::query(READ_LEDGER).fetch_one(writer).await.map_err(failed(0))?;
    let found: i64 = ledger.try_get("version").map_err(failed(0))?;
    let mut known = 0;
    for (version, step) in (1_i64..).zip(STEPS) {
        known = version;
        if version <= found {
            continue;
        }
        let mut transaction = writer.begin().await.map_err(failed(version))?;
        sqlx::raw_sql(step).execute(&mut *transaction).await.map_err(failed(version))?;
        let line = sqlx::query(WRITE_LEDGER).bind(version);
        line.execute(&mut *transaction).await.map_err(failed(version))?;
        transaction.commit().await.map_err(failed(version))?;
    }
    if found > known { Err(StoreError::Newer { found, known }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use crate::store::{Store, StoreError};

    #[tokio::test]
    async fn a_database_is_brought_up_once_and_a_newer_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.sqlite");
        Store::open(&path).await.unwrap().close().await;
        let store = Store::open(&path).await.unwrap();
        sqlx::query("INSERT INTO schema_steps (version) VALUES (99)")
            .execute(&store.writer)
            .await
            .unwrap();
        store.close().await;
        let error = Store::open(&path).await.unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_a_database_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Store::open(&dir.path().join("missing/store.sqlite")).await.unwrap_err();
        assert!(error.to_string().contains("missing/store.sqlite"), "{error}");
    }
}
