//! What clients note beside a file: extended attributes with a prefix of their own.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use http::HeaderMap;
use rustix::fs::{XattrFlags, flistxattr, fremovexattr, fsetxattr, getxattr, listxattr};
use rustix::io::Errno;

const ATTRIBUTE_PREFIX: &str = "user.e2b.";
const HEADER_PREFIX: &str = "x-metadata-";
const KEY_BYTES_MAX: usize = 246;
/// Over all keys of a file: prefix, key and value.
const TOTAL_BYTES_MAX: usize = 4096;

/// Keys and values, checked against the limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metadata(BTreeMap<String, String>);

/// Why metadata cannot be stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetadataError {
    #[error("invalid metadata: the name of header 'X-Metadata-' has no key after it")]
    EmptyKey,
    #[error("invalid metadata: key '{0}' is longer than {KEY_BYTES_MAX} bytes")]
    LongKey(String),
    #[error("invalid metadata: the value of '{0}' may hold printable ASCII only")]
    Value(String),
    #[error("invalid metadata: keys and values take {0} bytes, and {TOTAL_BYTES_MAX} is the limit")]
    TooLarge(usize),
}

impl Metadata {
    /// Reads the headers of an upload. Of a header sent twice the first counts.
    ///
    /// # Errors
    /// When a key or value cannot be stored as it is.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Self, MetadataError> {
        let mut all = BTreeMap::new();
        let mut total = 0_usize;
        for name in headers.keys() {
            let Some(key) = name.as_str().strip_prefix(HEADER_PREFIX) else { continue };
            if key.is_empty() {
                return Err(MetadataError::EmptyKey);
            }
            if key.len() > KEY_BYTES_MAX {
                return Err(MetadataError::LongKey(key.to_owned()));
            }
            let bytes = headers.get(name).map_or(&b""[..], |value| value.as_bytes());
            let value = std::str::from_utf8(bytes).ok();
            let printable = value.filter(|text| text.bytes().all(|b| (0x20..=0x7e).contains(&b)));
            let value = printable.ok_or_else(|| MetadataError::Value(key.to_owned()))?;
            total = total.saturating_add(ATTRIBUTE_PREFIX.len() + key.len() + value.len());
            all.insert(key.to_owned(), value.to_owned());
        }
        if total > TOTAL_BYTES_MAX {
            return Err(MetadataError::TooLarge(total));
        }
        Ok(Self(all))
    }

    /// What stands beside the file at `path`, links followed. Whatever cannot be read is not
    /// there: nobody asks for metadata alone.
    pub(crate) fn read(path: &Path) -> Self {
        let names = read_whole(|buffer| listxattr(path, buffer)).unwrap_or_default();
        let mut all = BTreeMap::new();
        for name in names.split(|byte| *byte == 0) {
            let name = std::str::from_utf8(name).ok();
            let Some((name, key)) =
                name.and_then(|name| Some((name, name.strip_prefix(ATTRIBUTE_PREFIX)?)))
            else {
                continue;
            };
            let value = read_whole(|buffer| getxattr(path, name, buffer));
            if let Some(value) = value.ok().and_then(|value| String::from_utf8(value).ok()) {
                all.insert(key.to_owned(), value);
            }
        }
        Self(all)
    }

    /// Makes this all that stands beside `file`. A file system without attributes keeps none.
    ///
    /// # Errors
    /// When there is no room.
    pub(crate) fn store(&self, file: impl AsFd) -> io::Result<()> {
        let file = file.as_fd();
        let names = match read_whole(|buffer| flistxattr(file, buffer)) {
            Ok(names) => names,
            Err(Errno::NOTSUP | Errno::PERM | Errno::NOSYS) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        for name in names.split(|byte| *byte == 0) {
            let key = name.strip_prefix(ATTRIBUTE_PREFIX.as_bytes());
            let kept = key.and_then(|key| std::str::from_utf8(key).ok());
            if key.is_none() || kept.is_some_and(|key| self.0.contains_key(key)) {
                continue;
            }
            match CString::new(name).map(|name| fremovexattr(file, name.as_c_str())) {
                Ok(Ok(()) | Err(Errno::NODATA)) | Err(_) => {}
                Ok(Err(errno)) => return Err(errno.into()),
            }
        }
        for (key, value) in &self.0 {
            let name = format!("{ATTRIBUTE_PREFIX}{key}");
            match fsetxattr(file, name.as_str(), value.as_bytes(), XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOTSUP | Errno::PERM | Errno::NOSYS) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    pub(crate) fn into_map(self) -> BTreeMap<String, String> {
        self.0
    }
}

/// Reads with more and more room, up to the most the kernel stores in one place.
fn read_whole(
    mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    const SIZES: [usize; 2] = [1024, 64 * 1024];
    for size in SIZES {
        let mut buffer = vec![0; size];
        match read(&mut buffer) {
            Ok(count) => {
                buffer.truncate(count);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::RANGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(headers: &[(&'static str, &str)]) -> Result<Metadata, MetadataError> {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(*name, value.parse().unwrap());
        }
        Metadata::from_headers(&all)
    }

    #[test]
    fn headers_with_the_prefix_count_and_of_two_the_first() {
        let read = metadata(&[("x-metadata-a", "1"), ("x-metadata-a", "2"), ("accept", "*")]);
        assert_eq!(read.unwrap().into_map(), [("a".to_owned(), "1".to_owned())].into());
    }

    #[test]
    fn each_limit_is_told_by_itself() {
        let error = |headers: &[(&'static str, &str)]| metadata(headers).unwrap_err();
        assert!(matches!(error(&[("x-metadata-", "1")]), MetadataError::EmptyKey));
        assert!(matches!(error(&[("x-metadata-a", "a\tb")]), MetadataError::Value(_)));
        let full = "v".repeat(TOTAL_BYTES_MAX - ATTRIBUTE_PREFIX.len() - 1);
        assert!(metadata(&[("x-metadata-a", &full)]).is_ok());
        let over = format!("{full}v");
        assert!(matches!(error(&[("x-metadata-a", &over)]), MetadataError::TooLarge(4097)));
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    fn storing_replaces_what_was_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let probe = fsetxattr(&file, "user.other", b"kept", XattrFlags::empty());
        if probe.is_err() {
            println!("skipped, because the file system has no extended attributes");
            return;
        }
        for headers in
            [&[("x-metadata-a", "1"), ("x-metadata-b", "2")][..], &[("x-metadata-b", "3")], &[]]
        {
            let new = metadata(headers).unwrap();
            new.store(&file).unwrap();
            assert_eq!(Metadata::read(file.path()), new);
        }
        let mut kept = [0; 4];
        assert_eq!(getxattr(file.path(), "user.other", &mut kept), Ok(4));
    }
}
