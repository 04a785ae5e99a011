//! What a node says of its drain: one document, as it is now and as it changes.

use std::time::{Duration, SystemTime};

use model::{DrainIsFinal, NodeId, NodePhase};

/// Kinds of work that keep a node from being drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Sandboxes that are being started.
    Starting,
    /// Sandboxes that run.
    Live,
    /// Sandboxes whose release is under way.
    Stopping,
    /// Sandboxes with a release step that failed.
    Stuck,
    /// Template builds.
    Build,
    /// Uploads in flight.
    Upload,
}

impl Class {
    pub const ALL: [Self; 6] =
        [Self::Starting, Self::Live, Self::Stopping, Self::Stuck, Self::Build, Self::Upload];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Live => "live",
            Self::Stopping => "stopping",
            Self::Stuck => "stuck",
            Self::Build => "build",
            Self::Upload => "upload",
        }
    }
}

/// How much of one class is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassCount {
    pub class: Class,
    pub count: u32,
}

/// One piece of work that a drain waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    pub class: Class,
    /// The sandbox or build.
    pub id: String,
    /// Its phase, in words.
    pub state: String,
    pub age: Duration,
    /// When it ends by itself, if that is known.
    pub ends_at: Option<SystemTime>,
    pub last_error: Option<String>,
}

/// One attempt to end everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptStatus {
    /// 1, 2, ...
    pub number: u32,
    pub started_at: SystemTime,
    pub running: bool,
    /// Sandboxes and builds that are gone.
    pub stopped: u32,
    /// Those of them that registered after the attempt had begun.
    pub late: u32,
    /// What is left, with its failing step: empty when the attempt succeeded or still runs.
    pub failed: Vec<String>,
}

/// A node's drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainStatus {
    pub node: NodeId,
    /// New with every process of the node.
    pub service_instance: String,
    pub phase: NodePhase,
    pub changed_at: SystemTime,
    /// Grows with every change of the phase; counted anew by every process of the node.
    pub epoch: u64,
    /// Whether new work is admitted.
    pub accepting: bool,
    pub draining_since: Option<SystemTime>,
    /// When what still runs then is ended; `None`: never by itself.
    pub force_at: Option<SystemTime>,
    /// Every class, in the order of [`Class::ALL`].
    pub counts: Vec<ClassCount>,
    /// The oldest first; at most [`DrainStatus::MAX_BLOCKERS`].
    pub blockers: Vec<Blocker>,
    /// The last attempt to force.
    pub attempt: Option<AttemptStatus>,
    /// When all is expected to have ended; `None` when that is not known.
    pub eta: Option<Duration>,
    /// What the last census found that belongs to nobody; `None` before the first.
    pub leaked: Option<u32>,
}

impl DrainStatus {
    pub const MAX_BLOCKERS: usize = 100;

    /// What is left over all classes.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        self.counts.iter().map(|class| class.count).sum()
    }
}

/// The node as whoever asks it for a change has read it. What is `None` may be anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// [`DrainStatus::service_instance`].
    pub instance: Option<String>,
    /// [`DrainStatus::epoch`].
    pub epoch: Option<u64>,
}

impl Expected {
    /// Whether every node is what is expected.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.instance.is_none() && self.epoch.is_none()
    }

    /// Whether a node is what is expected; to be called under the lock under which it changes.
    ///
    /// # Errors
    /// [`StatusError::Stale`] says how it is.
    pub fn check(&self, instance: &str, phase: NodePhase, epoch: u64) -> Result<(), StatusError> {
        if let Some(expected) = self.instance.as_ref().filter(|expected| *expected != instance) {
            return Err(StatusError::Stale(format!("is instance {instance} now, not {expected}")));
        }
        let Some(expected) = self.epoch.filter(|expected| *expected != epoch) else {
            return Ok(());
        };
        let phase = phase.as_str();
        Err(StatusError::Stale(format!("is {phase} in epoch {epoch} now, not {expected}")))
    }
}

/// Why a change of status was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    #[error(transparent)]
    DrainIsFinal(#[from] DrainIsFinal),
    /// It is not as expected; how it is.
    #[error("the node {0}")]
    Stale(String),
    #[error("the node cannot be reached: {0}")]
    Unreachable(String),
    #[error("the node could not change its status: {0}")]
    Internal(String),
}

/// One object of the node on its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeakItem {
    pub kind: String,
    pub name: String,
    /// `lifecycle ID`, `slot N` or `node`.
    pub owner: String,
}

/// A census, split by whether the running node accounts for the object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaks {
    pub owned: Vec<LeakItem>,
    pub leaked: Vec<LeakItem>,
}
