//! Walking a directory.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use guest_wire::proto::filesystem::EntryInfo;
use rustix::io::Errno;

use super::entry::{entry_at, path_text};
use crate::accounts::Accounts;

/// The most entries one answer holds: about a hundred megabytes.
const ENTRIES_MAX: usize = 250_000;

/// Why a directory could not be listed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
    #[error("path not found: {0}")]
    NotFound(String),
    #[error("path is not a directory: {0}")]
    NotADirectory(String),
    #[error("cyclic symlink or chain >255 links at \"{0}\"")]
    Cycle(String),
    #[error("more than {ENTRIES_MAX} entries under {0}: ask for less depth or a directory below")]
    TooMany(String),
    #[error("cannot list {path}: {source}")]
    Read { path: String, source: io::Error },
}

/// Everything under `root` down to `depth` levels, each directory before what is in it, names in
/// byte order. Links are followed at the root only. What vanishes meanwhile is left out.
///
/// # Errors
/// When the root is no directory, something cannot be read, or there is too much.
pub(super) fn list(
    root: &Path,
    depth: u32,
    accounts: &Accounts,
) -> Result<Vec<EntryInfo>, ListError> {
    let end = std::fs::canonicalize(root).map_err(|error| root_error(root, error))?;
    if !end.is_dir() {
        return Err(ListError::NotADirectory(path_text(root)));
    }
    let mut entries = Vec::new();
    // Names still to be visited, deepest directory last, each list in reverse order.
    let names = names_in(root).map_err(|source| read_error(root, source))?;
    let mut levels: Vec<(PathBuf, Vec<OsString>)> = vec![(root.to_owned(), names)];
    while let Some((directory, names)) = levels.last_mut() {
        let Some(name) = names.pop() else {
            levels.pop();
            continue;
        };
        let path = directory.join(name);
        let entry = match entry_at(&path, accounts) {
            Ok(entry) => entry,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(read_error(&path, source)),
        };
        if entries.len() >= ENTRIES_MAX {
            return Err(ListError::TooMany(path_text(root)));
        }
        let is_directory = entry.permissions.starts_with('d');
        entries.push(entry);
        let level = u32::try_from(levels.len()).unwrap_or(u32::MAX);
        if is_directory && level < depth {
            match names_in(&path) {
                Ok(names) => levels.push((path, names)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(read_error(&path, source)),
            }
        }
    }
    Ok(entries)
}

/// The names in a directory, last one first.
fn names_in(directory: &Path) -> io::Result<Vec<OsString>> {
    let mut names = std::fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable_by(|one, other| other.cmp(one));
    Ok(names)
}

fn root_error(root: &Path, error: io::Error) -> ListError {
    if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
        return ListError::Cycle(path_text(root));
    }
    match error.kind() {
        io::ErrorKind::NotFound => ListError::NotFound(path_text(root)),
        io::ErrorKind::NotADirectory => ListError::NotADirectory(path_text(root)),
        _ => read_error(root, error),
    }
}

fn read_error(path: &Path, source: io::Error) -> ListError {
    ListError::Read { path: path_text(path), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("b/deep")).unwrap();
        for file in ["a", "b/2", "b/1", "b/deep/x", "b-", "c"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        symlink("b", dir.path().join("link")).unwrap();
        dir
    }

    fn names(root: &Path, depth: u32) -> Vec<String> {
        let entries = list(root, depth, &Accounts::default()).unwrap();
        let prefix = format!("{}/", root.display());
        entries.iter().map(|e| e.path.strip_prefix(&prefix).unwrap().to_owned()).collect()
    }

    #[test]
    fn directories_come_before_their_content_and_names_in_order() {
        let dir = tree();
        assert_eq!(names(dir.path(), 1), ["a", "b", "b-", "c", "link"]);
        let two = ["a", "b", "b/1", "b/2", "b/deep", "b-", "c", "link"];
        assert_eq!(names(dir.path(), 2), two);
        let three = ["a", "b", "b/1", "b/2", "b/deep", "b/deep/x", "b-", "c", "link"];
        assert_eq!(names(dir.path(), 3), three);
    }

    #[test]
    fn a_link_at_the_root_is_followed() {
        let dir = tree();
        assert_eq!(names(&dir.path().join("link"), 1), ["1", "2", "deep"]);
    }

    #[test]
    fn a_root_that_is_no_directory_says_what_it_is_instead() {
        let dir = tree();
        let error = |name: &str| list(&dir.path().join(name), 1, &Accounts::default()).unwrap_err();
        symlink("loop", dir.path().join("loop")).unwrap();
        assert!(matches!(error("none"), ListError::NotFound(_)));
        assert!(matches!(error("a"), ListError::NotADirectory(_)));
        assert!(matches!(error("loop"), ListError::Cycle(_)));
    }
}
