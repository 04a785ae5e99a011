//! Records of lifecycles that are gone: one file each, kept for a while, for people and for a
//! control plane that missed the end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Record;

/// Where a record goes when its lifecycle directory does.
pub(super) fn path_of(ended: &Path, lifecycle: &str) -> PathBuf {
    ended.join(format!("{lifecycle}.json"))
}

/// Every record in `ended` that can be read, in no order. Blocking.
pub(crate) fn read_all(ended: &Path) -> Vec<Record> {
    let entries = match fs::read_dir(ended) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, "records of ended sandboxes cannot be listed");
            return Vec::new();
        }
    };
    let read = |entry: io::Result<fs::DirEntry>| Record::parse(&fs::read(entry.ok()?.path()).ok()?);
    entries.filter_map(read).collect()
}

/// Removes what is older than `max_age`, and the oldest of more than `kept`; says how many went.
/// Blocking.
///
/// # Errors
/// When they cannot be listed. One that cannot be removed is tried again by the next call.
pub(crate) fn prune(ended: &Path, kept: usize, max_age: Duration) -> io::Result<usize> {
    let mut files = Vec::new();
    for entry in fs::read_dir(ended)? {
        let entry = entry?;
        let modified = entry.metadata().and_then(|about| about.modified());
        // One that is gone meanwhile needs nothing.
        files.extend(modified.ok().map(|at| (at, entry.path())));
    }
    files.sort();
    let now = SystemTime::now();
    let surplus = files.len().saturating_sub(kept);
    let is_old = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age > max_age);
    let goes = files.iter().enumerate().filter(|(n, (at, _))| *n < surplus || is_old(*at));
    Ok(goes.filter(|(_, (_, path))| fs::remove_file(path).is_ok()).count())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::{Duration, SystemTime};

    use super::{path_of, prune, read_all};
    use crate::ledger::record::tests::record;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn the_newest_are_kept_and_none_longer_than_it_may() {
        let dir = tempfile::tempdir().unwrap();
        let text = serde_json::to_vec(&record()).unwrap();
        for days in 1..=5_u32 {
            let path = path_of(dir.path(), &format!("l{days}"));
            fs::write(&path, &text).unwrap();
            let at = SystemTime::now() - DAY * days;
            File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
        }
        fs::write(dir.path().join("torn.json"), &text[..20]).unwrap();
        assert_eq!(read_all(dir.path()).len(), 5, "a torn one is passed over");
        let names = || {
            let files = fs::read_dir(dir.path()).unwrap();
            let mut names: Vec<_> =
                files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(prune(dir.path(), 100, DAY * 7).unwrap(), 0);
        assert_eq!(prune(dir.path(), 100, DAY * 9 / 2).unwrap(), 1);
        assert_eq!(names(), ["l1.json", "l2.json", "l3.json", "l4.json", "torn.json"]);
        assert_eq!(prune(dir.path(), 3, DAY * 7).unwrap(), 2);
        assert_eq!(names(), ["l1.json", "l2.json", "torn.json"]);
    }
}
