use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use model::{BuildId, Keep, LifecycleId, Resources, SandboxId, TeamId, TemplateId};

use crate::Started;

/// How a sandbox is to be paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PauseOrder {
    pub keep: Keep,
    /// Whether it is to run on when its guest agent does not answer. Where only the files are asked
    /// for it does so in any case.
    pub healthy_only: bool,
}

impl PauseOrder {
    /// Whether it is refused when the guest agent does not answer.
    #[must_use]
    pub fn needs_agent(self) -> bool {
        self.healthy_only || self.keep == Keep::Files
    }
}

impl From<Keep> for PauseOrder {
    fn from(keep: Keep) -> Self {
        Self { keep, healthy_only: false }
    }
}

/// A sandbox that is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PausedStatus {
    pub id: SandboxId,
    /// The run that was paused. One whose memory is there goes on with it, another gets a new one.
    pub lifecycle: LifecycleId,
    pub team: TeamId,
    pub template: TemplateId,
    /// The build of the template that its files belong to.
    pub build: BuildId,
    pub resources: Resources,
    pub metadata: BTreeMap<String, String>,
    /// When the run began that was paused.
    pub started_at: SystemTime,
    pub paused_at: SystemTime,
    /// Whether its processes are there, too, and not only its files.
    pub memory: bool,
    /// Whether its guest agent did not answer when it was paused, and its memory is there: what goes
    /// on with that does not answer either.
    pub agent_silent: bool,
}

/// A sandbox that goes on.
#[derive(Debug, Clone)]
pub struct Resumed {
    pub started: Started,
    /// Whether its processes have gone on; else it was started anew with its files.
    pub memory: bool,
}

/// A snapshot that is to be made: a template of its own, of the files a sandbox has at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// A template that there is gets one more build, which is then the one in use.
    pub template: TemplateId,
    pub build: BuildId,
    /// Whether it is only for sandboxes that are started from it now. The node removes it when
    /// none uses it any more.
    pub passing: bool,
}

/// A snapshot that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotStatus {
    pub template: TemplateId,
    pub build: BuildId,
    /// How long the sandbox stood still.
    pub halted: Duration,
}

/// Why a pause or a snapshot was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PauseError {
    #[error("the node has no sandbox {0}")]
    NotFound(String),
    /// It is as it was asked to be, or less of it is there.
    #[error("sandbox {0} is paused")]
    Paused(String),
    #[error("sandbox {0} is being paused or has a snapshot taken; try again in a moment")]
    Busy(String),
    /// Nothing was done to it.
    #[error("the guest agent of sandbox {0} does not answer; it runs on")]
    AgentSilent(String),
    #[error("the node's disk has {free_mib} MiB free and keeps {reserve_mib} MiB in reserve")]
    DiskFull { free_mib: u64, reserve_mib: u64 },
    /// A limit that no waiting lifts. The sandbox runs on.
    #[error("{0}")]
    Limit(String),
    /// The sandbox runs on.
    #[error("it runs on: {0}")]
    Failed(String),
    /// The sandbox was ended, by its owner or by the failure.
    #[error("the sandbox has ended: {0}")]
    Lost(String),
    #[error("the node cannot be reached: {0}")]
    Unreachable(String),
}

/// Why a template or snapshot could not be removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoveError {
    #[error("the node has no template {0}")]
    NotFound(String),
    #[error("sandboxes or other snapshots are made of template {0}; end them first")]
    InUse(String),
    #[error("the node cannot be reached: {0}")]
    Unreachable(String),
    #[error("the node failed: {0}")]
    Internal(String),
}
