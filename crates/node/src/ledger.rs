//! The lifecycle directory: the one record of what a run of a sandbox holds.
//!
//! Made before the first resource, removed after the last. Files are replaced by rename and not
//! synced: what they name does not survive a power cut either.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use host::process::ProcessIdentity;
use lifecycle::{Budget, Owned, Release};
use serde::{Deserialize, Serialize};

/// What the record's file is called, with the number of the writing behind it.
///
/// Every writing has a name of its own: a rename onto an existing file makes ext4 start writing it to
/// disk at once, and removing the file a moment later waits for that.
const RECORD: &str = "lifecycle.json";

/// The form of [`Record`]; a daemon reads the form before its own, too.
pub(crate) const VERSION: u32 = 1;

/// What is written of a lifecycle.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub version: u32,
    pub lifecycle: String,
    pub sandbox: String,
    pub team: String,
    pub template: String,
    pub build: String,
    pub vcpus: u32,
    pub memory_mib: u64,
    pub disk_mib: u64,
    pub metadata: BTreeMap<String, String>,
    pub internet: bool,
    /// The guest agent's token.
    pub access_token: Option<String>,
    /// Set once it is known.
    pub slot: Option<u16>,
    /// The machine's first process, once there is one.
    pub process: Option<ProcessIdentity>,
    /// Microseconds since 1970.
    pub started_at_us: Option<i64>,
    /// Microseconds since 1970.
    pub ends_at_us: Option<i64>,
}

/// A directory could not be written or removed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub(crate) struct LedgerError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl LedgerError {
    pub(crate) fn is_disk_full(&self) -> bool {
        self.source.kind() == io::ErrorKind::StorageFull
    }
}

/// The directory of one lifecycle.
#[derive(Debug)]
pub(crate) struct LifecycleDir {
    path: PathBuf,
    name: String,
}

impl LifecycleDir {
    /// Makes the directory of `id` and writes its record.
    pub(crate) fn create(
        lifecycles: &Path,
        id: &str,
        record: &Record,
    ) -> Result<Owned<Self>, LedgerError> {
        let dir = Self::named(lifecycles, id);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir.path)
            .map_err(|source| dir.failed("make", source))?;
        if let Err(error) = dir.write(record) {
            let removed = dir.remove();
            if let Err(left) = removed {
                tracing::error!(dir = %dir.path.display(), error = %left, "an empty directory is left");
            }
            return Err(error);
        }
        Ok(Owned::adopt(dir))
    }

    /// The directory of `id`, whether it exists or not.
    pub(crate) fn named(lifecycles: &Path, id: &str) -> Self {
        Self { path: lifecycles.join(id), name: id.to_owned() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the record. Its reader finds the one before or this one, whole.
    pub(crate) fn write(&self, record: &Record) -> Result<(), LedgerError> {
        let older = self.writings().map_err(|source| self.failed("list", source))?;
        let number = older.last().map_or(1, |(number, _)| number + 1);
        let path = self.path.join(format!("{RECORD}.{number}"));
        let next = self.path.join(format!("{RECORD}.next"));
        let write = || {
            let text = serde_json::to_vec(record)?;
            // The record has the agent's token in it.
            let mut options = fs::File::options();
            options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&next)?.write_all(&text)?;
            fs::rename(&next, &path)?;
            older.iter().try_for_each(|(_, old)| fs::remove_file(old))
        };
        write().map_err(|source| LedgerError { action: "write", path: path.clone(), source })
    }

    /// The record, or `None` when it was never written or cannot be understood.
    pub(crate) fn read(&self) -> Option<Record> {
        let text = fs::read(self.writings().ok()?.pop()?.1).ok()?;
        serde_json::from_slice(&text).ok().filter(|record: &Record| record.version == VERSION)
    }

    /// Every writing of the record that is there, the newest last. There are two only for the
    /// instant between the rename and the removal of the older.
    fn writings(&self) -> io::Result<Vec<(u32, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let number =
                name.to_str().and_then(|name| name.strip_prefix(RECORD)?.strip_prefix('.'));
            if let Some(number) = number.and_then(|number| number.parse().ok()) {
                found.push((number, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    }

    fn remove(&self) -> Result<(), LedgerError> {
        let writings = match self.writings() {
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            writings => writings.map_err(|source| self.failed("list", source))?,
        };
        let next = self.path.join(format!("{RECORD}.next"));
        for file in writings.into_iter().map(|(_, file)| file).chain([next]) {
            match fs::remove_file(file) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failed("clear", source));
                }
                _ => {}
            }
        }
        // Not recursive: a file that no step has accounted for keeps the lifecycle visible.
        match fs::remove_dir(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("remove", source))
            }
            _ => Ok(()),
        }
    }

    fn failed(&self, action: &'static str, source: io::Error) -> LedgerError {
        LedgerError { action, path: self.path.clone(), source }
    }
}

impl Release for LifecycleDir {
    const KIND: &'static str = "lifecycle directory";
    type Error = LedgerError;

    fn name(&self) -> &str {
        &self.name
    }

    async fn release(&self, _budget: Budget) -> Result<(), LedgerError> {
        self.remove()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lifecycle::Budget;

    use super::{LifecycleDir, Record, VERSION};

    pub(crate) fn record(id: &str) -> Record {
        Record {
            version: VERSION,
            lifecycle: id.into(),
            sandbox: "i1".into(),
            team: "t".into(),
            template: "base".into(),
            build: "b".into(),
            vcpus: 2,
            memory_mib: 512,
            disk_mib: 1024,
            metadata: [("k".to_owned(), "v".to_owned())].into(),
            internet: true,
            access_token: Some("secret".into()),
            slot: None,
            process: None,
            started_at_us: None,
            ends_at_us: None,
        }
    }

    #[tokio::test]
    async fn a_record_is_read_back_and_the_directory_goes_when_it_is_empty() {
        let root = tempfile::tempdir().unwrap();
        let dir = LifecycleDir::create(root.path(), "l1", &record("l1")).unwrap();
        dir.write(&Record { slot: Some(7), ..record("l1") }).unwrap();
        assert_eq!(LifecycleDir::named(root.path(), "l1").read().unwrap().slot, Some(7));
        std::fs::write(dir.path().join("stranger"), "x").unwrap();
        let (dir, _error) = dir.close(Budget::within(Duration::from_secs(1))).await.unwrap_err();
        assert!(dir.path().join("stranger").exists());
        std::fs::remove_file(dir.path().join("stranger")).unwrap();
        let _closed = dir.close(Budget::within(Duration::from_secs(1))).await.unwrap();
        assert!(!root.path().join("l1").exists());
    }

    #[test]
    fn a_truncated_record_reads_as_none() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("l1")).unwrap();
        std::fs::write(root.path().join("l1/lifecycle.json.1"), "{\"version\":1,").unwrap();
        assert!(LifecycleDir::named(root.path(), "l1").read().is_none());
    }
}
