use std::time::Duration;

/// Why a create was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    #[error("the node is draining")]
    Draining,
    #[error("the node is still starting")]
    Starting,
    #[error("the node runs as many sandboxes as it may ({limit})")]
    Full { limit: u32 },
    #[error("too many sandboxes are starting on the node (at most {limit} at a time)")]
    TooManyStarting { limit: u32 },
    #[error("the node's disk has {free_mib} MiB free and keeps {reserve_mib} MiB in reserve")]
    DiskFull { free_mib: u64, reserve_mib: u64 },
    #[error("sandbox {0} exists already")]
    AlreadyExists(String),
    #[error("the node has no paused sandbox {0}")]
    NotPaused(String),
    #[error("the node has no template {0}")]
    UnknownTemplate(String),
    #[error("the request cannot be run: {0}")]
    Invalid(String),
    /// `step` is the name of the step that failed; everything before it was undone.
    #[error("the sandbox could not be started: {step}: {message}")]
    Failed { step: &'static str, message: String },
    #[error("the start took longer than it may ({limit_ms} ms), in {step}")]
    Expired { step: &'static str, limit_ms: u64 },
    #[error("the sandbox was ended while it started")]
    Cancelled,
    #[error("the node cannot be reached: {0}")]
    Unreachable(String),
}

impl CreateError {
    /// Whether another node may succeed where this one did not.
    #[must_use]
    pub const fn retry_elsewhere(&self) -> bool {
        match self {
            Self::Draining
            | Self::Starting
            | Self::Full { .. }
            | Self::TooManyStarting { .. }
            | Self::DiskFull { .. }
            | Self::UnknownTemplate(_)
            | Self::Failed { .. }
            | Self::Expired { .. }
            | Self::Unreachable(_) => true,
            Self::AlreadyExists(_) | Self::NotPaused(_) | Self::Invalid(_) | Self::Cancelled => {
                false
            }
        }
    }

    /// When a caller may sensibly try again; `None` when trying again is of no use.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyStarting { .. } | Self::Starting => Some(Duration::from_secs(1)),
            Self::Full { .. } | Self::Unreachable(_) => Some(Duration::from_secs(5)),
            Self::Draining | Self::DiskFull { .. } => Some(Duration::from_secs(30)),
            Self::AlreadyExists(_)
            | Self::NotPaused(_)
            | Self::UnknownTemplate(_)
            | Self::Invalid(_)
            | Self::Failed { .. }
            | Self::Expired { .. }
            | Self::Cancelled => None,
        }
    }
}

/// Why another call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error("the node has no sandbox {0}")]
    NotFound(String),
    #[error("sandbox {id} is not gone yet: {left}")]
    Stuck { id: String, left: String },
    #[error("the node cannot be reached: {0}")]
    Unreachable(String),
    #[error("the node failed: {0}")]
    Internal(String),
}
