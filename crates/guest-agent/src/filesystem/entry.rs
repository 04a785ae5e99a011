//! What the wire tells about one file.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use buffa_types::google::protobuf::Timestamp;
use guest_wire::proto::filesystem::{EntryInfo, FileType};

use super::metadata::Metadata;
use crate::accounts::Accounts;

const PERMISSION_BITS: u32 = 0o777;
const SET_USER: u32 = 0o4000;
const SET_GROUP: u32 = 0o2000;
const STICKY: u32 = 0o1000;

/// Describes what is at `path`. A symbolic link has its own size, time, owner and permissions in
/// words, and the type and permission bits of what it leads to.
///
/// # Errors
/// When nothing is there, or it cannot be looked at.
pub(crate) fn entry_at(path: &Path, accounts: &Accounts) -> io::Result<EntryInfo> {
    let found = std::fs::symlink_metadata(path)?;
    let (kind, mode, symlink_target) = if found.file_type().is_symlink() {
        let target = std::fs::metadata(path).ok();
        let kind = target.as_ref().map_or(FileType::FILE_TYPE_UNSPECIFIED, kind_of);
        let mode = target.as_ref().map_or(0, std::fs::Metadata::mode);
        // A link that leads nowhere is its own target.
        let end = std::fs::canonicalize(path).unwrap_or_else(|_broken| path.to_owned());
        (kind, mode, Some(path_text(&end)))
    } else {
        (kind_of(&found), found.mode(), None)
    };
    let nanos = i32::try_from(found.mtime_nsec()).unwrap_or(0);
    let modified = Timestamp { seconds: found.mtime(), nanos, ..Timestamp::default() };
    Ok(EntryInfo {
        name: path.file_name().map_or_else(|| path_text(path), |name| path_text(name.as_ref())),
        r#type: kind.into(),
        path: path_text(path),
        size: i64::try_from(found.len()).unwrap_or(i64::MAX),
        mode: mode & PERMISSION_BITS,
        permissions: permissions(&found),
        owner: accounts.user_name(found.uid()),
        group: accounts.group_name(found.gid()),
        modified_time: modified.into(),
        symlink_target,
        metadata: Metadata::read(path).into_map().into_iter().collect(),
        ..EntryInfo::default()
    })
}

/// A path for the wire, which knows text only.
pub(crate) fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn kind_of(found: &std::fs::Metadata) -> FileType {
    if found.is_dir() {
        FileType::FILE_TYPE_DIRECTORY
    } else if found.is_file() {
        FileType::FILE_TYPE_FILE
    } else {
        FileType::FILE_TYPE_UNSPECIFIED
    }
}

/// In the words of Go's `fs.FileMode`, which clients of E2B's agent see: letters for what it is,
/// one dash if it is nothing special, then nine for who may do what.
fn permissions(found: &std::fs::Metadata) -> String {
    let kind = found.file_type();
    let mode = found.mode();
    let letters = [
        ('d', kind.is_dir()),
        ('L', kind.is_symlink()),
        ('D', kind.is_block_device() || kind.is_char_device()),
        ('p', kind.is_fifo()),
        ('S', kind.is_socket()),
        ('u', mode & SET_USER != 0),
        ('g', mode & SET_GROUP != 0),
        ('c', kind.is_char_device()),
        ('t', mode & STICKY != 0),
    ];
    let mut text: String = letters.iter().filter(|(_, is)| *is).map(|(letter, _)| letter).collect();
    if text.is_empty() {
        text.push('-');
    }
    for (index, letter) in "rwxrwxrwx".chars().enumerate() {
        let is_set = mode & (0o400 >> index) != 0;
        text.push(if is_set { letter } else { '-' });
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn entry(path: &Path) -> EntryInfo {
        entry_at(path, &Accounts::load().unwrap()).unwrap()
    }

    #[test]
    fn a_file_is_told_with_its_bits_in_number_and_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "four").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4640)).unwrap();
        let entry = entry(&path);
        assert_eq!((entry.name.as_str(), entry.size, entry.mode), ("file", 4, 0o640));
        assert_eq!(entry.permissions, "urw-r-----");
        assert_eq!(entry.r#type, FileType::FILE_TYPE_FILE);
        assert_eq!(entry.symlink_target, None);
    }

    #[test]
    fn a_directory_may_be_sticky() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(entry(dir.path()).permissions, "dtrwxrwxrwx");
    }

    #[test]
    fn a_link_has_the_type_of_its_target_and_words_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (target, link) = (root.join("target"), root.join("link"));
        std::fs::create_dir(&target).unwrap();
        symlink("target", &link).unwrap();
        let through = entry(&link);
        assert_eq!(through.r#type, FileType::FILE_TYPE_DIRECTORY);
        assert_eq!(through.permissions, "Lrwxrwxrwx");
        assert_eq!(through.symlink_target, Some(path_text(&target)));

        std::fs::remove_dir(&target).unwrap();
        let broken = entry(&link);
        assert_eq!((broken.r#type, broken.mode), (FileType::FILE_TYPE_UNSPECIFIED.into(), 0));
        assert_eq!(broken.symlink_target, Some(path_text(&link)));
    }

    #[test]
    fn special_files_have_letters_and_no_type() {
        let null = entry(Path::new("/dev/null"));
        assert_eq!(null.r#type, FileType::FILE_TYPE_UNSPECIFIED);
        assert!(null.permissions.starts_with("Dcrw-rw-"), "{}", null.permissions);
        assert_eq!(entry(Path::new("/")).name, "/");
    }
}
