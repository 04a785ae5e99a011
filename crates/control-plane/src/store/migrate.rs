use sqlx::{Row as _, SqlitePool};

use super::StoreError;

/// Every step from an empty database to this version, in order. A step that was released never
/// changes; a change is a new step.
const STEPS: [&str; 9] = [
    include_str!("0001_first.sql"),
    include_str!("0002_nodes.sql"),
    include_str!("0003_truth.sql"),
    include_str!("0004_network.sql"),
    include_str!("0005_pause.sql"),
    include_str!("0006_teams.sql"),
    include_str!("0007_past.sql"),
    include_str!("0008_silent.sql"),
    include_str!("0009_agent_log.sql"),
];

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
    use std::time::{Duration, SystemTime};

    use e2b_wire::{LogLevel, Timestamp};
    use model::{SandboxId, TeamId};
    use node_wire::{Journal, JournalLevel, JournalLine, JournalMark};
    use sqlx::SqlitePool;
    use sqlx::sqlite::SqliteConnectOptions;

    use crate::app::now;
    use crate::store::{LogQuery, Store, StoreError};

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
    async fn records_of_the_version_before_keep_what_they_say_and_tell_nothing_of_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.sqlite");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let before = SqlitePool::connect_with(options).await.unwrap();
        for sql in [super::MAKE_LEDGER, super::STEPS[0], super::STEPS[1]] {
            sqlx::raw_sql(sql).execute(&before).await.unwrap();
        }
        let rows = "INSERT INTO schema_steps (version) VALUES (1), (2); \
            INSERT INTO teams (id, slug, name, created_at) VALUES ('t', 't', 't', 1); \
            INSERT INTO sandboxes (id, team_id, template_id, build_id, envd_version, state, \
                metadata, secure, vcpus, memory_mib, disk_mib, created_at, started_at, ends_at, \
                ended_at, end_reason, end_detail) \
            VALUES ('ia', 't', 'b', 'b', '1', 'ended', '{}', 0, 1, 1, 1, 1, 1, 1, 7000000, \
                'start-failed', '/var/lib/secret')";
        sqlx::raw_sql(rows).execute(&before).await.unwrap();
        before.close().await;
        let store = Store::open(&path).await.unwrap();
        let (team, id) = (TeamId::parse("t").unwrap(), SandboxId::parse("ia").unwrap());
        let history = store.history(&team, &id).await.unwrap().unwrap();
        let end = history.end.unwrap();
        assert_eq!((&*end.reason, end.detail, end.at.seconds()), ("start-failed", None, 7));
        assert_eq!(history.released_at, Some(end.at));
        assert_eq!((history.moves, history.killing_at, history.adopted_at), (0, None, None));
    }

    #[tokio::test]
    async fn the_log_of_a_sandbox_of_the_version_before_is_as_it_was_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.sqlite");
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let before = SqlitePool::connect_with(options).await.unwrap();
        for sql in [super::MAKE_LEDGER].iter().chain(&super::STEPS[..8]) {
            sqlx::raw_sql(*sql).execute(&before).await.unwrap();
        }
        let rows = "INSERT INTO schema_steps (version) VALUES (8); \
            INSERT INTO teams (id, slug, name, created_at) VALUES ('t', 't', 't', 1); \
            INSERT INTO sandboxes (id, team_id, template_id, build_id, envd_version, state, \
                metadata, secure, vcpus, memory_mib, disk_mib, created_at, started_at, ends_at) \
            VALUES ('ia', 't', 'b', 'b', '1', 'starting', '{}', 0, 1, 1, 1, 1000, 1000, 9000); \
            UPDATE sandboxes SET state = 'running', started_at = 2000";
        sqlx::raw_sql(rows).execute(&before).await.unwrap();
        before.close().await;
        let store = Store::open(&path).await.unwrap();
        let (team, id) = (TeamId::parse("t").unwrap(), SandboxId::parse("ia").unwrap());
        let line = JournalLine {
            number: 5,
            at: SystemTime::UNIX_EPOCH + Duration::from_micros(1500),
            level: JournalLevel::Info,
            message: "noted".into(),
            fields: [].into(),
        };
        let journal = Journal { run: "r".into(), lines: vec![line], ..Journal::default() };
        store.keep_journal(&id, &JournalMark::default(), &journal, now()).await.unwrap();
        let query = LogQuery {
            from: Timestamp::from_micros(0).unwrap(),
            to: now(),
            newest_first: false,
            level: LogLevel::Debug,
            search: String::new(),
            limit: 10,
        };
        let lines = store.log(&team, &id, &query).await.unwrap();
        let lines: Vec<(i64, &str)> =
            lines.iter().map(|line| (line.at.micros(), line.message.as_str())).collect();
        let all = [(1000, "sandbox asked for"), (1500, "noted"), (2000, "sandbox started")];
        assert_eq!(lines, all, "by time, whoever says it");
        store.close().await;
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_a_database_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Store::open(&dir.path().join("missing/store.sqlite")).await.unwrap_err();
        assert!(error.to_string().contains("missing/store.sqlite"), "{error}");
    }
}
