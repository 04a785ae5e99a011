use std::io;

use rustix::io::Errno;

/// A call to the kernel that did not work: what was tried, on what, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("{action} {object}")]
pub struct HostError {
    pub action: &'static str,
    pub object: String,
    #[source]
    pub source: io::Error,
}

impl HostError {
    pub fn new(action: &'static str, object: impl Into<String>, source: io::Error) -> Self {
        Self { action, object: object.into(), source }
    }

    /// The kernel's number for the cause, where it has one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }

    /// Whether the host ran out of room for files.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self.errno(), Some(Errno::NOSPC | Errno::DQUOT))
    }
}

/// Adds what was tried to a failed call.
pub(crate) trait Tried<T> {
    fn tried(self, action: &'static str, object: impl AsRef<str>) -> Result<T, HostError>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, action: &'static str, object: impl AsRef<str>) -> Result<T, HostError> {
        self.map_err(|source| HostError::new(action, object.as_ref(), source.into()))
    }
}
