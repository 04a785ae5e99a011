//! What can be wrong with a watch.

use std::io;
use std::path::{Path, PathBuf};

use connectrpc::ErrorCode;
use serde::{Deserialize, Serialize, Serializer};

use super::inotify::DIRECTORIES_MAX;
use super::polled::{BUFFERED_MAX, WATCHERS_MAX};

/// Why something is not watched, or no longer.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum WatchError {
    #[error("path {} not found", .0.display())]
    NotFound(#[serde(serialize_with = "as_shown")] PathBuf),
    #[error("path {} not a directory", .0.display())]
    NotADirectory(#[serde(serialize_with = "as_shown")] PathBuf),
    #[error("cannot watch path on network filesystem: {}", .0.display())]
    NetworkMount(#[serde(serialize_with = "as_shown")] PathBuf),
    #[error(
        "more than {DIRECTORIES_MAX} directories under {}: watch one below, or not recursively",
        .0.display()
    )]
    TooManyDirectories(#[serde(serialize_with = "as_shown")] PathBuf),
    #[error("the kernel watches no more directories for this sandbox: {0}")]
    KernelLimit(String),
    #[error("{WATCHERS_MAX} watchers exist already: remove one first")]
    TooManyWatchers,
    #[error("watcher with id {0} not found")]
    UnknownWatcher(String),
    #[error("watcher error: events came faster than they were read, and some are lost")]
    Overflow,
    #[error(
        "watcher error: more than {BUFFERED_MAX} events waited to be polled, and some are lost"
    )]
    BufferOverflow,
    #[error("watcher error: {0}")]
    Io(String),
}

/// Clients are never told more of it than this.
fn as_shown<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

impl WatchError {
    pub(super) fn io(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOSPC | libc::ENOMEM) => {
                Self::KernelLimit(error.to_string())
            }
            _ => Self::Io(error.to_string()),
        }
    }

    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound(_) | Self::UnknownWatcher(_) => ErrorCode::NotFound,
            Self::NotADirectory(_) | Self::NetworkMount(_) => ErrorCode::InvalidArgument,
            Self::TooManyDirectories(_) | Self::KernelLimit(_) | Self::TooManyWatchers => {
                ErrorCode::ResourceExhausted
            }
            Self::Overflow | Self::BufferOverflow | Self::Io(_) => ErrorCode::Internal,
        }
    }
}
