//! Which file a request's path means. One rule for file contents, the file system service and
//! working directories.

use std::path::{Component, Path, PathBuf};

use crate::accounts::User;

/// A path that only a shell could make sense of.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error(
        "cannot expand user-specific home dir in path '{0}': use '~', '~/...' or the full path"
    )]
    OtherHome(String),
    #[error("the path holds a zero byte, which no file name can")]
    ZeroByte,
}

/// Resolves `path` for `user`.
///
/// Empty is the default working directory, or the user's home without one. `~` is the home. A
/// relative path starts at the home, never at the default working directory. An absolute one is
/// taken byte for byte: `..` is left to the kernel, which knows about symbolic links.
///
/// # Errors
/// For `~other`, and for a path with a zero byte.
pub(crate) fn resolve(
    path: &str,
    user: &User,
    default_workdir: Option<&str>,
) -> Result<PathBuf, PathError> {
    if path.contains('\0') {
        return Err(PathError::ZeroByte);
    }
    if path.is_empty() {
        return Ok(PathBuf::from(default_workdir.unwrap_or(&user.home)));
    }
    if path.starts_with('/') {
        return Ok(PathBuf::from(path));
    }
    match path.strip_prefix('~') {
        None => Ok(joined(&user.home, path)),
        Some("") => Ok(PathBuf::from(&user.home)),
        Some(rest) => match rest.strip_prefix('/') {
            Some(rest) => Ok(joined(&user.home, rest)),
            None => Err(PathError::OtherHome(path.to_owned())),
        },
    }
}

/// Joins and cleans: no `.`, no double slash, `..` taken away with what it follows.
fn joined(home: &str, rest: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in Path::new(home).join(rest).components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) | Component::Normal(_) => {
                clean.push(component);
            }
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(path: &str, workdir: Option<&str>) -> Result<PathBuf, PathError> {
        let user = User {
            name: "user".into(),
            uid: 1000,
            gid: 1000,
            groups: vec![1000],
            home: "/home/user".into(),
        };
        resolve(path, &user, workdir)
    }

    #[test]
    fn every_kind_of_path_has_its_place() {
        for (path, workdir, expected) in [
            ("", None, "/home/user"),
            ("", Some("/work"), "/work"),
            ("~", Some("/work"), "/home/user"),
            ("~/a/../b", None, "/home/user/b"),
            ("a/./b", Some("/work"), "/home/user/a/b"),
            ("../../../x", None, "/x"),
            ("/a/../b//c", None, "/a/../b//c"),
        ] {
            assert_eq!(resolved(path, workdir), Ok(PathBuf::from(expected)), "{path}");
        }
    }

    #[test]
    fn the_home_of_another_user_is_not_guessed() {
        let error = resolved("~root/x", None).unwrap_err();
        assert!(error.to_string().contains("cannot expand user-specific home dir"));
    }

    #[test]
    fn a_zero_byte_is_refused() {
        assert_eq!(resolved("/a\0b", None), Err(PathError::ZeroByte));
    }
}
