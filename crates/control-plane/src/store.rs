//! The database: teams, keys, templates and the records of sandboxes.

mod migrate;
mod row;
mod sandboxes;
mod teams;
mod templates;

pub(crate) use row::{RowState, SandboxRow, TemplateRow};
pub(crate) use sandboxes::{Inserted, Intent, Used};

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

const READERS: u32 = 4;
/// How long a statement waits for a connection, and a connection for another process's lock.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// Reads and writes of the database. SQLite takes one writer at a time, so there is one connection
/// that writes, and readers that never wait for it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    reader: SqlitePool,
    writer: SqlitePool,
}

/// The database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("open the database {path}")]
    Open { path: PathBuf, source: sqlx::Error },
    #[error("bring the database to version {version}")]
    Migrate { version: i64, source: sqlx::Error },
    #[error("the database has version {found}, this program knows {known}: start a newer program")]
    Newer { found: i64, known: i64 },
    #[error("{what} in the database")]
    Query { what: &'static str, source: sqlx::Error },
}

impl StoreError {
    fn query(what: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Query { what, source }
    }
}

impl Store {
    /// Opens or makes the database and brings it to this program's version.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        // A commit is in the log of the file system before it is answered; it is on the disk after
        // the next checkpoint. A crash of the program loses nothing, a power cut the last moments,
        // whose sandboxes are gone with it.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_LIMIT)
            .foreign_keys(true);
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(BUSY_LIMIT)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
        };
        let writer = pool(1).connect_with(options.clone()).await.map_err(failed)?;
        migrate::run(&writer).await?;
        let reader = pool(READERS).connect_with(options.read_only(true)).await.map_err(failed)?;
        Ok(Self { reader, writer })
    }

    /// Waits for statements under way and closes every connection.
    pub(crate) async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}
