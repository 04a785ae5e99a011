use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

mod drain;
mod sandbox;

pub use drain::{
    NodeDrain, NodeDrainAttempt, NodeDrainBlocker, NodeDrainCounts, NodeLeaks, NodeObject,
};
pub use sandbox::NodeSandbox;

/// A row of `GET /nodes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    #[serde(flatten)]
    pub detail: NodeDetail,
    pub sandbox_starting_count: u32,
}

/// The answer to `GET /nodes/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDetail {
    pub id: String,
    #[serde(rename = "serviceInstanceID")]
    pub service_instance_id: String,
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    pub version: String,
    pub commit: String,
    pub status: NodeStatus,
    /// When `status` became what it is.
    pub status_changed_at: Timestamp,
    pub sandbox_count: u32,
    /// Counted by the answering process since it started.
    pub create_successes: u64,
    pub create_fails: u64,
    pub machine_info: MachineInfo,
    pub metrics: NodeMetrics,
    /// Which limits the node can keep. Cofferdam's own, as what follows; E2B's clients pass over
    /// them.
    pub enforcement: Vec<Enforcement>,
    /// What the node last said of its drain.
    pub drain: NodeDrain,
    /// Since when the node does not answer; everything else here is what it said before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unreachable_since: Option<Timestamp>,
}

/// What a node is to whoever places sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    Ready,
    Draining,
    Connecting,
    Unhealthy,
    Standby,
}

impl NodeStatus {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Connecting => "connecting",
            Self::Unhealthy => "unhealthy",
            Self::Standby => "standby",
        }
    }
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The body of `POST /nodes/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatusChange {
    pub status: NodeStatus,
    /// The cluster of the node, a UUID; the local one when it is left out.
    #[serde(rename = "clusterID", skip_serializing_if = "Option::is_none", default)]
    pub cluster_id: Option<String>,
    /// Whether what runs on the node is ended at once; goes with `draining` only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub force_stop: Option<bool>,
    /// The instance the request is meant for; another one refuses it. Cofferdam's own.
    #[serde(rename = "serviceInstanceID", skip_serializing_if = "Option::is_none", default)]
    pub service_instance_id: Option<String>,
    /// The epoch of its drain's document that the request was made for; it is refused in another
    /// one. Cofferdam's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub epoch: Option<u64>,
}

/// Whether a node can keep one of its limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enforcement {
    /// `memory`, `swap`, `pids`, `cpu`, `disk`, ...
    pub what: String,
    pub enforced: bool,
    /// How, or why not and what would change it.
    pub detail: String,
}

/// What processors a node has; empty where the node does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineInfo {
    pub cpu_family: String,
    pub cpu_model: String,
    pub cpu_model_name: String,
    pub cpu_architecture: String,
}

/// How much of a node is used. Every field is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeMetrics {
    #[serde(rename = "allocatedCPU")]
    pub allocated_cpu: u32,
    pub cpu_percent: u32,
    pub cpu_count: u32,
    pub allocated_memory_bytes: u64,
    pub memory_used_bytes: u64,
    pub memory_total_bytes: u64,
    /// Pages, as the three below; zero on nodes that use no huge pages.
    pub huge_pages_total: u64,
    pub huge_pages_used: u64,
    pub huge_pages_reserved: u64,
    pub huge_page_size_bytes: u64,
    pub disks: Vec<DiskMetrics>,
}

/// One file system of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskMetrics {
    pub mount_point: String,
    pub device: String,
    pub filesystem_type: String,
    pub used_bytes: u64,
    pub total_bytes: u64,
}
