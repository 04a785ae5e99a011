//! Room on the disk that is given up when there is no other.
//!
//! SQLite cannot even be opened on a full disk: it makes the index of its log anew. So a file that
//! nobody reads takes as much as some thousand records need, as long as there is enough.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What SQLite's log grows to before it is used again from its beginning, twice.
const SIZE: u64 = 8 * 1024 * 1024;
const PIECE: usize = 64 * 1024;

#[derive(Debug, Clone)]
pub(super) struct Spare {
    path: PathBuf,
}

impl Spare {
    pub(super) fn beside(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-spare");
        Self { path: path.into() }
    }

    /// Takes the room if there is twice as much, and gives it up if there is nothing but it.
    /// Blocking. Whatever fails, the next call tries again.
    pub(super) fn balance(&self) {
        let free = self.free();
        let done = match free {
            Ok(0..SIZE) => self.give(),
            Ok(free) if free >= 2 * SIZE => self.take(),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::warn!(%error, path = %self.path.display(), "no room is kept for the records");
        }
    }

    fn free(&self) -> io::Result<u64> {
        let dir = self
            .path
            .parent()
            .filter(|dir| *dir != Path::new(""))
            .unwrap_or_else(|| Path::new("."));
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Gives the room to whoever is first; in a database that is about to be written, most likely
    /// to that.
    pub(super) fn give(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Ok(()) => {
                tracing::warn!("the disk is full; the room that was kept for the records is used");
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn take(&self) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|file| file.len() == SIZE) {
            return Ok(());
        }
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        // Written, not just made long: only then it takes room.
        let piece = vec![0; PIECE];
        let mut left = SIZE;
        while left > 0 {
            file.write_all(&piece)?;
            left = left.saturating_sub(PIECE as u64);
        }
        file.sync_data()
    }
}
