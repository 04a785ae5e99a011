//! E2B's public wire: REST bodies, error bodies, names, keys and tokens, exactly as the SDKs
//! expect them.
//!
//! Data and its formats only: no HTTP server, no client, no clock, no store, no policy.
#![warn(clippy::indexing_slicing)]

pub mod host_name;
pub mod proxy_error;

mod error_body;
mod key;
mod logs;
mod metadata_query;
mod metrics;
mod network;
mod node;
mod page_token;
mod pause;
mod sandbox;
mod sandbox_id;
mod sandbox_list;
mod team;
mod template;
mod template_ref;
mod timestamp;
mod token;

pub use error_body::{ErrorBody, error_code};
pub use key::{AccessToken, AccessTokenError, ApiKey, ApiKeyError, KeyHash, KeyMask};
pub use logs::{LogLevel, LogLevelError, SandboxLog, SandboxLogEntry, SandboxLogs, SandboxLogsV2};
pub use metadata_query::{MetadataQueryError, parse_metadata_query};
pub use metrics::{SandboxMetric, SandboxesWithMetrics};
pub use network::{
    EgressProxyConfig, EgressProxyTls, NetworkConfig, NetworkRule, NetworkRules, NetworkTransform,
    NetworkUpdate,
};
pub use node::{
    DiskMetrics, Enforcement, MachineInfo, Node, NodeDetail, NodeDrain, NodeDrainAttempt,
    NodeDrainBlocker, NodeDrainCounts, NodeLeaks, NodeMetrics, NodeObject, NodeSandbox, NodeStatus,
    NodeStatusChange,
};
pub use page_token::{Order, PageToken, PageTokenError};
pub use pause::{
    ForkResult, ForkSandbox, NewSnapshot, PauseMode, PauseSandbox, ResumeSandbox, SnapshotInfo,
    SnapshotListQuery,
};
pub use sandbox::{
    AutoResume, CLIENT_ID, ConnectSandbox, Lifecycle, ListedSandbox, NewSandbox, RefreshSandbox,
    Sandbox, SandboxDetail, SandboxTimeout, VolumeMount,
};
pub use sandbox_id::{SandboxIdError, new_sandbox_id, parse_sandbox_path};
pub use sandbox_list::{SandboxListQuery, SandboxState};
pub use team::{
    AdminTeam, CancelledBuilds, CreatedAccessToken, CreatedApiKey, KilledSandboxes, LimitsChange,
    MaxTeamMetric, Named, NewTeam, TeamApiKey, TeamChange, TeamLimits, TeamMetric, TeamWithKey,
};
pub use template::{Template, TemplateAlias, TemplateBuild, TemplateListQuery, TemplateWithBuilds};
pub use template_ref::{TemplateRef, TemplateRefError};
pub use timestamp::{Timestamp, TimestampError};
pub use token::TokenSeed;
