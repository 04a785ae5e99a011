//! What is kept of paused sandboxes that have nothing else any more: what they have written, and the
//! record of the run that was paused. One directory each, beside those of lifecycles.
//!
//! It is moved there whole when the run goes and moved back whole when the next begins, so that at every
//! instant it is in one of the two places. Unlike lifecycles these survive a power cut.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use host::mount::UPPER;

use super::Record;

const RECORD: &str = "paused.json";
const NEXT: &str = "paused.json.next";

/// The directory of all of them.
#[derive(Debug)]
pub(crate) struct SealedDir {
    path: PathBuf,
}

impl SealedDir {
    /// The one beside `lifecycles`. Makes it when it is not there.
    pub(crate) fn open(lifecycles: &Path) -> io::Result<Self> {
        let path = lifecycles.with_file_name("paused");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self { path })
    }

    /// Where what is kept of `sandbox` is, or would be.
    pub(crate) fn of(&self, sandbox: &str) -> PathBuf {
        self.path.join(sandbox)
    }

    /// Every sandbox of which something is kept, by its record. What was begun and has no files is
    /// removed: they are with a lifecycle. What is there and cannot be read is left alone.
    pub(crate) fn read(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let (name, path) = (entry.file_name(), entry.path());
            if !fs::exists(path.join(UPPER))? {
                remove_record(&path)?;
                continue;
            }
            let record = fs::read(path.join(RECORD)).ok().and_then(|text| Record::parse(&text));
            let record = record.filter(|record| name.to_str() == Some(&record.sandbox));
            match record {
                Some(record) => records.push(record),
                None => tracing::error!(path = %path.display(), "kept of an unknown sandbox"),
            }
        }
        Ok(records)
    }

    /// Keeps what the sandbox of `record` has written, which is on the disk already, and answers when
    /// that would survive a power cut. May be repeated. Blocks.
    pub(crate) fn put(&self, record: &Record, lifecycle: &Path) -> io::Result<()> {
        let (to, from) = (self.of(&record.sandbox), lifecycle.join(UPPER));
        if !fs::exists(&from)? {
            // Moved by an earlier call, or never begun with: there is nothing to keep.
            return Ok(());
        }
        match fs::DirBuilder::new().mode(0o700).create(&to) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // A resume that failed gives back what it was given: the record of the run that was paused
        // says more of it.
        if record.started_at_us.is_some() || !fs::exists(to.join(RECORD))? {
            write(&to, record)?;
        }
        fs::rename(&from, to.join(UPPER))?;
        [&to, &self.path].into_iter().try_for_each(|dir| File::open(dir)?.sync_all())
    }

    /// Gives what was kept of `sandbox` to a new run of it. Its record stays, until
    /// [`SealedDir::forget`].
    pub(crate) fn take(&self, sandbox: &str, lifecycle: &Path) -> io::Result<()> {
        fs::rename(self.of(sandbox).join(UPPER), lifecycle.join(UPPER))
    }

    /// Removes the record of one that runs again.
    pub(crate) fn forget(&self, sandbox: &str) -> io::Result<()> {
        remove_record(&self.of(sandbox))
    }
}

fn write(dir: &Path, record: &Record) -> io::Result<()> {
    let text = serde_json::to_vec(record)?;
    let mut options = File::options();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(dir.join(NEXT))?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(dir.join(NEXT), dir.join(RECORD))
}

/// Removes a directory that has no files of a sandbox.
fn remove_record(dir: &Path) -> io::Result<()> {
    let gone_is_fine = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    for name in [NEXT, RECORD] {
        gone_is_fine(fs::remove_file(dir.join(name)))?;
    }
    gone_is_fine(fs::remove_dir(dir))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::record::tests::record;
    use super::{Record, SealedDir, UPPER};

    #[test]
    fn what_is_kept_is_in_one_of_two_places_whatever_is_repeated() {
        let root = tempfile::tempdir().unwrap();
        let lifecycles = root.path().join("lifecycles");
        let run = lifecycles.join("l1");
        fs::create_dir_all(run.join(UPPER)).unwrap();
        fs::write(run.join(UPPER).join("file"), "kept").unwrap();
        let sealed = SealedDir::open(&lifecycles).unwrap();
        let paused = Record { paused_at_us: Some(7), ..record() };
        for _ in 0..2 {
            sealed.put(&paused, &run).unwrap();
            assert_eq!(sealed.read().unwrap(), std::slice::from_ref(&paused));
        }
        let next = lifecycles.join("l2");
        fs::create_dir(&next).unwrap();
        sealed.take(&paused.sandbox, &next).unwrap();
        assert_eq!(fs::read_to_string(next.join(UPPER).join("file")).unwrap(), "kept");
        // The start failed before it was live: it is what it was before.
        let failed = Record { started_at_us: None, lifecycle: "l2".into(), ..paused.clone() };
        sealed.put(&failed, &next).unwrap();
        assert_eq!(
            SealedDir::open(&lifecycles).unwrap().read().unwrap(),
            std::slice::from_ref(&paused)
        );
        sealed.take(&paused.sandbox, &next).unwrap();
        sealed.forget(&paused.sandbox).unwrap();
        assert_eq!(sealed.read().unwrap(), []);
        assert!(!sealed.of(&paused.sandbox).exists());
    }

    #[test]
    fn a_directory_without_files_is_no_sandbox_and_one_without_a_record_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let sealed = SealedDir::open(&root.path().join("lifecycles")).unwrap();
        for (name, has_files) in [("i1", false), ("i2", true)] {
            fs::create_dir(sealed.of(name)).unwrap();
            if has_files {
                fs::create_dir(sealed.of(name).join(UPPER)).unwrap();
            }
        }
        assert_eq!(sealed.read().unwrap(), []);
        assert!(!sealed.of("i1").exists());
        assert!(sealed.of("i2").exists());
    }
}
