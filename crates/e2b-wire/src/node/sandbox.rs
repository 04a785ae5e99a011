use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// One sandbox as its node has it: a row of `GET /nodes/{id}/sandboxes`. Cofferdam's own: clients
/// see the running ones of their team, operators everything that may still hold something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSandbox {
    #[serde(rename = "sandboxID")]
    pub sandbox_id: String,
    /// This run of it.
    #[serde(rename = "lifecycleID")]
    pub lifecycle_id: String,
    #[serde(rename = "nodeID")]
    pub node_id: String,
    #[serde(rename = "teamID")]
    pub team_id: String,
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// `reserved`, `booting`, `live`, `pausing`, `paused`, `paused-files` (only its files are kept),
    /// `stopping`, `tearing-down`, `stuck`, ...: finer than the state that clients see.
    pub state: String,
    pub started_at: Timestamp,
    pub end_at: Timestamp,
    pub cpu_count: u32,
    #[serde(rename = "memoryMB")]
    pub memory_mb: u64,
    #[serde(rename = "diskSizeMB")]
    pub disk_size_mb: u64,
    pub metadata: BTreeMap<String, String>,
    /// What could not be released, each with its error; empty unless it is stuck.
    pub left: Vec<String>,
}
