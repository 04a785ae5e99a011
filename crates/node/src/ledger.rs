//! The lifecycle directory: the one record of what a run of a sandbox holds.
//!
//! Made before the first resource, removed after the last; its record is kept beside the directories
//! of those that are there, for a while. Files are replaced by rename and not synced: what they name
//! does not survive a power cut either.

mod past;
mod record;
mod sealed;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use host::blocking;
use lifecycle::{Budget, Owned, Release};
use observe::metrics::{RECORD_WRITE, result_of};

pub(crate) use past::{prune, read_all};
pub(crate) use record::{End, Failure, Fate, Record, from_micros, micros};
pub(crate) use sealed::SealedDir;

/// What the record's file is called, with the number of the writing behind it.
///
/// Every writing has a name of its own: a rename onto an existing file makes ext4 start writing it to
/// disk at once, and removing the file a moment later waits for that.
const RECORD: &str = "lifecycle.json";

/// A directory could not be written or removed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub(crate) struct LedgerError {
    pub(crate) action: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
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
    /// Where its record goes in the end.
    ended: PathBuf,
}

/// Where the records of lifecycles go whose directories were in `lifecycles`.
pub(crate) fn ended_dir(lifecycles: &Path) -> PathBuf {
    lifecycles.with_file_name("ended")
}

impl LifecycleDir {
    /// Makes the directory of `id` and writes its record.
    pub(crate) fn create(
        lifecycles: &Path,
        id: &str,
        record: &Record,
    ) -> Result<Owned<Self>, LedgerError> {
        let dir = Self::named(lifecycles, id);
        let began = Instant::now();
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir.path)
            .map_err(|source| dir.failed("make", source))?;
        let written = dir.replace(record);
        RECORD_WRITE.record([result_of(written.is_ok())], began.elapsed());
        if let Err(error) = written {
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
        Self { path: lifecycles.join(id), name: id.to_owned(), ended: ended_dir(lifecycles) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the record. Its reader finds the one before or this one, whole.
    pub(crate) fn write(&self, record: &Record) -> Result<(), LedgerError> {
        let began = Instant::now();
        let written = self.replace(record);
        RECORD_WRITE.record([result_of(written.is_ok())], began.elapsed());
        written
    }

    fn replace(&self, record: &Record) -> Result<(), LedgerError> {
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
    ///
    /// # Errors
    /// When there may be one, and it cannot be read.
    pub(crate) fn read(&self) -> io::Result<Option<Record>> {
        let text = self.writings().and_then(|mut writings| match writings.pop() {
            Some((_, path)) => fs::read(path),
            None => Err(io::ErrorKind::NotFound.into()),
        });
        match text {
            Ok(text) => Ok(Record::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
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

    /// Keeps the record, and removes the directory.
    fn remove(&self) -> Result<(), LedgerError> {
        let mut writings = match self.writings() {
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            writings => writings.map_err(|source| self.failed("list", source))?,
        };
        // A file that no step has accounted for keeps the lifecycle visible, and its name known.
        self.refuse_strangers().map_err(|source| self.failed("remove", source))?;
        let newest = writings.pop().filter(|(_, newest)| !self.keep(newest));
        let next = self.path.join(format!("{RECORD}.next"));
        let files = writings.into_iter().chain(newest).map(|(_, file)| file);
        for file in files.chain([next]) {
            match fs::remove_file(file) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failed("clear", source));
                }
                _ => {}
            }
        }
        match fs::remove_dir(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("remove", source))
            }
            _ => Ok(()),
        }
    }

    /// Puts the record where those of ended sandboxes are. Whether it is there now: without it a
    /// sandbox is forgotten sooner, which is no reason to keep the rest of it.
    fn keep(&self, record: &Path) -> bool {
        let kept = fs::rename(record, past::path_of(&self.ended, &self.name));
        if let Err(error) = &kept {
            tracing::warn!(%error, "the record of an ended sandbox could not be kept");
        }
        kept.is_ok()
    }

    fn refuse_strangers(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if !name.as_encoded_bytes().starts_with(RECORD.as_bytes()) {
                let name = name.to_string_lossy().into_owned();
                return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, name));
            }
        }
        Ok(())
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
        blocking(|| self.remove())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::Duration;

    use lifecycle::Budget;

    use super::record::tests::record;
    use super::{LifecycleDir, Record, ended_dir, read_all};

    fn root() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let lifecycles = root.path().join("lifecycles");
        for dir in [&lifecycles, &ended_dir(&lifecycles)] {
            fs::create_dir(dir).unwrap();
        }
        (root, lifecycles)
    }

    fn soon() -> Budget {
        Budget::within(Duration::from_secs(60))
    }

    #[tokio::test]
    async fn a_record_is_read_back_and_kept_when_the_directory_goes() {
        let (_root, lifecycles) = root();
        let dir = LifecycleDir::create(&lifecycles, "l1", &record()).unwrap();
        let last = Record { slot: Some(7), ..record() };
        dir.write(&last).unwrap();
        let again = LifecycleDir::named(&lifecycles, "l1").read().unwrap();
        assert_eq!(again, Some(last.clone()));
        fs::write(dir.path().join("stranger"), "x").unwrap();
        let (dir, _error) = dir.close(soon()).await.unwrap_err();
        assert!(dir.path().join("stranger").exists());
        let known = dir.read().unwrap();
        assert_eq!(known, Some(last.clone()), "whose it is is known as long as it is there");
        assert_eq!(read_all(&ended_dir(&lifecycles)), []);
        fs::remove_file(dir.path().join("stranger")).unwrap();
        let _closed = dir.close(soon()).await.unwrap();
        assert!(!lifecycles.join("l1").exists());
        assert_eq!(read_all(&ended_dir(&lifecycles)), [last]);
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_kept_does_not_keep_its_directory() {
        let (_root, lifecycles) = root();
        fs::remove_dir(ended_dir(&lifecycles)).unwrap();
        let dir = LifecycleDir::create(&lifecycles, "l1", &record()).unwrap();
        let _closed = dir.close(soon()).await.unwrap();
        assert!(!lifecycles.join("l1").exists());
    }

    #[test]
    fn a_record_that_is_torn_or_empty_or_not_there_reads_as_none() {
        let (_root, lifecycles) = root();
        for (id, text) in [("l1", Some("{\"version\":1,")), ("l2", Some("")), ("l3", None)] {
            fs::create_dir(lifecycles.join(id)).unwrap();
            if let Some(text) = text {
                fs::write(lifecycles.join(id).join("lifecycle.json.1"), text).unwrap();
            }
            assert_eq!(LifecycleDir::named(&lifecycles, id).read().unwrap(), None, "{id}");
        }
        assert_eq!(LifecycleDir::named(&lifecycles, "l4").read().unwrap(), None, "no directory");
        // What is there and cannot be read is not nothing.
        fs::create_dir_all(lifecycles.join("l5/lifecycle.json.1")).unwrap();
        LifecycleDir::named(&lifecycles, "l5").read().unwrap_err();
    }
}
