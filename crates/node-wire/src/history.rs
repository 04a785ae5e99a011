use std::time::{Duration, SystemTime};

use model::{EndReason, LifecycleId, SandboxId};

/// How one run of a sandbox ended, as its node remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub id: SandboxId,
    pub lifecycle: LifecycleId,
    pub reason: EndReason,
    pub at: SystemTime,
    /// More than the reason says, such as `its start was cut off`; empty when there is nothing to
    /// add. Whoever owns the sandbox reads it: it names nothing of the host.
    pub detail: String,
}

/// What a node found that an earlier daemon of it had left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptReport {
    /// Whether everything that could not run on has been tried to be removed.
    pub finished: bool,
    /// Sandboxes that run on.
    pub adopted: u32,
    /// Those that do not, and why.
    pub ended: Vec<AdoptEnd>,
    /// Starts that were cut off, and undone.
    pub rolled_back: u32,
    /// Of all that could not run on those that are not gone.
    pub stuck: u32,
    /// From the start of the node on.
    pub took: Duration,
}

/// A sandbox that an earlier daemon had left and that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdoptEnd {
    pub id: SandboxId,
    pub reason: EndReason,
}

impl AdoptReport {
    /// Whether nothing was left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.adopted == 0 && self.ended.is_empty() && self.rolled_back == 0
    }
}

/// What a node remembers of one run of a sandbox. Whoever owns the sandbox reads it: no text of it
/// names anything of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub lifecycle: LifecycleId,
    /// What was done for it and with it, the oldest first; a bounded number.
    pub steps: Vec<ExplainedStep>,
    /// The name of the step whose failure ended it, or keeps it from being gone.
    pub failed_step: Option<String>,
    /// The last lines its machine wrote, the oldest first; a bounded number.
    pub output: Vec<String>,
    /// The most memory it had at one time.
    pub memory_peak_bytes: Option<u64>,
    /// The processor time it used.
    pub cpu_time: Option<Duration>,
    /// What an earlier daemon left of it and a later one removed.
    pub reclaimed: Vec<String>,
}

/// One thing that happened on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedStep {
    pub at: SystemTime,
    pub name: String,
    /// How long it took; `None` for a moment.
    pub took: Option<Duration>,
    /// Why it failed.
    pub error: Option<String>,
}
