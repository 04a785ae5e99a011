//! The database: teams, keys, templates and the records of sandboxes.

mod history;
mod journal;
mod keys;
mod log;
mod migrate;
mod network;
mod overdue;
mod pause;
mod row;
mod samples;
mod sandboxes;
mod snapshots;
mod spare;
mod teams;
mod templates;
mod terms;

pub(crate) use history::History;
pub(crate) use keys::{Deleted, Holder, Kind, NewSecret, SecretRow};
pub(crate) use log::{LogLine, LogQuery};
pub(crate) use pause::Resuming;
pub(crate) use row::{RowState, SandboxRow, TemplateRow};
pub(crate) use samples::{Kept, last_of_minutes};
pub(crate) use sandboxes::{End, Inserted, Intent, Used};
pub(crate) use snapshots::{NewSnapshotRow, SnapshotFilter, SnapshotRow, SnapshotState};
pub(crate) use teams::{TeamInserted, TeamRow};
pub(crate) use terms::{Paused, Terms};

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, SqliteConnection, SqlitePool};

use self::overdue::Overdue;
use self::spare::Spare;

const READERS: u32 = 4;
/// How long a statement waits for a connection, and a connection for another process's lock.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// Reads and writes of the database. SQLite takes one writer at a time, so there is one connection
/// that writes, and readers that never wait for it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    reader: SqlitePool,
    writer: SqlitePool,
    overdue: Overdue,
    spare: Spare,
}

/// The database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("make the database {path} readable by its owner only")]
    Private { path: PathBuf, source: io::Error },
    #[error("open the database {path}")]
    Open { path: PathBuf, source: sqlx::Error },
    #[error(
        "the database {path} is damaged ({what}); stop the service, move the file and the two \
         beside it (-wal and -shm) away, put a copy from before in its place if there is one, and \
         start again: sandboxes that run are taken in from their nodes; what is lost is the record \
         of those that ended, and which request was made with which Idempotency-Key"
    )]
    Damaged { path: PathBuf, what: String },
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

    /// Whether there was no room on the disk.
    pub(crate) fn is_disk_full(&self) -> bool {
        // <https://sqlite.org/rescode.html>: no room in the database or its log, and none for the
        // log's index.
        const FULL: [i32; 2] = [13, 4874];
        self.cause().and_then(code_of).is_some_and(|code| FULL.contains(&code))
    }

    /// Whether its turn did not come in time: the machine has too much to do, or its disk has.
    pub(crate) fn is_busy(&self) -> bool {
        // As above.
        const BUSY: i32 = 5;
        self.cause().is_some_and(|cause| {
            matches!(cause, sqlx::Error::PoolTimedOut) || code_of(cause) == Some(BUSY)
        })
    }

    fn cause(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Open { source, .. }
            | Self::Migrate { source, .. }
            | Self::Query { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Store {
    /// Opens or makes the database and brings it to this program's version.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| opening_failed(path, source);
        let spare = Spare::beside(path);
        spare.balance();
        make_private(path)?;
        // A commit is in SQLite's log, and with the kernel, before it is answered, and on the disk
        // after the next checkpoint. What is torn at the end of the log was never committed, and
        // SQLite leaves it out. So the end of the program at any instant loses nothing that was
        // answered, and a statement is there whole or not at all.
        //
        // A power cut takes the newest commits, in order, back to a checkpoint at most. Waiting for
        // the disk with every commit would cost each create two or three such waits, and what is
        // lost is found again: this host's sandboxes are gone with it, those of other hosts are
        // taken in, and rows whose ends were lost are closed with what their nodes remember. Not
        // found again are keys of requests (a repeated one makes a second sandbox) and kills that
        // were not confirmed, whose clients were told so.
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
        check(&writer, path).await?;
        migrate::run(&writer).await?;
        let reader = pool(READERS).connect_with(options.read_only(true)).await.map_err(failed)?;
        Ok(Self { reader, writer, overdue: Overdue::default(), spare })
    }

    /// Runs `work` as one transaction.
    ///
    /// A connection on which one has failed is not used again: what SQLite has undone by itself and
    /// what it has left open after an error, as of a full disk, is not for us to tell, and in a
    /// transaction that stays open everything after it would be lost.
    async fn transact(
        &self,
        what: &'static str,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<(), sqlx::Error>,
    ) -> Result<(), StoreError> {
        let failed = || StoreError::query(what);
        let mut connection = self.writer.acquire().await.map_err(failed())?;
        let done = async {
            let mut transaction = connection.begin().await?;
            work(&mut transaction).await?;
            transaction.commit().await
        };
        let done = done.await;
        if done.is_err() {
            connection.close_on_drop();
        }
        done.map_err(failed())
    }

    /// Waits for statements under way and closes every connection.
    pub(crate) async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

/// Looks at every page once: damage that is found later is found by a request. Some hundred
/// milliseconds for the hundred thousand records that are kept at most.
async fn check(writer: &SqlitePool, path: &Path) -> Result<(), StoreError> {
    let said = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(writer).await;
    let said: String = said.map_err(|source| opening_failed(path, source))?;
    if said == "ok" {
        return Ok(());
    }
    Err(StoreError::Damaged { path: path.to_owned(), what: said.replace('\n', " ") })
}

/// Damage is told apart from what trying again may mend.
fn opening_failed(path: &Path, source: sqlx::Error) -> StoreError {
    // <https://sqlite.org/rescode.html>: the page or the file is not SQLite's, or is cut short.
    const DAMAGE: [i32; 3] = [11, 26, 522];
    let path = path.to_owned();
    match code_of(&source) {
        Some(code) if DAMAGE.contains(&code) || DAMAGE.contains(&(code & 0xff)) => {
            StoreError::Damaged { path, what: observe::chain(&source).to_string() }
        }
        _ => StoreError::Open { path, source },
    }
}

/// SQLite's own number for what is wrong.
fn code_of(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error().and_then(|error| error.code()?.parse().ok())
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
    for suffix in ["", "-wal", "-shm", "-spare"] {
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
mod tests;
