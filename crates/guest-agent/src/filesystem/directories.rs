//! Making directories that belong to somebody.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};

use crate::accounts::User;

/// Makes `path` and what is missing above it, mode 0755, each new one owned by `user`. Those
/// that are there already are left as they are.
///
/// # Errors
/// When something on the way is no directory, or there is no room.
pub(crate) fn make_all(path: &Path, user: &User) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut above = Some(path);
    while let Some(directory) = above.filter(|directory| !directory.as_os_str().is_empty()) {
        match std::fs::metadata(directory) {
            Ok(found) if found.is_dir() => break,
            Ok(_file) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.push(directory.to_owned());
            }
            Err(error) => return Err(error),
        }
        above = directory.parent();
    }
    for directory in missing.iter().rev() {
        match std::fs::DirBuilder::new().mode(0o755).create(directory) {
            Ok(()) => chown(directory, Some(user.uid), Some(user.gid))?,
            // Somebody else made it in between: then it is theirs. The same for `a/..`.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    fn myself() -> User {
        User {
            name: "me".into(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: Vec::new(),
            home: "/".into(),
        }
    }

    #[test]
    fn missing_directories_are_made_and_others_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let deep = dir.path().join("a/b/c");
        for _ in 0..2 {
            make_all(&deep, &myself()).unwrap();
        }
        assert!(deep.is_dir());
        assert_eq!(std::fs::metadata(dir.path()).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_file_on_the_way_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(make_all(&dir.path().join("file/below"), &myself()).is_err());
    }
}
