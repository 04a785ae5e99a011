//! What Cofferdam tells of a node's drain and of its objects; E2B has nothing like it.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The answer to `GET /nodes/{id}/drain`, and one line of its `?watch=true`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDrain {
    #[serde(rename = "nodeID")]
    pub node_id: String,
    /// New with every process of the node.
    #[serde(rename = "serviceInstanceID")]
    pub service_instance_id: String,
    /// `starting`, `healthy`, `standby`, `unhealthy`, `draining`, `forcing`, `force-failed` or
    /// `stopped`: finer than the status of the node.
    pub phase: String,
    pub changed_at: Timestamp,
    /// Grows with every change of the phase; counted anew by every process of the node.
    #[serde(default)]
    pub epoch: u64,
    /// Whether the node admits new work.
    pub accepting: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub draining_since: Option<Timestamp>,
    /// When what still runs then is ended; absent when it is left to end by itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub force_at: Option<Timestamp>,
    /// The sum of `counts`; zero is a drained node.
    pub remaining: u32,
    pub counts: NodeDrainCounts,
    /// What is waited for, the oldest first; a bounded number of them.
    pub blockers: Vec<NodeDrainBlocker>,
    /// The last attempt to force.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attempt: Option<NodeDrainAttempt>,
    /// When all is expected to have ended, from now; absent when that is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eta_ms: Option<u64>,
    /// Objects on the host that belong to nobody; absent before the first census.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub leaked: Option<u32>,
}

/// What is left, by kind of work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDrainCounts {
    /// Sandboxes that are being started.
    pub starting: u32,
    /// Sandboxes that run.
    pub live: u32,
    /// Sandboxes whose release is under way.
    pub stopping: u32,
    /// Sandboxes with a release step that failed.
    pub stuck: u32,
    /// Template builds.
    pub build: u32,
    /// Uploads in flight.
    pub upload: u32,
}

/// One piece of work that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDrainBlocker {
    /// A name of [`NodeDrainCounts`].
    pub class: String,
    /// The sandbox or the build.
    pub id: String,
    /// What it does, in words.
    pub state: String,
    /// How long it has been in this state.
    pub age_ms: u64,
    /// When it ends by itself, if that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ends_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_error: Option<String>,
}

/// One attempt to end everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDrainAttempt {
    /// 1, 2, ...
    pub number: u32,
    pub started_at: Timestamp,
    pub running: bool,
    /// Sandboxes and builds that are gone.
    pub stopped: u32,
    /// Those of them that came after the attempt had begun.
    pub late: u32,
    /// What is left, each with the step that failed; empty while it runs, and when it succeeded.
    pub failed: Vec<String>,
}

/// The answer to `GET /nodes/{id}/leaks`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeLeaks {
    /// What the running node accounts for.
    pub owned: Vec<NodeObject>,
    /// What carries the node's mark and belongs to nothing that it runs.
    pub leaked: Vec<NodeObject>,
}

/// One object of a node on its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeObject {
    /// What it is: a process, a cgroup, a link, ...
    pub kind: String,
    pub name: String,
    /// `lifecycle ID`, `slot N` or `node`.
    pub owner: String,
}
