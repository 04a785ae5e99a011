//! The data directory: secrets, the database and the files of sandboxes are in it, so only its
//! owner gets at them.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const OWNER_ONLY: u32 = 0o700;

/// By these a directory is known to be one of ours.
const OURS: [&str; 4] = ["credentials.env", "control-plane.sqlite", "images", "node"];

/// The directory cannot be used as it is. It was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    #[error("make the data directory {}; set `data_dir`", dir.display())]
    Make { dir: PathBuf, source: io::Error },
    #[error("look at the data directory {}", dir.display())]
    Look { dir: PathBuf, source: io::Error },
    #[error("make the data directory {} private", dir.display())]
    Tighten { dir: PathBuf, source: io::Error },
    #[error(
        "the data directory {} belongs to user {owner}, who could change what is in it; give it \
         to the user Cofferdam runs as (chown), or set `data_dir`",
        dir.display()
    )]
    NotOwned { dir: PathBuf, owner: u32 },
    #[error(
        "others may write to the data directory {} (mode {mode:o}), so what is in it may be \
         theirs; make sure that it is not and run: chmod 700 {}, or set `data_dir`",
        dir.display(), dir.display()
    )]
    Writable { dir: PathBuf, mode: u32 },
    #[error(
        "{} has other things in it than Cofferdam's, and others may look at them (mode \
         {mode:o}); set `data_dir` to a directory of its own",
        dir.display()
    )]
    NotOurs { dir: PathBuf, mode: u32 },
}

/// Makes the directory, or closes one of ours, or an empty one, to others. One that serves another
/// purpose as well is refused.
pub(crate) fn prepare(dir: &Path) -> Result<(), DataDirError> {
    let look = |source| DataDirError::Look { dir: dir.to_path_buf(), source };
    DirBuilder::new()
        .mode(OWNER_ONLY)
        .recursive(true)
        .create(dir)
        .map_err(|source| DataDirError::Make { dir: dir.to_path_buf(), source })?;
    let meta = std::fs::metadata(dir).map_err(look)?;
    let (owner, mode) = (meta.uid(), meta.mode() & 0o7777);
    if owner != rustix::process::geteuid().as_raw() {
        return Err(DataDirError::NotOwned { dir: dir.to_path_buf(), owner });
    }
    if mode & 0o077 == 0 {
        return Ok(());
    }
    match content(dir).map_err(look)? {
        Content::Nothing => {}
        _ if mode & 0o022 != 0 => {
            return Err(DataDirError::Writable { dir: dir.to_path_buf(), mode });
        }
        Content::Ours => {}
        Content::Others => return Err(DataDirError::NotOurs { dir: dir.to_path_buf(), mode }),
    }
    std::fs::set_permissions(dir, Permissions::from_mode(OWNER_ONLY))
        .map_err(|source| DataDirError::Tighten { dir: dir.to_path_buf(), source })?;
    tracing::info!(dir = %dir.display(), from = format!("{mode:o}"), "data directory made private");
    Ok(())
}

enum Content {
    Nothing,
    Ours,
    Others,
}

fn content(dir: &Path) -> io::Result<Content> {
    if OURS.iter().any(|name| dir.join(name).exists()) {
        return Ok(Content::Ours);
    }
    for entry in std::fs::read_dir(dir)? {
        // Every new ext4 file system has one.
        if entry?.file_name() != "lost+found" {
            return Ok(Content::Others);
        }
    }
    Ok(Content::Nothing)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    use super::{DataDirError, prepare};

    fn mode(dir: &Path) -> u32 {
        fs::metadata(dir).unwrap().mode() & 0o7777
    }

    fn dir_with(content: Option<&str>, mode: u32) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        if let Some(name) = content {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        dir
    }

    #[test]
    fn a_new_directory_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b");
        prepare(&data).unwrap();
        assert_eq!(mode(&data), 0o700);
    }

    #[test]
    fn a_directory_of_ours_and_an_empty_one_are_closed_to_others() {
        for (content, open) in [
            (Some("images"), 0o755),
            (Some("node"), 0o711),
            (Some("lost+found"), 0o755),
            (None, 0o755),
            (None, 0o777),
        ] {
            let dir = dir_with(content, open);
            prepare(dir.path()).unwrap();
            assert_eq!(mode(dir.path()), 0o700, "{content:?} {open:o}");
        }
    }

    #[test]
    fn a_directory_for_other_things_is_refused_and_stays_as_it_is() {
        let dir = dir_with(Some("etc"), 0o755);
        let error = prepare(dir.path()).unwrap_err();
        assert!(matches!(error, DataDirError::NotOurs { mode: 0o755, .. }), "{error}");
        assert_eq!(mode(dir.path()), 0o755);
        let private = dir_with(Some("etc"), 0o700);
        prepare(private.path()).unwrap();
    }

    #[test]
    fn what_others_may_have_put_there_is_not_trusted() {
        for open in [0o770, 0o1777] {
            let dir = dir_with(Some("images"), open);
            let error = prepare(dir.path()).unwrap_err();
            assert!(matches!(error, DataDirError::Writable { .. }), "{error}");
            assert_eq!(mode(dir.path()), open);
        }
    }
}
