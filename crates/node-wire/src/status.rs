use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use model::{
    BuildId, EndReason, LifecycleId, NodeId, NodePhase, Resources, SandboxId, SandboxPhase, TeamId,
    TemplateId,
};

/// One sandbox as its node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxStatus {
    pub id: SandboxId,
    pub lifecycle: LifecycleId,
    pub team: TeamId,
    pub template: TemplateId,
    pub phase: SandboxPhase,
    pub resources: Resources,
    pub metadata: BTreeMap<String, String>,
    pub started_at: SystemTime,
    pub ends_at: SystemTime,
    /// Where every port of it is; `None` while it has no address, and from a node of a version that
    /// does not tell.
    pub addr: Option<IpAddr>,
    /// Steps that failed in the last teardown round, with their errors. Empty unless stuck.
    pub left: Vec<String>,
}

/// Which promises the machine driver can keep on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enforcement {
    /// `memory`, `swap`, `pids`, `cpu`, `disk`, ...
    pub what: &'static str,
    pub enforced: bool,
    /// How, or why not and what would change it.
    pub detail: String,
}

/// How much of the machine is used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct NodeMetrics {
    pub cpu_count: u32,
    pub cpu_percent: f64,
    pub memory_total_bytes: u64,
    pub memory_used_bytes: u64,
    pub disk_total_bytes: u64,
    pub disk_used_bytes: u64,
    pub allocated_vcpus: u32,
    pub allocated_memory_bytes: u64,
}

/// What processors a machine has, in the kernel's words; empty where it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processor {
    pub family: String,
    pub model: String,
    pub model_name: String,
    pub architecture: String,
}

/// A template the node can start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateInfo {
    pub id: TemplateId,
    pub build: BuildId,
    /// Names users say, such as `base`.
    pub aliases: Vec<String>,
    pub resources: Resources,
    pub envd_version: String,
    pub created_at: SystemTime,
    /// Whether it was made of a sandbox, whose owner alone may use it.
    pub snapshot: bool,
}

/// A node.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    pub id: NodeId,
    pub phase: NodePhase,
    pub version: String,
    /// `container`, ...
    pub driver: String,
    pub sandboxes: u32,
    pub starting: u32,
    pub stuck: u32,
    pub slots: u32,
    pub processor: Processor,
    pub metrics: NodeMetrics,
    pub enforcement: Vec<Enforcement>,
    pub templates: Vec<TemplateInfo>,
}

/// What one sandbox used at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    pub at: SystemTime,
    pub cpu_count: u32,
    /// 0 to 100: the share used of all `cpu_count` processors together.
    pub cpu_used_pct: f64,
    pub mem_total_bytes: u64,
    pub mem_used_bytes: u64,
    pub mem_cache_bytes: u64,
    pub disk_total_bytes: u64,
    pub disk_used_bytes: u64,
}

/// Something changed on a node.
#[derive(Debug, Clone)]
pub enum NodeEvent {
    /// The sandbox is not routable any more; its release may still be running.
    Ended { id: SandboxId, lifecycle: LifecycleId, reason: EndReason, at: SystemTime },
    /// Its teardown did not go as it should. Told once for each lifecycle: when its first round has
    /// left something, or, if the node ended it by force, when it is gone.
    TornDown {
        id: SandboxId,
        lifecycle: LifecycleId,
        reason: EndReason,
        /// Whether the node ended it by force.
        forced: bool,
        /// The release steps that are not confirmed, each with its error; empty: it is gone.
        left: Vec<String>,
        at: SystemTime,
    },
    /// The sandbox is not routable any more, because it is being paused.
    Pausing { id: SandboxId, lifecycle: LifecycleId, at: SystemTime },
    /// It is paused. A pause that fails is an [`NodeEvent::Ended`], or a
    /// [`NodeEvent::Resumed`] when the sandbox runs on.
    Paused {
        id: SandboxId,
        lifecycle: LifecycleId,
        /// Whether its processes are kept. False, too, when they were and are not any more.
        memory: bool,
        /// See [`PausedStatus::agent_silent`](crate::PausedStatus::agent_silent).
        agent_silent: bool,
        at: SystemTime,
    },
    /// It runs again, routable as before: a pause has failed.
    Resumed { id: SandboxId, lifecycle: LifecycleId, at: SystemTime },
    /// Its end was moved.
    EndMoved { id: SandboxId, lifecycle: LifecycleId, ends_at: SystemTime },
}
