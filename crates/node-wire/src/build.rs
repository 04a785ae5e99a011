//! Template builds as a class of work of their own.

use std::time::SystemTime;

pub use model::BuildId;
use model::TemplateId;

/// What to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildRequest {
    pub build: BuildId,
    pub template: TemplateId,
    /// What the template is called; `base` makes the base template.
    pub alias: String,
}

/// Where a build stands. Set once from `Building`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildState {
    Building,
    Completed,
    /// With the reason, for its user.
    Failed(String),
}

/// One build. It stays visible for as long as it runs, polled or not, and for a while after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildStatus {
    pub request: BuildRequest,
    pub state: BuildState,
    pub started_at: SystemTime,
    pub ended_at: Option<SystemTime>,
    /// What it does now, in words.
    pub step: String,
}

/// Why a build was refused, or is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    #[error("the node is draining")]
    Draining,
    #[error("the node is still starting")]
    Starting,
    #[error("build {0} exists already")]
    AlreadyExists(BuildId),
    #[error("too many builds are running on the node (at most {limit})")]
    TooMany { limit: u32 },
    #[error("the node has no build {0}")]
    NotFound(BuildId),
    #[error("only the template `base` can be built by this version, not {0:?}")]
    Unsupported(String),
    #[error("the node cannot be reached: {0}")]
    Unreachable(String),
}
