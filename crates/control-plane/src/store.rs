//! The database: teams, keys, templates and the records of sandboxes.

mod migrate;
mod row;
mod sandboxes;
mod teams;
mod templates;

pub(crate) use row::{RowState, SandboxRow, TemplateRow};
pub(crate) use sandboxes::{Inserted, Intent, Used};

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
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
    #[error("make the database {path} readable by its owner only")]
    Private { path: PathBuf, source: io::Error },
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
        make_private(path)?;
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

/// What teams say of their sandboxes is nobody else's to read. SQLite gives the two files it
/// makes beside the database (<https://sqlite.org/wal.html>) the mode of the database itself, but
/// leaves those of an earlier run as they are.
fn make_private(path: &Path) -> Result<(), StoreError> {
    const OWNER_ONLY: u32 = 0o600;
    let failed = |path: &Path, source| StoreError::Private { path: path.to_owned(), source };
    // Never truncated: it may be there, with everything in it.
    let database = OpenOptions::new().append(true).create(true).mode(OWNER_ONLY).open(path);
    drop(database.map_err(|source| failed(path, source))?);
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::set_permissions(&name, Permissions::from_mode(OWNER_ONLY)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(|source| failed(Path::new(&name), source))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt};

    use super::Store;

    #[tokio::test]
    async fn only_the_owner_can_read_any_file_of_the_database() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.sqlite");
        let files = || std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
        for _earlier_files in [false, true] {
            let store = Store::open(&path).await.unwrap();
            assert_eq!(files().count(), 3, "the database, its log and the index of the log");
            for file in files() {
                let mode = std::fs::metadata(&file).unwrap().mode() & 0o7777;
                assert_eq!(mode, 0o600, "{}", file.display());
                // As an earlier version, or another program, may have left it.
                std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
            }
            // Not closed: the files stay, as when the process is killed.
            std::mem::drop(store);
        }
    }
}
